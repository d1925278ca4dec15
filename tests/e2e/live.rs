//! Users work all through a migration, and see nothing of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::tree::Tree;

/// So much to copy that users meet much that is not healed yet.
fn bulk(root: &Path) {
    for index in 0..4000 {
        let directory = root.join(format!("bulk/{:02}", index % 40));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join(format!("file-{index}")),
            vec![index as u8; index * 7 % 20_000],
        )
        .unwrap();
    }
}

fn four_processes_work_from(source: Format, sink: Format) {
    let lab = Lab::new(&format!("live-{}-{}", source.name(), sink.name()));
    let (old, new) = (lab.disk("old", source, 2048), lab.disk("new", sink, 2048));
    let seeds = crew::seeds(4);
    crew::build(old.path(), &seeds);
    Odd::small().build(
        &fs::create_dir(old.join("odd"))
            .map(|()| old.join("odd"))
            .unwrap(),
        seeds[0],
    );
    bulk(old.path());
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, false);
    crew.work_for(Duration::from_secs(15 * crew::soak()));
    let operations = crew.stop();
    assert!(operations > 1000, "only {operations} operations");
    migration.wait_ready(Duration::from_secs(180));
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn four_processes_work_all_through_a_migration_from_ext3_to_btrfs() {
    four_processes_work_from(Format::Ext3, Format::Btrfs);
}

#[test]
fn four_processes_work_all_through_a_migration_from_xfs_to_ext4() {
    four_processes_work_from(Format::Xfs, Format::Ext4);
}

#[test]
fn a_mount_that_is_ready_stays_a_mirror() {
    let lab = Lab::new("live-mirror");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Btrfs, 1024),
    );
    let seeds = crew::seeds(2);
    crew::build(old.path(), &seeds);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(Duration::from_secs(120));
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, false);
    crew.work_for(Duration::from_secs(5 * crew::soak()));
    crew.stop();
    migration.wait_ready(Duration::from_secs(120));
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn two_sinks_follow_one_source() {
    let lab = Lab::new("live-sinks");
    let disks = [
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new-1", Format::Btrfs, 1024),
        lab.disk("new-2", Format::Xfs, 1024),
    ];
    let volfile = lab.file(
        "two.vol",
        "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"${old}\"\n\n\
         [volume.one]\ntype = \"storage/posix\"\ndirectory = \"${one}\"\n\n\
         [volume.two]\ntype = \"storage/posix\"\ndirectory = \"${two}\"\n\n\
         [volume.all]\ntype = \"cluster/replicate\"\nsource = \"old\"\nsinks = [\"one\", \"two\"]\n",
    );
    let seeds = crew::seeds(2);
    crew::build(disks[0].path(), &seeds);
    let set = ["old", "one", "two"]
        .iter()
        .zip(&disks)
        .map(|(name, disk)| format!("{name}={}", disk.path().display()))
        .collect::<Vec<_>>();
    let mount = Mounted::volfile(
        &lab,
        "mnt",
        &volfile,
        &set.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let mut crew = Crew::start(&lab, mount.path(), &seeds, false);
    crew.work_for(Duration::from_secs(6 * crew::soak()));
    crew.stop();
    mount.command("heal", &["--wait"]).expect(0);
    let source = Tree::of(disks[0].path());
    for sink in &disks[1..] {
        source.assert_equal(&Tree::of_sink(sink.path(), &source));
    }
}
