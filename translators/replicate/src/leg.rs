//! One sink's books: its ledger, and the journal that the ledger's changes are written to.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Not even that the journal is lost could be written: changes must fail.
    dead: AtomicBool,
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
    /// See [`Leg`].
    dead: bool,
    /// The header says, or may say, that all is calm.
    calm: bool,
    /// How often somebody waited for the disk under the journal.
    #[cfg(test)]
    waits: u64,
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
            calm: false,
            #[cfg(test)]
            waits: 0,
        };
        Leg {
            book: Mutex::new(book),
            dead: AtomicBool::new(false),
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
            at.fetch_add(by, Ordering::Relaxed);
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
            self.dead.store(book.dead, Ordering::Release);
        }
        answer
    }

    /// A number that changes with all that is marked; `None` while something is, or the journal
    /// cannot be written. For [`Leg::calm_down`].
    pub(crate) fn rested(&self) -> Option<u64> {
        let book = self.book.lock();
        let rested = book.ledger.is_settled() && book.lost.is_none() && !book.dead;
        rested.then_some(book.ledger.begun())
    }

    /// Says on the disk that nothing is marked, if nothing has been since `rested`, after which both
    /// bricks were synced. Whoever marks something then takes that back first.
    pub(crate) fn calm_down(&self, rested: u64) -> io::Result<()> {
        let mut book = self.book.lock();
        let still = book.ledger.is_settled() && book.lost.is_none() && !book.dead;
        if book.calm || !still || book.ledger.begun() != rested {
            return Ok(());
        }
        book.set_calm(true)
    }

    /// Whether that is said.
    pub(crate) fn is_calm(&self) -> bool {
        self.book.lock().calm
    }

    /// How often somebody waited for the disk under the journal.
    #[cfg(test)]
    pub(crate) fn waits(&self) -> u64 {
        self.book.lock().waits
    }

    /// Whether changes have to be refused.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
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
            calm,
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
                *calm = false;
                if lost.take().is_some() {
                    tracing::info!("the journal can be written again");
                }
                *dead = false;
                self.dead.store(false, Ordering::Release);
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
        // Before the change that is announced here, as it must be after a power cut.
        if self.calm
            && let Err(error) = self.set_calm(false)
        {
            tracing::error!(%error, "the journal cannot be written: changes are refused");
            self.lost = Some(error.to_string());
            self.dead = true;
        }
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

impl Book {
    /// Writes it down, and waits for the disk. Where that fails it may be there or not.
    fn set_calm(&mut self, calm: bool) -> io::Result<()> {
        #[cfg(test)]
        {
            self.waits += 1;
        }
        self.calm = true;
        if let Some(journal) = &mut self.journal {
            let header = Header {
                calm,
                ..journal.header().clone()
            };
            journal.set_header(header)?;
            journal.sync()?;
        }
        self.calm = calm;
        Ok(())
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
            Clock::Set(at) => at.load(Ordering::Relaxed),
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

#[cfg(test)]
mod tests {
    use hermitfs_api::Kind;

    use super::*;
    use crate::journal::VERSION;
    use crate::ledger::Known;
    use crate::record::{Locator, Oid, Trust};

    fn dir(n: u64) -> Known {
        Known {
            oid: Oid(n, 0),
            kind: Kind::Directory,
            locator: Locator::default(),
        }
    }

    fn leg(path: &Path) -> Leg {
        let header = Header {
            version: VERSION,
            ..Header::default()
        };
        Leg::new(
            Ledger::default(),
            Journal::create(path, header, &[]).unwrap(),
        )
    }

    /// What a reader of the journal finds: whether it is calm, and how many records there are.
    fn found(path: &Path) -> (bool, usize) {
        let found = Journal::read(path).unwrap().unwrap();
        assert!(!found.torn);
        (found.header.calm, found.records.len())
    }

    #[test]
    fn the_first_change_after_a_calm_waits_for_the_disk_and_no_other_does() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal.0");
        let leg = leg(&path);
        let change = |n| leg.ledger(|ledger| ledger.mark_name(&dir(n), &[b'x'][..].into(), 0));
        change(1);
        assert_eq!(leg.rested(), None);
        leg.ledger(|ledger| ledger.forget(dir(1).oid));
        let rested = leg.rested().unwrap();
        leg.calm_down(rested).unwrap();
        assert!(leg.is_calm());
        assert_eq!(found(&path), (true, 2));
        assert_eq!(leg.waits(), 1);
        leg.heartbeat(false, Served::now(), (0, 0)).unwrap();
        assert!(found(&path).0, "a sign of life changes nothing");
        for n in 0..100 {
            change(n);
            assert_eq!(found(&path), (false, 3 + n as usize));
            assert_eq!(leg.waits(), 2);
        }
        assert!(!leg.is_calm());
    }

    #[test]
    fn what_was_changed_during_the_syncs_is_no_calm() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal.0");
        let leg = leg(&path);
        let rested = leg.rested().unwrap();
        // A user comes and goes, and what he did is settled by a sync that was too early for it.
        let ticket = leg.ledger(|ledger| ledger.begin(&[], &[], &[], 0)).unwrap();
        leg.ledger(|ledger| ledger.end(ticket, 0, 0));
        leg.calm_down(rested).unwrap();
        assert!(!leg.is_calm() && !found(&path).0);
        // Something is open.
        leg.ledger(|ledger| ledger.plant_tree(&dir(1), Trust::ALL, 0));
        leg.calm_down(leg.ledger(|ledger| ledger.begun())).unwrap();
        assert!(!leg.is_calm() && !found(&path).0);
    }

    #[test]
    fn a_journal_that_is_written_anew_is_not_calm() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal.0");
        let leg = leg(&path);
        leg.calm_down(leg.rested().unwrap()).unwrap();
        leg.book.lock().lost = Some("of a test".into());
        leg.tidy();
        assert!(!leg.is_calm() && !found(&path).0);
    }
}
