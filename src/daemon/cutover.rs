//! The two ways out: the new brick takes the mount's place, or everything is given up.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hermitfs_fuse::MountError;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::{abort_reply, cutover_reply, stop_reply};
use hermitfs_replicate::{Replicate, SinkNumber, Status};

use super::asker::{Asker, gone};
use super::beside::settle;
use super::errors;
use super::fstab;
use super::handover;
use super::serve::{Daemon, End, in_use};
use super::swap::{self, Refusal, Sink, Swapped};
use super::watched;
use crate::bricks::{Brick, Bricks};
use crate::mounts::Mounts;
use crate::screen::human;
use crate::shell;
use crate::users::Usage;

/// How long to wait between two looks at what is in the way.
const PAUSE: Duration = Duration::from_millis(100);

/// How many objects a refusal names.
const NAMED: usize = 10;

/// Says how a cut-over came out.
pub(super) fn told(outcome: Result<cutover_reply::Done, proto::Refused>) -> cutover_reply::Outcome {
    match outcome {
        Ok(done) => {
            tracing::info!(held_s = done.held_s, open = done.open, "cut over");
            cutover_reply::Outcome::Done(done)
        }
        Err(refused) => {
            tracing::info!(reasons = ?refused.reasons, users = refused.users.len(), "no cut-over");
            cutover_reply::Outcome::Refused(refused)
        }
    }
}

/// Puts a sink in the mount's place, or leaves everything as it was. With `inside`, working
/// directories are not in the way. Who asked for it waits for it, or nothing comes of it.
pub(super) fn cut_over(
    daemon: &Arc<Daemon>,
    asked: &Asked<'_>,
    limit: Duration,
    to: Option<&str>,
    inside: bool,
) -> Result<cutover_reply::Done, proto::Refused> {
    let Some(mut over) = daemon.ending.try_lock() else {
        return Err(under_way());
    };
    let asker = asked.begins(&daemon.cutover, limit);
    let asker = &asker;
    let Some(pair) = &daemon.pair else {
        return Err(never(
            "this mount has no pair: there is no new brick to cut over to",
        ));
    };
    let (number, brick) = choose(&daemon.bricks, to)?;
    in_place(daemon)?;
    within(asker, limit, || ready(pair, &daemon.record.mountpoint))?;
    let near = brick.directory();
    if near.is_none() {
        nobody_stays(inside)?;
    }
    let veil = settle(asker, daemon.beside.as_ref(), pair, limit)?;
    let watching = watched::look(daemon);
    let swapped = match near {
        None => within(asker, limit, || {
            let attempt = handover::hand_over(daemon, asker, pair, limit);
            attempt.map_err(|refusal| watched::beside(daemon, refusal))
        }),
        Some(directory) => {
            pair.try_succession(true).map_err(|error| {
                not_now(format!(
                    "what is about to happen cannot be written down: {error}"
                ))
            })?;
            // What is opened from now on can go on over the cut-over.
            daemon.mount.set_passthrough(false);
            let sink = Sink { number, directory };
            let swap = || {
                let attempt = swap::swap(daemon, asker, pair, sink, limit, inside);
                attempt.map_err(|refusal| watched::beside(daemon, refusal))
            };
            within(asker, limit, swap).inspect_err(|_| {
                if let Err(error) = pair.try_succession(false) {
                    tracing::warn!(%error, "the state still says that a cut-over is tried");
                }
                daemon.mount.set_passthrough(true);
            })
        }
    };
    let Swapped {
        held,
        open,
        mounted,
        root,
    } = swapped?;
    let waived = waived(pair);
    let (lost, more) = errors::lost(pair);
    let mountpoint = &daemon.record.mountpoint;
    let directory = brick.called();
    // From here on the new brick is what users see: there is no way back, and none is needed.
    let left = retire(pair);
    // All that the kernel knew of the mount may go with this; that takes its time. Without a thread it goes here.
    let _ = std::thread::Builder::new()
        .name("forget".into())
        .spawn(move || drop(root));
    // Whoever was on his way then has arrived, and the old brick is let go.
    daemon.mount.settle();
    // Where the new brick is elsewhere, the old one is users' own again.
    let ended = match near {
        None => Vec::new(),
        Some(_) => watched::end(daemon),
    };
    *over = true;
    drop(veil);
    if let Some(beside) = &daemon.beside {
        beside.give_back();
    }
    let done = cutover_reply::Done {
        new: bytes(directory),
        held_s: held.as_secs_f64(),
        waived,
        lost,
        more,
        open,
        far: near.is_none(),
        left,
        ..cutover_reply::Done::default()
    };
    if near.is_none() {
        let _ = daemon.end.send(End::HandedOver);
        return Ok(cutover_reply::Done {
            old: called(daemon.bricks.source()),
            ..done
        });
    }
    let _ = daemon.end.send(End::CutOver);
    Ok(cutover_reply::Done {
        old: bytes(daemon.source()),
        fstab: fstab::lines(
            &Mounts::read().unwrap_or_default(),
            directory,
            mountpoint,
            mounted
                .as_ref()
                .map(|mounted| mounted.attributes)
                .unwrap_or_default(),
        ),
        notes: mounted
            .map(|mounted| mounted.notes)
            .unwrap_or_default()
            .into_iter()
            .chain(watched::afterwards(&watching, &ended))
            .collect(),
        over: daemon.over.is_some(),
        ..done
    })
}

/// Refused while something is not where it was when we began.
fn in_place(daemon: &Daemon) -> Result<(), proto::Refused> {
    let sight = daemon.sight();
    let Some(why) = sight.obstacle() else {
        return Ok(());
    };
    let users = match sight.mount {
        Some(_) => in_use(daemon),
        None => Vec::new(),
    };
    Err(proto::Refused {
        reasons: vec![why],
        users: users.iter().map(usage).collect(),
        ..proto::Refused::default()
    })
}

/// The objects of which an administrator has waived a difference.
pub(super) fn waived(pair: &Replicate) -> Vec<Vec<u8>> {
    let errors = pair.errors().into_iter();
    let mut paths: Vec<_> = errors
        .filter(|error| error.waived)
        .map(|error| error.path)
        .collect();
    paths.dedup();
    paths
}

/// Ends a pair; what is left of hermitfs then, in words for people.
pub(super) fn retire(pair: &Replicate) -> String {
    let left = pair.retire().join(", ");
    if !left.is_empty() {
        tracing::error!("of hermitfs there is left: {left}");
    }
    left
}

/// Who asks, before it is known whether he may.
pub(super) struct Asked<'a> {
    pub(super) answers: Option<Answers>,
    pub(super) pid: u32,
    pub(super) user: &'a str,
}

/// Where he hears of it.
pub(super) type Answers = tokio::sync::mpsc::Sender<Result<proto::CutoverReply, tonic::Status>>;

impl Asked<'_> {
    pub(super) fn begins<'board>(
        &self,
        board: &'board super::asker::Board,
        limit: Duration,
    ) -> Asker<'board> {
        let asker = Asker::new(self.answers.clone(), board);
        asker.begins(self.pid, self.user.to_owned(), limit);
        asker
    }
}

/// Tries until it comes off, or is refused for good, or the time is over, or nobody waits for it any
/// more. Users work in between.
pub(super) fn within<T>(
    asker: &Asker<'_>,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, Refusal>,
) -> Result<T, proto::Refused> {
    let until = Instant::now() + limit;
    loop {
        if !asker.is_there() {
            return Err(gone());
        }
        let began = Instant::now();
        match attempt() {
            Ok(done) => return Ok(done),
            Err(Refusal::Final(refused)) => return Err(refused),
            Err(Refusal::Now(refused)) if Instant::now() >= until => return Err(refused),
            // Users get at least the time for which they may have been held.
            Err(Refusal::Now(refused)) => {
                asker.waits(&refused);
                let next = Instant::now() + PAUSE.max(began.elapsed());
                while Instant::now() < next && asker.is_there() {
                    std::thread::sleep(PAUSE.min(next.saturating_duration_since(Instant::now())));
                }
            }
        }
    }
}

/// Which brick: the only sink, or the one that was named.
pub(super) fn choose<'a>(
    bricks: &'a Bricks,
    to: Option<&str>,
) -> Result<(SinkNumber, &'a Brick), proto::Refused> {
    let sinks: Vec<(SinkNumber, &Brick)> = bricks.sinks().collect();
    let told = || {
        let told = sinks
            .iter()
            .map(|(_, brick)| format!("--to {} ({})", brick.name, brick.called().display()));
        told.collect::<Vec<_>>().join(", ")
    };
    match (to, &sinks[..]) {
        (Some(wanted), _) => {
            let mut all = sinks.iter().copied();
            let named = all.find(|(_, brick)| brick.name == wanted);
            named.ok_or_else(|| {
                never(format!(
                    "there is no new brick `{wanted}`, only: {}",
                    told()
                ))
            })
        }
        (None, &[only]) => Ok(only),
        (None, _) => Err(never(format!(
            "there are several new bricks: say which, with {}",
            told()
        ))),
    }
}

/// Refused where `--stay-inside` cannot be had.
pub(super) fn nobody_stays(inside: bool) -> Result<(), proto::Refused> {
    match inside {
        false => Ok(()),
        true => Err(never(
            "--stay-inside: the new brick stays where it is, so nobody can go on in it from here",
        )),
    }
}

/// What users change is pending for a moment, and is waited for; all else takes its time.
pub(super) fn ready(pair: &Replicate, point: &Path) -> Result<(), Refusal> {
    let status = pair.status();
    if status.ready {
        return Ok(());
    }
    let lasting = in_the_way(pair, &status, point);
    if lasting.is_empty() {
        return Err(Refusal::Now(not_now(format!(
            "{} names or objects are pending, with {} of content: more than users are to be held for",
            human::count(status.pending),
            human::bytes(status.pending_bytes)
        ))));
    }
    Err(Refusal::Final(proto::Refused {
        reasons: lasting,
        differs: status.errors > 0,
        ..proto::Refused::default()
    }))
}

/// Sentences that say why a pair will not be ready in a moment.
fn in_the_way(pair: &Replicate, status: &Status, point: &Path) -> Vec<String> {
    let mut reasons = Vec::new();
    let open: Vec<_> = pair
        .errors()
        .into_iter()
        .filter(|error| !error.waived)
        .collect();
    for error in open.iter().take(NAMED) {
        reasons.push(format!(
            "{} could not be healed: {}: {} ({} on {})",
            human::name(&error.path),
            error.class.name(),
            error.reason,
            error.operation,
            error.place
        ));
    }
    if open.len() > NAMED {
        reasons.push(format!(
            "{} more objects could not be healed: see `{}`",
            open.len() - NAMED,
            shell::hermitfs(&[&"errors", &point])
        ));
    }
    if status.crawl_left > 0 {
        reasons.push(format!(
            "the crawl has {} directories left",
            status.crawl_left
        ));
    }
    if status.unverified {
        reasons.push("both bricks have not been compared yet since the last stop".into());
    }
    if let Some(reason) = &status.reason {
        reasons.push(format!("healing waits: {reason}"));
    }
    reasons
}

pub(super) fn busy(daemon: &Daemon, users: &[Usage]) -> proto::Refused {
    proto::Refused {
        reasons: vec![format!("{} is in use", daemon.record.mountpoint.display())],
        users: users.iter().map(usage).collect(),
        ..proto::Refused::default()
    }
}

/// Unmounts and forgets, or leaves everything as it was.
pub(super) fn abort(daemon: &Daemon) -> Result<abort_reply::Done, proto::Refused> {
    let Some(mut over) = daemon.ending.try_lock() else {
        return Err(under_way());
    };
    match daemon.mount.detach() {
        Ok(()) => {}
        Err(MountError::Busy(_)) => return Err(busy(daemon, &in_use(daemon))),
        Err(error) => {
            in_place(daemon)?;
            return Err(not_now(format!("the mount cannot be taken away: {error}")));
        }
    }
    daemon.give_back();
    let complete = is_complete(daemon.pair.as_deref());
    let left = daemon.pair.as_deref().map(retire).unwrap_or_default();
    *over = true;
    let _ = daemon.end.send(End::Aborted);
    Ok(abort_reply::Done {
        old: called(daemon.bricks.source()),
        partial: sinks(&daemon.bricks),
        left,
        served: false,
        complete,
    })
}

/// Unmounts, as umount(8) does: whoever waits for the mount's end sees to the rest.
pub(super) fn stop(daemon: &Daemon, anyway: bool) -> Result<stop_reply::Done, proto::Refused> {
    let Some(_over) = daemon.ending.try_lock() else {
        return Err(under_way());
    };
    if anyway {
        return Err(never(
            "--anyway is for bricks that are served: nobody can go on in a mount that is gone",
        ));
    }
    match daemon.mount.detach() {
        Ok(()) => {
            // Before whoever waits for the mount's end says so: the answer is to be heard.
            let _ = daemon.end.send(End::Stopped);
            Ok(stop_reply::Done { served: false })
        }
        Err(MountError::Busy(_)) => Err(busy(daemon, &in_use(daemon))),
        Err(error) => Err(not_now(format!("the mount cannot be taken away: {error}"))),
    }
}

/// Whether the sinks lack nothing, once nobody changes the source any more.
pub(super) fn is_complete(pair: Option<&Replicate>) -> bool {
    pair.is_some_and(|pair| {
        let status = pair.status();
        status.ready && status.pending == 0
    })
}

pub(super) fn under_way() -> proto::Refused {
    not_now("a cut-over or an abort is under way already")
}

pub(super) fn not_now(reason: impl Into<String>) -> proto::Refused {
    proto::Refused {
        reasons: vec![reason.into()],
        ..proto::Refused::default()
    }
}

pub(super) fn never(reason: impl Into<String>) -> proto::Refused {
    proto::Refused {
        permanent: true,
        ..not_now(reason)
    }
}

pub(super) fn usage(usage: &Usage) -> proto::Usage {
    proto::Usage {
        pid: usage.pid,
        process: usage.process.clone(),
        how: usage.how.into(),
        path: bytes(&usage.path),
    }
}

/// What people call a brick.
pub(super) fn called(brick: Option<&Brick>) -> Vec<u8> {
    brick.map(|brick| bytes(brick.called())).unwrap_or_default()
}

/// The same of all sinks.
pub(super) fn sinks(bricks: &Bricks) -> Vec<Vec<u8>> {
    let sinks = bricks.sinks();
    sinks.map(|(_, brick)| called(Some(brick))).collect()
}

pub(super) fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bricks::Stand;
    use crate::daemon::asker::Board;

    #[test]
    fn what_is_in_the_way_is_waited_for_and_what_never_works_is_not() {
        let mut left = 2;
        let board = Board::default();
        let asker = &Asker::new(None, &board);
        let done = within(asker, Duration::from_secs(60), || {
            left -= 1;
            match left {
                0 => Ok("done"),
                _ => Err(Refusal::Now(not_now("busy"))),
            }
        });
        assert_eq!(done, Ok("done"));
        let mut tries = 0;
        let refused = within(asker, Duration::from_secs(60), || {
            tries += 1;
            Err::<(), _>(Refusal::Final(never("no")))
        });
        assert!(refused.is_err_and(|refused| refused.permanent) && tries == 1);
        let late = within(asker, Duration::ZERO, || {
            Err::<(), _>(Refusal::Now(not_now("busy")))
        });
        assert_eq!(late.unwrap_err().reasons, ["busy"]);
    }

    #[test]
    fn which_of_several_new_bricks_it_is_has_to_be_said() {
        let brick = |name: &str| Brick {
            name: name.into(),
            stand: Stand::Directory(format!("/srv/{name}").into()),
            one_file_system: false,
        };
        let chosen = |bricks: &Bricks, to| choose(bricks, to).map(|(_, brick)| brick.name.clone());
        let one = Bricks::pair(brick("old"), vec![brick("a")]);
        let two = Bricks::pair(brick("old"), vec![brick("a"), brick("b")]);
        assert_eq!(chosen(&two, Some("b")), Ok("b".into()));
        assert_eq!(chosen(&one, None), Ok("a".into()));
        for wrong in [None, Some("old")] {
            let refused = chosen(&two, wrong).unwrap_err();
            let told = &refused.reasons[0];
            assert!(told.ends_with("--to a (/srv/a), --to b (/srv/b)"), "{told}");
        }
    }

    #[test]
    fn nothing_is_tried_any_more_when_nobody_waits_for_it() {
        let (board, (sender, receiver)) = (Board::default(), tokio::sync::mpsc::channel(1));
        let asker = Asker::new(Some(sender), &board);
        let (mut tries, mut receiver) = (0, Some(receiver));
        let cancelled = within(&asker, Duration::from_secs(60), || {
            tries += 1;
            receiver = None;
            Err::<(), _>(Refusal::Now(not_now("busy")))
        });
        assert!(cancelled.unwrap_err().reasons[0].starts_with("cancelled"));
        assert_eq!(tries, 1);
    }
}
