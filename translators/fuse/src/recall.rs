//! Telling the kernel that what it remembers is no longer true.

use std::io;

use fuser::{INodeNo, Notifier};
use hermitfs_api::{Inode, Kind, SetAttr, SetTime};

use crate::door::Door;

impl Door {
    /// While the session lives. It would keep the device open.
    pub(crate) fn set_notifier(&self, notifier: Option<Notifier>) {
        *self.notifier.write() = notifier;
    }

    /// Whether the kernel still talks to us.
    pub(crate) fn has_session(&self) -> bool {
        self.notifier.read().is_some()
    }

    /// The kernel shall ask for this node's attributes before it uses them again.
    pub(crate) fn call_back_attributes(&self, node: u64) {
        // A negative offset spares the pages.
        self.notify(node, |notifier| notifier.inval_inode(INodeNo(node), -1, 0));
    }

    /// The kernel shall drop its pages of this range (to the end of the file when `len` is 0), and
    /// ask for the attributes anew. Not before the request that fills them is
    /// answered: the kernel waits here for pages that are being read.
    pub(crate) fn drop_pages(&self, node: u64, at: u64, len: usize) {
        self.notify(node, |notifier| {
            notifier.inval_inode(INodeNo(node), at as i64, len as i64)
        });
    }

    /// Before a file's times are set: stores to mappings that the kernel still has arrive here, and on the
    /// brick, now. Later they would move the time that the caller is about to set. (With a new size
    /// the kernel waits for our answer before it sends any.)
    pub(crate) fn settle_stores(&self, node: u64, inode: &Inode, set: &SetAttr) {
        let sets = matches!(set.mtime, Some(SetTime::At(_))) && set.size.is_none();
        let stores =
            inode.kind() == Kind::File && (self.is_shared() || self.openings.is_cached(inode));
        if sets && stores {
            self.drop_pages(node, 0, 0);
        }
    }

    /// The same of all pages, listings among them, and attributes of all nodes.
    pub(crate) fn call_back_everything(&self) {
        for node in self.nodes.all() {
            self.notify(node, |notifier| notifier.inval_inode(INodeNo(node), 0, 0));
        }
    }

    fn notify(&self, node: u64, send: impl FnOnce(&Notifier) -> io::Result<()>) {
        // It fails when the kernel has no such node, or none any more.
        if let Some(Err(error)) = self.notifier.read().as_ref().map(send) {
            tracing::debug!(node, %error, "nothing to call back");
        }
    }
}
