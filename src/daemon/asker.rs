//! Who asked for a cut-over. The wait is his: he is told what is in the way, and when he leaves
//! (Ctrl-C, a killed command, a terminal or a line that goes away) nothing comes of it. `status`
//! says for everybody else that it is under way.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::cutover_reply::Outcome;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::Status;

/// What of his account the audit knows when he has none.
const NOBODY: u32 = u32::MAX;

/// A cut-over that is under way, for `status`.
#[derive(Default)]
pub(crate) struct Board(Mutex<Option<proto::UnderWay>>);

impl Board {
    pub(crate) fn now(&self) -> Option<proto::UnderWay> {
        self.0.lock().clone()
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    Holding,
    /// Nothing takes it back from here on.
    Replacing,
}

impl Phase {
    fn word(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Holding => "holding",
            Phase::Replacing => "replacing",
        }
    }
}

/// A command that waits for the answer.
pub(super) struct Asker<'a> {
    answers: Option<mpsc::Sender<Result<proto::CutoverReply, Status>>>,
    board: &'a Board,
    told: Mutex<Option<proto::Refused>>,
}

impl<'a> Asker<'a> {
    pub(super) fn new(
        answers: Option<mpsc::Sender<Result<proto::CutoverReply, Status>>>,
        board: &'a Board,
    ) -> Asker<'a> {
        Asker {
            answers,
            board,
            told: Mutex::default(),
        }
    }

    /// To be called by whoever alone may end it all now.
    pub(super) fn begins(&self, pid: u32, asked_by: String, limit: Duration) {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        *self.board.0.lock() = Some(proto::UnderWay {
            phase: Phase::Waiting.word().into(),
            since: since.as_secs_f64(),
            until: (since + limit).as_secs_f64(),
            asked_by,
            pid,
            in_the_way: 0,
        });
    }

    /// Whether he still waits.
    pub(super) fn is_there(&self) -> bool {
        self.answers.as_ref().is_none_or(|to| !to.is_closed())
    }

    pub(super) fn phase(&self, phase: Phase) {
        if let Some(under_way) = self.board.0.lock().as_mut() {
            under_way.phase = phase.word().into();
        }
    }

    /// Tells him what is in the way, when that has changed.
    pub(super) fn waits(&self, refused: &proto::Refused) {
        self.phase(Phase::Waiting);
        if let Some(under_way) = self.board.0.lock().as_mut() {
            under_way.in_the_way = refused.users.len() as u64;
        }
        let mut told = self.told.lock();
        if told.as_ref() == Some(refused) {
            return;
        }
        *told = Some(refused.clone());
        if let Some(answers) = &self.answers {
            // Of one who reads slowly: the next change is told.
            let _ = answers.try_send(Ok(proto::CutoverReply {
                outcome: Some(Outcome::Waits(refused.clone())),
            }));
        }
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        *self.board.0.lock() = None;
    }
}

/// What becomes of a cut-over that nobody waits for any more.
pub(super) fn gone() -> proto::Refused {
    super::cutover::not_now("cancelled: who asked for it does not wait for it any more")
}

/// The user behind a process: who logged in, where that is known, or whose it is.
pub(super) fn user(pid: u32, uid: u32) -> String {
    let login = fs::read_to_string(format!("/proc/{pid}/loginuid")).unwrap_or_default();
    let login = login.trim().parse().ok().filter(|login| *login != NOBODY);
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    named(&passwd, login.unwrap_or(uid))
}

fn named(passwd: &str, uid: u32) -> String {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("user {uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::cutover::not_now;

    #[test]
    fn who_waits_is_told_what_has_changed_and_is_seen_to_leave() {
        let (board, (sender, mut receiver)) = (Board::default(), mpsc::channel(4));
        let asker = Asker::new(Some(sender), &board);
        asker.begins(7, "anna".into(), Duration::from_secs(5));
        for reason in ["one", "one", "two"] {
            asker.waits(&not_now(reason));
        }
        let told = |message: Option<Result<proto::CutoverReply, Status>>| match message {
            Some(Ok(proto::CutoverReply {
                outcome: Some(Outcome::Waits(waits)),
            })) => waits.reasons,
            other => panic!("{other:?}"),
        };
        assert_eq!(told(receiver.try_recv().ok()), ["one"]);
        assert_eq!(told(receiver.try_recv().ok()), ["two"]);
        assert!(receiver.try_recv().is_err() && asker.is_there());
        asker.phase(Phase::Holding);
        let now = board.now().unwrap();
        assert_eq!((now.phase.as_str(), now.pid), ("holding", 7));
        drop(receiver);
        assert!(!asker.is_there());
        drop(asker);
        assert!(board.now().is_none());
    }

    #[test]
    fn a_user_is_told_by_his_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/home/anna:\n";
        assert_eq!(named(passwd, 1000), "anna");
        assert_eq!(named(passwd, 7), "user 7");
    }
}
