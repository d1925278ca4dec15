//! What has lost its last name and is still known to somebody: its space is not free yet.
//!
//! Natively the space of a file that nobody has open is free when unlink(2) returns. Here the kernel says only
//! after that that it has forgotten the file. Who finds no room in between waits for what is going.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What has not gone after so long is held by somebody who has it open, and may stay for days.
const SOON: Duration = Duration::from_secs(3);

/// How often those who wait look at the clock.
const TICK: Duration = Duration::from_millis(20);

/// More are not remembered.
const MOST: usize = 4096;

/// The objects of a brick that are going.
#[derive(Default)]
pub(crate) struct Graves(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Since when, by the hash of their identity.
    going: HashMap<u64, Instant>,
    /// How many have gone so far.
    gone: u64,
    waiting: Vec<Waker>,
    /// A thread wakes those who wait.
    ticking: bool,
}

/// What there is to do for one who has found no room.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Something has gone since he began.
    TryAgain,
    /// Something is going.
    Wait,
    /// Nothing that he could wait for.
    Full,
}

impl State {
    fn bury(&mut self, hash: u64, now: Instant) {
        if self.going.len() >= MOST {
            self.forget_old(now);
        }
        if self.going.len() < MOST {
            self.going.insert(hash, now);
        }
    }

    fn forget_old(&mut self, now: Instant) {
        self.going
            .retain(|_, since| now.saturating_duration_since(*since) < SOON);
    }

    fn answer(&mut self, gone: u64, now: Instant) -> Answer {
        if self.gone != gone {
            return Answer::TryAgain;
        }
        self.forget_old(now);
        match self.going.is_empty() {
            true => Answer::Full,
            false => Answer::Wait,
        }
    }
}

impl Graves {
    /// The last name of an object that somebody knows has gone.
    pub(crate) fn bury(&self, hash: u64) {
        self.0.lock().bury(hash, Instant::now());
    }

    /// Nobody knows it any more, and no descriptor of ours holds it.
    pub(crate) fn is_gone(&self, hash: u64) {
        let mut state = self.0.lock();
        if state.going.remove(&hash).is_some() {
            state.gone += 1;
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// How many have gone so far: to be asked before the operation that may find no room.
    pub(crate) fn gone(&self) -> u64 {
        self.0.lock().gone
    }

    /// Waits until something has gone since that number was told: `true`. `false` when nothing is to go soon.
    pub(crate) async fn room_since(&self, gone: u64) -> bool {
        poll_fn(|cx| {
            let mut state = self.0.lock();
            match state.answer(gone, Instant::now()) {
                Answer::TryAgain => return Poll::Ready(true),
                Answer::Full => return Poll::Ready(false),
                Answer::Wait => state.waiting.push(cx.waker().clone()),
            }
            if !state.ticking {
                state.ticking = self.tick();
            }
            match state.ticking {
                true => Poll::Pending,
                false => Poll::Ready(false),
            }
        })
        .await
    }

    /// Starts the thread that wakes those who wait, so that none waits for ever. It ends with the last of them.
    fn tick(&self) -> bool {
        let state = self.0.clone();
        let tick = move || {
            loop {
                std::thread::sleep(TICK);
                let mut state = state.lock();
                let waiting = std::mem::take(&mut state.waiting);
                state.ticking = !waiting.is_empty();
                if waiting.is_empty() {
                    return;
                }
                drop(state);
                waiting.into_iter().for_each(Waker::wake);
            }
        };
        let thread = std::thread::Builder::new().name("graves".into());
        thread.spawn(tick).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use hermitfs_api::{block_on, poll_once};

    use super::*;

    #[test]
    fn who_finds_no_room_waits_for_what_goes_soon_and_for_nothing_else() {
        let (mut state, now) = (State::default(), Instant::now());
        assert_eq!(state.answer(0, now), Answer::Full);
        state.bury(1, now);
        assert_eq!(state.answer(0, now), Answer::Wait);
        assert_eq!(
            state.answer(0, now + SOON),
            Answer::Full,
            "somebody has it open"
        );
        assert_eq!(state.answer(7, now), Answer::TryAgain);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut state, now) = (State::default(), Instant::now());
        for hash in 0..2 * MOST as u64 {
            state.bury(hash, now);
        }
        assert_eq!(state.going.len(), MOST);
        state.bury(0, now + SOON);
        assert_eq!(state.going.len(), 1);
    }

    #[test]
    fn waiting_ends_when_it_has_gone_or_does_not_go() {
        let graves = Graves::default();
        let before = graves.gone();
        graves.bury(1);
        let mut waits = pin!(graves.room_since(before));
        assert!(poll_once(waits.as_mut()).is_pending());
        graves.is_gone(1);
        assert!(block_on(waits));
        assert!(!block_on(graves.room_since(graves.gone())));
        graves.bury(2);
        assert!(!block_on(graves.room_since(graves.gone())));
    }
}
