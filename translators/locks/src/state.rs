//! The space, its clock, and those who are to be woken.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::queue::Ticket;
use crate::space::{Outcome, Space};

pub(crate) struct State {
    inner: Mutex<Inner>,
    /// Somebody new waits: the clock looks when it is to ring.
    changed: Condvar,
    start: Instant,
}

struct Inner {
    space: Space,
    waiting: HashMap<Ticket, Waiting>,
    /// Who waits for a moment, until when.
    resting: HashMap<u64, (Duration, Waker)>,
    next: u64,
    /// Whether the clock's thread runs.
    ticking: bool,
}

#[derive(Default)]
struct Waiting {
    waker: Option<Waker>,
    outcome: Option<Outcome>,
}

impl State {
    pub(crate) fn new(limit: usize) -> State {
        State {
            inner: Mutex::new(Inner {
                space: Space::new(limit),
                waiting: HashMap::new(),
                resting: HashMap::new(),
                next: 0,
                ticking: false,
            }),
            changed: Condvar::new(),
            start: Instant::now(),
        }
    }

    /// Works on the locks, and wakes whose waiting that has ended.
    pub(crate) fn work<T>(&self, work: impl FnOnce(&mut Space, Duration) -> T) -> T {
        let now = self.start.elapsed();
        let mut inner = self.inner.lock();
        let released = inner.space.released();
        let answer = work(&mut inner.space, now);
        let mut woken = inner.settle();
        if inner.space.released() != released {
            woken.extend(inner.resting.drain().map(|(_, (_, waker))| waker));
        }
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
        answer
    }

    /// What became of a request that waits; `waker` is woken when that is known. It is told once.
    pub(crate) fn poll(self: &Arc<State>, ticket: Ticket, waker: &Waker) -> Poll<Outcome> {
        let mut inner = self.inner.lock();
        let waiting = inner.waiting.entry(ticket).or_default();
        if let Some(outcome) = waiting.outcome.take() {
            inner.waiting.remove(&ticket);
            inner.space.heard(ticket);
            return Poll::Ready(outcome);
        }
        waiting.waker = Some(waker.clone());
        self.tick(&mut inner);
        Poll::Pending
    }

    /// Nobody waits for it any more.
    pub(crate) fn leave(&self, ticket: Ticket) {
        let mut inner = self.inner.lock();
        inner.waiting.remove(&ticket);
        inner.space.cancel(ticket);
        inner.space.undo(ticket);
        let woken = inner.settle();
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Ready when an open file is gone since so many were, and at the latest at `until`.
    pub(crate) fn rest(
        self: &Arc<State>,
        number: &mut Option<u64>,
        (until, released): (Duration, u64),
        waker: &Waker,
    ) -> Poll<()> {
        let mut inner = self.inner.lock();
        if inner.space.released() != released || self.start.elapsed() >= until {
            return Poll::Ready(());
        }
        let number = *number.get_or_insert_with(|| {
            inner.next += 1;
            inner.next
        });
        inner.resting.insert(number, (until, waker.clone()));
        self.tick(&mut inner);
        Poll::Pending
    }

    /// Nobody rests there any more.
    pub(crate) fn rise(&self, number: u64) {
        self.inner.lock().resting.remove(&number);
    }

    /// How many rest.
    #[cfg(test)]
    pub(crate) fn resting(&self) -> usize {
        self.inner.lock().resting.len()
    }

    /// Sees to it that patience, and rest, end in time.
    fn tick(self: &Arc<State>, inner: &mut Inner) {
        if inner.next_ripe().is_none() {
            return;
        }
        self.changed.notify_one();
        if inner.ticking {
            return;
        }
        let state = self.clone();
        let started = thread::Builder::new()
            .name("locks-patience".into())
            .spawn(move || state.run());
        match started {
            Ok(_) => inner.ticking = true,
            // Without it nobody passes anybody; all else goes on.
            Err(error) => tracing::error!(%error, "no thread to be had"),
        }
    }

    /// Until nobody stands behind others, and nobody rests.
    fn run(&self) {
        let mut inner = self.inner.lock();
        while let Some(ripe) = inner.next_ripe() {
            self.changed.wait_until(&mut inner, self.start + ripe);
            let now = self.start.elapsed();
            inner.space.ripen(now);
            let mut woken = inner.settle();
            let rested = inner.resting.extract_if(|_, (until, _)| *until <= now);
            woken.extend(rested.map(|(_, (_, waker))| waker));
            drop(inner);
            woken.into_iter().for_each(Waker::wake);
            inner = self.inner.lock();
        }
        inner.ticking = false;
    }
}

impl Inner {
    /// When the clock is to ring.
    fn next_ripe(&self) -> Option<Duration> {
        let rested = self.resting.values().map(|(until, _)| *until);
        rested.chain(self.space.next_ripe()).min()
    }

    /// Puts down what became of those who waited; whom to wake.
    fn settle(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        for (ticket, outcome) in self.space.take_done() {
            let waiting = self.waiting.entry(ticket).or_default();
            waiting.outcome = Some(outcome);
            woken.extend(waiting.waker.take());
        }
        woken
    }
}
