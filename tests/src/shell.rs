//! Running other programs.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

/// Runs a program to its end and fails the test, with all it said, unless it returned 0.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Output {
    run_command(Command::new(crate::need::program_at(program)).args(arguments))
}

/// The same for a command that is already put together. Nothing is read from a terminal.
pub fn run_command(command: &mut Command) -> Output {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// What a run said on stdout, without the last newline.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}
