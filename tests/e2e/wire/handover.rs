//! The end of a migration to a brick of another process, which cannot be put in the mount's place.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::guest::Guest;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::wait::until;
use rustix::process::Signal;

use super::{assert_equal, lab_dir};

const LONG: Duration = Duration::from_secs(60);

/// The old brick here, the new one served.
fn volfile(lab: &Lab, name: &str, old: &Path, new: &Bricks, more: &str) -> PathBuf {
    let text = format!(
        "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"{}\"\n\n{}[volume.pair]\n\
         type = \"cluster/replicate\"\nsource = \"old\"\nsinks = [\"new\"]\n",
        old.display(),
        new.client("new", more)
    );
    lab.file(&format!("{name}.vol"), &text)
}

fn migration<'lab>(
    lab: &'lab Lab,
    at: &str,
    old: &Path,
    new: &Bricks,
    more: &str,
) -> Mounted<'lab> {
    let mut mount = Mounted::prepare(lab, at);
    mount.use_volfile(&volfile(lab, at, old, new, more), &[]);
    mount
}

fn disks(lab: &Lab) -> (Disk, Disk) {
    (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Ext4, 512),
    )
}

#[track_caller]
fn wait_ready(mount: &Mounted<'_>) {
    until(LONG, "the pair to be ready", || {
        mount.status().is("ready").then_some(())
    });
}

#[test]
fn a_new_brick_of_another_process_is_complete_and_plain_when_nobody_is_in_the_mount() {
    let lab = Lab::new("handover");
    let (old, new) = disks(&lab);
    Odd::small().build(&lab_dir(&old, "odd"), 71);
    let mut served = Bricks::serve(&lab, "served", &[("new", new.path())]);
    let mut mount = migration(
        &lab,
        "mnt",
        old.path(),
        &served,
        "ping-timeout = 1\ngrace = 2",
    );
    // What keeps a unit from being started again.
    let ended = lab.path().join("ended");
    let ended_at = ended.display().to_string();
    mount.try_start(&["--ended", &ended_at]).expect(exit::OK);
    wait_ready(&mount);

    let file = mount.join("file");
    let held = File::create(&file).unwrap();
    mount
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &["is in use", "/file"]);
    fs::write(&file, "everything goes on").unwrap();
    drop(held);
    // Nobody can go on in a directory of another machine, and it is not said that he can.
    let inside = Guest::new(Guest::sleeping().current_dir(mount.path()));
    let refused = mount.command("cutover", &["--timeout", "1s"]);
    assert!(
        !refused.stderr.contains("--stay-inside"),
        "{}",
        refused.stderr
    );
    refused.refused(exit::TRY_AGAIN, &["working directory"]);
    mount
        .command("cutover", &["--stay-inside"])
        .refused(exit::CONFIGURATION, &["nobody can go on in it"]);
    drop(inside);

    // What it would have to say over there cannot be said: nothing has changed, and users do not wait for it.
    served.signal(Signal::STOP);
    fs::write(&file, "everything goes on as before").unwrap();
    mount
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &[]);
    fs::write(mount.join("another"), "written").unwrap();
    served.signal(Signal::CONT);

    wait_ready(&mount);
    let done = mount
        .command("cutover", &["--timeout", "20s"])
        .expect(exit::OK);
    let at = served.address();
    for words in [&*at, "is complete", "is unmounted", "nobody works in it"] {
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
    assert_eq!(done.stdout, "", "there is no line for fstab");
    mount.daemon().wait_end(LONG);
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
    let note = fs::read_to_string(&ended).unwrap();
    assert!(note.contains("cut over"), "{note}");
    assert!(!new.join(".hermitfs").exists());
    assert_eq!(
        fs::read(new.join("file")).unwrap(),
        b"everything goes on as before"
    );
    assert_equal(&lab, &old, &new);
    // It is nobody's sink any more.
    fs::write(new.join("newer"), "than the old brick").unwrap();
    mount
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["is not empty"]);
    assert!(new.join("newer").exists());
    served.terminate();
}

#[test]
fn a_mount_over_the_old_brick_gives_that_back_when_the_new_one_is_elsewhere() {
    let lab = Lab::new("handover-over");
    let (old, new) = disks(&lab);
    fs::write(old.join("file"), "content").unwrap();
    let raw = fs::metadata(old.path()).unwrap().dev();
    let mut served = Bricks::serve(&lab, "served", &[("new", new.path())]);
    let volfile = volfile(&lab, "over", old.path(), &served, "");
    let mut mount = Mounted::at(&lab, old.path());
    mount.use_volfile(&volfile, &[]);
    mount.start();
    assert_ne!(fs::metadata(old.path()).unwrap().dev(), raw);
    fs::write(mount.join("more"), "written").unwrap();
    wait_ready(&mount);
    let done = mount
        .command("cutover", &["--timeout", "20s"])
        .expect(exit::OK);
    let words = "is the old brick itself again";
    assert!(done.stderr.contains(words), "{}", done.stderr);
    mount.daemon().wait_end(LONG);
    assert_eq!(fs::metadata(old.path()).unwrap().dev(), raw);
    assert!(!new.join(".hermitfs").exists());
    assert_equal(&lab, &old, &new);
    assert_eq!(fs::read(new.join("more")).unwrap(), b"written");
    fs::write(old.join("writable"), "as before").unwrap();
    served.terminate();
}

#[test]
fn a_kill_at_any_moment_of_a_hand_over_leaves_a_migration_or_a_plain_brick() {
    let lab = Lab::new("handover-killed");
    let (old, new) = disks(&lab);
    let (mut before, mut after) = (0, 0);
    for round in 0..8_u64 {
        let name = format!("round-{round}");
        let (from, to) = (lab_dir(&old, &name), lab_dir(&new, &name));
        fs::write(from.join("file"), "content").unwrap();
        let mut served = Bricks::serve(&lab, &name, &[("new", &to)]);
        let mut mount = migration(&lab, &format!("mnt-{round}"), &from, &served, "");
        mount.start();
        wait_ready(&mount);
        fs::write(mount.join("last"), "pending when it is asked for").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| mount.command("cutover", &["--timeout", "20s"]));
            std::thread::sleep(Duration::from_millis(120 + 20 * round));
            mount.kill();
        });
        if to.join(".hermitfs/volume.json").exists() {
            before += 1;
            mount.start();
            wait_ready(&mount);
            mount
                .command("cutover", &["--timeout", "20s"])
                .expect(exit::OK);
            mount.daemon().wait_end(LONG);
        } else {
            after += 1;
            mount
                .try_start(&[])
                .refused(exit::CONFIGURATION, &["is not empty"]);
            // At the very last moment it may be there, and empty.
            let _ = fs::remove_dir(to.join(".hermitfs"));
        }
        assert!(!to.join(".hermitfs").exists());
        for name in ["file", "last"] {
            assert_eq!(
                fs::read(from.join(name)).unwrap(),
                fs::read(to.join(name)).unwrap()
            );
        }
        served.terminate();
    }
    println!("killed {before} times while it was a migration, {after} times when it was over");
}
