//! Ways down that were found of late: what a name of the source leads to, and its image. Whoever goes
//! the same way again need not look at either brick, which may be far, as long as the ledger says
//! that nothing on it has changed: no user has begun to change the name, and no healer has moved the image.

use std::collections::HashMap;
use std::sync::Arc;

use hermitfs_api::{Inode, NameBuf};
use parking_lot::Mutex;

use crate::ledger::Ledger;
use crate::record::{Bytes, Oid, Place};

/// Remembered at most, of each kind; then they are found anew.
const MOST: usize = 4096;

#[derive(Default)]
pub(super) struct Ways(Mutex<Known>);

#[derive(Default)]
struct Known {
    downs: HashMap<(Oid, Bytes), Down>,
    paths: HashMap<Oid, Arc<[NameBuf]>>,
}

/// One name down.
#[derive(Clone)]
pub(super) struct Down {
    /// The image that it was found in.
    pub(super) from: Oid,
    /// What the source has under the name.
    pub(super) next: Arc<Inode>,
    /// What the sink has.
    pub(super) image: Arc<Inode>,
    /// The name, as the ledger saw it before both were looked at.
    pub(super) seen: (u64, Option<u64>),
    /// Where the ledger had the image meanwhile.
    pub(super) place: Option<Place>,
}

impl Down {
    /// Whether what was found still holds, and the name is settled.
    pub(super) fn holds(&self, ledger: &Ledger, above: Oid, name: &Bytes) -> bool {
        let place = ledger.place_of(Oid::from(self.next.identity()));
        place == self.place.as_ref()
            && ledger.name_stands(above, name, self.seen)
            && is_settled(ledger, above, name, place)
            && !ledger.tree_dirty(above)
    }
}

/// Whether an image is under its name: an open name is no obstacle where it is known to stand there.
pub(super) fn is_settled(ledger: &Ledger, above: Oid, name: &Bytes, place: Option<&Place>) -> bool {
    match place {
        Some(place) => place.is(above, name),
        None => !ledger.name_dirty(above, name),
    }
}

impl Ways {
    pub(super) fn down(&self, above: Oid, from: Oid, name: &Bytes) -> Option<Down> {
        let known = self.0.lock();
        let down = known.downs.get(&(above, name.clone()))?;
        (down.from == from).then(|| down.clone())
    }

    pub(super) fn found(&self, above: Oid, name: Bytes, down: Down) {
        let downs = &mut self.0.lock().downs;
        if downs.len() >= MOST {
            downs.clear();
        }
        downs.insert((above, name), down);
    }

    /// Where a directory was when it was last asked for: true if the names lead there.
    pub(super) fn path(&self, dir: Oid) -> Option<Arc<[NameBuf]>> {
        self.0.lock().paths.get(&dir).cloned()
    }

    pub(super) fn located(&self, dir: Oid, path: Option<Arc<[NameBuf]>>) {
        let paths = &mut self.0.lock().paths;
        if paths.len() >= MOST {
            paths.clear();
        }
        match path {
            Some(path) => drop(paths.insert(dir, path)),
            None => drop(paths.remove(&dir)),
        }
    }

    /// Something is not as it should be: all is looked at again.
    pub(super) fn forget_all(&self) {
        *self.0.lock() = Known::default();
    }
}
