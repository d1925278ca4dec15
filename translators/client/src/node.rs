//! What the leaf keeps of an object.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use hermitfs_api::{Identity, Inode, Name, NameBuf};
use parking_lot::Mutex;

use crate::line::Line;
use crate::table::Table;

/// That the server holds an object without a name for us: let go of when this is dropped.
pub(crate) struct Hold {
    line: Weak<Line>,
    session: u64,
    number: u64,
}

impl Hold {
    pub(crate) fn new(line: &Arc<Line>, session: u64, number: u64) -> Hold {
        Hold {
            line: Arc::downgrade(line),
            session,
            number,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // With the line the session has ended.
        if let Some(line) = self.line.upgrade() {
            line.release(self.session, self.number);
        }
    }
}

pub(crate) struct Node {
    table: Arc<Table>,
    identity: Identity,
    /// What the server calls it.
    pub(crate) object: Bytes,
    /// Where it was last seen. Never of directories, whose place the server knows; so no chain of parents
    /// keeps itself alive.
    seen: Mutex<Option<(Arc<Inode>, NameBuf)>>,
    /// Since its last name went.
    hold: OnceLock<Box<Hold>>,
}

impl Node {
    pub(crate) fn new(table: Arc<Table>, identity: Identity, object: Bytes) -> Node {
        Node {
            table,
            identity,
            object,
            seen: Mutex::default(),
            hold: OnceLock::new(),
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

    /// The server holds the object for as long as it is in use here.
    pub(crate) fn is_held(&self, hold: Hold) {
        let _ = self.hold.set(Box::new(hold));
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
