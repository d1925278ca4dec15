use std::sync::{Arc, Weak};

use hashbrown::HashTable;
use hermitfs_api::{Identity, Inode};
use parking_lot::Mutex;

use crate::handle::Fingerprint;

/// More than threads that are likely to look something up at the same moment.
const SHARDS: usize = 64;

/// All objects that anybody holds: one [`Inode`] for each, however it was found.
///
/// It holds them weakly, and each takes its entry out when it goes ([`Table::sweep`]), so the
/// table is as large as what is in use.
pub(crate) struct Table {
    shards: Box<[Mutex<HashTable<Entry>>]>,
}

/// Sixteen bytes each: there may be millions.
struct Entry {
    hash: u64,
    inode: Weak<Inode>,
}

/// What an object is filed under, here and in the caches of descriptors.
pub(crate) fn hash(identity: Identity) -> u64 {
    let Identity {
        dev,
        ino,
        generation,
    } = identity;
    Fingerprint::new()
        .with(&ino.to_le_bytes())
        .with(&(dev ^ generation).to_le_bytes())
        .done()
}

impl Table {
    pub(crate) fn new() -> Table {
        Table {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    // The table's own buckets come from the low bits and its tags from the top seven.
    fn shard(&self, hash: u64) -> &Mutex<HashTable<Entry>> {
        &self.shards[(hash >> 40) as usize % SHARDS]
    }

    /// The object, if anybody holds it.
    pub(crate) fn get(&self, identity: Identity) -> Option<Arc<Inode>> {
        let hash = hash(identity);
        // Others with the same hash are let go after the lock: an inode that goes locks a shard.
        let mut others = Vec::new();
        let shard = self.shard(hash).lock();
        let found = find(&shard, hash, identity, &mut others);
        drop(shard);
        found
    }

    /// The object; `make` makes its [`Inode`], filed under a hash, if nobody
    /// holds it.
    pub(crate) fn get_or_insert(
        &self,
        identity: Identity,
        make: impl FnOnce(u64) -> Inode,
    ) -> Arc<Inode> {
        let hash = hash(identity);
        let mut others = Vec::new();
        let mut shard = self.shard(hash).lock();
        let inode = match find(&shard, hash, identity, &mut others) {
            Some(inode) => inode,
            None => {
                let inode = Arc::new(make(hash));
                let entry = Entry {
                    hash,
                    inode: Arc::downgrade(&inode),
                };
                shard.insert_unique(hash, entry, |entry| entry.hash);
                inode
            }
        };
        drop(shard);
        inode
    }

    /// Takes the entry of an object out that nobody holds any more. Called as it is dropped.
    pub(crate) fn sweep(&self, hash: u64) {
        let mut shard = self.shard(hash).lock();
        // A new inode for the same object may stand there as well; that one is alive.
        let gone = |entry: &Entry| entry.hash == hash && entry.inode.strong_count() == 0;
        if let Ok(entry) = shard.find_entry(hash, gone) {
            entry.remove();
        }
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            let len = shard.len() * 2;
            shard.shrink_to(len, |entry| entry.hash);
        }
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

fn find(
    shard: &HashTable<Entry>,
    hash: u64,
    identity: Identity,
    others: &mut Vec<Arc<Inode>>,
) -> Option<Arc<Inode>> {
    for entry in shard.iter_hash(hash).filter(|entry| entry.hash == hash) {
        if let Some(inode) = entry.inode.upgrade() {
            if inode.identity() == identity {
                return Some(inode);
            }
            others.push(inode);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hermitfs_api::Kind;

    use super::*;

    fn identity(ino: u64) -> Identity {
        Identity {
            dev: 1,
            ino,
            generation: 7,
        }
    }

    struct Leaf(Arc<Table>, Identity);

    impl Drop for Leaf {
        fn drop(&mut self) {
            self.0.sweep(hash(self.1));
        }
    }

    fn look_up(table: &Arc<Table>, id: Identity) -> Arc<Inode> {
        table.get_or_insert(id, |_| Inode::new(id, Kind::File, Leaf(table.clone(), id)))
    }

    #[test]
    fn the_same_object_is_the_same_inode_while_anybody_holds_it() {
        let table = Arc::new(Table::new());
        let first = look_up(&table, identity(1));
        assert!(Arc::ptr_eq(&first, &look_up(&table, identity(1))));
        assert!(!Arc::ptr_eq(&first, &look_up(&table, identity(2))));
        assert!(table.get(identity(1)).is_some());
        drop(first);
        assert!(table.get(identity(1)).is_none());
    }

    #[test]
    fn the_table_is_as_large_as_what_is_held() {
        let table = Arc::new(Table::new());
        let held: Vec<_> = (0..100_000)
            .map(|ino| look_up(&table, identity(ino)))
            .collect();
        assert_eq!(table.len(), 100_000);
        drop(held);
        assert_eq!(table.len(), 0);
        let room: usize = table
            .shards
            .iter()
            .map(|shard| shard.lock().capacity())
            .sum();
        assert!(room <= SHARDS * 1024, "{room} entries' room left");
    }

    #[test]
    fn threads_that_drop_and_look_up_agree() {
        let table = Arc::new(Table::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let inode = look_up(&table, identity(round % 3));
                        assert!(table.get(identity(round % 3)).is_some());
                        drop(inode);
                    }
                });
            }
        });
        assert_eq!(table.len(), 0);
    }
}
