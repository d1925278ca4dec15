//! A volume that others change while it is mounted, as long as the mount knows of them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use hermitfs_api::{Context, Name, OpenFlags, Translator, block_on};
use hermitfs_fuse::{Mount, Options, Placement};
use hermitfs_testkit::Memory;

/// Writes a file beside the mount.
#[allow(
    clippy::unwrap_used,
    reason = "what cannot be done fails the test where it stands"
)]
fn write_beside(volume: &Memory, path: [&str; 2], content: &[u8]) {
    let cx = Context::default();
    block_on(async {
        let mut dir = volume.root(&cx).await.unwrap().inode;
        if !path[0].is_empty() {
            let name = Name::new(path[0].as_bytes()).unwrap();
            dir = volume.lookup(&cx, &dir, name).await.unwrap().inode;
        }
        let name = Name::new(path[1].as_bytes()).unwrap();
        let file = match volume.lookup(&cx, &dir, name).await {
            Ok(entry) => volume.open(&cx, &entry.inode, OpenFlags::WRITE).await,
            Err(_) => {
                let made = volume.create(&cx, &dir, name, OpenFlags::WRITE, 0o644, 0);
                made.await.map(|(_, file)| file)
            }
        };
        let file = file.unwrap();
        volume.write(&cx, &file, 0, content).await.unwrap();
        volume.release(&cx, &file).await.unwrap();
    });
}

#[test]
fn what_others_change_is_seen_when_they_have_gone() {
    let directory = tempfile::tempdir().unwrap();
    let volume = Arc::new(Memory::new());
    let mount = Mount::prepare(volume.clone(), Options::default()).unwrap();
    mount.set_shared(true);
    mount.attach(directory.path(), Placement::Vacant).unwrap();
    let at = |path: &str| directory.path().join(path);
    fs::write(at("known"), "short").unwrap();
    fs::create_dir(at("dir")).unwrap();
    let held = fs::File::open(at("known")).unwrap();
    let read = || {
        let mut content = [0; 64];
        let read = held.read_at(&mut content, 0).unwrap();
        assert_eq!(held.metadata().unwrap().len(), read as u64);
        String::from_utf8_lossy(&content[..read]).into_owned()
    };
    assert_eq!(read(), "short");
    let look = || {
        let size = fs::metadata(at("known")).unwrap().len();
        let listed = fs::read_dir(at("dir")).unwrap().count();
        let content = fs::read_to_string(at("known")).unwrap();
        (content, size, at("made").exists(), listed)
    };
    assert_eq!(look(), ("short".into(), 5, false, 0));
    write_beside(&volume, ["", "known"], b"longer than before");
    write_beside(&volume, ["", "made"], b"");
    write_beside(&volume, ["dir", "entry"], b"");
    mount.set_shared(false);
    assert_eq!(read(), "longer than before");
    assert_eq!(look(), ("longer than before".into(), 18, true, 1));
    // From now on it remembers, as it is the only way in.
    assert!(!at("later").exists());
    write_beside(&volume, ["", "later"], b"");
    assert!(!at("later").exists());
    mount.detach_lazy().unwrap();
    drop(held);
    mount.wait();
}
