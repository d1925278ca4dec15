//! A changing call from its coming to its answer: begun, done and answered once, however often it
//! is sent and whatever ends in between.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use hermitfs_api::{Context, Errno, Error, Origin, Result, poll_once};
use hermitfs_proto::brick::{status_of, v1};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use tonic::{Response, Status, async_trait};

use crate::call::{Answer, Call, Pace, told};
use crate::check;
use crate::export::Export;
use crate::journal::Journal;
use crate::judge::{judge, look};
use crate::record::{Became, Before, Intent, Record, Reply, Verdict, What};
use crate::replies::{ClientId, Coming, Replies, Turn};
use crate::server::Shared;
use crate::sessions::EndsWith;
use crate::turns::{Place, Taken, Turns};

/// What it means to do a call twice.
pub(crate) enum Plan {
    /// Twice in a row is as good as once: only a sending that comes late has to be told. Nobody is
    /// judged by these places while it is done.
    Harmless(Vec<Place>),
    /// Twice is another thing: it is recorded what it is about to do.
    Once(Box<Intent>),
}

/// What is known of changing calls.
pub(crate) struct Changes {
    kept: Mutex<Kept>,
    /// Some call was answered.
    ended: Notify,
    turns: Turns,
}

struct Kept {
    replies: Replies,
    journal: Journal,
}

impl Kept {
    /// Whether the record is in the file; an error when it must be and cannot.
    fn add(&mut self, id: ClientId, seq: u64, what: What) -> io::Result<bool> {
        let record = Record {
            client: id.to_vec(),
            seq,
            what: Some(what),
        };
        let added = self.journal.add(&record)?;
        if self.journal.wants_renewal() {
            self.renew();
        }
        Ok(added)
    }

    fn renew(&mut self) {
        if let Err(error) = self.journal.renew(&self.replies.records()) {
            tracing::debug!("no new file for records: {error}");
        }
    }
}

impl Changes {
    /// What is in this directory, and what became of what was under way when the last server
    /// ended. To be called before anybody is let in.
    pub(crate) async fn open(
        directory: &Path,
        boot: &str,
        exports: &BTreeMap<String, Arc<Export>>,
    ) -> io::Result<Changes> {
        let (journal, records) = Journal::open(directory, boot)?;
        let mut replies = Replies::replay(records, Instant::now());
        let cx = Context::internal(Origin::Admin);
        for (id, seq, intent) in replies.open() {
            let export = exports.get(&intent.export).map(|export| &**export);
            let verdict = judge(export, &cx, &intent).await;
            tracing::info!(kind = ?intent.kind(), became = ?verdict.became(), "was under way");
            replies.judged(id, seq, verdict);
        }
        let mut kept = Kept { replies, journal };
        kept.journal.renew(&kept.replies.records())?;
        Ok(Changes {
            kept: Mutex::new(kept),
            ended: Notify::new(),
            turns: Turns::default(),
        })
    }

    /// A client says Hello. `outlives`: it may ask the next server what became of its calls.
    pub(crate) fn hello(&self, id: ClientId, answered: u64, next: u64, outlives: bool) {
        let mut kept = self.kept.lock();
        if kept.replies.hello(id, answered, next, outlives) {
            let known = kept.add(id, 0, What::Known(next));
            if let Err(error) = known {
                tracing::error!("a client cannot be recorded: {error}");
            }
        }
    }

    /// A client does not wait for these any more: returns when none of them is under way, and none will
    /// be begun.
    pub(crate) async fn give_up(&self, id: ClientId, seqs: &[u64]) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.kept.lock().replies.give_up(id, seqs) {
                return;
            }
            ended.await;
        }
    }

    /// A client's session has ended.
    pub(crate) fn left(&self, id: ClientId, bye: bool) {
        let mut kept = self.kept.lock();
        kept.replies.left(id, bye, Instant::now());
        if bye {
            kept.forget(id);
        }
    }

    /// Forgets who has been gone for long.
    pub(crate) fn sweep(&self) {
        let mut kept = self.kept.lock();
        for id in kept.replies.sweep(Instant::now()) {
            kept.forget(id);
        }
    }

    fn turn(&self, id: ClientId, coming: Coming) -> Turn {
        self.kept.lock().replies.turn(id, coming)
    }

    /// What it is about to do is recorded from here on.
    fn begin(&self, id: ClientId, seq: u64, intent: Intent) -> Result<()> {
        let mut kept = self.kept.lock();
        match kept.add(id, seq, What::Begin(intent.clone())) {
            Ok(true) => {
                kept.replies.begun(id, seq, intent);
                Ok(())
            }
            // Should this server be killed now, the next one says so.
            Ok(false) => {
                kept.replies.unrecorded(id, seq);
                Ok(())
            }
            Err(error) => {
                let story = format!("the server's records cannot be written: {error}");
                Err(Error::with_story(Errno::EIO, story))
            }
        }
    }

    fn end(&self, id: ClientId, seq: u64, reply: Reply, recorded: bool) {
        let mut kept = self.kept.lock();
        let is_kept = recorded && kept.add(id, seq, What::End(reply.clone())).unwrap_or(false);
        kept.replies.ended(id, seq, reply, is_kept);
        drop(kept);
        self.ended.notify_waiters();
    }
}

impl Kept {
    fn forget(&mut self, id: ClientId) {
        // Told or not: the next server forgets him as well, by and by.
        let _ = self.add(id, 0, What::Gone(true));
    }
}

/// An answer that can be given again.
#[async_trait]
pub(crate) trait Told: Message + Default + Sized + 'static {
    /// It has the number of a file, which holds in one session alone.
    const HAS_FILE: bool = false;

    /// The object in it.
    fn object(&self) -> Option<Bytes> {
        None
    }

    /// The answer to what was done by an earlier server, or in an earlier session.
    async fn revive(call: &Call, intent: &Intent, made: Bytes) -> Result<Self>;
}

#[async_trait]
impl Told for v1::Entry {
    async fn revive(call: &Call, _: &Intent, made: Bytes) -> Result<Self> {
        let entry = call.export().resolve(&call.cx, &made).await?;
        call.export().entry(&call.cx, &entry).await
    }
}

#[async_trait]
impl Told for v1::CreateReply {
    const HAS_FILE: bool = true;

    fn object(&self) -> Option<Bytes> {
        self.entry.as_ref().map(|entry| entry.object.clone())
    }

    async fn revive(call: &Call, intent: &Intent, made: Bytes) -> Result<Self> {
        let flags = check::flags(intent.flags & !libc::O_TRUNC)?;
        let entry = call.export().resolve(&call.cx, &made).await?;
        let opened: Result<_> = call.volume().open(&call.cx, &entry.inode, flags).await;
        Ok(v1::CreateReply {
            file: call.keep(opened?).await?,
            entry: Some(call.export().entry(&call.cx, &entry).await?),
        })
    }
}

fn before(intent: &Intent) -> Before {
    intent.before.clone().unwrap_or_default()
}

#[async_trait]
impl Told for v1::UnlinkReply {
    const HAS_FILE: bool = true;

    async fn revive(_: &Call, intent: &Intent, _: Bytes) -> Result<Self> {
        Ok(v1::UnlinkReply {
            gone: before(intent).at_name,
            held: 0,
        })
    }
}

#[async_trait]
impl Told for v1::RenameReply {
    const HAS_FILE: bool = true;

    async fn revive(_: &Call, intent: &Intent, _: Bytes) -> Result<Self> {
        Ok(v1::RenameReply {
            moved: before(intent).at_name,
            other: before(intent).at_new_name,
            held: 0,
        })
    }
}

#[async_trait]
impl Told for v1::CountReply {
    async fn revive(_: &Call, intent: &Intent, _: Bytes) -> Result<Self> {
        Ok(v1::CountReply { count: intent.len })
    }
}

#[async_trait]
impl Told for v1::Empty {
    async fn revive(_: &Call, _: &Intent, _: Bytes) -> Result<Self> {
        Ok(v1::Empty {})
    }
}

#[async_trait]
impl Told for v1::MakeWholeReply {
    async fn revive(_: &Call, _: &Intent, _: Bytes) -> Result<Self> {
        never()
    }
}

/// Of calls that are done again, or that nobody can judge.
fn never<T>() -> Result<T> {
    Err(Error::with_story(Errno::EIO, "an answer that nobody keeps"))
}

#[async_trait]
impl Told for v1::Attr {
    async fn revive(_: &Call, _: &Intent, _: Bytes) -> Result<Self> {
        never()
    }
}

#[async_trait]
impl Told for v1::OpenReply {
    const HAS_FILE: bool = true;

    async fn revive(_: &Call, _: &Intent, _: Bytes) -> Result<Self> {
        never()
    }
}

impl Shared {
    /// Works on a call that changes something. Every such call comes through here. It goes on when the
    /// connection by which it came is cut.
    pub(crate) async fn change<T, F>(
        self: &Arc<Self>,
        head: Option<v1::Head>,
        pace: Pace,
        plan: impl FnOnce(&Call) -> Plan + Send + 'static,
        operation: impl FnOnce(Arc<Call>) -> F + Send + 'static,
    ) -> Answer<T>
    where
        T: Told,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (call, head) = self.enter(head)?;
        numbered(&head)?;
        let changing = self
            .clone()
            .changing(Arc::new(call), head, pace, plan, operation);
        let mut changing = Box::pin(changing);
        let answer = match poll_once(changing.as_mut()) {
            Poll::Ready(answer) => answer,
            Poll::Pending => tokio::spawn(changing).await.unwrap_or_else(|_| {
                Err(Error::with_story(Errno::EIO, "the server ended meanwhile"))
            }),
        };
        answer.map(Response::new).map_err(told)
    }

    async fn changing<T, F>(
        self: Arc<Self>,
        call: Arc<Call>,
        head: v1::Head,
        pace: Pace,
        plan: impl FnOnce(&Call) -> Plan + Send,
        operation: impl FnOnce(Arc<Call>) -> F + Send,
    ) -> Result<T>
    where
        T: Told,
        F: Future<Output = Result<T>> + Send,
    {
        let (id, seq, session) = (call.session().client, head.seq, call.session().number);
        let mut plan = plan(&call);
        if let Plan::Once(intent) = &mut plan {
            intent.export = call.export().name.clone();
        }
        let coming = Coming {
            seq,
            answered: head.answered,
            again: head.again,
            harmless: matches!(plan, Plan::Harmless(_)),
        };
        let verdict = loop {
            let mut ended = std::pin::pin!(self.changes.ended.notified());
            // From here on no end is missed.
            ended.as_mut().enable();
            match self.changes.turn(id, coming) {
                Turn::Do => break None,
                Turn::Judged(verdict) => break Some(verdict),
                Turn::Wait => ended.await,
                Turn::Unknown(why) => return Err(Error::with_story(Errno::EIO, why)),
                Turn::Answered(reply) => {
                    let elsewhere = T::HAS_FILE && reply.session != session;
                    match (&plan, answered::<T>(&reply)) {
                        (_, Err(error)) => return Err(error),
                        (_, Ok(reply)) if !elsewhere => return Ok(reply),
                        (Plan::Harmless(_), Ok(_)) => break None,
                        (Plan::Once(intent), Ok(reply)) => {
                            let made = reply.object().unwrap_or_default();
                            return T::revive(&call, intent, made).await;
                        }
                    }
                }
            }
        };
        let mut recorded = false;
        let slow = pace == Pace::Slow;
        let work = self.perform(&call, seq, plan, verdict, operation, &mut recorded);
        let mut taken = None;
        let done = self.work.run(slow, async {
            let (held, done) = work.await;
            taken = held;
            done
        });
        let done = done.await;
        let reply = Reply {
            session,
            ..reply_of(&done)
        };
        self.changes.end(id, seq, reply, recorded);
        // Who comes to the same place comes after the record of this one's end.
        drop(taken);
        done
    }

    /// Does it, unless an earlier server did.
    async fn perform<T, F>(
        &self,
        call: &Arc<Call>,
        seq: u64,
        plan: Plan,
        verdict: Option<Box<Verdict>>,
        operation: impl FnOnce(Arc<Call>) -> F + Send,
        recorded: &mut bool,
    ) -> (Option<Taken<'_>>, Result<T>)
    where
        T: Told,
        F: Future<Output = Result<T>> + Send,
    {
        let mut taken = None;
        let outlives = call.session().ends_with != EndsWith::Process;
        if let Plan::Once(_) = &plan {
            *recorded = outlives;
            if let Some(verdict) = &verdict {
                match verdict.became() {
                    Became::Untouched => {}
                    Became::Done => {
                        let made = Bytes::copy_from_slice(&verdict.made);
                        let was = verdict.intent.clone().unwrap_or_default();
                        return (None, T::revive(call, &was, made).await);
                    }
                    Became::Unknown => {
                        let story = "the server was killed while this was under way, and whether it was \
                                     done cannot be seen";
                        return (None, Err(Error::with_story(Errno::EIO, story)));
                    }
                }
            }
        }
        let (name, client) = (&call.export().name, call.session().client);
        let _under_way = match self.roles.change(name, client).await {
            Ok(among_others) => among_others,
            Err(error) => return (None, Err(error)),
        };
        match plan {
            Plan::Harmless(places) if places.is_empty() => {}
            Plan::Harmless(places) => taken = Some(self.changes.turns.take(places).await),
            // Nobody will ask the next server for it; but others are judged by these places.
            Plan::Once(intent) if !outlives => {
                taken = Some(self.changes.turns.take(intent.places()).await);
            }
            Plan::Once(mut intent) => {
                taken = Some(self.changes.turns.take(intent.places()).await);
                match look(call.export(), &call.cx, &intent).await {
                    Ok(before) => intent.before = Some(before),
                    Err(error) => return (taken, Err(error)),
                }
                if let Err(error) = self.changes.begin(call.session().client, seq, *intent) {
                    return (taken, Err(error));
                }
            }
        }
        (taken, operation(call.clone()).await)
    }
}

fn reply_of<T: Message>(done: &Result<T>) -> Reply {
    match done {
        Ok(message) => Reply {
            message: message.encode_to_vec(),
            ..Reply::default()
        },
        Err(error) => Reply {
            errno: error.errno().raw(),
            story: error.story().map(ToString::to_string).unwrap_or_default(),
            ..Reply::default()
        },
    }
}

fn answered<T: Message + Default>(reply: &Reply) -> Result<T> {
    match (reply.errno, reply.story.as_str()) {
        (0, _) => T::decode(&reply.message[..])
            .map_err(|_| Error::with_story(Errno::EIO, "an answer that was kept is damaged")),
        (errno, "") => Err(Errno::from_raw(errno).into()),
        (errno, story) => Err(Error::with_story(Errno::from_raw(errno), story.to_owned())),
    }
}

/// A call that has no number cannot be told from another one.
fn numbered(head: &v1::Head) -> std::result::Result<(), Status> {
    match head.seq {
        0 => Err(status_of(&Error::with_story(
            Errno::EINVAL,
            "a changing call without a number",
        ))),
        _ => Ok(()),
    }
}
