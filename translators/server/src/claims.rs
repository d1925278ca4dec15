//! Locks after a restart: whoever held some claims them, and until all have, nobody gets others.
//!
//! Which clients have locks is kept in a file, so that it outlives the process. It need not know which locks:
//! the clients do.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hermitfs_api::{Errno, Error, Result};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::state;

/// A client, as it calls itself.
type Client = [u8; 16];

pub(crate) struct Claims {
    path: PathBuf,
    inner: Mutex<Inner>,
    over: watch::Sender<bool>,
}

#[derive(Default)]
struct Inner {
    /// Had locks when the last server ended, and may have some to claim still.
    expected: HashSet<Client>,
    /// Have taken locks from this server.
    here: HashSet<Client>,
}

impl Claims {
    /// Whoever had locks at the end of the last server of this state directory is expected.
    pub(crate) fn open(state: &Path) -> io::Result<Claims> {
        let path = state.join("lockers");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        // What is torn at the end was never answered.
        let (clients, _) = text.as_chunks();
        let expected: HashSet<Client> = clients.iter().copied().collect();
        let over = watch::Sender::new(expected.is_empty());
        if !expected.is_empty() {
            tracing::info!(
                clients = expected.len(),
                "locks are claimed before others are given"
            );
        }
        Ok(Claims {
            path,
            inner: Mutex::new(Inner {
                expected,
                ..Inner::default()
            }),
            over,
        })
    }

    /// Until nobody is expected any more, or for the grace.
    pub(crate) async fn settled(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Before a client gets a lock.
    pub(crate) fn locks(&self, client: Client) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.here.contains(&client) {
            return Ok(());
        }
        let append = || {
            let mut options = fs::OpenOptions::new();
            let mut file = options
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)?;
            file.write_all(&client)?;
            file.sync_data()
        };
        append().map_err(|error| {
            let story = format!(
                "{}: a lock would not outlive this server: {error}",
                self.path.display()
            );
            Error::with_story(Errno::ENOLCK, story)
        })?;
        inner.here.insert(client);
        Ok(())
    }

    /// Whether a client may have locks that it had before. ESTALE when others may have had them since.
    pub(crate) fn may_claim(&self, client: Client) -> Result<()> {
        match self.inner.lock().expected.contains(&client) {
            true => Ok(()),
            false => Err(Errno::ESTALE.into()),
        }
    }

    /// A client has claimed all that it had.
    pub(crate) fn has_claimed(&self, client: Client) {
        let mut inner = self.inner.lock();
        if inner.expected.remove(&client) {
            inner.here.insert(client);
            self.end_if(&inner);
        }
    }

    /// A client is gone, and its locks with it.
    pub(crate) fn gone(&self, client: Client) {
        let mut inner = self.inner.lock();
        let expected = inner.expected.remove(&client);
        if inner.here.remove(&client) || expected {
            self.end_if(&inner);
            self.rewrite(&inner);
        }
    }

    /// The grace is over: whoever has not come has lost what it had.
    pub(crate) async fn end_after(&self, grace: Duration) {
        if tokio::time::timeout(grace, self.settled()).await.is_ok() {
            return;
        }
        let mut inner = self.inner.lock();
        let missing = inner.expected.len();
        tracing::warn!(clients = missing, "did not come back for their locks");
        inner.expected.clear();
        self.end_if(&inner);
        self.rewrite(&inner);
    }

    fn end_if(&self, inner: &Inner) {
        if inner.expected.is_empty() {
            self.over.send_replace(true);
        }
    }

    fn rewrite(&self, inner: &Inner) {
        let all = inner.expected.union(&inner.here);
        let text: Vec<u8> = all.flatten().copied().collect();
        // The old one says more clients: that costs the next server a wait, and no lock.
        if let Err(error) = state::replace(&self.path, &text) {
            tracing::warn!("{}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Client = [1; 16];
    const B: Client = [2; 16];

    fn is_over(claims: &Claims) -> bool {
        *claims.over.borrow()
    }

    #[test]
    fn who_had_locks_comes_first() {
        let state = tempfile::tempdir().unwrap();
        let first = Claims::open(state.path()).unwrap();
        assert!(is_over(&first), "nobody had any");
        first.locks(A).unwrap();
        first.locks(B).unwrap();
        first.locks(A).unwrap();
        drop(first);
        let second = Claims::open(state.path()).unwrap();
        assert!(!is_over(&second));
        second.may_claim(A).unwrap();
        second.has_claimed(A);
        assert!(second.may_claim(A).is_err(), "it has said that it is done");
        assert!(!is_over(&second));
        assert!(second.may_claim([3; 16]).is_err(), "it had none");
        second.gone(B);
        assert!(is_over(&second));
        assert!(second.may_claim(B).is_err());
        drop(second);
        let third = Claims::open(state.path()).unwrap();
        assert!(!is_over(&third), "A still has its own");
        third.has_claimed(A);
        third.gone(A);
        assert!(is_over(&Claims::open(state.path()).unwrap()));
    }

    #[test]
    fn who_does_not_come_is_not_waited_for_for_ever() {
        let state = tempfile::tempdir().unwrap();
        Claims::open(state.path()).unwrap().locks(A).unwrap();
        // Torn: nobody was answered that it has a lock.
        let mut file = fs::OpenOptions::new();
        let mut file = file
            .append(true)
            .open(state.path().join("lockers"))
            .unwrap();
        file.write_all(&[9; 7]).unwrap();
        let claims = Claims::open(state.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(async {
            claims.end_after(Duration::from_millis(10)).await;
            claims.settled().await;
        });
        assert!(claims.may_claim(A).is_err(), "too late");
        assert!(is_over(&Claims::open(state.path()).unwrap()));
    }
}
