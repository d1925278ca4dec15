//! Who is there, and what he has open.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hermitfs_api::{Errno, File, Inode, Result};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::export::Export;
use crate::waiting::Waiting;

/// A client that has said Hello.
pub(crate) struct Session {
    /// Drawn by lot, so that nobody can guess another one's.
    pub(crate) number: u64,
    pub(crate) client: [u8; 16],
    /// What the layers below know the client by; never 0, which is this process.
    pub(crate) known_as: u64,
    /// For people.
    pub(crate) who: String,
    pub(crate) export: Arc<Export>,
    /// Process numbers mean something here: the same machine and pid namespace.
    pub(crate) local: bool,
    pub(crate) ends_with: EndsWith,
    /// It lets go of what is held for it, and so may be given that.
    pub(crate) holds_removed: bool,
    files: Mutex<Files>,
    pub(crate) waiting: Waiting,
    /// Calls that are being worked on.
    at_work: AtomicUsize,
    /// Milliseconds since the server's start.
    last_sign: AtomicU64,
}

/// A client that says Hello.
pub(crate) struct Who<'a> {
    pub(crate) client: [u8; 16],
    /// For people.
    pub(crate) called: &'a str,
    pub(crate) local: bool,
    pub(crate) ends_with: EndsWith,
    /// It has the ability `holds-removed`.
    pub(crate) holds_removed: bool,
}

/// What a client has here, by a number, until it releases it.
pub(crate) enum Kept {
    Open(Arc<File>),
    /// It has no name any more, and the client had it in use: a working directory, say.
    Removed(Arc<Inode>),
}

/// What a client cannot outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndsWith {
    /// The server: it is of this process.
    Process,
    /// This boot of the server's machine.
    Boot,
    /// Nothing that is known here.
    Unknown,
}

#[derive(Default)]
struct Files {
    last: u64,
    open: HashMap<u64, Kept>,
}

impl Session {
    /// The file that a client calls by this number. EBADF when there is none.
    pub(crate) fn file(&self, number: u64) -> Result<Arc<File>> {
        match self.files.lock().open.get(&number) {
            Some(Kept::Open(file)) => Ok(file.clone()),
            Some(Kept::Removed(_)) | None => Err(Errno::EBADF.into()),
        }
    }

    /// Gives an open file, or an object, a number, never 0.
    pub(crate) fn keep(&self, kept: Kept) -> u64 {
        let mut files = self.files.lock();
        files.last += 1;
        let number = files.last;
        files.open.insert(number, kept);
        number
    }

    /// Takes what has this number away from the client.
    pub(crate) fn take(&self, number: u64) -> Option<Kept> {
        self.files.lock().open.remove(&number)
    }

    fn take_all(&self) -> Vec<Kept> {
        let mut files = self.files.lock();
        files.open.drain().map(|(_, kept)| kept).collect()
    }
}

/// A session at work: it does not run out meanwhile.
pub(crate) struct AtWork(pub(crate) Arc<Session>, Instant);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.sign(self.1);
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    fn sign(&self, start: Instant) {
        let now = start.elapsed().as_millis() as u64;
        self.last_sign.store(now, Ordering::Relaxed);
    }
}

/// All of them.
pub(crate) struct Sessions {
    start: Instant,
    grace: Duration,
    by_number: RwLock<HashMap<u64, Arc<Session>>>,
    last_known_as: AtomicU64,
}

impl Sessions {
    pub(crate) fn new(grace: Duration) -> Sessions {
        Sessions {
            start: Instant::now(),
            grace,
            by_number: RwLock::default(),
            last_known_as: AtomicU64::new(0),
        }
    }

    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    /// The session of a client that says Hello: the one that it has already, or a new one.
    pub(crate) fn begin(&self, who: &Who<'_>, export: &Arc<Export>) -> Arc<Session> {
        let mut sessions = self.by_number.write();
        let same = |session: &&Arc<Session>| {
            session.client == who.client && Arc::ptr_eq(&session.export, export)
        };
        if let Some(session) = sessions.values().find(same) {
            session.sign(self.start);
            return session.clone();
        }
        let mut number = 0;
        while number == 0 || sessions.contains_key(&number) {
            number = rand::random();
        }
        let session = Arc::new(Session {
            number,
            client: who.client,
            known_as: self.last_known_as.fetch_add(1, Ordering::Relaxed) + 1,
            who: who.called.into(),
            export: export.clone(),
            local: who.local,
            ends_with: who.ends_with,
            holds_removed: who.holds_removed,
            files: Mutex::default(),
            waiting: Waiting::default(),
            at_work: AtomicUsize::new(0),
            last_sign: AtomicU64::new(0),
        });
        session.sign(self.start);
        sessions.insert(number, session.clone());
        session
    }

    /// The session with this number, at work until what is returned is dropped.
    pub(crate) fn enter(&self, number: u64) -> Option<AtWork> {
        let sessions = self.by_number.read();
        let session = sessions.get(&number)?.clone();
        // Under the lock, so that no sweep comes between.
        session.at_work.fetch_add(1, Ordering::Relaxed);
        Some(AtWork(session, self.start))
    }

    /// Ends one: what it had is returned, to be let go of.
    pub(crate) fn end(&self, number: u64) -> Vec<Kept> {
        let session = self.by_number.write().remove(&number);
        session
            .map(|session| session.take_all())
            .unwrap_or_default()
    }

    /// Ends those that have given no sign of life for the grace, and returns them.
    pub(crate) fn sweep(&self) -> Vec<Arc<Session>> {
        let now = self.start.elapsed();
        let mut sessions = self.by_number.write();
        let over = |session: &Arc<Session>| {
            let last = Duration::from_millis(session.last_sign.load(Ordering::Relaxed));
            session.at_work.load(Ordering::Relaxed) == 0 && now > last + self.grace
        };
        let ended = sessions.extract_if(|_, session| over(session));
        ended.map(|(_, session)| session).collect()
    }

    /// Whether a client has given a sign of life since then.
    pub(crate) fn has_signed_since(&self, client: [u8; 16], then: Instant) -> bool {
        let then = then.duration_since(self.start).as_millis() as u64;
        let sessions = self.by_number.read();
        sessions
            .values()
            .filter(|session| session.client == client)
            .any(|session| {
                session.at_work.load(Ordering::Relaxed) > 0
                    || session.last_sign.load(Ordering::Relaxed) > then
            })
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.by_number.read().values().cloned().collect()
    }
}

impl Session {
    /// What it had, to be let go of.
    pub(crate) fn leave_behind(&self) -> Vec<Kept> {
        self.take_all()
    }
}
