//! `cargo bench -p hermitfs-tests`: what hermitfs costs, as tables.
//!
//! Healing is measured against `rsync -aHAXS` and `cp -a` of the same tree, in turns, in one
//! sitting: compare within a table only. `HERMITFS_BENCH_FILES` and `HERMITFS_BENCH_ROUNDS`
//! change its size.

// A measurement that fails says so by panicking.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::need;
use hermitfs_tests::requests::{JOBS, of_everyday_jobs};
use hermitfs_tests::setup::{build_release, install_packages};
use hermitfs_tests::shell::run_command;
use hermitfs_tests::tree::Tree;

fn main() -> ExitCode {
    let prepared = match need::obstacle() {
        Some(sentence) => Err(anyhow::anyhow!("{sentence}")),
        None => install_packages(need::FOR_BENCH).and_then(|()| build_release()),
    };
    if let Err(error) = prepared {
        eprintln!("bench: {error:#}");
        return ExitCode::FAILURE;
    }
    requests();
    healing();
    ExitCode::SUCCESS
}

fn requests() {
    let lab = Lab::new("bench-requests");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let (counted, files) = of_everyday_jobs(&lab, migration.mount());
    println!(
        "\nFUSE requests per file through a migration, counted by the kernel ({files} files)\n"
    );
    println!(
        "{:<12} {:>8} {:>8}   most of them",
        "job", "requests", "at most"
    );
    for ((job, bound), requests) in JOBS.iter().zip(&counted) {
        let per_file = |count: u64| count as f64 / files as f64;
        let mut by_count: Vec<_> = requests.iter().collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let most: Vec<_> = by_count
            .iter()
            .take(4)
            .map(|(name, count)| format!("{name} {:.2}", per_file(**count)))
            .collect();
        println!(
            "{job:<12} {:>8.2} {bound:>8.2}   {}",
            per_file(requests.values().sum()),
            most.join(", ")
        );
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn healing() {
    let (files, rounds) = (
        number("HERMITFS_BENCH_FILES", 60_000),
        number("HERMITFS_BENCH_ROUNDS", 3),
    );
    let lab = Lab::new("bench-heal");
    let old = lab.disk_with(
        "old",
        Format::Ext3,
        2048,
        &["-N", &(files + 20_000).to_string()],
        "",
    );
    for index in 0..files {
        let directory = old.join(format!("{:03}", index % 600));
        if index < 600 {
            fs::create_dir(&directory).unwrap();
        }
        // 2.5 KB on average, as sources and mails are.
        fs::write(
            directory.join(format!("file-{index}")),
            vec![index as u8; 100 + index * 7919 % 4800],
        )
        .unwrap();
    }
    let mib = Tree::of(old.path()).bytes_on_disk() >> 20;
    println!(
        "\nCopying {files} files ({mib} MiB) from ext3 to an empty btrfs, to the last sync, in seconds\n"
    );
    println!(
        "{:<6} {:>10} {:>14} {:>8} {:>18}",
        "cache", "hermitfs", "rsync -aHAXS", "cp -a", "rsync / hermitfs"
    );
    for cold in [false, true] {
        let mut times: [Vec<Duration>; 3] = Default::default();
        for _ in 0..rounds {
            for (way, times) in [heal, rsync, cp].into_iter().zip(&mut times) {
                times.push(once(&lab, &old, cold, way));
            }
        }
        let [hermitfs, rsync, cp] = times.map(median);
        let cache = if cold { "cold" } else { "warm" };
        println!(
            "{cache:<6} {hermitfs:>10.2} {rsync:>14.2} {cp:>8.2} {:>18.2}",
            rsync / hermitfs
        );
    }
    println!("\nmedians of {rounds} rounds, the three in turns");
}

/// One copy on a fresh disk, by one way; the result is compared each time.
fn once(lab: &Lab, old: &Disk, cold: bool, way: fn(&Lab, &Path, &Path) -> Duration) -> Duration {
    static DISKS: AtomicU32 = AtomicU32::new(0);
    let name = format!("new-{}", DISKS.fetch_add(1, Ordering::Relaxed));
    let new = lab.disk(&name, Format::Btrfs, 3072);
    if cold {
        run_command(Command::new("sync").stdin(Stdio::null()));
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    } else {
        let _ = Tree::of(old.path());
    }
    let took = way(lab, old.path(), new.path());
    let source = Tree::of(old.path());
    source.assert_equal(&Tree::of_sink(new.path(), &source));
    took
}

fn heal(lab: &Lab, old: &Path, new: &Path) -> Duration {
    let mut migration = lab.migration(old, new);
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

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}
