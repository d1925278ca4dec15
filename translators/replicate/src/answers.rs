//! Whether a brick answers: what it was asked, and since when it has not said a word.
//!
//! A disk that fails says so. One that blocks (a path to a storage that is gone, a controller that
//! resets for ever) says nothing, and whoever asked waits in the kernel, where nobody can reach him.
//! So nobody but the healer's own threads may ask a sink without a limit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use hermitfs_api::{
    Allocate, Attr, Context, DirEntry, Entry, Extent, File, Fop, Fsx, Handle, Inode, Lend, Lent,
    Location, Lock, Make, Name, NameBuf, OpenFlags, RenameFlags, Result, Role, Seek, SetAttr,
    Snapshot, StatFs, Translator, Whole, XattrFlags, async_trait,
};
use parking_lot::Mutex;

/// After this a brick is said not to answer.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// The same for what may have to write gigabytes first.
const SILENT_SYNC: Duration = Duration::from_secs(60);

/// What a brick was asked and has not answered.
#[derive(Default)]
pub(crate) struct Answers {
    next: AtomicU64,
    /// In the order of asking: since when, and when that is too long.
    open: Mutex<BTreeMap<u64, (Instant, Duration)>>,
}

impl Answers {
    fn ask(&self, fop: Fop, now: Instant) -> Asked<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let patience = match fop {
            Fop::Sync | Fop::Fsync | Fop::Fsyncdir => SILENT_SYNC,
            _ => SILENT_AFTER,
        };
        self.open.lock().insert(number, (now, patience));
        Asked(self, number)
    }

    /// For how long it has owed an answer; `None` while nothing takes too long.
    pub(crate) fn silent(&self, now: Instant) -> Option<Duration> {
        let open = self.open.lock();
        let owed = |(since, patience): &(Instant, Duration)| {
            let silent = now.saturating_duration_since(*since);
            (silent >= *patience).then_some(silent)
        };
        open.values().filter_map(owed).max()
    }
}

/// A question; answered when dropped.
struct Asked<'a>(&'a Answers, u64);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.open.lock().remove(&self.1);
    }
}

/// Forwards everything to a brick, and notes what it owes.
pub(crate) struct Awaited {
    pub(crate) below: Arc<dyn Translator>,
    pub(crate) answers: Arc<Answers>,
}

macro_rules! awaited {
    ($($(#[doc = $doc:literal])* $class:ident $fop:ident: fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        #[async_trait]
        impl Translator for Awaited {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                let _asked = self.answers.ask(Fop::$fop, Instant::now());
                self.below.$name($($arg),*).await
            })*
        }
    };
}

hermitfs_api::with_operations!(awaited);

/// Why there is no answer of what runs on a thread of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// It did not begin.
    #[error(
        "no thread can be had for it ({0}): raise the limit of processes (pids, TasksMax=), or end others"
    )]
    NoThread(std::io::Error),
    /// It has not come back in time, and goes on by itself.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It panicked.
    #[error("hermitfs failed at it: see its log")]
    Panicked,
}

/// Runs what may never come back, as what asks a sink, on a thread of its own.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::result::Result<T, Unanswered> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("bounded".into())
        .spawn(move || sender.send(work()))
        .map_err(Unanswered::NoThread)?;
    receiver.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => Unanswered::Late(limit),
        RecvTimeoutError::Disconnected => Unanswered::Panicked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_that_stays_open_counts_whatever_else_is_answered() {
        let answers = Answers::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let stuck = answers.ask(Fop::Write, at(0));
        assert_eq!(answers.silent(at(9)), None);
        for second in 0..20 {
            drop(answers.ask(Fop::Lookup, at(second)));
        }
        assert_eq!(answers.silent(at(12)), Some(Duration::from_secs(12)));
        let later = answers.ask(Fop::Create, at(5));
        assert_eq!(answers.silent(at(20)), Some(Duration::from_secs(20)));
        drop(stuck);
        assert_eq!(answers.silent(at(20)), Some(Duration::from_secs(15)));
        drop(later);
        assert_eq!(answers.silent(at(99)), None);
    }

    #[test]
    fn a_sync_may_take_longer() {
        let answers = Answers::default();
        let begun = Instant::now();
        let _sync = answers.ask(Fop::Sync, begun);
        assert_eq!(answers.silent(begun + Duration::from_secs(59)), None);
        assert!(answers.silent(begun + Duration::from_secs(61)).is_some());
    }

    #[test]
    fn what_does_not_come_back_is_left_behind() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let stuck = within(Duration::from_millis(10), move || held.recv());
        assert!(matches!(stuck, Err(Unanswered::Late(_))));
        drop(hold);
        let answered = within(Duration::from_secs(60), || 7);
        assert!(matches!(answered, Ok(7)));
        let panicked = within(Duration::from_secs(60), || panic!("a bug"));
        assert!(matches!(panicked, Err::<(), _>(Unanswered::Panicked)));
    }
}
