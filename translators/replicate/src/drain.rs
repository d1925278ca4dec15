//! How long what is pending will take, and whether a drain comes to its end in time. Plain data structures without I/O.
//!
//! It is counted in names and in bytes, as one object may have forty thousand names, and one name may be a terabyte.

use std::time::Duration;

/// What is pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Names and objects that have to be looked at.
    pub(crate) places: u64,
    /// Content to be copied.
    pub(crate) bytes: u64,
}

/// What is taken for granted until it was measured: names, bytes copied and bytes synced a second.
const PLACES: f64 = 500.0;
const BYTES: f64 = 16e6;
const SYNCED: f64 = 32e6;

/// A measure that is so much less than the best says nothing of what is possible: there was no more to do.
const PART: f64 = 0.25;

/// How fast the best measure fades while less is reached.
const FADE: f64 = 0.98;

/// How fast this sink is healed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Speed {
    places: f64,
    bytes: f64,
    synced: f64,
}

impl Speed {
    /// So much was done in this time. `held_back`: by a limit, or for users' sake.
    pub(crate) fn measure(&mut self, time: Duration, done: Left, held_back: bool) {
        let seconds = time.as_secs_f64();
        if seconds > 0.0 {
            learn(&mut self.places, done.places as f64 / seconds, held_back);
            learn(&mut self.bytes, done.bytes as f64 / seconds, held_back);
        }
    }

    /// A sync took so long, after so much had been copied.
    pub(crate) fn measure_sync(&mut self, time: Duration, bytes: u64) {
        // A small one tells how long a sync takes, not how much of it is due to what was copied.
        if bytes >= 8 << 20 {
            let seconds = time.as_secs_f64().max(0.001);
            learn(&mut self.synced, bytes as f64 / seconds, false);
        }
    }

    /// Seconds that this takes, to the end of a sync.
    pub(crate) fn seconds(&self, left: Left) -> f64 {
        let bytes = left.bytes as f64;
        left.places as f64 / self.places.max(PLACES)
            + bytes / self.bytes.max(BYTES)
            + bytes / self.synced.max(SYNCED)
    }
}

fn learn(best: &mut f64, measured: f64, held_back: bool) {
    if measured >= *best {
        *best = measured;
    } else if !held_back && measured >= *best * PART {
        *best = (*best * FADE).max(measured);
    }
}

/// A drain while users are held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    limit: Duration,
    /// Seconds of work at the beginning.
    first: f64,
}

impl Drain {
    /// `first`: seconds of work, as estimated.
    pub(crate) fn new(limit: Duration, first: f64) -> Drain {
        Drain { limit, first }
    }

    /// Whether it cannot come to its end any more: so much is left after so long.
    pub(crate) fn is_hopeless(&self, elapsed: Duration, left: f64) -> bool {
        let (gone, limit) = (elapsed.as_secs_f64(), self.limit.as_secs_f64());
        if left <= 0.0 || gone < (limit / 8.0).max(0.2) {
            return false;
        }
        let done = self.first - left;
        if done <= 0.0 {
            return gone > limit / 2.0;
        }
        // Nothing goes at the same pace all the time.
        left / (done / gone) > (limit - gone).max(0.0) * 1.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn left(places: u64, mib: u64) -> Left {
        Left {
            places,
            bytes: mib * MIB,
        }
    }

    fn second() -> Duration {
        Duration::from_secs(1)
    }

    #[test]
    fn names_and_bytes_count_whatever_the_number_of_objects() {
        let speed = Speed::default();
        assert!(speed.seconds(left(40, 0)) < 1.0);
        assert!(speed.seconds(left(40_000, 0)) > 60.0);
        assert!(speed.seconds(left(1, 520)) > 30.0);
        assert_eq!(speed.seconds(left(0, 0)), 0.0);
    }

    #[test]
    fn the_best_measure_holds_until_less_is_reached_for_some_time() {
        let mut speed = Speed::default();
        speed.measure(second(), left(20_000, 400), false);
        speed.measure_sync(second(), 400 * MIB);
        let fast = speed.seconds(left(0, 400));
        assert!((1.9..2.1).contains(&fast), "{fast}");
        // Under a limit, or with little to do, nothing is learnt.
        for _ in 0..100 {
            speed.measure(second(), left(6_000, 200), true);
            speed.measure(second(), left(10, 1), false);
            speed.measure_sync(second(), MIB);
        }
        assert_eq!(speed.seconds(left(0, 400)), fast);
        for _ in 0..100 {
            speed.measure(second(), left(6_000, 200), false);
        }
        let slow = speed.seconds(left(0, 400));
        assert!((2.9..3.1).contains(&slow), "{slow}");
        assert!((0.9..1.1).contains(&speed.seconds(left(6_000, 0))));
    }

    #[test]
    fn a_drain_that_cannot_end_in_time_is_given_up_early() {
        let five = Duration::from_secs(5);
        let at = |seconds: f64, left: f64| {
            Drain::new(five, 100.0).is_hopeless(Duration::from_secs_f64(seconds), left)
        };
        assert!(!at(0.1, 100.0), "too early to say");
        assert!(at(0.7, 99.0), "at this pace it takes minutes");
        assert!(!at(0.7, 85.0), "faster than thought");
        assert!(!at(4.9, 0.0), "what is left is no work of ours");
        assert!(!at(1.0, 100.0), "it may be about to begin");
        assert!(at(2.6, 100.0), "nothing moves");
        assert!(!at(4.0, 20.0), "it may just do");
    }
}
