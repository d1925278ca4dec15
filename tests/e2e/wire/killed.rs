//! `kill -9` of the mount and of the servers, at any moment.

use std::time::Duration;

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::assert_equal;
use crate::posix::fsx;

#[test]
fn nothing_is_lost_when_the_mount_and_either_server_are_killed_at_random() {
    let lab = Lab::new("wire-killed");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Btrfs, 1024),
    );
    let seeds = crew::seeds(3);
    crew::build(old.path(), &seeds);
    let mut random = ChaCha8Rng::seed_from_u64(seeds[0]);
    let mut source = Bricks::serve(&lab, "source", &[("old", old.path())]);
    let mut sink = Bricks::serve(&lab, "sink", &[("new", new.path())]);
    let mut mount = Mounted::volfile(&lab, "mnt", &Bricks::pair(&lab, &source, &sink), &[]);
    let mut crew = Crew::start(&lab, mount.path(), &seeds, true);
    for _ in 0..9 * crew::soak() {
        crew.work_for(Duration::from_millis(random.random_range(100..1500)));
        // Any of them, or several at one moment.
        let dies: u32 = random.random_range(1..8);
        let (mounts, sources, sinks) = (dies & 1 != 0, dies & 2 != 0, dies & 4 != 0);
        if sources {
            source.kill();
        }
        if mounts {
            mount.kill();
        }
        if sinks {
            sink.kill();
        }
        crew.work_for(Duration::from_millis(random.random_range(0..600)));
        if sinks {
            sink.start();
        }
        if sources {
            source.start();
        }
        if mounts {
            mount.start();
        }
    }
    crew.work_for(Duration::from_secs(1));
    crew.stop();
    mount.command("heal", &["--wait"]).expect(exit::OK);
    assert_equal(&lab, &old, &new);
    mount.terminate();
}

#[test]
fn users_see_no_error_when_the_servers_are_killed_and_started_again() {
    let lab = Lab::new("wire-served-killed");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Ext4, 1024),
    );
    let seeds = crew::seeds(3);
    crew::build(old.path(), &seeds);
    let mut source = Bricks::serve(&lab, "source", &[("old", old.path())]);
    let mut sink = Bricks::serve(&lab, "sink", &[("new", new.path())]);
    let mount = Mounted::volfile(&lab, "mnt", &Bricks::pair(&lab, &source, &sink), &[]);
    let mut crew = Crew::start_served(&lab, mount.path(), &seeds);
    for round in 0..15 * crew::soak() {
        crew.work_for(Duration::from_millis(400));
        source.kill();
        if round % 3 == 2 {
            sink.kill();
            sink.start();
        }
        source.start();
    }
    crew.work_for(Duration::from_secs(1));
    assert!(crew.stop() > 0);
    mount.command("heal", &["--wait"]).expect(exit::OK);
    assert_equal(&lab, &old, &new);
    mount.terminate();
}

#[test]
fn fsx_notices_nothing_when_the_servers_are_killed_and_started_again() {
    let lab = Lab::new("wire-fsx-killed");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Ext4, 512),
    );
    let mut source = Bricks::serve(&lab, "source", &[("old", old.path())]);
    let mut sink = Bricks::serve(&lab, "sink", &[("new", new.path())]);
    let mount = Mounted::volfile(&lab, "mnt", &Bricks::pair(&lab, &source, &sink), &[]);
    let mut running = fsx(&lab, mount.path(), 2_500 * crew::soak());
    let mut kills = 0;
    while running.iter_mut().any(|fsx| fsx.is_running()) {
        std::thread::sleep(Duration::from_millis(500));
        source.kill();
        source.start();
        std::thread::sleep(Duration::from_millis(500));
        sink.kill();
        sink.start();
        kills += 2;
    }
    running.into_iter().for_each(|fsx| fsx.succeeded());
    println!("{kills} kills");
    assert!(kills >= 4, "fsx was too fast to meet a kill: {kills}");
    mount.command("heal", &["--wait"]).expect(exit::OK);
    assert_equal(&lab, &old, &new);
    mount.terminate();
}
