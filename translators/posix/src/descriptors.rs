use std::os::fd::OwnedFd;
use std::sync::Arc;

use hermitfs_api::Identity;
use parking_lot::Mutex;

use crate::shares::limit;
use crate::table;

/// Sets times ways is the most descriptors that are held: one of twenty that the process may have.
const SETS: usize = 256;
const FEWEST: u64 = 4;
const WAYS: usize = 4;

/// `O_PATH` descriptors of directories used lately: a look-up below one needs no handle opened.
///
/// A set keeps its four latest in order of use; a lock covers one set alone.
pub(crate) struct Descriptors {
    sets: Box<[Mutex<[Option<Slot>; WAYS]>]>,
}

struct Slot {
    hash: u64,
    dir: Identity,
    fd: Arc<OwnedFd>,
}

impl Descriptors {
    pub(crate) fn new() -> Descriptors {
        let sets = (limit() / 80).clamp(FEWEST, SETS as u64);
        Descriptors {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
        }
    }

    fn set(&self, hash: u64) -> &Mutex<[Option<Slot>; WAYS]> {
        &self.sets[hash as usize % self.sets.len()]
    }

    pub(crate) fn get(&self, dir: Identity) -> Option<Arc<OwnedFd>> {
        let mut set = self.set(table::hash(dir)).lock();
        let at = set
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|slot| slot.dir == dir))?;
        set[..=at].rotate_right(1);
        set[0].as_ref().map(|slot| slot.fd.clone())
    }

    pub(crate) fn put(&self, dir: Identity, fd: Arc<OwnedFd>) {
        let hash = table::hash(dir);
        let mut set = self.set(hash).lock();
        let same = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.dir == dir);
        let at = set.iter().position(same).unwrap_or(WAYS - 1);
        set[..=at].rotate_right(1);
        let before = set[0].replace(Slot { hash, dir, fd });
        drop(set);
        drop(before); // closes it outside the lock
    }

    /// The directory is gone, or nobody holds it any more.
    pub(crate) fn remove(&self, hash: u64) {
        let mut gone = [const { None }; WAYS];
        let mut set = self.set(hash).lock();
        for (slot, gone) in set.iter_mut().zip(&mut gone) {
            if slot.as_ref().is_some_and(|slot| slot.hash == hash) {
                *gone = slot.take();
            }
        }
        drop(set);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn identity(ino: u64) -> Identity {
        Identity {
            dev: 1,
            ino,
            generation: 0,
        }
    }

    fn some() -> Arc<OwnedFd> {
        Arc::new(File::open("/").unwrap().into())
    }

    #[test]
    fn what_was_put_is_there_until_it_is_removed() {
        let cache = Descriptors::new();
        let fd = some();
        cache.put(identity(1), fd.clone());
        assert!(Arc::ptr_eq(&cache.get(identity(1)).unwrap(), &fd));
        assert!(cache.get(identity(2)).is_none());
        cache.remove(table::hash(identity(1)));
        assert!(cache.get(identity(1)).is_none());
        assert_eq!(Arc::strong_count(&fd), 1);
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = Descriptors::new();
        let fd = some();
        cache.put(identity(0), some());
        for ino in 1..10_000 {
            cache.put(identity(ino), fd.clone());
            assert!(cache.get(identity(0)).is_some(), "used all the time");
        }
        assert!(Arc::strong_count(&fd) <= SETS * WAYS);
    }
}
