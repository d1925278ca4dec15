//! Signals of threads that wait in one of our requests.
//!
//! fuser answers FUSE_INTERRUPT with ENOSYS, after which the kernel sends none and waits for our
//! answer, deaf to signals. So whoever may wait for long is looked at: EINTR is the answer when,
//! and only when, the thread has a signal to take. The kernel makes ERESTARTSYS of it; then the
//! handler runs, or the call is made again, or the process ends, all as natively. To a thread
//! without a signal that number would be shown (512), which no program knows.

mod status;

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use hermitfs_api::Errno;
use parking_lot::Mutex;

use status::{Status, Verdict};

/// How often threads are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// At most one part in this many of a processor is spent on that.
const SHARE: u32 = 10;

/// Never rarer.
const RAREST: Duration = Duration::from_millis(500);

/// In so many looks in a row a signal that another thread could take has to be there.
const IN_A_ROW: u32 = 5;

/// How long a caller waits who cannot be seen (of another pid namespace): a signal could not end it.
const UNSEEN: Duration = Duration::from_secs(60);

/// Those who wait, and the thread that looks at them while there are any.
#[derive(Default)]
pub(crate) struct Signals(Arc<Mutex<Watch>>);

#[derive(Default)]
struct Watch {
    next: u64,
    watched: HashMap<u64, Watched>,
    looking: bool,
}

struct Watched {
    thread: u32,
    since: Instant,
    /// Looks in a row at which it may have had a signal.
    maybe: u32,
    waker: Option<Waker>,
    ended: Option<Errno>,
}

/// One who waits. Dropped when the wait is over.
pub(crate) struct Watching {
    watch: Arc<Mutex<Watch>>,
    number: u64,
}

impl Signals {
    /// Looks at a thread from now on; 0 is one that cannot be seen.
    pub(crate) fn watch(&self, thread: u32) -> Watching {
        let mut watch = self.0.lock();
        let number = watch.next;
        watch.next += 1;
        watch.watched.insert(
            number,
            Watched {
                thread,
                since: Instant::now(),
                maybe: 0,
                waker: None,
                ended: None,
            },
        );
        if !watch.looking {
            let all = self.0.clone();
            let started = thread::Builder::new()
                .name("fuse-signals".into())
                .spawn(move || look(&all));
            match started {
                Ok(_) => watch.looking = true,
                Err(error) => {
                    tracing::error!(%error, "no thread to be had");
                    if let Some(watched) = watch.watched.get_mut(&number) {
                        watched.ended = Some(Errno::ENOLCK);
                    }
                }
            }
        }
        Watching {
            watch: self.0.clone(),
            number,
        }
    }
}

impl Watching {
    /// The errno with which the wait ends before its time, once it is known.
    pub(crate) fn poll(&self, task: &Context<'_>) -> Poll<Errno> {
        let mut watch = self.watch.lock();
        let Some(watched) = watch.watched.get_mut(&self.number) else {
            return Poll::Ready(Errno::EINTR);
        };
        if let Some(errno) = watched.ended {
            return Poll::Ready(errno);
        }
        watched.waker = Some(task.waker().clone());
        Poll::Pending
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.watch.lock().watched.remove(&self.number);
    }
}

/// Until nobody waits.
fn look(all: &Mutex<Watch>) {
    let mut pause = LOOK;
    loop {
        thread::sleep(pause);
        let threads: Vec<(u64, u32)> = {
            let mut watch = all.lock();
            if watch.watched.is_empty() {
                watch.looking = false;
                return;
            }
            let watched = watch.watched.iter();
            watched
                .map(|(number, watched)| (*number, watched.thread))
                .collect()
        };
        let begun = Instant::now();
        let seen: Vec<_> = threads
            .into_iter()
            .map(|(number, thread)| (number, judge(thread)))
            .collect();
        pause = (begun.elapsed() * SHARE).clamp(LOOK, RAREST);
        let mut woken = Vec::new();
        let mut watch = all.lock();
        for (number, verdict) in seen {
            if let Some(watched) = watch.watched.get_mut(&number)
                && watched.note(verdict)
            {
                woken.extend(watched.waker.take());
            }
        }
        drop(watch);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Watched {
    /// Whether its wait has ended.
    fn note(&mut self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Signal => self.ended = Some(Errno::EINTR),
            Verdict::Maybe => self.maybe += 1,
            Verdict::None => self.maybe = 0,
            Verdict::Unseen if self.since.elapsed() > UNSEEN => self.ended = Some(Errno::ENOLCK),
            Verdict::Unseen => {}
        }
        if self.maybe >= IN_A_ROW {
            self.ended = Some(Errno::EINTR);
        }
        self.ended.is_some()
    }
}

fn judge(thread: u32) -> Verdict {
    if thread == 0 {
        return Verdict::Unseen;
    }
    match read(&format!("/proc/{thread}/status")) {
        // Who is gone has no use for a lock.
        Read::Gone => Verdict::Signal,
        Read::Unknown => Verdict::Unseen,
        Read::Known(status) => status.judge(|| siblings(&status)),
    }
}

enum Read {
    Known(Status),
    Gone,
    Unknown,
}

fn read(path: &str) -> Read {
    match fs::read_to_string(path) {
        Ok(text) => Status::parse(&text).map_or(Read::Unknown, Read::Known),
        // ESRCH comes from a read of who went after the open.
        Err(error) if error.kind() == ErrorKind::NotFound => Read::Gone,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Read::Gone,
        Err(_) => Read::Unknown,
    }
}

/// The other threads of its process.
fn siblings(status: &Status) -> Vec<Status> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", status.process)) else {
        return Vec::new();
    };
    let tasks = tasks.flatten().filter_map(|task| {
        let read = read(&format!("{}/status", task.path().display()));
        match read {
            Read::Known(other) if other.thread != status.thread => Some(other),
            _ => None,
        }
    });
    tasks.collect()
}

/// Whether a thread that waits for a record lock has called `F_OFD_SETLKW`, which the kernel does
/// not tell. False where it cannot be seen.
pub(crate) fn waits_for_open_file(thread: u32) -> bool {
    // The caller may be on its way to sleep still: then the kernel says "running".
    for _ in 0..50 {
        let Ok(text) = fs::read_to_string(format!("/proc/{thread}/syscall")) else {
            return false;
        };
        match status::command_of_fcntl(&text) {
            Some(command) => return command == libc::F_OFD_SETLKW as u64,
            None => thread::yield_now(),
        }
    }
    false
}

#[cfg(test)]
mod tests;
