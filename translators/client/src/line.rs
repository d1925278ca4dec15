//! The line to a server as its users see it: up, being mended, or down.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hermitfs_api::{Errno, Error, Result};
use hermitfs_proto::brick::{Fault, v1};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::brick::Brick;
use crate::call::read;
use crate::dirty::Dirty;
use crate::held::Held;
use crate::keeper;
use crate::options::Options;
use crate::role::Played;
use crate::sequence::Sequence;
use crate::waits::Waits;

/// A connection with its session.
pub(crate) struct Session {
    /// Of all connections of this line, counted.
    pub(crate) epoch: u64,
    /// As the server has it.
    pub(crate) number: u64,
    /// How often a call had been given up when the server was told of all that were.
    pub(crate) given_up: u64,
    /// How often the server's machine was found to have booted, since this line's begin.
    pub(crate) boot: u64,
    /// The server answers a changing call that comes twice from its reply cache.
    pub(crate) has_replies: bool,
    pub(crate) brick: Brick,
    /// The server is of this process, and who calls does the work.
    pub(crate) near: bool,
    /// Mixed into device numbers.
    pub(crate) salt: u64,
}

impl Session {
    /// Closes files; false when that did not come through.
    pub(crate) async fn release(&self, head: v1::Head, files: Vec<u64>) -> bool {
        let request = v1::ReleaseRequest {
            head: Some(head),
            files,
        };
        let released = self.brick.clone().release(request).await.map_err(read);
        !matches!(released, Err(Fault::Line(_)))
    }
}

/// How the line is.
#[derive(Clone)]
pub(crate) enum State {
    /// Being made or mended: wait.
    Mending,
    Up(Arc<Session>),
    /// For longer than the grace, or for ever.
    Down(Arc<str>),
}

/// What the keeper is told.
pub(crate) enum Word {
    /// A call found this connection broken.
    Broken(u64),
    /// A file is closed, or a removed object not in use any more: session and number.
    Release(u64, u64),
    /// Locks were asked for, and nobody heard the answer.
    Undo,
    /// Say Bye and end.
    End,
}

/// Shared by all who use the line.
pub(crate) struct Line {
    pub(crate) options: Options,
    /// Of this line, as long as it lives.
    pub(crate) client: [u8; 16],
    pub(crate) sequence: Sequence,
    pub(crate) state: watch::Receiver<State>,
    keeper: mpsc::UnboundedSender<Word>,
    /// What the layer above said the brick is for: said again to a server that has forgotten it.
    played: Mutex<Option<Played>>,
    /// What would be claimed from another server.
    pub(crate) held: Held,
    pub(crate) waits: Waits,
    /// Changes that no sync has made durable.
    pub(crate) unsynced: Dirty,
}

impl Line {
    pub(crate) fn new(
        options: Options,
        state: watch::Receiver<State>,
        keeper: mpsc::UnboundedSender<Word>,
    ) -> Line {
        Line {
            options,
            client: rand::random(),
            sequence: Sequence::default(),
            state,
            keeper,
            played: Mutex::default(),
            held: Held::default(),
            waits: Waits::default(),
            unsynced: Dirty::default(),
        }
    }

    /// The session, when there is one: waits while the line is mended, EIO when it stays down.
    pub(crate) async fn session(&self) -> Result<Arc<Session>> {
        loop {
            let session = self.connected().await?;
            // Who comes after a call that was given up must find it done, or never done.
            if session.given_up == self.sequence.times() {
                return Ok(session);
            }
            self.broken(&session);
            self.after(&session).await;
        }
    }

    async fn connected(&self) -> Result<Arc<Session>> {
        let mut state = self.state.clone();
        let settled = state
            .wait_for(|state| !matches!(state, State::Mending))
            .await;
        match settled.as_deref() {
            Ok(State::Up(session)) => Ok(session.clone()),
            Ok(State::Down(why)) => Err(self.down(why)),
            Ok(State::Mending) | Err(_) => Err(self.down("the client has ended")),
        }
    }

    /// The line is down: what an operation is told.
    pub(crate) fn down(&self, why: &str) -> Error {
        let address = &self.options.address;
        Error::with_story(Errno::EIO, format!("the line to {address} is down: {why}"))
    }

    /// Somebody found this connection broken.
    pub(crate) fn broken(&self, session: &Session) {
        let _ = self.keeper.send(Word::Broken(session.epoch));
    }

    /// Until the keeper has noticed that this connection is broken.
    pub(crate) async fn after(&self, session: &Session) {
        let mut state = self.state.clone();
        let other = |state: &State| match state {
            State::Up(now) => now.epoch != session.epoch,
            State::Mending | State::Down(_) => true,
        };
        drop(state.wait_for(other).await);
    }

    /// Closes a file: at once where that costs nothing, else by and by.
    pub(crate) async fn close(&self, session: u64, file: u64) {
        let near = match &*self.state.borrow() {
            State::Up(now) if now.near && now.number == session => Some(now.clone()),
            _ => None,
        };
        let Some(near) = near else {
            return self.release(session, file);
        };
        let released = near.release(keeper::head(self, session), vec![file]);
        if !released.await {
            self.unreleased(near.epoch, session, &[file]);
        }
    }

    /// Closes a file, by and by.
    pub(crate) fn release(&self, session: u64, file: u64) {
        let _ = self.keeper.send(Word::Release(session, file));
    }

    /// Closing files did not come through: once more, by another connection.
    pub(crate) fn unreleased(&self, epoch: u64, session: u64, files: &[u64]) {
        let _ = self.keeper.send(Word::Broken(epoch));
        files.iter().for_each(|file| self.release(session, *file));
    }

    pub(crate) fn undo_soon(&self) {
        let _ = self.keeper.send(Word::Undo);
    }

    pub(crate) fn end(&self) {
        let _ = self.keeper.send(Word::End);
    }

    pub(crate) fn played(&self) -> Option<Played> {
        *self.played.lock()
    }

    pub(crate) fn play(&self, played: Option<Played>) {
        *self.played.lock() = played;
    }

    pub(crate) fn grace(&self) -> Duration {
        self.options.grace()
    }

    pub(crate) fn client_id(&self) -> Bytes {
        Bytes::copy_from_slice(&self.client)
    }
}
