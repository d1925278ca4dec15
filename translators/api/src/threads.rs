use std::io;
use std::sync::mpsc::channel;
use std::thread::{Builder, JoinHandle};

/// Whether so many threads are to be had just now, as they are not where a limit of processes is reached; for those
/// whose own way to start theirs panics then, or never comes back.
///
/// # Errors
/// What the kernel says, `EAGAIN` as a rule.
pub fn try_threads(many: usize) -> io::Result<()> {
    let mut all: Vec<JoinHandle<()>> = Vec::with_capacity(many);
    let mut holds = Vec::with_capacity(many);
    let mut failed = Ok(());
    for _ in 0..many {
        let (hold, held) = channel::<()>();
        // All at one time: it ends when it is let go of below.
        match Builder::new().spawn(move || held.recv().unwrap_or_default()) {
            Ok(thread) => all.push(thread),
            Err(error) => failed = Err(error),
        }
        holds.push(hold);
    }
    drop(holds);
    for thread in all {
        let _ = thread.join();
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_were_tried_have_ended() {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        try_threads(8).unwrap();
        // The kernel may list one for a moment after it was joined; other tests have theirs.
        let soon = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while threads() >= before + 8 {
            assert!(std::time::Instant::now() < soon, "they stay");
        }
    }
}
