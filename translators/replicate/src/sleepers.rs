//! Who wakes up when: healing threads without work sleep, and each change that users make may be
//! work for one of them. Waking somebody costs a change more than all else that is noted of it, so it
//! is done only for what nobody would wake up for in time. A plain data structure; to be asked
//! and told under one lock, the one under which work is queued.
//!
//! - The earliest moment that somebody sleeps until is the *alarm*. It is not later than what is due
//!   first, or somebody has been roused who has yet to look.
//! - Whoever takes work while more is due wakes another one.

use crate::ledger::Millis;

/// Nobody sleeps longer.
const AT_MOST: Millis = 1000;

/// The threads that sleep.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    asleep: usize,
    alarm: Option<Millis>,
    /// Somebody was woken who has not looked yet.
    roused: bool,
}

/// One who sleeps, until this moment if nobody wakes him.
#[derive(Debug)]
#[must_use = "who sleeps has to be told when he wakes up"]
pub(crate) struct Nap(Millis);

impl Nap {
    /// The moment.
    pub(crate) fn until(&self) -> Millis {
        self.0
    }
}

impl Sleepers {
    /// Somebody has nothing to do before `due`, if at all.
    pub(crate) fn sleep(&mut self, now: Millis, due: Option<Millis>) -> Nap {
        self.asleep += 1;
        let at_most = now + AT_MOST;
        let until = due.map_or(at_most, |due| due.clamp(now + 1, at_most));
        if self.alarm.is_none_or(|alarm| until < alarm) {
            self.alarm = Some(until);
            return Nap(until);
        }
        // Another one is up in time.
        Nap(at_most)
    }

    /// He is awake, and about to look for work.
    pub(crate) fn wake(&mut self, nap: Nap) {
        self.asleep -= 1;
        self.roused = false;
        if self.alarm == Some(nap.0) {
            self.alarm = None;
        }
    }

    /// Whether somebody has to be woken for work that is due then; whoever asks does it.
    pub(crate) fn rouse(&mut self, due: Millis) -> bool {
        let late = self.asleep > 0 && !self.roused && self.alarm.is_none_or(|alarm| due < alarm);
        self.roused |= late;
        late
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_change_that_comes_due_later_wakes_nobody() {
        let mut sleepers = Sleepers::default();
        let first = sleepers.sleep(0, Some(500));
        assert_eq!(first.0, 500);
        assert!(!sleepers.rouse(600));
        assert!(sleepers.rouse(400));
        assert!(!sleepers.rouse(300), "he is woken already, and will look");
        sleepers.wake(first);
        assert!(!sleepers.rouse(0), "nobody sleeps");
    }

    #[test]
    fn one_alarm_is_enough() {
        let mut sleepers = Sleepers::default();
        let [a, b] = [sleepers.sleep(0, Some(500)), sleepers.sleep(0, Some(500))];
        assert_eq!((a.0, b.0), (500, 1000));
        sleepers.wake(a);
        assert!(sleepers.rouse(900), "the other one has no alarm");
        sleepers.wake(b);
        assert_eq!(sleepers.asleep, 0);
    }

    /// One of some threads as they work, with a queue of moments at which something is due.
    #[derive(Default)]
    struct House {
        sleepers: Sleepers,
        queue: std::collections::BTreeSet<(Millis, u32)>,
        naps: Vec<Nap>,
        /// Roused, and on the way.
        woken: usize,
        awake: usize,
        now: Millis,
    }

    impl House {
        fn queue(&mut self, due: Millis, number: u32) {
            self.queue.insert((due, number));
            self.rouse(due);
        }

        fn rouse(&mut self, due: Millis) {
            if self.sleepers.rouse(due) {
                self.woken += 1;
            }
        }

        /// Who is awake takes work or goes to sleep.
        fn look(&mut self) {
            let due = self.queue.first().map(|first| first.0);
            if due.is_some_and(|due| due <= self.now) {
                self.queue.pop_first();
                if let Some(&(due, _)) = self.queue.first()
                    && due <= self.now
                {
                    self.rouse(due);
                }
                return;
            }
            self.awake -= 1;
            let nap = self.sleepers.sleep(self.now, due);
            self.naps.push(nap);
        }

        fn wake(&mut self, which: usize) {
            let nap = self.naps.remove(which);
            self.sleepers.wake(nap);
            self.awake += 1;
        }

        /// Nothing that is due is left to nobody.
        fn check(&self) {
            let Some(&(due, _)) = self.queue.first() else {
                return;
            };
            let somebody = self.awake > 0
                || self.woken > 0
                || self.naps.iter().any(|nap| nap.0 <= due.max(self.now + 1));
            assert!(somebody, "due at {due}, now {}: {:?}", self.now, self.naps);
        }
    }

    proptest! {
        #[test]
        fn what_is_due_always_has_somebody(
            threads in 1usize..5,
            steps in prop::collection::vec((0u8..6, 0u64..300), 1..200),
        ) {
            let mut house = House { awake: threads, ..House::default() };
            for (number, (step, amount)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => house.queue(house.now + amount, number as u32),
                    2 if house.awake > 0 => house.look(),
                    // The one who was roused; any who sleeps may be it.
                    3 if house.woken > 0 && !house.naps.is_empty() => {
                        house.woken -= 1;
                        house.wake(amount as usize % house.naps.len());
                    }
                    4 => {
                        // Time does not pass beyond an alarm without its sleeper.
                        let next = house.naps.iter().map(|nap| nap.0).min();
                        let to = house.now + amount;
                        house.now = next.map_or(to, |next| to.min(next.max(house.now)));
                        if let Some(which) = house.naps.iter().position(|nap| nap.0 <= house.now) {
                            house.wake(which);
                        }
                    }
                    _ => {}
                }
                house.check();
            }
        }
    }
}
