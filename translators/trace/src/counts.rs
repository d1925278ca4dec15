use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hermitfs_api::Fop;

/// How often an operation was called, failed, and how long all calls took together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Which operation.
    pub fop: Fop,
    /// Calls that were answered.
    pub calls: u64,
    /// Those of them that were answered with an error.
    pub errors: u64,
    /// Time from call to answer, of all calls together.
    pub time: Duration,
}

/// The counters; each operation has a cache line of its own.
pub(crate) struct Counters([Counter; Fop::ALL.len()]);

#[derive(Default)]
#[repr(align(64))]
struct Counter {
    calls: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters(array::from_fn(|_| Counter::default()))
    }
}

impl Counters {
    pub(crate) fn add(&self, fop: Fop, failed: bool, time: Duration) {
        let Some(counter) = self.0.get(fop as usize) else {
            return;
        };
        counter.calls.fetch_add(1, Ordering::Relaxed);
        counter
            .errors
            .fetch_add(u64::from(failed), Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        counter.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Those that were called, in the order of the table.
    pub(crate) fn read(&self) -> Vec<Count> {
        let all = Fop::ALL.iter().zip(&self.0).map(|(&fop, counter)| Count {
            fop,
            calls: counter.calls.load(Ordering::Relaxed),
            errors: counter.errors.load(Ordering::Relaxed),
            time: Duration::from_nanos(counter.nanos.load(Ordering::Relaxed)),
        });
        all.filter(|count| count.calls > 0).collect()
    }
}
