//! The right bricks, in the right direction, or none at all.

use std::fs;
use std::time::Duration;

use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::shell;
use hermitfs_tests::tree::Tree;

/// A migration that was ready, and ended cleanly.
fn ended<'lab>(lab: &'lab Lab, old: &Disk, new: &Disk) -> Migration<'lab> {
    Odd::small().build(old.path(), 31);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(Duration::from_secs(120));
    migration.terminate();
    migration
}

fn disks(lab: &Lab) -> [Disk; 2] {
    [
        lab.disk("old", Format::Xfs, 512),
        lab.disk("new", Format::Btrfs, 512),
    ]
}

#[test]
fn another_disk_in_the_place_of_the_source_is_refused_and_the_sink_stays() {
    let lab = Lab::new("identity-source");
    let [old, new] = disks(&lab);
    let mut migration = ended(&lab, &old, &new);
    let before = Tree::of(new.path()).without_atimes();
    let other = lab.disk("other", Format::Xfs, 512);
    fs::write(other.join("file"), "of another disk").unwrap();
    let text = |disk: &Disk| disk.path().to_string_lossy().into_owned();
    old.unmount();
    // Nothing is mounted there, as after a reboot at which the disk was late.
    migration
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["another source"]);
    shell::run("mount", &["--bind", &text(&other), &text(&old)]);
    migration
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["another source"]);
    shell::run("umount", &[&text(&old)]);
    before.assert_equal(&Tree::of(new.path()).without_atimes());
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    // And the right one is welcome.
    old.mount("");
    migration.start();
    migration.wait_ready(Duration::from_secs(120));
    migration.cut_over();
}

#[test]
fn another_disk_in_the_place_of_the_sink_is_refused() {
    let lab = Lab::new("identity-sink");
    let [old, new] = disks(&lab);
    let mut migration = ended(&lab, &old, &new);
    new.unmount();
    // Nothing is mounted there: we must not fill the disk that lies beneath.
    migration
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["already", "mounted"]);
    assert_eq!(fs::read_dir(new.path()).unwrap().count(), 0);
    new.mount("");
    // Another source's sink.
    let others = [
        lab.disk("old-2", Format::Ext4, 256),
        lab.disk("new-2", Format::Ext4, 256),
    ];
    fs::write(others[0].join("file"), "2").unwrap();
    let mut second = Mounted::prepare(&lab, "second");
    let words = |new: &Disk| {
        let paths = [others[0].path(), new.path(), second.path()];
        let paths = paths.map(|path| path.as_os_str().to_owned());
        [&["migrate".into()][..], &paths, &["--no-wait".into()]].concat()
    };
    let (wrong, right) = (words(&new), words(&others[1]));
    second.use_arguments(wrong);
    second
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["belongs to", "another source"]);
    second.use_arguments(right);
    second.start();
    second.command("heal", &["--wait"]).expect(exit::OK);
    second.command("abort", &[]).expect(exit::OK);
    migration.start();
    migration.wait_ready(Duration::from_secs(120));
    migration.cut_over();
}

#[test]
fn a_direction_once_recorded_is_not_turned_round() {
    let lab = Lab::new("identity-direction");
    let [old, new] = disks(&lab);
    let mut migration = ended(&lab, &old, &new);
    let tree = |disk: &Disk| Tree::of(disk.path()).without_atimes();
    let before = [tree(&old), tree(&new)];
    let volfile = lab.file(
        "turned.vol",
        "[volume.a]\ntype = \"storage/posix\"\ndirectory = \"${a}\"\n\n\
         [volume.b]\ntype = \"storage/posix\"\ndirectory = \"${b}\"\n\n\
         [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"b\"\nsinks = [\"a\"]\nadopt = true\n",
    );
    let set = [
        format!("a={}", old.path().display()),
        format!("b={}", new.path().display()),
    ];
    let mut turned = Mounted::prepare(&lab, "turned");
    turned.use_volfile(&volfile, &[&set[0], &set[1]]);
    turned
        .try_start(&[])
        .refused(exit::CONFIGURATION, &[".hermitfs", "sink"]);
    for (disk, before) in [&old, &new].into_iter().zip(&before) {
        before.assert_equal(&tree(disk));
    }
    migration.start();
    migration.wait_ready(Duration::from_secs(120));
    migration.cut_over();
}
