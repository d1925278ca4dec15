//! A process of its own: started anew from the same program rather than forked, told what to do
//! over its standard input, and heard over its standard output until the mount answers.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{copying, environment};
use crate::exit::{Code, Failure, Result};
use crate::order::Order;
use crate::screen;

/// What the daemon says once, when it serves or when it cannot.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// With sentences that its starter should know.
    Serving(Vec<String>),
    Failed(Failure),
}

/// Starts a daemon. Returns when its mount answers, or with its own words why it does not.
pub(crate) fn start(order: &Order) -> Result<()> {
    let gone =
        |error: std::io::Error| Failure::other(format!("the daemon could not be started: {error}"));
    let text = serde_json::to_vec(order).map_err(|error| gone(error.into()))?;
    leave_directory();
    // Through /proc, so that a program that was replaced on disk meanwhile is still the same.
    let mut child = Command::new("/proc/self/exe")
        .env_clear()
        .envs(environment::variables())
        .envs(copying::tunables())
        .arg0("hermitfs")
        .arg("daemon")
        .arg(&order.mountpoint)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(gone)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&text).map_err(gone)?;
    }
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut said).map_err(gone)?;
    }
    match serde_json::from_str(&said) {
        Ok(Answer::Serving(notes)) => {
            for note in notes {
                screen::print_error(&format!("Note: {note}.\n"));
            }
            Ok(())
        }
        Ok(Answer::Failed(failure)) => {
            let _ = child.wait();
            Err(failure)
        }
        Err(_) => {
            let how = child
                .wait()
                .map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(Failure::new(
                Code::Other,
                format!("the daemon ended before its mount answered ({how})"),
            ))
        }
    }
}

/// The daemon's side: its order.
pub(crate) fn receive() -> Result<Order> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    let order = read.ok().and_then(|_| serde_json::from_str(&text).ok());
    order.ok_or_else(|| {
        Failure::usage("`hermitfs daemon` is started by `mount` and `migrate` alone")
    })
}

/// Leaves the terminal, the session and the directory of whoever started it.
pub(crate) fn leave() {
    // Fails only for the leader of a process group, which then has no terminal to lose.
    let _ = rustix::process::setsid();
    leave_directory();
    // Started through /proc/self/exe, the kernel would call it `exe`.
    let _ = std::fs::write("/proc/self/comm", "hermitfs");
}

/// A daemon must keep no file system from being unmounted, and who asks it is not to be in the way himself.
pub(crate) fn leave_directory() {
    let _ = std::env::set_current_dir("/");
}

/// Tells whoever waits, and lets go of the standard streams. What is still written to the standard
/// error (a stack that overflowed says so there, and nowhere else) goes to the log.
pub(crate) fn answer(result: &Result<Vec<String>>, log: Option<&Path>) {
    let answer = match result {
        Ok(notes) => Answer::Serving(notes.clone()),
        Err(failure) => Answer::Failed(failure.clone()),
    };
    let text = serde_json::to_vec(&answer).unwrap_or_default();
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(&text).and_then(|()| stdout.flush());
    let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") else {
        return;
    };
    let log = log.and_then(|path| OpenOptions::new().append(true).open(path).ok());
    let _ = rustix::stdio::dup2_stdin(&null);
    let _ = rustix::stdio::dup2_stdout(&null);
    let _ = rustix::stdio::dup2_stderr(log.as_ref().unwrap_or(&null));
}
