//! Mount and network namespaces. These tests run one after the other, and beside no others: a namespace has a
//! copy of all mounts that there are, and keeps them from being taken away.
// A test says that it has failed by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hosts;
mod lines;
mod roles;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::guest::in_a_namespace;
use hermitfs_tests::hermitfs::{self, exit};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::shell;
use hermitfs_tests::tree::Tree;

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

#[test]
fn without_dev_fuse_it_says_so() {
    let lab = Lab::new("no-fuse");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 64),
        lab.disk("new", Format::Ext4, 64),
    );
    fs::write(old.join("file"), b"content").unwrap();
    let views = [lab.quiet_view(old.path()), lab.quiet_view(new.path())];
    let before = [Tree::of(&views[0]), Tree::of(&views[1]).without_atimes()];
    let script = "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && exec \"$@\"";
    let outcome = hermitfs::run(
        Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(hermitfs::binary())
            .arg("migrate")
            .args([old.path(), new.path(), &lab.dir("data")])
            .arg("--no-wait")
            .env("HERMITFS_STATE_DIR", lab.dir("state")),
        Duration::from_secs(60),
    );
    let code = outcome.code;
    assert_ne!(code, exit::OK);
    outcome.refused(code, &["/dev/fuse"]);
    Tree::of(&views[0]).assert_unchanged_since(&before[0]);
    let new = Tree::of(&views[1]).without_atimes();
    new.assert_unchanged_since(&before[1]);
}
