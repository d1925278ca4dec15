//! Where users' changes wait while a pair is frozen.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Poll, Waker};

use hermitfs_api::{Errno, Error, Result};
use parking_lot::Mutex;

const OPEN: u8 = 0;
const FROZEN: u8 = 1;
const RETIRED: u8 = 2;

/// Open, frozen (changes wait), or retired (changes are answered ESTALE).
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: AtomicU8,
    inside: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
}

/// Somebody inside; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    /// Goes in, when that is allowed. Nothing has been done before.
    pub(crate) async fn enter(&self) -> Result<Pass<'_>> {
        poll_fn(|cx| {
            // Counted first, then looked: whoever freezes looks in the other order.
            self.inside.fetch_add(1, Ordering::AcqRel);
            let pass = Pass(self);
            match self.state.load(Ordering::Acquire) {
                OPEN => return Poll::Ready(Ok(pass)),
                RETIRED => return Poll::Ready(Err(Error::new(Errno::ESTALE))),
                _ => {}
            }
            drop(pass);
            let mut waiting = self.waiting.lock();
            // Asked again under the lock: a thaw between would not have woken us.
            match self.state.load(Ordering::Acquire) {
                FROZEN => {
                    waiting.push(cx.waker().clone());
                    Poll::Pending
                }
                _ => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Lets nobody in from now on.
    pub(crate) fn freeze(&self) {
        let swap = self
            .state
            .compare_exchange(OPEN, FROZEN, Ordering::AcqRel, Ordering::Acquire);
        if swap.is_err() {
            tracing::debug!("frozen or retired already");
        }
    }

    /// Lets everybody in again.
    pub(crate) fn thaw(&self) {
        self.turn(FROZEN, OPEN);
    }

    /// Ends it all.
    pub(crate) fn retire(&self) {
        self.turn(OPEN, RETIRED);
        self.turn(FROZEN, RETIRED);
    }

    fn turn(&self, from: u8, to: u8) {
        let waiting = {
            let mut waiting = self.waiting.lock();
            let swap = self
                .state
                .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
            if swap.is_err() {
                return;
            }
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// How many are inside.
    pub(crate) fn inside(&self) -> u64 {
        self.inside.load(Ordering::Acquire)
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.state.load(Ordering::Acquire) == FROZEN
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.state.load(Ordering::Acquire) == RETIRED
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use hermitfs_api::poll_once;

    use super::*;

    #[test]
    fn frozen_changes_wait_and_go_on_after_a_thaw_or_get_estale() {
        let gate = Gate::default();
        let pass = match poll_once(pin!(gate.enter())) {
            Poll::Ready(Ok(pass)) => pass,
            other => panic!("{other:?}"),
        };
        assert_eq!(gate.inside(), 1);
        gate.freeze();
        let mut held = pin!(gate.enter());
        assert!(poll_once(held.as_mut()).is_pending());
        assert_eq!(gate.inside(), 1, "who waits is not inside");
        drop(pass);
        assert_eq!(gate.inside(), 0);
        gate.thaw();
        assert!(matches!(poll_once(held.as_mut()), Poll::Ready(Ok(_))));
        gate.retire();
        let late = poll_once(pin!(gate.enter()));
        assert!(matches!(late, Poll::Ready(Err(error)) if error.errno() == Errno::ESTALE));
    }
}
