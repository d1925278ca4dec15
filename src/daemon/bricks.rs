//! A daemon that only serves bricks: no mount. Commands reach it by the path of its volfile.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hermitfs_proto::admin::v1::StatusReply;
use hermitfs_replicate::Replicate;
use hermitfs_server::Server;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::admin::{ANSWERED_WITHIN, Answers, Ending};
use super::begin::{aside, listen};
use super::lookout::Teller;
use super::place;
use super::serve::{Signals, is_healed_there};
use super::sight::{Scene, Sight};
use super::status::{self, Asked};
use crate::bricks::{self, Brick};
use crate::build::{self, Circumstances, Clients};
use crate::exit::{Code, Failure, Result};
use crate::mounts::Mounts;
use crate::order::Order;
use crate::over::Beside;
use crate::run::{Lock, Record, Slot};
use crate::sys;

/// Bricks that clients can reach.
pub(crate) struct Bricks {
    clients: Clients,
    served: Arc<Served>,
    ends: mpsc::UnboundedReceiver<()>,
    listener: UnixListener,
    slot: Slot,
    _lock: Lock,
    runtime: Runtime,
    signals: Signals,
}

/// What commands ask for.
pub(crate) struct Served {
    pub(super) record: Record,
    pub(super) slot: Slot,
    pub(super) bricks: bricks::Bricks,
    /// The pair that is served, if one is: its healer works here.
    pub(super) pair: Option<Arc<Replicate>>,
    servers: Mutex<Vec<Server>>,
    /// The volumes by which clients come to the pair.
    shown: Vec<String>,
    scene: Scene,
    status: watch::Sender<StatusReply>,
    /// The pair's source, where it is near.
    pub(super) beside: Option<Beside>,
    pub(super) end: mpsc::UnboundedSender<()>,
    /// Held by whoever is about to end it all; true when there is no pair any more.
    pub(super) ending: Mutex<bool>,
    /// For `status`, while one is under way.
    pub(super) cutover: super::asker::Board,
}

impl Served {
    /// Who has the pair mounted: the client's own words, and the volume.
    pub(super) fn clients(&self) -> Vec<(String, String)> {
        let mut clients = self.all_clients();
        clients.retain(|(_, volume)| self.shown.contains(volume));
        clients
    }

    /// Who has anything of it mounted.
    pub(super) fn all_clients(&self) -> Vec<(String, String)> {
        let servers = self.servers.lock();
        servers.iter().flat_map(Server::clients).collect()
    }
}

#[cfg(test)]
impl Served {
    /// Nothing at all is served.
    pub(super) fn nothing(state_dir: &Path) -> Arc<Served> {
        let (end, _) = mpsc::unbounded_channel();
        Arc::new(Served {
            record: Record {
                pid: 0,
                mountpoint: state_dir.into(),
                volfile: String::new(),
                bricks: Vec::new(),
                volume_id: String::new(),
                log: None,
                command: String::new(),
                ended: None,
            },
            slot: Slot::new(state_dir, state_dir),
            bricks: bricks::Bricks::default(),
            pair: None,
            servers: Mutex::default(),
            shown: Vec::new(),
            scene: Scene::default(),
            status: watch::Sender::default(),
            beside: None,
            end,
            ending: Mutex::default(),
            cutover: Default::default(),
        })
    }
}

impl Asked for Served {
    fn pair(&self) -> Option<Arc<Replicate>> {
        self.pair.clone()
    }

    fn now(&self) -> StatusReply {
        let pair = self.pair.as_deref();
        let sight = Mounts::read().map(|mounts| {
            let is_same = |leg, directory: &Path| is_healed_there(pair, leg, directory);
            self.scene.look(&mounts, is_same)
        });
        let sight = sight.unwrap_or_default();
        let reply = status::reply(&self.record, &self.bricks, pair, 0, false, &sight);
        StatusReply {
            cutover: self.cutover.now(),
            ..status::with_beside(reply, self.beside.as_ref())
        }
    }

    fn told(&self) -> &watch::Sender<StatusReply> {
        &self.status
    }
}

impl Bricks {
    /// Opens everything.
    pub(crate) fn begin(order: &Order) -> Result<Bricks> {
        let graph = order.graph()?;
        let bricks = bricks::Bricks::of(&graph);
        let slot = Slot::new(&order.state_dir, &order.mountpoint);
        slot.prepare()?;
        let taken = slot.lock().map_err(|error| {
            Failure::other(format!("the lock of this volfile cannot be taken: {error}"))
        })?;
        let lock = taken.ok_or_else(|| {
            let volfile = order.mountpoint.display();
            let process = slot
                .record()
                .map_or(String::new(), |record| format!(" (process {})", record.pid));
            Failure::new(
                Code::TryAgain,
                format!("the bricks of {volfile} are served already{process}"),
            )
        })?;
        place::unused(&slot, &bricks)?;
        let (runtime, signals) = Signals::hear()?;
        let teller = Teller::start()?;
        let source = bricks.source().and_then(Brick::directory);
        let (mut beside, mut own) = (None, None);
        if let Some(source) = source.filter(|_| bricks.is_pair()) {
            (beside, own) = aside(order, &slot, &bricks, source)?;
        }
        let circumstances = Circumstances {
            state_dir: &order.state_dir,
            slot: slot.name(),
            adopt: order.adopt,
            delete_from_new: order.delete_from_new,
            limit: None,
            continuous: false,
            resumed: place::resumed(&slot, &bricks),
            one_file_system: order.one_file_system,
            moved: None,
            own: source.zip(own),
        };
        let volume = build::build(&graph, circumstances)?;
        let beside = beside.filter(|_| volume.pair.is_some());
        let places = bricks.all();
        let places = places.map(|brick| (brick.name.clone(), brick.called().to_owned()));
        let record = Record {
            pid: std::process::id(),
            mountpoint: order.mountpoint.clone(),
            volfile: order.volfile.0.clone(),
            bricks: places.collect(),
            volume_id: volume
                .pair
                .as_ref()
                .map_or(String::new(), |pair| pair.status().volume_id),
            log: (!order.foreground).then(|| slot.log()),
            command: order.command.clone(),
            ended: None,
        };
        let listener = listen(&slot, &record)?;
        if let Some(beside) = &beside {
            beside.shut();
        }
        if let Some(pair) = &volume.pair {
            pair.start(sys::give_way_soon);
        }
        let heard: Vec<String> = volume
            .servers
            .iter()
            .flat_map(Server::addresses)
            .map(ToString::to_string)
            .collect();
        tracing::info!(
            volfile = order.volfile.0,
            listen = heard.join(", "),
            "serving"
        );
        let (end, ends) = mpsc::unbounded_channel();
        let served = Arc::new(Served {
            status: watch::Sender::new(status::reply(
                &record,
                &bricks,
                volume.pair.as_deref(),
                0,
                false,
                &Sight::default(),
            )),
            record,
            slot: slot.clone(),
            scene: Scene::new(None, &bricks, false, &place::mounts()?),
            bricks,
            pair: volume.pair,
            servers: Mutex::new(volume.servers),
            shown: build::shown_pairs(&graph),
            beside,
            end,
            ending: Mutex::new(false),
            cutover: Default::default(),
        });
        teller.begin(&served);
        Ok(Bricks {
            clients: volume.clients,
            ends,
            served,
            listener,
            slot,
            _lock: lock,
            runtime,
            signals,
        })
    }

    /// Serves until a signal.
    pub(crate) fn run(mut self) -> Result<()> {
        let (told, mut answers) = self.runtime.block_on(async {
            let ending = Ending::Served(self.served.clone());
            let mut answers = Answers::begin(self.served.clone(), ending, self.listener);
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
            let told = tokio::select! {
                _ = self.ends.recv() => true,
                () = self.signals.next() => false,
            };
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
            // Who asked for it still waits for the answer.
            let at_most = if told {
                ANSWERED_WITHIN
            } else {
                Duration::ZERO
            };
            answers.end(at_most).await;
            (told, answers)
        });
        tracing::info!("ending");
        // Nobody comes any more: what follows is a clean end of the pair.
        drop(std::mem::take(&mut *self.served.servers.lock()));
        let over = *self.served.ending.lock();
        if over && !told {
            // A handover has come to its end although we were told to end.
            self.runtime.block_on(answers.end(ANSWERED_WITHIN));
        }
        drop(answers);
        if let Some(pair) = &self.served.pair
            && !over
        {
            pair.left();
            pair.stop();
        }
        if let Some(beside) = &self.served.beside {
            beside.give_back();
        }
        drop(self.clients);
        match self.served.pair.is_some() && !over {
            true => self.slot.clear_socket(),
            false => self.slot.clear(),
        }
        tracing::info!("ended");
        self.runtime.shutdown_background();
        Ok(())
    }
}
