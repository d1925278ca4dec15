//! Where requests of one kind wait while the door stands still.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long to sleep between two looks at who is still inside.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Default)]
pub(crate) struct Hold {
    held: AtomicBool,
    inside: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
}

/// Somebody inside; leaves when dropped.
pub(crate) struct Pass<'a>(&'a Hold);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Hold {
    /// Goes in; waits while requests are held.
    pub(crate) async fn enter(&self) -> Pass<'_> {
        poll_fn(|cx| {
            // Counted first, then looked: whoever holds looks in the other order.
            self.inside.fetch_add(1, Ordering::SeqCst);
            let pass = Pass(self);
            if !self.held.load(Ordering::SeqCst) {
                return Poll::Ready(pass);
            }
            drop(pass);
            let mut waiting = self.waiting.lock();
            // Asked again under the lock: a release in between would not have woken us.
            if self.held.load(Ordering::SeqCst) {
                waiting.push(cx.waker().clone());
            } else {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await
    }

    /// Lets nobody in from now on.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Whether the last one inside has left by then.
    pub(crate) fn is_empty_by(&self, deadline: Instant) -> bool {
        while self.inside.load(Ordering::SeqCst) > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }

    /// Lets everybody in again.
    pub(crate) fn release(&self) {
        let waiting = {
            let mut waiting = self.waiting.lock();
            self.held.store(false, Ordering::SeqCst);
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use hermitfs_api::poll_once;

    use super::*;

    #[test]
    fn who_is_inside_is_waited_for_and_who_comes_later_waits() {
        let hold = Hold::default();
        let Poll::Ready(inside) = poll_once(pin!(hold.enter())) else {
            panic!("held for no reason");
        };
        hold.hold();
        assert!(!hold.is_empty_by(Instant::now()));
        let mut late = pin!(hold.enter());
        assert!(poll_once(late.as_mut()).is_pending());
        drop(inside);
        assert!(hold.is_empty_by(Instant::now()), "who waits is not inside");
        hold.release();
        assert!(poll_once(late.as_mut()).is_ready());
    }
}
