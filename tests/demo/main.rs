//! `cargo demo`: a file system moves while it is in use, in about a minute.
//!
//! Two loop devices, ext3 and btrfs; a full old brick; four processes that work in it and check
//! everything they do; a migration; cut-over; and the proof that both are equal.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::need;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::setup::{build_release, install_packages};
use hermitfs_tests::tree::Tree;

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    if let Some(sentence) = need::obstacle() {
        bail!("{sentence}");
    }
    install_packages(need::FOR_DEMO)?;
    build_release()?;

    let lab = Lab::new("demo");
    println!("hermitfs moves a file system that is in use.\n");
    step("An old disk (ext3) with a tree on it, and a new one (btrfs), empty");
    let old = lab.disk("old", Format::Ext3, 1536);
    let new = lab.disk("new", Format::Btrfs, 2048);
    let seeds: Vec<u64> = (1..=4).collect();
    crew::build(old.path(), &seeds);
    fill(old.path())?;
    let before = Tree::of(old.path());
    let mib = before.bytes_on_disk() >> 20;
    done(&format!(
        "{} objects, {mib} MiB, some of them odd: links, holes, ACLs, devices, times",
        before.len()
    ));

    step("hermitfs migrate OLD NEW DATA, and four processes that work in DATA");
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, true);
    done("they create, write, rename, link, map, punch, delete; each reads back what it wrote");
    let took = watch(&migration, &mut crew)?;
    done(&format!(
        "the whole tree is on the new disk after {took:.1?}, the work goes on"
    ));

    step("kill -9, in the middle of the work, and the same command again");
    crew.work_for(Duration::from_secs(2));
    migration.kill();
    migration.start();
    crew.work_for(Duration::from_secs(4));
    let operations = crew.stop_quietly();
    done(&format!(
        "{operations} operations in all, each checked: nothing acknowledged was lost or undone"
    ));
    migration.wait_ready(Duration::from_secs(120));
    done("and the new disk has followed");

    step("hermitfs cutover DATA");
    let started = Instant::now();
    let outcome = migration.command("cutover", &["--timeout", "20s"]);
    ensure!(
        outcome.code == 0,
        "cut-over: {}{}",
        outcome.stdout,
        outcome.stderr
    );
    done(&format!(
        "{:.2?}; DATA is the new disk itself, a plain btrfs",
        started.elapsed()
    ));

    step("Are both disks equal, to the last name, byte, hole, link, owner, time and attribute?");
    let (source, sink) = (Tree::of(old.path()), Tree::of(migration.mount()));
    let differences = source.differences(&sink);
    ensure!(
        differences.is_empty(),
        "they differ:\n{}",
        hermitfs_tests::tree::list(&differences)
    );
    done(&format!(
        "yes: {} objects, no difference, nothing of hermitfs left on either",
        source.len()
    ));
    Ok(())
}

/// A tree such as people have, and the odd one.
fn fill(root: &Path) -> Result<()> {
    for index in 0..12_000_usize {
        let directory = root.join(format!("projects/{:02}/{}", index % 60, index % 7));
        if index < 420 {
            fs::create_dir_all(&directory)?;
        }
        fs::write(
            directory.join(format!("document-{index}")),
            vec![index as u8; 500 + index * 37 % 9000],
        )?;
    }
    let odd = root.join("odd");
    fs::create_dir(&odd)?;
    let refused = Odd {
        big_mib: 96,
        ..Odd::default()
    }
    .build(&odd, 1);
    ensure!(refused.is_empty(), "the old disk refused {refused:?}");
    Ok(())
}

/// Shows how far it is until everything is healed.
fn watch(migration: &Migration<'_>, crew: &mut Crew) -> Result<Duration> {
    let started = Instant::now();
    // On a terminal one line that changes.
    let (terminal, every) = match std::io::stdout().is_terminal() {
        true => (true, Duration::from_millis(200)),
        false => (false, Duration::from_secs(3)),
    };
    let mut shown = Instant::now();
    loop {
        let status = migration.status();
        let number = |what: &str, which: &str| status.0[what][which].as_u64();
        let (files, bytes) = (
            number("files", "done").unwrap_or(0),
            number("bytes", "done").unwrap_or(0),
        );
        if shown.elapsed() > every {
            shown = Instant::now();
            let of = number("files", "total").map_or(String::new(), |total| format!(" of {total}"));
            let pending = status.number("pending");
            let (start, end) = if terminal {
                ("\r", "\x1b[K")
            } else {
                ("", "\n")
            };
            print!(
                "{start}    {files:>6}{of} objects, {:>4} MiB; {pending} pending{end}",
                bytes >> 20
            );
            std::io::stdout().flush()?;
        }
        let crawled = status.0["files"]["total"].is_u64() && status.number("crawl") == 0;
        if crawled && files >= number("files", "total").unwrap_or(u64::MAX) || status.is("ready") {
            if terminal {
                print!("\r\x1b[K");
            }
            return Ok(started.elapsed());
        }
        ensure!(
            started.elapsed() < Duration::from_secs(180),
            "not there after three minutes: {}",
            status.0
        );
        crew.work_for(Duration::from_millis(100));
    }
}

fn step(text: &str) {
    println!("\n\u{25b8} {text}");
}

fn done(text: &str) {
    println!("  \u{2713} {text}");
}
