//! Numbers and failures, for those who watch.

use super::{Ledger, Millis, State};
use crate::record::{Locator, Oid, Piece, Record};
use crate::trouble::Trouble;

impl Ledger {
    /// Objects with a mark that is not waived.
    pub(crate) fn pending(&self) -> u64 {
        if self.waived.is_empty() {
            return self.marks.len() as u64;
        }
        self.marks
            .keys()
            .filter(|oid| self.open_pieces(**oid).next().is_some())
            .count() as u64
    }

    pub(super) fn open_pieces(&self, oid: Oid) -> impl Iterator<Item = (Piece, State)> + '_ {
        let mark = self.marks.get(&oid);
        let bodies = mark
            .and_then(|m| m.body.as_ref())
            .map(|b| (Piece::Body, b.state));
        let trees = mark
            .and_then(|m| m.tree.as_ref())
            .map(|(s, _)| (Piece::Tree, *s));
        let names = mark.into_iter().flat_map(|m| m.names.iter());
        let names = names.map(|(name, state)| (Piece::Name(name.clone()), *state));
        let all = bodies.into_iter().chain(trees).chain(names);
        all.filter(move |(piece, _)| !self.waived.contains(&(oid, piece.clone())))
    }

    /// Whether nothing at all is marked, waived or not, and all is verified.
    pub(crate) fn is_settled(&self) -> bool {
        self.marks.is_empty() && !self.unverified
    }

    /// Age of the oldest mark.
    pub(crate) fn oldest(&self, now: Millis) -> Option<Millis> {
        self.marks
            .values()
            .map(|mark| now.saturating_sub(mark.since))
            .max()
    }

    /// Directories that no crawl has finished.
    pub(crate) fn trees(&self) -> u64 {
        self.trees
    }

    /// A point that [`Ledger::reached`] can be asked about: all that is marked now.
    pub(crate) fn now_mark(&mut self) -> u64 {
        self.next_generation()
    }

    /// Pieces from before `goal` that are still open: those that only wait, and those that failed.
    pub(crate) fn left_before(&self, goal: u64) -> (u64, u64) {
        let (mut open, mut failed) = (0, 0);
        for &oid in self.marks.keys() {
            for (piece, state) in self.open_pieces(oid) {
                // A tree, whenever it was planted, may stand for something older below.
                if state.born <= goal || piece == Piece::Tree {
                    match self.troubles.get(&(oid, piece)) {
                        Some(trouble) if !trouble.stale => failed += 1,
                        _ => open += 1,
                    }
                }
            }
        }
        (open, failed)
    }

    /// What failed, and whether it was waived.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = (Oid, &Piece, &Trouble, bool)> {
        self.troubles
            .iter()
            .map(|(key, trouble)| (key.0, &key.1, trouble, self.waived.contains(key)))
    }

    /// Number of failures that are not waived.
    pub(crate) fn errors(&self) -> u64 {
        self.troubles
            .keys()
            .filter(|key| !self.waived.contains(*key))
            .count() as u64
    }

    /// Number of pieces that were waived.
    pub(crate) fn waived(&self) -> u64 {
        self.waived.len() as u64
    }

    /// An administrator says that this failure does not matter.
    pub(crate) fn waive(&mut self, oid: Oid, piece: &Piece) {
        if self.waived.insert((oid, piece.clone())) {
            self.records.push(Record::Waived {
                oid,
                piece: piece.clone(),
            });
        }
    }

    pub(super) fn unwaive(&mut self, oid: Oid, piece: &Piece) {
        if !self.waived.is_empty() && self.waived.remove(&(oid, piece.clone())) {
            self.records.push(Record::Unwaived {
                oid,
                piece: piece.clone(),
            });
        }
    }

    /// Whether something is marked that no handle leads back to: after a restart it cannot be found.
    pub(crate) fn has_unfindable(&self) -> bool {
        self.marks
            .values()
            .any(|mark| mark.locator.handle.is_none())
    }

    /// How the object is found, as its mark has it.
    pub(crate) fn locator(&self, oid: Oid) -> Option<Locator> {
        self.marks.get(&oid).map(|mark| mark.locator.clone())
    }

    /// Whether something below the root may have been changed without us.
    pub(crate) fn unverified(&self) -> bool {
        self.unverified
    }

    /// Says so; until [`Ledger::verified`].
    pub(crate) fn set_unverified(&mut self) {
        self.unverified = true;
        self.records.push(Record::Unverified);
    }

    /// No tree is open any more: all has been compared.
    pub(crate) fn verified(&mut self) {
        if self.unverified && self.trees == 0 {
            self.unverified = false;
            self.records.push(Record::Verified);
        }
    }
}
