//! Who may wait on a thread that takes requests from the kernel.
//!
//! Their number is fixed when the session starts. If all of them stood in a slow disk's queue or
//! in front of a frozen volume, nobody would read the next request. So the last two never work
//! themselves while all others do: what they are given goes to other threads.

use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) struct Gate {
    busy: AtomicUsize,
    limit: usize,
}

/// Leave to work, and to wait, on this thread.
pub(crate) struct Pass<'a>(&'a Gate);

impl Gate {
    pub(crate) fn new(threads: usize) -> Gate {
        Gate {
            busy: AtomicUsize::new(0),
            limit: threads.saturating_sub(2).max(1),
        }
    }

    pub(crate) fn enter(&self) -> Option<Pass<'_>> {
        if self.busy.fetch_add(1, Ordering::Relaxed) < self.limit {
            return Some(Pass(self));
        }
        self.busy.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_threads_are_always_left() {
        let gate = Gate::new(8);
        let inside: Vec<_> = (0..6).map(|_| gate.enter().unwrap()).collect();
        assert!(gate.enter().is_none());
        drop(inside);
        assert!(gate.enter().is_some());
        assert!(Gate::new(2).enter().is_some(), "one of two may work");
    }
}
