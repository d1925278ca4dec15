//! Reads and writes of one file through a mount that has nothing left to heal, beside the same on the
//! source itself.

use std::path::Path;
use std::process::Command;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::need;
use hermitfs_tests::shell::{run_command, text};
use serde_json::Value;

use crate::table::{headline, median, rounds, row, with_ratio};

/// The name, the direction, and what fio is told.
const JOBS: &[(&str, &str, &str)] = &[
    ("read 1 MiB", "read", "--rw=read --bs=1M --loops=4"),
    (
        "read 1 MiB, 4 readers",
        "read",
        "--rw=read --bs=1M --loops=2 --numjobs=4 --group_reporting",
    ),
    (
        "read 4 KiB random",
        "read",
        "--rw=randread --bs=4k --runtime=3 --time_based",
    ),
    (
        "the same, 4 readers",
        "read",
        "--rw=randread --bs=4k --runtime=3 --time_based --numjobs=4 --group_reporting",
    ),
    (
        "read mapped",
        "read",
        "--rw=randread --bs=4k --ioengine=mmap --runtime=3 --time_based",
    ),
    (
        "write 1 MiB, synced",
        "write",
        "--rw=write --bs=1M --end_fsync=1",
    ),
    (
        "write 4 KiB random",
        "write",
        "--rw=randwrite --bs=4k --runtime=4 --time_based --end_fsync=1",
    ),
    (
        "write 4 KiB + fsync",
        "write",
        "--rw=write --bs=4k --fsync=1 --runtime=4 --time_based",
    ),
];

pub(crate) fn run() {
    let lab = Lab::new("bench-data");
    let (old, new, native) = (
        lab.disk("old", Format::Ext3, 1024),
        lab.disk("new", Format::Btrfs, 2048),
        lab.disk("native", Format::Ext3, 1024),
    );
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    compare(
        "one file of 256 MiB, warm, MiB/s (ratio to native)",
        [
            ("hermitfs", migration.mount()),
            ("native ext3", native.path()),
        ],
        || drop(migration.command("heal", &["--wait"]).expect(exit::OK)),
    );
}

/// Does the jobs at both places, and shows how fast they were.
pub(crate) fn compare(title: &str, places: [(&str, &Path); 2], settle: impl Fn()) {
    let mut rates: Vec<[Vec<f64>; 2]> = JOBS.iter().map(|_| Default::default()).collect();
    for (_, place) in places {
        fio(place, "--rw=write --bs=1M --end_fsync=1", "write");
    }
    for _ in 0..rounds() {
        for ((_, direction, job), rates) in JOBS.iter().zip(&mut rates) {
            for ((_, place), rates) in places.into_iter().zip(rates) {
                settle();
                rates.push(fio(place, job, direction));
            }
        }
    }
    headline(title, "job", &places.map(|(name, _)| name));
    for ((name, ..), [first, second]) in JOBS.iter().zip(rates) {
        let (first, second) = (median(first), median(second));
        row(name, &[with_ratio(first, second), format!("{second:.2}")]);
    }
}

/// MiB a second.
fn fio(place: &Path, job: &str, direction: &str) -> f64 {
    let file = place.join("bench.dat");
    let output = run_command(
        Command::new(need::program_at("fio"))
            // The whole path: what `--directory` says counts only for the names that come after it.
            .arg("--name=bench")
            .arg(format!("--filename={}", file.display()))
            .arg("--size=256M")
            .args(["--ioengine=psync", "--fallocate=none", "--invalidate=0"])
            .args(["--randseed=7", "--output-format=json"])
            .args(job.split_whitespace()),
    );
    assert!(
        file.is_file(),
        "fio worked elsewhere than at {}",
        file.display()
    );
    let told: Value = serde_json::from_str(&text(&output)).unwrap();
    told["jobs"][0][direction]["bw"].as_f64().unwrap() / 1024.0
}
