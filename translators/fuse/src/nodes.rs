//! What the kernel knows: node ids, and how often each was given out.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use hermitfs_api::{Identity, Inode, Result};
use parking_lot::{Mutex, RwLock};

use crate::numbers::{Numbers, ROOT, again};

const SHARDS: usize = 64;

/// Node ids are inode numbers: they need no more than a spread over the bits.
#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

pub(crate) type Map<V> = HashMap<u64, V, BuildHasherDefault<Spread>>;

struct Node {
    inode: Arc<Inode>,
    lookups: u64,
}

/// What the kernel knew before an exchange and nobody held. Requests that were on their way may
/// still ask for it.
#[derive(Default)]
pub(crate) struct FormerNodes(Vec<Mutex<Map<Node>>>);

pub(crate) struct Nodes {
    root: RwLock<Arc<Inode>>,
    numbers: Numbers,
    shards: Vec<Mutex<Map<Node>>>,
    successors: RwLock<Successors>,
}

/// Objects that took the place of others, behind nodes that the kernel knew before. Whoever finds
/// one by its name comes to that node: two nodes of one file would not see each other's pages.
#[derive(Default)]
struct Successors {
    nodes: HashMap<Identity, u64>,
    /// What the kernel knows a node as.
    known_as: HashMap<u64, Identity>,
    /// Somebody held it at the exchange.
    held: HashSet<u64>,
    /// Open in a way that no new open can share.
    apart: HashSet<u64>,
}

impl Nodes {
    pub(crate) fn new(root: Arc<Inode>) -> Nodes {
        let numbers = Numbers::new(root.identity().dev);
        Nodes {
            root: RwLock::new(root),
            numbers,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            successors: RwLock::default(),
        }
    }

    /// The object behind a node id; `None` when it was never given out or is forgotten.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<Inode>> {
        if id == ROOT {
            return Some(self.root.read().clone());
        }
        self.shard(id)
            .lock()
            .get(&id)
            .map(|node| node.inode.clone())
    }

    /// The node id under which the kernel gets to know an object, one more time.
    pub(crate) fn remember(&self, inode: &Arc<Inode>) -> u64 {
        let new = inode.identity();
        if let Some(id) = self.succeeded(&new) {
            return id;
        }
        let mut id = self.numbers.shown(new.dev, new.ino);
        loop {
            match self.shard(id).lock().entry(id) {
                Entry::Vacant(free) => {
                    free.insert(Node {
                        inode: inode.clone(),
                        lookups: 1,
                    });
                    return id;
                }
                Entry::Occupied(mut taken) => {
                    let node = taken.get_mut();
                    let old = node.inode.identity();
                    if (old.dev, old.ino) == (new.dev, new.ino) {
                        // The brick has used the number again, so the old object is gone for
                        // good, and only its FORGET is still to come. The kernel tells the two
                        // apart by the generation that goes with the answer.
                        node.lookups += 1;
                        node.inode = inode.clone();
                        return id;
                    }
                }
            }
            id = again(id);
        }
    }

    /// The node of an object that took another's place, as long as the kernel knows it.
    fn succeeded(&self, new: &Identity) -> Option<u64> {
        let id = *self.successors.read().nodes.get(new)?;
        if id == ROOT {
            return Some(id);
        }
        let mut shard = self.shard(id).lock();
        let node = shard.get_mut(&id)?;
        if node.inode.identity() != *new {
            return None;
        }
        node.lookups += 1;
        Some(id)
    }

    /// As what the kernel knows a node, which it compares.
    pub(crate) fn known_as(&self, id: u64, inode: &Inode) -> Identity {
        let successors = self.successors.read();
        successors
            .known_as
            .get(&id)
            .filter(|_| successors.nodes.get(&inode.identity()) == Some(&id))
            .copied()
            .unwrap_or(inode.identity())
    }

    /// Puts other objects behind some nodes, and forgets all others. Who comes to one of the
    /// objects by a name gets the same node, but for those `apart`. What was there before, to be
    /// dropped where that may take its time.
    pub(crate) fn exchange(
        &self,
        root: Arc<Inode>,
        nodes: HashMap<u64, Arc<Inode>>,
        apart: HashSet<u64>,
    ) -> FormerNodes {
        let mut successors = Successors {
            held: nodes.keys().copied().collect(),
            ..Successors::default()
        };
        *self.root.write() = root;
        let mut before: Vec<Map<Node>> = self
            .shards
            .iter()
            .map(|shard| std::mem::take(&mut *shard.lock()))
            .collect();
        for (id, inode) in nodes {
            let shard = self.at(id);
            let Some(Node {
                lookups,
                inode: was,
            }) = before[shard].remove(&id)
            else {
                continue;
            };
            let was = was.identity();
            if !apart.contains(&id) {
                successors.nodes.insert(inode.identity(), id);
                successors.known_as.insert(id, was);
            }
            self.shards[shard]
                .lock()
                .insert(id, Node { inode, lookups });
        }
        successors.apart = apart;
        *self.successors.write() = successors;
        FormerNodes(before.into_iter().map(Mutex::new).collect())
    }

    /// Puts its successor behind a node that the kernel knew before an exchange. `None` when it has
    /// been forgotten meanwhile.
    pub(crate) fn adopt(&self, id: u64, inode: Arc<Inode>, former: &FormerNodes) -> Option<()> {
        let mut successors = self.successors.write();
        let mut shard = self.shard(id).lock();
        if shard.contains_key(&id) {
            return Some(());
        }
        let was = former.0.get(self.at(id))?.lock().remove(&id)?;
        // Who held it is known under that node already.
        if let Entry::Vacant(free) = successors.nodes.entry(inode.identity()) {
            free.insert(id);
            successors.known_as.insert(id, was.inode.identity());
        }
        let lookups = was.lookups;
        shard.insert(id, Node { inode, lookups });
        Some(())
    }

    /// What a node was before an exchange.
    pub(crate) fn was(&self, id: u64, former: &FormerNodes) -> Option<Arc<Inode>> {
        let shard = former.0.get(self.at(id))?.lock();
        shard.get(&id).map(|node| node.inode.clone())
    }

    /// Whether somebody held this at the exchange.
    pub(crate) fn is_held(&self, id: u64) -> bool {
        self.successors.read().held.contains(&id)
    }

    /// Whether it is open in a way that no new open can share.
    pub(crate) fn is_apart(&self, id: u64) -> bool {
        self.successors.read().apart.contains(&id)
    }

    /// The node under which users see this number.
    pub(crate) fn numbered(&self, number: u64) -> Option<u64> {
        let root = self.root.read().identity().ino;
        if number == root {
            return Some(ROOT);
        }
        self.get(number).map(|_| number)
    }

    /// The kernel forgets a node `lookups` times.
    pub(crate) fn forget(&self, id: u64, lookups: u64) {
        let mut shard = self.shard(id).lock();
        let Entry::Occupied(mut node) = shard.entry(id) else {
            return;
        };
        node.get_mut().lookups = node.get().lookups.saturating_sub(lookups);
        if node.get().lookups == 0 {
            let node = node.remove();
            if shard.capacity() > 64 && shard.len() < shard.capacity() / 8 {
                shard.shrink_to_fit();
            }
            drop(shard);
            drop(node);
        }
    }

    /// The number that a directory's entry shows.
    pub(crate) fn shown(&self, dir: &Inode, ino: u64) -> u64 {
        self.numbers.shown(dir.identity().dev, ino)
    }

    /// All node ids that the kernel knows now.
    pub(crate) fn all(&self) -> Vec<u64> {
        let mut all = vec![ROOT];
        for shard in &self.shards {
            all.extend(shard.lock().keys());
        }
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, id: u64) -> &Mutex<Map<Node>> {
        &self.shards[self.at(id)]
    }

    fn at(&self, id: u64) -> usize {
        let mut spread = Spread::default();
        spread.write_u64(id);
        (spread.finish() >> 20) as usize % SHARDS
    }
}

/// ESTALE: the kernel asks for what it has forgotten.
pub(crate) fn known<T>(found: Option<T>) -> Result<T> {
    found.ok_or(hermitfs_api::Error::new(hermitfs_api::Errno::ESTALE))
}

#[cfg(test)]
mod tests {
    use hermitfs_api::{Identity, Kind};

    use super::*;

    fn inode(dev: u64, ino: u64, generation: u64) -> Arc<Inode> {
        Arc::new(Inode::new(
            Identity {
                dev,
                ino,
                generation,
            },
            Kind::File,
            (),
        ))
    }

    #[test]
    fn a_node_lives_until_it_is_forgotten_as_often_as_it_was_given_out() {
        let nodes = Nodes::new(inode(1, 2, 0));
        let file = inode(1, 12, 0);
        assert_eq!(nodes.remember(&file), 12);
        assert_eq!(nodes.remember(&file), 12);
        nodes.forget(12, 1);
        assert!(nodes.get(12).is_some());
        nodes.forget(12, 1);
        assert!(nodes.get(12).is_none());
        assert_eq!((nodes.len(), Arc::strong_count(&file)), (0, 1));
        nodes.forget(12, 1);
        assert!(nodes.get(ROOT).is_some(), "the root is never forgotten");
    }

    #[test]
    fn a_number_used_again_leads_to_the_new_object() {
        let nodes = Nodes::new(inode(1, 2, 0));
        let (old, new) = (inode(1, 12, 0), inode(1, 12, 1));
        nodes.remember(&old);
        assert_eq!(nodes.remember(&new), 12);
        nodes.forget(12, 1);
        assert!(Arc::ptr_eq(&nodes.get(12).unwrap(), &new));
    }

    #[test]
    fn two_living_objects_never_share_a_node() {
        let nodes = Nodes::new(inode(1, 2, 0));
        let shifted = nodes.remember(&inode(9, 12, 0));
        let other = nodes.remember(&inode(1, shifted, 0));
        assert_ne!(shifted, other);
        assert_eq!(nodes.len(), 2);
    }

    #[test]
    fn an_exchange_keeps_the_numbers_of_what_is_held_and_forgets_the_rest() {
        let nodes = Nodes::new(inode(1, 2, 0));
        let (held, other) = (inode(1, 12, 0), inode(1, 13, 0));
        nodes.remember(&held);
        nodes.remember(&held);
        nodes.remember(&other);
        let (root, successor) = (inode(7, 5, 0), inode(7, 99, 0));
        let wanted = HashMap::from([(12, successor.clone()), (55, inode(7, 98, 0))]);
        drop(nodes.exchange(root.clone(), wanted, HashSet::new()));
        assert!(Arc::ptr_eq(&nodes.get(12).unwrap(), &successor));
        assert!(Arc::ptr_eq(&nodes.get(ROOT).unwrap(), &root));
        assert!(nodes.get(13).is_none());
        assert!(nodes.get(55).is_none(), "the kernel never heard of it");
        assert_eq!(Arc::strong_count(&other), 1, "nothing of it is kept");
        nodes.forget(12, 1);
        assert!(nodes.get(12).is_some(), "counted on");
        nodes.forget(12, 1);
        assert_eq!(nodes.len(), 0);
        // The kernel knows nothing of it any more: what is looked up is a node of its own.
        assert_ne!(nodes.remember(&successor), 12);
    }

    #[test]
    fn a_node_that_nobody_held_is_adopted_with_what_the_kernel_has_counted() {
        let nodes = Nodes::new(inode(1, 2, 0));
        let (passing, gone) = (inode(1, 12, 7), inode(1, 13, 0));
        nodes.remember(&passing);
        nodes.remember(&passing);
        nodes.remember(&gone);
        let former = nodes.exchange(inode(7, 5, 0), HashMap::new(), HashSet::new());
        assert!(nodes.get(12).is_none() && !nodes.is_held(12));
        assert!(Arc::ptr_eq(&nodes.was(12, &former).unwrap(), &passing));
        let successor = inode(7, 99, 3);
        for _ in 0..2 {
            assert!(nodes.adopt(12, successor.clone(), &former).is_some());
        }
        assert!(Arc::ptr_eq(&nodes.get(12).unwrap(), &successor));
        assert_eq!(nodes.known_as(12, &successor), passing.identity());
        assert_eq!(nodes.remember(&successor), 12);
        nodes.forget(12, 2);
        assert!(nodes.get(12).is_some(), "given out once more");
        nodes.forget(12, 1);
        assert!(nodes.get(12).is_none());
        assert!(nodes.adopt(55, successor, &former).is_none(), "never known");
    }

    #[test]
    fn a_successor_that_is_found_by_name_is_the_node_that_is_held() {
        let nodes = Nodes::new(inode(1, 2, 0));
        let (held, apart) = (inode(1, 12, 7), inode(1, 13, 8));
        nodes.remember(&held);
        nodes.remember(&apart);
        let (successor, other) = (inode(7, 99, 3), inode(7, 98, 4));
        let wanted = HashMap::from([(12, successor.clone()), (13, other.clone())]);
        drop(nodes.exchange(inode(7, 5, 0), wanted, HashSet::from([13])));
        assert_eq!(nodes.remember(&successor), 12);
        assert_eq!(nodes.known_as(12, &successor), held.identity());
        assert_ne!(nodes.remember(&other), 13);
        nodes.forget(12, 1);
        assert!(nodes.get(12).is_some(), "counted once more");
        nodes.forget(12, 1);
        let again = nodes.remember(&successor);
        assert_ne!(again, 12);
        assert_eq!(nodes.known_as(again, &successor), successor.identity());
        // The number of what was held, used again by another object on the new brick.
        let reused = inode(7, 99, 9);
        assert_ne!(nodes.remember(&reused), 12);
    }

    #[test]
    fn a_million_nodes_cost_less_than_a_hundred_bytes_each() {
        assert!(
            size_of::<(u64, Node)>() <= 24,
            "twice that at the table's emptiest, and a byte"
        );
    }
}
