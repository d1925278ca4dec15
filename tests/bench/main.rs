//! `cargo bench -p hermitfs-tests [-- PART...]`: what hermitfs costs, as tables.
//!
//! Every figure stands beside a peer's of the same sitting, in turns: compare within a table only.
//! Without a PART all are run. `HERMITFS_BENCH_ROUNDS` (3), `HERMITFS_BENCH_FILES` (60000) and
//! `HERMITFS_BENCH_MILLION` (1000000) change their size.

// A measurement that fails says so by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

mod copier;
mod copying;
mod data;
mod echo;
mod gluster;
mod latency;
mod loopback;
mod metadata;
mod million;
mod peers;
mod requests;
mod table;
mod wire;

use std::process::ExitCode;

use hermitfs_tests::need;
use hermitfs_tests::setup::{build_release, install_packages};

/// One table, or a few that belong together.
struct Part {
    name: &'static str,
    what: &'static str,
    run: fn(),
}

const PARTS: &[Part] = &[
    Part {
        name: "requests",
        what: "FUSE requests per file",
        run: requests::run,
    },
    Part {
        name: "small",
        what: "many small files: hermitfs, the same with both bricks served (in one process, by a socket), a bare copier, rsync, cp",
        run: copying::small,
    },
    Part {
        name: "big",
        what: "one file of 1 GiB: hermitfs, rsync, cp",
        run: copying::big,
    },
    Part {
        name: "odd",
        what: "a tree of everything odd: hermitfs, rsync, cp, GlusterFS",
        run: copying::odd,
    },
    Part {
        name: "metadata",
        what: "everyday jobs through a mount: hermitfs, passthrough_hp, mergerfs",
        run: metadata::run,
    },
    Part {
        name: "data",
        what: "reads and writes through a mount: hermitfs, the native source",
        run: data::run,
    },
    Part {
        name: "latency",
        what: "users' waits while all is copied: hermitfs, cp beside native work",
        run: latency::run,
    },
    Part {
        name: "loopback",
        what: "everyday jobs and one file, both bricks behind a server: hermitfs, the same by a socket, GlusterFS",
        run: loopback::run,
    },
    Part {
        name: "served",
        what: "small files with both bricks behind a server: hermitfs, the same by a socket, GlusterFS",
        run: copying::served,
    },
    Part {
        name: "wire",
        what: "one call and one MiB through client and server: beside tonic's own; mutual TLS",
        run: wire::run,
    },
    Part {
        name: "million",
        what: "a million files: memory, a new start, state on disk",
        run: million::run,
    },
];

fn main() -> ExitCode {
    // cargo adds `--bench`.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|word| PARTS.iter().all(|part| part.name != **word))
    {
        eprintln!("there is no part `{unknown}`; there are:");
        for part in PARTS {
            eprintln!("  {:<10} {}", part.name, part.what);
        }
        return ExitCode::FAILURE;
    }
    let prepared = match need::obstacle() {
        Some(sentence) => Err(anyhow::anyhow!("{sentence}")),
        None => install_packages(need::FOR_BENCH).and_then(|()| build_release()),
    };
    if let Err(error) = prepared {
        eprintln!("bench: {error:#}");
        return ExitCode::FAILURE;
    }
    for part in PARTS {
        if wanted.is_empty() || wanted.iter().any(|word| word == part.name) {
            (part.run)();
        }
    }
    ExitCode::SUCCESS
}
