//! The program under test: where it is, how it is run, what it answers.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Exit codes of the contract.
pub mod exit {
    /// Done.
    pub const OK: i32 = 0;
    /// Anything without a code of its own.
    pub const FAILED: i32 = 1;
    /// The command line is wrong.
    pub const USAGE: i32 = 64;
    /// Both sides differ.
    pub const DIFFERENCES: i32 = 65;
    /// No daemon answers.
    pub const NO_DAEMON: i32 = 69;
    /// Busy or not ready.
    pub const TRY_AGAIN: i32 = 75;
    /// Not allowed.
    pub const PERMISSION: i32 = 77;
    /// A volfile or an identity is wrong.
    pub const CONFIGURATION: i32 = 78;
}

/// The directory that cargo builds into: this program is somewhere in it.
pub fn target_directory() -> PathBuf {
    profile_directory()
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

fn profile_directory() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let dir = here.parent().unwrap();
    if dir.ends_with("deps") {
        dir.parent().unwrap().to_owned()
    } else {
        dir.to_owned()
    }
}

/// One of our own programs, built beside this one.
pub fn built(name: &str) -> PathBuf {
    let path = profile_directory().join(name);
    assert!(
        path.is_file(),
        "{} is not there: build it first with `cargo build --workspace --bins` (`cargo gate` does it)",
        path.display()
    );
    path
}

/// The hermitfs under test: `HERMITFS_BIN`, or what was built beside this program.
pub fn binary() -> PathBuf {
    match std::env::var_os("HERMITFS_BIN") {
        Some(path) => PathBuf::from(path),
        None => built("hermitfs"),
    }
}

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command line.
    pub command: String,
    /// Exit code; -1 for a signal, -2 when it had to be stopped because it took too long.
    pub code: i32,
    /// Its results.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Fails the test unless the exit code is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Outcome {
        assert_eq!(
            self.code, code,
            "{}\nstdout: {}\nstderr: {}",
            self.command, self.stdout, self.stderr
        );
        self
    }

    /// Fails the test unless it was refused with this code and one clear message that has these
    /// words in it (any case), without the traces of a crash.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) -> Outcome {
        let outcome = self.expect(code);
        let said = outcome.stderr.to_lowercase();
        for word in words {
            assert!(
                said.contains(&word.to_lowercase()),
                "{}: no {word:?} in: {}",
                outcome.command,
                outcome.stderr
            );
        }
        for trace in ["panicked", "backtrace", "unwrap"] {
            assert!(
                !said.contains(trace),
                "{}: {}",
                outcome.command,
                outcome.stderr
            );
        }
        assert!(
            !said.trim().is_empty(),
            "{}: refused without a word",
            outcome.command
        );
        outcome
    }
}

/// Runs hermitfs to its end, two minutes at most.
pub fn hermitfs<S: AsRef<OsStr>>(state_dir: &Path, arguments: &[S]) -> Outcome {
    run(command(state_dir).args(arguments), Duration::from_secs(120))
}

/// hermitfs with its state in a directory of this test.
pub fn command(state_dir: &Path) -> Command {
    let mut command = Command::new(binary());
    command.env("HERMITFS_STATE_DIR", state_dir);
    command
}

/// Runs any command to its end, at most so long.
pub fn run(command: &mut Command, at_most: Duration) -> Outcome {
    // Through files: a daemon that inherits a pipe would keep it open for ever.
    let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let code = wait(&mut child, at_most);
    let took = started.elapsed();
    let read = |file: &mut fs::File| {
        use std::io::{Read, Seek};
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Outcome {
        command: format!("{command:?}"),
        code,
        stdout: read(&mut out),
        stderr: read(&mut err),
        took,
    }
}

fn wait(child: &mut Child, at_most: Duration) -> i32 {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if started.elapsed() > at_most {
            let _ = child.kill();
            let _ = child.wait();
            return -2;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What `hermitfs status --json` says.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    /// Asks the daemon; `None` when none answers.
    pub fn of(state_dir: &Path, mount: &Path) -> Option<Status> {
        Status::ask(state_dir, mount).ok()
    }

    /// Asks the daemon; fails the test, with what the daemons logged, when none answers.
    #[track_caller]
    pub fn expect(state_dir: &Path, mount: &Path) -> Status {
        Status::ask(state_dir, mount)
            .unwrap_or_else(|outcome| panic!("{outcome:?}\n{}", logs(state_dir)))
    }

    fn ask(state_dir: &Path, mount: &Path) -> Result<Status, Box<Outcome>> {
        let arguments: [OsString; 3] = ["status".into(), mount.into(), "--json".into()];
        let outcome = run(command(state_dir).args(arguments), Duration::from_secs(20));
        if outcome.code != exit::OK {
            return Err(Box::new(outcome));
        }
        let value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("status is no JSON ({error}): {}", outcome.stdout));
        Ok(Status(value))
    }

    /// A number of the top level, 0 when it is null.
    pub fn number(&self, key: &str) -> u64 {
        self.0[key]
            .as_u64()
            .or_else(|| self.0[key].as_f64().map(|f| f as u64))
            .unwrap_or(0)
    }

    /// A yes or no of the top level.
    pub fn is(&self, key: &str) -> bool {
        self.0[key]
            .as_bool()
            .unwrap_or_else(|| panic!("no yes or no in {key:?} of {}", self.0))
    }

    /// The daemon's process.
    pub fn pid(&self) -> i32 {
        self.0["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap_or_else(|| panic!("no pid in {}", self.0))
    }
}

/// The last lines of all daemons' logs.
pub fn logs(state_dir: &Path) -> String {
    let logs = fs::read_dir(state_dir.join("log")).into_iter().flatten();
    logs.flatten()
        .map(|entry| last_lines(&entry.path()))
        .collect()
}

/// The last lines of one, under its name.
pub fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(30)..];
    format!("{}:\n  {}\n", log.display(), last.join("\n  "))
}
