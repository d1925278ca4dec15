//! What else is in a brick: other mounts, and subvolumes.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::need::program_at;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::shell;

const LONG: Duration = Duration::from_secs(120);

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Another file system in a brick; it goes with the lab.
fn mount_at(point: &Path) {
    fs::create_dir_all(point).unwrap();
    shell::run("mount", &["-t", "tmpfs", "none", &text(point)]);
    fs::write(point.join("elsewhere"), "of another file system").unwrap();
}

#[test]
fn mounts_in_the_bricks_are_refused_by_name_or_left_out() {
    let lab = Lab::new("submounts");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    Odd::small().build(&old.join("odd"), 71);
    let mut over = lab.migration_over(old.path(), new.path());
    let mut migration = lab.migration(old.path(), new.path());
    let below_new = new.join("below");
    mount_at(&below_new);
    migration
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["mounted below", &text(&below_new)]);
    shell::run("umount", &[&below_new]);
    fs::remove_dir(&below_new).unwrap();

    let (deep, sub) = (old.join("odd/deep-mount"), old.join("sub"));
    mount_at(&deep);
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("hidden"), "beneath the mount").unwrap();
    mount_at(&sub);
    migration.try_start(&[]).refused(
        exit::CONFIGURATION,
        &[
            "mounted below",
            &text(&deep),
            &text(&sub),
            "--one-file-system",
        ],
    );
    // Nobody would find them under a mount over all of it.
    over.try_start(&["--one-file-system"])
        .refused(exit::CONFIGURATION, &["mounted below", &text(&sub)]);
    // What would come to light is looked at by a person first.
    let outcome = migration
        .try_start(&["--one-file-system"])
        .refused(exit::CONFIGURATION, &["hidden beneath", &text(&sub)]);
    assert!(!outcome.stderr.contains(&text(&deep)), "{}", outcome.stderr);
    shell::run("umount", &[&sub]);
    fs::remove_file(sub.join("hidden")).unwrap();
    mount_at(&sub);

    migration.try_start(&["--one-file-system"]).expect(exit::OK);
    for place in ["sub", "odd/deep-mount"] {
        assert_eq!(fs::read_dir(migration.join(place)).unwrap().count(), 0);
    }
    fs::write(migration.join("sub/made"), "beneath").unwrap();
    migration.wait_ready(LONG);
    for place in ["sub", "odd/deep-mount"] {
        assert!(!new.join(place).join("elsewhere").exists());
    }
    assert_eq!(fs::read(new.join("sub/made")).unwrap(), b"beneath");
    assert!(
        !sub.join("made").exists(),
        "it went to the other file system"
    );
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn what_is_mounted_in_the_old_brick_later_is_not_entered() {
    let lab = Lab::new("submounts-later");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    Odd::small().build(&old.join("odd"), 72);
    for directory in ["later", "seen"] {
        fs::create_dir(old.join(directory)).unwrap();
        fs::write(old.join(directory).join("ours"), "of the brick").unwrap();
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    // One that the kernel has looked at through us, and one that it has not.
    assert!(migration.join("seen/ours").exists());
    for directory in ["later", "seen"] {
        mount_at(&old.join(directory));
        assert!(!migration.join(directory).join("elsewhere").exists());
    }
    // What a user or the healer does now reaches the brick or fails, and never what was mounted.
    let _ = fs::write(migration.join("seen/ours"), "changed");
    let _ = fs::write(migration.join("later/ours"), "changed");
    migration
        .command("heal", &["--full", "--wait"])
        .expect(exit::OK);
    for directory in ["later", "seen"] {
        let names = fs::read_dir(old.join(directory)).unwrap();
        let names: Vec<_> = names.flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["elsewhere"], "{directory}");
        assert!(!new.join(directory).join("elsewhere").exists());
        shell::run("umount", &[old.join(directory)]);
    }
    migration.cut_over();
}

fn subvolume(path: &Path) {
    shell::run("btrfs", &["subvolume", "create", &text(path)]);
}

/// Which names belong to one object, as programs that look for hard links find out.
fn objects(root: &Path) -> Vec<Vec<PathBuf>> {
    let mut objects: HashMap<(u64, u64), Vec<PathBuf>> = HashMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            let path = entry.path().strip_prefix(root).unwrap().to_owned();
            objects
                .entry((meta.dev(), meta.ino()))
                .or_default()
                .push(path);
            if meta.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    let mut names: Vec<_> = objects.into_values().collect();
    names.iter_mut().for_each(|names| names.sort());
    names.sort();
    names
}

#[test]
fn subvolumes_with_the_same_inode_numbers_are_told_apart() {
    let lab = Lab::new("subvolumes");
    let (old, new) = (
        lab.disk("old", Format::Btrfs, 512),
        lab.disk("new", Format::Ext4, 512),
    );
    let mut numbers = Vec::new();
    for name in ["first", "second", "first/nested"] {
        let subvolume_at = old.join(name);
        subvolume(&subvolume_at);
        fs::write(subvolume_at.join("file"), name).unwrap();
        fs::hard_link(subvolume_at.join("file"), subvolume_at.join("link")).unwrap();
        numbers.push(fs::metadata(subvolume_at.join("file")).unwrap().ino());
    }
    assert_eq!(numbers[0], numbers[1], "the test is about equal numbers");
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    assert_eq!(objects(migration.mount()), objects(old.path()));
    // One file system as seen from outside, so the number alone has to tell.
    let number = fs::metadata(migration.join("second/file")).unwrap().ino();
    let found = Command::new(program_at("find"))
        .arg(migration.mount())
        .args(["-xdev", "-inum", &number.to_string()])
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let mut found: Vec<_> = found.lines().collect();
    found.sort_unstable();
    let expected = ["second/file", "second/link"].map(|name| text(&migration.join(name)));
    assert_eq!(found, expected);
    // And an archive has each content, instead of links between subvolumes.
    let archive = lab.path().join("archive.tar");
    shell::run(
        "tar",
        &["-cf", &text(&archive), "-C", &text(migration.mount()), "."],
    );
    let unpacked = lab.dir("unpacked");
    shell::run("tar", &["-xf", &text(&archive), "-C", &text(&unpacked)]);
    for name in ["first", "second", "first/nested"] {
        assert_eq!(
            fs::read_to_string(unpacked.join(name).join("link")).unwrap(),
            name
        );
    }
    migration.wait_ready(LONG);
    migration.cut_over();
    let mut there = objects(migration.mount());
    there.retain(|names| names[0] != Path::new("lost+found"));
    assert_eq!(there, objects(old.path()));
}

#[test]
fn subvolumes_on_the_new_brick_are_in_the_way_until_they_are_deleted() {
    let lab = Lab::new("subvolumes-new");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    Odd::small().build(&old.join("kept"), 73);
    fs::create_dir(old.join("plain")).unwrap();
    for name in ["kept", "plain", "superfluous"] {
        subvolume(&new.join(name));
        fs::write(new.join(name).join("old"), "goes").unwrap();
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.try_start(&["--adopt"]).expect(exit::OK);
    let outcome = migration
        .command("heal", &["--wait"])
        .refused(exit::DIFFERENCES, &["/kept", "/plain", "subvolume"]);
    assert!(
        !outcome.stderr.contains("superfluous"),
        "{}",
        outcome.stderr
    );
    assert!(!new.join("superfluous").exists());
    migration
        .command("cutover", &[])
        .refused(exit::DIFFERENCES, &["subvolume"]);
    for name in ["kept", "plain"] {
        shell::run("btrfs", &["subvolume", "delete", &text(&new.join(name))]);
    }
    migration.command("heal", &["--wait"]).expect(exit::OK);
    // As on the old brick everything moves everywhere.
    for n in 0..20 {
        let at = |name: &str| migration.join(format!("{name}-{n}"));
        fs::write(at("plain/file"), format!("{n}")).unwrap();
        fs::create_dir(at("plain/directory")).unwrap();
    }
    migration.command("heal", &["--wait"]).expect(exit::OK);
    for n in 0..20 {
        let at = |name: &str| migration.join(format!("{name}-{n}"));
        fs::rename(at("plain/file"), at("kept/file")).unwrap();
        fs::rename(at("plain/directory"), at("kept/directory")).unwrap();
        fs::hard_link(at("kept/file"), at("link")).unwrap();
    }
    migration.command("heal", &["--wait"]).expect(exit::OK);
    migration.cut_over();
}
