//! The two ways out: the new brick takes the mount's place, or everything is given up.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hermitfs_fuse::MountError;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::{abort_reply, cutover_reply};
use hermitfs_replicate::{NotReady, Replicate};
use rustix::fs::{CWD, Mode, OFlags, fstat, open};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::fstab;
use super::serve::{Daemon, End, in_use, in_use_within};
use crate::mounts::Mounts;
use crate::users::Usage;

/// `MOVE_MOUNT_BENEATH` (Linux 6.5), which rustix does not name.
const BENEATH: MoveMountFlags = MoveMountFlags::from_bits_retain(0x200);

/// How long the search for users may take while nobody is held.
const LOOK: Duration = Duration::from_secs(60);

/// How many objects a refusal names.
const NAMED: usize = 10;

/// Puts a sink in the mount's place, or leaves everything as it was.
pub(crate) fn cut_over(
    daemon: &Arc<Daemon>,
    limit: Duration,
    to: Option<&str>,
) -> cutover_reply::Outcome {
    match try_cut_over(daemon, limit, to) {
        Ok(done) => {
            tracing::info!(held_s = done.held_s, detached = done.detached, "cut over");
            cutover_reply::Outcome::Done(done)
        }
        Err(refused) => {
            tracing::info!(reasons = ?refused.reasons, users = refused.users.len(), "no cut-over");
            cutover_reply::Outcome::Refused(refused)
        }
    }
}

fn try_cut_over(
    daemon: &Arc<Daemon>,
    limit: Duration,
    to: Option<&str>,
) -> Result<cutover_reply::Done, proto::Refused> {
    let Ok(mut over) = daemon.ending.try_lock() else {
        return Err(not_now("a cut-over or an abort is under way already"));
    };
    let Some(pair) = &daemon.pair else {
        return Err(never(
            "this mount has no pair: there is no new brick to cut over to",
        ));
    };
    let sink = choose(daemon, to)?;
    let status = pair.status();
    if !status.ready {
        return Err(proto::Refused {
            reasons: in_the_way(pair),
            ..proto::Refused::default()
        });
    }
    nobody_in(daemon, LOOK)?;
    let frozen = Instant::now();
    pair.freeze(limit).map_err(|error| match error {
        NotReady::NotReady(reasons) => proto::Refused {
            reasons,
            ..proto::Refused::default()
        },
        other => not_now(other.to_string()),
    })?;
    // Somebody may have come in between the look and the freeze.
    let swapped = nobody_in(daemon, limit).and_then(|()| swap(daemon, sink));
    let detached = swapped.inspect_err(|_| pair.thaw())?;
    let held_s = frozen.elapsed().as_secs_f64();
    let waived = pair
        .errors()
        .into_iter()
        .filter(|error| error.waived)
        .map(|error| error.path)
        .collect();
    let mountpoint = &daemon.record.mountpoint;
    let directory = &daemon.bricks[sink].directory;
    // From here on the new brick is what users see: there is no way back, and none is needed.
    if let Err(error) = pair.retire() {
        tracing::error!("something of hermitfs is left on the new brick or in the state: {error}");
    }
    *over = true;
    let _ = daemon.end.send(End::CutOver);
    Ok(cutover_reply::Done {
        old: bytes(daemon.source()),
        new: bytes(directory),
        fstab: fstab::lines(&Mounts::read().unwrap_or_default(), directory, mountpoint),
        held_s,
        waived,
        detached,
        over: daemon.over.is_some(),
    })
}

/// Which brick: the only sink, or the one that was named.
fn choose(daemon: &Daemon, to: Option<&str>) -> Result<usize, proto::Refused> {
    let names: Vec<&str> = daemon
        .bricks
        .iter()
        .skip(1)
        .map(|brick| brick.name.as_str())
        .collect();
    match to {
        Some(wanted) => match names.iter().position(|name| *name == wanted) {
            Some(at) => Ok(at + 1),
            None => Err(never(format!(
                "there is no sink `{wanted}`, only: {}",
                names.join(", ")
            ))),
        },
        None if names.len() == 1 => Ok(1),
        None => Err(never(format!(
            "there are several sinks: say which with --to ({})",
            names.join(", ")
        ))),
    }
}

/// Sentences that say why a pair is not ready.
fn in_the_way(pair: &Replicate) -> Vec<String> {
    let status = pair.status();
    let mut reasons = Vec::new();
    let open: Vec<_> = pair
        .errors()
        .into_iter()
        .filter(|error| !error.waived)
        .collect();
    for error in open.iter().take(NAMED) {
        reasons.push(format!(
            "{} could not be healed: {} ({} on {})",
            String::from_utf8_lossy(&error.path),
            error.reason,
            error.operation,
            error.side
        ));
    }
    if open.len() > NAMED {
        reasons.push(format!(
            "{} more objects could not be healed: see `hermitfs errors`",
            open.len() - NAMED
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
    if let Some(reason) = status.reason {
        reasons.push(format!("healing waits: {reason}"));
    }
    if reasons.is_empty() {
        reasons.push(format!(
            "{} objects are pending, more than the limit has time for",
            status.pending
        ));
    }
    reasons
}

fn nobody_in(daemon: &Arc<Daemon>, limit: Duration) -> Result<(), proto::Refused> {
    match in_use_within(daemon, limit) {
        Some(users) if users.is_empty() => Ok(()),
        Some(users) => Err(busy(daemon, &users)),
        None => Err(not_now(
            "the search for users of the mount did not end in time",
        )),
    }
}

fn busy(daemon: &Daemon, users: &[Usage]) -> proto::Refused {
    proto::Refused {
        reasons: vec![format!("{} is in use", daemon.record.mountpoint.display())],
        users: users.iter().map(told).collect(),
        permanent: false,
    }
}

/// Puts the sink where the mount is. True when the mount had to be detached while calls were held
/// in it: they are answered ESTALE then, and the kernel walks their paths again, on the new brick.
fn swap(daemon: &Daemon, sink: usize) -> Result<bool, proto::Refused> {
    let mountpoint = &daemon.record.mountpoint;
    let mounts =
        Mounts::read().map_err(|error| not_now(format!("the mounts cannot be read: {error}")))?;
    if !mounts.at(mountpoint).is_some_and(|mount| mount.is_ours()) {
        return Err(not_now(format!(
            "something else is mounted over {}",
            mountpoint.display()
        )));
    }
    let tree = new_brick(daemon, sink)
        .map_err(|error| not_now(format!("the new brick cannot be mounted again: {error}")))?;
    match put(&tree, mountpoint, BENEATH) {
        Ok(()) => match daemon.mount.detach() {
            Ok(()) => Ok(false),
            // Calls that are held keep it busy, and nobody else does: that was looked at.
            Err(MountError::Busy(_)) => match daemon.mount.detach_lazy() {
                Ok(()) => Ok(true),
                Err(error) => Err(stuck(daemon, error)),
            },
            Err(error) => Err(stuck(daemon, error)),
        },
        Err(error) => {
            tracing::info!(%error, "cannot go beneath the mount: taking it away first");
            match daemon.mount.detach() {
                Ok(()) => {}
                Err(MountError::Busy(_)) => return Err(busy(daemon, &in_use(daemon))),
                Err(error) => {
                    return Err(not_now(format!("the mount cannot be taken away: {error}")));
                }
            }
            // Nothing can be put back from here; the new brick is complete and synced.
            if let Err(error) = put(&tree, mountpoint, MoveMountFlags::empty()) {
                tracing::error!(%error, "the new brick is complete, but could not be put at the mount point");
                return Err(never(format!(
                    "the mount is gone, but {} could not be put in its place ({error}): it is complete; mount it there by hand",
                    daemon.bricks[sink].directory.display()
                )));
            }
            Ok(false)
        }
    }
}

fn stuck(daemon: &Daemon, error: MountError) -> proto::Refused {
    tracing::error!(%error, "the new brick lies beneath the mount, which does not go away");
    not_now(format!(
        "{} cannot be taken away: {error}",
        daemon.record.mountpoint.display()
    ))
}

/// A mount of the sink's directory that is nowhere yet. What stands at its path has to be what was
/// healed. It is not held open before: a sink that fails must be free to be unmounted.
fn new_brick(daemon: &Daemon, sink: usize) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let brick = open(&daemon.bricks[sink].directory, flags, Mode::empty())?;
    let stat = fstat(&brick)?;
    let pair = daemon.pair.as_ref();
    if pair.is_none_or(|pair| !pair.is_sink(sink - 1, stat.st_dev, stat.st_ino)) {
        return Err(io::Error::other(format!(
            "{} is not the sink any more",
            daemon.bricks[sink].directory.display()
        )));
    }
    clone(&brick)
}

fn clone(brick: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(brick, c"", flags)?)
}

fn put(tree: &OwnedFd, place: &Path, how: MoveMountFlags) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | how;
    Ok(move_mount(tree, c"", CWD, place, flags)?)
}

/// Unmounts and forgets, or leaves everything as it was.
pub(crate) fn abort(daemon: &Daemon) -> abort_reply::Outcome {
    match try_abort(daemon) {
        Ok(done) => abort_reply::Outcome::Done(done),
        Err(refused) => abort_reply::Outcome::Refused(refused),
    }
}

fn try_abort(daemon: &Daemon) -> Result<abort_reply::Done, proto::Refused> {
    let Ok(mut over) = daemon.ending.try_lock() else {
        return Err(not_now("a cut-over or an abort is under way already"));
    };
    match daemon.mount.detach() {
        Ok(()) => {}
        Err(MountError::Busy(_)) => return Err(busy(daemon, &in_use(daemon))),
        Err(error) => return Err(not_now(format!("the mount cannot be taken away: {error}"))),
    }
    daemon.give_back();
    if let Some(pair) = &daemon.pair
        && let Err(error) = pair.retire()
    {
        tracing::error!("something of hermitfs is left on the new brick or in the state: {error}");
    }
    *over = true;
    let _ = daemon.end.send(End::Aborted);
    let mut directories = daemon.bricks.iter().map(|brick| bytes(&brick.directory));
    Ok(abort_reply::Done {
        old: directories.next().unwrap_or_default(),
        partial: directories.collect(),
    })
}

fn not_now(reason: impl Into<String>) -> proto::Refused {
    proto::Refused {
        reasons: vec![reason.into()],
        ..proto::Refused::default()
    }
}

fn never(reason: impl Into<String>) -> proto::Refused {
    proto::Refused {
        permanent: true,
        ..not_now(reason)
    }
}

fn told(usage: &Usage) -> proto::Usage {
    proto::Usage {
        pid: usage.pid,
        process: usage.process.clone(),
        how: usage.how.into(),
        path: bytes(&usage.path),
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}
