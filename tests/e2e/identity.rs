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
        .refused(exit::CONFIGURATION, &["another old brick"]);
    shell::run("mount", &["--bind", &text(&other), &text(&old)]);
    migration
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["another old brick"]);
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
    // Nothing is mounted there: users are served, and the disk that lies beneath is not filled.
    migration.start();
    fs::write(migration.join("meanwhile"), "served").unwrap();
    let status = migration.status();
    let reason = status.0["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("not mounted"), "{}", status.0);
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &["not mounted"]);
    migration.kill();
    migration.start();
    assert_eq!(fs::read_dir(new.path()).unwrap().count(), 0);
    new.mount("");
    migration.wait_ready(Duration::from_secs(120));
    assert_eq!(fs::read(new.join("meanwhile")).unwrap(), b"served");
    migration.assert_bricks_equal();
    migration.terminate();
    // From another place it may be meant as another migration.
    new.unmount();
    let mut elsewhere = Mounted::prepare(&lab, "elsewhere");
    let paths = [old.path(), new.path(), elsewhere.path()].map(|path| path.as_os_str().to_owned());
    elsewhere.use_arguments([&["migrate".into()][..], &paths].concat());
    elsewhere
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["already", "mounted"]);
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
        .refused(exit::CONFIGURATION, &["belongs to", "another old brick"]);
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
        .refused(exit::CONFIGURATION, &[".hermitfs", "new brick"]);
    for (disk, before) in [&old, &new].into_iter().zip(&before) {
        before.assert_equal(&tree(disk));
    }
    migration.start();
    migration.wait_ready(Duration::from_secs(120));
    migration.cut_over();
}

/// A rule for the second of two sinks: what is there once it cannot change any more.
/// A file that cannot be written, and not be replaced either.
const STUCK: [&str; 2] = [
    "open name=victim origin=heal EIO",
    "unlink name=victim origin=heal EIO",
];
const NEVER: [&str; 2] = ["open after=1000000000 EIO", "unlink after=1000000000 EIO"];

#[test]
fn two_sinks_that_change_places_keep_what_is_known_of_each() {
    let lab = Lab::new("identity-places");
    let [old, a, b] = ["old", "a", "b"].map(|name| lab.disk(name, Format::Ext4, 128));
    fs::write(old.join("victim"), "before").unwrap();
    let volfile = |sinks: &str| {
        let brick = |name: &str| {
            format!("[volume.{name}]\ntype = \"storage/posix\"\ndirectory = \"${{{name}}}\"\n\n")
        };
        format!(
            "{}{}{}[volume.second]\ntype = \"debug/fault\"\nsubvolumes = [\"b\"]\nrules = [\"${{first}}\", \"${{then}}\"]\n\n\
             [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"old\"\nsinks = [{sinks}]\n",
            brick("old"),
            brick("a"),
            brick("b")
        )
    };
    let order = lab.file("order.vol", &volfile("\"a\", \"second\""));
    let turned = lab.file("turned.vol", &volfile("\"second\", \"a\""));
    let mut mount = Mounted::prepare(&lab, "data");
    let arm = |mount: &mut Mounted, volfile: &std::path::Path, rules: [&str; 2]| {
        let set = [
            format!("old={}", old.path().display()),
            format!("a={}", a.path().display()),
            format!("b={}", b.path().display()),
            format!("first={}", rules[0]),
            format!("then={}", rules[1]),
        ];
        mount.use_volfile(volfile, &set.each_ref().map(String::as_str));
    };
    arm(&mut mount, &order, STUCK);
    mount.start();
    mount.command("heal", &["--wait"]).expect(exit::OK);
    let time = fs::metadata(old.join("victim"))
        .unwrap()
        .modified()
        .unwrap();
    fs::write(mount.join("victim"), "behind").unwrap();
    hermitfs_tests::odd::set_mtime(&mount.join("victim"), time);
    let which = b.path().to_str().unwrap();
    mount
        .command("heal", &["--wait"])
        .refused(exit::DIFFERENCES, &["victim", which]);
    let content = |disk: &Disk| fs::read_to_string(disk.join("victim")).unwrap();
    assert_eq!([content(&a), content(&b)], ["behind", "before"]);
    // What was changed so long before the end is believed to be as the journal says.
    std::thread::sleep(Duration::from_secs(4));
    mount.terminate();
    arm(&mut mount, &turned, NEVER);
    mount.start();
    mount.command("heal", &["--wait"]).expect(exit::OK);
    assert_eq!([content(&a), content(&b)], ["behind", "behind"]);
}

#[test]
fn an_old_brick_that_is_not_there_after_a_boot_is_not_taken_for_an_empty_one() {
    let lab = Lab::new("identity-boot");
    let [old, new] = disks(&lab);
    Odd::small().build(old.path(), 32);
    let mut migration = lab.migration_over(old.path(), new.path());
    migration.start();
    migration.wait_ready(Duration::from_secs(120));
    migration.terminate();
    let before = Tree::of(new.path()).without_atimes();
    // As the unit finds it at a boot at which the disk is late.
    shell::run("umount", &["-l", &old.path().to_string_lossy()]);
    migration
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["another old brick"]);
    assert_eq!(fs::read_dir(old.path()).unwrap().count(), 0);
    fs::write(old.join("not mounted over"), "").unwrap();
    fs::remove_file(old.join("not mounted over")).unwrap();
    before.assert_equal(&Tree::of(new.path()).without_atimes());
    fs::remove_dir(old.path()).unwrap();
    migration
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["is not there"]);
    fs::create_dir(old.path()).unwrap();
    old.mount("");
    migration.start();
    migration.wait_ready(Duration::from_secs(120));
    migration.cut_over();
}

#[test]
fn a_week_of_work_on_the_old_brick_itself_arrives_before_the_cut_over() {
    let lab = Lab::new("identity-week");
    let [old, new] = disks(&lab);
    let mut migration = ended(&lab, &old, &new);
    // Every kind of change, behind our back: names, kinds, content of the same size under the
    // same time, attributes, links, and a directory that takes another's place.
    let time = fs::metadata(old.join("sizes/4097"))
        .unwrap()
        .modified()
        .unwrap();
    let mut content = fs::read(old.join("sizes/4097")).unwrap();
    content[77] ^= 1;
    fs::write(old.join("sizes/4097"), content).unwrap();
    hermitfs_tests::odd::set_mtime(&old.join("sizes/4097"), time);
    fs::rename(old.join("sizes"), old.join("moved")).unwrap();
    fs::rename(old.join("wide"), old.join("sizes")).unwrap();
    Odd::small().build(&old.join("wide"), 33);
    fs::remove_dir_all(old.join("links")).unwrap();
    fs::write(old.join("links"), "a file now").unwrap();
    fs::hard_link(old.join("links"), old.join("moved/another name")).unwrap();
    fs::set_permissions(
        old.join("moved"),
        std::os::unix::fs::PermissionsExt::from_mode(0o2711),
    )
    .unwrap();
    migration.try_start(&["--limit", "1kB/s"]).expect(exit::OK);
    // Users see it at once; the new brick is not ready.
    assert_eq!(fs::read(migration.join("links")).unwrap(), b"a file now");
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &[]);
    assert!(!migration.status().is("ready"));
    migration.command("throttle", &["off"]).expect(exit::OK);
    migration.wait_ready(Duration::from_secs(120));
    migration.assert_bricks_equal();
    migration.cut_over();
}

/// Mounts an overlay of a file with two names over an empty layer.
fn overlay(lab: &Lab, base: &Disk, name: &str, options: &str) -> std::path::PathBuf {
    let dirs = [
        "lower/dir",
        &format!("{name}/upper"),
        &format!("{name}/work"),
    ];
    for layer in dirs {
        fs::create_dir_all(base.join(layer)).unwrap();
    }
    if !base.join("lower/one").exists() {
        fs::write(base.join("lower/one"), "one").unwrap();
        fs::hard_link(base.join("lower/one"), base.join("lower/two")).unwrap();
    }
    let text = |layer: &str| base.join(layer).to_string_lossy().into_owned();
    let layers = format!(
        "lowerdir={},upperdir={},workdir={},{options}",
        text("lower"),
        text(&format!("{name}/upper")),
        text(&format!("{name}/work"))
    );
    let at = lab.dir("overlay");
    shell::run(
        "mount",
        &[
            "-t",
            "overlay",
            "overlay",
            "-o",
            &layers,
            &at.to_string_lossy(),
        ],
    );
    at
}

/// By its first change a file there becomes another one, unless the overlay keeps an index.
#[test]
fn an_overlay_that_makes_other_files_of_what_is_changed_is_refused_and_one_that_does_not_is_moved()
{
    let lab = Lab::new("identity-overlay");
    let [base, new] = ["base", "new"].map(|name| lab.disk(name, Format::Ext4, 128));
    let at = overlay(&lab, &base, "bare", "index=off");
    let words = [&*at.to_string_lossy(), "index=on,nfs_export=on"];
    let mut migration = lab.migration(&at, new.path());
    migration
        .try_start(&[])
        .refused(exit::CONFIGURATION, &words);
    assert_eq!(fs::read(base.join("lower/one")).unwrap(), b"one");
    assert_eq!(fs::read_dir(base.join("bare/upper")).unwrap().count(), 0);
    drop(migration);
    let unmount = || shell::run("umount", &["-R", &at.to_string_lossy()]);
    unmount();

    overlay(&lab, &base, "indexed", "index=on,nfs_export=on");
    let mut migration = lab.migration(&at, new.path());
    migration.start();
    migration.wait_ready(Duration::from_secs(60));
    let append = |name: &str| {
        use std::io::Write;
        let mut options = fs::OpenOptions::new();
        let mut file = options.append(true).open(migration.join(name)).unwrap();
        file.write_all(b" more").unwrap();
    };
    append("two");
    fs::rename(migration.join("one"), migration.join("dir/one")).unwrap();
    fs::write(migration.join("dir/new"), "new").unwrap();
    assert_eq!(fs::read(migration.join("dir/one")).unwrap(), b"one more");
    migration.cut_over();
    assert_eq!(fs::read(new.join("dir/one")).unwrap(), b"one more");
    drop(migration);
    unmount();
}

/// Without handles what has several names would become several files, and only one of these would be kept the same.
#[test]
fn an_overlay_as_the_new_brick_is_refused_unless_it_has_handles() {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::new("identity-overlay-new");
    let [old, base] = ["old", "base"].map(|name| lab.disk(name, Format::Ext4, 128));
    fs::create_dir(old.join("sub")).unwrap();
    fs::write(old.join("one"), "one").unwrap();
    fs::hard_link(old.join("one"), old.join("sub/two")).unwrap();
    let at = overlay(&lab, &base, "bare", "index=off");
    let unmount = || shell::run("umount", &["-R", &at.to_string_lossy()]);
    let mut migration = lab.migration(old.path(), &at);
    let adopt = ["--adopt", "--delete-from-new"];
    let words = [&*at.to_string_lossy(), "index=on,nfs_export=on"];
    migration
        .try_start(&adopt)
        .refused(exit::CONFIGURATION, &words);
    assert_eq!(fs::read_dir(base.join("bare/upper")).unwrap().count(), 0);
    unmount();

    let options = "index=on,nfs_export=on";
    overlay(&lab, &base, "indexed", options);
    migration.try_start(&adopt).expect(exit::OK);
    migration.wait_ready(Duration::from_secs(60));
    fs::write(migration.join("sub/two"), "changed by its second name").unwrap();
    fs::hard_link(migration.join("one"), migration.join("three")).unwrap();
    migration.wait_ready(Duration::from_secs(60));
    migration.cut_over();
    shell::run("umount", &[migration.mount()]);
    drop(migration);
    unmount();
    overlay(&lab, &base, "indexed", options);
    let names = ["one", "sub/two", "three"].map(|name| at.join(name));
    let numbers = names
        .each_ref()
        .map(|name| fs::metadata(name).unwrap().ino());
    assert!(
        numbers.iter().all(|number| *number == numbers[0]),
        "{numbers:?}"
    );
    for name in &names {
        assert_eq!(fs::read(name).unwrap(), b"changed by its second name");
    }
    assert!(!at.join("two").exists() && !at.join("dir").exists());
    unmount();
}
