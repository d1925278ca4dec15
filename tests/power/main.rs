//! `cargo power`: power cuts in a migration under load.
//!
//! OLD, NEW and the state directory are on disks that log every write. Of one recorded run any
//! number of power cuts can be made: for each, the three logs end at one moment, what was flushed
//! by then is on the disks and of the rest some is; the file systems are mounted again, and the
//! same command goes on. Then both bricks must be equal, and nothing gone that an fsync promised.
//!
//! `cargo power [--cuts N] [--work SECONDS] [--seed N] [--source ext4|ext3|xfs|btrfs] [--calm yes|no]
//! [--stack plain|loopback|socket]`
// A test says that it has failed by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod boot;
mod load;
mod promises;
mod replay;
mod scenario;
mod storage;
mod writelog;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hermitfs_tests::disk::Format;
use hermitfs_tests::{need, setup};

use crate::boot::Boot;
use crate::scenario::{Scenario, Stack};

/// Sources, and how they are mounted.
const SOURCES: [(Format, &str); 5] = [
    (Format::Ext4, "lazytime"),
    (Format::Ext3, ""),
    (Format::Xfs, "lazytime"),
    (Format::Ext4, "noatime"),
    (Format::Btrfs, "noatime"),
];

struct Options {
    cuts: usize,
    work: Duration,
    seed: u64,
    source: Option<String>,
    calm: bool,
    stack: Stack,
}

fn main() -> ExitCode {
    let Some(options) = options(std::env::args().skip(1)) else {
        eprintln!(
            "usage: power [--cuts N] [--work SECONDS] [--seed N] [--source ext4|ext3|xfs|btrfs] [--calm yes|no] \
             [--stack plain|loopback|socket]"
        );
        return ExitCode::from(64);
    };
    if let Some(sentence) = need::obstacle() {
        eprintln!("power: {sentence}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = need_and_build() {
        eprintln!("power: {error:#}");
        return ExitCode::FAILURE;
    }
    let boot = Boot::begin();
    let sources: Vec<_> = SOURCES
        .iter()
        .filter(|(format, _)| options.source.as_ref().is_none_or(|it| it == format.name()))
        .collect();
    println!("HERMITFS_SEED={}", options.seed);
    let started = Instant::now();
    let (mut cuts, mut failures) = (0, Vec::new());
    for (n, (source, mount)) in sources.iter().enumerate() {
        let scenario = Scenario {
            source: *source,
            options: mount,
            seed: options.seed + 3 * n as u64,
            work: options.work,
            cuts: (options.cuts - cuts).div_ceil(sources.len() - n),
            calm: options.calm,
            stack: options.stack,
        };
        let report = scenario.run(&boot);
        cuts += report.cuts;
        failures.extend(report.failures);
    }
    for failure in &failures {
        println!("{failure}");
    }
    let took = started.elapsed();
    println!("{cuts} cuts in {took:.0?}: {} bad", failures.len());
    match (failures.is_empty(), cuts) {
        (true, 1..) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn need_and_build() -> anyhow::Result<()> {
    setup::install_packages(need::FOR_POWER)?;
    setup::build_release()
}

fn options(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        cuts: 60,
        work: Duration::from_secs(4),
        seed: match std::env::var("HERMITFS_SEED") {
            Ok(seed) => seed.parse().ok()?,
            Err(_) => rand::random::<u32>().into(),
        },
        source: None,
        calm: true,
        stack: Stack::Plain,
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--cuts" => options.cuts = value.parse().ok()?,
            "--work" => options.work = Duration::from_secs(value.parse().ok()?),
            "--seed" => options.seed = value.parse().ok()?,
            "--calm" => options.calm = value == "yes",
            "--stack" if value == "plain" => options.stack = Stack::Plain,
            "--stack" if value == "loopback" => options.stack = Stack::Loopback,
            "--stack" if value == "socket" => options.stack = Stack::Socket,
            "--source" if SOURCES.iter().any(|(format, _)| format.name() == value) => {
                options.source = Some(value);
            }
            _ => return None,
        }
    }
    Some(options)
}
