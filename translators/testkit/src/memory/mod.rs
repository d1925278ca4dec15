mod acl;
mod content;
mod directory;
mod leaf;
mod names;
mod objects;
mod settings;
mod state;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use hermitfs_api::{Errno, Identity, Inode, Kind, Name, NameBuf, Result};
use parking_lot::Mutex;

pub use settings::{Hints, Settings};
use state::State;

use crate::Tree;

/// A leaf in memory, as complete as a brick on a good Linux file system, and a reference model
/// for one.
///
/// - Made in about a microsecond; [`Memory::fork`] is a deep copy in the sense that neither sees the other's
///   changes (blocks and objects are shared until they change).
/// - Its clock is logical: every change gets a time of its own, later than all before, the same in
///   each run. Reading changes no atime.
/// - Every operation answers at the first poll and is atomic; but a compound is its steps.
/// - What is unlinked while somebody holds its `Arc<Inode>` goes on; its handle is ESTALE after that.
///   Numbers are used again at once, with another generation.
/// - Locks are ENOSYS, nothing is lent, permissions are not checked (the kernel did that).
/// - With [`Role::Source`](hermitfs_api::Role::Source) changes by anybody but a user are EROFS.
pub struct Memory(Mutex<Inner>);

struct Inner {
    /// Unique in this process.
    leaf: u64,
    state: State,
    /// As of the last `sync`: what a power cut leaves.
    synced: State,
    live: BTreeMap<u64, Weak<Inode>>,
    /// By number and generation, the first name that an object was seen by, where that is what is told.
    first: BTreeMap<(u64, u64), (u64, NameBuf)>,
}

/// What this leaf keeps in an inode.
struct Held {
    /// The leaf that made it: what was held before a fork is not good after it.
    leaf: u64,
    /// A name as last seen; of directories the state knows it.
    seen: Mutex<Option<(u64, NameBuf)>>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl Memory {
    /// An empty brick; only its device number differs from one to the next.
    pub fn new() -> Memory {
        static DEV: AtomicU64 = AtomicU64::new(1);
        Memory::with_dev(DEV.fetch_add(1, Ordering::Relaxed))
    }

    /// An empty brick with this device number, for runs that are to be alike in that too. Two
    /// bricks of one test need two numbers: by them a foreign handle is known.
    pub fn with_dev(dev: u64) -> Memory {
        Memory::from_state(State::new(dev, Settings::default()))
    }

    fn from_state(mut state: State) -> Memory {
        state.sweep(|_| false);
        static LEAF: AtomicU64 = AtomicU64::new(0);
        let leaf = LEAF.fetch_add(1, Ordering::Relaxed);
        Memory(Mutex::new(Inner {
            leaf,
            synced: state.clone(),
            state,
            live: BTreeMap::new(),
            first: BTreeMap::new(),
        }))
    }

    /// The same brick, device number and handles included, as a leaf of its own on which nobody holds anything
    /// yet: what a restarted server finds after a kill (what was unlinked is gone).
    pub fn fork(&self) -> Memory {
        let inner = self.0.lock();
        let synced = inner.synced.clone();
        let fork = Memory::from_state(inner.state.clone());
        drop(inner);
        fork.0.lock().synced = synced;
        fork
    }

    /// The brick as it was at the last `sync`: the worst that a power cut can leave. (Real ones
    /// leave anything between that and now.)
    pub fn fork_synced(&self) -> Memory {
        Memory::from_state(self.0.lock().synced.clone())
    }

    /// The same as [`Memory::fork`], with the content of some files as another moment of this brick has
    /// it: blocks that were written in place reach a disk before their inode does, or after it.
    /// `pick` is asked for each file that has another content there, but the same size.
    pub fn fork_with_content_of(&self, other: &Memory, mut pick: impl FnMut() -> bool) -> Memory {
        let fork = self.fork();
        let other = other.0.lock().state.clone();
        let mut inner = fork.0.lock();
        for (number, object) in &other.objects {
            let same = inner.state.objects.get(number).is_some_and(|ours| {
                ours.generation == object.generation && ours.has_other_content_than(object)
            });
            if same && pick() {
                inner.state.change(*number).body = object.body.clone();
            }
        }
        drop(inner);
        fork
    }

    /// Changes what it can hold, from now on.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) -> &Memory {
        change(&mut self.0.lock().state.settings);
        self
    }

    /// Makes [`quiet`](hermitfs_api::Translator::quiet) say `false` of this object, or `true`
    /// again: as if a process had it mapped.
    pub fn set_busy(&self, inode: &Inode, busy: bool) {
        let mut inner = self.0.lock();
        let number = inode.identity().ino;
        if busy {
            inner.state.busy.insert(number);
        } else {
            inner.state.busy.remove(&number);
        }
    }

    /// Everything in it, to compare. See [`Tree`].
    pub fn tree(&self) -> Tree {
        self.tree_without(&[])
    }

    /// The same without some names of the root directory.
    pub fn tree_without(&self, names: &[&str]) -> Tree {
        Tree::of(self, names).expect("a tree in memory can be read")
    }

    /// All paths but the root, relative to it, and what stands there.
    pub(crate) fn paths(&self) -> Vec<(String, Kind)> {
        self.0.lock().state.paths()
    }

    /// How many objects there are, the root and what is unlinked but held included.
    pub fn objects(&self) -> usize {
        self.0.lock().state.objects.len()
    }
}

impl Clone for Memory {
    /// See [`Memory::fork`].
    fn clone(&self) -> Memory {
        self.fork()
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory {}", self.0.lock().state.dev)
    }
}

impl Inner {
    /// The number of an object that somebody holds. ESTALE when it is another leaf's, or gone.
    fn number(&self, inode: &Inode) -> Result<u64> {
        let Identity {
            ino, generation, ..
        } = inode.identity();
        let ours = inode
            .leaf::<Held>()
            .is_some_and(|held| held.leaf == self.leaf);
        match self.state.objects.get(&ino) {
            Some(object) if ours && object.generation == generation => Ok(ino),
            _ => Err(Errno::ESTALE.into()),
        }
    }

    fn directory(&self, inode: &Inode) -> Result<u64> {
        let number = self.number(inode)?;
        if inode.kind() == Kind::Directory {
            Ok(number)
        } else {
            Err(Errno::ENOTDIR.into())
        }
    }

    /// The one inode of an object while it is held; `seen` is where it was found.
    fn inode(&mut self, number: u64, seen: Option<(u64, &Name)>) -> Arc<Inode> {
        let inode = self
            .live
            .get(&number)
            .and_then(Weak::upgrade)
            .unwrap_or_else(|| {
                if self.live.len() > 2 * self.state.objects.len() + 16 {
                    self.live.retain(|_, inode| inode.strong_count() > 0);
                }
                let object = self.state.get(number);
                let identity = Identity {
                    dev: self.state.dev,
                    ino: number,
                    generation: object.generation,
                };
                let held = Held {
                    leaf: self.leaf,
                    seen: Mutex::new(None),
                };
                let inode = Arc::new(Inode::new(identity, object.kind, held));
                self.live.insert(number, Arc::downgrade(&inode));
                inode
            });
        if let Some(held) = inode.leaf::<Held>() {
            let identity = (number, inode.identity().generation);
            let seen = seen.map(|(dir, name)| (dir, name.to_owned()));
            let told = match self.state.settings.hints {
                Hints::Latest => seen,
                Hints::First => match seen {
                    Some(seen) => Some(self.first.entry(identity).or_insert(seen).clone()),
                    None => self.first.get(&identity).cloned(),
                },
            };
            if told.is_some() {
                *held.seen.lock() = told;
            }
        }
        inode
    }

    /// Lets go of what is unlinked and not held any more.
    fn sweep(&mut self) {
        let live = &self.live;
        self.state.sweep(|number| {
            live.get(&number)
                .is_some_and(|inode| inode.strong_count() > 0)
        });
    }

    /// Forgets a name as last seen of an object, because it was taken away or moved.
    fn unseen(&self, number: u64, dir: u64, name: &Name, now: Option<(u64, &Name)>) {
        if let Some(inode) = self.live.get(&number).and_then(Weak::upgrade)
            && let Some(held) = inode.leaf::<Held>()
        {
            let mut seen = held.seen.lock();
            if self.state.settings.hints != Hints::Latest {
                return;
            }
            if seen
                .as_ref()
                .is_some_and(|(d, n)| *d == dir && **n == *name)
            {
                *seen = now.map(|(dir, name)| (dir, name.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
