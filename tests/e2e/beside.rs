//! The old brick's own path, while it is migrated elsewhere: a way past the mount.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::guest::Guest;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::shell;
use hermitfs_tests::wait::until;

const SOON: Duration = Duration::from_secs(30);

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Nothing of ours is left at the old brick's path: no mount, and not read-only.
#[track_caller]
fn assert_as_it_was(old: &Path, mounts: usize) {
    assert_eq!(mounted(old), mounts);
    fs::write(old.join("writable"), "again").unwrap();
    fs::remove_file(old.join("writable")).unwrap();
}

fn mounted(point: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = |line: &&str| line.split(' ').nth(4) == Some(&*text(point));
    table.lines().filter(at).count()
}

fn refused(path: &Path) -> bool {
    let error = fs::write(path, "past the mount").err();
    error.is_some_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem)
}

fn guarded(migration: &Migration) -> bool {
    migration.status().is("guarded")
}

#[test]
fn a_mount_is_shut_at_its_own_path_and_opened_again_however_it_ends() {
    let lab = Lab::new("beside-mount");
    let old = lab.disk("old", Format::Ext4, 128);
    let new = lab.disk("new", Format::Ext4, 128);
    fs::write(old.join("file"), "content").unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    assert!(refused(&old.join("past")) && refused(&old.join("file")));
    fs::write(migration.join("through"), "the mount").unwrap();
    migration.wait_ready(SOON);
    migration.kill();
    assert!(
        refused(&old.join("past")),
        "users come back to the mount, not to the old brick"
    );
    migration.start();
    fs::write(migration.join("through"), "again").unwrap();
    assert!(refused(&old.join("past")));
    migration.terminate();
    assert_as_it_was(old.path(), 1);

    // Whoever has a file open for writing keeps it open; he is in the way of a cut-over, by name.
    let log = fs::OpenOptions::new()
        .append(true)
        .open(old.join("file"))
        .unwrap();
    let guest = Guest::new(Guest::sleeping().stdin(log));
    migration.start();
    fs::write(old.join("past"), "the mount").unwrap();
    assert!(!guarded(&migration));
    assert_eq!(fs::read(migration.join("past")).unwrap(), b"the mount");
    migration.wait_ready(SOON);
    migration.command("cutover", &["--timeout", "1s"]).refused(
        exit::TRY_AGAIN,
        &[&guest.pid(), "open for writing", &text(&old.join("file"))],
    );
    drop(guest);
    // The next look shuts it; what was written before is not lost.
    until(SOON, "a brick that is shut", || {
        refused(&old.join("late")).then_some(())
    });
    migration.cut_over();
    assert_eq!(fs::read(migration.join("past")).unwrap(), b"the mount");
    assert_as_it_was(old.path(), 1);

    let third = lab.disk("third", Format::Ext4, 128);
    shell::run("umount", &[&text(migration.mount())]);
    let mut again = lab.migration(old.path(), third.path());
    again.start();
    assert!(refused(&old.join("past")));
    again.command("abort", &[]).expect(exit::OK);
    again.daemon().wait_end(SOON);
    assert_as_it_was(old.path(), 1);
}

#[test]
fn what_was_changed_past_the_mount_in_a_directory_is_in_the_new_brick() {
    let lab = Lab::new("beside-directory");
    let disk = lab.disk("disk", Format::Ext4, 256);
    let (old, new) = (disk.join("old"), disk.join("new"));
    fs::create_dir_all(old.join("deep/er")).unwrap();
    fs::create_dir(&new).unwrap();
    for name in ["gone", "grown", "moved", "deep/er/same"] {
        fs::write(old.join(name), name).unwrap();
    }
    let mut migration = lab.migration(&old, &new);
    migration.start();
    migration.wait_ready(SOON);
    assert!(!guarded(&migration));
    // After all was healed, and of every kind.
    fs::remove_file(old.join("gone")).unwrap();
    fs::write(old.join("grown"), "longer than it was").unwrap();
    fs::rename(old.join("moved"), old.join("deep/moved")).unwrap();
    fs::write(old.join("deep/er/made"), "past the mount").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o604);
    fs::set_permissions(old.join("deep/er/same"), mode).unwrap();
    migration.cut_over();
    assert_as_it_was(&old, 0);
    let read = |name: &str| fs::read(migration.join(name)).unwrap();
    assert_eq!(read("grown"), b"longer than it was");
    assert_eq!(read("deep/er/made"), b"past the mount");

    // A cut-over that is refused leaves nothing at the path either.
    let third = disk.join("third");
    fs::create_dir(&third).unwrap();
    shell::run("umount", &[&text(migration.mount())]);
    let mut again = lab.migration(&old, &third);
    again.start();
    again.wait_ready(SOON);
    let guest = Guest::new(Guest::sleeping().current_dir(again.mount()));
    again
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &[&guest.pid()]);
    assert_as_it_was(&old, 0);
    drop(guest);
    again.command("abort", &[]).expect(exit::OK);
}

#[test]
fn a_veil_that_a_kill_has_left_is_taken_away_by_the_next_start() {
    let lab = Lab::new("beside-killed");
    let disk = lab.disk("disk", Format::Ext4, 256);
    let (old, new) = (disk.join("old"), disk.join("new"));
    fs::create_dir(&old).unwrap();
    fs::create_dir(&new).unwrap();
    fs::write(old.join("file"), "content").unwrap();
    let mut migration = lab.migration(&old, &new);
    migration.start();
    migration.wait_ready(SOON);
    // The cut-over waits for him, with the old brick shut, and is killed there.
    let guest = Guest::new(Guest::sleeping().current_dir(migration.mount()));
    std::thread::scope(|scope| {
        scope.spawn(|| migration.command("cutover", &["--timeout", "60s"]));
        until(SOON, "a veil", || (mounted(&old) == 1).then_some(()));
        assert!(refused(&old.join("past")));
        migration.kill();
    });
    drop(guest);
    assert_eq!(mounted(&old), 1);
    migration.start();
    assert_as_it_was(&old, 0);
    migration.cut_over();
    assert_as_it_was(&old, 0);
}

#[test]
fn the_state_directory_leads_to_nothing_that_can_be_taken_from_users() {
    let lab = Lab::new("beside-state");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    fs::write(old.join("file"), "content").unwrap();
    let mut migration = lab.migration_over(old.path(), new.path());
    let kept = |migration: &Migration| -> PathBuf {
        let over = fs::read_dir(migration.state_dir().join("over")).unwrap();
        over.flatten()
            .map(|slot| slot.path().join("old"))
            .next()
            .unwrap()
    };
    migration.start();
    for _ in 0..2 {
        let kept = kept(&migration);
        assert_eq!(fs::read(kept.join("file")).unwrap(), b"content");
        let error = fs::remove_file(kept.join("file")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
        fs::write(old.join("file"), "content").unwrap();
        migration.kill();
        migration.start();
    }
    migration.wait_ready(SOON);
    migration.terminate();
    fs::write(old.join("file"), "ours again").unwrap();
}

#[test]
fn an_old_brick_that_is_unmounted_lazily_is_read_where_it_is_and_told_in_plain_words() {
    let lab = Lab::new("beside-lazy");
    let [old, new] = ["old", "new"].map(|name| lab.disk(name, Format::Ext4, 128));
    fs::write(old.join("file"), "content").unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(SOON);
    shell::run("umount", &["-l", &text(old.path())]);
    assert!(!old.join("file").exists());
    // What lies below its place is not taken for it.
    migration
        .command("heal", &["--full", "--wait"])
        .expect(exit::OK);
    for brick in [migration.mount(), new.path()] {
        assert_eq!(fs::read(brick.join("file")).unwrap(), b"content");
    }
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &[&text(old.path()), "not mounted"]);
    old.mount("");
    migration.terminate();
    migration.start();
    migration.wait_ready(SOON);
    migration.cut_over();
    assert_eq!(fs::read(new.join("file")).unwrap(), b"content");
    assert_as_it_was(old.path(), 1);
}
