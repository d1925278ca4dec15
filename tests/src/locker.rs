//! Processes that lock files, one order after the other.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::hermitfs::built;

/// How long an answer may take that nobody is in the way of.
const SOON: Duration = Duration::from_secs(60);

/// One such process; killed when dropped.
pub struct Locker {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Locker {
    /// Starts one.
    pub fn start() -> Locker {
        Locker::with(Stdio::inherit())
    }

    /// Starts one that has this open file (the same one, not another of the same path) from the start:
    /// `adopt NAME` names it.
    pub fn heir(file: std::fs::File) -> Locker {
        Locker::with(file.into())
    }

    fn with(inherited: Stdio) -> Locker {
        let mut child = Command::new(built("hermitfs-lock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(inherited)
            .spawn()
            .expect("hermitfs-lock starts");
        let orders = child.stdin.take().expect("a pipe");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let (tell, answers) = channel();
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Locker {
            child,
            orders,
            answers,
        }
    }

    /// Starts one that has a file open under the name `f`.
    pub fn on(path: &Path) -> Locker {
        let mut locker = Locker::start();
        locker.done(&format!("open f {}", path.display()));
        locker
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order, and does not wait for what comes of it.
    pub fn begin(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("it takes orders");
    }

    /// What came of the last order.
    #[track_caller]
    pub fn end(&mut self) -> String {
        match self.answers.recv_timeout(SOON) {
            Ok(answer) => answer,
            Err(error) => panic!("process {} says nothing: {error}", self.pid()),
        }
    }

    /// Whether the last order is being worked on still after this time.
    pub fn waits_for(&mut self, time: Duration) -> bool {
        match self.answers.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
            Ok(answer) => panic!("process {} got an answer: {answer}", self.pid()),
        }
    }

    /// What came of the last order, if it comes within this time.
    pub fn answer_within(&mut self, time: Duration) -> Option<String> {
        match self.answers.recv_timeout(time) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("process {} is gone", self.pid()),
        }
    }

    /// Gives an order and says what came of it.
    #[track_caller]
    pub fn ask(&mut self, order: &str) -> String {
        self.begin(order);
        self.end()
    }

    /// Gives an order that succeeds.
    #[track_caller]
    pub fn done(&mut self, order: &str) {
        assert_eq!(self.ask(order), "ok", "{order}");
    }

    /// Gives an order that fails so.
    #[track_caller]
    pub fn fails(&mut self, order: &str, errno: i32) {
        assert_eq!(self.ask(order), format!("errno {errno}"), "{order}");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("it is there");
    }

    /// Whether it has ended, within a minute.
    pub fn ends(&mut self) -> bool {
        crate::wait::until(SOON, "the end of a process", || {
            self.child.try_wait().expect("it is our child")
        });
        true
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
