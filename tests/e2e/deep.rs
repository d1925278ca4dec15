//! A tree that is deeper than any path can be long.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, unlinkat};

/// Twice as deep as the longest path has names of one letter.
const LEVELS: usize = 4_000;
/// In each so many there is a file.
const EACH: usize = 500;
const LONG: Duration = Duration::from_secs(120);

fn open_at(dir: &OwnedFd, name: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty()).ok()
}

fn top(path: &Path) -> OwnedFd {
    std::fs::File::open(path).unwrap().into()
}

fn make(mount: &Path) {
    let mut dir = top(mount);
    for level in 1..=LEVELS {
        mkdirat(&dir, "d", Mode::from_raw_mode(0o755)).unwrap();
        dir = open_at(&dir, "d").unwrap();
        if level.is_multiple_of(EACH) {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(&dir, "file", flags, Mode::from_raw_mode(0o644)).unwrap();
            rustix::io::write(&file, level.to_string().as_bytes()).unwrap();
        }
    }
}

/// How deep a tree is, and in which levels there is a file.
fn look(brick: &Path) -> (usize, Vec<String>) {
    let (mut dir, mut levels, mut files) = (top(brick), 0, Vec::new());
    while let Some(next) = open_at(&dir, "d") {
        (dir, levels) = (next, levels + 1);
        if let Ok(file) = openat(
            &dir,
            "file",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            files.push(std::io::read_to_string(std::fs::File::from(file)).unwrap());
        }
    }
    (levels, files)
}

/// From the bottom up, as `rm -r` does.
fn remove(mount: &Path) {
    let mut dirs = vec![top(mount)];
    while let Some(next) = open_at(dirs.last().unwrap(), "d") {
        dirs.push(next);
        // Each is opened again on the way up, so that few are open at a time.
        if dirs.len() > 2 {
            dirs.remove(0);
        }
    }
    let mut dir = dirs.pop().unwrap();
    drop(dirs);
    for _ in 0..LEVELS {
        let _ = unlinkat(&dir, "file", AtFlags::empty());
        dir = open_at(&dir, "..").unwrap();
        unlinkat(&dir, "d", AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn a_tree_deeper_than_any_path_is_healed_moved_and_removed() {
    let lab = Lab::new("deep");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Btrfs, 256),
    );
    let whole: Vec<String> = (1..=LEVELS / EACH)
        .map(|n| (n * EACH).to_string())
        .collect();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    make(migration.mount());
    migration.wait_ready(LONG);
    assert_eq!(look(new.path()), (LEVELS, whole.clone()));

    // Half of it goes elsewhere, and comes back; a daemon that knows nothing of it any more goes on.
    let mut half = top(migration.mount());
    (0..LEVELS / 2).for_each(|_| half = open_at(&half, "d").unwrap());
    let mount = top(migration.mount());
    renameat(&half, "d", &mount, "half").unwrap();
    migration.wait_ready(LONG);
    assert_eq!(look(new.path()).0, LEVELS / 2);
    assert_eq!(look(&new.join("half")).0, LEVELS / 2 - 1);
    migration.kill();
    migration.start();
    migration.wait_ready(LONG);
    let mut half = top(migration.mount());
    (0..LEVELS / 2).for_each(|_| half = open_at(&half, "d").unwrap());
    let mount = top(migration.mount());
    renameat(&mount, "half", &half, "d").unwrap();
    drop((half, mount));
    migration.wait_ready(LONG);
    assert_eq!(look(new.path()), (LEVELS, whole));

    remove(migration.mount());
    migration.wait_ready(LONG);
    assert_eq!(look(new.path()), (0, Vec::new()));
    migration.cut_over();
}
