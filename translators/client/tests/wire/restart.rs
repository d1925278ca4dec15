//! A server that ends and comes back: clients wait and go on.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hermitfs_api::{
    Context, Errno, File, Inode, Name, OpenFlags, Origin, Result, Translator, block_on,
};
use hermitfs_testkit::Memory;

use crate::common::Wire;

const CX: Context = Context::internal(Origin::User);

fn name(name: &str) -> &Name {
    Name::new(name.as_bytes()).unwrap()
}

fn make(volume: &dyn Translator, dir: &Arc<Inode>, n: &str) -> Result<(Arc<Inode>, Arc<File>)> {
    let made = volume.create(&CX, dir, name(n), OpenFlags::READ_WRITE, 0o600, 0);
    block_on(made).map(|(entry, file)| (entry.inode, file))
}

fn read(volume: &dyn Translator, file: &Arc<File>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 100];
    let len = block_on(volume.read(&CX, file, 0, &mut buffer))?;
    buffer.truncate(len);
    Ok(buffer)
}

fn errno<T>(result: Result<T>) -> Option<Errno> {
    result.err().map(|error| error.errno())
}

#[test]
fn open_files_and_objects_are_good_after_a_restart_of_the_server() {
    let mut wire = Wire::new(Arc::new(Memory::new()));
    let client = wire.client.clone();
    let root = block_on(client.root(&CX)).unwrap().inode;
    let (inode, file) = make(&*client, &root, "a").unwrap();
    block_on(client.write(&CX, &file, 0, b"before")).unwrap();
    for round in 0..3 {
        wire.stop();
        wire.start();
        assert_eq!(read(&*client, &file).unwrap(), b"before", "round {round}");
        let attr = block_on(client.getattr(&CX, &inode, None)).unwrap();
        assert_eq!(attr.size, 6);
        let found = block_on(client.lookup(&CX, &root, name("a"))).unwrap();
        assert!(Arc::ptr_eq(&found.inode, &inode), "the same object");
    }
    block_on(client.write(&CX, &file, 6, b" and after")).unwrap();
    block_on(client.fsync(&CX, &file, false)).unwrap();
    assert_eq!(read(&*client, &file).unwrap(), b"before and after");
}

#[test]
fn who_comes_while_the_server_is_away_waits_for_it() {
    let mut wire = Wire::new(Arc::new(Memory::new()));
    let client = wire.client.clone();
    let root = block_on(client.root(&CX)).unwrap().inode;
    let (_, file) = make(&*client, &root, "a").unwrap();
    block_on(client.write(&CX, &file, 0, b"content")).unwrap();
    wire.stop();
    let waiting = thread::spawn({
        let client = client.clone();
        move || read(&*client, &file)
    });
    thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished(), "nobody can have answered it");
    wire.start();
    assert_eq!(waiting.join().unwrap().unwrap(), b"content");
}

#[test]
fn who_waits_longer_than_the_grace_gets_eio_and_all_is_well_afterwards() {
    let mut wire = Wire::with(Arc::new(Memory::new()), |options| options.grace = 1);
    let client = wire.client.clone();
    let root = block_on(client.root(&CX)).unwrap().inode;
    wire.stop();
    assert_eq!(errno(block_on(client.root(&CX))), Some(Errno::EIO));
    assert_eq!(
        errno(make(&*client, &root, "a")),
        Some(Errno::EIO),
        "at once now"
    );
    wire.start();
    // It is noticed by itself.
    let good = (0..600).any(|_| {
        thread::sleep(Duration::from_millis(50));
        block_on(client.root(&CX)).is_ok()
    });
    assert!(good);
    make(&*client, &root, "a").unwrap();
}

#[test]
fn what_was_unlinked_while_open_goes_on_until_the_server_ends_and_is_stale_then() {
    let mut wire = Wire::new(Arc::new(Memory::new()));
    let client = wire.client.clone();
    let root = block_on(client.root(&CX)).unwrap().inode;
    let (inode, file) = make(&*client, &root, "a").unwrap();
    block_on(client.write(&CX, &file, 0, b"gone")).unwrap();
    block_on(client.unlink(&CX, &root, name("a"))).unwrap();
    assert_eq!(read(&*client, &file).unwrap(), b"gone");
    assert_eq!(
        block_on(client.getattr(&CX, &inode, None)).unwrap().nlink,
        0
    );
    let memory = wire.volume.clone();
    wire.stop();
    drop(memory);
    wire.start();
    assert_eq!(errno(read(&*client, &file)), Some(Errno::ESTALE));
}

#[test]
fn files_of_a_client_that_is_gone_are_closed() {
    let wire = Wire::new(Arc::new(Memory::new()));
    let other = wire.another_client();
    let root = block_on(other.root(&CX)).unwrap().inode;
    let (inode, file) = make(&other, &root, "a").unwrap();
    assert_eq!(wire.server.as_ref().unwrap().clients().len(), 2);
    drop((file, inode, root));
    drop(other);
    assert_eq!(
        wire.server.as_ref().unwrap().clients().len(),
        1,
        "it said Bye"
    );
}

#[test]
fn a_client_that_was_ended_has_taken_leave_though_somebody_still_has_it() {
    for wire in [
        Wire::new(Arc::new(Memory::new())),
        Wire::near(Arc::new(Memory::new()), |_| ()),
    ] {
        let client = wire.client.clone();
        let root = block_on(client.root(&CX)).unwrap().inode;
        let (_, file) = make(&*client, &root, "a").unwrap();
        client.end();
        assert_eq!(wire.server.as_ref().unwrap().clients().len(), 0);
        // At once, and not after a wait for a line that nobody mends.
        assert_eq!(errno(read(&*client, &file)), Some(Errno::EIO));
        assert_eq!(errno(make(&*client, &root, "b")), Some(Errno::EIO));
        client.end();
    }
}

#[test]
fn handles_of_another_servers_key_are_stale() {
    let one = Wire::new(Arc::new(Memory::new()));
    let other = Wire::new(one.volume.clone());
    let root = block_on(one.client.root(&CX)).unwrap().inode;
    let handle = block_on(one.client.handle(&CX, &root)).unwrap();
    assert!(block_on(one.client.resolve(&CX, &handle)).is_ok());
    let foreign = block_on(other.client.resolve(&CX, &handle));
    assert_eq!(errno(foreign), Some(Errno::ESTALE));
}
