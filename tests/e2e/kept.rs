//! Users of the mount that only the kernel knows: who watches it, and overlays with a layer in it.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::guest::Guest;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::shell;
use hermitfs_tests::wait::until;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

const LONG: Duration = Duration::from_secs(120);

/// A few paths, watched by this process.
struct Watch {
    inotify: OwnedFd,
    numbers: Vec<i32>,
}

impl Watch {
    fn of(paths: &[&Path]) -> Watch {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let kinds = WatchFlags::CREATE | WatchFlags::MODIFY;
        let add = |path: &&Path| inotify::add_watch(&inotify, *path, kinds).unwrap();
        let numbers = paths.iter().map(add).collect();
        Watch { inotify, numbers }
    }

    /// What it was told since the last time: of each watch, all at once.
    fn told(&self) -> Vec<ReadFlags> {
        let mut told = vec![ReadFlags::empty(); self.numbers.len()];
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut room);
        while let Ok(event) = reader.next() {
            let at = self.numbers.iter().position(|wd| *wd == event.wd());
            told[at.unwrap()] |= event.events();
        }
        told
    }

    /// Waits until all watches have ended, with these flags.
    #[track_caller]
    fn wait_ended(&self, how: ReadFlags) {
        let mut all = vec![ReadFlags::empty(); self.numbers.len()];
        until(LONG, "the watches to end", || {
            for (all, told) in all.iter_mut().zip(self.told()) {
                *all |= told;
            }
            let ended = all.iter().all(|told| told.contains(ReadFlags::IGNORED));
            ended.then_some(())
        });
        let unmounted = ReadFlags::UNMOUNT | ReadFlags::IGNORED;
        assert!(all.iter().all(|told| *told & unmounted == how), "{all:?}");
    }
}

/// What `status` says of this process: how much it watches of the mount, and of the old brick itself.
fn seen(migration: &Migration<'_>) -> Option<(u64, u64)> {
    let status = migration.status().0;
    let watchers = status["watchers"].as_array().unwrap();
    let us = watchers
        .iter()
        .find(|one| one["pid"] == std::process::id())?;
    Some((
        us["watches"].as_u64().unwrap(),
        us["below"].as_u64().unwrap(),
    ))
}

#[test]
fn who_watches_is_named_before_a_cut_over_and_told_of_the_unmount_after_it() {
    for over in [false, true] {
        let lab = Lab::new("kept-watches");
        let (old, new) = (
            lab.disk("old", Format::Ext4, 128),
            lab.disk("new", Format::Ext4, 128),
        );
        fs::write(old.join("file"), "content").unwrap();
        let mut migration = match over {
            true => lab.migration_over(old.path(), new.path()),
            false => lab.migration(old.path(), new.path()),
        };
        migration.start();
        migration.wait_ready(LONG);
        let watch = Watch::of(&[migration.mount(), &migration.join("file")]);
        until(LONG, "the watches to be seen", || {
            (seen(&migration) == Some((2, 0))).then_some(())
        });
        // He who waits for others is told of them as well.
        let stays = Guest::new(
            Command::new("sleep")
                .arg("100")
                .current_dir(migration.mount()),
        );
        let refused = migration.command("cutover", &["--timeout", "100ms"]);
        let refused = refused.refused(exit::TRY_AGAIN, &["working directory", "not in the way"]);
        let who = format!("({})  watches 2", std::process::id());
        assert!(refused.stderr.contains(&who), "{}", refused.stderr);
        drop(stays);
        let path = migration.join("file");
        let mut held = OpenOptions::new().append(true).open(path).unwrap();
        let done = migration.command("cutover", &["--timeout", "20s"]);
        let done = done.expect(exit::OK);
        let who = format!("(process {}) watches 2 of its", std::process::id());
        assert!(done.stderr.contains(&who), "{}", done.stderr);
        // As long as somebody works there it is no unmount.
        held.write_all(b"more").unwrap();
        let told = watch.told();
        assert_eq!(told, [ReadFlags::MODIFY; 2]);
        drop(held);
        watch.wait_ended(ReadFlags::UNMOUNT | ReadFlags::IGNORED);
        migration.daemon().wait_end(LONG);
        if !over {
            shell::run("umount", &[migration.mount()]);
        }
    }
}

#[test]
fn who_watches_the_old_brick_below_the_mount_is_told_that_it_is_over() {
    let lab = Lab::new("kept-below");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    fs::create_dir(old.join("directory")).unwrap();
    let mut migration = lab.migration_over(old.path(), new.path());
    let views = views(&lab);
    let early = Watch::of(&[old.path(), &old.join("directory")]);
    let started = migration.try_start(&[]).expect(exit::OK).stderr;
    let us = format!("(process {}) watches 2 files", std::process::id());
    assert!(started.contains(&us), "{started}");
    migration.wait_ready(LONG);
    let late = Watch::of(&[migration.mount()]);
    until(LONG, "the watches to be seen", || {
        (seen(&migration) == Some((1, 2))).then_some(())
    });
    fs::write(migration.join("directory/file"), "new").unwrap();
    assert!(early.told()[1].contains(ReadFlags::CREATE));
    // Where others still come to the old brick no unmount would end anything.
    assert_eq!(views.len(), 1);
    shell::run("umount", &views);
    let done = migration.command("cutover", &["--timeout", "20s"]);
    let done = done.expect(exit::OK);
    let us = format!("(process {}) watched 2 files", std::process::id());
    assert!(done.stderr.contains(&us), "{}", done.stderr);
    early.wait_ended(ReadFlags::IGNORED);
    late.wait_ended(ReadFlags::UNMOUNT | ReadFlags::IGNORED);
    migration.daemon().wait_end(LONG);
}

#[test]
fn watches_of_an_old_brick_that_others_still_come_to_are_left_alone() {
    let lab = Lab::new("kept-reached");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    let mut migration = lab.migration_over(old.path(), new.path());
    let views = views(&lab);
    let early = Watch::of(&[&views[0]]);
    migration.start();
    migration.wait_ready(LONG);
    let done = migration.command("cutover", &["--timeout", "20s"]);
    let done = done.expect(exit::OK);
    let us = format!("(process {}) watches 1 files", std::process::id());
    assert!(done.stderr.contains(&us), "{}", done.stderr);
    migration.daemon().wait_end(LONG);
    assert_eq!(early.told(), [ReadFlags::empty()]);
}

/// The read-only ways to old bricks by which tests look at them.
fn views(lab: &Lab) -> Vec<PathBuf> {
    let entries = fs::read_dir(lab.path()).unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    let is_view = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with("view-"))
    };
    paths.filter(is_view).collect()
}

#[test]
fn an_overlay_with_a_layer_in_the_mount_is_found_however_that_was_named() {
    let lab = Lab::new("kept-overlay");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    fs::create_dir_all(old.join("sub/image")).unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let (stack, other) = (lab.dir("stack"), lab.dir("other"));
    let link = lab.path().join("link");
    symlink(migration.join("sub"), &link).unwrap();
    let (link, other) = (link.display(), other.display());
    for layers in [
        format!("lowerdir=image:{other}"),
        format!("lowerdir={other}:{link}/image"),
    ] {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "overlay", "none", "-o", &layers])
            .arg(&stack);
        shell::run_command(mount.current_dir(migration.join("sub")));
        let refused = migration.command("cutover", &["--timeout", "100ms"]);
        let path = stack.to_string_lossy();
        refused.refused(exit::TRY_AGAIN, &["the kernel  overlay", &path]);
        shell::run("umount", &[&stack]);
    }
    // And one that is nobody's business.
    let layers = format!("lowerdir={other}:/usr/share");
    let path = stack.to_string_lossy().into_owned();
    shell::run("mount", &["-t", "overlay", "none", "-o", &layers, &path]);
    migration
        .command("cutover", &["--timeout", "20s"])
        .expect(exit::OK);
    migration.daemon().wait_end(LONG);
    shell::run("umount", &[&stack]);
    shell::run("umount", &[migration.mount()]);
}

#[test]
fn a_layer_that_nothing_tells_of_is_noticed_after_the_cut_over() {
    let lab = Lab::new("kept-hidden");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    fs::create_dir(old.join("image")).unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let (stack, other) = (lab.dir("stack"), lab.dir("other"));
    let layers = format!("lowerdir=image:{}", other.display());
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "overlay", "none", "-o", &layers])
        .arg(&stack);
    shell::run_command(mount.current_dir(migration.mount()));
    let path = stack.to_string_lossy().into_owned();
    shell::run("mount", &["-t", "tmpfs", "none", &path]);
    migration
        .command("cutover", &["--timeout", "20s"])
        .expect(exit::OK);
    until(LONG, "a word in the log", || {
        let log = hermitfs_tests::hermitfs::logs(migration.state_dir());
        log.contains("still the kernel uses").then_some(())
    });
    assert!(migration.daemon().is_alive());
    shell::run("umount", &[&stack]);
    shell::run("umount", &[&stack]);
    migration.daemon().wait_end(LONG);
    shell::run("umount", &[migration.mount()]);
}

#[test]
fn an_overlay_that_writes_to_the_old_brick_is_found_however_that_was_named() {
    let lab = Lab::new("kept-upper");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    for name in ["upper", "work"] {
        fs::create_dir(old.join(name)).unwrap();
    }
    let (stack, lower, link) = (lab.dir("stack"), lab.dir("lower"), lab.path().join("link"));
    symlink(old.path(), &link).unwrap();
    let mount = |base: &str| {
        let lower = lower.display();
        let layers = format!("lowerdir={lower},upperdir={base}upper,workdir={base}work");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "overlay", "none", "-o", &layers])
            .arg(&stack);
        shell::run_command(mount.current_dir(old.path()));
    };
    let mut over = lab.migration_over(old.path(), new.path());
    for base in ["", &format!("{}/", link.display())] {
        mount(base);
        let refused = over.try_start(&[]);
        refused.refused(
            exit::TRY_AGAIN,
            &["layer of an overlay", &stack.to_string_lossy()],
        );
        shell::run("umount", &[&stack]);
    }
    drop(over);
    mount("");
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    fs::write(stack.join("file"), "past the mount").unwrap();
    let refused = migration.command("cutover", &["--timeout", "100ms"]);
    refused.refused(exit::TRY_AGAIN, &["past the mount", "layer of an overlay"]);
    shell::run("umount", &[&stack]);
    migration
        .command("cutover", &["--timeout", "20s"])
        .expect(exit::OK);
    migration.daemon().wait_end(LONG);
    assert_eq!(
        fs::read(migration.join("upper/file")).unwrap(),
        b"past the mount"
    );
    shell::run("umount", &[migration.mount()]);
}
