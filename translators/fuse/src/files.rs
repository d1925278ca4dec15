//! Open files, by the handle that the kernel got.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::collections::HashMap;

use hermitfs_api::{File, Identity};
use parking_lot::RwLock;

use crate::modes::Mode;
use crate::nodes::Map;
use crate::setids::Plain;

const SHARDS: usize = 16;

/// One open file.
pub(crate) struct Open {
    pub(crate) file: Arc<File>,
    /// The kernel's number of its node.
    pub(crate) node: u64,
    /// What its mode is counted under: what the file was when it was opened.
    pub(crate) opened_as: Identity,
    pub(crate) mode: Mode,
    pub(crate) plain: Plain,
    /// Somebody has asked for a lock through it.
    pub(crate) locked: AtomicBool,
    /// Bytes written through it.
    pub(crate) written: AtomicU64,
}

pub(crate) struct Files {
    next: AtomicU64,
    shards: Vec<RwLock<Map<Arc<Open>>>>,
}

impl Files {
    pub(crate) fn new() -> Files {
        // 0 is what the kernel sends where it has no handle.
        Files {
            next: AtomicU64::new(1),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }

    pub(crate) fn insert(&self, node: u64, file: Arc<File>, mode: Mode) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        let open = Arc::new(Open {
            opened_as: file.inode().identity(),
            file,
            node,
            mode,
            plain: Plain::default(),
            locked: AtomicBool::new(false),
            written: AtomicU64::new(0),
        });
        self.shard(handle).write().insert(handle, open);
        handle
    }

    pub(crate) fn get(&self, handle: u64) -> Option<Arc<Open>> {
        self.shard(handle).read().get(&handle).cloned()
    }

    pub(crate) fn remove(&self, handle: u64) -> Option<Arc<Open>> {
        self.shard(handle).write().remove(&handle)
    }

    /// All of them, by handle.
    pub(crate) fn all(&self) -> Vec<(u64, Arc<Open>)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            all.extend(shard.iter().map(|(handle, open)| (*handle, open.clone())));
        }
        all
    }

    /// Puts another file behind each handle, and takes away the handles for which there is none.
    /// What was there before.
    pub(crate) fn exchange(&self, files: &HashMap<u64, Arc<File>>) -> Vec<Arc<Open>> {
        let mut before = Vec::new();
        for shard in &self.shards {
            shard.write().retain(|handle, open| {
                let new = files.get(handle).map(|file| {
                    Arc::new(Open {
                        file: file.clone(),
                        plain: Plain::default(),
                        locked: AtomicBool::new(false),
                        written: AtomicU64::new(0),
                        opened_as: open.opened_as,
                        node: open.node,
                        mode: open.mode,
                    })
                });
                let kept = new.is_some();
                before.push(match new {
                    Some(new) => std::mem::replace(open, new),
                    None => open.clone(),
                });
                kept
            });
        }
        before
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    fn shard(&self, handle: u64) -> &RwLock<Map<Arc<Open>>> {
        &self.shards[handle as usize % SHARDS]
    }
}
