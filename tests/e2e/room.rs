//! A new brick that is too small; and what is told of how far it is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::wait::until;

const LONG: Duration = Duration::from_secs(120);

/// What is in a tree, as find(1) counts it, without what is ours.
fn names(root: &Path) -> u64 {
    fn below(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).unwrap().flatten();
        entries
            .filter(|entry| entry.file_name() != ".hermitfs")
            .map(|entry| match entry.file_type().unwrap().is_dir() {
                true => 1 + below(&entry.path()),
                false => 1,
            })
            .sum()
    }
    1 + below(root)
}

/// Files of random content: what cannot be squeezed.
fn fill(dir: &Path, name: &str, kib: usize) {
    let mut content = vec![0; kib << 10];
    let mut random = fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut random, &mut content).unwrap();
    fs::write(dir.join(name), content).unwrap();
}

/// Bytes that came to a disk so far.
fn written(disk: &Disk) -> u64 {
    rustix::fs::syncfs(fs::File::open(disk.path()).unwrap()).unwrap();
    let device = fs::metadata(disk.path()).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
    let sectors: u64 = stat.split_whitespace().nth(6).unwrap().parse().unwrap();
    sectors * 512
}

/// Why it waits.
fn wait_for_reason(migration: &Migration<'_>, words: &[&str]) {
    until(LONG, &format!("a reason that has {words:?}"), || {
        let reason = migration.status().0["reason"].to_string();
        words.iter().all(|word| reason.contains(word)).then_some(())
    });
}

#[track_caller]
fn assert_all_is_told(migration: &Migration<'_>) {
    let there = names(migration.mount());
    // Counted once it is over.
    let told = until(LONG, &format!("{there} files of {there}"), || {
        let status = migration.status().0;
        let files = &status["files"];
        (files["done"] == there && files["total"] == there).then_some(status)
    });
    assert_eq!(told["bytes"]["done"], told["bytes"]["total"], "{told}");
}

#[test]
fn what_fits_is_moved_nothing_is_written_twice_and_what_does_not_fit_comes_when_there_is_room() {
    let lab = Lab::new("too-small");
    let old = lab.disk("old", Format::Ext4, 160);
    let new = lab.disk("new", Format::Ext4, 48);
    fill(old.path(), "big", 60 << 10);
    for dir in ["a", "z"] {
        fs::create_dir(old.join(dir)).unwrap();
        (0..50).for_each(|n| fill(&old.join(dir), &n.to_string(), 8));
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.try_start(&[]).refused(
        exit::CONFIGURATION,
        &["does not fit", "MiB", "--undersized"],
    );
    assert!(!new.join(".hermitfs").exists(), "nothing was touched");
    migration.try_start(&["--undersized"]).expect(exit::OK);
    wait_for_reason(&migration, &["full", "/big", "60.0 MiB", "more are needed"]);
    until(LONG, "all else", || {
        let there = |dir: &str| fs::read_dir(new.join(dir)).map_or(0, |all| all.count());
        (there("a") == 50 && there("z") == 50).then_some(())
    });
    assert!(!new.join("big").exists(), "a part is no file");
    // What is written elsewhere comes all the same, and nothing else is written.
    fill(migration.mount(), "later", 16);
    until(LONG, "what is new", || {
        new.join("later").exists().then_some(())
    });
    let before = written(&new);
    std::thread::sleep(Duration::from_secs(3));
    let again = written(&new) - before;
    assert!(again < 4 << 20, "{again} bytes were written for nothing");
    let status = migration.status().0;
    assert!(
        status["eta_s"].is_null() && status["state"] == "waiting",
        "{status}"
    );
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &["/big"]);
    // It shrinks until it fits.
    let big = migration.mount().join("big");
    let big = fs::OpenOptions::new().write(true).open(big).unwrap();
    big.set_len(1 << 20).unwrap();
    drop(big);
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    assert_all_is_told(&migration);
    // And grows again where it stands, until somebody makes room by another's end.
    fill(migration.mount(), "z/other", 20 << 10);
    migration.wait_ready(LONG);
    fill(migration.mount(), "big", 30 << 10);
    wait_for_reason(&migration, &["full", "/big"]);
    fs::remove_file(migration.mount().join("z/other")).unwrap();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn a_sink_without_inodes_says_so_and_goes_on_when_there_are_some() {
    let lab = Lab::new("no-inodes");
    let old = lab.disk("old", Format::Ext4, 64);
    let new = lab.disk_with("new", Format::Ext4, 64, &["-N", "128"], "");
    fs::create_dir(old.join("many")).unwrap();
    for n in 0..300 {
        fs::write(old.join(format!("many/{n}")), "x").unwrap();
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.try_start(&[]).refused(
        exit::CONFIGURATION,
        &["files and directories", "does not fit"],
    );
    migration.try_start(&["--undersized"]).expect(exit::OK);
    wait_for_reason(&migration, &["no inodes", "/many/"]);
    for n in 0..250 {
        fs::remove_file(migration.mount().join(format!("many/{n}"))).unwrap();
    }
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    assert_all_is_told(&migration);
}

#[test]
fn what_the_old_brick_does_not_have_makes_room_for_what_it_has() {
    let lab = Lab::new("adopt-full");
    let old = lab.disk("old", Format::Ext4, 64);
    let new = lab.disk("new", Format::Ext4, 64);
    for n in 0..30 {
        fill(old.path(), &format!("today-{n}"), 1 << 10);
        fill(new.path(), &format!("stale-{n}"), 1 << 10);
    }
    fs::create_dir(new.join("z")).unwrap();
    fill(&new.join("z"), "stale", 8 << 10);
    let mut migration = lab.migration(old.path(), new.path());
    migration.try_start(&["--adopt"]).expect(exit::OK);
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    assert_all_is_told(&migration);
}

#[test]
fn ready_means_that_all_names_are_there_and_what_is_told_is_the_tree() {
    let lab = Lab::new("names");
    let old = lab.disk("old", Format::Xfs, 320);
    let new = lab.disk("new", Format::Ext4, 320);
    fs::write(old.join("base"), "base").unwrap();
    for dir in 0..10 {
        let dir = old.join(format!("d{dir}"));
        fs::create_dir(&dir).unwrap();
        for n in 0..300 {
            fs::hard_link(old.join("base"), dir.join(n.to_string())).unwrap();
        }
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let mount = migration.mount().to_owned();
    let there = names(&mount);
    let words = [old.path(), new.path(), &mount].map(|path| path.to_string_lossy().into_owned());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let migrate = [&["migrate"], words.as_slice()].concat();
    let done = hermitfs_tests::hermitfs::hermitfs(migration.state_dir(), &migrate);
    // ext4 has one of its own.
    fs::remove_dir(new.join("lost+found")).unwrap();
    let on_new = names(new.path());
    let done = done.expect(exit::OK);
    assert_eq!(on_new, there, "{}", done.stderr);
    let told = "ready  files 3,012 of 3,012 (100 %)";
    for word in [told, "; 0 pending"] {
        assert!(done.stderr.contains(word), "{}", done.stderr);
    }
    // A walk that finds all equal is no more of the tree than there is.
    for more in [&["--wait"][..], &["--wait", "--full"], &["--wait"]] {
        migration.command("heal", more).expect(exit::OK);
        assert_all_is_told(&migration);
    }
    fs::remove_dir_all(mount.join("d0")).unwrap();
    fs::write(mount.join("new"), "new").unwrap();
    migration.wait_ready(LONG);
    assert_all_is_told(&migration);

    // What is pending is content, too, however few the objects: nobody is held for it.
    migration.command("throttle", &["1MB/s"]).expect(exit::OK);
    fill(&mount, "content", 100 << 10);
    let status = migration.status();
    assert!(!status.is("ready"), "{}", status.0);
    let pending = status.number("pending_bytes");
    assert!(pending > 64 << 20, "{}", status.0);
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &["MiB of content"]);
    migration.command("throttle", &["off"]).expect(exit::OK);
    migration.cut_over();
}
