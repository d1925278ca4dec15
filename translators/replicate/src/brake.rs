//! The limit on healing: how many bytes a second it may copy.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::Deserialize;

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
            "" | "b" => 1.0,
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
        let mut state = self.state.lock();
        let start = match state.book(bytes, Instant::now()) {
            Some(start) => start,
            None => return,
        };
        let version = state.version;
        while state.version == version && Instant::now() < start {
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

    #[test]
    fn rates_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Rate>().map(Rate::bytes_a_second);
        assert_eq!(read("50MB/s"), Ok(50_000_000));
        assert_eq!(read("8 MiB"), Ok(8 << 20));
        assert_eq!(read("500k"), Ok(500_000));
        assert_eq!(read("1.5g/s"), Ok(1_500_000_000));
        assert_eq!(read("4096"), Ok(4096));
        for wrong in ["", "fast", "0", "-1MB", "5 MB/h", "MB"] {
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
