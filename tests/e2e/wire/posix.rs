//! POSIX as others test it, with both bricks behind a server.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use hermitfs_tests::crew;
use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::odd::Odd;
use rustix::fs::{Mode, OFlags, fstat, mkdirat, open};

use super::{By, loopback};
use crate::posix::{assert_pjdfstest_as_on_ext4, fsx};

#[test]
fn pjdfstest_fails_nothing_through_a_loopback_pair_that_ext4_passes_but_what_is_listed() {
    let lab = Lab::new("wire-pjdfstest");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Ext4, 512),
    );
    let mut migration = loopback(&lab, &old, &new, By::Socket);
    migration.start();
    assert_pjdfstest_as_on_ext4(&lab, migration.mount());
    migration.wait_ready(Duration::from_secs(120));
    migration.assert_bricks_equal();
}

#[test]
fn fsx_agrees_through_a_loopback_pair_while_a_heal_runs() {
    let lab = Lab::new("wire-fsx");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Btrfs, 1024),
    );
    Odd::small().build(old.path(), 63);
    let mut migration = loopback(&lab, &old, &new, By::Calls);
    migration.start();
    for fsx in fsx(&lab, migration.mount(), 4_000 * crew::soak()) {
        fsx.succeeded();
    }
    migration.wait_ready(Duration::from_secs(180));
    migration.assert_bricks_equal();
    migration.cut_over();
}

/// What a user sees of things that he has in use, none of them open as a file, when their names go and
/// their numbers are free for others.
fn held_without_a_name(root: &Path) -> Vec<String> {
    let dir = root.join("held");
    fs::create_dir(&dir).unwrap();
    let path = |path: &Path| open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    fs::create_dir(dir.join("directory")).unwrap();
    let directory = fs::File::open(dir.join("directory")).unwrap();
    fs::remove_dir(dir.join("directory")).unwrap();
    fs::write(dir.join("replaced"), "old").unwrap();
    let replaced = path(&dir.join("replaced"));
    fs::write(dir.join("new"), "new").unwrap();
    fs::rename(dir.join("new"), dir.join("replaced")).unwrap();
    fs::write(dir.join("twice"), "two names").unwrap();
    fs::hard_link(dir.join("twice"), dir.join("again")).unwrap();
    let unlinked = path(&dir.join("twice"));
    fs::remove_file(dir.join("twice")).unwrap();
    fs::remove_file(dir.join("again")).unwrap();
    for other in 0..20 {
        fs::write(dir.join(format!("file-{other}")), "another's").unwrap();
        fs::create_dir(dir.join(format!("directory-{other}"))).unwrap();
    }
    let names = |fd: BorrowedFd<'_>| format!("{} names", fstat(fd).unwrap().st_nlink);
    let content = |fd: BorrowedFd<'_>| {
        fs::read_to_string(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
    };
    let made = mkdirat(&directory, "inside", Mode::RWXU).unwrap_err();
    vec![
        names(directory.as_fd()),
        made.to_string(),
        names(replaced.as_fd()),
        content(replaced.as_fd()),
        names(unlinked.as_fd()),
        content(unlinked.as_fd()),
    ]
}

#[test]
fn what_is_in_use_goes_on_without_a_name_as_on_the_file_system_itself() {
    for by in [By::Socket, By::Calls] {
        let lab = Lab::new("wire-held");
        let (old, new) = (
            lab.disk("old", Format::Ext4, 256),
            lab.disk("new", Format::Btrfs, 256),
        );
        let native = lab.dir("native");
        let mut migration = loopback(&lab, &old, &new, by);
        migration.start();
        assert_eq!(
            held_without_a_name(migration.mount()),
            held_without_a_name(&native)
        );
        migration.wait_ready(Duration::from_secs(60));
        migration.assert_bricks_equal();
    }
}
