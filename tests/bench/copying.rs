//! From one disk to another: to the last sync, and compared each time.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hermitfs_tests::bricks::{loopback, loopback_by_socket};
use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::need;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::shell::run_command;
use hermitfs_tests::tree::Tree;

use crate::table::{headline, median_of, number, rounds, row, with_ratio};
use crate::{copier, gluster};

/// One way to copy, and whether it claims to carry over everything.
struct Way {
    name: &'static str,
    copy: fn(&Lab, &Path, &Path) -> Duration,
    compared: bool,
}

const fn way(name: &'static str, copy: fn(&Lab, &Path, &Path) -> Duration) -> Way {
    Way {
        name,
        copy,
        compared: true,
    }
}

const HERMITFS: Way = way("hermitfs", heal);
/// Both bricks behind a server, all in one process.
const SERVED: Way = way("both served", heal_served);
/// The same by the server's socket.
const BY_SOCKET: Way = way("by a socket", heal_by_socket);
const RSYNC: Way = way("rsync -aHAXS", rsync);
const CP: Way = way("cp -a", cp);
const BARE: Way = way("bare copier", bare);

/// Many small files, as sources and mails are.
pub(crate) fn small() {
    let files = number("HERMITFS_BENCH_FILES", 60_000);
    let lab = Lab::new("bench-small");
    let old = small_files(&lab, files);
    let mib = Tree::of(old.path()).bytes_on_disk() >> 20;
    compare(
        &lab,
        &old,
        &format!(
            "{files} small files ({mib} MiB), ext3 to an empty btrfs, seconds (ratio to hermitfs)"
        ),
        &[HERMITFS, SERVED, BY_SOCKET, BARE, RSYNC, CP],
        &[false, true],
    );
}

/// As many as GlusterFS heals in a minute or two.
pub(crate) fn served() {
    let files = number("HERMITFS_BENCH_FILES", 6_000);
    let lab = Lab::new("bench-served");
    let old = small_files(&lab, files);
    if let Err(why) = gluster::available() {
        println!("\nno GlusterFS: {why}");
        return;
    }
    let peer = Way {
        compared: false,
        ..way("GlusterFS", gluster::heal)
    };
    compare(
        &lab,
        &old,
        &format!("{files} small files, both bricks behind a server, seconds (ratio to hermitfs)"),
        &[SERVED, BY_SOCKET, peer],
        &[false],
    );
}

/// A disk with these, of 2.5 KB on average.
fn small_files(lab: &Lab, files: usize) -> Disk {
    let inodes = (files + 20_000).to_string();
    let old = lab.disk_with("old", Format::Ext3, 2048, &["-N", &inodes], "");
    for index in 0..files {
        let directory = old.join(format!("{:03}", index % 600));
        if index < 600 {
            fs::create_dir(&directory).unwrap();
        }
        fs::write(
            directory.join(format!("file-{index}")),
            vec![index as u8; 100 + index * 7919 % 4800],
        )
        .unwrap();
    }
    old
}

/// One big file.
pub(crate) fn big() {
    let lab = Lab::new("bench-big");
    let old = lab.disk("old", Format::Ext3, 2048);
    let block: Vec<u8> = (0..1 << 20)
        .map(|n: u32| (n * 2_654_435_761) as u8)
        .collect();
    let mut file = fs::File::create(old.join("big")).unwrap();
    for _ in 0..1024 {
        std::io::Write::write_all(&mut file, &block).unwrap();
    }
    drop(file);
    compare(
        &lab,
        &old,
        "one file of 1 GiB, ext3 to an empty btrfs, seconds (ratio to hermitfs)",
        &[HERMITFS, RSYNC, CP],
        &[false, true],
    );
}

/// Everything that is odd.
pub(crate) fn odd() {
    let lab = Lab::new("bench-odd");
    let old = lab.disk("old", Format::Ext3, 2048);
    // Of a hole of a TiB rsync reads every byte, for minutes.
    let tree = Odd {
        huge: 4 << 30,
        ..Odd::default()
    };
    tree.build(old.path(), 1);
    // What the others leave out (rsync inode flags, say) is not their speed's affair.
    let lossy = |way: Way| Way {
        compared: false,
        ..way
    };
    let mut ways = vec![HERMITFS, lossy(RSYNC), lossy(CP)];
    match gluster::available() {
        Ok(()) => ways.push(lossy(way("GlusterFS", gluster::heal))),
        Err(why) => println!("\nno GlusterFS: {why}"),
    }
    compare(
        &lab,
        &old,
        "the odd tree, ext3 to an empty btrfs, seconds (ratio to hermitfs)",
        &ways,
        &[false],
    );
}

fn compare(lab: &Lab, old: &Disk, title: &str, ways: &[Way], caches: &[bool]) {
    let names: Vec<_> = ways.iter().map(|way| way.name).collect();
    headline(title, "page cache", &names);
    for &cold in caches {
        let mut times: Vec<Vec<Duration>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds() {
            for (way, times) in ways.iter().zip(&mut times) {
                times.push(once(lab, old, cold, way));
            }
        }
        let medians: Vec<f64> = times.into_iter().map(median_of).collect();
        let figures: Vec<_> = medians
            .iter()
            .map(|&median| with_ratio(median, medians[0]))
            .collect();
        row(if cold { "cold" } else { "warm" }, &figures);
    }
    println!("\nmedians of {} rounds, in turns", rounds());
}

/// One copy on a fresh disk, by one way.
fn once(lab: &Lab, old: &Disk, cold: bool, way: &Way) -> Duration {
    static DISKS: AtomicU32 = AtomicU32::new(0);
    let name = format!("new-{}", DISKS.fetch_add(1, Ordering::Relaxed));
    let new = lab.disk(&name, Format::Btrfs, 3072);
    run_command(Command::new("sync").stdin(Stdio::null()));
    if cold {
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    } else {
        let _ = Tree::of(old.path());
    }
    let took = (way.copy)(lab, old.path(), new.path());
    if way.compared {
        let source = Tree::of(old.path());
        source.assert_equal(&Tree::of_sink(new.path(), &source));
    }
    took
}

fn heal(lab: &Lab, old: &Path, new: &Path) -> Duration {
    migrate(lab.migration(old, new))
}

fn heal_served(lab: &Lab, old: &Path, new: &Path) -> Duration {
    heal_loopback(lab, &loopback(), old, new)
}

fn heal_by_socket(lab: &Lab, old: &Path, new: &Path) -> Duration {
    heal_loopback(lab, &loopback_by_socket(lab), old, new)
}

fn heal_loopback(lab: &Lab, volfile: &Path, old: &Path, new: &Path) -> Duration {
    let mut migration = lab.migration(old, new);
    let set = [
        format!("old={}", old.display()),
        format!("new={}", new.display()),
        format!("socket={}", lab.path().join("bricks.sock").display()),
    ];
    migration.use_volfile(volfile, &set.each_ref().map(String::as_str));
    migrate(migration)
}

fn migrate(mut migration: Migration<'_>) -> Duration {
    let started = Instant::now();
    migration.start();
    // Returns when everything is on the new disk, and synced.
    migration.command("heal", &["--wait"]).expect(exit::OK);
    let took = started.elapsed();
    migration
        .command("cutover", &["--timeout", "30s"])
        .expect(exit::OK);
    run_command(Command::new("umount").arg(migration.mount()));
    took
}

fn bare(_: &Lab, old: &Path, new: &Path) -> Duration {
    let started = Instant::now();
    copier::copy(old, new);
    started.elapsed()
}

fn rsync(_: &Lab, old: &Path, new: &Path) -> Duration {
    let from = format!("{}/", old.display());
    timed(
        Command::new(need::program_at("rsync"))
            .args(["-aHAXS", "--exclude=/lost+found"])
            .arg(from)
            .arg(new),
        new,
    )
}

fn cp(_: &Lab, old: &Path, new: &Path) -> Duration {
    let from = format!("{}/.", old.display());
    timed(Command::new("cp").arg("-a").arg(from).arg(new), new)
}

fn timed(command: &mut Command, new: &Path) -> Duration {
    let started = Instant::now();
    run_command(command);
    run_command(Command::new("sync").arg("-f").arg(new));
    started.elapsed()
}
