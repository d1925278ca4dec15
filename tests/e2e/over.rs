//! The mount goes over the old brick itself: nobody's path changes, and nobody gets past it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::guest::Guest;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::shell;
use hermitfs_tests::sys::Mapping;
use hermitfs_tests::tree::Tree;
use hermitfs_tests::wait::until;

const LONG: Duration = Duration::from_secs(120);

fn device(path: &Path) -> u64 {
    fs::metadata(path).unwrap().dev()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Where OLD is kept; `None` when it is not.
fn kept(migration: &Migration) -> Option<PathBuf> {
    let over = fs::read_dir(migration.state_dir().join("over")).ok()?;
    over.flatten().map(|slot| slot.path().join("old")).next()
}

/// The old brick is what it was: seen at its path, writable, and kept nowhere else.
#[track_caller]
fn assert_given_back(migration: &Migration, raw: u64) {
    assert_eq!(device(migration.old()), raw);
    fs::write(migration.old().join("writable"), "again").unwrap();
    assert_eq!(kept(migration), None);
    let run: Vec<_> = fs::read_dir(migration.state_dir().join("run"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        // What it was, for who goes on with it or gives it up.
        .filter(|name| !name.to_string_lossy().ends_with(".json"))
        .collect();
    assert!(run.is_empty(), "left in the state directory: {run:?}");
}

/// Makes, moves, reads and takes away by paths until told to stop. With `files` it has some of
/// them open for a moment. How many names it has left.
fn work(base: &Path, files: &AtomicBool, stop: &AtomicBool) -> std::io::Result<u64> {
    let mut kept = 0;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let at = |name: &str| base.join(format!("{name}-{n}"));
        fs::create_dir(at("made"))?;
        symlink("somewhere", at("made").join("link"))?;
        if files.load(Ordering::Relaxed) {
            fs::write(
                at("made").join("file"),
                at("text").as_os_str().as_encoded_bytes(),
            )?;
            fs::rename(at("made").join("file"), at("made").join("moved"))?;
            let content = fs::read(at("made").join("moved"))?;
            assert_eq!(content, at("text").as_os_str().as_encoded_bytes());
            fs::remove_file(at("made").join("moved"))?;
        }
        fs::rename(at("made"), at("kept"))?;
        assert!(fs::read_link(at("kept").join("link"))? == Path::new("somewhere"));
        if n % 3 > 0 || kept > 2000 {
            fs::remove_file(at("kept").join("link"))?;
            fs::remove_dir(at("kept"))?;
        } else {
            kept += 1;
        }
    }
    Ok(kept)
}

#[test]
fn who_works_by_paths_notices_nothing_of_the_mount_that_comes_over_and_of_the_new_brick() {
    const WORKERS: usize = 2;
    let lab = Lab::new("over");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Btrfs, 1024),
    );
    Odd::small().build(&old.join("odd"), 61);
    let raw = device(old.path());
    for worker in 0..WORKERS {
        fs::create_dir(old.join(format!("worker-{worker}"))).unwrap();
    }
    let mut migration = lab.migration_over(old.path(), new.path());
    let (files, stop) = (AtomicBool::new(true), AtomicBool::new(false));
    let left: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let base = old.join(format!("worker-{worker}"));
                let (files, stop) = (&files, &stop);
                scope.spawn(move || work(&base, files, stop))
            })
            .collect();
        // A thread that fails must not leave the others at work for ever.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            std::thread::sleep(Duration::from_millis(200));
            migration.start();
            assert_ne!(
                device(old.path()),
                raw,
                "the mount is not over the old brick"
            );
            until(LONG, "a migration that is ready", || {
                migration.status().is("ready").then_some(())
            });
            files.store(false, Ordering::Relaxed);
            until(LONG, "a cut-over", || {
                let done = migration.command("cutover", &["--timeout", "10s"]);
                assert!(
                    [exit::OK, exit::TRY_AGAIN].contains(&done.code),
                    "{}",
                    done.stderr
                );
                (done.code == exit::OK).then_some(done)
            })
        }));
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        let left = workers
            .into_iter()
            .map(|worker| worker.join().unwrap().expect("an operation failed"));
        let left = left.collect();
        let done = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let kept = kept(&migration).expect("the old brick is kept");
        assert!(done.stderr.contains(&text(&kept)), "{}", done.stderr);
        assert!(done.stdout.contains(&text(old.path())), "{}", done.stdout);
        left
    });
    migration.daemon().wait_end(Duration::from_secs(30));
    assert_eq!(device(migration.mount()), device(new.path()));
    for (worker, left) in left.into_iter().enumerate() {
        let there = fs::read_dir(new.join(format!("worker-{worker}"))).unwrap();
        assert_eq!(there.count() as u64, left, "worker {worker}");
    }
    // The old brick is as it was at that moment: complete, and nobody can change it.
    let kept = kept(&migration).unwrap();
    Tree::of(&kept.join("odd")).assert_equal(&Tree::of(&new.join("odd")));
    assert_eq!(device(&kept), raw);
    let refused = fs::write(kept.join("late"), "").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    // Another migration from here does not throw it out.
    let third = lab.disk("third", Format::Ext4, 512);
    let mut again = lab.migration_over(old.path(), third.path());
    again
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["earlier migration", "umount -R"]);
    shell::run("umount", &["-R", &text(kept.parent().unwrap())]);
    // What is the old brick now is mounted where it was the new one, too.
    again
        .try_start(&[])
        .refused(exit::TRY_AGAIN, &["beside", &text(new.path())]);
    new.unmount();
    again.start();
    again.cut_over();
}

/// Looks at a path without a pause; fails the test when the raw brick is seen there.
fn watch(path: &Path, raw: u64, stop: &AtomicBool) -> u64 {
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(meta) = fs::metadata(path) {
            assert_ne!(meta.dev(), raw, "the raw brick is seen");
        }
        looks += 1;
    }
    looks
}

fn killed_over(name: &str, old: &Path, new: &Path, raw: u64) {
    let lab = Lab::new(&format!("over-killed-{name}"));
    let seeds = crew::seeds(2);
    crew::build(old, &seeds);
    let mut migration = lab.migration_over(old, new);
    migration.start();
    let stop = AtomicBool::new(false);
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, true);
    std::thread::scope(|scope| {
        let watched = scope.spawn(|| watch(old, raw, &stop));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for pause in [100, 700, 0, 300, 1500, 50] {
                crew.work_for(Duration::from_millis(pause));
                migration.kill();
                migration.start();
            }
            crew.work_for(Duration::from_millis(500));
        }));
        stop.store(true, Ordering::Relaxed);
        let looks = watched.join().unwrap();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(looks > 100, "only {looks} looks");
    });
    crew.stop();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
    shell::run(
        "umount",
        &["-R", &text(kept(&migration).unwrap().parent().unwrap())],
    );
}

#[test]
fn the_raw_brick_is_never_seen_by_its_path_when_the_daemon_is_killed() {
    let lab = Lab::new("over-mount");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Btrfs, 1024),
    );
    killed_over("mount", old.path(), new.path(), device(old.path()));
    while device(old.path()) != device(new.path()) {
        shell::run("umount", &[old.path()]);
    }
}

#[test]
fn a_plain_directory_is_covered_as_well_as_a_mount() {
    let lab = Lab::new("over-directory");
    let disk = lab.disk("disk", Format::Xfs, 2048);
    let (old, new) = (disk.join("old"), disk.join("new"));
    fs::create_dir(&old).unwrap();
    fs::create_dir(&new).unwrap();
    let inode = fs::metadata(&old).unwrap().ino();
    killed_over("directory", &old, &new, device(&old));
    assert_ne!(fs::metadata(&old).unwrap().ino(), inode);
    shell::run("umount", &[&old]);
    assert_eq!(fs::metadata(&old).unwrap().ino(), inode);
}

#[test]
fn what_goes_on_beside_the_mount_is_found_and_refused_by_name() {
    let lab = Lab::new("over-refused");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    let raw = device(old.path());
    fs::create_dir(old.join("part")).unwrap();
    fs::write(old.join("file"), "content").unwrap();
    let mut migration = lab.migration_over(old.path(), new.path());
    let refused = |migration: &mut Migration, words: &[&str]| {
        migration.try_start(&[]).refused(exit::TRY_AGAIN, words);
        assert_given_back(migration, raw);
        assert_eq!(
            fs::read_dir(new.path()).unwrap().count(),
            1,
            "the new brick was touched"
        );
    };

    let writer = fs::OpenOptions::new()
        .append(true)
        .open(old.join("file"))
        .unwrap();
    let guest = Guest::new(Guest::sleeping().stdin(writer));
    refused(
        &mut migration,
        &[
            "sleep",
            &guest.pid(),
            "open for writing",
            &text(&old.join("file")),
        ],
    );
    drop(guest);

    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(old.join("file"))
        .unwrap();
    let mapping = Mapping::new(&file, 7, false).unwrap();
    drop(file);
    refused(
        &mut migration,
        &[
            &std::process::id().to_string(),
            "mapping for writing",
            &text(&old.join("file")),
        ],
    );
    drop(mapping);

    // A part of it, mounted somewhere else.
    let part = lab.dir("part");
    shell::run("mount", &["--bind", &text(&old.join("part")), &text(&part)]);
    refused(&mut migration, &["mount", &text(&part)]);
    // Through what is read-only nothing can be lost.
    shell::run("mount", &["-o", "remount,bind,ro", &text(&part)]);

    // Who only looks is let be: the kernel keeps him from changing anything.
    let guest = Guest::new(Guest::sleeping().current_dir(old.join("part")));
    migration.start();
    let beside = format!("/proc/{}/cwd/past-the-mount", guest.pid());
    let kept_out = fs::write(beside, "").unwrap_err();
    assert_eq!(kept_out.kind(), ErrorKind::ReadOnlyFilesystem);
    migration.wait_ready(LONG);
    // But when the new brick came he would stay behind.
    migration.command("cutover", &[]).refused(
        exit::TRY_AGAIN,
        &["sleep", &guest.pid(), "working directory below the mount"],
    );
    drop(guest);
    migration.command("abort", &[]).expect(exit::OK);
    migration.daemon().wait_end(LONG);
    assert_given_back(&migration, raw);
}

#[test]
fn nobody_at_all_may_be_in_a_plain_directory() {
    let lab = Lab::new("over-in");
    let disk = lab.disk("disk", Format::Ext4, 512);
    let (old, new) = (disk.join("old"), disk.join("new"));
    fs::create_dir_all(old.join("deep/er")).unwrap();
    fs::create_dir(&new).unwrap();
    fs::create_dir(disk.join("older")).unwrap();
    fs::write(old.join("deep/file"), "content").unwrap();
    let raw = device(&old);
    let mut migration = lab.migration_over(&old, &new);
    let refused = |migration: &mut Migration, words: &[&str]| {
        migration.try_start(&[]).refused(exit::TRY_AGAIN, words);
        assert_given_back(migration, raw);
    };
    let guest = Guest::new(Guest::sleeping().current_dir(old.join("deep/er")));
    refused(
        &mut migration,
        &[
            &guest.pid(),
            "working directory",
            &text(&old.join("deep/er")),
        ],
    );
    drop(guest);
    let reader = fs::File::open(old.join("deep/file")).unwrap();
    let guest = Guest::new(Guest::sleeping().stdin(reader));
    refused(
        &mut migration,
        &[&guest.pid(), "open file", &text(&old.join("deep/file"))],
    );
    drop(guest);
    let file = fs::File::open(old.join("deep/file")).unwrap();
    let mapping = Mapping::new(&file, 7, true).unwrap();
    drop(file);
    refused(&mut migration, &["mapping", &text(&old.join("deep/file"))]);
    drop(mapping);
    // Beside it, on the same file system, anybody may be.
    let beside = Guest::new(Guest::sleeping().current_dir(disk.join("older")));
    migration.start();
    fs::write(old.join("through"), "the mount").unwrap();
    migration.wait_ready(LONG);
    migration.terminate();
    assert_given_back(&migration, raw);
    drop(beside);
    assert_eq!(fs::read(old.join("through")).unwrap(), b"the mount");
}

/// The ways in which a migration over its source ends without a cut-over.
#[test]
fn the_old_brick_is_given_back_however_it_ends() {
    let lab = Lab::new("over-back");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 256),
        lab.disk("new", Format::Btrfs, 512),
    );
    let raw = device(old.path());
    Odd::small().build(&old.join("odd"), 62);
    let mut migration = lab.migration_over(old.path(), new.path());
    let umount = || shell::run("umount", &[old.path()]);
    let meanwhile = |n: u32| {
        // Behind our back, which is allowed while no mount of ours is there: of the same size.
        fs::write(old.join("meanwhile"), format!("{n:08}")).unwrap();
    };
    meanwhile(0);
    migration.start();
    migration.wait_ready(LONG);
    migration.terminate();
    assert_given_back(&migration, raw);
    meanwhile(1);

    migration.start();
    umount();
    migration.daemon().wait_end(LONG);
    assert_given_back(&migration, raw);
    meanwhile(2);

    // Killed, and unmounted by hand: it is read-only still, and known to be so because of us.
    migration.start();
    migration.kill();
    umount();
    assert_eq!(device(old.path()), raw);
    let refused = fs::write(old.join("writable"), "").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    migration.start();
    fs::write(old.join("writable"), "through the mount").unwrap();
    migration.terminate();
    assert_given_back(&migration, raw);
    meanwhile(3);

    // Killed, gone on with, and ended by the one that went on.
    migration.start();
    migration.kill();
    migration.start();
    migration.terminate();
    assert_given_back(&migration, raw);
    meanwhile(4);

    migration.start();
    migration.wait_ready(LONG);
    assert_eq!(fs::read(new.join("meanwhile")).unwrap(), b"00000004");
    migration.command("abort", &[]).expect(exit::OK);
    migration.daemon().wait_end(LONG);
    assert_given_back(&migration, raw);
    assert!(!new.join(".hermitfs").exists());

    // And a disk that its administrator keeps read-only stays so.
    old.turn_read_only();
    migration.try_start(&["--adopt"]).expect(exit::OK);
    let refused = fs::write(old.join("writable"), "").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    migration.wait_ready(LONG);
    migration.terminate();
    let refused = fs::write(old.join("writable"), "").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(device(old.path()), raw);
}

#[test]
fn what_is_changed_while_the_daemon_is_still_ending_is_not_missed() {
    let lab = Lab::new("over-ending");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    let raw = device(old.path());
    fs::write(old.join("file"), "before").unwrap();
    let time = fs::metadata(old.join("file")).unwrap().modified().unwrap();
    let volfile = lab.file(
        "slow.vol",
        "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"${old}\"\n\n\
         [volume.brick]\ntype = \"storage/posix\"\ndirectory = \"${new}\"\n\n\
         [volume.new]\ntype = \"debug/fault\"\nsubvolumes = [\"brick\"]\n\
         rules = [\"sync delay=${delay}\"]\n\n\
         [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"old\"\nsinks = [\"new\"]\n",
    );
    let mut mount = Mounted::at(&lab, old.path());
    let arm = |mount: &mut Mounted, delay: u32| {
        let set = [
            format!("old={}", old.path().display()),
            format!("new={}", new.path().display()),
            format!("delay={delay}"),
        ];
        mount.use_volfile(&volfile, &set.each_ref().map(String::as_str));
    };
    arm(&mut mount, 4000);
    mount.start();
    mount.command("heal", &["--wait"]).expect(exit::OK);
    mount.daemon().signal(rustix::process::Signal::TERM);
    // It syncs the new brick before it ends; users are back on the old one by then.
    until(LONG, "the old brick", || {
        (device(old.path()) == raw && fs::write(old.join("file"), "behind").is_ok()).then_some(())
    });
    hermitfs_tests::odd::set_mtime(&old.join("file"), time);
    mount.daemon().wait_end(LONG);
    arm(&mut mount, 0);
    mount.start();
    mount.command("heal", &["--wait"]).expect(exit::OK);
    assert_eq!(fs::read(new.join("file")).unwrap(), b"behind");
}
