//! Before each write and each chown the kernel asks whether a file has capabilities
//! (`security.capability`), as those would have to go. Most files have none; and while this mount is
//! the only way in, none comes but through us. So what was seen once need not be asked of the volume
//! again, which may be far.

use std::sync::atomic::{AtomicU64, Ordering};

use hermitfs_api::{Errno, Error, Inode, Result, SlotKey};

pub(crate) const NAME: &[u8] = b"security.capability";

pub(crate) struct Capabilities {
    slot: SlotKey,
    /// Raised whenever any file may have got some: before and after.
    epoch: AtomicU64,
}

/// With an inode: the last epoch in which it was seen without any. 0 is "never looked".
#[derive(Default)]
struct Without(AtomicU64);

/// A moment, as far as capabilities are concerned.
#[derive(Clone, Copy)]
pub(crate) struct Epoch(u64);

impl Default for Capabilities {
    fn default() -> Capabilities {
        Capabilities {
            slot: SlotKey::new(),
            epoch: AtomicU64::new(1),
        }
    }
}

impl Capabilities {
    /// To be asked before the volume is.
    pub(crate) fn now(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// To be called before and after this attribute is set.
    pub(crate) fn may_be_set(&self, name: &[u8]) {
        if name == NAME {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A look that began in this epoch found none, or the file was made then.
    pub(crate) fn has_none(&self, inode: &Inode, seen: Epoch) {
        let slot = inode.slots().get_or_init(self.slot, Without::default);
        if let Some(Without(last)) = slot {
            last.store(seen.0, Ordering::Relaxed);
        }
    }

    /// What the volume answered to a look that began in this epoch.
    pub(crate) fn saw(&self, inode: &Inode, name: &[u8], seen: Epoch, answer: &Result<Vec<u8>>) {
        let none = |error: &Error| error.errno() == Errno::ENODATA;
        if name == NAME && answer.as_ref().is_err_and(none) {
            self.has_none(inode, seen);
        }
    }

    /// Whether the file surely has none.
    pub(crate) fn surely_none(&self, inode: &Inode, name: &[u8]) -> bool {
        let last = || inode.slots().get::<Without>(self.slot);
        name == NAME && last().is_some_and(|last| last.0.load(Ordering::Relaxed) == self.now().0)
    }
}
