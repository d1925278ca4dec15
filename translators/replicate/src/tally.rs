//! Two counts for the eyes of users: the work that healing has done, which only grows and tells its speed; and how much
//! of the tree it has come to, which is no more than there is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hermitfs_api::{Attr, Inode};
use parking_lot::Mutex;

use crate::record::Oid;

/// Names of the tree, and the content under them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    /// A root alone.
    pub(crate) const ROOT: Amount = Amount { files: 1, bytes: 0 };

    /// One name. What has several has its content under all of them.
    pub(crate) fn name(attr: &Attr) -> Amount {
        let bytes = match attr.kind {
            hermitfs_api::Kind::File => attr.size.min(attr.blocks.saturating_mul(512)),
            _ => 0,
        };
        Amount {
            files: 1,
            bytes: bytes / u64::from(attr.nlink.max(1)),
        }
    }

    pub(crate) fn add(&mut self, other: Amount) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// What healing has done since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    /// Names that were made or removed.
    pub(crate) made: u64,
    /// Bytes that were copied.
    pub(crate) bytes: u64,
    /// Names that were found to be there.
    pub(crate) looked: u64,
    /// Bytes that were found to be equal, or taken for that.
    pub(crate) skipped: u64,
}

impl Work {
    /// Names and bytes, also those that were found to be there.
    pub(crate) fn all(&self) -> (u64, u64) {
        (self.made + self.looked, self.bytes + self.skipped)
    }
}

/// Both counts of one sink.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    made: AtomicU64,
    bytes: AtomicU64,
    looked: AtomicU64,
    skipped: AtomicU64,
    /// What the walk from the root has come to.
    seen: Mutex<Amount>,
    /// That walk has not come to its end.
    walking: AtomicBool,
    /// Content of objects that are being healed.
    under_way: Mutex<HashMap<Oid, u64>>,
}

impl Tally {
    /// What was done so far.
    pub(crate) fn work(&self) -> Work {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Work {
            made: read(&self.made),
            bytes: read(&self.bytes),
            looked: read(&self.looked),
            skipped: read(&self.skipped),
        }
    }

    /// A name was made or removed.
    pub(crate) fn made(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A name was found to be there, with so much content that was not looked at.
    pub(crate) fn looked(&self, bytes: u64) {
        self.looked.fetch_add(1, Ordering::Relaxed);
        self.skipped.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much of an object's content was copied, or found to be equal.
    pub(crate) fn moved(&self, object: &Arc<Inode>, bytes: u64, equal: bool) {
        let count = if equal { &self.skipped } else { &self.bytes };
        count.fetch_add(bytes, Ordering::Relaxed);
        let oid = Oid::from(object.identity());
        *self.under_way.lock().entry(oid).or_default() += bytes;
    }

    /// The content that was copied or compared of all that are being healed.
    pub(crate) fn under_way(&self) -> u64 {
        self.under_way.lock().values().sum()
    }

    /// The healing of an object is over, however it ended: how much of its content was copied or compared.
    pub(crate) fn ended(&self, oid: Oid) -> u64 {
        self.under_way.lock().remove(&oid).unwrap_or(0)
    }

    /// A walk begins at the root: all is counted from the beginning.
    pub(crate) fn begin(&self) {
        *self.seen.lock() = Amount::ROOT;
        self.walking.store(true, Ordering::Relaxed);
    }

    /// Goes on where an earlier process was.
    pub(crate) fn go_on(&self, seen: Amount, walking: bool) {
        *self.seen.lock() = seen;
        self.walking.store(walking, Ordering::Relaxed);
    }

    /// It has come to its end, or there is none: then this is what there is.
    pub(crate) fn settle(&self, there_is: Option<Amount>) {
        self.walking.store(false, Ordering::Relaxed);
        if let Some(there_is) = there_is {
            *self.seen.lock() = there_is;
        }
    }

    /// Whether a walk from the root is under way.
    pub(crate) fn is_walking(&self) -> bool {
        self.walking.load(Ordering::Relaxed)
    }

    /// How much of the tree was seen.
    pub(crate) fn seen(&self) -> Amount {
        *self.seen.lock()
    }

    fn saw(&self, more: Amount) {
        self.seen.lock().add(more);
    }

    fn take_back(&self, seen: Amount) {
        let mut all = self.seen.lock();
        all.files = all.files.saturating_sub(seen.files);
        all.bytes = all.bytes.saturating_sub(seen.bytes);
    }
}

/// What one pass over a directory has come to. It counts when it has come to its end: one that fails is made again.
pub(crate) struct Pass<'a> {
    tally: &'a Tally,
    seen: Amount,
    done: bool,
}

impl Pass<'_> {
    pub(crate) fn begin(tally: &Tally) -> Pass<'_> {
        Pass {
            tally,
            seen: Amount::default(),
            done: false,
        }
    }

    /// A name that is as in the source.
    pub(crate) fn saw(&mut self, more: Amount) {
        if self.tally.is_walking() {
            self.seen.add(more);
            self.tally.saw(more);
        }
    }

    /// It will not be made again.
    pub(crate) fn is_done(&mut self) {
        self.done = true;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.tally.take_back(self.seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64) -> Amount {
        Amount { files: 1, bytes }
    }

    #[test]
    fn a_pass_that_is_made_again_counts_once() {
        let tally = Tally::default();
        tally.begin();
        for done in [false, false, true] {
            let mut pass = Pass::begin(&tally);
            pass.saw(file(10));
            pass.saw(file(5));
            let so_far = Amount {
                files: 3,
                bytes: 15,
            };
            assert_eq!(tally.seen(), so_far, "told as it goes");
            if done {
                pass.is_done();
            }
        }
        assert_eq!(
            tally.seen(),
            Amount {
                files: 3,
                bytes: 15
            }
        );
    }

    #[test]
    fn another_walk_counts_from_the_beginning_and_what_users_do_is_no_part_of_it() {
        let tally = Tally::default();
        for _ in 0..3 {
            tally.begin();
            let mut pass = Pass::begin(&tally);
            pass.saw(file(10));
            pass.is_done();
            drop(pass);
            assert_eq!(
                tally.seen(),
                Amount {
                    files: 2,
                    bytes: 10
                }
            );
        }
        tally.settle(Some(file(7)));
        let mut pass = Pass::begin(&tally);
        pass.saw(file(10));
        pass.is_done();
        drop(pass);
        assert_eq!(tally.seen(), file(7), "a walk of a part");
    }
}
