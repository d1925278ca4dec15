//! Open files, locks and mappings through a heal: as on a native file system.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::time::Duration;

use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::sys::{Mapping, RangeLock, range_lock};
use rustix::fs::FlockOperation;

const LONG: Duration = Duration::from_secs(120);

fn with_migration(
    name: &str,
    prepare: impl FnOnce(&Disk),
    work: impl FnOnce(&mut Migration<'_>, &Disk, &Disk),
) {
    let lab = Lab::new(name);
    let (old, new) = (
        lab.disk("old", Format::Ext3, 1024),
        lab.disk("new", Format::Btrfs, 1024),
    );
    prepare(&old);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    work(&mut migration, &old, &new);
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn a_program_that_runs_is_not_truncated() {
    with_migration(
        "fd-program",
        |old| {
            fs::copy("/bin/sleep", old.join("program")).unwrap();
        },
        |migration, _, _| {
            let path = migration.join("program");
            let whole = fs::read(&path).unwrap();
            let mut child = std::process::Command::new(&path)
                .arg("600")
                .spawn()
                .unwrap();
            let opened: Vec<_> = (0..200)
                .map(|n| {
                    let mut options = OpenOptions::new();
                    // Read-only with O_TRUNC is the open that no write access stands in the way of.
                    match n % 2 {
                        0 => options.read(true).custom_flags(libc::O_TRUNC),
                        _ => options.write(true).truncate(true),
                    };
                    options.open(&path).map(drop).map_err(|e| e.kind())
                })
                .collect();
            let now = fs::read(&path).unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            let busy = Err(std::io::ErrorKind::ExecutableFileBusy);
            assert!(opened.iter().all(|open| *open == busy), "{opened:?}");
            assert!(
                now == whole,
                "{} bytes of {} are left",
                now.len(),
                whole.len()
            );
        },
    );
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    hermitfs_tests::world::Operation::bytes(seed, len)
}

#[test]
fn a_file_of_200_mb_is_written_while_it_is_copied() {
    with_migration(
        "fd-big",
        |old| fs::write(old.join("big"), noise(200 << 20, 1)).unwrap(),
        |migration, _, _| {
            let path = migration.join("big");
            let mut expected = noise(200 << 20, 1);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            for round in 0..400_u64 {
                let at = (round * 7_919 * 4096 + round) as usize % (199 << 20);
                let data = noise(1 + round as usize * 37 % 70_000, round);
                file.write_all_at(&data, at as u64).unwrap();
                expected[at..at + data.len()].copy_from_slice(&data);
                let mut back = vec![0; data.len()];
                file.read_exact_at(&mut back, at as u64).unwrap();
                assert!(back == data, "round {round} reads something else back");
            }
            file.set_len(180 << 20).unwrap();
            expected.truncate(180 << 20);
            // It settles while it is still open.
            migration.wait_ready(LONG);
            migration.assert_bricks_equal();
            assert!(fs::read(&path).unwrap() == expected);
        },
    );
}

#[test]
fn descriptors_opened_before_a_heal_go_on_after_it() {
    with_migration(
        "fd-before",
        |old| {
            for name in ["read", "write", "both", "append", "gone", "moved"] {
                fs::write(old.join(name), noise(50_000, 2)).unwrap();
            }
        },
        |migration, old, new| {
            let open =
                |name: &str, options: &mut OpenOptions| options.open(migration.join(name)).unwrap();
            let mut read = open("read", OpenOptions::new().read(true));
            let write = open("write", OpenOptions::new().write(true));
            let both = open("both", OpenOptions::new().read(true).write(true));
            let mut append = open("append", OpenOptions::new().append(true));
            let mut gone = open("gone", OpenOptions::new().read(true).write(true));
            let moved = open("moved", OpenOptions::new().read(true).write(true));
            migration.wait_ready(LONG);

            let other = OpenOptions::new()
                .write(true)
                .open(migration.join("read"))
                .unwrap();
            other.write_all_at(b"changed", 100).unwrap();
            let mut seen = Vec::new();
            read.read_to_end(&mut seen).unwrap();
            assert_eq!(&seen[100..107], b"changed");
            write.write_all_at(b"late", 49_998).unwrap();
            both.write_all_at(&noise(9000, 3), 4000).unwrap();
            both.set_len(20_000).unwrap();
            append.write_all(b"at the end").unwrap();
            fs::remove_file(migration.join("gone")).unwrap();
            gone.seek(SeekFrom::Start(10)).unwrap();
            gone.write_all(b"nobody sees this").unwrap();
            let mut back = [0; 16];
            gone.read_exact_at(&mut back, 10).unwrap();
            assert_eq!(&back, b"nobody sees this");
            assert_eq!(gone.metadata().unwrap().nlink(), 0);
            fs::rename(migration.join("moved"), migration.join("elsewhere")).unwrap();
            moved.write_all_at(b"followed", 5).unwrap();

            // Settled while everything is still open.
            migration.wait_ready(LONG);
            migration.assert_bricks_equal();
            assert_eq!(
                &fs::read(new.join("elsewhere")).unwrap()[5..13],
                b"followed"
            );
            assert_eq!(fs::metadata(old.join("write")).unwrap().len(), 50_002);
            assert!(!new.join("gone").exists());
            gone.write_all_at(b"still", 0).unwrap();
        },
    );
}

#[test]
fn appends_of_several_writers_do_not_overwrite_each_other() {
    with_migration(
        "fd-append",
        |old| fs::write(old.join("log"), b"").unwrap(),
        |migration, _, _| {
            let path = migration.join("log");
            std::thread::scope(|scope| {
                for writer in 0..4 {
                    let path = &path;
                    scope.spawn(move || {
                        let mut log = OpenOptions::new().append(true).open(path).unwrap();
                        for line in 0..500 {
                            log.write_all(format!("{writer} {line:04}\n").as_bytes())
                                .unwrap();
                        }
                    });
                }
            });
            let text = fs::read_to_string(&path).unwrap();
            let mut lines: Vec<_> = text.lines().collect();
            assert_eq!(lines.len(), 2000);
            lines.sort_unstable();
            lines.dedup();
            assert_eq!(lines.len(), 2000, "lines were overwritten");
        },
    );
}

#[test]
fn truncating_opens_and_direct_io_do_what_they_do_natively() {
    with_migration(
        "fd-direct",
        |old| {
            fs::write(old.join("cut"), noise(300_000, 4)).unwrap();
            fs::write(old.join("direct"), noise(1 << 20, 5)).unwrap();
        },
        |migration, _, _| {
            let cut = OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(migration.join("cut"))
                .unwrap();
            assert_eq!(cut.metadata().unwrap().len(), 0);
            cut.write_all_at(b"short", 0).unwrap();
            assert_eq!(fs::read(migration.join("cut")).unwrap(), b"short");

            let direct = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_DIRECT)
                .open(migration.join("direct"))
                .unwrap();
            let mut room = vec![0_u8; 3 * 4096];
            let start = room.as_ptr().align_offset(4096);
            let block = &mut room[start..start + 4096];
            block.copy_from_slice(&noise(4096, 6));
            direct.write_all_at(block, 8192).unwrap();
            block.fill(0);
            direct.read_exact_at(block, 8192).unwrap();
            assert!(block == noise(4096, 6));
            let plain = fs::read(migration.join("direct")).unwrap();
            assert!(
                plain[8192..12_288] == noise(4096, 6)
                    && plain[12_288..] == noise(1 << 20, 5)[12_288..]
            );
        },
    );
}

#[test]
fn a_shared_mapping_is_one_with_the_file() {
    with_migration(
        "fd-map",
        |old| fs::write(old.join("mapped"), noise(100_000, 7)).unwrap(),
        |migration, _, _| {
            let path = migration.join("mapped");
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let mut mapping = Mapping::new(&file, 100_000, false).unwrap();
            migration.wait_ready(LONG);
            mapping.store(50_000, b"stored");
            assert_eq!(&fs::read(&path).unwrap()[50_000..50_006], b"stored");
            file.write_all_at(b"written", 10).unwrap();
            assert_eq!(mapping.load(10, 7), b"written");
            mapping.sync().unwrap();
            drop(file);
            // The mapping outlives its descriptor; what it stores must arrive all the same.
            mapping.store(60_000, b"without a descriptor");
            mapping.sync().unwrap();
            drop(mapping);
            migration.wait_ready(LONG);
            migration.assert_bricks_equal();
        },
    );
}

#[test]
fn a_mapping_made_where_readers_came_first_is_carried_over() {
    with_migration(
        "fd-map-late",
        |old| fs::write(old.join("mapped"), noise(100_000, 8)).unwrap(),
        |migration, _, new| {
            let path = migration.join("mapped");
            migration.wait_ready(LONG);
            let reader = File::open(&path).unwrap();
            let writer = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let mut mapping = Mapping::new(&writer, 100_000, false).unwrap();
            drop((reader, writer));
            for round in 0..20 {
                mapping.store(4096 * round, &noise(100, round as u64));
                std::thread::sleep(Duration::from_millis(30));
            }
            drop(mapping);
            migration.wait_ready(LONG);
            assert!(fs::read(new.join("mapped")).unwrap() == fs::read(&path).unwrap());
        },
    );
}

#[test]
fn locks_exclude_each_other_through_a_heal() {
    with_migration(
        "fd-locks",
        |old| fs::write(old.join("locked"), noise(10_000, 9)).unwrap(),
        |migration, _, _| {
            let open = || {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(migration.join("locked"))
                    .unwrap()
            };
            let (one, two) = (open(), open());
            rustix::fs::flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
            assert!(rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared).is_err());
            range_lock(&one, RangeLock::OpenFile, libc::F_WRLCK, 0, 100).unwrap();
            migration.wait_ready(LONG);
            assert!(rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared).is_err());
            assert!(range_lock(&two, RangeLock::OpenFile, libc::F_RDLCK, 50, 10).is_err());
            range_lock(&two, RangeLock::OpenFile, libc::F_WRLCK, 100, 10).unwrap();
            // A process' own locks: another process must see them.
            range_lock(&one, RangeLock::Process, libc::F_WRLCK, 5000, 10).unwrap();
            let taken =
                std::process::Command::new(hermitfs_tests::hermitfs::built("hermitfs-lock"))
                    .arg(migration.join("locked"))
                    .args(["5000", "10"])
                    .status()
                    .unwrap();
            assert_eq!(
                taken.code(),
                Some(75),
                "another process got a lock that was taken"
            );
            range_lock(&one, RangeLock::OpenFile, libc::F_UNLCK, 0, 100).unwrap();
            range_lock(&two, RangeLock::OpenFile, libc::F_RDLCK, 50, 10).unwrap();
            rustix::fs::flock(&one, FlockOperation::Unlock).unwrap();
            rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
        },
    );
}

#[test]
fn one_name_of_a_hard_link_pair_is_replaced() {
    with_migration(
        "fd-pair",
        |old| {
            for pair in 0..200 {
                fs::write(old.join(format!("a{pair}")), format!("shared {pair}")).unwrap();
                fs::hard_link(old.join(format!("a{pair}")), old.join(format!("b{pair}"))).unwrap();
            }
        },
        |migration, _, new| {
            for pair in 0..200 {
                if pair == 100 {
                    migration.wait_ready(LONG);
                }
                let (a, fresh) = (
                    migration.join(format!("a{pair}")),
                    migration.join(format!("fresh{pair}")),
                );
                fs::write(&fresh, format!("alone {pair}")).unwrap();
                fs::rename(&fresh, &a).unwrap();
                let b = OpenOptions::new()
                    .append(true)
                    .open(migration.join(format!("b{pair}")));
                b.unwrap().write_all(b", and more").unwrap();
            }
            migration.wait_ready(LONG);
            for pair in 0..200 {
                assert_eq!(
                    fs::read_to_string(new.join(format!("a{pair}"))).unwrap(),
                    format!("alone {pair}")
                );
                let b = new.join(format!("b{pair}"));
                assert_eq!(
                    fs::read_to_string(&b).unwrap(),
                    format!("shared {pair}, and more")
                );
                assert_eq!(fs::metadata(&b).unwrap().nlink(), 1);
            }
        },
    );
}
