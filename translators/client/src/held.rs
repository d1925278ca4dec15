//! The locks that this client holds, as it has heard: what it claims when the server is another one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use hermitfs_api::{Context, Errno, File, Identity, Lock, LockKind, LockSet, Origin, OwnedLock};
use hermitfs_proto::brick::{Fault, v1};
use parking_lot::Mutex;

use crate::call::read;
use crate::file::Opened;
use crate::line::{Line, Session, State};
use crate::waits::whole;

#[derive(Default)]
pub(crate) struct Held {
    next: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    objects: HashMap<Identity, LockSet>,
    /// Open files that have taken a lock, by their number here.
    files: HashMap<u64, (Identity, Weak<File>)>,
    /// How often something was put back.
    undos: u64,
}

impl Held {
    /// A number for an open file.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A process closed a descriptor.
    pub(crate) fn close(&self, at: Identity, owner: u64) {
        let mut inner = self.inner.lock();
        if let Some(set) = inner.objects.get_mut(&at) {
            set.drop_owner(0, owner);
            if set.is_empty() {
                inner.objects.remove(&at);
            }
        }
    }

    /// An open file is gone, or its locks are.
    pub(crate) fn release(&self, file: u64) {
        let mut inner = self.inner.lock();
        let Some((at, _)) = inner.files.remove(&file) else {
            return;
        };
        if let Some(set) = inner.objects.get_mut(&at) {
            set.drop_file(file);
            if set.is_empty() {
                inner.objects.remove(&at);
            }
        }
    }

    /// How often something was put back.
    pub(crate) fn undos(&self) -> u64 {
        self.inner.lock().undos
    }

    /// What the owner of a lock has in its range, as locks that leave the range so whatever else he got
    /// there. Who is told of a lock from here on, and asked before, asks again.
    pub(crate) fn undo(&self, at: Identity, file: u64, lock: &Lock) -> Vec<Lock> {
        let range = OwnedLock {
            client: 0,
            file,
            lock: *lock,
        };
        let mut inner = self.inner.lock();
        inner.undos += 1;
        let within = inner.objects.get(&at).map(|set| set.within(&range));
        let pieces = within.unwrap_or_default();
        let mut before = whole(lock, pieces.into_iter().map(|held| held.lock).collect());
        // He has that still, whatever he was granted.
        before.retain(|piece| piece.kind != lock.kind);
        before
    }

    /// Nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.lock().objects.is_empty()
    }

    /// What is held through each open file.
    pub(crate) fn all(&self) -> Vec<(Arc<File>, Vec<Lock>)> {
        let inner = self.inner.lock();
        let files = inner.files.iter();
        let held = files.filter_map(|(number, (at, file))| {
            let set = inner.objects.get(at)?.iter();
            let locks: Vec<Lock> = set
                .filter(|held| held.file == *number)
                .map(|held| held.lock)
                .collect();
            Some((file.upgrade()?, locks))
        });
        held.filter(|(_, locks)| !locks.is_empty()).collect()
    }
}

impl Line {
    /// A lock was taken or dropped in this session, and so many undos were known when it was asked for.
    /// False when the line was cut since, as then nobody would claim it, or when something was put back
    /// since: it has to be asked for again.
    pub(crate) fn locked(
        &self,
        session: &Session,
        file: &Arc<File>,
        number: u64,
        lock: Lock,
        undos: u64,
    ) -> bool {
        // Locked first: whoever claims in a later session looks after this, or before it was begun.
        let mut inner = self.held.inner.lock();
        let now = matches!(&*self.state.borrow(), State::Up(now) if now.epoch == session.epoch);
        if inner.undos != undos || !now && lock.kind != LockKind::Unlock {
            return false;
        }
        let at = file.inode().identity();
        let known = inner.files.entry(number);
        known.or_insert_with(|| (at, Arc::downgrade(file)));
        let set = inner.objects.entry(at).or_default();
        set.set(OwnedLock {
            client: 0,
            file: number,
            lock,
        });
        if set.is_empty() {
            inner.objects.remove(&at);
        }
        true
    }

    /// Has a lock again that it had with the server's predecessor.
    pub(crate) async fn claim(
        &self,
        session: &Session,
        opened: &Opened,
        lock: &Lock,
    ) -> Result<(), Fault> {
        let cx = Context {
            pid: lock.pid,
            ..Context::internal(Origin::User)
        };
        let [file, _] = self.numbers(&cx, session, &[opened]).await?;
        let request = v1::LockRequest {
            head: Some(self.head(&cx, session, None)),
            file,
            lock: Some(lock.into()),
            claim: true,
            ..v1::LockRequest::default()
        };
        session.brick.clone().setlk(request).await.map_err(read)?;
        Ok(())
    }
}

/// What is said of a file whose lock somebody else may have had meanwhile.
pub(crate) fn lost() -> Fault {
    let story = "a lock on this open file was lost: the server was away for too long, or would not \
                 give it back; what others did meanwhile is not known. Close it and begin anew";
    Fault::Operation(hermitfs_api::Error::with_story(Errno::EIO, story))
}
