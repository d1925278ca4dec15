//! A ledger, and the journal that its changes are written to; and what is noted where when they cannot be.

use std::io;
use std::sync::Arc;

use crate::journal::{Header, Journal};
use crate::ledger::Ledger;
use crate::volume::{MarkerOn, Served};

pub(super) struct Book {
    pub(super) ledger: Ledger,
    #[cfg(test)]
    pub(super) kept: Vec<crate::record::Record>,
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

impl Book {
    pub(super) fn new(ledger: Ledger, journal: Journal, marker: Arc<MarkerOn>) -> Book {
        Book {
            journal: Some(journal),
            marker: Some(marker),
            ..Book::in_memory(ledger)
        }
    }

    /// Without a journal.
    pub(super) fn in_memory(ledger: Ledger) -> Book {
        Book {
            ledger,
            #[cfg(test)]
            kept: Vec::new(),
            journal: None,
            marker: None,
            lost: None,
            noted: Noted::InJournal,
            calm: false,
            #[cfg(test)]
            waits: 0,
        }
    }

    /// A change and its record.
    pub(super) fn change<R>(&mut self, change: impl FnOnce(&mut Ledger) -> R) -> R {
        let answer = change(&mut self.ledger);
        if self.ledger.has_records() {
            self.write();
        }
        answer
    }

    /// Whether a change can be written down, or that it cannot.
    pub(super) fn is_noted(&self) -> bool {
        self.noted != Noted::Nowhere
    }

    /// Why nothing can be written to the journal, if so.
    pub(super) fn lost(&self) -> Option<String> {
        let why = self.lost.as_ref()?;
        let then = match self.noted {
            Noted::InJournal | Noted::OnSink => "all is compared once it can be written again",
            Noted::Nowhere => "nor can that be noted on the new brick, so changes are refused",
        };
        Some(format!("the journal cannot be written: {why}; {then}"))
    }

    /// A number that changes with all that is marked; `None` while something is, or the journal
    /// cannot be written. For [`Book::calm_down`].
    pub(super) fn rested(&self) -> Option<u64> {
        let rested = self.ledger.is_settled() && self.lost.is_none();
        rested.then_some(self.ledger.begun())
    }

    /// Says on the disk that nothing is marked, if nothing has been since `rested`, after which both
    /// bricks were synced. Whoever marks something then takes that back first.
    pub(super) fn calm_down(&mut self, rested: u64) -> io::Result<()> {
        if self.calm || self.rested() != Some(rested) {
            return Ok(());
        }
        self.set_calm(true)
    }

    /// Whether that is said.
    pub(super) fn is_calm(&self) -> bool {
        self.calm
    }

    /// Writes the journal anew when it has become long, or was lost and can be written again.
    pub(super) fn tidy(&mut self) {
        let Book {
            ledger,
            journal: Some(journal),
            marker,
            lost,
            noted,
            calm,
            ..
        } = self
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
                        self.note();
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
    pub(super) fn suspect(&mut self) {
        if let Some(journal) = &mut self.journal
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
    pub(super) fn heartbeat(
        &mut self,
        clean: bool,
        last: Served,
        healed: (u64, u64),
    ) -> io::Result<()> {
        let Some(journal) = &mut self.journal else {
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
            && self.lost.is_none()
        {
            self.lose(error);
        }
        written
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

    pub(super) fn lose(&mut self, error: &io::Error) {
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

#[cfg(test)]
mod tests {
    use hermitfs_api::{Context, Kind, Origin, Role, Translator, block_on};
    use hermitfs_testkit::Memory;

    use std::path::Path;

    use super::*;
    use crate::journal::VERSION;
    use crate::ledger::Known;
    use crate::record::{Locator, Oid, Trust};
    use crate::volume::{self, BrickId, Found, Marker};

    /// A book with a journal on a disk and a marker on a sink.
    fn book(dir: &Path) -> (Book, Arc<Memory>) {
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
        (Book::new(Ledger::default(), journal, marker), sink)
    }

    /// Something that has to be written down.
    fn change(book: &mut Book, n: u64) -> bool {
        let known = Known {
            oid: Oid(n, n),
            kind: Kind::Directory,
            locator: Locator::default(),
            dir: None,
        };
        book.change(|ledger| ledger.plant_tree(&known, Trust::ALL, 0));
        book.is_noted()
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
        let (mut book, sink) = book(dir.path());
        assert!(change(&mut book, 1));
        assert_eq!(book.lost(), None);

        book.journal.as_mut().unwrap().fail();
        assert!(change(&mut book, 2), "users go on");
        assert!(book.lost().unwrap().contains("journal cannot be written"));
        assert!(marker_says_dirty(&sink));

        book.tidy();
        assert_eq!(book.lost(), None, "it can be written again");
        assert!(!marker_says_dirty(&sink));
        let found = Journal::read(&dir.path().join("journal")).unwrap().unwrap();
        assert_eq!(found.records.len(), 2, "with all that was missed");

        book.journal.as_mut().unwrap().fail();
        // Our own changes are refused there.
        block_on(sink.role(Role::Source)).unwrap();
        assert!(!change(&mut book, 3), "noted nowhere");
        assert!(!book.is_noted());
        assert!(book.lost().unwrap().contains("changes are refused"));
        // The sink first, then the journal.
        std::fs::create_dir(dir.path().join("journal.new")).unwrap();
        book.tidy();
        assert!(!book.is_noted());
        block_on(sink.role(Role::Sink)).unwrap();
        book.tidy();
        assert!(book.is_noted() && marker_says_dirty(&sink));
        std::fs::remove_dir(dir.path().join("journal.new")).unwrap();
        book.tidy();
        assert!(change(&mut book, 4));
        assert_eq!(book.lost(), None);
        assert!(!marker_says_dirty(&sink));
    }

    #[test]
    fn a_heartbeat_that_fails_says_that_the_journal_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (mut book, sink) = book(dir.path());
        book.heartbeat(false, Served::now(), (0, 0)).unwrap();
        book.journal.as_mut().unwrap().fail();
        book.heartbeat(false, Served::now(), (0, 0)).unwrap_err();
        assert!(book.lost().is_some() && marker_says_dirty(&sink));
    }

    #[test]
    fn a_calm_that_cannot_be_taken_back_is_noted_on_the_sink_or_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (mut book, sink) = book(dir.path());
        let rested = book.rested().unwrap();
        book.calm_down(rested).unwrap();
        book.journal.as_mut().unwrap().fail();
        assert!(change(&mut book, 1), "users go on");
        assert!(marker_says_dirty(&sink));
        book.tidy();
        assert!(!book.is_calm() && !marker_says_dirty(&sink));

        book.change(|ledger| ledger.forget(Oid(1, 1)));
        let rested = book.rested().unwrap();
        book.calm_down(rested).unwrap();
        book.journal.as_mut().unwrap().fail();
        block_on(sink.role(Role::Source)).unwrap();
        assert!(!change(&mut book, 2), "noted nowhere");
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
        let (mut book, _sink) = book(place.path());
        let mark = |book: &mut Book, n| {
            book.change(|ledger| ledger.mark_name(&dir(n), &[b'x'][..].into(), 0))
        };
        mark(&mut book, 1);
        assert_eq!(book.rested(), None);
        book.change(|ledger| ledger.forget(dir(1).oid));
        let rested = book.rested().unwrap();
        book.calm_down(rested).unwrap();
        assert!(book.is_calm());
        assert_eq!(found(&path), (true, 2));
        assert_eq!(book.waits, 1);
        book.heartbeat(false, Served::now(), (0, 0)).unwrap();
        assert!(found(&path).0, "a sign of life changes nothing");
        for n in 0..100 {
            mark(&mut book, n);
            assert_eq!(found(&path), (false, 3 + n as usize));
            assert_eq!(book.waits, 2);
        }
        assert!(!book.is_calm());
    }

    #[test]
    fn what_was_changed_during_the_syncs_is_no_calm() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let (mut book, _sink) = book(place.path());
        let rested = book.rested().unwrap();
        // A user comes and goes, and what he did is settled by a sync that was too early for it.
        let ticket = book
            .change(|ledger| ledger.begin(&[], &[], &[], 0))
            .unwrap();
        book.change(|ledger| ledger.end(ticket, 0, 0));
        book.calm_down(rested).unwrap();
        assert!(!book.is_calm() && !found(&path).0);
        // Something is open.
        book.change(|ledger| ledger.plant_tree(&dir(1), Trust::ALL, 0));
        let begun = book.ledger.begun();
        book.calm_down(begun).unwrap();
        assert!(!book.is_calm() && !found(&path).0);
    }

    #[test]
    fn a_journal_that_is_written_anew_is_not_calm() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let (mut book, _sink) = book(place.path());
        let rested = book.rested().unwrap();
        book.calm_down(rested).unwrap();
        book.lost = Some("of a test".into());
        book.tidy();
        assert!(!book.is_calm() && !found(&path).0);
    }
}
