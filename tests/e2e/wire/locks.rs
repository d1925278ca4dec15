//! Locks of two mounts on one served volume, when mounts or the server die. What they mean while
//! all live is in `locks.rs` above.

use std::fs;
use std::time::Duration;

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::locker::Locker;
use hermitfs_tests::mounted::Mounted;

const AGAIN: i32 = libc::EAGAIN;

/// How long a thing has to last to be called waiting.
const A_WHILE: Duration = Duration::from_millis(1500);

/// One of several mounts of a volume that [`Bricks::serve_locked`] serves.
pub(crate) fn mount_locked<'lab>(lab: &'lab Lab, name: &str, bricks: &Bricks) -> Mounted<'lab> {
    let volfile = lab.file(&format!("{name}.vol"), &bricks.client("locked", ""));
    let mut mounted = Mounted::prepare(lab, name);
    mounted.use_volfile(&volfile, &[]);
    mounted.use_options("shared");
    mounted.start();
    mounted
}

const EACH: [&str; 3] = [
    "lock f record exclusive 0 10",
    "lock f ofd exclusive 0 10",
    "lock f flock exclusive",
];

#[test]
fn locks_of_a_killed_mount_are_free_after_the_grace() {
    let lab = Lab::new("wire-locks-killed");
    let disk = lab.disk("disk", Format::Ext4, 128);
    let bricks = Bricks::serve_locked(&lab, "bricks", disk.path(), 2);
    let mut dying = mount_locked(&lab, "dying", &bricks);
    let staying = mount_locked(&lab, "staying", &bricks);
    fs::write(staying.join("file"), "x").unwrap();
    for lock in EACH {
        let mut holder = Locker::on(&dying.join("file"));
        let mut waiter = Locker::on(&staying.join("file"));
        holder.done(&format!("{lock} try"));
        waiter.fails(&format!("{lock} try"), AGAIN);
        waiter.begin(&format!("{lock} wait"));
        dying.kill();
        assert_eq!(waiter.end(), "ok", "{lock}");
        dying.start();
        let mut late = Locker::on(&dying.join("file"));
        late.fails(&format!("{lock} try"), AGAIN);
    }
}

#[test]
fn locks_are_held_and_waited_for_over_restarts_of_the_server() {
    let lab = Lab::new("wire-locks-restart");
    let disk = lab.disk("disk", Format::Ext4, 128);
    let mut bricks = Bricks::serve_locked(&lab, "bricks", disk.path(), 60);
    let one = mount_locked(&lab, "one", &bricks);
    let other = mount_locked(&lab, "other", &bricks);
    fs::write(one.join("file"), "x").unwrap();
    for (round, lock) in EACH.into_iter().enumerate() {
        let mut holder = Locker::on(&one.join("file"));
        let mut waiter = Locker::on(&other.join("file"));
        holder.done(&format!("{lock} try"));
        waiter.begin(&format!("{lock} wait"));
        match round {
            1 => bricks.terminate(),
            _ => bricks.kill(),
        }
        bricks.start();
        // The first who asks waits until all have claimed what they had.
        let mut third = Locker::on(&other.join("file"));
        third.fails(&format!("{lock} try"), AGAIN);
        assert!(waiter.waits_for(A_WHILE), "{lock}: somebody has it");
        holder.done("close f");
        assert_eq!(waiter.end(), "ok", "{lock}");
        third.fails(&format!("{lock} try"), AGAIN);
    }
}
