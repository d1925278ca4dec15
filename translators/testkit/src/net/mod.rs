//! A network inside of the process, from a seed: it delays, holds back, loses and cuts.

mod host;
mod pipe;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;

pub use host::Host;
use pipe::{Piece, Pipe};
pub use stream::Stream;

/// How the network is, until that is changed. Connections are like those of TCP: what comes
/// comes whole and in order.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Milliseconds from one host to the other.
    pub delay: RangeInclusive<u64>,
    /// Of how many pieces one is lost, and comes a second late, as it is sent again.
    pub lost: u32,
    /// Of how many new connections one will be cut, after so many bytes as the seed wants.
    pub cut: u32,
    /// Also when the one before, between the same hosts, was to be cut.
    pub in_a_row: bool,
}

/// In which direction nothing comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// From who connects to who listens.
    There,
    /// Back.
    Back,
}

/// The network. Each [`Host`] has a runtime with a clock of its own; [`Net::pass`] lets a little time pass
/// for all of them, and carries what is due from one to the other.
#[derive(Clone)]
pub struct Net(Arc<Mutex<Inner>>);

struct Inner {
    /// Milliseconds.
    now: u64,
    rng: ChaCha8Rng,
    weather: Weather,
    listeners: HashMap<String, mpsc::UnboundedSender<Stream>>,
    /// Whose last connection was to be cut.
    struck: HashSet<(String, String)>,
    wires: HashMap<u64, Wire>,
    last: u64,
    /// Nothing comes through: client, server, direction.
    parted: HashSet<(String, String, Way)>,
    /// When something last moved.
    moved: u64,
}

/// One connection: what is on its way from the one who connected, and to him.
struct Wire {
    ends: (String, String),
    pipes: [Pipe; 2],
    /// Where something was lost for good: nothing comes through, and nobody is told.
    dead: [bool; 2],
    /// Ends that are dropped.
    dropped: [bool; 2],
}

/// For so long things count as lively after something moved, in milliseconds.
const LIVELY: u64 = 20;

impl Net {
    /// Everything that is left to chance comes from `seed`.
    pub fn new(seed: u64, weather: Weather) -> Net {
        Net(Arc::new(Mutex::new(Inner {
            now: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            weather,
            listeners: HashMap::new(),
            struck: HashSet::new(),
            wires: HashMap::new(),
            last: 0,
            parted: HashSet::new(),
            moved: 0,
        })))
    }

    /// Milliseconds since the start.
    pub fn now(&self) -> u64 {
        self.0.lock().now
    }

    /// From now on, for what is sent and connected from now on.
    pub fn set(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    /// What connects to `server` from now on comes here, until this is dropped.
    pub fn listen(&self, server: &str) -> mpsc::UnboundedReceiver<Stream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().listeners.insert(server.to_owned(), sender);
        receiver
    }

    /// Connects one host to another: after a while, refused when nobody listens, and while they are parted not
    /// at all.
    pub async fn connect(&self, client: &str, server: &str) -> io::Result<Stream> {
        let there = (client.to_owned(), server.to_owned(), Way::There);
        let back = (client.to_owned(), server.to_owned(), Way::Back);
        loop {
            let delay = {
                let mut inner = self.0.lock();
                let delay = inner.weather.delay.clone();
                inner.rng.random_range(delay)
            };
            // Never at once, or nobody's clock would go on.
            tokio::time::sleep(Duration::from_millis(2 * delay + 1)).await;
            let mut inner = self.0.lock();
            if inner.parted.contains(&there) || inner.parted.contains(&back) {
                continue;
            }
            let (ours, theirs) = inner.wire(self, there.0, there.1.clone());
            let listener = inner.listeners.get(server).cloned();
            drop(inner);
            return match listener.and_then(|listener| listener.send(theirs).ok()) {
                Some(()) => Ok(ours),
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            };
        }
    }

    /// From now on nothing comes through this way, until [`Net::join`]: it is held back.
    pub fn part(&self, client: &str, server: &str, way: Way) {
        let mut inner = self.0.lock();
        inner.parted.insert((client.into(), server.into(), way));
    }

    /// What was held back comes through, and everything else.
    pub fn join(&self, client: &str, server: &str) {
        let mut inner = self.0.lock();
        inner
            .parted
            .retain(|(a, b, _)| (a, b) != (&client.to_owned(), &server.to_owned()));
    }

    /// Cuts all connections between two hosts, here and now.
    pub fn cut(&self, client: &str, server: &str) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        for wire in inner.wires.values_mut() {
            if (wire.ends.0.as_str(), wire.ends.1.as_str()) == (client, server) {
                wire.reset(inner.now);
            }
        }
    }

    /// Lets a little time pass at each host, and carries what is due.
    pub fn pass(&self, hosts: &[&Host]) {
        let time = self.0.lock().quantum();
        for host in hosts {
            host.pass(Duration::from_millis(time));
        }
        self.0.lock().carry(time);
    }
}

impl Inner {
    fn wire(&mut self, net: &Net, client: String, server: String) -> (Stream, Stream) {
        self.last += 1;
        let mut wire = Wire {
            ends: (client, server),
            pipes: Default::default(),
            dead: Default::default(),
            dropped: Default::default(),
        };
        let spared = self.struck.remove(&wire.ends) && !self.weather.in_a_row;
        if !spared && self.weather.cut > 0 && self.rng.random_ratio(1, self.weather.cut) {
            self.struck.insert(wire.ends.clone());
            // A few bytes, or many.
            let most = 1u64 << self.rng.random_range(5..17);
            let end = self.rng.random_range(0..2);
            wire.pipes[end].limit = Some(self.rng.random_range(0..most));
        }
        self.wires.insert(self.last, wire);
        let stream = |end| Stream::new(net.0.clone(), self.last, end);
        (stream(0), stream(1))
    }

    /// When what is sent now arrives.
    fn due(&mut self) -> u64 {
        let lost = self.weather.lost > 0 && self.rng.random_ratio(1, self.weather.lost);
        let again = if lost {
            self.rng.random_range(200..1500)
        } else {
            0
        };
        self.now + self.rng.random_range(self.weather.delay.clone()) + again
    }

    /// How much time may pass at once: little while anything moves.
    fn quantum(&self) -> u64 {
        let soon = self.now + LIVELY;
        let flies = |wire: &Wire| wire.pipes.iter().any(|pipe| pipe.first_due() <= soon);
        let lively = self.moved + LIVELY > self.now;
        if lively || self.wires.values().any(flies) {
            1
        } else {
            10
        }
    }

    fn carry(&mut self, time: u64) {
        self.now += time;
        let (now, parted) = (self.now, &self.parted);
        let mut moved = false;
        for wire in self.wires.values_mut() {
            for (end, way) in [(0, Way::There), (1, Way::Back)] {
                let (client, server) = wire.ends.clone();
                if !wire.dead[end] && !parted.contains(&(client, server, way)) {
                    moved |= wire.pipes[end].arrive(now);
                }
            }
        }
        if moved {
            self.moved = now;
        }
        self.wires.retain(|_, wire| wire.dropped != [true; 2]);
    }
}

impl Wire {
    /// Both ends hear that it is no more, if they can hear.
    fn reset(&mut self, due: u64) {
        self.pipes
            .iter_mut()
            .for_each(|pipe| pipe.send(due, Piece::Reset));
    }

    /// The limit is reached: how the connection ends, by lot.
    fn end(&mut self, end: usize, how: u32, due: u64) {
        match how {
            0 => self.dead = [true; 2],
            1 => self.dead[end] = true,
            _ => self.reset(due),
        }
    }
}
