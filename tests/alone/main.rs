//! Mount namespaces. These tests run one after the other, and beside no others: a namespace has a
//! copy of all mounts that there are, and keeps them from being taken away.
// A test says that it has failed by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hermitfs_tests::disk::Format;
use hermitfs_tests::guest::in_a_namespace;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::shell;

fn device(path: &Path) -> u64 {
    fs::metadata(path).unwrap().dev()
}

#[test]
fn a_namespace_that_would_not_get_our_mount_is_refused_by_name() {
    let lab = Lab::new("over-private");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    let raw = device(old.path());
    let guest = in_a_namespace(&lab, "private", old.path());
    let mut migration = lab.migration_over(old.path(), new.path());
    migration.try_start(&[]).refused(
        exit::TRY_AGAIN,
        &[
            &guest.pid(),
            "mount in its namespace",
            &old.path().to_string_lossy(),
        ],
    );
    assert_eq!(device(old.path()), raw);
    fs::write(old.join("writable"), "as before").unwrap();
    drop(guest);
    migration.start();
    assert_ne!(device(old.path()), raw);
    migration.cut_over();
}

#[test]
fn a_namespace_that_gets_what_is_mounted_sees_what_all_see() {
    let lab = Lab::new("over-shared");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    let raw = device(old.path());
    fs::write(old.join("file"), "content").unwrap();
    shell::run("mount", &["--make-shared", &old.path().to_string_lossy()]);
    let guest = in_a_namespace(&lab, "slave", old.path());
    let its = PathBuf::from(format!(
        "/proc/{}/root{}",
        guest.pid(),
        old.path().display()
    ));
    assert_eq!(device(&its), raw);
    let mut migration = lab.migration_over(old.path(), new.path());
    migration.start();
    assert_eq!(device(&its), device(old.path()));
    assert_ne!(device(&its), raw);
    migration.kill();
    migration.start();
    assert_eq!(device(&its), device(old.path()));
    assert_eq!(fs::read(its.join("file")).unwrap(), b"content");
    migration.terminate();
    assert_eq!(device(&its), raw);
    migration.start();
    migration.cut_over();
    assert_eq!(device(&its), device(new.path()));
    assert_eq!(fs::read(its.join("file")).unwrap(), b"content");
    drop(guest);
}
