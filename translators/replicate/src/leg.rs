//! One sink's books: its ledger, and the journal that the ledger's changes are written to.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::heal::Books;
use crate::journal::{Header, Journal};
use crate::ledger::{Ledger, Millis, Work};
use crate::sleepers::Sleepers;
use crate::volume::{MarkerOn, Served};

/// The ledger of one sink and its journal, under one lock. A change and its record are one step:
/// nobody sees a mark that is not in the journal.
pub(crate) struct Leg {
    /// The standard library's lock: who finds it taken sleeps. One who yields the processor a few
    /// times first, as others do, is put behind all that run there: milliseconds for a user.
    book: Mutex<Book>,
    /// A healer should look at the state of things.
    pub(crate) work: Condvar,
    /// Something that a user can see has changed.
    pub(crate) news: Condvar,
    clock: Clock,
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

struct Book {
    ledger: Ledger,
    sleepers: Sleepers,
    /// How often something was queued.
    arrivals: u64,
    #[cfg(test)]
    kept: Vec<crate::record::Record>,
    journal: Option<Journal>,
    /// Where it is noted that the journal is lost, if that cannot be noted in it.
    marker: Option<Arc<MarkerOn>>,
    /// Why nothing can be written to the journal.
    lost: Option<String>,
    noted: Noted,
    /// The header says, or may say, that all is calm.
    calm: bool,
    /// How often somebody waited for the disk under the journal.
    #[cfg(test)]
    waits: u64,
}

/// Where it stands that a journal is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    /// In its own first block, or it is to be believed.
    InJournal,
    /// On the sink.
    OnSink,
    /// Nowhere: changes must fail.
    Nowhere,
}

impl Leg {
    pub(crate) fn new(ledger: Ledger, journal: Journal, marker: Arc<MarkerOn>) -> Leg {
        let leg = Leg::with(ledger, Some(journal), Clock::Running(Instant::now()));
        leg.book().marker = Some(marker);
        leg
    }

    fn with(ledger: Ledger, journal: Option<Journal>, clock: Clock) -> Leg {
        let book = Book {
            ledger,
            sleepers: Sleepers::default(),
            arrivals: 0,
            #[cfg(test)]
            kept: Vec::new(),
            journal,
            marker: None,
            lost: None,
            noted: Noted::InJournal,
            calm: false,
            #[cfg(test)]
            waits: 0,
        };
        Leg {
            book: Mutex::new(book),
            work: Condvar::new(),
            news: Condvar::new(),
            clock,
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        condition: &Condvar,
        book: MutexGuard<'a, Book>,
        at_most: Duration,
    ) -> MutexGuard<'a, Book> {
        let waited = condition.wait_timeout(book, at_most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// With a journal in memory and a clock that stands until it is moved.
    #[cfg(test)]
    pub(crate) fn in_memory(ledger: Ledger, kept: Vec<crate::record::Record>) -> Leg {
        let leg = Leg::with(ledger, None, Clock::Set(Default::default()));
        leg.book().kept = kept;
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
        self.book().kept.clone()
    }

    /// One step in the ledger, and in the journal.
    pub(crate) fn ledger<R>(&self, change: impl FnOnce(&mut Ledger) -> R) -> R {
        self.mark(change).0
    }

    /// The same; and whether it is noted somewhere. Otherwise what was marked must not be done.
    pub(crate) fn mark<R>(&self, change: impl FnOnce(&mut Ledger) -> R) -> (R, bool) {
        let mut book = self.book();
        let answer = change(&mut book.ledger);
        if book.ledger.has_records() {
            book.write();
        }
        let noted = book.noted != Noted::Nowhere;
        let rouse = book.rouse();
        drop(book);
        if rouse {
            self.work.notify_one();
        }
        (answer, noted)
    }

    /// Something to heal, claimed for the caller. When there is nothing he may [`Leg::sleep`].
    pub(crate) fn claim(&self, hurry: bool) -> Result<Work, Idle> {
        let mut book = self.book();
        let now = self.now();
        let work = book.ledger.claim_next(now, hurry).map_err(|due| Idle {
            due,
            arrivals: book.arrivals,
        })?;
        // There may be some for another one.
        let due = book.ledger.next_due().filter(|due| hurry || *due <= now);
        let rouse = due.is_some_and(|due| book.sleepers.rouse(due.min(now)));
        drop(book);
        if rouse {
            self.work.notify_one();
        }
        Ok(work)
    }

    /// Sleeps until there may be work again, or a reason to look at the state of things.
    pub(crate) fn sleep(&self, idle: Idle) {
        let mut book = self.book();
        if book.arrivals != idle.arrivals {
            return;
        }
        let now = self.now();
        let nap = book.sleepers.sleep(now, idle.due);
        let at_most = Duration::from_millis(nap.until() - now);
        let mut book = Self::wait(&self.work, book, at_most);
        book.sleepers.wake(nap);
    }

    /// A number that changes with all that is marked; `None` while something is, or the journal
    /// cannot be written. For [`Leg::calm_down`].
    pub(crate) fn rested(&self) -> Option<u64> {
        let book = self.book();
        let rested = book.ledger.is_settled() && book.lost.is_none();
        rested.then_some(book.ledger.begun())
    }

    /// Says on the disk that nothing is marked, if nothing has been since `rested`, after which both
    /// bricks were synced. Whoever marks something then takes that back first.
    pub(crate) fn calm_down(&self, rested: u64) -> io::Result<()> {
        let mut book = self.book();
        let still = book.ledger.is_settled() && book.lost.is_none();
        if book.calm || !still || book.ledger.begun() != rested {
            return Ok(());
        }
        book.set_calm(true)
    }

    /// Whether that is said.
    pub(crate) fn is_calm(&self) -> bool {
        self.book().calm
    }

    /// How often somebody waited for the disk under the journal.
    #[cfg(test)]
    pub(crate) fn waits(&self) -> u64 {
        self.book().waits
    }

    /// Whether a change can be written down, or that it cannot.
    pub(crate) fn is_noted(&self) -> bool {
        self.book().noted != Noted::Nowhere
    }

    /// Why nothing can be written to the journal, if so.
    pub(crate) fn lost(&self) -> Option<String> {
        let book = self.book();
        let why = book.lost.as_ref()?;
        let then = match book.noted {
            Noted::InJournal | Noted::OnSink => "all is compared once it can be written again",
            Noted::Nowhere => "nor can that be noted on the sink, so changes are refused",
        };
        Some(format!("the journal cannot be written: {why}; {then}"))
    }

    /// Sleeps until there may be work, at most this long.
    pub(crate) fn wait_work(&self, at_most: Duration) {
        drop(Self::wait(&self.work, self.book(), at_most));
    }

    /// Sleeps until there may be news, at most this long.
    pub(crate) fn wait_news(&self, at_most: Duration) {
        drop(Self::wait(&self.news, self.book(), at_most));
    }

    /// Writes the journal anew when it has become long, or was lost and can be written again.
    pub(crate) fn tidy(&self) {
        let mut book = self.book();
        let Book {
            ledger,
            journal: Some(journal),
            marker,
            lost,
            noted,
            calm,
            ..
        } = &mut *book
        else {
            return;
        };
        if lost.is_none() && *noted == Noted::InJournal && !journal.is_long() {
            return;
        }
        if lost.is_some() || journal.is_long() {
            match journal.compact(&ledger.dump()) {
                Ok(()) => {
                    *calm = false;
                    if lost.take().is_some() {
                        tracing::info!("the journal can be written again");
                    }
                }
                Err(error) if lost.is_some() => {
                    tracing::debug!(%error, "the journal is still lost");
                    if *noted == Noted::Nowhere {
                        book.note();
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the journal cannot be shortened");
                    return;
                }
            }
        }
        // It is to be believed again; a marker that says otherwise would cost a walk, no more.
        let unmarked = match (*noted, marker) {
            (Noted::OnSink, Some(marker)) => marker.set_dirty(false),
            _ => Ok(()),
        };
        match unmarked {
            Ok(()) => *noted = Noted::InJournal,
            Err(error) => tracing::debug!(%error, "the sink's marker still says dirty"),
        }
    }

    /// Notes, for a restart as well, that what the sink reads may not be what its disk has.
    pub(crate) fn suspect(&self) {
        let mut book = self.book();
        if let Some(journal) = &mut book.journal
            && !journal.header().suspect
        {
            let header = Header {
                suspect: true,
                ..journal.header().clone()
            };
            if let Err(error) = journal.set_header(header) {
                tracing::warn!(%error, "the journal cannot be written");
            }
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
        let mut book = self.book();
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
        let written = journal.set_header(header);
        let written = written.and_then(|()| if clean { journal.sync() } else { Ok(()) });
        if let Err(error) = &written
            && book.lost.is_none()
        {
            book.lose(error);
        }
        written
    }
}

impl Book {
    /// Whether somebody has to be woken for what was queued.
    fn rouse(&mut self) -> bool {
        let due = self.ledger.take_queued();
        self.arrivals += u64::from(due.is_some());
        due.is_some_and(|due| self.sleepers.rouse(due))
    }

    fn write(&mut self) {
        let records = self.ledger.take_records();
        #[cfg(test)]
        self.kept.extend(records.iter().cloned());
        // Before the change that is announced here, as it must be after a power cut.
        if self.calm
            && self.lost.is_none()
            && let Err(error) = self.set_calm(false)
        {
            self.lose(&error);
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
        self.lose(&error);
    }

    fn lose(&mut self, error: &io::Error) {
        tracing::error!(%error, "the journal cannot be written: everything counts as dirty");
        self.lost = Some(error.to_string());
        self.note();
    }

    /// Notes that the journal is lost: in its first block, which needs no space; else on the sink.
    fn note(&mut self) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        let header = Header {
            all_dirty: true,
            calm: false,
            ..journal.header().clone()
        };
        let written = journal.set_header(header);
        // A calm is believed after a power cut: that it is over has to be on the disk.
        let written = match self.calm {
            true => written.and_then(|()| journal.sync()),
            false => written,
        };
        let Err(error) = written else {
            (self.noted, self.calm) = (Noted::InJournal, false);
            return;
        };
        tracing::error!(%error, "nor can its first block: the sink's marker has to tell");
        let marked = match &self.marker {
            Some(marker) => marker.set_dirty(true),
            None => Err(hermitfs_api::Errno::ENODEV.into()),
        };
        self.noted = match marked {
            Ok(()) => Noted::OnSink,
            Err(error) => {
                tracing::error!(%error, "nor can that: changes are refused");
                Noted::Nowhere
            }
        };
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

#[cfg(test)]
mod tests {
    use hermitfs_api::{Context, Kind, Origin, Role, Translator, block_on};
    use hermitfs_testkit::Memory;

    use super::*;
    use crate::journal::VERSION;
    use crate::ledger::Known;
    use crate::record::{Locator, Oid, Trust};
    use crate::volume::{self, BrickId, Found, Marker};

    /// A leg with a journal on a disk and a marker on a sink.
    fn leg(dir: &Path) -> (Leg, Arc<Memory>) {
        let id = BrickId {
            fsid: "f".into(),
            root: "r".into(),
        };
        let marker = Marker {
            version: 1,
            id: "1-2".into(),
            role: "sink".into(),
            source: id,
            dirty: false,
        };
        let sink = Arc::new(Memory::with_dev(2));
        let marker = Arc::new(MarkerOn::new(sink.clone(), marker));
        let root = block_on(sink.root(&Context::internal(Origin::Heal))).unwrap();
        marker.write(&root.inode).unwrap();
        let header = Header {
            version: VERSION,
            ..Header::default()
        };
        let journal = Journal::create(&dir.join("journal"), header, &[]).unwrap();
        (Leg::new(Ledger::default(), journal, marker), sink)
    }

    /// Something that has to be written down.
    fn change(leg: &Leg, n: u64) -> bool {
        let known = Known {
            oid: Oid(n, n),
            kind: Kind::Directory,
            locator: Locator::default(),
            dir: None,
        };
        leg.mark(|ledger| ledger.plant_tree(&known, Trust::ALL, 0))
            .1
    }

    fn marker_says_dirty(sink: &Memory) -> bool {
        let root = block_on(sink.root(&Context::internal(Origin::Heal))).unwrap();
        match block_on(volume::inspect(sink, &root.inode)).unwrap() {
            Found::Marked(marker) => marker.dirty,
            _ => panic!("no marker"),
        }
    }

    #[test]
    fn what_the_journal_cannot_tell_the_sink_tells_and_if_not_changes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (leg, sink) = leg(dir.path());
        assert!(change(&leg, 1));
        assert_eq!(leg.lost(), None);

        leg.book().journal.as_mut().unwrap().fail();
        assert!(change(&leg, 2), "users go on");
        assert!(leg.lost().unwrap().contains("journal cannot be written"));
        assert!(marker_says_dirty(&sink));

        leg.tidy();
        assert_eq!(leg.lost(), None, "it can be written again");
        assert!(!marker_says_dirty(&sink));
        let found = Journal::read(&dir.path().join("journal")).unwrap().unwrap();
        assert_eq!(found.records.len(), 2, "with all that was missed");

        leg.book().journal.as_mut().unwrap().fail();
        // Our own changes are refused there.
        block_on(sink.role(Role::Source)).unwrap();
        assert!(!change(&leg, 3), "noted nowhere");
        assert!(!leg.is_noted());
        assert!(leg.lost().unwrap().contains("changes are refused"));
        // The sink first, then the journal.
        std::fs::create_dir(dir.path().join("journal.new")).unwrap();
        leg.tidy();
        assert!(!leg.is_noted());
        block_on(sink.role(Role::Sink)).unwrap();
        leg.tidy();
        assert!(leg.is_noted() && marker_says_dirty(&sink));
        std::fs::remove_dir(dir.path().join("journal.new")).unwrap();
        leg.tidy();
        assert!(change(&leg, 4));
        assert_eq!(leg.lost(), None);
        assert!(!marker_says_dirty(&sink));
    }

    #[test]
    fn a_heartbeat_that_fails_says_that_the_journal_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (leg, sink) = leg(dir.path());
        leg.heartbeat(false, Served::now(), (0, 0)).unwrap();
        leg.book().journal.as_mut().unwrap().fail();
        leg.heartbeat(false, Served::now(), (0, 0)).unwrap_err();
        assert!(leg.lost().is_some() && marker_says_dirty(&sink));
    }

    #[test]
    fn a_calm_that_cannot_be_taken_back_is_noted_on_the_sink_or_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (leg, sink) = leg(dir.path());
        leg.calm_down(leg.rested().unwrap()).unwrap();
        leg.book().journal.as_mut().unwrap().fail();
        assert!(change(&leg, 1), "users go on");
        assert!(marker_says_dirty(&sink));
        leg.tidy();
        assert!(!leg.is_calm() && !marker_says_dirty(&sink));

        leg.ledger(|ledger| ledger.forget(Oid(1, 1)));
        leg.calm_down(leg.rested().unwrap()).unwrap();
        leg.book().journal.as_mut().unwrap().fail();
        block_on(sink.role(Role::Source)).unwrap();
        assert!(!change(&leg, 2), "noted nowhere");
    }

    fn dir(n: u64) -> Known {
        Known {
            oid: Oid(n, 0),
            kind: Kind::Directory,
            locator: Locator::default(),
            dir: None,
        }
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
        let path = place.path().join("journal");
        let (leg, _sink) = leg(place.path());
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
        let path = place.path().join("journal");
        let (leg, _sink) = leg(place.path());
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
        let path = place.path().join("journal");
        let (leg, _sink) = leg(place.path());
        leg.calm_down(leg.rested().unwrap()).unwrap();
        leg.book().lost = Some("of a test".into());
        leg.tidy();
        assert!(!leg.is_calm() && !found(&path).0);
    }
}
