//! A volfile mounted by `hermitfs mount`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::hermitfs::{Outcome, Status, command, exit, hermitfs, is_daemon, run, signal_daemon};
use crate::lab::Lab;
use crate::wait::until;

/// A mount with its daemon.
pub struct Mounted<'lab> {
    lab: &'lab Lab,
    state: PathBuf,
    path: PathBuf,
    arguments: Vec<OsString>,
    pid: i32,
}

impl<'lab> Mounted<'lab> {
    /// Mounts a volfile below the lab, under this name.
    pub fn volfile(lab: &'lab Lab, name: &str, volfile: &Path, set: &[&str]) -> Mounted<'lab> {
        let mut mounted = Mounted::prepare(lab, name);
        mounted.use_volfile(volfile, set);
        mounted.start();
        mounted
    }

    /// A mount point without a mount.
    pub fn prepare(lab: &'lab Lab, name: &str) -> Mounted<'lab> {
        Mounted {
            lab,
            state: lab.dir("state"),
            path: lab.dir(name),
            arguments: Vec::new(),
            pid: 0,
        }
    }

    /// What the next start mounts.
    pub fn use_volfile(&mut self, volfile: &Path, set: &[&str]) {
        let mut arguments: Vec<OsString> = vec!["mount".into(), "-f".into(), volfile.into()];
        for assignment in set {
            arguments.extend(["--set".into(), assignment.into()]);
        }
        arguments.push(self.path.clone().into());
        self.arguments = arguments;
    }

    /// Mounts (again) and learns the daemon's pid.
    pub fn start(&mut self) {
        self.try_start().expect(exit::OK);
    }

    /// The same, when it may fail.
    pub fn try_start(&mut self) -> Outcome {
        let outcome = run(
            command(&self.state).args(&self.arguments),
            Duration::from_secs(60),
        );
        if outcome.code == exit::OK
            && let Some(status) = Status::of(&self.state, &self.path)
        {
            self.pid = status.pid();
            self.lab.remember_daemon(self.pid);
        }
        outcome
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    /// What the daemon says of itself.
    pub fn status(&self) -> Status {
        Status::of(&self.state, &self.path)
            .unwrap_or_else(|| panic!("no daemon answers for {}", self.path.display()))
    }

    /// The daemon.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// SIGKILL; returns when the process is gone. The dead mount stays.
    pub fn kill(&self) {
        signal_daemon(self.pid, Signal::KILL);
        self.wait_gone();
    }

    /// Whether the daemon that was started last is there.
    pub fn is_alive(&self) -> bool {
        is_daemon(self.pid)
    }

    /// Waits for a daemon that ends by itself.
    pub fn wait_gone(&self) {
        until(Duration::from_secs(30), "the daemon's end", || {
            (!is_daemon(self.pid)).then_some(())
        });
    }

    /// SIGTERM: a clean end, which takes the mount along.
    pub fn terminate(&self) {
        signal_daemon(self.pid, Signal::TERM);
        self.wait_gone();
    }

    /// Runs a command of hermitfs on this mount: its name, the mount point, more arguments.
    pub fn command(&self, name: &str, more: &[&str]) -> Outcome {
        let mut arguments: Vec<OsString> = vec![name.into(), self.path.clone().into()];
        arguments.extend(more.iter().map(OsString::from));
        hermitfs(&self.state, &arguments)
    }
}
