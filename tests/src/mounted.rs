//! A mount of hermitfs' with its daemon: started, asked, killed, ended.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::daemon::Daemon;
use crate::hermitfs::{Outcome, Status, command, exit, hermitfs, run};
use crate::lab::Lab;
use crate::need::program_at;

/// A mount with its daemon.
pub struct Mounted<'lab> {
    lab: &'lab Lab,
    state: PathBuf,
    path: PathBuf,
    arguments: Vec<OsString>,
    boot: Option<PathBuf>,
    starter: Option<String>,
    daemon: Option<Arc<Daemon>>,
}

/// Runs a program for which a file tells the id of its boot.
const BOOTED: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;

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
        Mounted::at(lab, &lab.dir(name))
    }

    /// The same at a directory that is there.
    pub fn at(lab: &'lab Lab, path: &Path) -> Mounted<'lab> {
        Mounted {
            lab,
            state: lab.dir("state"),
            path: path.to_owned(),
            arguments: Vec::new(),
            boot: None,
            starter: None,
            daemon: None,
        }
    }

    /// Has its state where others of the test have not, as on another host.
    pub fn keep_state_in(&mut self, directory: &Path) {
        self.state = directory.to_owned();
    }

    /// Starts on another machine, as far as hermitfs can tell: in a mount namespace of its own, where the
    /// kernel tells this id of its boot. The mount is seen there alone.
    /// Only where no other test is: a copy of its mounts would keep them busy.
    pub fn boot_as(&mut self, id: &str) {
        self.boot = Some(self.lab.file(&format!("boot-{id}"), id));
    }

    /// Starts by a shell that does this first, and then replaces itself with `"$0" "$@"`.
    pub fn start_by(&mut self, script: &str) {
        self.starter = Some(script.to_owned());
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

    /// Mounts with these options (`-o`), now and after a kill.
    pub fn use_options(&mut self, options: &str) {
        self.arguments.extend(["-o".into(), options.into()]);
    }

    /// The command line of the next start.
    pub fn use_arguments(&mut self, arguments: Vec<OsString>) {
        self.arguments = arguments;
    }

    /// Mounts, or goes on after a kill.
    #[track_caller]
    pub fn start(&mut self) {
        self.try_start(&[]).expect(exit::OK);
    }

    /// The same, when it may fail; with more arguments.
    pub fn try_start(&mut self, more: &[&str]) -> Outcome {
        let mut start = command(&self.state);
        if let Some(boot) = &self.boot {
            let program = start.get_program().to_owned();
            start = Command::new(program_at("unshare"));
            start.env("HERMITFS_STATE_DIR", &self.state);
            start.args(["--mount", "--propagation", "private", "sh", "-c", BOOTED]);
            start.arg(boot).arg(program);
        }
        if let Some(script) = &self.starter {
            let program = start.get_program().to_owned();
            start = Command::new(program_at("bash"));
            start.env("HERMITFS_STATE_DIR", &self.state);
            start.arg("-c").arg(script).arg(program);
        }
        let outcome = run(
            start.args(&self.arguments).args(more),
            Duration::from_secs(60),
        );
        if outcome.code == exit::OK {
            self.daemon = Status::of(&self.state, &self.path)
                .and_then(|status| self.lab.remember_daemon(status.pid()));
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

    /// Where state is.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// What the daemon says of itself.
    #[track_caller]
    pub fn status(&self) -> Status {
        Status::expect(&self.state, &self.path)
    }

    /// The daemon that was started last.
    #[track_caller]
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_deref().unwrap_or_else(|| {
            panic!(
                "no daemon was seen for {}\n{}",
                self.path.display(),
                crate::hermitfs::logs(&self.state)
            )
        })
    }

    /// Whether the daemon that was started last is there.
    pub fn is_alive(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| daemon.is_alive())
    }

    /// SIGKILL; returns when the process is gone. The dead mount stays.
    #[track_caller]
    pub fn kill(&self) {
        self.daemon().signal(Signal::KILL);
        self.daemon().wait_end(Duration::from_secs(30));
    }

    /// SIGTERM: a clean end, which takes the mount along.
    #[track_caller]
    pub fn terminate(&self) {
        self.daemon().signal(Signal::TERM);
        self.daemon().wait_end(Duration::from_secs(60));
    }

    /// Runs a command of hermitfs on this mount: its name, the mount point, more arguments.
    pub fn command(&self, name: &str, more: &[&str]) -> Outcome {
        let mut arguments: Vec<OsString> = vec![name.into(), self.path.clone().into()];
        arguments.extend(more.iter().map(OsString::from));
        hermitfs(&self.state, &arguments)
    }
}
