//! From an order to a mount that answers: what is looked at, taken and opened in which order.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hermitfs_fuse::{Attributes, Mount, MountError, Placement};
use hermitfs_posix::OwnMount;
use hermitfs_replicate::Rate;
use rustix::fs::{major, minor};
use tokio::sync::{mpsc, watch};

use super::attributes::{self, Inherited, own_mount, pairs_own};
use super::lookout::Lookouts;
use super::serve::{Daemon, Serving, Signals};
use super::sight::{Scene, Sight};
use super::{guard, place, status, watched};
use crate::bricks::{Brick, Bricks};
use crate::build::{self, Circumstances, Volume};
use crate::exit::{Code, Failure, Result};
use crate::order::Order;
use crate::over::{Beside, Over};
use crate::run::{Lock, Record, Slot};
use crate::sys;
use crate::users;
use crate::volfile::Graph;

impl Serving {
    /// Mounts. On an error nothing is left behind but, at most, a state that the same command
    /// goes on with.
    pub(crate) fn begin(order: Order) -> Result<Serving> {
        let graph = order.graph()?;
        let bricks = Bricks::of(&graph);
        mount_options(&order, &graph, Attributes::default())?;
        let slot = Slot::new(&order.state_dir, &order.mountpoint);
        let standing = place::look(&order, &bricks)?;
        place::fuse_device()?;
        slot.prepare()?;
        let lock = take(&slot, &order.mountpoint)?;
        place::unused(&slot, &bricks)?;
        let mut continuous = place::continues(standing, slot.record().as_ref(), &bricks)?;
        let (runtime, signals) = Signals::hear()?;
        let lookouts = Lookouts::start()?;
        if let Some(source) = bricks.source() {
            crate::over::unveil_dead(&slot, source.called());
        }
        let mounts = place::mounts()?;
        let shut = |mount: &_| crate::over::is_shut_by_us(slot.memory().as_ref(), mount);
        let inherited = Inherited::of_source(&order, &bricks, &mounts, shut);
        let has = inherited.as_ref().map(Inherited::attributes);
        let options = mount_options(&order, &graph, has.unwrap_or_default())?;
        let mut over = None;
        if place::is_over(&order, &bricks, &mounts) {
            let (taken, dead) = Over::begin(&slot, &order.state_dir, &order.mountpoint)?;
            continuous &= dead;
            over = Some(taken);
        }
        let mut own = own_mount(options.attributes);
        let source = bricks.source().and_then(Brick::directory);
        let mut beside = None;
        if let Some(source) = source.filter(|_| bricks.is_pair() && over.is_none()) {
            beside = Beside::begin(&slot, source, is_fresh(&bricks))?;
        }
        if over.is_some() || beside.is_some() {
            own = Some(pairs_own(inherited.as_ref(), options.attributes));
        }
        let opened = open(
            &order,
            &slot,
            &graph,
            &bricks,
            continuous,
            over.as_ref(),
            own,
        );
        let mut volume = opened.inspect_err(|_| give_up(over.as_ref()))?;
        let Some(top) = volume.top.take() else {
            return Err(Failure::configuration(
                "this volfile has nothing to mount, but servers: use `hermitfs serve -f VOLFILE`",
            ));
        };
        let record = record(&order, &slot, &bricks, &volume);
        let mut shut = false;
        let attached = listen(&slot, &record).and_then(|listener| {
            let mount = Mount::prepare(top, options).map_err(mount_failure)?;
            mount.set_shared(over.is_some());
            let placement = match over {
                Some(_) => Placement::OnTop,
                None => Placement::Vacant,
            };
            if over.is_none() && volume.pair.is_some() {
                shut = guard::shut(&slot, &order.mountpoint).unwrap_or_else(|error| {
                    let point = order.mountpoint.display();
                    tracing::warn!("the directory below {point} cannot be shut while nothing is mounted there: {error}");
                    false
                });
            }
            mount
                .attach(&order.mountpoint, placement)
                .map_err(mount_failure)?;
            if let Some(over) = &mut over {
                over.shut().inspect_err(|_| {
                    if let Some(pair) = &volume.pair {
                        pair.left();
                    }
                    take_away(&mount);
                    over.leave();
                })?;
                mount.set_shared(false);
            }
            Ok((listener, mount))
        });
        let (listener, mount) = attached.inspect_err(|_| {
            give_up(over.as_ref());
            if shut && let Err(error) = guard::open_again(&slot) {
                tracing::error!("{} stays immutable: {error}", order.mountpoint.display());
            }
            // The record of the last run says whose a dead mount is, as long as that is there.
            if continuous {
                slot.clear_socket()
            } else {
                slot.clear()
            }
            match &volume.pair {
                // What was begun here leaves nothing.
                Some(pair) if pair.is_new() => drop(pair.retire()),
                Some(pair) => pair.stop(),
                None => {}
            }
        })?;
        if let Some(beside) = &beside {
            beside.shut();
        }
        if let Some(pair) = &volume.pair {
            pair.start(sys::give_way_soon);
        }
        tracing::info!(
            mountpoint = %order.mountpoint.display(),
            volfile = order.volfile.0,
            volume = record.volume_id,
            continuous,
            "serving"
        );
        let has = inherited.iter();
        let below = over.as_ref().and_then(Over::below);
        let watchers = users::watchers(None, below.as_ref());
        let notes: Vec<_> = has
            .flat_map(|has| attributes::warnings(has, &bricks, &mounts))
            .chain(watched::at_the_start(&watchers))
            .collect();
        super::tell(&notes);
        let (end, ends) = mpsc::unbounded_channel();
        let device = mount.device().map(|device| (major(device), minor(device)));
        let ours = device.map(|device| (order.mountpoint.as_path(), device));
        let scene = Scene::new(ours, &bricks, over.is_some(), &place::mounts()?);
        let daemon = Daemon {
            status: watch::Sender::new(status::reply(
                &record,
                &bricks,
                volume.pair.as_deref(),
                mount.panics(),
                true,
                &Sight::default(),
            )),
            slot,
            record,
            mount: Arc::new(mount),
            pair: volume.pair,
            bricks,
            over,
            beside,
            inherited: parking_lot::Mutex::new(inherited),
            end,
            ending: parking_lot::Mutex::new(false),
            cutover: Default::default(),
            watched: Default::default(),
            overlays: Default::default(),
            ended: order.ended,
            scene,
            abandoned: AtomicBool::new(false),
        };
        let daemon = Arc::new(daemon);
        Ok(Serving {
            gone: lookouts.begin(&daemon),
            daemon,
            ends,
            listener,
            lock,
            runtime,
            signals,
            notes,
            clients: volume.clients,
            servers: volume.servers,
        })
    }
}

/// Whether no sink has anything of the source yet.
fn is_fresh(bricks: &Bricks) -> bool {
    let fresh = |directory: &Path| !directory.join(".hermitfs").exists();
    let mut sinks = bricks.sinks();
    sinks.all(|(_, sink)| sink.directory().is_some_and(fresh))
}

/// The source of a pair that is served: how it stands at its own path, and how it is opened.
pub(super) fn aside(
    order: &Order,
    slot: &Slot,
    bricks: &Bricks,
    source: &Path,
) -> Result<(Option<Beside>, Option<OwnMount>)> {
    crate::over::unveil_dead(slot, source);
    let mounts = place::mounts()?;
    let memory = slot.memory();
    let shut = |mount: &_| crate::over::is_shut_by_us(memory.as_ref(), mount);
    let inherited = Inherited::of_source(order, bricks, &mounts, shut);
    let beside = Beside::begin(slot, source, is_fresh(bricks))?;
    let own = beside
        .as_ref()
        .map(|_| pairs_own(inherited.as_ref(), Attributes::default()));
    Ok((beside, own))
}

/// Opens the bricks.
fn open(
    order: &Order,
    slot: &Slot,
    graph: &Graph,
    bricks: &Bricks,
    continuous: bool,
    over: Option<&Over>,
    own: Option<OwnMount>,
) -> Result<Volume> {
    let source = bricks.source().and_then(Brick::directory);
    let circumstances = Circumstances {
        state_dir: &order.state_dir,
        slot: slot.name(),
        adopt: order.adopt,
        delete_from_new: order.delete_from_new,
        limit: order.limit.and_then(Rate::new),
        continuous,
        resumed: place::resumed(slot, bricks),
        one_file_system: order.one_file_system,
        own: source.zip(own),
        moved: source.zip(over.map(Over::brick)),
    };
    build::build(graph, circumstances)
}

/// The old brick is as it was, unless a dead mount of ours still covers it.
fn give_up(over: Option<&Over>) {
    if let Some(over) = over {
        over.give_up();
    }
}

/// Who has come in meanwhile may close what he has open; he is not waited for longer.
fn take_away(mount: &Mount) {
    if mount.detach().is_err() {
        drop(mount.detach_lazy());
        mount.wait_for(Duration::from_secs(2));
    }
}

fn take(slot: &Slot, mountpoint: &Path) -> Result<Lock> {
    let point = mountpoint.display();
    match slot.lock() {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(place::served(slot).unwrap_or_else(|| {
            Failure::new(
                Code::TryAgain,
                format!("another hermitfs is about to serve {point}"),
            )
        })),
        Err(error) => Err(Failure::other(format!(
            "the lock of {point} cannot be taken: {error}"
        ))),
    }
}

fn record(order: &Order, slot: &Slot, bricks: &Bricks, volume: &Volume) -> Record {
    let directories = bricks
        .all()
        .map(|brick| (brick.name.clone(), brick.called().to_owned()));
    let id = volume.pair.as_ref().map(|pair| pair.status().volume_id);
    Record {
        pid: std::process::id(),
        mountpoint: order.mountpoint.clone(),
        volfile: order.volfile.0.clone(),
        bricks: directories.collect(),
        volume_id: id.unwrap_or_default(),
        log: (!order.foreground).then(|| slot.log()),
        command: order.command.clone(),
        ended: order.ended.clone(),
    }
}

/// `has`: what the source's mount has.
fn mount_options(order: &Order, graph: &Graph, has: Attributes) -> Result<hermitfs_fuse::Options> {
    let mut options = hermitfs_fuse::Options {
        attributes: has,
        shared: build::is_shared(graph),
        ..hermitfs_fuse::Options::default()
    };
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
pub(super) fn listen(slot: &Slot, record: &Record) -> Result<UnixListener> {
    let open = || {
        slot.clear_socket();
        let (path, _dir) = slot.socket()?;
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        slot.write(record)?;
        Ok(listener)
    };
    open().map_err(|error: std::io::Error| {
        Failure::other(format!("the daemon's socket cannot be opened: {error}"))
    })
}
