//! The step from the old brick to the new one, under the feet of those who work.
//!
//! | state | by path | what is open | bricks |
//! |---|---|---|---|
//! | serving | the mount, from OLD | from OLD | NEW follows |
//! | frozen | opens, look-ups and changes wait; all else goes on, from OLD | changes wait | equal |
//! | swapped | NEW itself; what waited is answered ESTALE, and walks its path once more | from NEW, what waited as well | OLD stands still |
//! | lingering | NEW itself | from NEW, through a mount that no path leads to | hermitfs has nothing on either |
//! | gone | NEW itself | nothing | as before |
//!
//! Until NEW is visible every failure leads back to serving. From then on nothing can fail that a
//! user would see: what is open has got its counterpart on NEW before. A kill before that moment
//! leaves OLD complete, one after it NEW; who has something open then gets ENOTCONN. NEW's marker
//! says so before it can be seen: no start after such a kill takes NEW for a sink again. NEW is put beneath the mount,
//! which then goes away; killed between these two, the next start takes the dead mount away (`place.rs`).

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hermitfs_api::File;
use hermitfs_fuse::{Attributes, Exchange, ExchangeThreads, MountError, OpenFile};
use hermitfs_proto::admin::v1 as proto;
use hermitfs_replicate::{Carried, Held, NotReady, Replicate, SinkNumber};
use rustix::fs::{CWD, Mode, OFlags, fstat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::asker::{Asker, Phase, gone};
use super::attributes::{self, Successor};
use super::cutover::{busy, never, not_now};
use super::no_thread;
use super::serve::{Daemon, in_use, uses_within};
use crate::mounts::{Mount, Mounts};
use crate::sys;
use crate::users::{self, Opened, Verdict};

/// `MOVE_MOUNT_BENEATH` (Linux 6.5), which rustix does not name.
const BENEATH: MoveMountFlags = MoveMountFlags::from_bits_retain(0x200);

/// How long the search for users may take while nobody is held.
const LOOK: Duration = Duration::from_secs(60);

/// How long to wait for opens before it is looked whether anybody still wants it.
const SLICE: Duration = Duration::from_millis(200);

/// The new brick, where it can be put in the mount's place.
#[derive(Clone, Copy)]
pub(super) struct Sink<'a> {
    pub(super) number: SinkNumber,
    pub(super) directory: &'a Path,
}

/// Why not; everything goes on as before.
pub(super) enum Refusal {
    /// It may work in a moment.
    Now(proto::Refused),
    /// To wait does not help.
    Final(proto::Refused),
}

/// The new brick is in its place.
pub(super) struct Swapped {
    /// How long users were held.
    pub(super) held: Duration,
    /// What goes on until it is closed.
    pub(super) open: u64,
    /// How the new brick is mounted in the mount's place, where it is.
    pub(super) mounted: Option<Successor>,
    /// Keeps the old mount's objects until those who were held work again.
    pub(super) root: Option<OwnedFd>,
}

/// The new brick's marker may say that it has taken over; taken back when dropped, as nothing has come of that.
struct Appointed<'a>(&'a Replicate, SinkNumber);

impl Drop for Appointed<'_> {
    fn drop(&mut self) {
        // A second panic would end the process, and the mount with it.
        let done = catch_unwind(AssertUnwindSafe(|| self.0.appoint(self.1, false)));
        if !matches!(done, Ok(Ok(()))) {
            tracing::error!(?done, "the new brick's marker says that it has taken over");
        }
    }
}

/// Holds users as long as it lives.
struct Still<'a> {
    daemon: &'a Daemon,
    pair: &'a Replicate,
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.pair.thaw();
        self.daemon.mount.release();
    }
}

/// One attempt: from serving to swapped, or back.
pub(super) fn swap(
    daemon: &Arc<Daemon>,
    asker: &Asker<'_>,
    pair: &Replicate,
    sink: Sink<'_>,
    limit: Duration,
    inside: bool,
) -> Result<Swapped, Refusal> {
    // Most of what is in the way is seen while users still work.
    judge(daemon, pair, &daemon.mount.open_files(), LOOK, inside)?;
    // What is needed when nothing may fail any more.
    let threads =
        ExchangeThreads::start().map_err(|error| Refusal::Now(not_now(no_thread(&error))))?;
    can_drain(pair, limit)?;
    let began = Instant::now();
    let deadline = began + limit;
    let late = |what: &str| {
        let reason = format!("{what} under way did not come to their end within the limit");
        Refusal::Now(not_now(reason))
    };
    asker.phase(Phase::Holding);
    // First the opens: one that is under way ends only while changes are let in.
    while !daemon
        .mount
        .hold_opens(deadline.min(Instant::now() + SLICE))
    {
        wanted(asker)?;
        if Instant::now() >= deadline {
            return Err(late("opens"));
        }
    }
    let still = Still { daemon, pair };
    pair.freeze_while(limit, &|| asker.is_there())
        .map_err(not_ready)?;
    let drained = began.elapsed();
    // From here on nobody comes to anything new, so what is found is all there is.
    if !daemon.mount.hold_lookups(deadline) {
        return Err(late("look-ups"));
    }
    let open = daemon.mount.open_files();
    let left = deadline.saturating_duration_since(Instant::now());
    let held = judge(daemon, pair, &open, left, inside)?;
    let carried = carry(daemon, pair, sink.number, &open, held, deadline)?;
    let carried_at = began.elapsed();
    // Held, so that what the kernel knows of the mount is not taken down while users wait.
    let root = rustix::fs::open(
        &daemon.record.mountpoint,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    );
    // The last moment at which nothing need come of it.
    wanted(asker)?;
    asker.phase(Phase::Replacing);
    let appointed = Appointed(pair, sink.number);
    pair.appoint(sink.number, true).map_err(|error| {
        Refusal::Now(not_now(format!("the new brick cannot be marked: {error}")))
    })?;
    let mounted = replace(daemon, sink)?;
    std::mem::forget(appointed);
    let open = (carried.files.len() + carried.objects.len()) as u64;
    daemon.mount.exchange(carried, threads);
    // Whoever waits in the pair goes on when it retires.
    std::mem::forget(still);
    daemon.mount.release();
    tracing::info!(
        drained_s = drained.as_secs_f64(),
        carried_s = carried_at.as_secs_f64(),
        held_s = began.elapsed().as_secs_f64(),
        "users go on, on the new brick"
    );
    Ok(Swapped {
        held: began.elapsed(),
        open,
        mounted: Some(mounted),
        root: root.ok(),
    })
}

/// Refused when nobody waits for it any more.
fn wanted(asker: &Asker<'_>) -> Result<(), Refusal> {
    match asker.is_there() {
        true => Ok(()),
        false => Err(Refusal::Final(gone())),
    }
}

/// Nobody is held for what could not come to its end.
pub(super) fn can_drain(pair: &Replicate, limit: Duration) -> Result<(), Refusal> {
    let done = pair.can_drain(limit);
    done.map_err(|reason| Refusal::Now(not_now(reason)))
}

/// Why a pair cannot be frozen.
pub(super) fn not_ready(error: NotReady) -> Refusal {
    Refusal::Final(match error {
        NotReady::TooMuch(reason) => return Refusal::Now(not_now(reason)),
        // It was ready a moment ago: users have moved something that is walked once more.
        NotReady::NotReady(reasons) => {
            return Refusal::Now(proto::Refused {
                reasons,
                ..proto::Refused::default()
            });
        }
        other => not_now(other.to_string()),
    })
}

/// What is held and can be moved; refused when anything cannot.
fn judge(
    daemon: &Arc<Daemon>,
    pair: &Replicate,
    open: &[OpenFile],
    limit: Duration,
    inside: bool,
) -> Result<Verdict, Refusal> {
    let uses = uses_within(daemon, limit).map_err(|reason| Refusal::Now(not_now(reason)))?;
    let open: Vec<Opened> = open
        .iter()
        .map(|file| Opened {
            number: file.number,
            bypasses: file.bypasses,
            obstacle: match file.locked {
                true => Some("open, with locks in the volume"),
                false => is_sqlite(pair, &file.file).then_some("open SQLite database"),
            },
        })
        .collect();
    let verdict = users::judge(&uses, &open, &daemon.record.mountpoint, inside);
    match verdict.stuck.is_empty() {
        true => Ok(verdict),
        false => Err(Refusal::Now(busy(daemon, &verdict.stuck))),
    }
}

/// Before it writes, SQLite compares the inode number of the database's path with the one that it
/// has opened, and fails when they differ. On another brick they do.
fn is_sqlite(pair: &Replicate, file: &Arc<File>) -> bool {
    let flags = file.flags();
    flags.reads() && flags.writes() && pair.begins_with(file, b"SQLite format 3\0")
}

/// Finds everything on the new brick that users hold.
fn carry(
    daemon: &Daemon,
    pair: &Replicate,
    sink: SinkNumber,
    open: &[OpenFile],
    Verdict { held, locked, .. }: Verdict,
    deadline: Instant,
) -> Result<Exchange, Refusal> {
    let files = open.iter().map(|file| Held {
        file: file.file.clone(),
        locked: locked.contains(&file.number),
    });
    let files: Vec<Held> = files.collect();
    let (numbers, objects): (Vec<u64>, Vec<_>) = held
        .into_iter()
        .filter_map(|number| Some((number, daemon.mount.object(number)?)))
        .unzip();
    let Carried {
        volume,
        root,
        files,
        objects,
    } = pair
        .carry(sink, &files, &objects, deadline)
        .map_err(|stuck| Refusal::Now(not_now(format!("open, and cannot be moved: {stuck}"))))?;
    Ok(Exchange {
        volume,
        root,
        files: open.iter().map(|file| file.handle).zip(files).collect(),
        objects: numbers
            .into_iter()
            .zip(objects)
            .filter_map(|(number, object)| Some((number, object?)))
            .collect(),
    })
}

/// Puts the sink where the mount is.
fn replace(daemon: &Arc<Daemon>, sink: Sink<'_>) -> Result<Successor, Refusal> {
    let mountpoint = &daemon.record.mountpoint;
    let now = |reason: String| Refusal::Now(not_now(reason));
    attributes::look(daemon);
    let mounts =
        Mounts::read().map_err(|error| now(format!("the mounts cannot be read: {error}")))?;
    let Some(ours) = mounts.at(mountpoint).filter(|mount| mount.is_ours()) else {
        return Err(now(format!(
            "something else is mounted over {}",
            mountpoint.display()
        )));
    };
    let tree = new_brick(daemon, sink)
        .map_err(|error| now(format!("the new brick cannot be mounted again: {error}")))?;
    let directory = sink.directory;
    let real = directory
        .canonicalize()
        .unwrap_or_else(|_| directory.to_owned());
    let new = mounts.containing(&real).map(Mount::attributes);
    let mounted = attributes::successor(
        ours.attributes(),
        daemon.disk_is_read_only(),
        new.unwrap_or_default(),
        (mountpoint, directory),
    );
    // Before it can be seen.
    let bits = mounted.attributes.bits();
    sys::set_attributes(
        &tree,
        bits,
        Attributes::ALL_BITS & !bits | libc::MOUNT_ATTR__ATIME,
    )
    .map_err(|error| {
        let words = mounted.attributes;
        now(format!(
            "the new brick cannot be mounted with the old one's options ({words}): {error}"
        ))
    })?;
    match put(&tree, mountpoint, BENEATH) {
        Ok(()) => daemon.mount.detach_lazy().map(|()| mounted).map_err(|error| {
            tracing::error!(%error, "the new brick lies beneath the mount, which does not go away");
            let point = mountpoint.display();
            Refusal::Final(not_now(format!("{point} cannot be taken away: {error}")))
        }),
        Err(error) => {
            tracing::info!(%error, "cannot go beneath the mount: taking it away first");
            match daemon.mount.detach() {
                Ok(()) => {}
                Err(MountError::Busy(_)) => {
                    return Err(Refusal::Now(busy(daemon, &in_use(daemon))));
                }
                Err(error) => {
                    return Err(now(format!("the mount cannot be taken away: {error}")));
                }
            }
            // Nothing can be put back from here; the new brick is complete and synced.
            put(&tree, mountpoint, MoveMountFlags::empty()).map(|()| mounted).map_err(|error| {
                tracing::error!(%error, "the new brick is complete, but could not be put at the mount point");
                Refusal::Final(never(format!(
                    "the mount is gone, but {} could not be put in its place ({error}): it is complete; mount it there by hand",
                    directory.display()
                )))
            })
        }
    }
}

/// A mount of the sink's directory that is nowhere yet. What stands at its path has to be what was
/// healed. It is not held open before: a sink that fails must be free to be unmounted.
fn new_brick(daemon: &Daemon, sink: Sink<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let brick = rustix::fs::open(sink.directory, flags, Mode::empty())?;
    let stat = fstat(&brick)?;
    let pair = daemon.pair.as_ref();
    if pair.is_none_or(|pair| !pair.is_sink(sink.number, stat.st_dev, stat.st_ino)) {
        return Err(io::Error::other(format!(
            "{} is not the new brick any more",
            sink.directory.display()
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
