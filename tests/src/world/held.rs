//! Descriptors that stay open while names come and go.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

/// Open files by slot.
#[derive(Default)]
pub(super) struct Held(BTreeMap<usize, File>);

impl Held {
    pub(super) fn insert(&mut self, slot: usize, file: File) {
        self.0.insert(slot, file);
    }

    pub(super) fn file(&self, slot: usize) -> io::Result<&File> {
        self.0
            .get(&slot)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    pub(super) fn close(&mut self, slot: usize) {
        self.0.remove(&slot);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
