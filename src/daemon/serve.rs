//! From the first look to the last word: what a daemon does in which order.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hermitfs_fuse::{Mount, MountError, Placement};
use hermitfs_proto::admin::v1::StatusReply;
use hermitfs_replicate::Replicate;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::{admin, place, status};
use crate::build::{self, Brick, Circumstances};
use crate::exit::{Code, Failure, Result};
use crate::mounts::Mounts;
use crate::order::Order;
use crate::run::{Lock, Record, Slot};
use crate::users;

/// Why it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// SIGTERM or SIGINT.
    Signal,
    /// Somebody unmounted it.
    Unmounted,
    /// The new brick is in its place.
    CutOver,
    /// Given up.
    Aborted,
}

/// What all parts of a running daemon share.
pub(crate) struct Daemon {
    pub(crate) slot: Slot,
    pub(crate) record: Record,
    pub(crate) mount: Mount,
    pub(crate) pair: Option<Arc<Replicate>>,
    pub(crate) bricks: Vec<Brick>,
    /// Each brick's directory, held: a way to it that leads through no mount of ours.
    pub(crate) pins: Vec<OwnedFd>,
    /// How far it is, told whenever that has changed.
    pub(crate) status: watch::Sender<StatusReply>,
    pub(crate) end: mpsc::UnboundedSender<End>,
    /// Held by whoever is about to end it all; true when there is no pair any more.
    pub(crate) ending: Mutex<bool>,
}

/// A daemon whose mount answers.
pub(crate) struct Serving {
    daemon: Arc<Daemon>,
    ends: mpsc::UnboundedReceiver<End>,
    listener: std::os::unix::net::UnixListener,
    _lock: Lock,
}

impl Serving {
    /// Mounts. On an error nothing is left behind but, at most, a state that the same command
    /// goes on with.
    pub(crate) fn begin(order: Order) -> Result<Serving> {
        let graph = order.graph()?;
        let bricks = build::bricks(&graph);
        let options = mount_options(&order)?;
        let slot = Slot::new(&order.state_dir, &order.mountpoint);
        let standing = match place::look(&order, &bricks) {
            Ok(standing) => standing,
            Err(obstacle) => return Err(served(&slot).unwrap_or(obstacle)),
        };
        place::fuse_device()?;
        slot.prepare()?;
        let lock = slot.lock().map_err(|error| {
            Failure::other(format!(
                "the lock of {} cannot be taken: {error}",
                order.mountpoint.display()
            ))
        })?;
        let Some(lock) = lock else {
            return Err(served(&slot).unwrap_or_else(|| {
                Failure::new(
                    Code::TryAgain,
                    format!(
                        "another hermitfs is about to serve {}",
                        order.mountpoint.display()
                    ),
                )
            }));
        };
        place::unused(&slot, &bricks)?;
        let continuous = place::continues(standing, slot.record().as_ref(), &bricks)?;
        raise_descriptors();
        let pins = bricks.iter().map(pin).collect::<Result<Vec<OwnedFd>>>()?;
        let circumstances = Circumstances {
            state_dir: &order.state_dir,
            adopt: order.adopt,
            continuous,
        };
        let volume = build::build(&graph, circumstances)?;
        let record = Record {
            pid: std::process::id(),
            mountpoint: order.mountpoint.clone(),
            volfile: order.volfile.0.clone(),
            bricks: bricks
                .iter()
                .map(|brick| (brick.name.clone(), brick.directory.clone()))
                .collect(),
            volume_id: volume
                .pair
                .as_ref()
                .map_or_else(String::new, |pair| pair.status().volume_id),
            log: (!order.foreground).then(|| slot.log()),
        };
        let attached = listen(&slot, &record).and_then(|listener| {
            let mount = Mount::prepare(volume.top, options).map_err(mount_failure)?;
            mount
                .attach(&order.mountpoint, Placement::Vacant)
                .map_err(mount_failure)?;
            Ok((listener, mount))
        });
        let (listener, mount) = attached.inspect_err(|_| {
            // The record of the last run says whose a dead mount is, as long as that is there.
            if continuous {
                slot.clear_socket()
            } else {
                slot.clear()
            }
            if let Some(pair) = &volume.pair {
                pair.stop();
            }
        })?;
        if let Some(pair) = &volume.pair {
            pair.start();
        }
        tracing::info!(
            mountpoint = %order.mountpoint.display(),
            volfile = order.volfile.0,
            volume = record.volume_id,
            continuous,
            "serving"
        );
        let (end, ends) = mpsc::unbounded_channel();
        let daemon = Daemon {
            status: watch::Sender::new(status::reply(
                &record,
                &bricks,
                volume.pair.as_deref(),
                mount.panics(),
            )),
            slot,
            record,
            mount,
            pair: volume.pair,
            bricks,
            pins,
            end,
            ending: Mutex::new(false),
        };
        Ok(Serving {
            daemon: Arc::new(daemon),
            ends,
            listener,
            _lock: lock,
        })
    }

    /// Serves until the end.
    pub(crate) fn run(self) -> Result<()> {
        let Serving {
            daemon,
            mut ends,
            listener,
            _lock,
        } = self;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::other(format!("no runtime: {error}")))?;
        let watcher = daemon.clone();
        std::thread::spawn(move || {
            watcher.mount.wait();
            // A cut-over or an abort takes the mount away itself, and then has more to do.
            let _over = watcher.ending.lock();
            let _ = watcher.end.send(End::Unmounted);
        });
        let teller = Arc::downgrade(&daemon);
        std::thread::spawn(move || status::tell(&teller));
        let end = runtime.block_on(async {
            let server = tokio::spawn(admin::serve(daemon.clone(), listener));
            let signals = async {
                let (Ok(mut term), Ok(mut int)) = (
                    signal(SignalKind::terminate()),
                    signal(SignalKind::interrupt()),
                ) else {
                    return std::future::pending().await;
                };
                // A terminal that goes away is no reason to end.
                let _hangup = signal(SignalKind::hangup());
                tokio::select! { _ = term.recv() => (), _ = int.recv() => () }
            };
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
            let end = tokio::select! {
                end = ends.recv() => end.unwrap_or(End::Unmounted),
                () = signals => End::Signal,
            };
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
            if matches!(end, End::CutOver | End::Aborted) {
                // Who asked for it still waits for the answer.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            server.abort();
            end
        });
        runtime.shutdown_background();
        finish(&daemon, end);
        Ok(())
    }
}

/// The clean end: no mount, no socket, the state closed.
fn finish(daemon: &Daemon, end: End) {
    tracing::info!(?end, "ending");
    let over = daemon.ending.lock().is_ok_and(|over| *over);
    // What is under way is answered first.
    let mut patience = Duration::from_secs(5);
    if end == End::Signal && !over {
        match daemon.mount.detach() {
            Ok(()) => {}
            Err(MountError::Busy(_)) => {
                tell_users(daemon);
                // Whoever has something open finds it not connected from now on.
                patience = Duration::from_millis(200);
                if let Err(error) = daemon.mount.detach_lazy() {
                    tracing::error!("the mount stays: {error}");
                }
            }
            Err(error) => tracing::error!("the mount stays: {error}"),
        }
    }
    daemon.mount.wait_for(patience);
    if let Some(pair) = &daemon.pair
        && !over
    {
        pair.stop();
    }
    daemon.slot.clear();
    tracing::info!("ended");
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

/// Who uses the mount.
pub(crate) fn in_use(daemon: &Daemon) -> Vec<users::Usage> {
    let mounts = Mounts::read().unwrap_or_default();
    match mounts.at(&daemon.record.mountpoint) {
        Some(mount) => users::scan(mount),
        None => Vec::new(),
    }
}

/// The refusal when a daemon serves this mount point already.
fn served(slot: &Slot) -> Option<Failure> {
    if !slot.is_taken() {
        return None;
    }
    let record = slot.record()?;
    let bricks: Vec<String> = record
        .bricks
        .iter()
        .map(|(_, dir)| dir.display().to_string())
        .collect();
    Some(Failure::configuration(format!(
        "the mount point {} is in use: hermitfs (process {}) serves {} there",
        record.mountpoint.display(),
        record.pid,
        bricks.join(", ")
    )))
}

fn mount_options(order: &Order) -> Result<hermitfs_fuse::Options> {
    let mut options = hermitfs_fuse::Options::default();
    for list in &order.options {
        options
            .set_all(list)
            .map_err(|error| Failure::usage(error.to_string()))?;
    }
    Ok(options)
}

fn mount_failure(error: MountError) -> Failure {
    let code = match &error {
        MountError::NotPermitted { .. } => Code::Permission,
        MountError::NotFound(_)
        | MountError::NotDirectory(_)
        | MountError::AlreadyMounted { .. } => Code::Configuration,
        _ => Code::Other,
    };
    Failure::new(code, error.to_string())
}

/// Opens the socket and writes the record: from here on commands find this daemon.
fn listen(slot: &Slot, record: &Record) -> Result<std::os::unix::net::UnixListener> {
    let open = || {
        slot.clear_socket();
        let (path, _dir) = slot.socket()?;
        let listener = std::os::unix::net::UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        slot.write(record)?;
        Ok(listener)
    };
    open().map_err(|error: std::io::Error| {
        Failure::other(format!("the daemon's socket cannot be opened: {error}"))
    })
}

fn pin(brick: &Brick) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(&brick.directory, flags, Mode::empty()).map_err(|error| {
        Failure::configuration(format!(
            "the brick {} cannot be opened: {error}",
            brick.directory.display()
        ))
    })
}

/// A brick without handles takes a descriptor for each object in use.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}
