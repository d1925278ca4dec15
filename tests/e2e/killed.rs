//! `kill -9`, at any moment: nothing that was acknowledged is lost or undone.

use std::fs;
use std::time::Duration;

use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::tree::Tree;
use rand::Rng;

fn killed_again_and_again(source: Format, sink: Format) {
    let lab = Lab::new(&format!("killed-{}-{}", source.name(), sink.name()));
    let (old, new) = (lab.disk("old", source, 2048), lab.disk("new", sink, 2048));
    let seeds = crew::seeds(4);
    crew::build(old.path(), &seeds);
    for index in 0..2000 {
        let directory = old.join(format!("bulk/{:02}", index % 20));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join(format!("file-{index}")),
            vec![index as u8; 3000],
        )
        .unwrap();
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, true);
    for _ in 0..8 * crew::soak() {
        crew.work_for(Duration::from_millis(rand::rng().random_range(100..2500)));
        migration.kill();
        migration.start();
    }
    crew.work_for(Duration::from_secs(2));
    crew.stop();
    migration.wait_ready(Duration::from_secs(240));
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn a_migration_from_ext3_to_btrfs_survives_kills_under_load() {
    killed_again_and_again(Format::Ext3, Format::Btrfs);
}

#[test]
fn a_migration_from_btrfs_to_xfs_survives_kills_under_load() {
    killed_again_and_again(Format::Btrfs, Format::Xfs);
}

#[test]
fn kills_while_nobody_works_cost_nothing_but_time() {
    let lab = Lab::new("killed-idle");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Ext4, 1024),
    );
    hermitfs_tests::odd::Odd::default().build(old.path(), 21);
    let view = lab.quiet_view(old.path());
    let before = Tree::of(&view);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    for milliseconds in [0, 50, 100, 200, 300, 400, 800] {
        std::thread::sleep(Duration::from_millis(milliseconds));
        migration.kill();
        migration.start();
    }
    migration.wait_ready(Duration::from_secs(180));
    migration.cut_over();
    Tree::of(&view).assert_unchanged_since(&before);
}

#[test]
fn a_clean_end_and_a_new_start_go_on_where_it_was() {
    let lab = Lab::new("killed-clean");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    hermitfs_tests::odd::Odd::small().build(old.path(), 22);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(Duration::from_secs(120));
    migration.terminate();
    // While no daemon is there the source is changed behind our back, which a clean end allows.
    fs::write(old.join("meanwhile"), b"new").unwrap();
    fs::remove_file(old.join("wide/entry-00001")).unwrap();
    fs::write(old.join("wide/entry-00002"), b"another length").unwrap();
    migration.start();
    migration.wait_ready(Duration::from_secs(120));
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn the_same_command_right_after_a_kill_waits_for_the_one_that_dies() {
    let lab = Lab::new("killed-at-once");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    hermitfs_tests::odd::Odd::default().build(old.path(), 22);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    for _ in 0..15 {
        let killed = migration.daemon().pid();
        migration.daemon().signal(rustix::process::Signal::KILL);
        // Not a moment between them.
        migration.start();
        assert_ne!(migration.daemon().pid(), killed);
        assert!(migration.is_alive());
        assert!(fs::read_dir(migration.mount()).unwrap().count() > 0);
    }
    migration.wait_ready(Duration::from_secs(60));
    migration.cut_over();
}
