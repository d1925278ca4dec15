//! Three machines and what they are connected by: two that serve a brick each, and one that has the pair.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::FutureExt;
use hermitfs_api::{Translator, block_on};
use hermitfs_client::{Client, Connection, Dialer, Options};
use hermitfs_server::{Options as ServerOptions, Server};
use hermitfs_testkit::net::{Host, Net, Way, Weather};
use hermitfs_testkit::{BySteps, Memory, NOT_OF_THE_TREE, Tree};
use parking_lot::Mutex;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::waits::Waits;
use crate::network::recorder::{Log, Recorder};
use crate::network::{GRACE, PING_TIMEOUT, SERVER_GRACE};

pub(crate) const SOURCE: usize = 0;
pub(crate) const SINK: usize = 1;
pub(crate) const BRICKS: [&str; 2] = ["source", "sink"];
const MOUNT: &str = "mount";

pub(crate) const FAIR: Weather = Weather {
    delay: 0..=1,
    lost: 0,
    cut: 0,
    in_a_row: false,
};

pub(crate) struct Brick {
    memory: Arc<Memory>,
    pub(crate) log: Arc<Log>,
    /// Its disk fails now and then, for who heals.
    pub(crate) fails: Arc<AtomicBool>,
    state: TempDir,
}

pub(crate) struct Place {
    pub(crate) net: Net,
    pub(crate) waits: Arc<Waits>,
    pub(crate) bricks: [Brick; 2],
    machines: Mutex<Machines>,
    story: Arc<Mutex<Vec<String>>>,
}

struct Machines {
    /// `None` while it is away.
    servers: [Option<Host>; 2],
    /// With the lines of whoever has the pair.
    mount: Option<Host>,
    /// Users' clock.
    people: Host,
    rng: ChaCha8Rng,
}

fn dialer(net: &Net, server: &'static str) -> Dialer {
    let net = net.clone();
    Arc::new(move || {
        let net = net.clone();
        async move {
            let stream = net.connect(MOUNT, server).await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        }
        .boxed()
    })
}

impl Place {
    pub(crate) fn new(seed: u64) -> Place {
        let brick = |dev| Brick {
            memory: Arc::new(Memory::with_dev(dev)),
            log: Arc::default(),
            fails: Arc::default(),
            state: tempfile::tempdir().unwrap(),
        };
        let place = Place {
            net: Net::new(seed, FAIR),
            waits: Arc::default(),
            bricks: [brick(1), brick(2)],
            machines: Mutex::new(Machines {
                servers: [None, None],
                mount: None,
                people: Host::new(),
                rng: ChaCha8Rng::seed_from_u64(seed),
            }),
            story: Arc::default(),
        };
        for (n, name) in BRICKS.into_iter().enumerate() {
            let (net, story) = (place.net.clone(), place.story.clone());
            let tell = move |what| story.lock().push(format!("{:7} {name} {what}", net.now()));
            let told = place.bricks[n].log.teller.set(Box::new(tell));
            assert!(told.is_ok());
            place.serve(n);
        }
        place
    }

    pub(crate) fn tell(&self, what: String) {
        let line = format!("{:7} {what}", self.net.now());
        self.story.lock().push(line);
    }

    pub(crate) fn story(&self) -> Vec<String> {
        self.story.lock().clone()
    }

    /// Starts the server of a brick.
    pub(crate) fn serve(&self, n: usize) {
        let (host, brick) = (Host::new(), &self.bricks[n]);
        let connections = UnboundedReceiverStream::new(self.net.listen(BRICKS[n]));
        let mut machines = self.machines.lock();
        let volume: Arc<dyn Translator> = Arc::new(BySteps(Arc::new(Recorder {
            below: brick.memory.clone(),
            log: brick.log.clone(),
            rng: Mutex::new(ChaCha8Rng::seed_from_u64(machines.rng.random())),
            fails: brick.fails.clone(),
        })));
        let mut options = ServerOptions::new("127.0.0.1:1".parse().unwrap());
        options.grace = SERVER_GRACE;
        let state = brick.state.path().to_owned();
        host.spawn(async move {
            let connections = connections.map(Ok);
            let volumes = vec![("brick".into(), volume)];
            Server::over(&options, volumes, &state, connections)
                .await
                .unwrap();
        });
        machines.servers[n] = Some(host);
    }

    /// Kills it.
    pub(crate) fn kill(&self, n: usize) {
        self.machines.lock().servers[n] = None;
    }

    pub(crate) fn is_served(&self, n: usize) -> bool {
        self.machines.lock().servers[n].is_some()
    }

    /// Another machine for whoever has the pair.
    pub(crate) fn boot(&self) -> Handle {
        let host = Host::new();
        let handle = host.handle();
        self.machines.lock().mount = Some(host);
        handle
    }

    /// Ends it as a kill does: nobody says Bye.
    pub(crate) fn crash(&self) {
        self.machines.lock().mount = None;
    }

    /// By which users know the time.
    pub(crate) fn people(&self) -> Handle {
        self.machines.lock().people.handle()
    }

    /// Lets a little time pass, when nobody has anything to do.
    pub(crate) fn pass(&self) {
        self.waits.settle();
        let machines = self.machines.lock();
        let Machines {
            servers,
            mount,
            people,
            ..
        } = &*machines;
        let hosts = servers.iter().flatten().chain(mount).chain([people]);
        self.net.pass(&hosts.collect::<Vec<_>>());
    }

    /// Waits, on a thread that does not let time pass.
    pub(crate) fn wait<T>(&self, task: JoinHandle<T>) -> T {
        block_on(self.waits.count(task)).unwrap()
    }

    /// The same for a time.
    pub(crate) fn sleep(&self, millis: u64) {
        let time = Duration::from_millis(millis);
        let people = self.people();
        self.wait(people.spawn(async move { tokio::time::sleep(time).await }));
    }

    /// A client of a brick; however long it takes.
    pub(crate) fn connect(&self, host: &Handle, n: usize) -> Arc<Client> {
        let mut options = Options::new("127.0.0.1:1".parse().unwrap(), "brick");
        options.ping_timeout = PING_TIMEOUT;
        options.grace = GRACE;
        loop {
            let (options, dialer) = (options.clone(), dialer(&self.net, BRICKS[n]));
            let task = host.spawn(async move { Client::over(&options, dialer).await });
            if let Ok(client) = self.wait(task) {
                return Arc::new(client);
            }
        }
    }

    pub(crate) fn part(&self, n: usize, ways: &[Way]) {
        ways.iter()
            .for_each(|way| self.net.part(MOUNT, BRICKS[n], *way));
    }

    pub(crate) fn join(&self, n: usize) {
        self.net.join(MOUNT, BRICKS[n]);
    }

    pub(crate) fn cut(&self, n: usize) {
        self.net.cut(MOUNT, BRICKS[n]);
    }

    /// What is at the bricks, beneath everything.
    pub(crate) fn trees(&self) -> [Tree; 2] {
        let tree = |brick: &Brick| brick.memory.tree_without(NOT_OF_THE_TREE);
        self.bricks.each_ref().map(tree)
    }
}

/// The state directory as a kill leaves it.
pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else if let Err(error) = std::fs::copy(entry.path(), &to) {
            // It was about to take another one's place, and has done so.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{to:?}");
        }
    }
}

/// Which of the bricks something happens to.
pub(crate) fn some(rng: &mut ChaCha8Rng, sink_alone: bool) -> HashSet<usize> {
    match rng.random_range(0..5) {
        _ if sink_alone => [SINK].into(),
        0 | 1 => [SOURCE].into(),
        2 | 3 => [SINK].into(),
        _ => [SOURCE, SINK].into(),
    }
}
