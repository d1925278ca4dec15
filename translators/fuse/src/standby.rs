//! Threads that are there before they are needed. Where a limit of processes is reached none is to be had, and there
//! are moments from which on nothing may fail.

use std::io;
use std::sync::mpsc;

use crate::work;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that waits for what it is to do, and ends when this is dropped without it.
struct Standby(mpsc::Sender<Job>);

impl Standby {
    fn start(name: &str) -> io::Result<Standby> {
        let (sender, receiver) = mpsc::channel::<Job>();
        let run = move || {
            if let Ok(job) = receiver.recv() {
                job();
            }
        };
        std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Standby(sender))
    }

    fn run(self, job: impl FnOnce() + Send + 'static) {
        // It waits for nothing else.
        let _ = self.0.send(Box::new(job));
    }
}

/// The threads that a [`Mount::exchange`](crate::Mount::exchange) needs afterwards.
pub struct ExchangeThreads {
    fresh: Standby,
    forget: Standby,
}

impl ExchangeThreads {
    /// Starts them, and those for requests that are held. To be called while nobody is held, and nothing is lost
    /// when it fails.
    pub fn start() -> io::Result<ExchangeThreads> {
        if !work::can_park() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(ExchangeThreads {
            fresh: Standby::start("fuse-fresh")?,
            forget: Standby::start("fuse-forget")?,
        })
    }

    pub(crate) fn run(
        self,
        fresh: impl FnOnce() + Send + 'static,
        forget: impl FnOnce() + Send + 'static,
    ) {
        self.fresh.run(fresh);
        self.forget.run(forget);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_thread_does_what_it_has_waited_for() {
        let (done, came) = mpsc::channel();
        let thread = Standby::start("standby").unwrap();
        thread.run(move || {
            done.send(std::thread::current().name().map(str::to_owned))
                .unwrap()
        });
        let name = came.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(name.as_deref(), Some("standby"));
    }
}
