//! Where those wait who would open a file past the door for no other reason than that others have
//! it open so, while the door wants to have everything through itself: when these are gone, it can
//! be opened in another way. They are not waited for long, nor again and again.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long an open waits.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// How long no open of a file waits when one has waited in vain.
pub(crate) const IN_VAIN: Duration = Duration::from_secs(5);

/// How often those who wait look again.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Default)]
pub(crate) struct Patience(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    wakers: Vec<Waker>,
    /// A thread wakes them.
    ticking: bool,
}

impl Patience {
    /// Waits until it is so, or the time is over: whether it is.
    pub(crate) async fn until(&self, so: impl Fn() -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        poll_fn(|cx| {
            if so() {
                return Poll::Ready(true);
            }
            if Instant::now() >= end || !self.wake_later(cx.waker()) {
                return Poll::Ready(false);
            }
            Poll::Pending
        })
        .await
    }

    /// False when there is nobody to do it.
    fn wake_later(&self, waker: &Waker) -> bool {
        let mut waiting = self.0.lock();
        waiting.wakers.push(waker.clone());
        if !waiting.ticking {
            let all = self.0.clone();
            let started = thread::Builder::new()
                .name("fuse-patience".into())
                .spawn(move || tick(&all));
            waiting.ticking = started.is_ok();
        }
        waiting.ticking
    }
}

fn tick(all: &Mutex<Waiting>) {
    loop {
        thread::sleep(LOOK);
        let mut waiting = all.lock();
        let wakers = std::mem::take(&mut waiting.wakers);
        if wakers.is_empty() {
            waiting.ticking = false;
            return;
        }
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use hermitfs_api::block_on;

    use super::*;

    #[test]
    fn what_comes_to_be_so_is_waited_for_and_what_does_not_is_not_for_ever() {
        let patience = Patience::default();
        let looks = AtomicU32::new(0);
        let third = || looks.fetch_add(1, Ordering::Relaxed) == 2;
        assert!(block_on(patience.until(third)));
        let began = Instant::now();
        assert!(!block_on(patience.until(|| false)));
        assert!(began.elapsed() >= PATIENCE);
    }
}
