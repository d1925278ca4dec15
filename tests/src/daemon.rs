//! The process behind a mount, held by a pidfd: never another one that got its number.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

/// A daemon whose pid its own status told.
#[derive(Debug)]
pub struct Daemon {
    pid: i32,
    process: OwnedFd,
}

impl Daemon {
    /// `None` when that process has ended meanwhile, or is no hermitfs.
    pub fn of(pid: i32) -> Option<Daemon> {
        let process = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let exe = exe.to_string_lossy();
        let exe = exe.strip_suffix(" (deleted)").unwrap_or(&exe);
        let expected = crate::hermitfs::binary();
        (Path::new(exe).file_name() == expected.file_name()).then_some(Daemon { pid, process })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it runs. When it does not, all that it had open is closed.
    pub fn is_alive(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.process, signal);
    }

    /// Waits for its end; fails the test when it does not come.
    #[track_caller]
    pub fn wait_end(&self, at_most: Duration) {
        assert!(
            self.ends_within(at_most),
            "the daemon {} did not end within {at_most:?}",
            self.pid
        );
    }

    /// SIGTERM, and after a while SIGKILL.
    pub fn end(&self) {
        for (signal, patience) in [(Signal::TERM, 5), (Signal::KILL, 10)] {
            self.signal(signal);
            if self.ends_within(Duration::from_secs(patience)) {
                return;
            }
        }
    }

    fn ends_within(&self, time: Duration) -> bool {
        let time = Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: time.subsec_nanos().into(),
        };
        let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
        rustix::event::poll(&mut ended, Some(&time)).is_ok_and(|ready| ready > 0)
    }
}
