//! A migration by `hermitfs migrate`, from its start to its end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::hermitfs::{Outcome, Status, command, exit, hermitfs, is_daemon, run, signal_daemon};
use crate::lab::Lab;
use crate::tree::Tree;
use crate::wait::until;

/// OLD, NEW and the mount point, and the daemon between them.
pub struct Migration<'lab> {
    lab: &'lab Lab,
    old: PathBuf,
    new: PathBuf,
    mount: PathBuf,
    state: PathBuf,
    /// OLD, so that comparing leaves no atimes on it.
    view: PathBuf,
    pid: i32,
}

impl<'lab> Migration<'lab> {
    pub(crate) fn new(lab: &'lab Lab, old: &Path, new: &Path) -> Migration<'lab> {
        let (mount, state, view) = (lab.dir("data"), lab.dir("state"), lab.quiet_view(old));
        Migration {
            lab,
            old: old.to_owned(),
            new: new.to_owned(),
            mount,
            state,
            view,
            pid: 0,
        }
    }

    /// `migrate OLD NEW MOUNTPOINT --no-wait`, also to go on after a kill.
    #[track_caller]
    pub fn start(&mut self) -> &mut Self {
        self.try_start(&[]).expect(exit::OK);
        self
    }

    /// The same, when it may fail; with more arguments.
    pub fn try_start(&mut self, more: &[&str]) -> Outcome {
        let mut arguments: Vec<OsString> = vec!["migrate".into()];
        arguments.extend([&self.old, &self.new, &self.mount].map(OsString::from));
        arguments.push("--no-wait".into());
        arguments.extend(more.iter().map(OsString::from));
        let outcome = run(
            command(&self.state).args(&arguments),
            Duration::from_secs(60),
        );
        if outcome.code == exit::OK {
            self.pid = self.status().pid();
            self.lab.remember_daemon(self.pid);
        }
        outcome
    }

    /// Where users work.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// A path that users see.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mount.join(path)
    }

    /// The source.
    pub fn old(&self) -> &Path {
        &self.old
    }

    /// The sink.
    pub fn new_brick(&self) -> &Path {
        &self.new
    }

    /// Where state is.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The daemon's process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What the daemon says.
    #[track_caller]
    pub fn status(&self) -> Status {
        Status::of(&self.state, &self.mount)
            .unwrap_or_else(|| panic!("no daemon answers for {}", self.mount.display()))
    }

    /// Runs a command of hermitfs on the mount: its name, the mount point, more arguments.
    pub fn command(&self, name: &str, more: &[&str]) -> Outcome {
        let mut arguments: Vec<OsString> = vec![name.into(), self.mount.clone().into()];
        arguments.extend(more.iter().map(OsString::from));
        hermitfs(&self.state, &arguments)
    }

    /// SIGKILL; returns when the process is gone. The dead mount stays.
    pub fn kill(&self) {
        signal_daemon(self.pid, Signal::KILL);
        until(Duration::from_secs(30), "the killed daemon's end", || {
            (!is_daemon(self.pid)).then_some(())
        });
    }

    /// SIGTERM: a clean end.
    pub fn terminate(&self) {
        signal_daemon(self.pid, Signal::TERM);
        until(Duration::from_secs(60), "the daemon's end", || {
            (!is_daemon(self.pid)).then_some(())
        });
    }

    /// Waits until everything is healed and the pair says that it is ready.
    #[track_caller]
    pub fn wait_ready(&self, at_most: Duration) {
        let mut last = None;
        let mut ready = || {
            let status = self.status();
            let done = status.is("ready") && status.number("pending") == 0;
            last = Some(status);
            done.then_some(())
        };
        let started = std::time::Instant::now();
        while ready().is_none() {
            if started.elapsed() > at_most {
                let errors = self.command("errors", &[]);
                let status = self.status().0;
                panic!(
                    "not ready after {at_most:?}: {status:#}\n{}{}",
                    errors.stdout, errors.stderr
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Both bricks must be equal while the pair is idle; our own directory on the sink, and the
    /// times of the directory that it stands in, are left out.
    #[track_caller]
    pub fn assert_bricks_equal(&self) {
        let old = Tree::of(&self.view);
        let mut new = Tree::of(&self.new);
        new.forget_below(".hermitfs");
        new.copy_root_times_of(&old);
        old.assert_equal(&new);
    }

    /// `cutover`, after which the mount point is the new brick; everything is compared, and
    /// nothing of ours may be left.
    #[track_caller]
    pub fn cut_over(&mut self) {
        self.wait_ready(Duration::from_secs(120));
        self.command("cutover", &["--timeout", "20s"])
            .expect(exit::OK);
        until(
            Duration::from_secs(30),
            "the daemon's end after the cut-over",
            || (!is_daemon(self.pid)).then_some(()),
        );
        let old = Tree::of(&self.view);
        old.assert_equal(&Tree::of(&self.new));
        old.assert_equal(&Tree::of(&self.mount));
        assert!(
            !self.new.join(".hermitfs").exists(),
            "our directory is still on the new brick"
        );
        assert_eq!(
            device_of(&self.mount),
            device_of(&self.new),
            "the mount point is not the new brick after the cut-over"
        );
        let left: Vec<_> = std::fs::read_dir(&self.state)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert!(
            left.iter()
                .all(|name| !name.to_string_lossy().contains('-')),
            "state is left after the cut-over: {left:?}"
        );
    }
}

fn device_of(path: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).unwrap();
    (meta.dev(), meta.ino())
}
