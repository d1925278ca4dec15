//! Images of directories that were found of late. Whether one still is where it was found the ledger says
//! (`ledger/ways.rs`); so whoever goes the same way again need not look at either brick, which may be far.

use std::collections::HashMap;
use std::sync::Arc;

use hermitfs_api::Inode;
use parking_lot::Mutex;

use super::Healer;
use crate::ledger::Ledger;
use crate::record::{Bytes, Oid};

/// Kept beyond those that the ledger knows of, before the others go.
const SPARE: usize = 1024;

#[derive(Default)]
pub(super) struct Ways(Mutex<HashMap<Oid, Arc<Inode>>>);

impl Healer {
    /// The image of a directory of the source, if it and all above it are known to be where they belong.
    pub(super) fn settled(&self, dir: Oid) -> Option<Arc<Inode>> {
        let sink_root = self.sink_root().ok()?;
        let root = Oid::from(self.source_root.identity());
        if dir == root {
            return Some(sink_root);
        }
        let roots = (root, Oid::from(sink_root.identity()));
        let image = self.ledger(|ledger| ledger.settled(dir, roots))?;
        let known = self.ways.0.lock().get(&dir).cloned();
        known.filter(|known| Oid::from(known.identity()) == image)
    }

    /// Notes what a name of a directory and of its image lead to, if that holds: then this is one more step down.
    pub(super) fn note_way(
        &self,
        (above, from): (Oid, Oid),
        name: &Bytes,
        (dir, image): (Oid, Arc<Inode>),
        holds: impl FnOnce(&Ledger) -> bool,
    ) -> bool {
        let its = Oid::from(image.identity());
        self.ways.0.lock().insert(dir, image);
        let (holds, kept) = self.ledger(|ledger| {
            let holds = holds(ledger);
            if holds {
                ledger.note_way((above, from), name, (dir, its));
            }
            (holds, ledger.ways())
        });
        self.tidy_ways(2 * kept + SPARE);
        holds
    }

    /// Lets those images go of which the ledger knows nothing any more, when there are many.
    fn tidy_ways(&self, most: usize) {
        let found: Vec<Oid> = match self.ways.0.lock() {
            images if images.len() > most => images.keys().copied().collect(),
            _ => return,
        };
        let gone = |ledger: &mut Ledger| {
            let gone = found.into_iter().filter(|dir| !ledger.has_way(*dir));
            gone.collect::<Vec<Oid>>()
        };
        for dir in self.ledger(gone) {
            let image = self.ways.0.lock().remove(&dir);
            drop(image);
        }
    }

    /// Something is not as it should be: all is looked at again.
    pub(super) fn forget_ways(&self) {
        self.ledger(|ledger| ledger.forget_ways());
        self.ways.0.lock().clear();
    }
}
