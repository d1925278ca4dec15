//! A million files: what the daemon needs, how soon it serves again after a kill, and what it keeps.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;

use crate::peers::sh;
use crate::table::number;

pub(crate) fn run() {
    let files = number("HERMITFS_BENCH_MILLION", 1_000_000);
    let lab = Lab::new("bench-million");
    let inodes = (files + files / 10 + 20_000).to_string();
    let old = lab.disk_with(
        "old",
        Format::Ext4,
        (files as u64 / 150).max(512),
        &["-N", &inodes],
        "",
    );
    let new = lab.disk("new", Format::Btrfs, (files as u64 / 100).max(1024));
    for index in 0..files {
        let directory = old.join(format!("{:02}/{:02}", index % 100, index / 100 % 100));
        if index < 10_000 {
            fs::create_dir_all(&directory).unwrap();
        }
        fs::write(directory.join(format!("file-{index}")), [index as u8; 300]).unwrap();
    }
    println!("\n{files} files of 300 bytes, ext4 to btrfs\n");
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let started = Instant::now();
    let (mut most, mut killed) = (0, false);
    loop {
        most = most.max(memory(migration.daemon().pid()));
        let status = migration.status();
        if !killed && status.0["files"]["done"].as_u64().unwrap_or(0) > files as u64 / 2 {
            migration.kill();
            killed = true;
            let again = Instant::now();
            migration.start();
            fs::metadata(migration.mount().join("00/00")).unwrap();
            told(
                "start again, half healed, after a kill",
                format!("{:.2} s", again.elapsed().as_secs_f64()),
            );
            continue;
        }
        if status.is("ready") && status.number("pending") == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    told(
        "healed, with the kill, after",
        format!("{:.0} s", started.elapsed().as_secs_f64()),
    );
    told("memory during the heal, at most", mib(most));
    migration.terminate();
    migration.start();
    migration.command("heal", &["--wait"]).expect(exit::OK);
    migration.wait_ready(Duration::from_secs(3600));
    migration.terminate();
    migration.start();
    migration.wait_ready(Duration::from_secs(3600));
    std::thread::sleep(Duration::from_secs(2));
    told(
        "memory at rest, all settled",
        mib(memory(migration.daemon().pid())),
    );
    sh(
        migration.mount(),
        "find . -printf '%s %T@ %m\\n' > /dev/null",
    );
    told(
        "memory after a find over all",
        mib(memory(migration.daemon().pid())),
    );
    // Half of them pending: nobody may heal meanwhile.
    new.turn_read_only();
    sh(
        migration.mount(),
        "find [0-4]* -type f -print0 | xargs -0 chmod g+w",
    );
    told(
        &format!(
            "state on disk, {} pending",
            migration.status().number("pending")
        ),
        mib(size(migration.state_dir())),
    );
    told("memory then", mib(memory(migration.daemon().pid())));
    new.remount("rw");
    migration.wait_ready(Duration::from_secs(3600));
    longest_gap(&mut migration);
}

/// The longest time that a process in a tight loop waits across the cut-over.
fn longest_gap(migration: &mut hermitfs_tests::migration::Migration<'_>) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let over = AtomicBool::new(false);
    let path = migration.mount().join("00/00");
    let longest = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let started = Instant::now();
                fs::create_dir(path.join("gap")).unwrap();
                fs::remove_dir(path.join("gap")).unwrap();
                longest = longest.max(started.elapsed());
            }
            longest
        });
        migration
            .command("cutover", &["--timeout", "30s"])
            .expect(exit::OK);
        over.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    told(
        "longest gap that a loop saw at cut-over",
        format!("{:.3} s", longest.as_secs_f64()),
    );
    sh(
        Path::new("/"),
        &format!("umount {}", migration.mount().display()),
    );
}

fn told(what: &str, figure: String) {
    println!("{what:<42} {figure:>12}");
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Resident memory of a process, in bytes (proc(5), VmRSS).
fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

fn size(directory: &Path) -> u64 {
    let said = sh(directory, "du -sb . | cut -f1");
    said.parse().unwrap_or(0)
}
