//! Locks, where the volume keeps them instead of the kernel.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use fuser::ReplyLock;
use hermitfs_api::{Context, Errno, Error, Lock, LockKind, Result, Translator};

use crate::door::Door;
use crate::files::Open;
use crate::signals;

/// The end of any file, as the kernel says it (`OFFSET_MAX`).
const END: u64 = i64::MAX as u64;

/// A lock as the kernel asks for it.
pub(crate) fn lock(
    owner: u64,
    (start, end): (u64, u64),
    kind: i32,
    pid: u32,
    flock: bool,
) -> Result<Lock> {
    let kind = match kind {
        libc::F_RDLCK => LockKind::Shared,
        libc::F_WRLCK => LockKind::Exclusive,
        libc::F_UNLCK => LockKind::Unlock,
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(Lock {
        owner,
        pid,
        kind,
        start,
        end: if end >= END { u64::MAX } else { end },
        flock,
        ofd: false,
    })
}

/// Answers `F_GETLK`.
pub(crate) fn answer(reply: ReplyLock, found: Option<Lock>) {
    match found {
        None => reply.locked(0, 0, libc::F_UNLCK, 0),
        Some(lock) => {
            let kind = match lock.kind {
                LockKind::Shared => libc::F_RDLCK,
                LockKind::Exclusive => libc::F_WRLCK,
                LockKind::Unlock => libc::F_UNLCK,
            };
            reply.locked(lock.start, lock.end.min(END), kind, lock.pid);
        }
    }
}

/// What programs understand of a volume that keeps none.
fn no_locks(error: Error) -> Error {
    match error.errno() {
        Errno::ENOSYS => Error::with_story(
            Errno::ENOLCK,
            "the volume keeps no locks; put a `features/locks` where all who share it come together",
        ),
        _ => error,
    }
}

impl Door {
    /// Whether the volume keeps the locks.
    pub(crate) fn has_locks(&self) -> bool {
        self.options.locks.unwrap_or(self.options.shared)
    }

    pub(crate) async fn getlk(&self, cx: &Context, fh: u64, lock: &Lock) -> Result<Option<Lock>> {
        let open = self.files.get(fh).ok_or(Error::new(Errno::EBADF))?;
        let found = self.volume().getlk(cx, &open.file, lock).await;
        found.map_err(no_locks)
    }

    /// Takes or drops a lock without waiting.
    pub(crate) async fn try_lock(&self, cx: &Context, fh: u64, lock: &Lock) -> Result<()> {
        let open = self.files.get(fh).ok_or(Error::new(Errno::EBADF))?;
        open.locked.store(true, Ordering::Relaxed);
        let volume = self.volume();
        let done = volume.setlk(cx, &open.file, lock, false).await;
        done.map_err(no_locks)?;
        self.taken(&*volume, cx, &open, lock).await;
        Ok(())
    }

    /// Who has got a lock sees what others have written under theirs.
    async fn taken(&self, volume: &dyn Translator, cx: &Context, open: &Open, lock: &Lock) {
        if !self.options.shared || lock.kind == LockKind::Unlock {
            return;
        }
        let inode = open.file.inode();
        let fresh = self.freshen(volume, cx, open.node, inode, open.file.flags());
        if fresh.await.is_err() {
            self.drop_pages(open.node, 0, 0);
        }
    }

    /// Takes a lock when it can be had, or EINTR when the thread that waits gets a signal.
    pub(crate) async fn wait_for_lock(&self, cx: &Context, fh: u64, lock: &Lock) -> Result<()> {
        let open = self.files.get(fh).ok_or(Error::new(Errno::EBADF))?;
        open.locked.store(true, Ordering::Relaxed);
        let lock = Lock {
            ofd: !lock.flock && signals::waits_for_open_file(cx.pid),
            ..*lock
        };
        let volume = self.volume();
        let mut granted = pin!(volume.setlk(cx, &open.file, &lock, true));
        let mut watched = None;
        poll_fn(|task| {
            if let Poll::Ready(done) = granted.as_mut().poll(task) {
                return Poll::Ready(done);
            }
            let watched = watched.get_or_insert_with(|| self.signals.watch(cx.pid));
            match watched.poll(task) {
                Poll::Ready(ended) => Poll::Ready(Err(ended.into())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
        .map_err(no_locks)?;
        self.taken(&*volume, cx, &open, &lock).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_file_is_the_end_of_any_file() {
        let asked = lock(1, (10, i64::MAX as u64), libc::F_WRLCK, 7, false).unwrap();
        assert_eq!((asked.start, asked.end), (10, u64::MAX));
        let asked = lock(1, (10, 19), libc::F_RDLCK, 7, false).unwrap();
        assert_eq!((asked.end, asked.kind), (19, LockKind::Shared));
        assert!(lock(1, (0, 0), 77, 7, false).is_err());
    }
}
