//! Tries to lock bytes of a file as a process of its own: 75 when another has them.
//!
//! `hermitfs-lock FILE START LENGTH`

use std::fs::OpenOptions;
use std::process::ExitCode;

use hermitfs_tests::sys::{RangeLock, range_lock};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
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
