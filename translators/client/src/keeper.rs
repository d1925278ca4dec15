//! Who keeps the line: connects, says Hello, gives signs of life, mends, and says Bye.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use hermitfs_api::Errno;
use hermitfs_proto::brick::{Fault, HOLDS, REPLIES, VERSION, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Response, Status};

use crate::brick::Brick;
use crate::call::read;
use crate::dial::{Way, distrust, root_cause};
use crate::file::Opened;
use crate::here;
use crate::line::{Line, Session, State, Word};
use crate::role;

/// Between two attempts, at first and at last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// So many attempts in a row that seem to fail for a certificate are enough for who has never been let in.
const DISTRUSTED: u32 = 5;

/// Who holds locks gives signs of life so often: when the server is another one, nobody gets a lock
/// before its clients have noticed.
const OFTEN: Duration = Duration::from_secs(1);

/// What is let go of by one call at most.
const MOST_RELEASED: usize = 256;

/// A sign of life that is under way.
type Sign = Pin<Box<dyn Future<Output = Result<Response<v1::Empty>, Status>> + Send>>;

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// It may get better.
    NoAnswer(String),
    /// One end does not take the other's certificate, as far as can be seen. A server that is about to end may
    /// look the same.
    Distrusted(String),
    /// It will not: the server's words.
    Refused(String),
}

impl Trouble {
    pub(crate) fn into_words(self) -> String {
        match self {
            Trouble::NoAnswer(words) | Trouble::Distrusted(words) | Trouble::Refused(words) => {
                words
            }
        }
    }
}

pub(crate) struct Keeper {
    line: Weak<Line>,
    state: watch::Sender<State>,
    words: mpsc::UnboundedReceiver<Word>,
    way: Way,
    epoch: u64,
    boots: Vec<String>,
    salt: Option<u64>,
    /// The server's process and the session of the last connection.
    last: Option<(Bytes, u64)>,
    /// Files to be closed: session and number.
    closed: Vec<(u64, u64)>,
}

impl Keeper {
    pub(crate) fn new(
        line: &Arc<Line>,
        state: watch::Sender<State>,
        words: mpsc::UnboundedReceiver<Word>,
        way: Way,
    ) -> Keeper {
        Keeper {
            line: Arc::downgrade(line),
            state,
            words,
            way,
            epoch: 0,
            boots: Vec::new(),
            salt: None,
            last: None,
            closed: Vec::new(),
        }
    }

    /// Keeps the line until its end. `first` hears how the first attempts came out.
    pub(crate) async fn keep(mut self, first: impl FnOnce(Result<(), Trouble>)) {
        self.keep_up(first).await;
        // Who still asks is not to wait for what nobody brings any more.
        let ended = State::Down("the client has ended".into());
        self.state.send_replace(ended);
    }

    async fn keep_up(&mut self, first: impl FnOnce(Result<(), Trouble>)) {
        let mut first = Some(first);
        let mut since = Instant::now();
        let mut pause = PAUSES.0;
        let mut distrusted = 0;
        while let Some(line) = self.line.upgrade() {
            let trouble = match self.connect(&line).await {
                Ok((session, grace)) => {
                    if let Some(first) = first.take() {
                        first(Ok(()));
                    } else {
                        tracing::info!(server = %line.options.address, "the line is good again");
                    }
                    drop(line);
                    let session = Arc::new(session);
                    self.state.send_replace(State::Up(session.clone()));
                    self.undo_waits();
                    let Some(why) = self.tend(&session, grace).await else {
                        return;
                    };
                    tracing::warn!("a line is cut: {why}");
                    self.state.send_replace(State::Mending);
                    (since, pause) = (Instant::now(), PAUSES.0);
                    continue;
                }
                Err(trouble) => trouble,
            };
            let over = since.elapsed() >= line.grace();
            let refused = matches!(trouble, Trouble::Refused(_));
            distrusted = match trouble {
                Trouble::Distrusted(_) => distrusted + 1,
                _ => 0,
            };
            let surely = over || refused || distrusted >= DISTRUSTED;
            if let Some(told) = first.take_if(|_| surely) {
                return told(Err(trouble));
            }
            if (over || refused) && !matches!(&*self.state.borrow(), State::Down(_)) {
                let words: Arc<str> = trouble.into_words().into();
                tracing::error!(server = %line.options.address, "operations get EIO until it is there again: {words}");
                self.state.send_replace(State::Down(words));
            }
            // Never past the end of the grace, so that nobody waits longer than was said.
            let left = line.grace().saturating_sub(since.elapsed());
            let nap = if left.is_zero() {
                pause
            } else {
                pause.min(left)
            };
            drop(line);
            if self.rest(nap).await {
                return;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Waits, and hears; true at the end.
    async fn rest(&mut self, nap: Duration) -> bool {
        let nap = sleep(nap);
        tokio::pin!(nap);
        loop {
            tokio::select! {
                () = &mut nap => return false,
                word = self.words.recv() => match word {
                    None | Some(Word::End) => return true,
                    Some(Word::Broken(_)) => {}
                    Some(Word::Undo) => self.undo_waits(),
                    Some(Word::Release(session, file)) => self.closed.push((session, file)),
                },
            }
        }
    }

    /// One attempt, bounded.
    async fn connect(&mut self, line: &Line) -> Result<(Session, Duration), Trouble> {
        let patience = line.options.ping_timeout();
        let dialing = self.way.dial(&line.options.address, patience);
        let brick = timeout(patience, dialing).await;
        let brick = brick.map_err(|_| Trouble::NoAnswer("no connection in time".into()))?;
        let mut brick = brick.map_err(|error| match distrust(&error) {
            Some(why) => Trouble::Distrusted(why),
            None => Trouble::NoAnswer(root_cause(&error)),
        })?;
        let given_up = line.sequence.given_up();
        let hello = v1::HelloRequest {
            versions: vec![VERSION],
            capabilities: vec![HOLDS.into()],
            client: line.client_id(),
            volume: line.options.remote_subvolume.clone(),
            boot_id: here::boot_id(),
            pid_namespace: here::pid_namespace(),
            who: here::who(),
            answered: line.sequence.lowest_open(),
            next: line.sequence.next(),
            given_up: given_up.numbers.clone(),
        };
        let reply = timeout(patience, brick.hello(hello)).await;
        let reply = reply.map_err(|_| Trouble::NoAnswer("no answer to Hello in time".into()))?;
        let reply = reply.map_err(|status| self.unheard(&status))?;
        let reply = reply.into_inner();
        if !reply.refusal.is_empty() || reply.version != VERSION {
            let refusal = match reply.refusal.as_str() {
                "" => format!("it speaks version {}, and we {VERSION}", reply.version),
                words => words.into(),
            };
            return Err(Trouble::Refused(refusal));
        }
        line.sequence.settled(&given_up.numbers);
        self.play(line, &mut brick, reply.session, patience).await?;
        self.epoch += 1;
        if self.boots.last() != Some(&reply.boot_id) {
            self.boots.push(reply.boot_id.clone());
        }
        let salt = || here::device_salt(&reply.boot_id, &reply.machine);
        let session = Session {
            epoch: self.epoch,
            number: reply.session,
            given_up: given_up.times,
            boot: self.boots.len() as u64,
            has_replies: reply.capabilities.iter().any(|has| has == REPLIES),
            brick,
            near: self.way.is_near(),
            salt: *self.salt.get_or_insert_with(salt),
        };
        let now = (reply.incarnation, reply.session);
        self.claim(line, &session, &now, patience).await?;
        self.last = Some(now);
        Ok((session, Duration::from_millis(reply.grace_ms)))
    }

    /// Why a server says nothing although there was a connection. One that does not take our certificate closes it
    /// without a word that would come through.
    fn unheard(&self, status: &Status) -> Trouble {
        let cause = root_cause(status);
        // What a server says comes without a source.
        match self.way.has_tls() && status.source().is_some() {
            true => Trouble::Distrusted(format!(
                "{cause}: it closed the connection before it said anything, as servers do that do \
                 not take the certificate; is ours signed by its authority, and of this date?"
            )),
            false => Trouble::NoAnswer(cause),
        }
    }

    /// Has the role again that it had, from a server that may not know of it. Should somebody else have
    /// it now, nothing can be done.
    async fn play(
        &self,
        line: &Line,
        brick: &mut Brick,
        session: u64,
        patience: Duration,
    ) -> Result<(), Trouble> {
        let Some(played) = line.played() else {
            return Ok(());
        };
        let request = v1::RoleRequest {
            head: Some(head(line, session)),
            ..line.role_request(played.role, 0)
        };
        let told = timeout(patience, brick.role(request)).await;
        let told = told.map_err(|_| Trouble::NoAnswer("its role was not taken in time".into()))?;
        match told.map_err(read) {
            Ok(reply) => match role::claimed(role::outcome(reply.into_inner())) {
                Ok(_) => Ok(()),
                Err(error) => Err(Trouble::Refused(error.to_string())),
            },
            Err(Fault::Operation(error)) if error.errno() == Errno::ESTALE => {
                Err(Trouble::Refused(error.to_string()))
            }
            Err(Fault::Operation(error)) => Err(Trouble::NoAnswer(error.to_string())),
            Err(Fault::Line(status)) => Err(Trouble::NoAnswer(status.message().into())),
            Err(Fault::UnknownSession) => Err(Trouble::NoAnswer("the session has ended".into())),
        }
    }

    /// Has the locks again that it had from the server's predecessor. A server that is the same and
    /// has ended our session has given them to others.
    async fn claim(
        &self,
        line: &Line,
        session: &Session,
        now: &(Bytes, u64),
        patience: Duration,
    ) -> Result<(), Trouble> {
        let Some(last) = self.last.as_ref().filter(|last| *last != now) else {
            return Ok(());
        };
        for (file, locks) in line.held.all() {
            let Some(opened) = file.leaf::<Opened>() else {
                continue;
            };
            let mut kept = last.0 != now.0;
            for lock in locks {
                if !kept {
                    break;
                }
                let claimed = timeout(patience, line.claim(session, opened, &lock)).await;
                kept = match claimed {
                    Ok(Ok(())) => true,
                    Ok(Err(Fault::Operation(error))) => {
                        tracing::warn!("a lock cannot be had again: {error}");
                        false
                    }
                    _ => return Err(Trouble::NoAnswer("a lock was not claimed in time".into())),
                };
            }
            if !kept {
                tracing::error!(
                    server = %line.options.address,
                    "a lock was lost; its open file gets EIO until it is closed"
                );
                opened.lose();
                line.held.release(opened.id);
            }
        }
        Ok(())
    }

    /// As long as the connection is good; `None` at the end, else what broke it.
    async fn tend(&mut self, session: &Arc<Session>, grace: Duration) -> Option<String> {
        let period = (grace / 4).clamp(Duration::from_millis(100), Duration::from_secs(15));
        let mut signs = tokio::time::interval(period.min(OFTEN));
        let mut given: Option<Instant> = None;
        // One at a time, and with no limit of its own: behind much that is to be written it comes late over
        // a slow line. A dead one is found by the connection.
        let mut sign: Option<Sign> = None;
        // What was closed while there was no line.
        self.release(session);
        loop {
            let answered = async {
                match &mut sign {
                    Some(sign) => sign.await,
                    None => std::future::pending().await,
                }
            };
            let word = tokio::select! {
                word = self.words.recv() => word,
                answer = answered => {
                    sign = None;
                    match answer {
                        Ok(_) => continue,
                        Err(status) => return Some(root_cause(&status)),
                    }
                }
                _ = signs.tick() => {
                    let line = self.line.upgrade()?;
                    let is_due = given.is_none_or(|given| given.elapsed() >= period);
                    if sign.is_none() && (is_due || !line.held.is_empty()) {
                        given = Some(Instant::now());
                        let head = Some(head(&line, session.number));
                        let mut brick = session.brick.clone();
                        let ping = async move { brick.ping(v1::PingRequest { head }).await };
                        sign = Some(Box::pin(ping));
                    }
                    continue;
                }
            };
            match word {
                None | Some(Word::End) => {
                    self.bye(session).await;
                    return None;
                }
                Some(Word::Broken(epoch)) if epoch == session.epoch => {
                    return Some("a call did not come through".into());
                }
                Some(Word::Broken(_)) => {}
                Some(Word::Undo) => self.undo_waits(),
                Some(Word::Release(of, file)) => {
                    self.closed.push((of, file));
                    // What came meanwhile goes along.
                    if !self.words.is_empty() && self.closed.len() < MOST_RELEASED {
                        continue;
                    }
                }
            }
            self.release(session);
        }
    }

    fn undo_waits(&self) {
        if let Some(line) = self.line.upgrade() {
            tokio::spawn(async move { line.undo_waits().await });
        }
    }

    /// Closes what is to be closed; nobody waits for it. What was open in an earlier session went with that.
    fn release(&mut self, session: &Arc<Session>) {
        let closed = std::mem::take(&mut self.closed).into_iter();
        let files: Vec<u64> = closed
            .filter_map(|(of, file)| (of == session.number).then_some(file))
            .collect();
        let of = session.number;
        let Some(line) = self.line.upgrade() else {
            return;
        };
        if !files.is_empty() {
            let (head, session) = (head(&line, of), session.clone());
            let line = self.line.clone();
            tokio::spawn(async move {
                let released = session.release(head, files.clone()).await;
                // Open for as long as the session lasts, if nobody asks again.
                if let (false, Some(line)) = (released, line.upgrade()) {
                    line.unreleased(session.epoch, of, &files);
                }
            });
        }
    }

    async fn bye(&self, session: &Session) {
        let head = v1::Head {
            session: session.number,
            ..v1::Head::default()
        };
        let bye = v1::ByeRequest { head: Some(head) };
        let mut brick = session.brick.clone();
        drop(timeout(Duration::from_secs(1), brick.bye(bye)).await);
    }
}

/// Of a call of our own.
pub(crate) fn head(line: &Line, session: u64) -> v1::Head {
    v1::Head {
        session,
        answered: line.sequence.lowest_open(),
        origin: v1::Origin::Admin.into(),
        ..v1::Head::default()
    }
}
