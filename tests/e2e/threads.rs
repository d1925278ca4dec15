//! A limit of processes: what needs a thread that cannot be had is refused in words, and what has begun comes to its end.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;

const LONG: Duration = Duration::from_secs(120);

/// More threads than a cut-over can need.
const AMPLE: u64 = 40;

/// A control group that limits processes and threads; gone when dropped, if those in it have ended.
struct Pids(PathBuf);

impl Pids {
    fn new(name: &str) -> Pids {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let of = |kind: &str, option: &str| {
            table
                .lines()
                .filter(|line| line.contains(&format!(" - {kind} ")) && line.ends_with(option))
                .filter_map(|line| line.split(' ').nth(4))
                .map(|point| Path::new(point).join(name))
                .find(|group| fs::create_dir(group).is_ok() && group.join("pids.max").exists())
        };
        let group = of("cgroup", ",pids").or_else(|| of("cgroup2", ""));
        Pids(group.expect("a control group with the pids controller that can be written"))
    }

    fn take(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// Leaves so many threads to be had.
    fn spare(&self, threads: u64) {
        let now = fs::read_to_string(self.0.join("pids.current")).unwrap();
        let now: u64 = now.trim().parse().unwrap();
        fs::write(self.0.join("pids.max"), (now + threads).to_string()).unwrap();
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_cut_over_that_gets_no_threads_is_refused_or_comes_off_as_a_whole() {
    let pids = Pids::new(&format!("hermitfs-test-{}", std::process::id()));
    let lab = Lab::new("threads");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 64),
        lab.disk("new", Format::Ext4, 64),
    );
    fs::write(old.join("file"), "before\n").unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let daemon = migration.daemon();
    pids.take(daemon.pid());
    let held = OpenOptions::new()
        .write(true)
        .open(migration.mount().join("file"))
        .unwrap();
    let (mut spare, mut at) = (0, 7);
    let until = Instant::now() + LONG;
    loop {
        pids.spare(spare);
        let outcome = migration.command("cutover", &["--timeout", "1s"]);
        if outcome.code == exit::OK {
            break;
        }
        let told = format!("{}{}", outcome.stdout, outcome.stderr);
        if told.contains("mount namespace") && Instant::now() < until {
            // Somebody beside this test has one that was made while our mount was there.
            continue;
        }
        assert!(told.contains("no thread can be had"), "{spare}: {told}");
        assert_ne!(outcome.code, exit::NO_DAEMON, "{spare}: {told}");
        // Everything goes on as before.
        held.write_all_at(b"meanwhile\n", at).unwrap();
        at += 10;
        fs::write(migration.mount().join(format!("new-{spare}")), "").unwrap();
        spare += 1;
        assert!(spare < AMPLE, "none came off");
    }
    assert!(spare > 2, "{spare}");
    assert_eq!(
        fs::metadata(migration.mount()).unwrap().dev(),
        fs::metadata(new.path()).unwrap().dev()
    );
    assert!(!new.join(".hermitfs").exists(), "something of ours is left");
    // What is open goes on, and the daemon as long.
    held.write_all_at(b"after\n", at).unwrap();
    let all = fs::read_to_string(new.join("file")).unwrap();
    assert!(all.starts_with("before\nmeanwhile\n") && all.ends_with("after\n"));
    for before in 0..spare {
        assert!(new.join(format!("new-{before}")).exists(), "{before}");
    }
    drop(held);
    daemon.wait_end(LONG);
}
