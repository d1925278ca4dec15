//! Disks that write down all that is written to them: loop devices over images that one
//! qemu-storage-daemon exports, with a log for each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hermitfs_tests::need::program_at;
use hermitfs_tests::wait::until;
use rustix::process::{Pid, Signal};

const LONG: Duration = Duration::from_secs(60);

/// Where the log of the n-th image is, in the directory that [`Storage::over`] was given.
pub(crate) fn log_in(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("log-{n}"))
}

/// Images behind one process, so that it can stop for all of them at one moment.
pub(crate) struct Storage {
    process: Child,
    logs: Vec<PathBuf>,
    exports: Vec<PathBuf>,
}

impl Storage {
    /// Exports these images as files in `dir`; what is written goes to the images and to logs.
    pub(crate) fn over(dir: &Path, images: &[PathBuf]) -> Storage {
        // It ends with us, however we end.
        let mut command = Command::new(program_at("setpriv"));
        command.args(["--pdeathsig", "KILL"]);
        command.arg(program_at("qemu-storage-daemon"));
        let (mut logs, mut exports) = (Vec::new(), Vec::new());
        for (n, image) in images.iter().enumerate() {
            let (log, export) = (log_in(dir, n), dir.join(format!("export-{n}")));
            fs::write(&log, b"").unwrap();
            fs::write(&export, b"").unwrap();
            let file = |node: &str, path: &Path| {
                // The images lie on a machine that stays on.
                let path = path.display();
                format!("driver=file,node-name={node}{n},filename={path},cache.no-flush=on")
            };
            command.args(["--blockdev", &file("image", image)]);
            command.args(["--blockdev", &file("log", &log)]);
            let logged = format!(
                "driver=blklogwrites,node-name=disk{n},file=image{n},log=log{n},log-sector-size=512"
            );
            command.args(["--blockdev", &logged]);
            let exported = format!(
                "type=fuse,id=export{n},node-name=disk{n},writable=on,allow-other=off,mountpoint={}",
                export.display()
            );
            command.args(["--export", &exported]);
            logs.push(log);
            exports.push(export);
        }
        let process = command.stdin(Stdio::null()).spawn().unwrap();
        let mut storage = Storage {
            process,
            logs,
            exports,
        };
        for (image, export) in images.iter().zip(storage.exports.clone()) {
            let size = fs::metadata(image).unwrap().len();
            until(LONG, "an export of qemu-storage-daemon", || {
                let ended = storage.process.try_wait().unwrap();
                assert!(ended.is_none(), "qemu-storage-daemon: {ended:?}");
                (fs::metadata(&export).ok()?.len() == size).then_some(())
            });
        }
        storage
    }

    /// The exported files, one for each image.
    pub(crate) fn exports(&self) -> &[PathBuf] {
        &self.exports
    }

    /// Calls `look` while nothing can be written, with the length of each log. What was
    /// acknowledged by then is in them, and nothing that was asked for later.
    pub(crate) fn at_one_moment<R>(&self, look: impl FnOnce(Vec<u64>) -> R) -> R {
        let pid = Pid::from_child(&self.process);
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        until(LONG, "qemu-storage-daemon to stop", || {
            let state = state_of(format!("/proc/{pid}/stat"));
            assert!(state != 'Z', "qemu-storage-daemon has ended by itself");
            self.has_stopped().then_some(())
        });
        let lengths = self
            .logs
            .iter()
            .map(|log| fs::metadata(log).unwrap().len())
            .collect();
        let seen = look(lengths);
        rustix::process::kill_process(pid, Signal::CONT).unwrap();
        seen
    }

    /// Whether all of its threads stand still.
    fn has_stopped(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let states = tasks
            .flatten()
            .map(|task| state_of(task.path().join("stat")));
        // A thread that has ended meanwhile writes no more.
        states.into_iter().all(|state| matches!(state, 'T' | 'X'))
    }

    /// Ends it, after the file systems have been unmounted. The logs are complete then.
    pub(crate) fn close(mut self) {
        let pid = Pid::from_child(&self.process);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        let status = until(LONG, "qemu-storage-daemon to end", || {
            self.process.try_wait().unwrap()
        });
        assert!(status.success(), "qemu-storage-daemon: {status}");
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // After a failure: what is mounted over it gets EIO and is unmounted by the lab.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// As proc_pid_stat(5) tells it; `X` of what is gone.
fn state_of(stat: impl AsRef<Path>) -> char {
    let stat = fs::read_to_string(stat).unwrap_or_default();
    let after = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    after.unwrap_or('X')
}
