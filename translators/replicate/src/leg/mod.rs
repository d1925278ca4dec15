//! One sink's book, and who waits for what is written in it.

mod book;

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::book::Book;
use crate::heal::Books;
use crate::journal::Journal;
use crate::ledger::{Ledger, Millis, Work};
use crate::sleepers::Sleepers;
use crate::volume::{MarkerOn, Served};

/// The ledger of one sink and its journal, under one lock. A change and its record are one step:
/// nobody sees a mark that is not in the journal.
pub(crate) struct Leg {
    /// The standard library's lock: who finds it taken sleeps. One who yields the processor a few
    /// times first, as others do, is put behind all that run there: milliseconds for a user.
    desk: Mutex<Desk>,
    /// A healer should look at the state of things.
    pub(crate) work: Condvar,
    /// Something that a user can see has changed.
    pub(crate) news: Condvar,
    clock: Clock,
}

struct Desk {
    book: Book,
    sleepers: Sleepers,
    /// How often something was queued.
    arrivals: u64,
}

/// There was nothing to heal: when there may be again, and what had been queued by then.
#[derive(Debug)]
pub(crate) struct Idle {
    due: Option<Millis>,
    arrivals: u64,
}

/// Milliseconds since the start; in tests, as the test says.
enum Clock {
    Running(Instant),
    #[cfg(test)]
    Set(std::sync::atomic::AtomicU64),
}

impl Leg {
    pub(crate) fn new(ledger: Ledger, journal: Journal, marker: Arc<MarkerOn>) -> Leg {
        let book = Book::new(ledger, journal, marker);
        Leg::with(book, Clock::Running(Instant::now()))
    }

    /// The journal could not be begun: nothing can be written to it until it is written anew.
    pub(crate) fn lose(&self, error: &std::io::Error) {
        self.desk().book.lose(error);
    }

    fn with(book: Book, clock: Clock) -> Leg {
        let desk = Desk {
            book,
            sleepers: Sleepers::default(),
            arrivals: 0,
        };
        Leg {
            desk: Mutex::new(desk),
            work: Condvar::new(),
            news: Condvar::new(),
            clock,
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        condition: &Condvar,
        desk: MutexGuard<'a, Desk>,
        at_most: Duration,
    ) -> MutexGuard<'a, Desk> {
        let waited = condition.wait_timeout(desk, at_most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// With a journal in memory and a clock that stands until it is moved.
    #[cfg(test)]
    pub(crate) fn in_memory(ledger: Ledger, kept: Vec<crate::record::Record>) -> Leg {
        let leg = Leg::with(Book::in_memory(ledger), Clock::Set(Default::default()));
        leg.desk().book.kept = kept;
        leg
    }

    #[cfg(test)]
    pub(crate) fn advance(&self, by: u64) {
        if let Clock::Set(at) = &self.clock {
            at.fetch_add(by, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(crate) fn kept(&self) -> Vec<crate::record::Record> {
        self.desk().book.kept.clone()
    }

    /// One step in the ledger, and in the journal.
    pub(crate) fn ledger<R>(&self, change: impl FnOnce(&mut Ledger) -> R) -> R {
        self.mark(change).0
    }

    /// The same; and whether it is noted somewhere. Otherwise what was marked must not be done.
    pub(crate) fn mark<R>(&self, change: impl FnOnce(&mut Ledger) -> R) -> (R, bool) {
        let mut desk = self.desk();
        let answer = desk.book.change(change);
        let noted = desk.book.is_noted();
        let rouse = desk.rouse();
        drop(desk);
        if rouse {
            self.work.notify_one();
        }
        (answer, noted)
    }

    /// Something to heal, claimed for the caller. When there is nothing he may [`Leg::sleep`].
    pub(crate) fn claim(&self, hurry: bool) -> Result<Work, Idle> {
        let mut desk = self.desk();
        let now = self.now();
        let work = desk.book.ledger.claim_next(now, hurry);
        let work = work.map_err(|due| Idle {
            due,
            arrivals: desk.arrivals,
        })?;
        // There may be some for another one.
        let due = desk.book.ledger.next_due();
        let due = due.filter(|due| hurry || *due <= now);
        let rouse = due.is_some_and(|due| desk.sleepers.rouse(due.min(now)));
        drop(desk);
        if rouse {
            self.work.notify_one();
        }
        Ok(work)
    }

    /// Sleeps until there may be work again, or a reason to look at the state of things.
    pub(crate) fn sleep(&self, idle: Idle) {
        let mut desk = self.desk();
        if desk.arrivals != idle.arrivals {
            return;
        }
        let now = self.now();
        let nap = desk.sleepers.sleep(now, idle.due);
        let at_most = Duration::from_millis(nap.until() - now);
        let mut desk = Self::wait(&self.work, desk, at_most);
        desk.sleepers.wake(nap);
    }

    /// Sleeps until there may be work, at most this long.
    pub(crate) fn wait_work(&self, at_most: Duration) {
        drop(Self::wait(&self.work, self.desk(), at_most));
    }

    /// Sleeps until there may be news, at most this long.
    pub(crate) fn wait_news(&self, at_most: Duration) {
        drop(Self::wait(&self.news, self.desk(), at_most));
    }

    /// A number that changes with all that is marked; `None` while something is, or the journal
    /// cannot be written. For [`Leg::calm_down`].
    pub(crate) fn rested(&self) -> Option<u64> {
        self.desk().book.rested()
    }

    /// Says on the disk that nothing is marked, if nothing has been since `rested`, after which both
    /// bricks were synced. Whoever marks something then takes that back first.
    pub(crate) fn calm_down(&self, rested: u64) -> io::Result<()> {
        self.desk().book.calm_down(rested)
    }

    /// Whether that is said.
    pub(crate) fn is_calm(&self) -> bool {
        self.desk().book.is_calm()
    }

    /// Whether a change can be written down, or that it cannot.
    pub(crate) fn is_noted(&self) -> bool {
        self.desk().book.is_noted()
    }

    /// Why nothing can be written to the journal, if so.
    pub(crate) fn lost(&self) -> Option<String> {
        self.desk().book.lost()
    }

    /// Writes the journal anew when it has become long, or was lost and can be written again.
    pub(crate) fn tidy(&self) {
        self.desk().book.tidy();
    }

    /// Notes, for a restart as well, that what the sink reads may not be what its disk has.
    pub(crate) fn suspect(&self) {
        self.desk().book.suspect();
    }

    /// Notes when we served last, how many files and bytes were healed then, and whether that was
    /// the end of it.
    pub(crate) fn heartbeat(
        &self,
        clean: bool,
        last: Served,
        healed: (u64, u64),
    ) -> io::Result<()> {
        self.desk().book.heartbeat(clean, last, healed)
    }
}

impl Desk {
    /// Whether somebody has to be woken for what was queued.
    fn rouse(&mut self) -> bool {
        let due = self.book.ledger.take_queued();
        self.arrivals += u64::from(due.is_some());
        due.is_some_and(|due| self.sleepers.rouse(due))
    }
}

impl Books for Leg {
    fn with(&self, change: &mut dyn FnMut(&mut Ledger)) {
        self.ledger(change);
    }

    fn now(&self) -> u64 {
        match &self.clock {
            Clock::Running(start) => start.elapsed().as_millis() as u64,
            #[cfg(test)]
            Clock::Set(at) => at.load(std::sync::atomic::Ordering::Relaxed),
        }
    }
}

/// This boot.
pub(crate) fn boot_id() -> String {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    std::fs::read_to_string(path)
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
