//! Clients and a server on a network from a seed, with everything that a network does.
//!
//! The real leaf, the real door and the real HTTP/2 between them; the brick is in memory, and the
//! machines have clocks that stand still while anybody has something to do, so that no wait
//! takes any time. A seed decides what is done, how long it takes, and what the network does to it: so a
//! run can be had again (`HERMITFS_SEED=7 HERMITFS_RUNS=1`), apart from what the libraries below leave to
//! chance: which of two things that are ready at once tokio looks at first, and the numbers that
//! sessions and clients are given.

pub(crate) mod judge;
mod lockers;
pub(crate) mod recorder;
pub(crate) mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use futures_util::FutureExt;
use hermitfs_api::{Context, Origin, Translator};
use hermitfs_client::{Client, Connection, Dialer, Options};
use hermitfs_server::{Options as ServerOptions, Server};
use hermitfs_testkit::Memory;
use hermitfs_testkit::net::{Host, Net, Way, Weather};
use parking_lot::Mutex;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use judge::judge;
use recorder::{Log, Recorder};
use worker::Worker;

/// Seconds.
pub(crate) const PING_TIMEOUT: u64 = 2;
pub(crate) const GRACE: u64 = 8;
pub(crate) const SERVER_GRACE: u64 = 20;

const CLIENTS: [&str; 2] = ["one", "two"];

/// What the network and the machines may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harshness {
    /// Lines are cut, for less than anybody waits.
    Lines,
    /// Also servers are killed, for less than anybody waits.
    Servers,
    /// For longer, too.
    Long,
}

struct World {
    net: Net,
    brick: Arc<Memory>,
    log: Arc<Log>,
    rng: ChaCha8Rng,
    /// `None` while it is away.
    server: Option<Host>,
    clients: Host,
    /// What was done to them.
    story: Vec<String>,
    /// What the server puts above the brick.
    above: Above,
    // The last to go: nobody works in it any more.
    state: TempDir,
}

/// Puts something above a brick.
type Above = Box<dyn Fn(Arc<dyn Translator>) -> Arc<dyn Translator>>;

fn dialer(net: &Net, client: &'static str) -> Dialer {
    let net = net.clone();
    Arc::new(move || {
        let net = net.clone();
        async move {
            let stream = net.connect(client, "server").await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        }
        .boxed()
    })
}

impl World {
    fn new(seed: u64, weather: Weather, above: Above) -> World {
        let mut world = World {
            net: Net::new(seed, weather),
            brick: Arc::new(Memory::with_dev(1)),
            log: Arc::default(),
            state: tempfile::tempdir().unwrap(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            server: None,
            clients: Host::new(),
            story: Vec::new(),
            above,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let host = Host::new();
        let connections = UnboundedReceiverStream::new(self.net.listen("server"));
        let brick: Arc<dyn Translator> = Arc::new(Recorder {
            below: self.brick.clone(),
            log: self.log.clone(),
            rng: Mutex::new(ChaCha8Rng::seed_from_u64(self.rng.random())),
            fails: Arc::default(),
        });
        let brick = (self.above)(brick);
        let mut options = ServerOptions::new("127.0.0.1:1".parse().unwrap());
        options.grace = SERVER_GRACE;
        let state = self.state.path().to_owned();
        host.spawn(async move {
            let connections = connections.map(Ok);
            let volumes = vec![("brick".into(), brick)];
            Server::over(&options, volumes, &state, connections)
                .await
                .unwrap();
        });
        self.server = Some(host);
    }

    fn pass(&self) {
        let hosts = std::iter::once(&self.clients).chain(&self.server);
        self.net.pass(&hosts.collect::<Vec<_>>());
    }

    /// Until a time.
    fn pass_until(&self, time: u64) {
        while self.net.now() < time {
            self.pass();
        }
    }

    fn wait<T>(&self, task: JoinHandle<T>, most: u64) -> T {
        let end = self.net.now() + most;
        while !task.is_finished() {
            assert!(self.net.now() < end, "nobody comes to an end");
            self.pass();
        }
        task.now_or_never().unwrap().unwrap()
    }

    fn client(&self, name: &'static str) -> Arc<Client> {
        let mut options = Options::new("127.0.0.1:1".parse().unwrap(), "brick");
        options.ping_timeout = PING_TIMEOUT;
        options.grace = GRACE;
        let dialer = dialer(&self.net, name);
        let task = self
            .clients
            .spawn(async move { Client::over(&options, dialer).await });
        Arc::new(self.wait(task, 60_000).unwrap())
    }

    fn tell(&mut self, what: String) {
        self.story.push(format!("{:7} {what}", self.net.now()));
    }

    /// Something goes wrong for a while; when the next thing may.
    fn trouble(&mut self, harshness: Harshness) -> u64 {
        let most = match harshness {
            Harshness::Long => 15_000,
            _ => 1_000 * GRACE / 4,
        };
        let short = self.rng.random_bool(0.7);
        let time = self.rng.random_range(1..if short { 300 } else { most });
        let who = CLIENTS[self.rng.random_range(0..CLIENTS.len())];
        let end = self.net.now() + time;
        match self.rng.random_range(0..10) {
            0..3 => {
                self.tell(format!("{who}: cut"));
                self.net.cut(who, "server");
            }
            3..7 => {
                let ways = [&[Way::There][..], &[Way::Back], &[Way::There, Way::Back]];
                let ways = ways[self.rng.random_range(0..3)];
                self.tell(format!("{who}: parted for {time} ms, {ways:?}"));
                ways.iter()
                    .for_each(|way| self.net.part(who, "server", *way));
                self.pass_until(end);
                self.net.join(who, "server");
            }
            _ if harshness != Harshness::Lines => {
                self.tell(format!("server: killed for {time} ms"));
                self.server = None;
                self.pass_until(end);
                self.start();
            }
            _ => {}
        }
        self.net.now() + self.rng.random_range(50..3_000)
    }
}

/// A world in good weather, and its clients; what the weather is going to be.
fn begin(rng: &mut ChaCha8Rng, seed: u64, harshness: Harshness, above: Above) -> (World, Clients) {
    let mut weather = Weather {
        delay: 0..=rng.random_range(0..4),
        lost: 0,
        cut: 0,
        // Else nobody could connect for longer than is waited for.
        in_a_row: harshness != Harshness::Lines,
    };
    let world = World::new(seed, weather.clone(), above);
    let clients = CLIENTS.map(|name| world.client(name));
    if rng.random_bool(0.5) {
        weather.lost = rng.random_range(20..400);
    }
    weather.cut = rng.random_range(0..6);
    world.net.set(weather);
    (world, clients)
}

type Clients = [Arc<Client>; 2];

impl World {
    /// Until all who work have come to an end, with trouble all the while; what is wrong.
    fn see_through(&mut self, workers: Vec<JoinHandle<()>>, harshness: Harshness) -> Vec<String> {
        let mut next = 0;
        while workers.iter().any(|worker| !worker.is_finished()) {
            self.pass();
            if self.net.now() >= next {
                next = self.trouble(harshness);
            }
            if self.net.now() > 3_600_000 {
                return vec!["it comes to no end".into()];
            }
        }
        let mut wrong: Vec<String> = Vec::new();
        for worker in workers {
            if let Err(panic) = worker.now_or_never().unwrap() {
                let panic = panic.into_panic();
                let text = panic.downcast_ref::<String>().cloned();
                wrong.push(text.unwrap_or_else(|| "a worker panicked".into()));
            }
        }
        wrong
    }
}

/// One run: the story, and what is wrong.
fn run(seed: u64, harshness: Harshness) -> (Vec<String>, Vec<String>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut world, clients) = begin(&mut rng, seed, harshness, Box::new(|brick| brick));
    let calls = Arc::new(AtomicU32::new(0));
    let mut workers = Vec::new();
    for client in clients.iter().cycle().take(4) {
        let worker = Worker {
            client: client.clone(),
            log: world.log.clone(),
            calls: calls.clone(),
            rng: ChaCha8Rng::seed_from_u64(rng.random()),
            files: Vec::new(),
            // Its last sending began within the grace, and was waited for.
            patience: Duration::from_secs(3 * GRACE + 2 * PING_TIMEOUT),
            goes_on: Arc::new(|| true),
        };
        workers.push(world.clients.spawn(worker.work(40)));
    }
    let mut wrong = world.see_through(workers, harshness);
    wrong.extend(judge(
        &world.log.events.lock(),
        harshness == Harshness::Lines,
    ));
    wrong.extend(afterwards(&world, clients));
    (world.story, wrong)
}

/// In good weather everybody finds everything well again, and nothing of what is closed stays open.
fn afterwards(world: &World, clients: Clients) -> Vec<String> {
    world.net.set(Weather {
        delay: 0..=1,
        lost: 0,
        cut: 0,
        in_a_row: false,
    });
    let mut wrong = Vec::new();
    for (client, name) in clients.iter().zip(CLIENTS) {
        world.net.cut(name, "server");
        let client = client.clone();
        let task = world.clients.spawn(async move {
            let cx = Context::internal(Origin::Verify);
            let end = tokio::time::Instant::now() + Duration::from_secs(GRACE);
            while let Err(error) = client.root(&cx).await {
                if tokio::time::Instant::now() > end {
                    return Some(error.to_string());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            None
        });
        wrong.extend(world.wait(task, 1_000 * (GRACE + 3 * PING_TIMEOUT)));
    }
    // They say Bye.
    drop(clients);
    world.pass_until(world.net.now() + 5_000);
    let open = world.log.open();
    if open != 0 {
        wrong.push(format!("{open} files are open that nobody has open"));
    }
    wrong
}

/// A run: its story, and what is wrong.
type Run = fn(u64, Harshness) -> (Vec<String>, Vec<String>);

fn many(run: Run, harshness: Harshness, count: u64) {
    let number = |name: &str| std::env::var(name).ok().map(|s| s.parse::<u64>().unwrap());
    let base = number("HERMITFS_SEED").unwrap_or(0);
    let count = number("HERMITFS_RUNS").unwrap_or(count);
    for seed in base..base + count {
        let (story, wrong) = run(seed, harshness);
        if !wrong.is_empty() {
            panic!("{harshness:?}, seed {seed}:\n{story:#?}\n{wrong:#?}");
        }
    }
}

#[test]
fn a_network_that_cuts_for_less_than_anybody_waits_is_not_noticed() {
    many(run, Harshness::Lines, 30);
}

#[test]
fn what_is_answered_was_done_once_though_servers_are_killed() {
    many(run, Harshness::Servers, 40);
}

#[test]
fn what_is_not_known_is_told_when_nobody_waits_any_longer() {
    many(run, Harshness::Long, 30);
}
