//! `cargo gate`: every check of the project, in one command.
//!
//! Installs what the tests need, looks at format and lints, builds, and runs all tests. The last
//! line is `N passed, N failed`, over everything; the exit code is 1 when anything failed.

mod built;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hermitfs_tests::need;
use hermitfs_tests::setup::{install_packages, project_root};
use rustix::process::{Pid, Signal, kill_process};

use crate::built::Tests;

/// Test suites from crates.io, as programs.
const SUITES: &[(&str, &str)] = &[("pjdfstest", "0.2.2"), ("fsx", "0.3.2")];

/// No suite takes nearly as long; one that does has a test that hangs, which is a failure with a name
/// (the last `has been running`) and not a gate without an end.
const LONGEST: Duration = Duration::from_secs(30 * 60);

#[derive(Default)]
struct Score {
    passed: u64,
    failed: u64,
    /// What failed, by the name of its step.
    where_failed: Vec<String>,
}

fn main() -> ExitCode {
    let mut score = Score::default();
    if let Err(error) = gate(&mut score) {
        eprintln!("gate: {error:#}");
        score.failed += 1;
        score.where_failed.push("preparing".into());
    }
    if !score.where_failed.is_empty() {
        println!("failed: {}", score.where_failed.join(", "));
    }
    println!("{} passed, {} failed", score.passed, score.failed);
    if score.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn gate(score: &mut Score) -> Result<()> {
    if let Some(sentence) = need::obstacle() {
        bail!("{sentence}");
    }
    install_packages(need::FOR_TESTS)?;
    let target = hermitfs_tests::hermitfs::target_directory();
    for (name, version) in SUITES {
        install_suite(&target, name, version)?;
    }
    step(score, "format", &mut cargo(&["fmt", "--all", "--check"]));
    let clippy = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    step(score, "lints", &mut cargo(&clippy));
    let Some(built) = all_built(score)? else {
        return Ok(());
    };
    let root = project_root();
    let (end_to_end, rooms): (Vec<Tests>, Vec<Tests>) = built
        .into_iter()
        .partition(|tests| tests.folder == root.join("tests"));
    // Rooms first: what fails there explains what fails end to end.
    let doc = cargo(&["test", "--quiet", "--workspace", "--doc"]);
    suite(score, "rooms", rooms.iter().map(run).chain([doc]).collect())?;
    let tools = end_to_end.iter().filter(|tests| tests.kind != "test");
    suite(score, "the tests' own tools", tools.map(run).collect())?;
    // End to end two at a time: each has a daemon, workers and disks of its own.
    for (name, target, threads) in [("end to end", "e2e", "2"), ("namespaces", "alone", "1")] {
        let Some(tests) = end_to_end.iter().find(|tests| tests.name == target) else {
            bail!("cargo has built no tests `{target}`");
        };
        let mut command = run(tests);
        command.args(["--test-threads", threads]);
        suite(score, name, vec![command])?;
    }
    // Alone: it works in a mount namespace of its own, which keeps the mounts of whoever else is
    // there from being taken away.
    for (name, stack, source, cuts) in [
        ("power cuts", "plain", "xfs", "5"),
        ("power cuts of a loopback pair", "loopback", "ext4", "3"),
    ] {
        let mut power = Command::new(target.join("debug/power"));
        power
            .current_dir(&root)
            .stdin(Stdio::null())
            .args(["--stack", stack, "--source", source, "--cuts", cuts])
            .args(["--work", "2", "--calm", "no"])
            .env("HERMITFS_BIN", target.join("debug/hermitfs"));
        step(score, name, &mut power);
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(arguments)
        .current_dir(project_root())
        .stdin(Stdio::null());
    command
}

fn step(score: &mut Score, name: &str, command: &mut Command) {
    println!("== {name}");
    let started = Instant::now();
    let good = command.status().is_ok_and(|status| status.success());
    note(score, name, good, started);
}

/// Says how a step ended, and counts it.
fn note(score: &mut Score, name: &str, good: bool, started: Instant) {
    println!(
        "== {name}: {} after {:.0?}",
        if good { "good" } else { "FAILED" },
        started.elapsed()
    );
    if good {
        score.passed += 1;
    } else {
        score.failed += 1;
        score.where_failed.push(name.into());
    }
}

fn all_built(score: &mut Score) -> Result<Option<Vec<Tests>>> {
    println!("== build");
    let started = Instant::now();
    let built = built::build(&mut cargo(&[]))?;
    note(score, "build", built.is_some(), started);
    Ok(built)
}

/// The command that runs all tests of a program.
fn run(tests: &Tests) -> Command {
    let mut command = Command::new(&tests.program);
    command.current_dir(&tests.folder).stdin(Stdio::null());
    command
}

/// Runs programs with tests one after the other.
fn suite(score: &mut Score, name: &str, commands: Vec<Command>) -> Result<()> {
    println!("== {name}");
    let started = Instant::now();
    let (mut passed, mut failed) = (0, 0);
    for mut command in commands {
        let (its_passed, its_failed) = tests_of(name, &mut command)?;
        passed += its_passed;
        failed += its_failed;
    }
    println!(
        "== {name}: {passed} passed, {failed} failed after {:.0?}",
        started.elapsed()
    );
    score.passed += passed;
    score.failed += failed;
    if failed > 0 {
        score.where_failed.push(name.into());
    }
    Ok(())
}

/// Runs a program with tests, shows what it says, and adds up its `test result:` lines: passed, failed.
fn tests_of(name: &str, command: &mut Command) -> Result<(u64, u64)> {
    println!("-- {}", command.get_program().display());
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    let (ended, watching) = watch(child.id(), LONGEST);
    let (mut passed, mut failed) = (0, 0);
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            let _ = std::io::stdout().flush();
            if let Some(result) = line.strip_prefix("test result: ") {
                passed += count(result, "passed");
                failed += count(result, "failed");
            }
        }
    }
    let good = child.wait()?.success();
    drop(ended);
    if watching.join().unwrap_or(true) {
        println!("== {name}: a test hangs; all were ended, and may have left mounts and disks");
    }
    if !good && failed == 0 {
        // A test took the whole process with it.
        failed = 1;
    }
    Ok((passed, failed))
}

/// Ends a process and its children after a time, unless told before that it has ended;
/// whether it did so is the thread's result.
fn watch(pid: u32, longest: Duration) -> (Sender<()>, JoinHandle<bool>) {
    let (ended, waits) = channel();
    let watching = thread::spawn(move || {
        let late = waits.recv_timeout(longest) == Err(RecvTimeoutError::Timeout);
        if late {
            for pid in family(pid) {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
            }
        }
        late
    });
    (ended, watching)
}

/// A process and all below it.
fn family(first: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name, which may have anything in it: the state, and the parent.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![first];
    let mut next = 0;
    while let Some(&of) = found.get(next) {
        let children = parents.iter().filter(|(_, parent)| *parent == of);
        found.extend(children.map(|(pid, _)| pid));
        next += 1;
    }
    found
}

/// The number before a word: `count("ok. 3 passed; 1 failed; ...", "failed")` is 1.
fn count(result: &str, word: &str) -> u64 {
    let words: Vec<&str> = result
        .split([' ', ';', '.'])
        .filter(|word| !word.is_empty())
        .collect();
    let at = words.iter().position(|found| *found == word);
    at.and_then(|at| words.get(at.checked_sub(1)?))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn install_suite(target: &Path, name: &str, version: &str) -> Result<()> {
    let root: PathBuf = target.join("suites");
    if root.join("bin").join(name).is_file() {
        return Ok(());
    }
    println!("== installing {name} {version}");
    let root = root.to_string_lossy();
    let wanted = format!("{name}@{version}");
    let build = target.join("suites-build");
    let status = cargo(&[
        "install", "--quiet", "--debug", "--locked", "--root", &root, &wanted,
    ])
    .env("CARGO_TARGET_DIR", build)
    .status()?;
    if !status.success() {
        bail!("cargo install {wanted} failed: is crates.io reachable?");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::{count, watch};

    #[test]
    fn what_hangs_is_ended_with_its_children_and_what_ends_is_left_alone() {
        let run = |script: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]).stdout(Stdio::piped());
            shell.spawn().unwrap()
        };
        let mut hangs = run("sleep 1000 & sleep 1000; true");
        let (ended, watching) = watch(hangs.id(), Duration::from_millis(200));
        // The children hold it open as long as they live.
        let mut said = Vec::new();
        hangs.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        assert!(!hangs.wait().unwrap().success());
        drop(ended);
        assert!(watching.join().unwrap());

        let mut ends = run("true");
        let (ended, watching) = watch(ends.id(), Duration::from_secs(1000));
        assert!(ends.wait().unwrap().success());
        drop(ended);
        assert!(!watching.join().unwrap());
    }

    #[test]
    fn the_result_line_of_a_suite_is_understood() {
        let line =
            "FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s";
        assert_eq!((count(line, "passed"), count(line, "failed")), (12, 3));
        assert_eq!(count("ok. nothing", "passed"), 0);
    }
}
