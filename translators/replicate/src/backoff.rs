//! How much of its speed healing gives up while users wait longer than they would without it.
//!
//! Users' operations are timed where they reach the source, and compared, class by class, with how
//! long they take while nobody heals. That is known from moments in which there is nothing to
//! heal, and from short rests that healing takes for it while users work. When users wait
//! several times as long healing halves its pace; while they do not it comes back in small steps
//! (additive increase, multiplicative decrease). It never stands still, and without users it is never
//! slowed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How often it is judged.
pub(crate) const WINDOW: Duration = Duration::from_millis(200);

/// What takes about as long as another of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Names and attributes are looked at.
    Look,
    /// Content is read.
    Read,
    /// Content is written.
    Write,
    /// Something is made, moved, changed, taken away.
    Change,
    /// Something is put on the disk.
    Sync,
}

const CLASSES: usize = 5;

/// Powers of two of a microsecond, in quarters: 1 us to 64 s.
const BUCKETS: usize = 26 * 4;

/// Times of users' operations, since the last look. Told without a lock.
#[derive(Debug)]
pub(crate) struct Pulse {
    classes: [Histogram; CLASSES],
}

#[derive(Debug)]
struct Histogram([AtomicU32; BUCKETS]);

impl Default for Pulse {
    fn default() -> Pulse {
        let histogram = || Histogram(std::array::from_fn(|_| AtomicU32::new(0)));
        Pulse {
            classes: std::array::from_fn(|_| histogram()),
        }
    }
}

/// What a class came to in a window: how many, and how long all but a twentieth took at most, in
/// microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tail {
    pub(crate) count: u32,
    pub(crate) micros: f64,
}

/// Of each class.
pub(crate) type Window = [Tail; CLASSES];

impl Pulse {
    /// One operation.
    pub(crate) fn tell(&self, class: Class, took: Duration) {
        let bucket = bucket(took);
        if let Some(count) = self.classes[class as usize].0.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was told since the last look.
    pub(crate) fn take(&self) -> Window {
        std::array::from_fn(|class| self.classes[class].take())
    }
}

impl Histogram {
    fn take(&self) -> Tail {
        let counts: Vec<u32> = self
            .0
            .iter()
            // Most are zero, and stay in every processor's cache.
            .map(|count| match count.load(Ordering::Relaxed) {
                0 => 0,
                _ => count.swap(0, Ordering::Relaxed),
            })
            .collect();
        let count: u32 = counts.iter().sum();
        let mut above = count / 20;
        for (bucket, its) in counts.iter().enumerate().rev() {
            if *its > above {
                let micros = 2f64.powf(bucket as f64 / 4.0);
                return Tail { count, micros };
            }
            above -= its;
        }
        Tail::default()
    }
}

fn bucket(took: Duration) -> usize {
    let micros = took.as_nanos() as f64 / 1000.0;
    ((micros.max(1.0).log2() * 4.0) as usize).min(BUCKETS - 1)
}

/// Fewer operations than this in a window say nothing.
const FEW: u32 = 20;

/// So many times as long as without healing is too long.
const TOO_LONG: f64 = 3.0;

/// And at least so much longer, in microseconds: who waits less than this notices nothing.
const NOTICED: f64 = 500.0;

/// What is left of the speed at the least.
pub(crate) const LEAST: f64 = 0.125;

/// What comes back in a window.
const STEP: f64 = 0.0625;

/// So many windows pass between two rests.
const REST_EVERY: u32 = 150;

/// The part of its full speed that healing may take.
#[derive(Debug)]
pub(crate) struct Backoff {
    pace: f64,
    /// How long each class takes when nobody heals.
    quiet: [Option<f64>; CLASSES],
    /// Windows with users since the last rest.
    since_rest: u32,
    resting: bool,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            pace: 1.0,
            quiet: [None; CLASSES],
            // The first one soon: without it nothing is known.
            since_rest: REST_EVERY - 5,
            resting: false,
        }
    }
}

impl Backoff {
    /// Takes a window in, in which something was healed or not. `worth` when there is so much
    /// to heal that it is worth a rest.
    pub(crate) fn judge(&mut self, window: &Window, healed: bool, worth: bool) {
        let tells = |tail: &Tail| tail.count >= FEW;
        let users = window.iter().any(tells);
        if self.resting || !healed {
            for (quiet, tail) in self.quiet.iter_mut().zip(window) {
                if tells(tail) {
                    *quiet = Some(quiet.map_or(tail.micros, |old| (old + tail.micros) / 2.0));
                }
            }
        }
        if self.resting {
            self.resting = false;
            self.since_rest = 0;
            return;
        }
        if !users {
            self.pace = 1.0;
            return;
        }
        if healed {
            self.pace = match self.too_long(window) {
                true => (self.pace / 2.0).max(LEAST),
                false => (self.pace + STEP).min(1.0),
            };
            self.since_rest += 1;
            self.resting = worth && self.since_rest >= REST_EVERY;
        }
    }

    fn too_long(&self, window: &Window) -> bool {
        self.quiet.iter().zip(window).any(|(quiet, tail)| {
            tail.count >= FEW
                && quiet.is_some_and(|quiet| {
                    tail.micros > quiet * TOO_LONG && tail.micros > quiet + NOTICED
                })
        })
    }

    /// From [`LEAST`] to 1.
    pub(crate) fn pace(&self) -> f64 {
        self.pace
    }

    /// Whether healing rests for this window.
    pub(crate) fn resting(&self) -> bool {
        self.resting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(count: u32, micros: f64) -> Window {
        let mut window = Window::default();
        window[Class::Read as usize] = Tail { count, micros };
        window
    }

    /// One that knows that reads take a tenth of a millisecond.
    fn knowing() -> Backoff {
        let mut backoff = Backoff::default();
        backoff.judge(&reads(100, 100.0), false, false);
        backoff
    }

    #[test]
    fn without_users_healing_is_never_slowed_and_never_rests() {
        let mut backoff = knowing();
        for _ in 0..1000 {
            backoff.judge(&Window::default(), true, true);
            assert_eq!((backoff.pace(), backoff.resting()), (1.0, false));
        }
        // Who looks in now and then is no load.
        for _ in 0..1000 {
            backoff.judge(&reads(FEW - 1, 1e6), true, true);
            assert_eq!((backoff.pace(), backoff.resting()), (1.0, false));
        }
    }

    #[test]
    fn it_halves_while_users_wait_and_comes_back_when_they_do_not() {
        let mut backoff = knowing();
        let mut paces = Vec::new();
        for _ in 0..6 {
            backoff.judge(&reads(100, 5000.0), true, false);
            paces.push(backoff.pace());
        }
        assert_eq!(paces, [0.5, 0.25, 0.125, LEAST, LEAST, LEAST]);
        for _ in 0..14 {
            let before = backoff.pace();
            backoff.judge(&reads(100, 120.0), true, false);
            assert!(backoff.pace() > before || before == 1.0);
        }
        assert_eq!(backoff.pace(), 1.0);
        // Users gone: at once.
        backoff.judge(&reads(100, 5000.0), true, false);
        backoff.judge(&Window::default(), true, false);
        assert_eq!(backoff.pace(), 1.0);
    }

    #[test]
    fn a_difference_that_nobody_notices_is_none() {
        let mut backoff = knowing();
        for micros in [299.0, 599.0] {
            backoff.judge(&reads(100, micros), true, false);
            assert_eq!(backoff.pace(), 1.0, "{micros}");
        }
        backoff.judge(&reads(100, 601.0), true, false);
        assert_eq!(backoff.pace(), 0.5);
    }

    #[test]
    fn what_is_slow_without_us_is_learnt_in_short_rests_and_is_no_reason() {
        let mut backoff = knowing();
        let (mut rests, mut slowed) = (0, 0);
        for _ in 0..1000 {
            // The disk is slow now, whether we heal or not.
            let resting = backoff.resting();
            backoff.judge(&reads(100, 50_000.0), !resting, true);
            rests += u32::from(resting);
            slowed += u32::from(backoff.pace() < 1.0);
        }
        assert!((5..=8).contains(&rests), "{rests} of 1000 windows");
        assert!(slowed < 500, "{slowed}");
        assert_eq!(backoff.pace(), 1.0);
    }

    #[test]
    fn it_knows_nothing_before_the_first_rest_and_then_soon() {
        let mut backoff = Backoff::default();
        let mut windows = 0;
        while !backoff.resting() {
            backoff.judge(&reads(100, 9000.0), true, true);
            assert_eq!(backoff.pace(), 1.0);
            windows += 1;
        }
        assert!(windows <= 5);
        backoff.judge(&reads(100, 100.0), false, true);
        backoff.judge(&reads(100, 9000.0), true, true);
        assert_eq!(backoff.pace(), 0.5);
    }

    #[test]
    fn one_class_does_not_speak_for_another() {
        let mut backoff = knowing();
        let mut window = reads(100, 100.0);
        window[Class::Sync as usize] = Tail {
            count: 100,
            micros: 50_000.0,
        };
        backoff.judge(&window, true, false);
        assert_eq!(backoff.pace(), 1.0, "syncs were never seen alone");
        backoff.judge(&window, false, false);
        backoff.judge(&window, true, false);
        assert_eq!(backoff.pace(), 1.0);
    }

    #[test]
    fn the_tail_is_what_all_but_a_twentieth_took() {
        let pulse = Pulse::default();
        for n in 0..100 {
            let took = if n < 94 { 100 } else { 10_000 };
            pulse.tell(Class::Look, Duration::from_micros(took));
        }
        let tail = pulse.take()[Class::Look as usize];
        assert_eq!(tail.count, 100);
        assert!((8000.0..=10_000.0).contains(&tail.micros), "{tail:?}");
        for n in 0..100 {
            let took = if n < 96 { 100 } else { 10_000 };
            pulse.tell(Class::Look, Duration::from_micros(took));
        }
        let tail = pulse.take()[Class::Look as usize];
        assert!((80.0..=100.0).contains(&tail.micros), "{tail:?}");
        assert_eq!(pulse.take(), Window::default(), "each is told once");
        pulse.tell(Class::Sync, Duration::from_secs(100_000));
        pulse.tell(Class::Sync, Duration::ZERO);
        assert_eq!(pulse.take()[Class::Sync as usize].count, 2);
    }
}
