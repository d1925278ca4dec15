//! From the first request to the last word: what a daemon does while its mount is there.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hermitfs_fuse::{Mount, MountError};
use hermitfs_proto::admin::v1::StatusReply;
use hermitfs_replicate::{Leg, Replicate};
use hermitfs_server::Server;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::admin::{ANSWERED_WITHIN, Answers, Ending};
use super::attributes::Inherited;
use super::sight::{Scene, Sight};
use super::{guard, no_thread, overlays};
use crate::bricks::{Brick, Bricks};
use crate::build::Clients;
use crate::exit::{Failure, Result};
use crate::mounts::Mounts;
use crate::over::{Beside, Over};
use crate::run::{Lock, Record, Slot};
use crate::shell;
use crate::users;

/// Why it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// SIGTERM or SIGINT.
    Signal,
    /// A command has taken the mount away; the migration goes on at the next start.
    Stopped,
    /// Somebody unmounted it.
    Unmounted,
    /// The new brick is in its place.
    CutOver,
    /// The new brick is complete, and stays where it is.
    HandedOver,
    /// Given up.
    Aborted,
}

/// What all parts of a running daemon share.
pub(crate) struct Daemon {
    pub(crate) slot: Slot,
    pub(crate) record: Record,
    pub(crate) mount: Arc<Mount>,
    pub(crate) pair: Option<Arc<Replicate>>,
    pub(crate) bricks: Bricks,
    /// The source, where our mount is over it.
    pub(crate) over: Option<Over>,
    /// The source, where our mount is elsewhere.
    pub(crate) beside: Option<Beside>,
    /// What the mount has from the source's, where that is near.
    pub(crate) inherited: parking_lot::Mutex<Option<Inherited>>,
    /// How far it is, told whenever that has changed.
    pub(crate) status: watch::Sender<StatusReply>,
    pub(crate) end: mpsc::UnboundedSender<End>,
    /// Held by whoever is about to end it all; true when there is no pair any more.
    pub(crate) ending: parking_lot::Mutex<bool>,
    /// For `status`, while one is under way.
    pub(crate) cutover: super::asker::Board,
    /// Who watches the mount.
    pub(crate) watched: super::watched::Watched,
    /// Which overlays have a layer in the mount.
    pub(crate) overlays: super::overlays::Overlays,
    /// To be made after a cut-over or an abort.
    pub(crate) ended: Option<PathBuf>,
    /// Where everything was when it began.
    pub(crate) scene: Scene,
    /// The mount is left where it is, dead: OLD is not anybody's.
    pub(crate) abandoned: AtomicBool,
}

/// A daemon whose mount answers.
pub(crate) struct Serving {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) ends: mpsc::UnboundedReceiver<End>,
    pub(crate) listener: UnixListener,
    pub(crate) lock: Lock,
    pub(crate) runtime: Runtime,
    pub(crate) signals: Signals,
    /// Told when the mount is gone.
    pub(crate) gone: oneshot::Receiver<()>,
    /// Sentences that whoever starts it should know.
    pub(crate) notes: Vec<String>,
    pub(crate) clients: Clients,
    /// To the very end: what is still open after a cut-over may be reached through them.
    pub(crate) servers: Vec<Server>,
}

/// What ends a daemon, heard from before its mount is there: who hears of it may want it to end
/// at once.
pub(crate) struct Signals([Signal; 3]);

impl Signals {
    /// From here on they no longer kill.
    pub(crate) fn hear() -> Result<(Runtime, Signals)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::other(format!("no runtime: {error}")))?;
        let hear = |kind| {
            let _inside = runtime.enter();
            signal(kind).map_err(|error| Failure::other(format!("no signals: {error}")))
        };
        let signals = Signals([
            hear(SignalKind::terminate())?,
            hear(SignalKind::interrupt())?,
            // A terminal that goes away is no reason to end.
            hear(SignalKind::hangup())?,
        ]);
        Ok((runtime, signals))
    }

    /// Until the next one to end.
    pub(crate) async fn next(&mut self) {
        let [term, int, _hangup] = &mut self.0;
        tokio::select! { _ = term.recv() => (), _ = int.recv() => () }
    }
}

impl Serving {
    /// Serves until the end.
    pub(crate) fn run(self) -> Result<()> {
        let Serving {
            daemon,
            mut ends,
            listener,
            lock,
            runtime,
            mut signals,
            gone,
            notes: _,
            clients,
            servers,
        } = self;
        let (end, mut answers) = runtime.block_on(async {
            let ending = Ending::Mounted(daemon.clone());
            let mut answers = Answers::begin(daemon.clone(), ending, listener);
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
            let end = tokio::select! {
                end = ends.recv() => end.unwrap_or(End::Unmounted),
                () = signals.next() => End::Signal,
            };
            if end != End::CutOver {
                let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
            }
            // Who asked for the end still waits for the answer.
            let at_most = match end {
                End::CutOver | End::HandedOver | End::Aborted | End::Stopped => ANSWERED_WITHIN,
                End::Signal | End::Unmounted => Duration::ZERO,
            };
            answers.end(at_most).await;
            (end, answers)
        });
        finish(&daemon, end);
        if end == End::Signal && *daemon.ending.lock() {
            // A cut-over has come to its end although we were told to end.
            runtime.block_on(answers.end(ANSWERED_WITHIN));
        }
        drop(answers);
        if end == End::CutOver {
            let mount = daemon.mount.clone();
            if let Some(was) = daemon.scene.mount() {
                let mount = mount.clone();
                let look = move || look_who_stays(&mount, &was);
                let begun = std::thread::Builder::new().name("stays".into()).spawn(look);
                if let Err(error) = begun {
                    tracing::warn!("nobody looks who stays: {}", no_thread(&error));
                }
            }
            drop((daemon, ends, lock));
            linger(&runtime, &mut signals, gone);
            drop(mount);
            // Not before: a service manager gives those who stop a time limit.
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
        } else {
            drop((daemon, ends, lock));
        }
        drop(clients);
        runtime.shutdown_background();
        drop(servers);
        Ok(())
    }
}

/// After a cut-over: serves what is still open, from the new brick, until the last of it is closed.
/// Nothing but the open descriptors leads here.
fn linger(runtime: &Runtime, signals: &mut Signals, gone: oneshot::Receiver<()>) {
    runtime.block_on(async {
        tokio::select! {
            _ = gone => tracing::info!("all is closed"),
            () = signals.next() => tracing::warn!("ended by a signal: what is still open is lost to its users"),
        }
    });
}

/// How long after a cut-over all is closed that nobody needs any more.
const CLOSED: Duration = Duration::from_secs(10);

/// What the kernel itself has of the mount is not seen in /proc where no path leads to it.
fn look_who_stays(mount: &Mount, was: &crate::mounts::Mount) {
    if !mount.wait_for(CLOSED) && users::held(was).is_empty() && mount.is_live() {
        tracing::warn!(
            "no process has anything open any more, and still the kernel uses what was the mount: an overlay with a \
             layer in it that could not be looked at, or a descriptor that is on its way (SCM_RIGHTS, io_uring): start \
             what stands on it anew"
        );
    }
}

/// How long users' stores may take to come to the old brick when we are told to end.
const FLUSH_AT_MOST: Duration = Duration::from_secs(5);

/// The clean end: no mount, no socket, the state closed.
fn finish(daemon: &Daemon, end: End) {
    tracing::info!(?end, "ending");
    let over = *daemon.ending.lock();
    // What is under way is answered first.
    let mut patience = Duration::from_secs(5);
    if end == End::Signal && !over {
        match daemon.mount.detach() {
            Ok(()) => {}
            // Whoever has something open finds it not connected from now on, and so does who comes by the path: as after
            // a kill, so that nobody works beside us.
            Err(MountError::Busy(_)) => {
                patience = Duration::from_millis(200);
                abandon(daemon);
            }
            Err(error) => tracing::error!("the mount stays: {error}"),
        }
    }
    let abandoned = daemon.abandoned.load(Ordering::SeqCst);
    if !over && !abandoned {
        daemon.give_back();
    }
    if end != End::CutOver {
        daemon.mount.wait_for(patience);
    }
    if let Some(pair) = &daemon.pair
        && !over
    {
        pair.stop();
    }
    if let Some(beside) = &daemon.beside {
        beside.give_back();
    }
    match (&daemon.over, end) {
        (Some(over), End::CutOver) => over.keep(),
        // A dead mount covers OLD: so it stays, for the next start.
        (Some(_), _) if abandoned => {}
        (Some(over), _) => over.leave(),
        (None, _) => {}
    }
    if let Some(file) = &daemon.ended
        && matches!(end, End::CutOver | End::HandedOver | End::Aborted)
        && let Err(error) = note_end(file, end)
    {
        tracing::error!(
            "{} cannot be made ({error}): disable the service",
            file.display()
        );
    }
    let is_known = daemon.pair.is_some() && !over;
    match is_known || abandoned {
        // Who asks, and who gives it up without us, has to know what it was.
        true => daemon.slot.clear_socket(),
        false => {
            if let Err(error) = guard::open_again(&daemon.slot) {
                let point = daemon.record.mountpoint.display();
                let word = shell::word(&daemon.record.mountpoint);
                tracing::error!("{point} stays immutable ({error}): `chattr -i {word}`");
            }
            daemon.slot.clear();
        }
    }
    tracing::info!("ended");
}

/// Ends as a kill would, but that what users have stored comes to OLD first.
fn abandon(daemon: &Daemon) {
    tell_users(daemon);
    let (done, flushed) = std::sync::mpsc::channel();
    let point = daemon.record.mountpoint.clone();
    let sync = move || {
        let synced = std::fs::File::open(&point).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        done.send(synced)
    };
    if let Err(error) = std::thread::Builder::new().name("flush".into()).spawn(sync) {
        tracing::warn!("users' stores are not flushed: {}", no_thread(&error));
    }
    if !matches!(flushed.recv_timeout(FLUSH_AT_MOST), Ok(Ok(()))) {
        tracing::warn!("not all that users have stored may have come to the old brick");
    }
    daemon.abandoned.store(true, Ordering::SeqCst);
    match daemon.mount.abandon() {
        // The last of them has just left.
        Ok(true) => daemon.abandoned.store(false, Ordering::SeqCst),
        Ok(false) => tracing::warn!("the mount stays, without an answer, until the next start"),
        Err(error) => tracing::error!("the mount stays: {error}"),
    }
    if let Some(pair) = &daemon.pair {
        pair.left();
    }
}

/// Durably: it keeps what is over from being begun again at the next boot.
pub(super) fn note_end(file: &Path, end: End) -> std::io::Result<()> {
    let how = match end {
        End::Aborted => "given up",
        _ => "cut over",
    };
    let made = std::fs::write(file, format!("This migration was {how}.\n"));
    made.and_then(|()| std::fs::File::open(file)?.sync_all())?;
    match file.parent() {
        Some(directory) => std::fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

impl Daemon {
    /// Our mount is gone: from now on the source may be changed without us.
    pub(crate) fn give_back(&self) {
        if let Some(pair) = &self.pair {
            pair.left();
        }
        if let Some(over) = &self.over {
            over.give_back();
        }
        if let Some(beside) = &self.beside {
            beside.give_back();
        }
    }

    /// Whether users find the source read-only for its file system's sake alone.
    pub(crate) fn disk_is_read_only(&self) -> bool {
        let inherited = self.inherited.lock();
        inherited.as_ref().is_some_and(Inherited::disk_is_read_only)
    }

    /// Where the source is found, also when something else stands at its path.
    pub(crate) fn source(&self) -> &Path {
        match &self.over {
            Some(over) => over.brick(),
            None => self.bricks.source().map_or(Path::new(""), Brick::called),
        }
    }
}

fn tell_users(daemon: &Daemon) {
    for usage in in_use(daemon) {
        tracing::warn!(
            pid = usage.pid,
            process = usage.process,
            path = %usage.path.display(),
            "still in use: {}",
            usage.how
        );
    }
}

impl Daemon {
    /// Whether all is still where it was.
    pub(crate) fn sight(&self) -> Sight {
        let Ok(mounts) = Mounts::read() else {
            return Sight::default();
        };
        self.scene.look(&mounts, |leg, directory| {
            is_healed_there(self.pair.as_deref(), leg, directory)
        })
    }
}

/// Whether a sink is what stands at a path.
pub(super) fn is_healed_there(pair: Option<&Replicate>, leg: Leg, directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Some(pair), Leg::Sink(sink)) = (pair, leg) else {
        return false;
    };
    std::fs::metadata(directory).is_ok_and(|meta| pair.is_sink(sink, meta.dev(), meta.ino()))
}

/// Who uses the mount, also where it is not to be seen any more.
pub(crate) fn in_use(daemon: &Daemon) -> Vec<users::Usage> {
    let mounts = Mounts::read().unwrap_or_default();
    let point = &daemon.record.mountpoint;
    let mut users = match (mounts.at(point), daemon.scene.mount()) {
        (Some(mount), Some(ours)) if mount.device == ours.device => users::scan(mount),
        (_, Some(ours)) => users::scan(&ours),
        (Some(mount), None) => users::scan(mount),
        (None, None) => Vec::new(),
    };
    extend(&mut users, overlays::in_the_mount(daemon), |usage| usage);
    if let Some(over) = &daemon.over {
        users.extend(over.left_below());
    }
    users
}

/// With those overlays that are not listed yet.
fn extend<T: PartialEq>(
    users: &mut Vec<T>,
    overlays: Vec<users::Usage>,
    told: fn(users::Usage) -> T,
) {
    for one in overlays.into_iter().map(told) {
        if !users.contains(&one) {
            users.push(one);
        }
    }
}

/// The same in detail and within a time limit; or why it did not come to an end. To look at a process'
/// mappings may have to wait for a page fault of its own, which may wait for us.
pub(crate) fn uses_within(
    daemon: &Arc<Daemon>,
    limit: Duration,
) -> std::result::Result<Vec<users::Use>, String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let looker = daemon.clone();
    let look = move || {
        let mounts = Mounts::read().unwrap_or_default();
        let mount = mounts.at(&looker.record.mountpoint);
        let mut uses = mount.map(users::look).unwrap_or_default();
        extend(
            &mut uses,
            overlays::in_the_mount(&looker),
            users::Use::fixed,
        );
        if let Some(over) = &looker.over {
            uses.extend(over.left_below().into_iter().map(users::Use::fixed));
        }
        drop(looker);
        sender.send(uses)
    };
    let spawned = std::thread::Builder::new().name("users".into()).spawn(look);
    spawned.map_err(|error| format!("users of the mount are not found: {}", no_thread(&error)))?;
    let found = receiver.recv_timeout(limit);
    found.map_err(|_| "the search for users of the mount did not end in time".to_owned())
}
