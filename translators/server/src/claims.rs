//! Locks after a restart: whoever held some claims them, and until all have, nobody gets others.
//!
//! Which clients have locks is kept in files, so that it outlives the process: one of those who live on this machine
//! until it boots, and one of all others. Who ends with the server is in neither. It need not be known which locks:
//! the clients know.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hermitfs_api::{Errno, Error, Result};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::sessions::EndsWith;
use crate::state;

/// A client, as it calls itself.
type Client = [u8; 16];

const ANYWHERE: &str = "lockers";
/// Followed by the boot.
const OF_A_BOOT: &str = "lockers-of-";

pub(crate) struct Claims {
    anywhere: PathBuf,
    of_this_boot: PathBuf,
    inner: Mutex<Inner>,
    over: watch::Sender<bool>,
}

type Clients = HashMap<Client, EndsWith>;

#[derive(Default)]
struct Inner {
    /// Had locks when the last server ended, and may have some to claim still.
    expected: Clients,
    /// Have taken locks from this server.
    here: Clients,
}

impl Claims {
    /// Whoever had locks at the end of the last server of this state directory, and may live still, is expected.
    pub(crate) fn open(state: &Path, boot: &str) -> io::Result<Claims> {
        let anywhere = state.join(ANYWHERE);
        let of_this_boot = state.join(format!("{OF_A_BOOT}{boot}"));
        for entry in fs::read_dir(state)? {
            let entry = entry?;
            let is_of_a_boot = entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(OF_A_BOOT.as_bytes());
            if is_of_a_boot && entry.path() != of_this_boot {
                fs::remove_file(entry.path())?;
            }
        }
        let mut expected = Clients::new();
        for (path, ends_with) in [
            (&anywhere, EndsWith::Unknown),
            (&of_this_boot, EndsWith::Boot),
        ] {
            let bytes = match fs::read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                read => read?,
            };
            // What is torn at the end was never answered.
            let (clients, _) = bytes.as_chunks();
            expected.extend(clients.iter().map(|client| (*client, ends_with)));
        }
        let over = watch::Sender::new(expected.is_empty());
        if !expected.is_empty() {
            tracing::info!(
                clients = expected.len(),
                "locks are claimed before others are given"
            );
        }
        Ok(Claims {
            anywhere,
            of_this_boot,
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
    pub(crate) fn locks(&self, client: Client, ends_with: EndsWith) -> Result<()> {
        let path = match ends_with {
            EndsWith::Process => return Ok(()),
            EndsWith::Boot => &self.of_this_boot,
            EndsWith::Unknown => &self.anywhere,
        };
        let mut inner = self.inner.lock();
        if inner.here.contains_key(&client) {
            return Ok(());
        }
        let append = || {
            let mut options = fs::OpenOptions::new();
            let mut file = options.append(true).create(true).mode(0o600).open(path)?;
            file.write_all(&client)?;
            file.sync_data()
        };
        append().map_err(|error| {
            let story = format!(
                "{}: a lock would not outlive this server: {error}",
                path.display()
            );
            Error::with_story(Errno::ENOLCK, story)
        })?;
        inner.here.insert(client, ends_with);
        Ok(())
    }

    /// Whether a client may have locks that it had before. ESTALE when others may have had them since.
    pub(crate) fn may_claim(&self, client: Client) -> Result<()> {
        match self.inner.lock().expected.contains_key(&client) {
            true => Ok(()),
            false => Err(Errno::ESTALE.into()),
        }
    }

    /// A client has claimed all that it had.
    pub(crate) fn has_claimed(&self, client: Client) {
        let mut inner = self.inner.lock();
        if let Some(ends_with) = inner.expected.remove(&client) {
            inner.here.insert(client, ends_with);
            self.end_if(&inner);
        }
    }

    /// A client is gone, and its locks with it.
    pub(crate) fn gone(&self, client: Client) {
        let mut inner = self.inner.lock();
        let expected = inner.expected.remove(&client).is_some();
        if inner.here.remove(&client).is_some() || expected {
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
        for (path, of) in [
            (&self.anywhere, EndsWith::Unknown),
            (&self.of_this_boot, EndsWith::Boot),
        ] {
            let all = inner.expected.iter().chain(&inner.here);
            let all = all.filter(|(_, ends_with)| **ends_with == of);
            let bytes: Vec<u8> = all.flat_map(|(client, _)| *client).collect();
            // The old one says more clients: that costs the next server a wait, and no lock.
            if let Err(error) = state::replace(path, &bytes) {
                tracing::warn!("{}: {error}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Client = [1; 16];
    const B: Client = [2; 16];

    fn open(state: &tempfile::TempDir) -> io::Result<Claims> {
        Claims::open(state.path(), "this-boot")
    }

    fn is_over(claims: &Claims) -> bool {
        *claims.over.borrow()
    }

    #[test]
    fn who_had_locks_comes_first() {
        let state = tempfile::tempdir().unwrap();
        let first = open(&state).unwrap();
        assert!(is_over(&first), "nobody had any");
        first.locks(A, EndsWith::Unknown).unwrap();
        first.locks(B, EndsWith::Unknown).unwrap();
        first.locks(A, EndsWith::Unknown).unwrap();
        drop(first);
        let second = open(&state).unwrap();
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
        let third = open(&state).unwrap();
        assert!(!is_over(&third), "A still has its own");
        third.has_claimed(A);
        third.gone(A);
        assert!(is_over(&open(&state).unwrap()));
    }

    #[test]
    fn who_cannot_come_back_is_not_waited_for() {
        let state = tempfile::tempdir().unwrap();
        let first = open(&state).unwrap();
        first.locks(A, EndsWith::Boot).unwrap();
        first.locks(B, EndsWith::Process).unwrap();
        drop(first);
        let second = open(&state).unwrap();
        second.may_claim(A).unwrap();
        assert!(second.may_claim(B).is_err());
        second.has_claimed(A);
        assert!(is_over(&second));
        // In whose file he is does not change when another one goes.
        second.locks(B, EndsWith::Unknown).unwrap();
        second.gone(B);
        drop(second);
        assert!(!is_over(&open(&state).unwrap()));
        let third = Claims::open(state.path(), "next-boot").unwrap();
        assert!(is_over(&third) && third.may_claim(A).is_err());
        drop(third);
        assert!(is_over(&open(&state).unwrap()), "his file is gone");
    }

    #[test]
    fn who_does_not_come_is_not_waited_for_for_ever() {
        let state = tempfile::tempdir().unwrap();
        open(&state).unwrap().locks(A, EndsWith::Unknown).unwrap();
        // Torn: nobody was answered that it has a lock.
        let mut file = fs::OpenOptions::new();
        let mut file = file
            .append(true)
            .open(state.path().join("lockers"))
            .unwrap();
        file.write_all(&[9; 7]).unwrap();
        let claims = open(&state).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(async {
            claims.end_after(Duration::from_millis(10)).await;
            claims.settled().await;
        });
        assert!(claims.may_claim(A).is_err(), "too late");
        assert!(is_over(&open(&state).unwrap()));
    }
}
