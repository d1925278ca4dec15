//! Locks that were asked for and whose answer nobody heard: the wait was dropped, or the line was down for too
//! long. Such a call may go on at the server, and may have been granted by then. Who was told that he
//! has no lock must not have one. So the call is ended by a word, and then it is made sure that its owner
//! has what he had before: by and by, and before anything else is said of locks.
//!
//! Nothing is put back while a call that gets its answer at once is under way, so that what its owner has is
//! known. What was waited for, and granted while something was put back, may be gone again: it is asked for once more
//! before anybody hears of it ([`Held::undos`](crate::held::Held::undos)).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hermitfs_api::{Context, File, Lock, LockKind, Origin};
use hermitfs_proto::brick::{Fault, v1};
use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard};

use crate::call::read;
use crate::file::Opened;
use crate::line::{Line, Session};

#[derive(Default)]
pub(crate) struct Waits {
    last: AtomicU64,
    unheard: Mutex<Queue>,
    /// One undoes at a time, and while nobody else talks of locks.
    talk: RwLock<()>,
}

/// Not heard, and not yet undone.
#[derive(Default)]
struct Queue {
    /// How many have ever come.
    come: u64,
    /// Each with how many had come with it.
    all: VecDeque<(u64, Unheard)>,
}

#[derive(Clone)]
struct Unheard {
    file: Arc<File>,
    lock: Lock,
    ticket: u64,
}

impl Waits {
    fn come(&self) -> u64 {
        self.unheard.lock().come
    }

    /// The first of those that had come by then.
    fn first(&self, by: u64) -> Option<Unheard> {
        let queue = self.unheard.lock();
        let (at, first) = queue.all.front()?;
        (*at <= by).then(|| first.clone())
    }
}

/// A lock that is being asked for: unheard, unless it comes to its end.
pub(crate) struct Asking<'a> {
    line: &'a Line,
    what: Option<Unheard>,
    /// What the server calls it.
    pub(crate) ticket: u64,
}

impl Asking<'_> {
    /// The server has answered, and the answer was heard.
    pub(crate) fn heard(mut self) {
        self.what = None;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(unheard) = self.what.take() {
            let mut queue = self.line.waits.unheard.lock();
            queue.come += 1;
            let come = queue.come;
            queue.all.push_back((come, unheard));
            drop(queue);
            self.line.undo_soon();
        }
    }
}

impl Line {
    /// Somebody is about to ask for a lock.
    pub(crate) fn asking<'a>(&'a self, file: &Arc<File>, lock: &Lock) -> Asking<'a> {
        let ticket = self.waits.last.fetch_add(1, Ordering::Relaxed) + 1;
        Asking {
            line: self,
            what: Some(Unheard {
                file: file.clone(),
                lock: *lock,
                ticket,
            }),
            ticket,
        }
    }

    /// Talks of locks until what is returned is dropped: nothing is put back meanwhile, and what had to be
    /// put back before has been.
    pub(crate) async fn talk(&self) -> RwLockReadGuard<'_, ()> {
        self.undo_waits().await;
        self.waits.talk.read().await
    }

    /// Undoes what may have been granted without being heard.
    pub(crate) async fn undo_waits(&self) {
        let come = self.waits.come();
        if self.waits.first(come).is_none() {
            return;
        }
        let _alone = self.waits.talk.write().await;
        while let Some(unheard) = self.waits.first(come) {
            if !self.undo(&unheard).await {
                return;
            }
            self.waits.unheard.lock().all.pop_front();
        }
    }

    /// False while the line is down: to be done when it is there again.
    async fn undo(&self, unheard: &Unheard) -> bool {
        let Some(opened) = unheard.file.leaf::<Opened>() else {
            return true;
        };
        while let Ok(session) = self.session().await {
            match self.have_again(&session, opened, unheard).await {
                Ok(()) => return true,
                Err(Fault::Operation(error)) => {
                    let server = &self.options.address;
                    tracing::error!(%server, "a lock was lost; its open file gets EIO until it is closed: {error}");
                    opened.lose();
                    self.held.release(opened.id);
                    return true;
                }
                Err(_) => {
                    self.broken(&session);
                    self.after(&session).await;
                }
            }
        }
        false
    }

    async fn have_again(
        &self,
        session: &Session,
        opened: &Opened,
        unheard: &Unheard,
    ) -> Result<(), Fault> {
        // Closed since, or opened again in a session in which nothing was asked.
        let Some(number) = opened.number(session.number) else {
            return Ok(());
        };
        let lock = &unheard.lock;
        let cx = Context {
            pid: lock.pid,
            ..Context::internal(Origin::User)
        };
        let head = Some(self.head(&cx, session, None));
        let end = v1::EndSetlkRequest {
            head,
            ticket: unheard.ticket,
        };
        session.brick.clone().end_setlk(end).await.map_err(read)?;
        let at = unheard.file.inode().identity();
        for lock in self.held.undo(at, opened.id, lock) {
            let request = v1::LockRequest {
                head,
                file: number,
                lock: Some((&lock).into()),
                ..v1::LockRequest::default()
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
