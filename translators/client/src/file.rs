//! An open file: its number holds for a session, and it is opened again in the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use hermitfs_api::OpenFlags;
use parking_lot::Mutex;

use crate::dirty::{Dirty, Note};
use crate::line::Line;

pub(crate) struct Opened {
    line: Arc<Line>,
    /// What the server calls the object.
    pub(crate) object: Bytes,
    /// To open it with again: what is done once is done.
    pub(crate) again: OpenFlags,
    /// Its number among this client's, and whether a lock on it was lost.
    pub(crate) id: u64,
    lost: AtomicBool,
    /// The session, and the file's number in it.
    number: Mutex<Option<(u64, u64)>>,
    /// Held while it is opened again.
    pub(crate) opening: tokio::sync::Mutex<()>,
    dirty: Dirty,
}

impl Opened {
    pub(crate) fn new(line: &Arc<Line>, object: Bytes, flags: OpenFlags) -> Opened {
        Opened {
            line: line.clone(),
            id: line.held.number(),
            lost: AtomicBool::new(false),
            object,
            again: again(flags),
            number: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            dirty: Dirty::default(),
        }
    }

    /// A lock on it was lost: nothing is done through it any more.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Its number, if it is open in this session.
    pub(crate) fn number(&self, session: u64) -> Option<u64> {
        let number = *self.number.lock();
        number.and_then(|(of, number)| (of == session).then_some(number))
    }

    /// It is open in this session by this number.
    pub(crate) fn is(&self, session: u64, number: u64) {
        *self.number.lock() = Some((session, number));
    }

    /// Something is about to be written in this boot of the server.
    pub(crate) fn wrote(&self, boot: u64) {
        self.dirty.wrote(boot);
    }

    /// Takes that note, at the begin of an fsync.
    pub(crate) fn settle(&self) -> Note {
        self.dirty.take()
    }

    /// The fsync failed.
    pub(crate) fn unsettled(&self, note: Note) {
        self.dirty.put_back(note);
    }

    /// What is to be closed at the server: session and number.
    pub(crate) fn close(&self) -> Option<(u64, u64)> {
        self.line.held.release(self.id);
        self.number.lock().take()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some((session, number)) = self.close() {
            self.line.release(session, number);
        }
    }
}

/// How a file is opened for the second time.
fn again(flags: OpenFlags) -> OpenFlags {
    flags.without(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_once_is_not_done_again() {
        let flags = OpenFlags::WRITE.with(libc::O_TRUNC | libc::O_EXCL | libc::O_APPEND);
        assert_eq!(again(flags), OpenFlags::WRITE.with(libc::O_APPEND));
    }
}
