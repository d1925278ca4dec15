//! What is shown is looked at: where the mount and both bricks are, also when somebody has taken
//! them away beside us; and nobody works in the directory below meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::shell::run;

const LONG: Duration = Duration::from_secs(60);

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A process that stands in a directory until it is ended.
struct Inside(Child);

impl Inside {
    fn of(directory: &Path) -> Inside {
        let mut sleep = Command::new("sleep");
        Inside(sleep.arg("600").current_dir(directory).spawn().unwrap())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whoever comes by the path while nothing is mounted there cannot work beside the old brick.
#[track_caller]
fn nobody_works_beside(migration: &Migration<'_>) {
    let report = migration.mount().join("report");
    let refused = fs::write(&report, "work").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    assert!(!migration.old().join("report").exists());
}

/// The directory is as any other.
#[track_caller]
fn is_open_again(directory: &Path) {
    fs::write(directory.join("free"), "").unwrap();
    fs::remove_file(directory.join("free")).unwrap();
}

#[test]
fn a_mount_or_a_brick_that_is_not_where_it_was_is_told_and_is_in_the_way() {
    let lab = Lab::new("sight");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 64),
        lab.disk("new", Format::Ext4, 64),
    );
    fs::write(old.join("file"), "content").unwrap();
    fs::create_dir(old.join("directory")).unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let reason = || {
        migration.status().0["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };

    // The new brick is out of sight, and at its place again.
    run("umount", &["-l", &text(new.path())]);
    let status = migration.status();
    assert!(!status.is("ready"), "{}", status.0);
    let health = status.0["sinks"][0]["health"].as_str().unwrap_or_default();
    assert!(health.contains("not mounted"), "{}", status.0);
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &["not mounted", "/new"]);
    new.mount("");
    assert_eq!(reason(), "");
    assert!(migration.status().is("ready"));

    // Something is mounted in the old one.
    let inner = text(&old.join("directory"));
    run("mount", &["-t", "tmpfs", "none", &inner]);
    assert!(reason().contains(&inner), "{}", reason());
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &["hides", &inner]);
    run("umount", &[&inner]);
    assert!(migration.status().is("ready"));

    // Something is mounted over ours.
    let point = text(migration.mount());
    run("mount", &["-t", "tmpfs", "none", &point]);
    assert!(reason().contains("tmpfs"), "{}", reason());
    migration
        .try_start(&[])
        .refused(exit::TRY_AGAIN, &["mounted over"]);
    run("umount", &[&point]);

    // Ours is taken away lazily while somebody is in it.
    let inside = Inside::of(migration.mount());
    run("umount", &["-l", &point]);
    let status = migration.status();
    assert!(!status.is("mounted") && !status.is("ready"), "{}", status.0);
    nobody_works_beside(&migration);
    migration
        .try_start(&[])
        .refused(exit::TRY_AGAIN, &["nothing is mounted at", &point]);
    for command in ["abort", "cutover"] {
        migration
            .command(command, &[])
            .refused(exit::TRY_AGAIN, &["nothing is mounted", "sleep"]);
    }
    drop(inside);
    migration.daemon().wait_end(LONG);
    nobody_works_beside(&migration);
    migration
        .command("status", &[])
        .refused(exit::NO_DAEMON, &["not over", "hermitfs migrate", "abort"]);
    migration.start();
    assert_eq!(fs::read(migration.join("file")).unwrap(), b"content");
    migration.cut_over();
    run("umount", &[&point]);
    is_open_again(migration.mount());
    migration
        .command("status", &[])
        .refused(exit::NO_DAEMON, &["was cut over from", "by root"]);
}

#[test]
fn a_daemon_that_is_told_to_end_ends_as_a_kill_does_for_those_who_are_in() {
    let lab = Lab::new("sigterm");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 64),
        lab.disk("new", Format::Ext4, 64),
    );
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let point = text(migration.mount());
    let mut log = File::create(migration.join("log")).unwrap();
    log.write_all(b"1\n").unwrap();
    migration.terminate();
    // As after a kill: nobody sees what is under it.
    let lost = log.write_all(b"2\n").and_then(|()| log.sync_all());
    assert!(lost.is_err(), "written to nobody");
    let refused = fs::write(migration.join("report"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(107), "ENOTCONN: {refused}");
    drop(log);
    migration
        .command("status", &[])
        .refused(exit::NO_DAEMON, &["has died", "hermitfs migrate", "abort"]);
    // Nor by hand.
    run("umount", &[&point]);
    nobody_works_beside(&migration);
    migration.start();
    assert_eq!(fs::read(migration.join("log")).unwrap(), b"1\n");
    let mut append = OpenOptions::new();
    let mut log = append.append(true).open(migration.join("log")).unwrap();
    log.write_all(b"3\n").unwrap();
    migration.terminate();
    drop(log);
    // In the dead mount's place.
    migration.start();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    assert_eq!(fs::read(new.join("log")).unwrap(), b"1\n3\n");

    // With nobody in it that is a clean end; and it can be given up without a daemon.
    migration.terminate();
    nobody_works_beside(&migration);
    let given_up = migration.command("abort", &[]).expect(exit::OK);
    assert!(
        given_up.stderr.contains("is given up"),
        "{}",
        given_up.stderr
    );
    is_open_again(migration.mount());
    assert!(!new.join(".hermitfs").exists());
    assert_eq!(fs::read(old.join("log")).unwrap(), b"1\n3\n");
    let run_files = fs::read_dir(migration.state_dir().join("run"))
        .unwrap()
        .count();
    assert_eq!(run_files, 0);
    migration
        .command("status", &[])
        .refused(exit::NO_DAEMON, &["given up"]);
}

#[test]
fn a_state_directory_that_is_full_at_a_restart_keeps_nobody_from_working() {
    let lab = Lab::new("state-full");
    let disk = |name: &str| lab.disk(name, Format::Ext4, 64);
    let (old, new, state) = (disk("old"), disk("new"), disk("var"));
    fs::write(old.join("file"), "content").unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.keep_state_in(&state.join("state"));
    migration.start();
    migration.wait_ready(LONG);
    for killed in [true, false] {
        match killed {
            true => migration.kill(),
            false => migration.terminate(),
        }
        let filler = state.join("filler");
        let mut filling = File::create(&filler).unwrap();
        // What is set aside for blocks that are not written yet comes back with a sync.
        for size in [1 << 20, 4096, 4096, 1] {
            while filling.write_all(&vec![0; size]).is_ok() {}
            filling.sync_all().unwrap();
        }
        migration.start();
        let name = format!("after-{killed}");
        fs::write(migration.join(&name), "served").unwrap();
        let status = migration.status();
        let reason = status.0["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("journal"), "{}", status.0);
        migration
            .command("cutover", &["--timeout", "1s"])
            .refused(exit::TRY_AGAIN, &["journal"]);
        drop(filling);
        fs::remove_file(filler).unwrap();
        migration.wait_ready(LONG);
        assert_eq!(fs::read(new.join(&name)).unwrap(), b"served");
    }
    migration.cut_over();
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let lab = Lab::new("failed-start");
    let disk = |name: &str| lab.disk(name, Format::Ext4, 64);
    let [old, new, other] = ["old", "new", "other"].map(disk);
    // The second sink fails when the first one has been begun with.
    let brick = |name: &str| {
        format!("[volume.{name}]\ntype = \"storage/posix\"\ndirectory = \"${{{name}}}\"\n\n")
    };
    let volfile = lab.file(
        "fails.vol",
        &format!(
            "{}{}{}[volume.second]\ntype = \"debug/fault\"\nsubvolumes = [\"other\"]\n\
             rules = [\"mkdir name=.hermitfs EIO\"]\n\n\
             [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"old\"\nsinks = [\"new\", \"second\"]\n",
            brick("old"),
            brick("new"),
            brick("other")
        ),
    );
    let set = [("old", &old), ("new", &new), ("other", &other)];
    let set = set.map(|(name, disk)| format!("{name}={}", disk.path().display()));
    let mut mounted = Mounted::prepare(&lab, "data");
    mounted.use_volfile(&volfile, &set.each_ref().map(String::as_str));
    let failed = mounted.try_start(&[]).expect(exit::FAILED);
    assert!(failed.stderr.contains("/other"), "{}", failed.stderr);
    assert!(!new.join(".hermitfs").exists() && !other.join(".hermitfs").exists());
    let state = fs::read_dir(mounted.state_dir()).unwrap().flatten();
    let left: Vec<_> = state.map(|entry| entry.file_name()).collect();
    let is_ours = |name: &str| ["run", "log", "servers"].contains(&name);
    assert!(
        left.iter().all(|name| is_ours(&name.to_string_lossy())),
        "{left:?}"
    );
    is_open_again(mounted.path());
}

#[test]
fn the_dead_mount_of_an_old_brick_is_given_up_without_a_daemon() {
    let lab = Lab::new("abort-dead-over");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 64),
        lab.disk("new", Format::Ext4, 64),
    );
    fs::write(old.join("file"), "content").unwrap();
    // Beside it: its own path was shut by the daemon that was killed.
    let mut beside = lab.migration(old.path(), new.path());
    beside.start();
    beside.wait_ready(LONG);
    beside.kill();
    beside.command("abort", &[]).expect(exit::OK);
    for directory in [old.path(), beside.mount()] {
        is_open_again(directory);
    }
    assert!(!new.join(".hermitfs").exists());
    fs::remove_file(new.join("file")).unwrap();
    let mut migration = lab.migration_over(old.path(), new.path());
    for killed in [true, false] {
        migration.start();
        migration.wait_ready(LONG);
        let held = File::create(migration.join("held")).unwrap();
        match killed {
            true => migration.kill(),
            false => migration.terminate(),
        }
        drop(held);
        let refused = fs::read(old.join("file")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(107), "ENOTCONN: {refused}");
        migration.command("abort", &[]).expect(exit::OK);
        assert_eq!(fs::read(old.join("file")).unwrap(), b"content");
        is_open_again(old.path());
        assert!(!new.join(".hermitfs").exists());
        for name in ["file", "held"] {
            let _ = fs::remove_file(new.join(name));
        }
    }
}
