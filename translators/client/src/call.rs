//! One operation over the wire: sent, and sent again where that does no harm.

use std::future::Future;
use std::sync::Arc;

use hermitfs_api::{Context, Errno, Error, Result};
use hermitfs_proto::brick::{Fault, fault_of, v1};
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use crate::brick::Brick;
use crate::file::Opened;
use crate::held::lost;
use crate::line::{Line, Session};
use crate::sequence::Ticket;

/// What it means to do an operation twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// It changes nothing.
    Reads,
    /// Twice is as good as once.
    Again,
    /// Twice is another thing: only a server with a reply cache may hear it twice.
    Once,
}

/// A request that begins with a head.
pub(crate) trait Request: Clone + Send + Sync {
    fn put(&mut self, head: v1::Head);
}

macro_rules! requests {
    ($($name:ident)*) => {
        $(impl Request for v1::$name {
            fn put(&mut self, head: v1::Head) {
                self.head = Some(head);
            }
        })*
    };
}

requests! {
    RootRequest ObjectRequest LookupRequest GetattrRequest SetattrRequest MknodRequest MkdirRequest
    SymlinkRequest LinkRequest NameRequest RenameRequest CreateRequest OpenRequest ReadRequest
    WriteRequest FlushRequest FsyncRequest FsyncdirRequest ReaddirRequest XattrRequest
    SetxattrRequest SetFlagsRequest SetFsxRequest FallocateRequest LseekRequest CopyRequest ExtentsRequest LockRequest
    SyncRequest RoleRequest SnapshotRequest MakeWholeRequest
}

/// What a call found out besides its answer.
pub(crate) struct Answered<T> {
    pub(crate) reply: T,
    pub(crate) session: Arc<Session>,
}

/// The number of a changing call, which stays the same however often it is sent; nothing else has one.
fn number(line: &Line, nature: Nature) -> Option<Ticket<'_>> {
    (nature != Nature::Reads).then(|| line.sequence.ticket())
}

impl Line {
    /// Does an operation. `files` are those whose numbers it needs, which `fill` puts in.
    pub(crate) async fn call<R, T, F>(
        &self,
        cx: &Context,
        nature: Nature,
        files: &[&Opened],
        request: R,
        fill: impl Fn(&mut R, &[u64]) + Send + Sync,
        send: impl Fn(Brick, R) -> F + Send + Sync,
    ) -> Result<Answered<T>>
    where
        R: Request,
        F: Future<Output = std::result::Result<Response<T>, Status>> + Send,
    {
        let mut ticket = number(self, nature);
        let mut trouble: Option<Instant> = None;
        // The server's boot when this was first sent.
        let mut sent = None;
        loop {
            let session = self.session().await?;
            if nature == Nature::Once && sent.is_some_and(|boot| boot != session.boot) {
                return Err(self.unknown("the server was restarted with its machine meanwhile"));
            }
            let outcome = match self.numbers(cx, &session, files).await {
                Ok(numbers) => {
                    let mut request = request.clone();
                    request.put(v1::Head {
                        again: sent.is_some(),
                        ..self.head(cx, &session, ticket.as_ref())
                    });
                    fill(&mut request, &numbers[..files.len()]);
                    if nature != Nature::Reads {
                        self.unsynced.wrote(session.boot);
                        files.iter().for_each(|file| file.wrote(session.boot));
                    }
                    sent = sent.or(Some(session.boot));
                    ticket.iter_mut().for_each(Ticket::sent);
                    let answer = send(session.brick.clone(), request).await.map_err(read);
                    if matches!(answer, Ok(_) | Err(Fault::Operation(_))) {
                        ticket.iter_mut().for_each(Ticket::heard);
                    }
                    answer
                }
                Err(fault) => Err(fault),
            };
            let status = match outcome {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    return Ok(Answered { reply, session });
                }
                Err(Fault::Operation(error)) => return Err(error),
                Err(Fault::UnknownSession) => Status::unavailable("the server was restarted"),
                Err(Fault::Line(status)) => {
                    if nature == Nature::Once && !session.has_replies {
                        self.broken(&session);
                        return Err(self.unknown(status.message()));
                    }
                    status
                }
            };
            self.broken(&session);
            let since = *trouble.get_or_insert_with(Instant::now);
            if since.elapsed() > self.grace() {
                return Err(self.down(status.message()));
            }
            self.after(&session).await;
        }
    }

    /// Whether it was done cannot be known.
    fn unknown(&self, why: &str) -> Error {
        let address = &self.options.address;
        let story =
            format!("the line to {address} was cut, and whether this was done is not known: {why}");
        Error::with_story(Errno::EIO, story)
    }

    pub(crate) fn head(
        &self,
        cx: &Context,
        session: &Session,
        ticket: Option<&Ticket<'_>>,
    ) -> v1::Head {
        v1::Head {
            session: session.number,
            seq: ticket.map_or(0, |ticket| ticket.number),
            answered: ticket.map_or(0, |_| self.sequence.lowest_open()),
            uid: cx.uid,
            gid: cx.gid,
            pid: cx.pid,
            origin: v1::Origin::number(cx.origin),
            again: false,
        }
    }

    /// The numbers of files in this session, which opens again what is not open in it.
    pub(crate) async fn numbers(
        &self,
        cx: &Context,
        session: &Session,
        files: &[&Opened],
    ) -> std::result::Result<[u64; 2], Fault> {
        let mut numbers = [0; 2];
        for (number, file) in numbers.iter_mut().zip(files) {
            if file.is_lost() {
                return Err(lost());
            }
            *number = match file.number(session.number) {
                Some(number) => number,
                None => self.reopen(cx, session, file).await?,
            };
        }
        Ok(numbers)
    }

    async fn reopen(
        &self,
        cx: &Context,
        session: &Session,
        file: &Opened,
    ) -> std::result::Result<u64, Fault> {
        let _one = file.opening.lock().await;
        if let Some(number) = file.number(session.number) {
            return Ok(number);
        }
        let request = v1::OpenRequest {
            head: Some(self.head(cx, session, None)),
            object: file.object.clone(),
            flags: file.again.0,
        };
        let reply = session.brick.clone().open(request).await.map_err(read)?;
        let number = reply.into_inner().file;
        file.is(session.number, number);
        Ok(number)
    }
}

/// What a status means: not everything without a number is the line's fault.
pub(crate) fn read(status: Status) -> Fault {
    match fault_of(status) {
        Fault::Line(status) => match status.code() {
            Code::Unimplemented => Fault::Operation(Error::with_story(
                Errno::EOPNOTSUPP,
                "the server does not know this operation: it is of an older release",
            )),
            Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument => {
                let story = format!("the server cannot take this: {}", status.message());
                Fault::Operation(Error::with_story(Errno::EIO, story))
            }
            _ => Fault::Line(status),
        },
        fault => fault,
    }
}
