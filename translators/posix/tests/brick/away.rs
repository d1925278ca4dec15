//! A brick that is out of use lets go of its file system.

use hermitfs_api::{Errno, OpenFlags, Role, Translator};
use hermitfs_posix::{Options, Posix};

use crate::{errno, healer, name, now};

/// Descriptors of this process that lead into a directory.
fn open_in(directory: &std::path::Path) -> usize {
    let own = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    own.filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter(|to| to.starts_with(directory))
        .count()
}

#[test]
fn a_brick_that_is_away_has_nothing_open_and_is_opened_anew_with_the_next_role() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "content").unwrap();
    std::fs::create_dir(dir.path().join("inside")).unwrap();
    let brick = Posix::open(&Options::new(dir.path())).unwrap();
    let cx = healer();
    now(brick.role(Role::Sink)).unwrap();
    let root = now(brick.root(&cx)).unwrap().inode;
    let inside = now(brick.lookup(&cx, &root, name("inside"))).unwrap().inode;
    let file = now(brick.lookup(&cx, &root, name("file"))).unwrap().inode;
    let opened = now(brick.open(&cx, &file, OpenFlags::READ)).unwrap();
    assert!(open_in(dir.path()) > 0);

    now(brick.role(Role::Away)).unwrap();
    assert_eq!(errno(now(brick.root(&cx))), Errno::ENODEV);
    assert_eq!(
        errno(now(brick.lookup(&cx, &root, name("file")))),
        Errno::ENODEV
    );
    assert_eq!(
        errno(now(brick.read(&cx, &opened, 0, &mut [0; 8]))),
        Errno::ENODEV
    );
    drop((root, inside, opened));
    let held = file;
    assert!(
        open_in(dir.path()) > 0,
        "who holds an inode holds the brick"
    );
    drop(held);
    assert_eq!(open_in(dir.path()), 0);

    // Another directory stands there now.
    std::fs::rename(dir.path().join("file"), dir.path().join("other")).unwrap();
    now(brick.role(Role::Sink)).unwrap();
    let root = now(brick.root(&cx)).unwrap().inode;
    let other = now(brick.lookup(&cx, &root, name("other"))).unwrap().inode;
    now(brick.role(Role::Away)).unwrap();
    now(brick.role(Role::Sink)).unwrap();
    let answer = now(brick.open(&cx, &other, OpenFlags::READ));
    assert_eq!(errno(answer), Errno::ESTALE, "of the brick before");
}

#[test]
fn a_brick_whose_directory_is_gone_stays_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("brick");
    std::fs::create_dir(&path).unwrap();
    let brick = Posix::open(&Options::new(&path)).unwrap();
    now(brick.role(Role::Away)).unwrap();
    std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    assert_eq!(errno(now(brick.role(Role::Sink))), Errno::ENOENT);
    assert_eq!(errno(now(brick.root(&healer()))), Errno::ENODEV);
    std::fs::rename(dir.path().join("elsewhere"), &path).unwrap();
    now(brick.role(Role::Sink)).unwrap();
    assert!(now(brick.root(&healer())).is_ok());
}
