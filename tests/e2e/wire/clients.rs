//! A mount that is killed with writes in flight: what the server and others see of it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::locker::Locker;
use hermitfs_tests::wait::until;

use super::locks::mount_locked;

const LONG: Duration = Duration::from_secs(60);
const BLOCK: usize = 256 << 10;

/// The byte that belongs at each place of the file.
fn expected(at: u64) -> u8 {
    (at / 4096 % 251) as u8 + 1
}

#[test]
fn a_mount_that_is_killed_while_it_writes_leaves_whole_files_and_nothing_open() {
    let lab = Lab::new("wire-client");
    let disk = lab.disk("disk", Format::Ext4, 1024);
    let bricks = Bricks::serve_locked(&lab, "bricks", disk.path(), 3);
    let mut dying = mount_locked(&lab, "dying", &bricks);
    let staying = mount_locked(&lab, "staying", &bricks);
    fs::write(staying.join("locked"), "x").unwrap();
    let mut holder = Locker::on(&dying.join("locked"));
    holder.done("lock f record exclusive 0 10 try");
    let file = File::create(dying.join("file")).unwrap();
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for block in 0..2000 {
                let at = block * BLOCK as u64;
                let data: Vec<u8> = (at..at + BLOCK as u64).map(expected).collect();
                if file.write_all_at(&data, at).is_err() {
                    return true;
                }
                acknowledged.store(at + BLOCK as u64, Ordering::Relaxed);
            }
            false
        });
        until(LONG, "some writes", || {
            (acknowledged.load(Ordering::Relaxed) > 4 << 20).then_some(())
        });
        dying.kill();
        assert!(writer.join().unwrap(), "it was killed in the middle");
    });
    drop(file);
    assert!(
        bricks.has_open(disk.path()),
        "the server closes them only after the grace"
    );
    // Nobody else is in the dark: at once, not only after the grace.
    fs::write(staying.join("other"), "goes on").unwrap();
    assert_eq!(fs::read(staying.join("other")).unwrap(), b"goes on");
    let mut next = Locker::on(&staying.join("locked"));
    next.begin("lock f record exclusive 0 10 wait");
    assert_eq!(next.end(), "ok", "the dead one's lock goes");
    next.done("close f");
    until(LONG, "the dead one's files are closed", || {
        (!bricks.has_open(&disk.join("file"))).then_some(())
    });
    // What was acknowledged is there, and what was under way has no other byte than those written.
    let mut content = Vec::new();
    let mut seen = File::open(staying.join("file")).unwrap();
    seen.read_to_end(&mut content).unwrap();
    assert!(content.len() as u64 >= acknowledged.load(Ordering::Relaxed));
    let wrong = (0..)
        .zip(&content)
        .find(|(at, byte)| **byte != expected(*at));
    assert_eq!(wrong, None);
    dying.start();
    let again = fs::read(dying.join("file")).unwrap();
    assert!(again == content, "it comes again and finds the same");
    fs::remove_file(dying.join("file")).unwrap();
    assert!(!disk.join("file").exists());
}
