//! Open files that may be gone already.
//!
//! close(2) returns when the volume has heard of it (flush), but whether that was the last descriptor of
//! the open file it hears a moment later (release). Natively its locks are free by then. So who
//! finds such a lock in his way and does not wait is not refused before that moment is over.

use std::collections::HashMap;
use std::time::Duration;

/// How long a release may be on its way. A file that lives on keeps nobody for longer.
pub(crate) const MOMENT: Duration = Duration::from_secs(1);

/// Open files of which a descriptor was closed, and when.
#[derive(Default)]
pub(crate) struct Closing(HashMap<u64, Duration>);

impl Closing {
    /// A descriptor was closed; it may have been the last.
    pub(crate) fn closes(&mut self, file: u64, now: Duration) {
        self.0.insert(file, now);
    }

    /// The open file is seen to live, or it is gone.
    pub(crate) fn is_known(&mut self, file: u64) {
        self.0.remove(&file);
    }

    /// Until when its release may be on its way.
    pub(crate) fn until(&self, file: u64, now: Duration) -> Option<Duration> {
        let until = *self.0.get(&file)? + MOMENT;
        (now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_on_its_way_for_a_moment_after_a_close() {
        let mut closing = Closing::default();
        let now = Duration::from_secs(7);
        assert_eq!(closing.until(1, now), None, "nothing was closed");
        closing.closes(1, now);
        assert_eq!(closing.until(1, now), Some(now + MOMENT));
        assert_eq!(closing.until(2, now), None, "another file");
        assert_eq!(closing.until(1, now + MOMENT), None, "it lives on");
        closing.is_known(1);
        assert_eq!(closing.until(1, now), None);
    }
}
