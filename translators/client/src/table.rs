//! All objects that anybody holds: one [`Inode`] for each, however it was found.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use hermitfs_api::{Identity, Inode, Kind};
use parking_lot::Mutex;

use crate::node::Node;

const SHARDS: usize = 16;

/// Holds them weakly; each takes its entry out when it goes, so the table is as large as what is
/// in use.
pub(crate) struct Table {
    hasher: RandomState,
    shards: [Mutex<HashMap<Identity, Weak<Inode>>>; SHARDS],
}

impl Table {
    pub(crate) fn new() -> Arc<Table> {
        Arc::new(Table {
            hasher: RandomState::new(),
            shards: Default::default(),
        })
    }

    fn shard(&self, identity: Identity) -> &Mutex<HashMap<Identity, Weak<Inode>>> {
        &self.shards[self.hasher.hash_one(identity) as usize % SHARDS]
    }

    /// The object, if anybody holds it.
    pub(crate) fn get(&self, identity: Identity) -> Option<Arc<Inode>> {
        self.shard(identity).lock().get(&identity)?.upgrade()
    }

    /// The object, new if nobody holds it.
    pub(crate) fn get_or_insert(
        self: &Arc<Table>,
        identity: Identity,
        kind: Kind,
        object: Bytes,
    ) -> Arc<Inode> {
        let mut shard = self.shard(identity).lock();
        if let Some(inode) = shard.get(&identity).and_then(Weak::upgrade)
            && inode.kind() == kind
            && inode
                .leaf::<Node>()
                .is_some_and(|node| node.object == object)
        {
            return inode;
        }
        let node = Node::new(self.clone(), identity, object);
        let inode = Arc::new(Inode::new(identity, kind, node));
        shard.insert(identity, Arc::downgrade(&inode));
        inode
    }

    /// Takes the entry of an object out that nobody holds any more. Called as it is dropped.
    pub(crate) fn sweep(&self, identity: Identity) {
        let mut shard = self.shard(identity).lock();
        // A new inode for the same object may stand there as well; that one is alive.
        if shard
            .get(&identity)
            .is_some_and(|inode| inode.strong_count() == 0)
        {
            shard.remove(&identity);
        }
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            let len = shard.len() * 2;
            shard.shrink_to(len);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_one_inode_while_it_is_held_and_nothing_after() {
        let table = Table::new();
        let id = |ino| Identity {
            dev: 1,
            ino,
            generation: 2,
        };
        let object = Bytes::from_static(b"a");
        let a = table.get_or_insert(id(1), Kind::File, object.clone());
        let again = table.get_or_insert(id(1), Kind::File, object.clone());
        assert!(Arc::ptr_eq(&a, &again));
        let b = table.get_or_insert(id(2), Kind::File, object);
        assert!(!Arc::ptr_eq(&a, &b));
        drop((a, again));
        assert!(table.get(id(1)).is_none());
        assert_eq!(table.len(), 1);
        drop(b);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn what_is_called_otherwise_is_another() {
        let table = Table::new();
        let id = Identity {
            dev: 1,
            ino: 1,
            generation: 2,
        };
        let a = table.get_or_insert(id, Kind::File, Bytes::from_static(b"a"));
        let b = table.get_or_insert(id, Kind::File, Bytes::from_static(b"b"));
        assert!(!Arc::ptr_eq(&a, &b));
        drop(a);
        assert!(table.get(id).is_some_and(|held| Arc::ptr_eq(&held, &b)));
    }
}
