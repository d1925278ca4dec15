//! Reads and writes of one file through a mount that has nothing left to heal, beside the same on the
//! source itself.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::need;
use hermitfs_tests::shell::{run_command, text};
use serde_json::Value;

use crate::table::{headline, median, rounds, row, with_ratio};

/// What is done to the file.
enum Work {
    /// fio reads, when the file has been read once before that nobody measured.
    Warm(&'static str),
    /// fio reads, and is the first to do so since the file was written.
    First(&'static str),
    /// fio writes. It opens the file to read and write, as databases do.
    Write(&'static str),
    /// dd writes the whole file, opened to write only, as cp and tar do.
    WriteOnly,
}

use Work::{First, Warm, Write, WriteOnly};

const JOBS: &[(&str, Work)] = &[
    ("first read, 1 MiB", First("--rw=read --bs=1M")),
    ("read 1 MiB", Warm("--rw=read --bs=1M --loops=4")),
    (
        "read 1 MiB, 4 readers",
        Warm("--rw=read --bs=1M --loops=2 --numjobs=4 --group_reporting"),
    ),
    (
        "read 4 KiB random",
        Warm("--rw=randread --bs=4k --runtime=3 --time_based"),
    ),
    (
        "the same, 4 readers",
        Warm("--rw=randread --bs=4k --runtime=3 --time_based --numjobs=4 --group_reporting"),
    ),
    (
        "read mapped",
        Warm("--rw=randread --bs=4k --ioengine=mmap --runtime=3 --time_based"),
    ),
    (
        "write 1 MiB, synced",
        Write("--rw=write --bs=1M --end_fsync=1"),
    ),
    ("the same, write-only", WriteOnly),
    (
        "write 4 KiB random",
        Write("--rw=randwrite --bs=4k --runtime=4 --time_based --end_fsync=1"),
    ),
    (
        "write 4 KiB + fsync",
        Write("--rw=write --bs=4k --fsync=1 --runtime=4 --time_based"),
    ),
];

const SIZE_MIB: u64 = 256;

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

/// Does the jobs at both places, in turns, and shows how fast they were.
pub(crate) fn compare(title: &str, places: [(&str, &Path); 2], settle: impl Fn()) {
    let mut rates: Vec<[Vec<f64>; 2]> = JOBS.iter().map(|_| Default::default()).collect();
    for (_, place) in places {
        Write("--rw=write --bs=1M --end_fsync=1").rate(place);
    }
    for round in 0..rounds() {
        for ((_, work), rates) in JOBS.iter().zip(&mut rates) {
            for turn in [round % 2, (round + 1) % 2] {
                settle();
                rates[turn].push(work.rate(places[turn].1));
            }
        }
    }
    headline(title, "job", &places.map(|(name, _)| name));
    for ((name, _), [first, second]) in JOBS.iter().zip(rates) {
        let (first, second) = (median(first), median(second));
        row(name, &[with_ratio(first, second), format!("{second:.2}")]);
    }
}

impl Work {
    /// MiB a second.
    fn rate(&self, place: &Path) -> f64 {
        let file = place.join("bench.dat");
        let rate = match self {
            Warm(job) => {
                // The machine may have taken the file's pages for something else meanwhile.
                std::io::copy(&mut File::open(&file).unwrap(), &mut std::io::sink()).unwrap();
                fio(&file, job, "read")
            }
            First(job) => fio(&file, job, "read"),
            Write(job) => fio(&file, job, "write"),
            WriteOnly => dd(&file),
        };
        let size = file.metadata().unwrap().len();
        assert_eq!(size, SIZE_MIB << 20, "the work was not at {file:?}");
        rate
    }
}

fn fio(file: &Path, job: &str, direction: &str) -> f64 {
    let output = run_command(
        Command::new(need::program_at("fio"))
            // The whole path: what `--directory` says counts only for the names that come after it.
            .arg("--name=bench")
            .arg(format!("--filename={}", file.display()))
            .arg(format!("--size={SIZE_MIB}M"))
            .args(["--ioengine=psync", "--fallocate=none", "--invalidate=0"])
            .args(["--randseed=7", "--output-format=json"])
            .args(job.split_whitespace()),
    );
    let told: Value = serde_json::from_str(&text(&output)).unwrap();
    told["jobs"][0][direction]["bw"].as_f64().unwrap() / 1024.0
}

fn dd(file: &Path) -> f64 {
    let start = Instant::now();
    run_command(
        Command::new("dd")
            .args(["if=/dev/zero", "bs=1M", "conv=notrunc,fsync"])
            .arg(format!("count={SIZE_MIB}"))
            .arg(format!("of={}", file.display())),
    );
    SIZE_MIB as f64 / start.elapsed().as_secs_f64()
}
