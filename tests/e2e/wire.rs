//! Bricks over the wire: the same promises as without it.

mod clients;
mod handover;
mod killed;
pub(crate) mod locks;
mod posix;
mod roles;
mod stopped;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hermitfs_tests::bricks::{self, Bricks};
use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::locker::Locker;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::tree::Tree;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../volfiles")
        .join(name)
}

/// How a pair reaches the server in its own process.
#[derive(Clone, Copy)]
enum By {
    Calls,
    Socket,
}

/// Both bricks behind a server, the pair in front, all in one process.
fn loopback<'lab>(lab: &'lab Lab, old: &Disk, new: &Disk, by: By) -> Migration<'lab> {
    let mut migration = lab.migration(old.path(), new.path());
    let set = [
        format!("old={}", old.path().display()),
        format!("new={}", new.path().display()),
        format!("socket={}", lab.path().join("bricks.sock").display()),
    ];
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let volfile = match by {
        By::Calls => bricks::loopback(),
        By::Socket => bricks::loopback_by_socket(lab),
    };
    migration.use_volfile(&volfile, &set);
    migration
}

#[test]
fn a_loopback_pair_heals_the_odd_tree_equal_and_is_cut_over() {
    let lab = Lab::new("wire-odd");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Btrfs, 1024),
    );
    Odd::small().build(old.path(), 61);
    let view = lab.quiet_view(old.path());
    let before = Tree::of(&view);
    let mut migration = loopback(&lab, &old, &new, By::Calls);
    migration.start();
    migration.wait_ready(Duration::from_secs(180));
    migration.assert_bricks_equal();
    migration.cut_over();
    Tree::of(&view).assert_unchanged_since(&before);
    assert!(
        !lab.path().join("bricks.sock").exists(),
        "the socket goes with the daemon"
    );
}

#[test]
fn four_processes_work_through_a_loopback_pair_that_is_killed() {
    let lab = Lab::new("wire-live");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Ext4, 1024),
    );
    let seeds = crew::seeds(3);
    crew::build(old.path(), &seeds);
    let mut migration = loopback(&lab, &old, &new, By::Socket);
    migration.start();
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, true);
    for _ in 0..3 * crew::soak() {
        crew.work_for(Duration::from_millis(1500));
        migration.kill();
        migration.start();
    }
    crew.work_for(Duration::from_secs(2));
    crew.stop();
    migration.wait_ready(Duration::from_secs(240));
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn who_comes_after_a_loopback_pair_was_killed_does_not_wait_for_its_locks() {
    let lab = Lab::new("wire-locks-near");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    let mut migration = loopback(&lab, &old, &new, By::Calls);
    migration.start();
    let file = migration.mount().join("file");
    fs::write(&file, "x").unwrap();
    let lock = "lock f record exclusive 0 10 try";
    let mut holder = Locker::on(&file);
    holder.done(lock);
    migration.kill();
    migration.start();
    let asked = Instant::now();
    Locker::on(&file).done(lock);
    // A server waits a minute for those who may have outlived it.
    assert!(asked.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_loopback_pair_of_glusterfs_mounts_as_it_is() {
    let lab = Lab::new("wire-gluster");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    fs::write(old.join("before"), b"there").unwrap();
    let set = [
        format!("old={}", old.path().display()),
        format!("new={}", new.path().display()),
    ];
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let mount = Mounted::volfile(&lab, "mnt", &shipped("gluster-migrate.vol"), &set);
    fs::write(mount.join("more"), b"written").unwrap();
    mount.command("heal", &["--wait"]).expect(exit::OK);
    for name in ["before", "more"] {
        assert_eq!(
            fs::read(old.join(name)).unwrap(),
            fs::read(new.join(name)).unwrap()
        );
    }
}

#[track_caller]
fn assert_equal(lab: &Lab, old: &Disk, new: &Disk) {
    let source = Tree::of(&lab.quiet_view(old.path()));
    source.assert_equal(&Tree::of_sink(new.path(), &source));
}

#[test]
fn work_goes_on_when_the_process_that_serves_both_bricks_is_killed_and_started_again() {
    let lab = Lab::new("wire-served");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Ext4, 1024),
    );
    Odd::small().build(&lab_dir(&old, "odd"), 62);
    let mut bricks = Bricks::serve(&lab, "bricks", &[("old", old.path()), ("new", new.path())]);
    let mount = Mounted::volfile(&lab, "mnt", &Bricks::pair(&lab, &bricks, &bricks), &[]);
    mount.command("heal", &["--wait"]).expect(exit::OK);
    let kept = fs::File::open(mount.join("odd")).unwrap();
    fs::write(mount.join("before"), b"before").unwrap();
    bricks.kill();
    bricks.start();
    assert_eq!(fs::read(mount.join("before")).unwrap(), b"before");
    fs::write(mount.join("after"), b"after").unwrap();
    bricks.terminate();
    bricks.start();
    assert_eq!(fs::read(mount.join("after")).unwrap(), b"after");
    drop(kept);
    mount.command("heal", &["--wait"]).expect(exit::OK);
    assert_equal(&lab, &old, &new);
    mount.terminate();
}

fn lab_dir(disk: &Disk, name: &str) -> PathBuf {
    let path = disk.join(name);
    fs::create_dir(&path).unwrap();
    path
}
