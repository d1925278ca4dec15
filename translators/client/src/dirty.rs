//! What may be lost with the server's machine.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whether something was written that no fsync has put on stable storage yet, and in which boot of
/// the server the first of it was.
#[derive(Default)]
pub(crate) struct Dirty(AtomicU64);

/// The note, taken at the begin of an fsync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note(u64);

impl Dirty {
    /// Something is about to be written. Boots count from 1.
    pub(crate) fn wrote(&self, boot: u64) {
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.0.compare_exchange(0, boot, set, get);
    }

    /// Takes the note; what is written from now on makes a new one.
    pub(crate) fn take(&self) -> Note {
        Note(self.0.swap(0, Ordering::Relaxed))
    }

    /// The fsync failed.
    pub(crate) fn put_back(&self, note: Note) {
        if note.0 != 0 {
            self.0.store(note.0, Ordering::Relaxed);
        }
    }
}

impl Note {
    /// What was written may have been lost, as the server's machine has booted since.
    pub(crate) fn is_before(self, boot: u64) -> bool {
        self.0 != 0 && self.0 != boot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_in_an_earlier_boot_is_told_once() {
        let dirty = Dirty::default();
        assert!(!dirty.take().is_before(1), "nothing was written");
        dirty.wrote(1);
        dirty.wrote(2);
        let note = dirty.take();
        assert!(note.is_before(2) && !note.is_before(1));
        assert!(!dirty.take().is_before(2));
    }

    #[test]
    fn a_failed_fsync_loses_no_note() {
        let dirty = Dirty::default();
        dirty.wrote(1);
        let note = dirty.take();
        dirty.wrote(2);
        dirty.put_back(note);
        assert!(dirty.take().is_before(2), "the oldest counts");
    }
}
