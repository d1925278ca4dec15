//! Users of the pair, each on a thread of his own, who can be asked to pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hermitfs_api::{Translator, block_on};
use parking_lot::{Condvar, Mutex};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

use super::place::{Place, SOURCE};
use crate::network::worker::Worker;

#[derive(Default)]
struct State {
    /// At work, or at rest.
    there: usize,
    resting: usize,
    rest: bool,
    /// Nobody begins anything more.
    over: bool,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
pub(crate) struct Crew {
    state: Mutex<State>,
    changed: Condvar,
    calls: Arc<AtomicU32>,
    /// What workers panicked with.
    pub(crate) wrong: Mutex<Vec<String>>,
}

const USERS: usize = 3;

impl Crew {
    /// Comes to work: each does so many things.
    pub(crate) fn come(
        self: &Arc<Self>,
        place: &Place,
        pair: &Arc<dyn Translator>,
        rng: &mut ChaCha8Rng,
        things: usize,
    ) {
        let mut state = self.state.lock();
        (state.there, state.over) = (USERS, false);
        for _ in 0..USERS {
            let (crew, people) = (self.clone(), place.people());
            let worker = Worker {
                client: pair.clone(),
                log: place.bricks[SOURCE].log.clone(),
                calls: self.calls.clone(),
                rng: ChaCha8Rng::seed_from_u64(rng.random()),
                files: Vec::new(),
                // Some of it is the time that threads take: the run as a whole has a limit.
                patience: Duration::from_secs(24 * 3600),
                goes_on: Arc::new(move || crew.goes_on()),
            };
            let crew = self.clone();
            state.threads.push(std::thread::spawn(move || {
                let _gone = Gone(&crew);
                let _clock = people.enter();
                block_on(worker.work(things));
            }));
        }
    }

    fn goes_on(&self) -> bool {
        let mut state = self.state.lock();
        if state.rest {
            state.resting += 1;
            self.changed.notify_all();
            while state.rest && !state.over {
                self.changed.wait(&mut state);
            }
            state.resting -= 1;
        }
        !state.over
    }

    /// How many calls were asked so far.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether anybody is about to get on.
    pub(crate) fn is_at_work(&self) -> bool {
        let state = self.state.lock();
        state.there > 0 && !state.rest
    }

    /// Whether anybody has something to do still.
    pub(crate) fn is_there(&self) -> bool {
        self.state.lock().there > 0
    }

    /// Holds all when this returns, between two things.
    pub(crate) fn rest(&self) {
        let mut state = self.state.lock();
        state.rest = true;
        while state.resting < state.there {
            self.changed.wait(&mut state);
        }
    }

    pub(crate) fn go_on(&self) {
        self.state.lock().rest = false;
        self.changed.notify_all();
    }

    /// Nobody begins anything more.
    pub(crate) fn stop(&self) {
        self.state.lock().over = true;
        self.changed.notify_all();
    }

    /// Until all are gone.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut self.state.lock().threads);
        for thread in threads {
            if let Err(panic) = thread.join() {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.unwrap_or_else(|| "a worker panicked".into());
                self.wrong.lock().push(text);
            }
        }
    }
}

/// Somebody has left, however that came about.
struct Gone<'a>(&'a Crew);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.state.lock().there -= 1;
        self.0.changed.notify_all();
    }
}
