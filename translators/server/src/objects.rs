//! Objects that clients have named lately, and those that they have open or hold: found again without a look at
//! the brick.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use hermitfs_api::Inode;
use parking_lot::Mutex;

/// Half of how many objects are held without being open.
const GENERATION: usize = 16 << 10;

/// By sealed handle. What is not here is resolved by its handle: this only saves that, with one
/// exception: what lost its last name while a client has it has no other way.
pub(crate) struct Objects(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Used since the last turn, and in the one before. What was in neither is let go.
    young: HashMap<Bytes, Arc<Inode>>,
    old: HashMap<Bytes, Arc<Inode>>,
    /// What sessions keep, and how often.
    kept: HashMap<Bytes, (Weak<Inode>, usize)>,
}

impl Objects {
    pub(crate) fn new() -> Objects {
        Objects(Mutex::default())
    }

    /// The object, if it is held here.
    pub(crate) fn get(&self, sealed: &[u8]) -> Option<Arc<Inode>> {
        let mut inner = self.0.lock();
        if let Some(inode) = inner.young.get(sealed) {
            return Some(inode.clone());
        }
        if let Some((sealed, inode)) = inner.old.remove_entry(sealed) {
            let gone = inner.keep(sealed, inode.clone());
            drop(inner);
            drop(gone);
            return Some(inode);
        }
        inner
            .kept
            .get(sealed)
            .and_then(|(inode, _)| inode.upgrade())
    }

    /// Holds it for a while.
    pub(crate) fn insert(&self, sealed: &Bytes, inode: &Arc<Inode>) {
        let mut inner = self.0.lock();
        if inner
            .young
            .get(sealed)
            .is_some_and(|held| Arc::ptr_eq(held, inode))
        {
            return;
        }
        let gone = inner.keep(sealed.clone(), inode.clone());
        drop(inner);
        drop(gone); // an inode that goes does so outside of the lock
    }

    /// Lets go of what has lost a name, so that its space is free when that was the last one.
    pub(crate) fn forget(&self, sealed: &[u8]) {
        let mut inner = self.0.lock();
        let gone = (inner.young.remove(sealed), inner.old.remove(sealed));
        drop(inner);
        drop(gone);
    }

    /// A session keeps it once more.
    pub(crate) fn kept(&self, sealed: &Bytes, inode: &Arc<Inode>) {
        let mut inner = self.0.lock();
        let kept = inner.kept.entry(sealed.clone());
        let kept = kept.or_insert_with(|| (Arc::downgrade(inode), 0));
        // A fork of the brick (away and back) may have made another inode of it.
        kept.0 = Arc::downgrade(inode);
        kept.1 += 1;
    }

    /// A session has let it go once.
    pub(crate) fn let_go(&self, sealed: &[u8]) {
        let mut inner = self.0.lock();
        if let Some(kept) = inner.kept.get_mut(sealed) {
            kept.1 -= 1;
            if kept.1 == 0 {
                inner.kept.remove(sealed);
            }
        }
    }
}

impl Inner {
    /// What is returned is to be dropped outside of the lock.
    #[must_use]
    fn keep(
        &mut self,
        sealed: Bytes,
        inode: Arc<Inode>,
    ) -> (Option<Arc<Inode>>, HashMap<Bytes, Arc<Inode>>) {
        let mut gone = HashMap::new();
        if self.young.len() >= GENERATION {
            gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        }
        (self.young.insert(sealed, inode), gone)
    }
}

#[cfg(test)]
mod tests {
    use hermitfs_api::{Identity, Kind};

    use super::*;

    fn inode(ino: u64) -> Arc<Inode> {
        let identity = Identity {
            dev: 1,
            ino,
            generation: 0,
        };
        Arc::new(Inode::new(identity, Kind::File, ()))
    }

    fn sealed(ino: u64) -> Bytes {
        Bytes::copy_from_slice(&ino.to_be_bytes())
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let objects = Objects::new();
        let all = 10 * GENERATION as u64;
        let seldom = inode(0);
        objects.insert(&sealed(0), &seldom);
        for ino in 1..all {
            objects.insert(&sealed(ino), &inode(ino));
            assert!(objects.get(&sealed(1)).is_some(), "used all the time");
        }
        assert!(objects.get(&sealed(0)).is_none());
        assert_eq!(Arc::strong_count(&seldom), 1);
        let inner = objects.0.lock();
        assert!(inner.young.len() + inner.old.len() <= 2 * GENERATION);
    }

    #[test]
    fn what_is_open_is_found_until_it_is_closed_as_often() {
        let objects = Objects::new();
        let file = inode(1);
        objects.insert(&sealed(1), &file);
        objects.kept(&sealed(1), &file);
        objects.kept(&sealed(1), &file);
        objects.forget(&sealed(1));
        objects.let_go(&sealed(1));
        assert!(objects.get(&sealed(1)).is_some());
        objects.let_go(&sealed(1));
        assert!(objects.get(&sealed(1)).is_none());
        assert_eq!(Arc::strong_count(&file), 1, "nothing holds it");
    }
}
