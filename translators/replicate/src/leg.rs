//! One sink's books: its ledger, and the journal that the ledger's changes are written to.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::heal::Books;
use crate::journal::{Header, Journal};
use crate::ledger::Ledger;
use crate::volume::Served;

/// The ledger of one sink and its journal, under one lock. A change and its record are one step:
/// nobody sees a mark that is not in the journal.
pub(crate) struct Leg {
    book: Mutex<Book>,
    /// Something became due, or a healer should look at the state of things.
    pub(crate) work: Condvar,
    /// Something that a user can see has changed.
    pub(crate) news: Condvar,
    clock: Clock,
}

/// Milliseconds since the start; in tests, as the test says.
enum Clock {
    Running(Instant),
    #[cfg(test)]
    Set(std::sync::atomic::AtomicU64),
}

struct Book {
    ledger: Ledger,
    #[cfg(test)]
    kept: Vec<crate::record::Record>,
    journal: Option<Journal>,
    /// Since when, and why, nothing can be written.
    lost: Option<String>,
    /// Not even that it is lost could be written: changes must fail.
    dead: bool,
}

impl Leg {
    pub(crate) fn new(ledger: Ledger, journal: Journal) -> Leg {
        Leg::with(ledger, Some(journal), Clock::Running(Instant::now()))
    }

    fn with(ledger: Ledger, journal: Option<Journal>, clock: Clock) -> Leg {
        let book = Book {
            ledger,
            #[cfg(test)]
            kept: Vec::new(),
            journal,
            lost: None,
            dead: false,
        };
        Leg {
            book: Mutex::new(book),
            work: Condvar::new(),
            news: Condvar::new(),
            clock,
        }
    }

    /// With a journal in memory and a clock that stands until it is moved.
    #[cfg(test)]
    pub(crate) fn in_memory(ledger: Ledger, kept: Vec<crate::record::Record>) -> Leg {
        let leg = Leg::with(ledger, None, Clock::Set(Default::default()));
        leg.book.lock().kept = kept;
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
        self.book.lock().kept.clone()
    }

    /// One step in the ledger, and in the journal.
    pub(crate) fn ledger<R>(&self, change: impl FnOnce(&mut Ledger) -> R) -> R {
        let mut book = self.book.lock();
        let answer = change(&mut book.ledger);
        if book.ledger.has_records() {
            book.write();
        }
        answer
    }

    /// Whether changes have to be refused.
    pub(crate) fn is_dead(&self) -> bool {
        self.book.lock().dead
    }

    /// Why nothing can be written to the journal, if so.
    pub(crate) fn lost(&self) -> Option<String> {
        self.book.lock().lost.clone()
    }

    /// Sleeps until there may be work, at most this long.
    pub(crate) fn wait_work(&self, at_most: Duration) {
        self.work.wait_for(&mut self.book.lock(), at_most);
    }

    /// Sleeps until there may be news, at most this long.
    pub(crate) fn wait_news(&self, at_most: Duration) {
        self.news.wait_for(&mut self.book.lock(), at_most);
    }

    /// Writes the journal anew when it has become long, or was lost and can be written again.
    pub(crate) fn tidy(&self) {
        let mut book = self.book.lock();
        let Book {
            ledger,
            journal: Some(journal),
            lost,
            dead,
            ..
        } = &mut *book
        else {
            return;
        };
        if lost.is_none() && !journal.is_long() {
            return;
        }
        match journal.compact(&ledger.dump()) {
            Ok(()) => {
                if lost.take().is_some() {
                    tracing::info!("the journal can be written again");
                }
                *dead = false;
            }
            Err(error) if lost.is_some() => tracing::debug!(%error, "the journal is still lost"),
            Err(error) => tracing::warn!(%error, "the journal cannot be shortened"),
        }
    }

    /// Notes when we served last, how many files and bytes were healed then, and whether that was
    /// the end of it.
    pub(crate) fn heartbeat(
        &self,
        clean: bool,
        last: Served,
        healed: (u64, u64),
    ) -> io::Result<()> {
        let mut book = self.book.lock();
        let Some(journal) = &mut book.journal else {
            return Ok(());
        };
        let header = Header {
            clean,
            served: last.at,
            uptime: last.uptime,
            files: healed.0,
            bytes: healed.1,
            ..journal.header().clone()
        };
        journal.set_header(header)?;
        if clean { journal.sync() } else { Ok(()) }
    }
}

impl Book {
    fn write(&mut self) {
        let records = self.ledger.take_records();
        #[cfg(test)]
        self.kept.extend(records.iter().cloned());
        let Some(journal) = &mut self.journal else {
            return;
        };
        if self.lost.is_some() {
            return;
        }
        let Err(error) = journal.append(&records) else {
            return;
        };
        tracing::error!(%error, "the journal cannot be written: everything counts as dirty");
        self.lost = Some(error.to_string());
        let header = Header {
            all_dirty: true,
            ..journal.header().clone()
        };
        if let Err(error) = journal.set_header(header) {
            tracing::error!(%error, "nor its first block: changes are refused");
            self.dead = true;
        }
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
