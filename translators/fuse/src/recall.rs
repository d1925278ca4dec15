//! Telling the kernel that what it remembers is no longer true.

use std::io;

use fuser::{INodeNo, Notifier};

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
