//! What happens to the lines and the servers, until all is well again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use hermitfs_testkit::net::{Way, Weather};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

use super::Harshness;
use super::crew::Crew;
use super::place::{BRICKS, FAIR, Place, SINK, some};
use crate::network::GRACE;

/// What the weather is to be, and is.
#[derive(Default)]
pub(crate) struct Sky {
    wanted: AtomicU8,
    is_calm: AtomicBool,
}

const CALM: u8 = 0;
const STORM: u8 = 1;
const END: u8 = 2;

impl Sky {
    /// From now on things happen.
    pub(crate) fn storm(&self) {
        self.is_calm.store(false, Ordering::SeqCst);
        self.wanted.store(STORM, Ordering::SeqCst);
    }

    /// All lines are good again when this returns, and all servers there.
    pub(crate) fn calm(&self) {
        self.wanted.store(CALM, Ordering::SeqCst);
        while !self.is_calm.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_micros(500));
        }
    }

    /// Time has no more to pass.
    pub(crate) fn end(&self) {
        self.wanted.store(END, Ordering::SeqCst);
    }

    fn is(&self, what: u8) -> bool {
        self.wanted.load(Ordering::SeqCst) == what
    }
}

/// Who lets time pass, and things happen.
pub(crate) struct Storm {
    pub(crate) place: Arc<Place>,
    pub(crate) sky: Arc<Sky>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) harshness: Harshness,
    pub(crate) rng: ChaCha8Rng,
    /// The run has taken too long by then.
    pub(crate) deadline: Instant,
    /// It blows, and when the next thing happens.
    pub(crate) next: Option<u64>,
}

impl Storm {
    /// A little time; whether it was the last.
    pub(crate) fn pass(&mut self) -> bool {
        self.place.pass();
        let now = self.place.net.now();
        match (self.sky.is(STORM), self.next) {
            (true, None) => {
                let weather = self.weather();
                self.place.net.set(weather);
                let fails = self.harshness == Harshness::Sink;
                self.place.bricks[SINK].fails.store(fails, Ordering::SeqCst);
                self.next = Some(now);
            }
            (true, Some(next)) if now >= next => {
                self.trouble();
                self.next = Some(self.place.net.now() + self.rng.random_range(50..3_000));
            }
            (true, Some(_)) => {}
            (false, _) => {
                self.next = None;
                self.clear();
            }
        }
        self.sky.is(END)
    }

    fn weather(&mut self) -> Weather {
        let is_lossy = self.rng.random();
        Weather {
            delay: 0..=self.rng.random_range(0..4),
            lost: if is_lossy {
                self.rng.random_range(20..400)
            } else {
                0
            },
            cut: self.rng.random_range(0..6),
            // Else nobody could connect for longer than is waited for.
            in_a_row: !self.harshness.is_sure(),
        }
    }

    fn clear(&self) {
        if self.sky.is_calm.load(Ordering::SeqCst) {
            return;
        }
        self.place.net.set(FAIR);
        self.place.bricks[SINK].fails.store(false, Ordering::SeqCst);
        for n in 0..BRICKS.len() {
            self.place.join(n);
            // Who was told to fall silent by the weather before.
            self.place.cut(n);
            if !self.place.is_served(n) {
                self.place.serve(n);
            }
        }
        self.place.tell("calm".into());
        self.sky.is_calm.store(true, Ordering::SeqCst);
    }

    /// Something goes wrong for a while.
    fn trouble(&mut self) {
        let sink_alone = self.harshness == Harshness::Sink;
        let most = match self.harshness {
            Harshness::Sink | Harshness::Long => 15_000,
            _ => 1_000 * GRACE / 4,
        };
        let short = self.rng.random_bool(0.7);
        let time = self.rng.random_range(1..if short { 300 } else { most });
        let which = some(&mut self.rng, sink_alone);
        let who: Vec<_> = which.iter().map(|&n| BRICKS[n]).collect();
        match self.rng.random_range(0..10) {
            0..3 => {
                self.place.tell(format!("{who:?}: cut"));
                which.iter().for_each(|&n| self.place.cut(n));
            }
            3..7 => {
                let ways = [&[Way::There][..], &[Way::Back], &[Way::There, Way::Back]];
                let ways = ways[self.rng.random_range(0..3)];
                self.place
                    .tell(format!("{who:?}: parted for {time} ms, {ways:?}"));
                which.iter().for_each(|&n| self.place.part(n, ways));
                self.last(time);
                which.iter().for_each(|&n| self.place.join(n));
            }
            _ if self.harshness != Harshness::Lines => {
                self.place.tell(format!("{who:?}: killed for {time} ms"));
                which.iter().for_each(|&n| self.place.kill(n));
                self.last(time);
                which.iter().for_each(|&n| self.place.serve(n));
            }
            _ => {}
        }
    }

    /// For a time. Where only the sink is in trouble it goes on until users have got on as well: who
    /// waited for the sink would wait for ever.
    fn last(&mut self, time: u64) {
        let end = self.place.net.now() + time;
        let calls = self.crew.calls() + self.rng.random_range(0..6);
        let goes_on = || {
            let waits = self.harshness == Harshness::Sink && self.crew.is_at_work();
            self.place.net.now() < end || waits && self.crew.calls() < calls
        };
        while self.sky.is(STORM) && goes_on() && Instant::now() < self.deadline {
            self.place.pass();
        }
    }
}
