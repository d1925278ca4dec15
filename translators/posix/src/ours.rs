//! What our own traffic has open.
//!
//! A copy asks for attributes, xattrs and flags of a file whose descriptor it holds. Those questions
//! come by inode; here the descriptor is found again, so that the object is not opened once more for
//! each of them.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use hermitfs_api::Identity;
use parking_lot::Mutex;

use crate::table;

/// Locks; healing threads seldom meet at one.
const SETS: usize = 16;

type Set = Mutex<HashMap<Identity, Weak<OwnedFd>>>;

/// Descriptors of regular files, as long as they are open. Holds none open itself.
pub(crate) struct Ours {
    sets: Arc<[Set]>,
}

/// An open file's descriptor, found by its identity until it is dropped.
pub(crate) struct Listed {
    fd: Arc<OwnedFd>,
    file: Identity,
    sets: Arc<[Set]>,
}

impl Ours {
    pub(crate) fn new() -> Ours {
        Ours {
            sets: (0..SETS).map(|_| Set::default()).collect(),
        }
    }

    /// Of several opens of one file the last is found.
    pub(crate) fn list(&self, file: Identity, fd: OwnedFd) -> Listed {
        let fd = Arc::new(fd);
        set(&self.sets, file)
            .lock()
            .insert(file, Arc::downgrade(&fd));
        Listed {
            fd,
            file,
            sets: self.sets.clone(),
        }
    }

    pub(crate) fn get(&self, file: Identity) -> Option<Arc<OwnedFd>> {
        set(&self.sets, file).lock().get(&file)?.upgrade()
    }
}

fn set(sets: &[Set], file: Identity) -> &Set {
    &sets[table::hash(file) as usize % SETS]
}

impl AsFd for Listed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut set = set(&self.sets, self.file).lock();
        let mine = set
            .get(&self.file)
            .is_some_and(|listed| std::ptr::eq(listed.as_ptr(), Arc::as_ptr(&self.fd)));
        if mine {
            set.remove(&self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_is_found_while_it_is_open() {
        let ours = Ours::new();
        let open = || OwnedFd::from(File::open("/").unwrap());
        let file = Identity {
            dev: 1,
            ino: 2,
            generation: 3,
        };
        assert!(ours.get(file).is_none());
        let first = ours.list(file, open());
        let second = ours.list(file, open());
        assert!(Arc::ptr_eq(&ours.get(file).unwrap(), &second.fd));
        drop(first);
        assert!(ours.get(file).is_some(), "the other is still open");
        drop(second);
        assert!(ours.get(file).is_none());
        assert!(ours.sets.iter().all(|set| set.lock().is_empty()));
    }
}
