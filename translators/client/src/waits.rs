//! Waits for locks that were dropped. What is dropped here goes on at the server until it hears of that, and
//! may have been granted by then: by an answer that was on its way, or that nobody looked at. Who was told
//! that his wait has ended must not have the lock. So it is made sure that he has what he had before,
//! by and by, and before anything else is said of locks.

use std::sync::Arc;

use hermitfs_api::{Context, File, Lock, LockKind, Origin};
use hermitfs_proto::brick::{Fault, v1};
use parking_lot::Mutex;

use crate::call::read;
use crate::file::Opened;
use crate::line::{Line, Session};

#[derive(Default)]
pub(crate) struct Waits {
    /// Dropped, and not yet undone.
    dropped: Mutex<Vec<(Arc<File>, Lock)>>,
    /// One undoes at a time, and the others wait for it.
    undoing: tokio::sync::Mutex<()>,
}

/// A wait that is under way: dropped, unless it comes to its end.
pub(crate) struct Wait<'a> {
    line: &'a Line,
    file: &'a Arc<File>,
    lock: Lock,
    is_over: bool,
}

impl Wait<'_> {
    /// The server has answered, and the answer was heard.
    pub(crate) fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let dropped = (self.file.clone(), self.lock);
            self.line.waits.dropped.lock().push(dropped);
            self.line.undo_soon();
        }
    }
}

impl Line {
    /// Somebody is about to wait for a lock.
    pub(crate) fn wait<'a>(&'a self, file: &'a Arc<File>, lock: &Lock) -> Wait<'a> {
        Wait {
            line: self,
            file,
            lock: *lock,
            is_over: false,
        }
    }

    /// Undoes what dropped waits may have got.
    pub(crate) async fn undo_waits(&self) {
        let first = || self.waits.dropped.lock().first().cloned();
        if first().is_none() {
            return;
        }
        let _one = self.waits.undoing.lock().await;
        while let Some((file, lock)) = first() {
            self.undo(&file, &lock).await;
            self.waits.dropped.lock().remove(0);
        }
    }

    async fn undo(&self, file: &Arc<File>, lock: &Lock) {
        let Some(opened) = file.leaf::<Opened>() else {
            return;
        };
        // Without a session there are no locks.
        while let Ok(session) = self.session().await {
            match self.have_again(&session, opened, file, lock).await {
                Ok(()) => return,
                Err(Fault::Operation(error)) => {
                    tracing::warn!("a lock that nobody waits for may be held: {error}");
                    return;
                }
                Err(_) => {
                    self.broken(&session);
                    self.after(&session).await;
                }
            }
        }
    }

    async fn have_again(
        &self,
        session: &Session,
        opened: &Opened,
        file: &Arc<File>,
        lock: &Lock,
    ) -> Result<(), Fault> {
        // Closed since, or opened again in a session that had no such wait.
        let Some(number) = opened.number(session.number) else {
            return Ok(());
        };
        let cx = Context {
            pid: lock.pid,
            ..Context::internal(Origin::User)
        };
        let head = Some(self.head(&cx, session, None));
        // The end of the wait was said on this connection before: when this is answered it was heard.
        let ping = v1::PingRequest { head };
        session.brick.clone().ping(ping).await.map_err(read)?;
        for lock in self.held.before(file.inode().identity(), opened.id, lock) {
            let request = v1::LockRequest {
                head,
                file: number,
                lock: Some((&lock).into()),
                wait: false,
                claim: false,
            };
            session.brick.clone().setlk(request).await.map_err(read)?;
        }
        Ok(())
    }
}

/// A range as it was, from the pieces of it that were locked.
pub(crate) fn whole(range: &Lock, mut pieces: Vec<Lock>) -> Vec<Lock> {
    pieces.sort_unstable_by_key(|piece| piece.start);
    let mut all = Vec::with_capacity(2 * pieces.len() + 1);
    let free = |start, end| Lock {
        kind: LockKind::Unlock,
        start,
        end,
        ..*range
    };
    let mut at = Some(range.start);
    for piece in pieces {
        if let Some(start) = at.filter(|start| *start < piece.start) {
            all.push(free(start, piece.start - 1));
        }
        at = piece.end.checked_add(1);
        all.push(piece);
    }
    all.extend(
        at.filter(|at| *at <= range.end)
            .map(|at| free(at, range.end)),
    );
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(kind: LockKind, (start, end): (u64, u64)) -> Lock {
        Lock {
            owner: 1,
            pid: 0,
            kind,
            start,
            end,
            flock: false,
            ofd: false,
        }
    }

    #[test]
    fn what_was_not_locked_is_unlocked_and_what_was_is_locked_as_it_was() {
        use LockKind::{Exclusive, Shared, Unlock};
        let told = |range, pieces: &[Lock]| -> Vec<(LockKind, u64, u64)> {
            let all = whole(&lock(Exclusive, range), pieces.to_vec());
            all.iter().map(|l| (l.kind, l.start, l.end)).collect()
        };
        assert_eq!(told((0, u64::MAX), &[]), [(Unlock, 0, u64::MAX)]);
        let pieces = [lock(Exclusive, (7, u64::MAX)), lock(Shared, (0, 3))];
        let all = [(Shared, 0, 3), (Unlock, 4, 6), (Exclusive, 7, u64::MAX)];
        assert_eq!(told((0, u64::MAX), &pieces), all);
        let piece = [lock(Shared, (2, 3))];
        let all = [(Unlock, 1, 1), (Shared, 2, 3), (Unlock, 4, 9)];
        assert_eq!(told((1, 9), &piece), all);
        assert_eq!(told((2, 3), &piece), [(Shared, 2, 3)]);
    }
}
