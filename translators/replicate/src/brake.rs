//! What holds healing back: a limit in bytes a second, and users who wait too long beside it.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::Deserialize;

use crate::backoff::{Backoff, Pulse, WINDOW};

/// Bytes a second, at least 1: `50MB/s`, `8MiB`, `500k`. Decimal units are powers of 1000, those
/// with an `i` of 1024 (IEC 80000-13); a number alone is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(u64);

impl Rate {
    /// `None` for 0.
    pub fn new(bytes_a_second: u64) -> Option<Rate> {
        (bytes_a_second > 0).then_some(Rate(bytes_a_second))
    }

    /// As a number.
    pub fn bytes_a_second(self) -> u64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong = || {
            format!("`{text}` is no rate: write a number and a unit, as in 50MB/s, 8MiB/s or 500k")
        };
        let bare = text.trim();
        let bare = bare.strip_suffix("/s").unwrap_or(bare).trim_end();
        let digits = bare
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(bare.len());
        let (number, unit) = bare.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
            // Who writes 5 means anything but five bytes.
            "" => {
                return Err(format!(
                    "`{text}` has no unit: {bare}MB/s, {bare}kB/s or {bare}B/s?"
                ));
            }
            "b" => 1.0,
            "k" | "kb" => 1e3,
            "m" | "mb" => 1e6,
            "g" | "gb" => 1e9,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            _ => return Err(wrong()),
        };
        // Saturates where it is absurd.
        Rate::new((number * factor) as u64).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Rate, String> {
        text.parse()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
        match units.into_iter().find(|(factor, _)| self.0 >= *factor) {
            Some((factor, unit)) => {
                let number = format!("{:.3}", self.0 as f64 / factor as f64);
                let number = number.trim_end_matches('0').trim_end_matches('.');
                write!(f, "{number} {unit}/s")
            }
            None => write!(f, "{} B/s", self.0),
        }
    }
}

/// What an object costs beside its content: about a block of attributes and names.
pub(crate) const OBJECT: u64 = 4096;

/// So much may be spent at once after a rest.
const BURST: Duration = Duration::from_millis(100);

/// Who copies pays first, and waits when there is too little (a virtual-time token bucket: each
/// payment moves the moment at which the next may be made).
#[derive(Debug, Default)]
pub(crate) struct Brake {
    state: Mutex<State>,
    changed: Condvar,
    /// What is taken off the pace for users' sake, in thousandths; all of it while healing rests.
    off: AtomicU32,
    /// Payments since the last judgement.
    paid: AtomicU64,
    /// Who heals or syncs just now.
    busy: AtomicU32,
    /// `None` where users' latency is no matter.
    watch: Option<(Arc<Pulse>, Mutex<Backoff>)>,
}

/// Somebody who keeps the disks busy, until this is dropped.
#[derive(Debug)]
pub(crate) struct AtWork<'a>(&'a Brake);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As many payments in a window are worth a rest.
const WORTH: u64 = 20;

/// Longest time that a thread waits at once for users' sake.
const EASE_AT_MOST: Duration = Duration::from_millis(500);

thread_local! {
    /// Since when this thread has worked without a wait.
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

#[derive(Debug, Default)]
struct State {
    limit: Option<Rate>,
    /// While users are held, or at the end, nobody waits.
    lifted: bool,
    next: Option<Instant>,
    /// Raised when the limit changes: who waits under the old one begins anew.
    version: u64,
}

impl Brake {
    pub(crate) fn new(limit: Option<Rate>) -> Brake {
        let brake = Brake::default();
        brake.state.lock().limit = limit;
        brake
    }

    /// The same with an eye on users' latency.
    pub(crate) fn watching(limit: Option<Rate>, pulse: Arc<Pulse>) -> Brake {
        Brake {
            watch: Some((pulse, Mutex::default())),
            ..Brake::new(limit)
        }
    }

    /// Tells that something is being healed or synced, also while nothing is paid.
    pub(crate) fn at_work(&self) -> AtWork<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        AtWork(self)
    }

    /// Judges how users fare; to be called once in a [`WINDOW`].
    pub(crate) fn judge(&self) {
        let Some((pulse, backoff)) = &self.watch else {
            return;
        };
        let paid = self.paid.swap(0, Ordering::Relaxed);
        let healed = paid > 0 || self.busy.load(Ordering::Relaxed) > 0;
        let mut backoff = backoff.lock();
        backoff.judge(&pulse.take(), healed, paid >= WORTH);
        let off = match backoff.resting() {
            true => 1000,
            false => ((1.0 - backoff.pace()) * 1000.0) as u32,
        };
        let before = self.off.swap(off, Ordering::Relaxed);
        if before == 1000 && off < 1000 {
            let _state = self.state.lock();
            self.changed.notify_all();
        }
    }

    /// The part of its speed that healing takes just now, for people.
    pub(crate) fn pace(&self) -> f64 {
        let watch = self.watch.as_ref();
        watch.map_or(1.0, |(_, backoff)| backoff.lock().pace())
    }

    /// Waits in proportion to the work since the last wait, when users wait too long.
    pub(crate) fn ease(&self) {
        self.ease_unless(&|| false);
    }

    fn ease_unless(&self, vain: &dyn Fn() -> bool) {
        self.paid.fetch_add(1, Ordering::Relaxed);
        let off = self.off.load(Ordering::Relaxed);
        if off == 0 {
            BEGUN.set(None);
            return;
        }
        let now = Instant::now();
        let worked = BEGUN
            .get()
            .map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        let wait = match off {
            1000.. => 2 * WINDOW,
            _ => worked.mul_f64(f64::from(off) / f64::from(1000 - off)),
        };
        let until = now + wait.min(EASE_AT_MOST);
        let mut state = self.state.lock();
        while !state.lifted && Instant::now() < until && !vain() {
            if off >= 1000 && self.off.load(Ordering::Relaxed) < 1000 {
                break;
            }
            self.changed.wait_until(&mut state, until);
        }
        drop(state);
        BEGUN.set(Some(Instant::now()));
    }

    /// Whoever waits looks whether he still has to.
    pub(crate) fn rouse(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    pub(crate) fn limit(&self) -> Option<Rate> {
        self.state.lock().limit
    }

    pub(crate) fn set_limit(&self, limit: Option<Rate>) {
        self.change(|state| state.limit = limit);
    }

    pub(crate) fn lift(&self, lifted: bool) {
        self.change(|state| state.lifted = lifted);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.next = None;
        state.version += 1;
        self.changed.notify_all();
    }

    /// Blocks the thread until so many bytes may be copied.
    pub(crate) fn pay(&self, bytes: u64) {
        self.pay_unless(bytes, || false);
    }

    /// The same for a copy that may be in vain by then; whoever makes it so tells it by [`Brake::rouse`].
    pub(crate) fn pay_unless(&self, bytes: u64, vain: impl Fn() -> bool) {
        self.ease_unless(&vain);
        let mut state = self.state.lock();
        let start = match state.book(bytes, Instant::now()) {
            Some(start) => start,
            None => return,
        };
        let version = state.version;
        while state.version == version && Instant::now() < start && !vain() {
            self.changed.wait_until(&mut state, start);
        }
    }
}

impl State {
    /// When so much may be spent; `None` for at once and unlimited.
    fn book(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        let limit = self.limit.filter(|_| !self.lifted)?;
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = self.next.map_or(earliest, |next| next.max(earliest));
        let cost = Duration::from_secs_f64((bytes as f64 / limit.0 as f64).min(3600.0));
        self.next = Some(start + cost);
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::{Class, LEAST};

    #[test]
    fn rates_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Rate>().map(Rate::bytes_a_second);
        assert_eq!(read("50MB/s"), Ok(50_000_000));
        assert_eq!(read("8 MiB"), Ok(8 << 20));
        assert_eq!(read("500k"), Ok(500_000));
        assert_eq!(read("1.5g/s"), Ok(1_500_000_000));
        assert_eq!(read("4096B/s"), Ok(4096));
        assert!(read("5").unwrap_err().contains("5MB/s"));
        for wrong in ["", "fast", "0MB/s", "-1MB", "5 MB/h", "MB"] {
            let told = read(wrong).unwrap_err();
            assert!(told.contains("50MB/s"), "{told}");
        }
        assert_eq!(Rate(50_000_000).to_string(), "50 MB/s");
        assert_eq!(Rate(1_500_000).to_string(), "1.5 MB/s");
        assert_eq!(Rate(999).to_string(), "999 B/s");
    }

    #[test]
    fn no_more_is_spent_than_the_limit_whoever_pays() {
        let mut state = State {
            limit: Rate::new(1000),
            ..State::default()
        };
        let begin = Instant::now() + Duration::from_secs(1);
        let mut last = begin;
        for _ in 0..50 {
            last = state.book(100, begin).unwrap();
        }
        // 4,900 bytes before the last payment, 100 of them in the burst.
        assert_eq!(last - begin, Duration::from_millis(4900) - BURST);
        // A rest is not saved up.
        let later = begin + Duration::from_secs(100);
        assert_eq!(state.book(100, later), Some(later - BURST));
        state.lifted = true;
        assert_eq!(state.book(1 << 40, later), None);
    }

    /// Windows of a user who reads, with so many payments in each.
    fn judge(brake: &Brake, pulse: &Pulse, micros: u64, payments: u64) {
        for _ in 0..100 {
            pulse.tell(Class::Read, Duration::from_micros(micros));
        }
        brake.paid.store(payments, Ordering::Relaxed);
        brake.judge();
    }

    #[test]
    fn who_heals_waits_as_long_as_users_need_it_and_not_when_they_are_held() {
        let pulse = Arc::new(Pulse::default());
        let brake = Brake::watching(None, pulse.clone());
        judge(&brake, &pulse, 100, 0);
        assert_eq!(brake.pace(), 1.0);
        for _ in 0..3 {
            judge(&brake, &pulse, 50_000, 5);
        }
        assert_eq!(brake.pace(), LEAST);
        // Seven times the work.
        let work = Duration::from_millis(10);
        let begun = Instant::now();
        brake.pay(1);
        std::thread::sleep(work);
        brake.pay(1);
        assert!(begun.elapsed() >= 8 * work);
        brake.lift(true);
        std::thread::sleep(work);
        BEGUN.set(Some(begun));
        let begun = Instant::now();
        brake.pay(1);
        assert!(begun.elapsed() < EASE_AT_MOST, "lifted");
        brake.lift(false);
        brake.judge();
        assert_eq!(brake.pace(), 1.0, "users are gone");
        assert_eq!(brake.off.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_long_copy_or_sync_is_no_quiet_moment() {
        let pulse = Arc::new(Pulse::default());
        let brake = Brake::watching(None, pulse.clone());
        judge(&brake, &pulse, 100, 0);
        let at_work = brake.at_work();
        judge(&brake, &pulse, 50_000, 0);
        assert_eq!(brake.pace(), 0.5);
        drop(at_work);
        for _ in 0..20 {
            judge(&brake, &pulse, 50_000, 0);
        }
        judge(&brake, &pulse, 50_000, 5);
        assert!(brake.pace() > 0.5, "slow without us, too");
    }

    #[test]
    fn a_rest_holds_all_and_ends() {
        let pulse = Arc::new(Pulse::default());
        let brake = Brake::watching(None, pulse.clone());
        while brake.off.load(Ordering::Relaxed) < 1000 {
            judge(&brake, &pulse, 100, WORTH);
        }
        std::thread::scope(|scope| {
            let healer = scope.spawn(|| brake.pay(1));
            judge(&brake, &pulse, 100, 0);
            healer.join().unwrap();
        });
        assert_eq!(brake.off.load(Ordering::Relaxed), 0);
        // Also when nobody ends it.
        brake.off.store(1000, Ordering::Relaxed);
        brake.pay(1);
    }

    #[test]
    fn who_waits_under_an_old_limit_is_let_go() {
        let brake = Brake::new(Rate::new(1));
        std::thread::scope(|scope| {
            brake.pay(1000);
            let waiter = scope.spawn(|| brake.pay(1));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waiter.is_finished());
            brake.set_limit(None);
            waiter.join().unwrap();
        });
    }
}
