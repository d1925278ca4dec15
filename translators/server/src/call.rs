//! From a request to an operation, and from its result to an answer.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use hermitfs_api::{Context, Errno, Error, File, Inode, Origin, Result, Translator};
use hermitfs_proto::brick::{status_of, unknown_session, v1};
use tonic::{Response, Status};

use crate::check::malformed;
use crate::export::Export;
use crate::server::Shared;
use crate::sessions::{AtWork, Kept, Session};

pub(crate) type Answer<T> = std::result::Result<Response<T>, Status>;

/// One call of a session.
pub(crate) struct Call {
    at_work: AtWork,
    pub(crate) cx: Context,
}

impl Call {
    pub(crate) fn session(&self) -> &Session {
        &self.at_work.0
    }

    pub(crate) fn export(&self) -> &Arc<Export> {
        &self.session().export
    }

    pub(crate) fn volume(&self) -> &dyn Translator {
        &*self.export().volume
    }

    /// The object that the client calls so.
    pub(crate) async fn object(&self, sealed: &Bytes) -> Result<Arc<Inode>> {
        self.export().object(&self.cx, sealed).await
    }

    /// The file that the client calls so.
    pub(crate) fn file(&self, number: u64) -> Result<Arc<File>> {
        self.session().file(number)
    }

    /// What the object is called where the file is open to append to, wherever it ends.
    pub(crate) fn appended_to(&self, number: u64) -> Option<Bytes> {
        let file = self.file(number).ok()?;
        let sealed = || self.export().sealed_before(file.inode());
        file.flags().appends().then(sealed).flatten()
    }

    /// The same where 0 stands for none.
    pub(crate) fn file_if_any(&self, number: u64) -> Result<Option<Arc<File>>> {
        match number {
            0 => Ok(None),
            number => self.file(number).map(Some),
        }
    }

    /// Gives a file that was opened for this client its number.
    pub(crate) async fn keep(&self, file: Arc<File>) -> Result<u64> {
        if let Err(error) = self.export().kept(&self.cx, file.inode()).await {
            drop(self.volume().release(&self.cx, &file).await);
            return Err(error);
        }
        Ok(self.session().keep(Kept::Open(file)))
    }

    /// Whether what loses its last name is held for this client: healing has nothing of it in use.
    pub(crate) fn holds_removed(&self) -> bool {
        self.session().holds_removed && self.cx.origin == Origin::User
    }

    /// Gives what lost its last name a number under which it is held; 0 when it is not.
    pub(crate) async fn hold(&self, inode: Arc<Inode>) -> u64 {
        match self.export().kept(&self.cx, &inode).await {
            Ok(()) => self.session().keep(Kept::Removed(inode)),
            Err(_) => 0,
        }
    }
}

impl Shared {
    /// Whose call it is, and for whom.
    pub(crate) fn enter(
        &self,
        head: Option<v1::Head>,
    ) -> std::result::Result<(Call, v1::Head), Status> {
        let head = head.ok_or_else(|| refuse("a request without a head"))?;
        let at_work = self.sessions.enter(head.session);
        let at_work = at_work.ok_or_else(unknown_session)?;
        let origin = malformed(v1::Origin::read(head.origin)).map_err(|error| status_of(&error))?;
        let cx = Context {
            uid: head.uid,
            gid: head.gid,
            pid: if at_work.0.local { head.pid } else { 0 },
            origin,
            client: at_work.0.known_as,
        };
        Ok((Call { at_work, cx }, head))
    }

    /// Works on a call that changes nothing, or may be done again without harm.
    pub(crate) async fn answer<T, F>(
        &self,
        head: Option<v1::Head>,
        pace: Pace,
        operation: impl FnOnce(Arc<Call>) -> F,
    ) -> Answer<T>
    where
        F: Future<Output = Result<T>>,
    {
        let call = Arc::new(self.enter(head)?.0);
        let done = self.work.run(pace == Pace::Slow, operation(call)).await;
        done.map(Response::new).map_err(told)
    }
}

/// Whether an operation is known to wait for a disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Quick,
    Slow,
}

pub(crate) fn told(error: Error) -> Status {
    if error.errno() == Errno::EIO {
        tracing::warn!("a client was answered with EIO: {error}");
    }
    status_of(&error)
}

fn refuse(why: &'static str) -> Status {
    status_of(&Error::with_story(Errno::EINVAL, why))
}
