use crate::{Lock, LockKind};

/// A lock with who has it, or asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedLock {
    /// [`Context::client`](crate::Context::client) of whoever asked.
    pub client: u64,
    /// The open file through which it was asked for; a number that its user gives, unique among
    /// all open files of all clients.
    pub file: u64,
    /// The lock.
    pub lock: Lock,
}

impl OwnedLock {
    /// Whether both are of one owner, for whom they are not in each other's way: an open file for
    /// flock(2), else a lock owner.
    pub fn is_same_owner(&self, other: &OwnedLock) -> bool {
        if self.lock.flock {
            self.file == other.file
        } else {
            (self.client, self.lock.owner) == (other.client, other.lock.owner)
        }
    }

    /// Whether both cannot be held at once. flock(2) and record locks never meet, as on Linux.
    pub fn conflicts(&self, other: &OwnedLock) -> bool {
        use LockKind::{Exclusive, Unlock};
        let (a, b) = (&self.lock, &other.lock);
        a.flock == b.flock
            && a.kind != Unlock
            && b.kind != Unlock
            && (a.kind == Exclusive || b.kind == Exclusive)
            && (a.flock || a.overlaps(b))
            && !self.is_same_owner(other)
    }

    fn with_range(mut self, start: u64, end: u64) -> OwnedLock {
        self.lock.start = start;
        self.lock.end = end;
        self
    }
}

impl Lock {
    /// Whether a byte is in both ranges.
    pub fn overlaps(&self, other: &Lock) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// The locks held on one file, with the arithmetic of fcntl(2): an owner's new lock replaces what
/// it had on these bytes, splits what reaches beyond, and grows together with its neighbours.
///
/// It does not ask whether a lock may be had; that is the caller's question
/// ([`LockSet::conflict`]) before it sets one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockSet(Vec<OwnedLock>);

impl LockSet {
    /// Takes a lock, changes its kind, or drops it (`Unlock`).
    pub fn set(&mut self, new: OwnedLock) {
        if new.lock.flock {
            self.0
                .retain(|held| !(held.lock.flock && held.is_same_owner(&new)));
            if new.lock.kind != LockKind::Unlock {
                self.0.push(new);
            }
            return;
        }
        self.cut(&new);
        if new.lock.kind != LockKind::Unlock {
            let grown = self.grown(new);
            self.0.push(grown);
        }
    }

    /// The lock of the lowest bytes that is in the way of another.
    pub fn conflict(&self, asked: &OwnedLock) -> Option<&OwnedLock> {
        self.conflicts(asked).min_by_key(|held| held.lock.start)
    }

    /// All that are in the way.
    pub fn conflicts(&self, asked: &OwnedLock) -> impl Iterator<Item = &OwnedLock> {
        self.0.iter().filter(move |held| held.conflicts(asked))
    }

    /// What the owner of a lock holds within its range, cut to the range.
    pub fn within(&self, range: &OwnedLock) -> Vec<OwnedLock> {
        let same = self.0.iter().filter(|held| {
            held.lock.flock == range.lock.flock
                && held.is_same_owner(range)
                && held.lock.overlaps(&range.lock)
        });
        same.map(|held| {
            let start = held.lock.start.max(range.lock.start);
            held.with_range(start, held.lock.end.min(range.lock.end))
        })
        .collect()
    }

    /// A process closed a descriptor: its record locks go. Whether there were any.
    pub fn drop_owner(&mut self, client: u64, owner: u64) -> bool {
        self.drop_if(|held| !held.lock.flock && (held.client, held.lock.owner) == (client, owner))
    }

    /// An open file is gone, and with it all that was taken through it. Whether there was any.
    pub fn drop_file(&mut self, file: u64) -> bool {
        self.drop_if(|held| held.file == file)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &OwnedLock> {
        self.0.iter()
    }

    /// How many ranges.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn drop_if(&mut self, gone: impl Fn(&OwnedLock) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|held| !gone(held));
        self.0.len() < before
    }

    /// Takes a range away from its owner.
    fn cut(&mut self, range: &OwnedLock) {
        let (start, end) = (range.lock.start, range.lock.end);
        let mut rest = Vec::new();
        self.0.retain(|held| {
            let met =
                !held.lock.flock && held.is_same_owner(range) && held.lock.overlaps(&range.lock);
            if met && held.lock.start < start {
                rest.push(held.with_range(held.lock.start, start - 1));
            }
            if met && held.lock.end > end {
                rest.push(held.with_range(end + 1, held.lock.end));
            }
            !met
        });
        self.0.append(&mut rest);
    }

    /// Swallows neighbours of the same kind that were taken through the same open file.
    fn grown(&mut self, new: OwnedLock) -> OwnedLock {
        let (mut start, mut end) = (new.lock.start, new.lock.end);
        self.0.retain(|held| {
            let alike = !held.lock.flock
                && held.is_same_owner(&new)
                && (held.file, held.lock.kind) == (new.file, new.lock.kind);
            if alike && held.lock.end.checked_add(1) == Some(new.lock.start) {
                start = held.lock.start;
                return false;
            }
            if alike && new.lock.end.checked_add(1) == Some(held.lock.start) {
                end = held.lock.end;
                return false;
            }
            true
        });
        new.with_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(owner: u64, kind: LockKind, start: u64, end: u64) -> OwnedLock {
        OwnedLock {
            client: 0,
            file: owner,
            lock: Lock {
                owner,
                pid: 1,
                kind,
                start,
                end,
                flock: false,
                ofd: false,
            },
        }
    }

    fn ranges(set: &LockSet) -> Vec<(u64, u64, u64, LockKind)> {
        let mut all: Vec<_> = set
            .iter()
            .map(|held| {
                let lock = &held.lock;
                (lock.owner, lock.start, lock.end, lock.kind)
            })
            .collect();
        all.sort_by_key(|&(owner, start, ..)| (owner, start));
        all
    }

    #[test]
    fn a_lock_splits_what_it_is_put_into_and_grows_together_again() {
        use LockKind::*;
        let mut set = LockSet::default();
        set.set(record(1, Exclusive, 0, u64::MAX));
        set.set(record(1, Shared, 10, 19));
        assert_eq!(
            ranges(&set),
            [
                (1, 0, 9, Exclusive),
                (1, 10, 19, Shared),
                (1, 20, u64::MAX, Exclusive)
            ]
        );
        set.set(record(1, Exclusive, 10, 19));
        assert_eq!(ranges(&set), [(1, 0, u64::MAX, Exclusive)]);
        set.set(record(1, Unlock, 5, 5));
        assert_eq!(
            ranges(&set),
            [(1, 0, 4, Exclusive), (1, 6, u64::MAX, Exclusive)]
        );
    }

    #[test]
    fn clients_with_the_same_owner_number_are_strangers() {
        let mut set = LockSet::default();
        let mine = record(1, LockKind::Exclusive, 0, 9);
        let theirs = OwnedLock {
            client: 7,
            file: 2,
            ..mine
        };
        set.set(mine);
        assert_eq!(set.conflict(&theirs), Some(&mine));
        assert!(!set.drop_owner(7, 1) && set.drop_owner(0, 1));
        assert!(set.is_empty());
    }

    #[test]
    fn what_was_taken_through_an_open_file_goes_with_it() {
        let mut set = LockSet::default();
        set.set(record(1, LockKind::Shared, 0, 9));
        let other = OwnedLock {
            file: 5,
            ..record(1, LockKind::Shared, 10, 19)
        };
        set.set(other);
        assert_eq!(set.len(), 2, "each open file's part can go alone");
        assert!(set.drop_file(5));
        assert_eq!(ranges(&set), [(1, 0, 9, LockKind::Shared)]);
    }

    #[test]
    fn flock_and_record_locks_do_not_meet() {
        let mut set = LockSet::default();
        let flock = |file, kind| OwnedLock {
            file,
            lock: Lock {
                flock: true,
                ..record(file, kind, 0, u64::MAX).lock
            },
            ..record(file, kind, 0, u64::MAX)
        };
        set.set(flock(1, LockKind::Exclusive));
        assert!(
            set.conflict(&record(2, LockKind::Exclusive, 0, 0))
                .is_none()
        );
        assert!(set.conflict(&flock(2, LockKind::Shared)).is_some());
        set.set(flock(1, LockKind::Shared));
        assert!(set.conflict(&flock(2, LockKind::Shared)).is_none());
        assert_eq!(set.len(), 1, "one for each open file");
        set.set(flock(1, LockKind::Unlock));
        assert!(set.is_empty());
    }
}
