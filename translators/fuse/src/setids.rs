//! Set-id bits fall on the brick, by a write as the caller; here the kernel gets to know.
//!
//! With HANDLE_KILLPRIV_V2 the kernel leaves the bits to us, and its own copy of the mode stays
//! as it was. Whoever executes the file before anybody asks for its attributes would still get
//! the owner's rights. So attributes are called back before the change is answered.
//!
//! The kernel holds the inode's lock over each write and each chmod, so one never falls between
//! another's question and answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hermitfs_api::{Attr, Context, File, Inode, Result, SetAttr};

use crate::door::Door;
use crate::files::Open;

const SET_IDS: u32 = 0o6000;

#[derive(Default)]
pub(crate) struct SetIds {
    /// Raised whenever a file may have got set-id bits: before and after.
    epoch: AtomicU64,
}

pub(crate) fn has_set_ids(attr: &Attr) -> bool {
    attr.mode & SET_IDS != 0
}

/// Remembers, with an open file, in which epoch it was seen without set-id bits.
#[derive(Default)]
pub(crate) struct Plain(AtomicU64);

impl Plain {
    /// It was seen so by a look that began in this epoch.
    pub(crate) fn seen(&self, epoch: Epoch) {
        self.0.store(epoch.0, Ordering::Relaxed);
    }
}

/// A moment, as far as set-id bits are concerned.
#[derive(Clone, Copy)]
pub(crate) struct Epoch(u64);

impl SetIds {
    pub(crate) fn now(&self) -> Epoch {
        // 0 is "never looked".
        Epoch(self.epoch.load(Ordering::SeqCst) + 1)
    }

    /// To be called before and after attributes are set.
    pub(crate) fn may_be_set(&self, set: &SetAttr) {
        if set.mode.is_some_and(|mode| mode & SET_IDS != 0) {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Door {
    /// Makes a change to a file's content, by which set-id bits fall when `kills`.
    pub(crate) async fn changing<T>(
        &self,
        cx: &Context,
        node: u64,
        open: &Open,
        kills: bool,
        change: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        // What others set is not in our memory.
        let fall = kills && (self.options.shared || self.bears_set_ids(cx, open).await);
        let changed = change.await;
        if fall {
            self.call_back_attributes(node);
        }
        changed
    }

    /// Whether the file has set-id bits. Answered mostly from memory.
    async fn bears_set_ids(&self, cx: &Context, open: &Open) -> bool {
        let epoch = self.set_ids.now();
        if open.plain.0.load(Ordering::Relaxed) == epoch.0 {
            return false;
        }
        let bears = self
            .shows_set_ids(cx, open.file.inode(), Some(&open.file))
            .await;
        if !bears {
            open.plain.seen(epoch);
        }
        bears
    }

    pub(crate) async fn shows_set_ids(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        file: Option<&File>,
    ) -> bool {
        let attr = self.volume().getattr(cx, inode, file).await;
        attr.map_or(true, |attr| has_set_ids(&attr))
    }
}
