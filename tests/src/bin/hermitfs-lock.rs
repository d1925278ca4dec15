//! Locks bytes of a file as a process of its own.
//!
//! `hermitfs-lock FILE START LENGTH` tries once: 75 when another has them. `hermitfs-lock` alone
//! does what it reads, a line each, and says what came of it: see `locker.rs`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use hermitfs_tests::sys::{RangeLock, handle_alarms, holder, range_lock, range_lock_wait};
use rustix::fs::FlockOperation;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        return match talk() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let [path, start, length] = arguments.as_slice() else {
        return ExitCode::from(64);
    };
    let (Ok(start), Ok(length)) = (start.parse(), length.parse()) else {
        return ExitCode::from(64);
    };
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match range_lock(&file, RangeLock::Process, libc::F_WRLCK, start, length) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(75),
    }
}

fn talk() -> io::Result<()> {
    let mut files: HashMap<String, File> = HashMap::new();
    for line in io::stdin().lines() {
        let answer = match obey(&line?, &mut files) {
            Ok(answer) => answer,
            Err(error) => match error.raw_os_error() {
                Some(errno) => format!("errno {errno}"),
                None => return Err(error),
            },
        };
        let mut out = io::stdout();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn obey(line: &str, files: &mut HashMap<String, File>) -> io::Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let bad = || io::Error::other(format!("what is `{line}`?"));
    let number = |text: &str| text.parse::<i64>().map_err(|_| bad());
    match words[..] {
        ["open", name, path] => {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            files.insert(name.into(), file);
        }
        // What this process got from the one that started it.
        ["adopt", name] => {
            let file = io::stderr().as_fd().try_clone_to_owned()?;
            files.insert(name.into(), file.into());
        }
        ["dup", name, copy] => {
            let file = files.get(name).ok_or_else(bad)?.try_clone()?;
            files.insert(copy.into(), file);
        }
        ["close", name] => drop(files.remove(name).ok_or_else(bad)?),
        ["alarms", restart] => handle_alarms(restart == "restart")?,
        ["lock", name, "flock", kind, wait] => {
            let how = match (kind, wait) {
                ("shared", "wait") => FlockOperation::LockShared,
                ("exclusive", "wait") => FlockOperation::LockExclusive,
                ("shared", _) => FlockOperation::NonBlockingLockShared,
                ("exclusive", _) => FlockOperation::NonBlockingLockExclusive,
                _ => FlockOperation::Unlock,
            };
            rustix::fs::flock(files.get(name).ok_or_else(bad)?, how)?;
        }
        ["lock", name, family, kind, start, length, wait] => {
            let file = files.get(name).ok_or_else(bad)?;
            let lock = match wait {
                "wait" => range_lock_wait,
                _ => range_lock,
            };
            let (start, length) = (number(start)?, number(length)?);
            lock(file, self::family(family), self::kind(kind), start, length)?;
        }
        ["holder", name, family, kind, start, length] => {
            let file = files.get(name).ok_or_else(bad)?;
            let (start, length) = (number(start)?, number(length)?);
            let found = holder(file, self::family(family), self::kind(kind), start, length)?;
            let name = |kind| match kind {
                libc::F_WRLCK => "exclusive",
                _ => "shared",
            };
            return Ok(match found {
                None => "free".into(),
                Some((kind, start, length, pid)) => {
                    format!("{} {start} {length} {pid}", name(kind))
                }
            });
        }
        _ => return Err(bad()),
    }
    Ok("ok".into())
}

fn family(word: &str) -> RangeLock {
    match word {
        "ofd" => RangeLock::OpenFile,
        _ => RangeLock::Process,
    }
}

fn kind(word: &str) -> i32 {
    match word {
        "shared" => libc::F_RDLCK,
        "exclusive" => libc::F_WRLCK,
        _ => libc::F_UNLCK,
    }
}
