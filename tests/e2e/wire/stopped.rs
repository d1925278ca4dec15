//! Servers that do not answer: stopped, with their connections open, or gone.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::{command, exit, run};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::papers::Authority;
use hermitfs_tests::wait::until;
use rustix::process::Signal;

use super::assert_equal;

const LONG: Duration = Duration::from_secs(60);

/// Longer than the mounts below wait for a sign of life.
const LONGER_THAN_A_PING: Duration = Duration::from_millis(2500);

/// Works in a mount, with all that has to come to its brick.
fn work(mount: &Mounted<'_>, rounds: usize) {
    for round in 0..rounds {
        let (file, other) = (mount.join("worked"), mount.join("renamed"));
        fs::write(&file, round.to_string()).unwrap();
        fs::rename(&file, &other).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), round.to_string());
        fs::remove_file(&other).unwrap();
    }
}

#[test]
fn a_server_that_is_not_there_yet_is_to_be_tried_again() {
    let lab = Lab::new("wire-late");
    let disk = lab.disk("disk", Format::Ext4, 128);
    fs::write(disk.join("file"), b"there").unwrap();
    let mut bricks = Bricks::serve(&lab, "late", &[("brick", disk.path())]);
    let volfile = lab.file("client.vol", &bricks.client("brick", "grace = 1"));
    let mut mount = Mounted::prepare(&lab, "mnt");
    mount.use_volfile(&volfile, &[]);
    bricks.kill();
    // A service manager gives up where a volfile is wrong.
    let refused = mount.try_start(&[]);
    refused.refused(exit::TRY_AGAIN, &["does not answer"]);
    bricks.start();
    mount.start();
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"there");
}

/// At boot a network may come later than its services: no reason for a service manager to give up.
#[test]
fn an_address_that_is_not_there_yet_is_to_be_tried_again() {
    let lab = Lab::new("wire-address");
    // For documentation alone (RFC 5737): no machine has it.
    let address = "203.0.113.7:24007";
    let tls = Authority::new().papers(&lab, "tls", "203.0.113.7");
    let mut serve = command(&lab.dir("state"));
    let volfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../volfiles/brick.vol");
    serve.arg("serve").arg("-f").arg(volfile);
    for set in [
        format!("brick={}", lab.dir("brick").display()),
        format!("address={address}"),
        format!("tls={}", tls.display()),
    ] {
        serve.args(["--set", &set]);
    }
    run(&mut serve, LONG).refused(exit::TRY_AGAIN, &[address, "assign"]);
}

#[test]
fn a_server_that_is_stopped_is_waited_for_and_no_other_brick_hangs() {
    let lab = Lab::new("wire-stopped");
    let disk = lab.disk("disk", Format::Ext4, 256);
    let [one, other] = ["one", "other"].map(|name| {
        fs::create_dir(disk.join(name)).unwrap();
        Bricks::serve(&lab, name, &[("brick", &disk.join(name))])
    });
    let [slow, quick] = [("slow", &one), ("quick", &other)].map(|(name, bricks)| {
        let client = bricks.client("brick", "ping-timeout = 1\ngrace = 8");
        Mounted::volfile(&lab, name, &lab.file(&format!("{name}.vol"), &client), &[])
    });
    let mut open = File::options();
    open.read(true).write(true).create_new(true);
    let file = open.open(slow.join("file")).unwrap();
    file.write_all_at(b"before", 0).unwrap();

    // For longer than the ping-timeout: all wait, and go on.
    one.signal(Signal::STOP);
    thread::scope(|scope| {
        let waiting = [
            scope.spawn(|| file.write_all_at(b"within", 0)),
            scope.spawn(|| fs::create_dir(slow.join("made"))),
            scope.spawn(|| file.sync_all()),
        ];
        work(&quick, 20);
        thread::sleep(LONGER_THAN_A_PING);
        assert!(waiting.iter().all(|one| !one.is_finished()));
        one.signal(Signal::CONT);
        for waited in waiting {
            waited.join().unwrap().unwrap();
        }
    });
    let mut seen = [0; 6];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"within");
    assert!(disk.join("one/made").is_dir());

    // For longer than the grace: EIO, and then at once.
    one.signal(Signal::STOP);
    thread::scope(|scope| {
        let lost = scope.spawn(|| fs::create_dir(slow.join("lost")));
        until(LONG, "an error", || {
            work(&quick, 1);
            lost.is_finished().then_some(())
        });
        let error = lost.join().unwrap().expect_err("nobody has answered it");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    });
    for _ in 0..20 {
        let error = fs::create_dir(slow.join("refused")).expect_err("nobody can have answered it");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    work(&quick, 20);
    one.signal(Signal::CONT);
    until(LONG, "it is noticed that the server is there again", || {
        fs::metadata(slow.join("made")).ok()
    });
    file.write_all_at(b"after!", 0).unwrap();
    file.sync_all().unwrap();
    file.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"after!");
    assert_eq!(fs::read(disk.join("one/file")).unwrap(), b"after!");
    assert!(
        !disk.join("one/refused").exists(),
        "what was refused is not done"
    );
    work(&slow, 5);
    for mount in [&slow, &quick] {
        mount.terminate();
    }
}

#[test]
fn users_notice_nothing_of_a_sink_whose_server_is_stopped_or_gone() {
    let lab = Lab::new("wire-sink");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    let all = crew::seeds(6);
    crew::build(old.path(), &all);
    let mut sink = Bricks::serve(&lab, "sink", &[("new", new.path())]);
    // Nobody who waits for the sink is told of an error before this test is over.
    let volfile = format!(
        "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"{}\"\n\n{}\
         [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"old\"\nsinks = [\"new\"]\n",
        old.path().display(),
        sink.client("new", "ping-timeout = 1\ngrace = 900")
    );
    let mount = Mounted::volfile(&lab, "mnt", &lab.file("pair.vol", &volfile), &[]);
    for (round, seeds) in all.chunks(2).enumerate() {
        let mut crew = Crew::start(&lab, mount.path(), seeds, false);
        crew.work_for(Duration::from_secs(1));
        match round {
            0 | 1 => sink.signal(Signal::STOP),
            _ => sink.kill(),
        }
        crew.work_for(Duration::from_secs(2 * crew::soak()));
        work(&mount, 50);
        // It ends its work while the sink is away: so nobody waits for that.
        assert!(crew.stop() > 0);
        mount.status();
        match round {
            0 | 1 => sink.signal(Signal::CONT),
            _ => sink.start(),
        }
        mount.command("heal", &["--wait"]).expect(exit::OK);
        assert_equal(&lab, &old, &new);
    }
    mount.terminate();
}
