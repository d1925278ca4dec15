//! Locks that are being asked for, which a client can put an end to by a word.
//!
//! Such a word may come while the lock is waited for, after it was had, and, as calls overtake each other, before it is
//! asked for. In each case, when the word is answered nothing of it is under way, and nothing
//! will be.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// So many that were ended and have not come yet are remembered. They come in the next moment, or were lost
/// on their way.
const REMEMBERED: usize = 1024;

/// Of one session.
#[derive(Default)]
pub(crate) struct Waiting {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    under_way: HashMap<u64, State>,
    ended: VecDeque<u64>,
}

#[derive(Default)]
struct State {
    /// It may have been sent again by another connection, while the first still goes on.
    count: usize,
    is_ended: bool,
}

/// One that is under way, until dropped.
pub(crate) struct UnderWay<'a> {
    waiting: &'a Waiting,
    ticket: u64,
}

impl Waiting {
    /// `None` when it was ended before it came.
    pub(crate) fn begin(&self, ticket: u64) -> Option<UnderWay<'_>> {
        let mut inner = self.inner.lock();
        if inner.ended.contains(&ticket) {
            return None;
        }
        inner.under_way.entry(ticket).or_default().count += 1;
        Some(UnderWay {
            waiting: self,
            ticket,
        })
    }

    /// Returns when nothing of it is under way.
    pub(crate) async fn end(&self, ticket: u64) {
        {
            let mut inner = self.inner.lock();
            if inner.ended.len() == REMEMBERED {
                inner.ended.pop_front();
            }
            inner.ended.push_back(ticket);
            if let Some(state) = inner.under_way.get_mut(&ticket) {
                state.is_ended = true;
            }
        }
        self.changed.notify_waiters();
        self.until(|inner| !inner.under_way.contains_key(&ticket))
            .await;
    }

    async fn until(&self, is_so: impl Fn(&Inner) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if is_so(&self.inner.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl UnderWay<'_> {
    /// Until its client puts an end to it.
    pub(crate) async fn ended(&self) {
        let ended = |inner: &Inner| {
            let state = inner.under_way.get(&self.ticket);
            state.is_some_and(|state| state.is_ended)
        };
        self.waiting.until(ended).await;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut inner = self.waiting.inner.lock();
        if let Some(state) = inner.under_way.get_mut(&self.ticket) {
            state.count -= 1;
            if state.count == 0 {
                inner.under_way.remove(&self.ticket);
            }
        }
        drop(inner);
        self.waiting.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use hermitfs_api::poll_once;

    use super::*;

    #[test]
    fn what_is_ended_before_it_comes_is_not_begun() {
        let waiting = Waiting::default();
        assert!(poll_once(pin!(waiting.end(7))).is_ready());
        assert!(waiting.begin(7).is_none());
        assert!(waiting.begin(8).is_some());
    }

    #[test]
    fn what_is_under_way_is_told_and_waited_for() {
        let waiting = Waiting::default();
        let (first, again) = (waiting.begin(7).unwrap(), waiting.begin(7).unwrap());
        let other = waiting.begin(8).unwrap();
        let mut end = pin!(waiting.end(7));
        {
            let mut told = pin!(first.ended());
            assert!(poll_once(told.as_mut()).is_pending());
            assert!(poll_once(end.as_mut()).is_pending());
            assert!(poll_once(told.as_mut()).is_ready());
            assert!(poll_once(pin!(again.ended())).is_ready());
            assert!(poll_once(pin!(other.ended())).is_pending());
        }
        drop(first);
        assert!(poll_once(end.as_mut()).is_pending());
        drop(again);
        assert!(poll_once(end.as_mut()).is_ready());
        drop(other);
        assert!(waiting.inner.lock().under_way.is_empty());
    }

    #[test]
    fn only_so_many_are_remembered_but_whoever_is_under_way_is_told() {
        let waiting = Waiting::default();
        let first = waiting.begin(0).unwrap();
        for ticket in 0..=REMEMBERED as u64 {
            let _ = poll_once(pin!(waiting.end(ticket)));
        }
        assert_eq!(waiting.inner.lock().ended.len(), REMEMBERED);
        assert!(poll_once(pin!(first.ended())).is_ready());
    }
}
