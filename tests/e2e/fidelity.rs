//! Everything arrives, and the source stays as it was.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::shell;
use hermitfs_tests::tree::Tree;
use hermitfs_tests::wait::until;

const LONG: Duration = Duration::from_secs(180);

/// Migrates what stands on `old`; the source must be exactly what it was at the end.
fn migrate_whole(lab: &Lab, old: &Path, new: &Disk) {
    let view = lab.quiet_view(old);
    let before = Tree::of(&view);
    let mut migration = lab.migration(old, new.path());
    migration.start();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    Tree::of(&view).assert_unchanged_since(&before);
    migration.cut_over();
    Tree::of(&view).assert_unchanged_since(&before);
}

/// The same where the sink cannot hold some objects: exactly these are listed, and once they are
/// waived they are all that differs.
fn migrate_all_but(lab: &Lab, old: &Path, new: &Disk, impossible: &[&str]) {
    let view = lab.quiet_view(old);
    let before = Tree::of(&view);
    let mut migration = lab.migration(old, new.path());
    migration.start();
    let listed = until(LONG, "nothing left but errors", || {
        let status = migration.status();
        let left = status.number("pending") - status.number("errors");
        (status.0["crawl"] == "complete" && left == 0)
            .then(|| migration.command("errors", &["--json"]).stdout)
    });
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let mut paths: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|error| error["stops"] == true)
        .map(|error| error["path"].as_str().unwrap())
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, impossible, "{listed:#}");
    for path in impossible {
        let waive = ["--waive", path, "--class", "name", "--class", "content"];
        migration.command("errors", &waive).expect(0);
    }
    until(LONG, "the pair to be ready", || {
        migration.status().is("ready").then_some(())
    });
    migration
        .command("cutover", &["--timeout", "20s"])
        .expect(0);
    let mut source = Tree::of(&view);
    source.assert_unchanged_since(&before);
    let mut sink = Tree::of(new.path());
    for path in impossible {
        source.forget_below(path.trim_start_matches('/'));
        sink.forget_below(path.trim_start_matches('/'));
    }
    source.assert_equal(&sink);
}

#[test]
fn the_odd_tree_arrives_whole_from_ext3_on_btrfs() {
    let lab = Lab::new("ext3-btrfs");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 1024),
        lab.disk("new", Format::Btrfs, 2048),
    );
    assert_eq!(Odd::default().build(old.path(), 11), Vec::<String>::new());
    migrate_whole(&lab, old.path(), &new);
}

#[test]
fn the_odd_tree_arrives_whole_from_ext3_on_xfs() {
    let lab = Lab::new("ext3-xfs");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 1024),
        lab.disk("new", Format::Xfs, 2048),
    );
    assert_eq!(Odd::default().build(old.path(), 12), Vec::<String>::new());
    // A symbolic link ends at 1,024 bytes on xfs.
    migrate_all_but(&lab, old.path(), &new, &["/symlinks/longest"]);
}

#[test]
fn a_btrfs_with_a_subvolume_in_it_arrives_whole_on_ext4() {
    let lab = Lab::new("btrfs-ext4");
    let (old, new) = (
        lab.disk("old", Format::Btrfs, 2048),
        lab.disk("new", Format::Ext4, 2048),
    );
    assert_eq!(Odd::default().build(old.path(), 13), Vec::<String>::new());
    shell::run(
        "btrfs",
        &[
            "subvolume",
            "create",
            &old.join("subvolume").to_string_lossy(),
        ],
    );
    Odd::small().build(&old.join("subvolume"), 14);
    migrate_whole(&lab, old.path(), &new);
}

#[test]
fn a_sparse_file_of_a_tebibyte_costs_its_three_blocks() {
    let lab = Lab::new("sparse");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 256),
        lab.disk("new", Format::Btrfs, 512),
    );
    let huge: u64 = 1 << 40;
    let file = fs::File::create(old.join("huge")).unwrap();
    file.set_len(huge).unwrap();
    for at in [0, huge / 2, huge - 4096] {
        file.write_all_at(&[7; 4096], at).unwrap();
    }
    drop(file);
    let started = Instant::now();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    // It takes a moment; reading a tebibyte of zeros would take minutes.
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "took {:?}",
        started.elapsed()
    );
    let image = fs::metadata(new.join("huge")).unwrap();
    assert_eq!(image.len(), huge);
    assert!(
        image.blocks() * 512 <= 64 << 10,
        "{} bytes on disk",
        image.blocks() * 512
    );
    migration.cut_over();
}

#[test]
fn twenty_linked_copies_of_a_tree_stay_hard_links_though_killed_in_between() {
    let lab = Lab::new("links");
    let (old, new) = (
        lab.disk_with("old", Format::Ext3, 512, &["-N", "60000"], ""),
        lab.disk("new", Format::Btrfs, 1024),
    );
    for index in 0..5000 {
        let directory = old.join(format!("copy-00/{:02}", index % 50));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join(format!("file-{index}")),
            format!("content {index}"),
        )
        .unwrap();
    }
    for copy in 1..=20 {
        let to = old.join(format!("copy-{copy:02}"));
        shell::run(
            "cp",
            &[
                "-al",
                &old.join("copy-00").to_string_lossy(),
                &to.to_string_lossy(),
            ],
        );
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    for milliseconds in [300, 900, 1800] {
        std::thread::sleep(Duration::from_millis(milliseconds));
        migration.kill();
        migration.start();
    }
    migration.wait_ready(Duration::from_secs(300));
    migration.cut_over();
    assert_eq!(
        fs::metadata(new.join("copy-07/07/file-7")).unwrap().nlink(),
        21
    );
}

#[test]
fn a_source_mounted_read_only_is_migrated() {
    let lab = Lab::new("read-only");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 256),
        lab.disk("new", Format::Btrfs, 512),
    );
    Odd::small().build(old.path(), 15);
    old.turn_read_only();
    migrate_whole(&lab, old.path(), &new);
}

#[test]
fn a_source_without_extended_attributes_is_migrated() {
    let lab = Lab::new("no-xattr");
    let new = lab.disk("new", Format::Btrfs, 512);
    let old = lab.dir("old");
    // ramfs knows neither extended attributes nor ACLs.
    shell::run("mount", &["-t", "ramfs", "none", &old.to_string_lossy()]);
    for (name, content) in [("one", "1"), ("two", "22")] {
        fs::create_dir(old.join(name)).unwrap();
        fs::write(old.join(name).join("file"), content).unwrap();
        fs::hard_link(old.join(name).join("file"), old.join(name).join("link")).unwrap();
    }
    migrate_whole(&lab, &old, &new);
}

#[test]
fn the_volfile_for_a_migration_heals_what_a_walk_looks_up() {
    let lab = Lab::new("walk");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 256),
        lab.disk("new", Format::Btrfs, 512),
    );
    Odd::small().build(old.path(), 16);
    let volfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../volfiles/migrate.vol");
    let set = [
        format!("old={}", old.path().display()),
        format!("new={}", new.path().display()),
    ];
    let mount =
        hermitfs_tests::mounted::Mounted::volfile(&lab, "mnt", &volfile, &[&set[0], &set[1]]);
    shell::run("ls", &["-alR", &mount.path().to_string_lossy()]);
    mount.command("heal", &["--wait"]).expect(0);
    let source = Tree::of(old.path());
    source.assert_equal(&Tree::of_sink(new.path(), &source));
}

#[test]
fn without_a_crawl_nothing_is_healed_but_what_a_walk_looks_up() {
    let lab = Lab::new("no-crawl");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Btrfs, 512),
    );
    for (name, seed) in [("seen", 17), ("left-alone", 18)] {
        fs::create_dir(old.join(name)).unwrap();
        Odd::small().build(&old.join(name), seed);
    }
    let volfile = lab.file(
        "rest.vol",
        "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"${old}\"\n\n\
         [volume.new]\ntype = \"storage/posix\"\ndirectory = \"${new}\"\n\n\
         [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"old\"\nsinks = [\"new\"]\ncrawl = false\n",
    );
    let set = [
        format!("old={}", old.path().display()),
        format!("new={}", new.path().display()),
    ];
    let mount =
        hermitfs_tests::mounted::Mounted::volfile(&lab, "mnt", &volfile, &[&set[0], &set[1]]);
    std::thread::sleep(Duration::from_secs(1));
    let names = || fs::read_dir(new.path()).unwrap().count();
    assert_eq!(names(), 1, "something but our own directory is there");
    shell::run("ls", &["-alR", &mount.join("seen").to_string_lossy()]);
    let source = Tree::of(&lab.quiet_view(&old.join("seen")));
    until(Duration::from_secs(60), "the walked part", || {
        let there = new.join("seen").is_dir();
        (there && source.differences(&Tree::of(&new.join("seen"))).is_empty()).then_some(())
    });
    let below = fs::read_dir(new.join("left-alone")).unwrap().count();
    assert_eq!(below, 0, "what nobody looked at is healed");
    mount.command("heal", &["--wait"]).expect(0);
    let source = Tree::of(old.path());
    source.assert_equal(&Tree::of_sink(new.path(), &source));
}
