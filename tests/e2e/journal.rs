//! The disk under the state directory is full, or cannot be written: users notice nothing, nothing
//! is lost, and no cut-over comes before all has been compared.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::faulty::Fault;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::shell;
use hermitfs_tests::wait::until;

const LONG: Duration = Duration::from_secs(180);

/// A migration that is ready, with its state on a small disk of its own.
fn ready<'lab>(lab: &'lab Lab, old: &Disk, new: &Disk) -> Migration<'lab> {
    let mut migration = lab.migration(old.path(), new.path());
    fs::create_dir_all(migration.state_dir()).unwrap();
    let state = migration.state_dir().to_string_lossy().into_owned();
    shell::run("mount", &["-t", "tmpfs", "-o", "size=6m", "none", &state]);
    migration.start();
    migration.wait_ready(LONG);
    migration
}

/// Leaves no room in the state directory, and has users notice nothing of it.
fn fill(migration: &Migration<'_>, crew: &mut Crew) {
    let mut ballast = fs::File::create(migration.state_dir().join("ballast")).unwrap();
    while ballast.write_all(&[0; 1000]).is_ok() {}
    until(LONG, "a word about the journal", || {
        crew.work_for(Duration::from_millis(100));
        let status = migration.status();
        let reason = status.0["reason"].as_str().unwrap_or_default().to_owned();
        reason.contains("journal").then_some(())
    });
    crew.work_for(Duration::from_secs(3));
    assert!(!migration.status().is("ready"));
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &["journal"]);
}

fn empty(migration: &Migration<'_>) {
    fs::remove_file(migration.state_dir().join("ballast")).unwrap();
}

#[test]
fn a_kill_while_the_state_directory_is_full_costs_a_walk_and_no_change() {
    let lab = Lab::new("journal-killed");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    let seeds = crew::seeds(2);
    crew::build(old.path(), &seeds);
    let mut migration = ready(&lab, &old, &new);
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, true);
    fill(&migration, &mut crew);
    // The journal does not know what was changed: that must not count as done.
    migration.kill();
    empty(&migration);
    migration.start();
    crew.work_for(Duration::from_secs(3));
    crew.stop();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn a_state_directory_that_has_room_again_is_written_again() {
    let lab = Lab::new("journal-again");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Ext4, 512),
    );
    let seeds = crew::seeds(2);
    crew::build(old.path(), &seeds);
    let mut migration = ready(&lab, &old, &new);
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, true);
    fill(&migration, &mut crew);
    empty(&migration);
    crew.work_for(Duration::from_secs(2));
    migration.kill();
    migration.start();
    crew.work_for(Duration::from_secs(1));
    crew.stop();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
}

/// As far as that goes.
fn sync(path: &Path) {
    let _ = fs::File::open(path).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
}

#[test]
fn a_kill_while_the_disk_of_the_state_fails_costs_a_walk_and_no_change() {
    let lab = Lab::new("journal-disk");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Ext4, 512),
    );
    let state = lab.faulty_disk("state", Format::Ext4, 64);
    let seeds = crew::seeds(2);
    crew::build(old.path(), &seeds);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, true);
    crew.work_for(Duration::from_millis(500));
    // So that what commands read there is not lost with a block that is written just now.
    sync(state.path());
    state.fail(&Fault::Writes);
    // An error in the journal of that file system turns it read-only.
    until(LONG, "a word about the journal", || {
        crew.work_for(Duration::from_millis(100));
        sync(state.path());
        let status = migration.status();
        let reason = status.0["reason"].as_str().unwrap_or_default().to_owned();
        reason.contains("journal cannot be written").then_some(())
    });
    crew.work_for(Duration::from_secs(1));
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &["journal"]);
    // Nothing in the journal says that it lacks something: the sink has to.
    let marker = || fs::read_to_string(new.join(".hermitfs/volume.json")).unwrap();
    assert!(marker().contains("\"dirty\": true"), "{}", marker());
    migration.kill();
    state.mend();
    state.unmount_when_free();
    state.mount("");
    migration.start();
    assert!(migration.status().is("unverified"));
    assert!(marker().contains("\"dirty\": false"), "{}", marker());
    crew.work_for(Duration::from_millis(500));
    crew.stop();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn changes_are_refused_only_when_no_disk_can_tell_of_them() {
    let lab = Lab::new("journal-nowhere");
    let old = lab.disk("old", Format::Ext4, 64);
    let new = lab.faulty_disk("new", Format::Ext4, 64);
    let state = lab.faulty_disk("state", Format::Ext4, 64);
    fs::write(old.join("file"), "content").unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let mount = migration.mount().to_owned();
    let made = std::cell::Cell::new(0);
    let make = || {
        made.set(made.get() + 1);
        fs::write(mount.join(format!("made-{}", made.get())), "made")
    };
    for disk in [&new, &state] {
        make().unwrap();
        sync(disk.path());
        disk.fail(&Fault::Writes);
        sync(disk.path());
    }
    let refused = until(LONG, "a change that is refused", || make().err());
    assert_eq!(refused.raw_os_error(), Some(libc::EIO), "{refused}");
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"content");
    let reason = migration.status().0["reason"].to_string();
    for words in ["new failed", "changes are refused"] {
        assert!(reason.contains(words), "{reason}");
    }

    // With the sink there is somewhere to note it.
    new.mend();
    new.unmount_when_free();
    new.mount("");
    until(LONG, "a change that is not refused", || make().ok());
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &["journal"]);
    migration.kill();
    state.mend();
    state.unmount_when_free();
    state.mount("");
    migration.start();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
}
