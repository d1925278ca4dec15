//! The space of files: what is reserved, and what they share, arrives; what the mount itself cannot do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::need::program_at;
use hermitfs_tests::shell;
use hermitfs_tests::sys::{self, Mapping};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

const LONG: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options
        .open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn random(seed: u64, len: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut byte = || {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (x >> 56) as u8
    };
    (0..len).map(|_| byte()).collect()
}

fn reserve(file: &File, at: u64, len: u64, how: FallocateFlags) {
    fallocate(file, how, at, len).unwrap();
}

/// Pieces of a file that are reserved and not written.
fn reserved(path: &Path) -> Vec<sys::Piece> {
    let pieces = sys::space_of(&File::open(path).unwrap()).unwrap();
    pieces
        .into_iter()
        .filter(|(.., unwritten)| *unwritten)
        .collect()
}

#[track_caller]
fn assert_reserved_alike(migration: &Migration<'_>, names: &[&str]) {
    for name in names {
        let [old, new] = [migration.old(), migration.new_brick()].map(|brick| brick.join(name));
        assert_eq!(reserved(&old), reserved(&new), "{name}");
        let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
        assert_eq!(blocks(&old), blocks(&new), "blocks of {name}");
    }
}

/// Whether a file can be swapped to.
fn swaps(path: &Path) -> bool {
    let run = |program: &str| {
        Command::new(program_at(program))
            .arg(path)
            .output()
            .unwrap()
    };
    let on = run("swapon").status.success();
    on && run("swapoff").status.success()
}

fn fill(directory: &Path) {
    let mut file = open(&directory.join("fill"));
    let block = vec![1; MIB as usize];
    while file.write_all(&block).is_ok() {}
    let _ = file.sync_all();
}

#[test]
fn what_is_reserved_stays_reserved_and_a_full_disk_takes_none_of_it() {
    let lab = Lab::new("reserved");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 160),
        lab.disk("new", Format::Ext4, 128),
    );
    let keep = FallocateFlags::KEEP_SIZE;
    let swap = old.join("swap");
    reserve(&open(&swap), 0, 8 * MIB, FallocateFlags::empty());
    fs::set_permissions(&swap, fs::Permissions::from_mode(0o600)).unwrap();
    shell::run("mkswap", &["-q", &swap.to_string_lossy()]);
    assert!(swaps(&swap), "not even on OLD");
    let behind = open(&old.join("behind"));
    behind.write_all_at(b"a small file", 0).unwrap();
    reserve(&behind, 0, 4 * MIB, keep);
    let middle = open(&old.join("middle"));
    reserve(&middle, 0, 4 * MIB, FallocateFlags::empty());
    middle.write_all_at(&[7; 8192], 2 * MIB).unwrap();
    let holes = open(&old.join("holes"));
    holes.write_all_at(&[7; 4096], 4 * MIB).unwrap();
    reserve(&holes, 8 * MIB, MIB, FallocateFlags::empty());
    drop((behind, middle, holes));

    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let database = open(&migration.mount().join("database"));
    reserve(&database, 0, 24 * MIB, FallocateFlags::empty());
    database.write_all_at(&[1; 4096], 0).unwrap();
    let journal = open(&migration.mount().join("journal"));
    journal.write_all_at(&[1; 300_000], 0).unwrap();
    reserve(&journal, 0, 6 * MIB, keep);
    let punched = open(&migration.mount().join("punched"));
    reserve(&punched, 0, 4 * MIB, FallocateFlags::empty());
    migration.wait_ready(LONG);
    let all = [
        "swap", "behind", "middle", "holes", "database", "journal", "punched",
    ];
    assert_reserved_alike(&migration, &all);
    assert_eq!(
        reserved(&new.join("behind")),
        [(4096, 4 * MIB - 4096, true)]
    );

    // What users give back is given back, and what they did not stays.
    rustix::fs::ftruncate(&journal, 300_000).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | keep;
    reserve(&punched, MIB, 2 * MIB, punch);
    database.write_all_at(&[2; 4096], 12 * MIB).unwrap();
    drop((database, journal, punched));
    migration.wait_ready(LONG);
    assert_reserved_alike(&migration, &all);
    assert_eq!(reserved(&new.join("journal")), []);

    migration.cut_over();
    fill(new.path());
    let database = open(&migration.mount().join("database"));
    for at in 0..24 {
        let written = database.write_all_at(&vec![3; MIB as usize], at * MIB);
        written.unwrap_or_else(|error| panic!("MiB {at} of what was reserved: {error}"));
    }
    database.sync_all().unwrap();
    assert!(swaps(&migration.mount().join("swap")), "swapon on NEW");
}

/// A file, four that share all of its space, and one that does but for a block.
fn clones(directory: &Path) {
    let base = open(&directory.join("base"));
    base.write_all_at(&random(1, 24 * MIB + 100), 0).unwrap();
    let small = open(&directory.join("small"));
    small.write_all_at(&random(2, 100_000), 0).unwrap();
    for number in 0..5 {
        for (from, name) in [(&base, "clone"), (&small, "small")] {
            let clone = open(&directory.join(format!("{name}{number}")));
            rustix::fs::ioctl_ficlone(&clone, from).unwrap();
        }
    }
    let changed = open(&directory.join("clone3"));
    changed.write_all_at(b"not shared", 10 * MIB + 5).unwrap();
}

fn used(path: &Path) -> u64 {
    rustix::fs::syncfs(File::open(path).unwrap()).unwrap();
    let told = rustix::fs::statvfs(path).unwrap();
    (told.f_blocks - told.f_bfree) * told.f_frsize
}

#[test]
fn files_that_share_their_space_share_it_on_the_new_brick() {
    let lab = Lab::new("shared");
    let (old, new) = (
        lab.disk("old", Format::Xfs, 320),
        lab.disk("new", Format::Btrfs, 320),
    );
    clones(old.path());
    let before = used(new.path());
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    // Users make another one (copy_file_range(2) shares where it can), and change the first.
    let (from, to) = (
        File::open(migration.mount().join("base")).unwrap(),
        open(&migration.mount().join("copy")),
    );
    let mut left = 24 * MIB;
    while left > 0 {
        let copied = rustix::fs::copy_file_range(&from, None, &to, None, left as usize).unwrap();
        assert!(copied > 0);
        left -= copied as u64;
    }
    drop((from, to));
    open(&migration.mount().join("base"))
        .write_all_at(&random(3, MIB), MIB)
        .unwrap();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    let taken = used(new.path()) - before;
    assert!(taken < 40 * MIB, "{} MiB for 26", taken / MIB);
    migration.cut_over();
}

#[test]
fn where_the_new_brick_can_neither_share_nor_reserve_it_is_told_and_stops_nothing() {
    let lab = Lab::new("unshared");
    let (old, new) = (
        lab.disk("old", Format::Btrfs, 256),
        lab.disk("new", Format::Ext3, 320),
    );
    clones(old.path());
    reserve(
        &open(&old.join("reserved")),
        0,
        4 * MIB,
        FallocateFlags::empty(),
    );
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let listed = migration.command("errors", &["--json"]).stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let of = |class: &str| -> Vec<&str> {
        let lines = listed.as_array().unwrap().iter();
        let lines = lines.filter(|line| line["class"] == class && line["stops"] == false);
        lines.map(|line| line["path"].as_str().unwrap()).collect()
    };
    assert_eq!(of("reserved-space"), ["/reserved"], "{listed:#}");
    let shared = of("shared-blocks");
    assert!(shared.len() >= 3, "{listed:#}");
    assert!(
        shared
            .iter()
            .all(|path| path.starts_with("/clone") || *path == "/base")
    );
    migration.cut_over();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_has_an_empty_directory_for_each_subvolume_that_was_in_it() {
    let lab = Lab::new("placeholders");
    let (old, new) = (
        lab.disk("old", Format::Btrfs, 256),
        lab.disk("new", Format::Btrfs, 256),
    );
    let btrfs = |words: &[&str], paths: &[&Path]| {
        let paths = paths.iter().map(|path| path.to_string_lossy().into_owned());
        let words = words.iter().map(|word| (*word).to_owned());
        shell::run("btrfs", &words.chain(paths).collect::<Vec<_>>());
    };
    let home = old.join("home");
    btrfs(&["subvolume", "create"], &[&home]);
    fs::create_dir(home.join("deep")).unwrap();
    let long = "n".repeat(200);
    for name in ["one", "two", "deep/three", &long] {
        btrfs(&["subvolume", "create"], &[&home.join(name)]);
        fs::write(home.join(name).join("file"), "in a subvolume").unwrap();
    }
    btrfs(&["subvolume", "snapshot"], &[&home, &old.join("snapshot")]);
    btrfs(
        &["subvolume", "snapshot", "-r"],
        &[&home, &old.join("kept")],
    );

    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let see = |root: &Path| {
        for snapshot in ["snapshot", "kept"] {
            let top = root.join(snapshot);
            assert_eq!(names(&top), ["deep", long.as_str(), "one", "two"]);
            assert_eq!(names(&top.join("deep")), ["three"]);
            for name in ["one", "two", "deep/three", &long] {
                assert_eq!(names(&top.join(name)), [""; 0], "{name}");
                let mode = fs::metadata(top.join(name)).unwrap().mode();
                assert_eq!(mode, 0o40_755, "{name}");
            }
        }
        assert_eq!(names(&root.join("home/one")), ["file"]);
    };
    see(migration.mount());
    migration.wait_ready(LONG);
    see(new.path());
    // As natively: nothing can be made in one, and it can be removed.
    let (one, two) = (
        migration.mount().join("snapshot/one"),
        migration.mount().join("snapshot/two"),
    );
    let refused = fs::write(one.join("x"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
    fs::remove_dir(&two).unwrap();
    // By what the journal and a new look make of them as well.
    migration.kill();
    migration.start();
    migration.wait_ready(LONG);
    assert!(!new.join("snapshot/two").exists() && !two.exists());
    assert_eq!(names(&one), [""; 0]);
    migration
        .command("cutover", &["--timeout", "20s"])
        .expect(0);
    assert_eq!(names(&migration.mount().join("kept/deep")), ["three"]);
}

/// A process in a user namespace of its own, in which its owner is root.
struct Elsewhere(Child);

impl Elsewhere {
    fn new() -> Elsewhere {
        let mut command = Command::new(program_at("unshare"));
        command.args([
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            "echo; exec sleep 60",
        ]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let told = child.stdout.as_mut().unwrap();
        io::Read::read_exact(told, &mut [0]).unwrap();
        Elsewhere(child)
    }

    fn namespace(&self) -> File {
        File::open(format!("/proc/{}/ns/user", self.0.id())).unwrap()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_mount_cannot_do_is_refused_at_once_and_as_the_limits_say() {
    let lab = Lab::new("limits");
    let disk = lab.disk("brick", Format::Xfs, 320);
    let mount = lab.plain_mount(disk.path());
    let elsewhere = Elsewhere::new();
    let asked = |directory: &Path| {
        let file = open(&directory.join("file"));
        file.write_all_at(&[1; 65536], 0).unwrap();
        file.sync_all().unwrap();
        let clone = open(&directory.join("clone"));
        let swap = directory.join("swap");
        fs::write(&swap, vec![0; 2 << 20]).unwrap();
        fs::set_permissions(&swap, fs::Permissions::from_mode(0o600)).unwrap();
        shell::run("mkswap", &["-q", &swap.to_string_lossy()]);
        File::open(&swap).unwrap().sync_all().unwrap();
        let top = File::open(directory).unwrap();
        let swapped = match swaps(&swap) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let told: [(&str, io::Result<()>); 6] = [
            (
                "FICLONE",
                rustix::fs::ioctl_ficlone(&clone, &file).map_err(Into::into),
            ),
            ("FIEMAP", sys::space_of(&file).map(drop)),
            ("name_to_handle_at", sys::can_give_handles(&file)),
            ("swapon", swapped),
            ("FIFREEZE", sys::freeze_and_thaw(&top)),
            (
                "an idmapped mount",
                sys::can_be_idmapped(directory, &elsewhere.namespace()),
            ),
        ];
        told.map(|(what, answer)| (what, answer.err().and_then(|error| error.raw_os_error())))
    };
    // Each of these comes off on the brick itself.
    for (what, refused) in asked(disk.path()) {
        assert_eq!(refused, None, "{what}, natively");
    }
    let refused = [
        ("FICLONE", Some(libc::EOPNOTSUPP)),
        ("FIEMAP", Some(libc::EOPNOTSUPP)),
        ("name_to_handle_at", Some(libc::EOPNOTSUPP)),
        ("swapon", Some(libc::EINVAL)),
        ("FIFREEZE", Some(libc::EOPNOTSUPP)),
        ("an idmapped mount", Some(libc::EINVAL)),
    ];
    assert_eq!(asked(mount.path()), refused);
}

#[test]
fn what_is_stored_into_a_mapping_and_finds_no_room_is_told_by_msync() {
    let lab = Lab::new("mapped-full");
    let disk = lab.disk("brick", Format::Ext4, 24);
    let mount = lab.plain_mount(disk.path());
    let file = open(&mount.join("mapped"));
    file.set_len(8 * MIB).unwrap();
    fill(mount.path());
    let mut mapping = Mapping::new(&file, 8 * MIB as usize, false).unwrap();
    for at in (0..8 * MIB).step_by(4096) {
        mapping.store(at as usize, &[1]);
    }
    let told = mapping.sync().and_then(|()| file.sync_all());
    let refused = told.expect_err("it cannot have gone anywhere");
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
}
