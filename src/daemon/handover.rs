//! The end of a migration where the new brick cannot be put in a mount's place, as it is another machine's or
//! process', or as the mounts are other machines': it is left as a plain directory where it is.
//!
//! | state | the mount, or what is served | bricks |
//! |---|---|---|
//! | serving | answers | NEW follows |
//! | frozen | answers; changes wait | equal, and on the disk |
//! | parted | a mount is gone; of what is served changes are ESTALE | equal; NEW is still marked as a sink |
//! | over | is gone | nothing of hermitfs is on either |
//!
//! Until they are parted every failure leads back to serving. That comes only when nobody is in it, so from then
//! on nobody can change OLD by it. A kill while they are parted is as any other kill: the next start goes on with the
//! migration, and nobody has been told that it is over.

use std::time::{Duration, Instant};

use hermitfs_fuse::MountError;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::{abort_reply, cutover_reply, stop_reply};
use hermitfs_replicate::Replicate;

use super::asker::{Asker, Phase, gone};
use super::beside::settle;
use super::bricks::Served;
use super::cutover::{
    Asked, busy, called, choose, is_complete, never, nobody_stays, not_now, ready, retire, sinks,
    under_way, waived, within,
};
use super::errors;
use super::serve::{Daemon, in_use};
use super::swap::{Refusal, Swapped, can_drain, not_ready};
use crate::users::Usage;

/// One attempt: from serving to parted, or back.
pub(super) fn hand_over(
    daemon: &Daemon,
    asker: &Asker<'_>,
    pair: &Replicate,
    limit: Duration,
) -> Result<Swapped, Refusal> {
    // Seen while users still work.
    let in_the_way = |users: &[Usage]| {
        Refusal::Now(proto::Refused {
            elsewhere: true,
            ..busy(daemon, users)
        })
    };
    let users = in_use(daemon);
    if !users.is_empty() {
        return Err(in_the_way(&users));
    }
    can_drain(pair, limit)?;
    let began = Instant::now();
    hold(asker, pair, limit)?;
    if let Err(error) = daemon.mount.detach() {
        pair.thaw();
        return Err(match error {
            MountError::Busy(_) => in_the_way(&in_use(daemon)),
            error => Refusal::Now(not_now(format!("the mount cannot be taken away: {error}"))),
        });
    }
    daemon.give_back();
    Ok(Swapped {
        held: began.elapsed(),
        open: 0,
        mounted: None,
        root: None,
    })
}

/// Holds changes; not to be let go on again from here, but by a failure.
fn hold(asker: &Asker<'_>, pair: &Replicate, limit: Duration) -> Result<(), Refusal> {
    asker.phase(Phase::Holding);
    pair.freeze_while(limit, &|| asker.is_there())
        .map_err(not_ready)?;
    if !asker.is_there() {
        pair.thaw();
        return Err(Refusal::Final(gone()));
    }
    asker.phase(Phase::Replacing);
    Ok(())
}

/// Ends a pair that is served, or leaves everything as it was.
pub(super) fn end_served(
    served: &Served,
    asked: &Asked<'_>,
    limit: Duration,
    to: Option<&str>,
    inside: bool,
) -> Result<cutover_reply::Done, proto::Refused> {
    let mut over = served.ending.try_lock().ok_or_else(under_way)?;
    let asker = asked.begins(&served.cutover, limit);
    let asker = &asker;
    let pair = pair_of(served)?;
    let (_, new) = choose(&served.bricks, to)?;
    nobody_stays(inside)?;
    within(asker, limit, || ready(pair, &served.record.mountpoint))?;
    let _veil = settle(asker, served.beside.as_ref(), pair, limit)?;
    let held = within(asker, limit, || {
        nobody(served).map_err(Refusal::Now)?;
        can_drain(pair, limit)?;
        let began = Instant::now();
        hold(asker, pair, limit)?;
        // Who has come meanwhile has waited, and works on.
        nobody(served).map_err(|refused| {
            pair.thaw();
            Refusal::Now(refused)
        })?;
        Ok(began.elapsed())
    })?;
    let waived = waived(pair);
    let (lost, more) = errors::lost(pair);
    let left = retire(pair);
    *over = true;
    let _ = served.end.send(());
    Ok(cutover_reply::Done {
        old: called(served.bricks.source()),
        new: called(Some(new)),
        held_s: held.as_secs_f64(),
        waived,
        lost,
        more,
        served: true,
        left,
        ..cutover_reply::Done::default()
    })
}

/// Forgets a migration that is served, or leaves everything as it was.
pub(super) fn give_up_served(served: &Served) -> Result<abort_reply::Done, proto::Refused> {
    let mut over = served.ending.try_lock().ok_or_else(under_way)?;
    let pair = pair_of(served)?;
    nobody(served)?;
    let complete = is_complete(Some(pair));
    let left = retire(pair);
    *over = true;
    let _ = served.end.send(());
    Ok(abort_reply::Done {
        old: called(served.bricks.source()),
        partial: sinks(&served.bricks),
        left,
        served: true,
        complete,
    })
}

/// Serves no more: whatever pair there is goes on at the next start.
pub(super) fn stop_serving(
    served: &Served,
    anyway: bool,
) -> Result<stop_reply::Done, proto::Refused> {
    let _over = served.ending.try_lock().ok_or_else(under_way)?;
    let clients = served.all_clients();
    if !anyway && !clients.is_empty() {
        let reason = "others have it mounted: unmount it there first, or say --anyway if they are to wait for it";
        return Err(mounted_by(clients, reason));
    }
    let _ = served.end.send(());
    Ok(stop_reply::Done { served: true })
}

fn pair_of(served: &Served) -> Result<&Replicate, proto::Refused> {
    let none = || never("no pair is served here: there is no migration that could end");
    served.pair.as_deref().ok_or_else(none)
}

/// Refused while any client is there.
fn nobody(served: &Served) -> Result<(), proto::Refused> {
    let clients = served.clients();
    if clients.is_empty() {
        return Ok(());
    }
    Err(mounted_by(
        clients,
        "it is mounted by others: unmount it there first",
    ))
}

fn mounted_by(clients: Vec<(String, String)>, reason: &str) -> proto::Refused {
    let usage = |(who, volume): (String, String)| proto::Usage {
        process: who,
        how: "client".into(),
        path: volume.into_bytes(),
        ..proto::Usage::default()
    };
    proto::Refused {
        reasons: vec![reason.into()],
        users: clients.into_iter().map(usage).collect(),
        elsewhere: true,
        ..proto::Refused::default()
    }
}
