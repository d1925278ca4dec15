//! The ledger as records of the journal, and back.

use super::{Known, Ledger, TOUCHED};
use crate::record::{Piece, Place, Record, kind_from};

impl Ledger {
    /// Records since the last call; to be written before any operation that they announce.
    pub(crate) fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// Whether there are any.
    pub(crate) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// Makes all changes from a journal again.
    pub(crate) fn replay(&mut self, records: impl IntoIterator<Item = Record>) {
        records.into_iter().for_each(|record| self.redo(record));
        self.clear_lost();
        self.records.clear();
    }

    fn redo(&mut self, record: Record) {
        match record {
            Record::Mark {
                oid,
                kind,
                locator,
                body,
                tree,
                names,
            } => {
                let known = Known {
                    oid,
                    kind: kind_from(kind),
                    locator,
                    dir: None,
                };
                self.admit(&known, 0);
                if let Some((ranges, escaped)) = body {
                    self.dirty_body(oid, None, escaped, 0);
                    ranges.iter().for_each(|range| {
                        self.dirty_body(oid, Some(range), escaped, 0);
                    });
                }
                names
                    .iter()
                    .for_each(|name| drop(self.dirty_name(oid, name, 0)));
                if let Some(trust) = tree {
                    self.replant(&known, trust);
                }
                self.enqueue(oid, TOUCHED, 0);
            }
            Record::Moved { oid, whence } => self.relocate(oid, None, whence),
            Record::Settled { oid, piece } => {
                if piece == Piece::Tree && self.tree_dirty(oid) {
                    self.less_trees();
                }
                self.drop_piece(oid, &piece);
            }
            Record::Gone { oid } => self.forget(oid),
            Record::Placed { oid, handle, place } => {
                if let Place::Staged(number) = place {
                    self.staged = self.staged.max(number);
                }
                self.set_place(oid, handle, place);
            }
            Record::Unplaced { oid } => self.unplace(oid),
            Record::Image { oid, sink, handle } => self.set_image(oid, sink, handle),
            Record::NoImage { oid } => self.drop_image(oid),
            Record::Waived { .. } => {}
            Record::WaivedOf {
                oid,
                piece,
                classes,
            } => self.waive(oid, &piece, classes),
            Record::Lost { oid, class, loss } => self.set_loss(oid, class, loss),
            Record::Kept { oid, class } => self.drop_loss(oid, class),
            Record::MoreLosses { class } => drop(self.more.insert(class)),
            Record::Agreed { class } => self.agree(class),
            Record::Unwaived { oid, piece } => self.unwaive(oid, &piece),
            Record::Unverified => self.unverified = true,
            Record::Verified => self.unverified = false,
        }
    }

    /// The shortest list of records that gives this ledger back: what a new journal begins with.
    pub(crate) fn dump(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (oid, mark) in &self.marks {
            let body = mark
                .body
                .as_ref()
                .map(|body| (body.journaled.clone(), body.escaped));
            let tree = mark.tree.as_ref().map(|(_, walk)| walk.trust);
            let names = mark.names.keys().cloned().collect();
            records.push(Self::mark_record(*oid, mark, body, tree, names));
        }
        for (oid, (handle, place)) in &self.places {
            let (handle, place) = (handle.clone(), place.clone());
            records.push(Record::Placed {
                oid: *oid,
                handle,
                place,
            });
        }
        for (oid, (sink, handle)) in &self.images {
            records.push(Record::Image {
                oid: *oid,
                sink: *sink,
                handle: handle.clone(),
            });
        }
        for ((oid, piece), classes) in &self.waived {
            records.push(Record::WaivedOf {
                oid: *oid,
                piece: piece.clone(),
                classes: classes.iter().copied().collect(),
            });
        }
        self.dump_losses(&mut records);
        if self.unverified {
            records.push(Record::Unverified);
        }
        records
    }
}
