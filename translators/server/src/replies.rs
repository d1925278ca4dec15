//! Which changing calls were begun, and how they were answered: a decision without I/O.
//!
//! A call that comes twice, as its answer was lost, is answered from here. So nothing is done
//! twice, neither when it is sent again nor when the first sending is late and comes after
//! everything else.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use hermitfs_api::Errno;

use crate::record::{Intent, Record, Reply, Verdict, What};

/// Who calls, for all his life.
pub(crate) type ClientId = [u8; 16];

/// Calls of one client that are not answered yet, as far as he says.
pub(crate) const MOST_CALLS: usize = 16 << 10;

/// For how long the answers of a client are kept that has gone without Bye.
pub(crate) const KEPT: Duration = Duration::from_secs(3600);

/// What to do with a call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Turn {
    /// It was never begun: do it.
    Do,
    /// It is being done: ask again when it is.
    Wait,
    /// It was answered with this.
    Answered(Reply),
    /// It was begun when a server ended.
    Judged(Box<Verdict>),
    /// Whether it was done cannot be known: why.
    Unknown(&'static str),
}

/// How a call comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coming {
    pub(crate) seq: u64,
    /// Below this nobody asks any more.
    pub(crate) answered: u64,
    /// It was sent before.
    pub(crate) again: bool,
    /// To do it twice in a row does no harm.
    pub(crate) harmless: bool,
}

#[derive(Debug)]
enum State {
    Begun(Option<Intent>),
    Answered(Reply, bool),
    Judged(Verdict),
}

#[derive(Debug, Default)]
struct Client {
    /// It is in the file, as it may outlive this server.
    is_kept: bool,
    /// What was sent for the first time from this number on is here, if it was begun.
    known_from: u64,
    answered: u64,
    calls: BTreeMap<u64, State>,
    /// Since then no session of his is there.
    gone: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Replies(HashMap<ClientId, Client>);

impl Replies {
    /// What a file's records say. Nobody is there yet.
    pub(crate) fn replay(records: impl IntoIterator<Item = Record>, now: Instant) -> Replies {
        let mut replies = Replies::default();
        for record in records {
            let Ok(id) = ClientId::try_from(record.client) else {
                continue;
            };
            let seq = record.seq;
            let clients = &mut replies.0;
            match record.what {
                Some(What::Known(from)) => {
                    let client = clients.entry(id).or_default();
                    (client.is_kept, client.known_from) = (true, from);
                }
                Some(What::Gone(_)) => drop(clients.remove(&id)),
                Some(what) => {
                    let Some(client) = clients.get_mut(&id) else {
                        continue;
                    };
                    let state = match what {
                        What::Begin(intent) => State::Begun(Some(intent)),
                        What::End(reply) => State::Answered(reply, true),
                        What::Verdict(verdict) => State::Judged(verdict),
                        What::Boot(_) | What::Known(_) | What::Gone(_) => continue,
                    };
                    client.calls.insert(seq, state);
                }
                None => {}
            }
        }
        for client in replies.0.values_mut() {
            client.gone = Some(now);
        }
        replies
    }

    /// What a new file has to say, so that it says all that matters.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (id, client) in self.0.iter().filter(|(_, client)| client.is_kept) {
            let record = |seq, what| Record {
                client: id.to_vec(),
                seq,
                what: Some(what),
            };
            records.push(record(0, What::Known(client.known_from)));
            for (&seq, state) in &client.calls {
                let what = match state {
                    State::Begun(Some(intent)) => What::Begin(intent.clone()),
                    State::Answered(reply, true) => What::End(reply.clone()),
                    State::Judged(verdict) => What::Verdict(verdict.clone()),
                    State::Begun(None) | State::Answered(_, false) => continue,
                };
                records.push(record(seq, what));
            }
        }
        records
    }

    /// A client says Hello. `next` is the number that its next call will have. True when he is not in
    /// the file and has to be, as he may ask the next server as well.
    pub(crate) fn hello(&mut self, id: ClientId, answered: u64, next: u64, outlives: bool) -> bool {
        let is_known = self.0.contains_key(&id);
        let client = self.0.entry(id).or_default();
        let new = outlives && !client.is_kept;
        client.is_kept |= outlives;
        if new || !is_known {
            client.known_from = next;
        }
        client.gone = None;
        client.answer(answered);
        new
    }

    /// A session has ended. True when the client has said Bye, which has to be recorded.
    pub(crate) fn left(&mut self, id: ClientId, bye: bool, now: Instant) {
        if bye {
            self.0.remove(&id);
        } else if let Some(client) = self.0.get_mut(&id) {
            client.gone = Some(now);
        }
    }

    /// Forgets who has been gone for long, and says who that is.
    pub(crate) fn sweep(&mut self, now: Instant) -> Vec<ClientId> {
        let long = |client: &mut Client| client.gone.is_some_and(|since| now - since > KEPT);
        let forgotten = self.0.extract_if(|_, client| long(client));
        forgotten.map(|(id, _)| id).collect()
    }

    /// A call comes. When the answer is [`Turn::Do`] it is begun, and so it is when it was judged
    /// untouched and the caller does it.
    pub(crate) fn turn(&mut self, id: ClientId, coming: Coming) -> Turn {
        let Some(client) = self.0.get_mut(&id) else {
            return Turn::Unknown("this server has forgotten the client");
        };
        client.answer(coming.answered);
        if coming.seq < client.answered {
            return Turn::Unknown("the call was answered long ago, and comes too late");
        }
        match client.calls.get(&coming.seq) {
            Some(State::Begun(_)) => Turn::Wait,
            Some(State::Answered(reply, _)) => Turn::Answered(reply.clone()),
            Some(State::Judged(verdict)) => {
                let verdict = verdict.clone();
                client.calls.insert(coming.seq, State::Begun(None));
                Turn::Judged(Box::new(verdict))
            }
            None if coming.again && !coming.harmless && coming.seq < client.known_from => {
                Turn::Unknown("it was sent to a server whose records are gone")
            }
            None if client.calls.len() >= MOST_CALLS => {
                Turn::Unknown("the client has too many calls that are not answered")
            }
            None => {
                client.calls.insert(coming.seq, State::Begun(None));
                Turn::Do
            }
        }
    }

    /// Nobody waits for these any more: none of them is begun from now on. True when none is under way.
    pub(crate) fn give_up(&mut self, id: ClientId, seqs: &[u64]) -> bool {
        let Some(client) = self.0.get_mut(&id) else {
            return true;
        };
        let mut is_quiet = true;
        for &seq in seqs.iter().filter(|seq| **seq >= client.answered) {
            match client.calls.get(&seq) {
                Some(State::Begun(_)) => is_quiet = false,
                Some(State::Answered(..)) => {}
                None | Some(State::Judged(_)) => {
                    let refused = Reply {
                        errno: Errno::EIO.raw(),
                        story: "the client has given this call up".into(),
                        ..Reply::default()
                    };
                    client.calls.insert(seq, State::Answered(refused, false));
                }
            }
        }
        is_quiet
    }

    /// What a call that was begun is about to do.
    pub(crate) fn begun(&mut self, id: ClientId, seq: u64, intent: Intent) {
        self.set(id, seq, State::Begun(Some(intent)));
    }

    /// What was begun cannot be recorded: the next server will not know of it.
    pub(crate) fn unrecorded(&mut self, id: ClientId, seq: u64) {
        if let Some(client) = self.0.get_mut(&id) {
            client.known_from = client.known_from.max(seq + 1);
        }
    }

    /// It was answered. `kept`: this is in the file.
    pub(crate) fn ended(&mut self, id: ClientId, seq: u64, reply: Reply, kept: bool) {
        self.set(id, seq, State::Answered(reply, kept));
    }

    /// What became of it.
    pub(crate) fn judged(&mut self, id: ClientId, seq: u64, verdict: Verdict) {
        self.set(id, seq, State::Judged(verdict));
    }

    fn set(&mut self, id: ClientId, seq: u64, state: State) {
        if let Some(client) = self.0.get_mut(&id)
            && seq >= client.answered
        {
            client.calls.insert(seq, state);
        }
    }

    /// Calls that were begun and have no answer.
    pub(crate) fn open(&self) -> Vec<(ClientId, u64, Intent)> {
        let mut open = Vec::new();
        for (id, client) in &self.0 {
            for (&seq, state) in &client.calls {
                if let State::Begun(Some(intent)) = state {
                    open.push((*id, seq, intent.clone()));
                }
            }
        }
        open
    }
}

impl Client {
    fn answer(&mut self, below: u64) {
        if below > self.answered {
            self.answered = below;
            self.calls = self.calls.split_off(&below);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ClientId = [7; 16];

    fn coming(seq: u64, again: bool) -> Coming {
        Coming {
            seq,
            answered: 0,
            again,
            harmless: false,
        }
    }

    fn known() -> Replies {
        let mut replies = Replies::default();
        assert!(replies.hello(ID, 0, 1, true));
        replies
    }

    fn reply(errno: i32) -> Reply {
        Reply {
            errno,
            ..Reply::default()
        }
    }

    #[test]
    fn a_call_is_done_once_however_often_it_comes() {
        let mut replies = known();
        assert_eq!(replies.turn(ID, coming(1, false)), Turn::Do);
        assert_eq!(replies.turn(ID, coming(1, true)), Turn::Wait);
        replies.ended(ID, 1, reply(17), true);
        for _ in 0..3 {
            assert_eq!(replies.turn(ID, coming(1, true)), Turn::Answered(reply(17)));
        }
        assert_eq!(replies.turn(ID, coming(2, true)), Turn::Do, "it never came");
    }

    #[test]
    fn a_sending_that_comes_after_the_answer_was_heard_does_nothing() {
        let mut replies = known();
        replies.turn(ID, coming(1, false));
        replies.ended(ID, 1, reply(0), true);
        let next = Coming {
            answered: 2,
            ..coming(2, false)
        };
        assert_eq!(replies.turn(ID, next), Turn::Do);
        assert!(matches!(
            replies.turn(ID, coming(1, false)),
            Turn::Unknown(_)
        ));
        assert!(
            replies.records().iter().all(|record| record.seq != 1),
            "nobody asks for it"
        );
    }

    #[test]
    fn what_was_given_up_is_not_begun_and_who_gave_it_up_waits_for_what_was() {
        let mut replies = known();
        assert_eq!(replies.turn(ID, coming(1, false)), Turn::Do);
        assert!(!replies.give_up(ID, &[1, 2]), "one is under way");
        assert!(
            matches!(replies.turn(ID, coming(2, false)), Turn::Answered(reply) if reply.errno == 5),
            "it comes too late"
        );
        replies.ended(ID, 1, reply(0), true);
        assert!(replies.give_up(ID, &[1, 2]));
        assert_eq!(replies.turn(ID, coming(1, true)), Turn::Answered(reply(0)));
        // What a server left half done, as far as anybody can see.
        let verdict = Verdict::default();
        replies.judged(ID, 3, verdict);
        assert!(replies.give_up(ID, &[3]));
        assert!(matches!(
            replies.turn(ID, coming(3, true)),
            Turn::Answered(_)
        ));
        assert!(
            replies.give_up([8; 16], &[1]),
            "nobody is known by that name"
        );
    }

    #[test]
    fn what_was_sent_before_the_client_was_known_is_unknown_when_that_matters() {
        let mut replies = Replies::default();
        replies.hello(ID, 0, 10, true);
        assert!(matches!(
            replies.turn(ID, coming(9, true)),
            Turn::Unknown(_)
        ));
        let harmless = Coming {
            harmless: true,
            ..coming(8, true)
        };
        assert_eq!(replies.turn(ID, harmless), Turn::Do);
        assert_eq!(
            replies.turn(ID, coming(9, false)),
            Turn::Do,
            "waited for this server"
        );
        assert_eq!(replies.turn(ID, coming(10, true)), Turn::Do);
        assert!(!replies.hello(ID, 0, 99, true), "he is known from 10 on");
        assert_eq!(replies.turn(ID, coming(11, true)), Turn::Do);
    }

    #[test]
    fn who_ends_with_the_server_is_in_no_file_until_he_comes_by_another_way() {
        let mut replies = Replies::default();
        assert!(!replies.hello(ID, 0, 1, false));
        assert_eq!(replies.turn(ID, coming(1, false)), Turn::Do);
        replies.ended(ID, 1, reply(0), false);
        assert_eq!(replies.turn(ID, coming(1, true)), Turn::Answered(reply(0)));
        assert!(replies.records().is_empty());
        // Should he live on all the same, nothing is done twice.
        let mut next = Replies::replay(replies.records(), Instant::now());
        next.hello(ID, 1, 2, false);
        assert!(matches!(next.turn(ID, coming(1, true)), Turn::Unknown(_)));

        assert!(replies.hello(ID, 1, 2, true));
        assert!(!replies.hello(ID, 1, 2, true));
        let mut next = Replies::replay(replies.records(), Instant::now());
        assert!(!next.hello(ID, 1, 3, true));
        assert!(matches!(next.turn(ID, coming(1, true)), Turn::Unknown(_)));
        assert_eq!(next.turn(ID, coming(2, true)), Turn::Do, "it never came");
    }

    #[test]
    fn who_is_gone_for_long_is_forgotten_and_who_comes_back_is_not() {
        let start = Instant::now();
        let mut replies = known();
        replies.left(ID, false, start);
        assert!(replies.sweep(start + KEPT).is_empty());
        replies.hello(ID, 0, 5, true);
        assert!(replies.sweep(start + 9 * KEPT).is_empty());
        replies.left(ID, false, start);
        assert_eq!(replies.sweep(start + 9 * KEPT), [ID]);
        assert!(matches!(
            replies.turn(ID, coming(1, false)),
            Turn::Unknown(_)
        ));
    }

    #[test]
    fn a_client_cannot_fill_the_memory() {
        let mut replies = known();
        for seq in 1..=MOST_CALLS as u64 {
            assert_eq!(replies.turn(ID, coming(seq, false)), Turn::Do);
        }
        let more = coming(MOST_CALLS as u64 + 1, false);
        assert!(matches!(replies.turn(ID, more), Turn::Unknown(_)));
    }

    #[test]
    fn the_file_brings_back_what_was_begun_answered_and_judged() {
        let mut replies = known();
        for seq in 1..=5 {
            replies.turn(ID, coming(seq, false));
        }
        let intent = Intent {
            name: b"name".to_vec(),
            ..Intent::default()
        };
        replies.begun(ID, 1, intent.clone());
        replies.ended(ID, 2, reply(0), true);
        replies.ended(ID, 3, reply(0), false);
        replies.judged(ID, 4, Verdict::default());
        let mut again = Replies::replay(replies.records(), Instant::now());
        assert_eq!(again.open(), [(ID, 1, intent)]);
        assert_eq!(again.turn(ID, coming(2, true)), Turn::Answered(reply(0)));
        assert_eq!(
            again.turn(ID, coming(3, true)),
            Turn::Do,
            "harmless, so not kept"
        );
        assert_eq!(
            again.turn(ID, coming(4, true)),
            Turn::Judged(Box::default())
        );
        assert_eq!(again.turn(ID, coming(4, true)), Turn::Wait);
        assert_eq!(
            again.turn(ID, coming(5, true)),
            Turn::Do,
            "begun, and nothing touched yet"
        );
    }
}
