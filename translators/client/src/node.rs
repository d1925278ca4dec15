//! What the leaf keeps of an object.

use std::sync::Arc;

use bytes::Bytes;
use hermitfs_api::{Identity, Inode, Name, NameBuf};
use parking_lot::Mutex;

use crate::table::Table;

pub(crate) struct Node {
    table: Arc<Table>,
    identity: Identity,
    /// What the server calls it.
    pub(crate) object: Bytes,
    /// Where it was last seen. Never of directories, whose place the server knows; so no chain of parents
    /// keeps itself alive.
    seen: Mutex<Option<(Arc<Inode>, NameBuf)>>,
}

impl Node {
    pub(crate) fn new(table: Arc<Table>, identity: Identity, object: Bytes) -> Node {
        Node {
            table,
            identity,
            object,
            seen: Mutex::default(),
        }
    }

    /// Remembers a name of the object.
    pub(crate) fn saw(&self, dir: &Arc<Inode>, name: &Name) {
        let mut seen = self.seen.lock();
        if let Some((at, before)) = &*seen
            && Arc::ptr_eq(at, dir)
            && **before == *name
        {
            return;
        }
        let before = seen.replace((dir.clone(), name.to_owned()));
        drop(seen);
        drop(before); // may be the last hold on a directory, which then goes
    }

    /// That name is no more.
    pub(crate) fn lost(&self, dir: &Arc<Inode>, name: &Name) {
        let mut seen = self.seen.lock();
        let same =
            |(at, before): &mut (Arc<Inode>, NameBuf)| Arc::ptr_eq(at, dir) && **before == *name;
        let before = seen.take_if(same);
        drop(seen);
        drop(before);
    }

    /// The name last seen, if none has gone since.
    pub(crate) fn last_seen(&self) -> Option<(Arc<Inode>, NameBuf)> {
        self.seen.lock().clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.table.sweep(self.identity);
    }
}
