//! Waiting with a bound.

use std::time::{Duration, Instant};

/// Asks again and again until there is an answer; fails the test, naming what was waited for.
pub fn until<T>(at_most: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            started.elapsed() < at_most,
            "waited {at_most:?} in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
