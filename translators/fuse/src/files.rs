//! Open files, by the handle that the kernel got.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hermitfs_api::File;
use parking_lot::RwLock;

use crate::modes::Mode;
use crate::nodes::Map;
use crate::setids::Plain;

const SHARDS: usize = 16;

/// One open file.
pub(crate) struct Open {
    pub(crate) file: Arc<File>,
    pub(crate) mode: Mode,
    pub(crate) plain: Plain,
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

    pub(crate) fn insert(&self, file: Arc<File>, mode: Mode) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        let open = Arc::new(Open {
            file,
            mode,
            plain: Plain::default(),
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

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    fn shard(&self, handle: u64) -> &RwLock<Map<Arc<Open>>> {
        &self.shards[handle as usize % SHARDS]
    }
}
