//! What loses its last name while somebody has it in use without having it open: a working directory, an
//! `O_PATH` descriptor.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hermitfs_api::{
    Context, Entry, Errno, Name, OpenFlags, Origin, RenameFlags, Translator, block_on,
};
use hermitfs_testkit::Memory;

use crate::common::Wire;

const CX: Context = Context::internal(Origin::User);

fn name(name: &str) -> &Name {
    Name::new(name.as_bytes()).unwrap()
}

fn each_way(test: impl Fn(&mut Wire, &Memory)) {
    for wire in [
        |memory: &Arc<Memory>| Wire::new(memory.clone()),
        |memory: &Arc<Memory>| Wire::near(memory.clone(), |_| {}),
    ] {
        let memory = Arc::new(Memory::new());
        test(&mut wire(&memory), &memory);
    }
}

/// A directory, a file, a file with two names, and one to replace `replaced`.
fn made(volume: &dyn Translator, root: &Entry) -> [Entry; 4] {
    let dir = &root.inode;
    let file = |called: &str| {
        let made = volume.create(&CX, dir, name(called), OpenFlags::READ_WRITE, 0o644, 0);
        let (entry, file) = block_on(made).unwrap();
        block_on(volume.release(&CX, &file)).unwrap();
        entry
    };
    let directory = block_on(volume.mkdir(&CX, dir, name("dir"), 0o755, 0)).unwrap();
    let all = [directory, file("file"), file("twice"), file("replaced")];
    file("new");
    block_on(volume.link(&CX, &all[2].inode, dir, name("again"))).unwrap();
    all
}

/// Takes the last name of each, one way or another.
fn remove(volume: &dyn Translator, root: &Entry) {
    let dir = &root.inode;
    block_on(async {
        volume.rmdir(&CX, dir, name("dir")).await.unwrap();
        volume.unlink(&CX, dir, name("file")).await.unwrap();
        volume.unlink(&CX, dir, name("twice")).await.unwrap();
        volume.unlink(&CX, dir, name("again")).await.unwrap();
        let (from, to) = (name("new"), name("replaced"));
        let how = RenameFlags::Replace;
        volume.rename(&CX, dir, from, dir, to, how).await.unwrap();
    });
}

/// How many objects the brick has, those included that are held without a name. A brick in memory lets
/// go of others when it is next used.
fn living(memory: &Memory) -> usize {
    block_on(memory.sync(&CX)).unwrap();
    memory.objects()
}

fn settles(what: &str, mut is: impl FnMut() -> bool) {
    let come = (0..500).any(|_| {
        is() || {
            thread::sleep(Duration::from_millis(10));
            false
        }
    });
    assert!(come, "{what}");
}

#[test]
fn what_is_in_use_without_being_open_goes_on_when_its_name_goes() {
    each_way(|wire, memory| {
        let client = wire.client.clone();
        let root = block_on(client.root(&CX)).unwrap();
        let all = made(&*client, &root);
        remove(&*client, &root);
        for entry in &all {
            let attr = block_on(client.getattr(&CX, &entry.inode, None)).unwrap();
            assert_eq!(attr.ino, entry.attr.ino);
        }
        // As getdents(2) of a directory that was removed.
        let listed = block_on(client.readdir(&CX, &all[0].inode, 0, 100, false));
        assert_eq!(listed.unwrap_err().errno(), Errno::ENOENT);
        let opened = client.open(&CX, &all[1].inode, OpenFlags::READ_WRITE);
        let file = block_on(opened).unwrap();
        block_on(client.write(&CX, &file, 0, b"still")).unwrap();
        block_on(client.release(&CX, &file)).unwrap();
        assert_eq!(
            block_on(client.getattr(&CX, &all[1].inode, None))
                .unwrap()
                .size,
            5
        );
        // The root, and what replaced.
        assert_eq!(living(memory), 2 + all.len());
        drop((all, file));
        settles("it goes with its last use", || living(memory) == 2);
    });
}

#[test]
fn what_nobody_has_in_use_goes_with_its_name_and_with_the_client() {
    each_way(|wire, memory| {
        let client = wire.client.clone();
        let root = block_on(client.root(&CX)).unwrap();
        drop(made(&*client, &root));
        remove(&*client, &root);
        settles("nobody has it", || living(memory) == 2);
        let kept = made_again(&*client, &root);
        client.end();
        settles("its client has ended", || living(memory) == 2);
        drop(kept);
    });
}

fn made_again(volume: &dyn Translator, root: &Entry) -> Entry {
    let made = block_on(volume.mkdir(&CX, &root.inode, name("d"), 0o755, 0)).unwrap();
    block_on(volume.rmdir(&CX, &root.inode, name("d"))).unwrap();
    made
}

#[test]
fn a_server_that_is_another_one_has_none_of_it() {
    let mut wire = Wire::new(Arc::new(Memory::new()));
    let client = wire.client.clone();
    let root = block_on(client.root(&CX)).unwrap();
    let gone = made_again(&*client, &root);
    wire.stop();
    wire.start();
    let stale = block_on(client.getattr(&CX, &gone.inode, None));
    assert_eq!(stale.unwrap_err().errno(), Errno::ESTALE);
    // Its number is another one's now, which is not let go of with it.
    let kept = made_again(&*client, &root);
    drop(gone);
    thread::sleep(Duration::from_millis(100));
    block_on(client.getattr(&CX, &kept.inode, None)).unwrap();
}

#[test]
fn a_healer_holds_nothing_that_it_removes() {
    let memory = Arc::new(Memory::new());
    let wire = Wire::new(memory.clone());
    let root = block_on(wire.client.root(&CX)).unwrap();
    let heal = Context::internal(Origin::Heal);
    let made = block_on(wire.client.mkdir(&heal, &root.inode, name("d"), 0o755, 0)).unwrap();
    block_on(wire.client.rmdir(&heal, &root.inode, name("d"))).unwrap();
    assert_eq!(living(&memory), 1);
    drop(made);
}
