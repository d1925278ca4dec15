use std::os::fd::OwnedFd;

use hermitfs_api::Identity;
use parking_lot::Mutex;

use crate::positions::Order;
use crate::table;

/// How many directories can be read at once without opening them again.
const SHARDS: usize = 16;
const EACH: usize = 4;

/// Directories that are being read, each open at the position where the next call will likely go
/// on. Only for speed: what is not found here is opened anew and put to its position.
pub(crate) struct Streams {
    shards: [Mutex<Vec<Stream>>; SHARDS],
}

struct Stream {
    hash: u64,
    dir: Identity,
    /// The position as callers have it.
    at: u64,
    fd: OwnedFd,
    place: Place,
}

/// Where a stream stands, for the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) order: Order,
    pub(crate) at: u64,
}

impl Streams {
    pub(crate) fn new() -> Streams {
        Streams {
            shards: [const { Mutex::new(Vec::new()) }; SHARDS],
        }
    }

    fn shard(&self, hash: u64) -> &Mutex<Vec<Stream>> {
        &self.shards[hash as usize % SHARDS]
    }

    /// Takes out the one that stands where reading goes on.
    pub(crate) fn take(&self, dir: Identity, at: u64) -> Option<(OwnedFd, Place)> {
        let mut shard = self.shard(table::hash(dir)).lock();
        let found = shard
            .iter()
            .position(|stream| stream.dir == dir && stream.at == at)?;
        let found = shard.remove(found);
        Some((found.fd, found.place))
    }

    /// Keeps one for the next call; the one kept longest goes.
    pub(crate) fn keep(&self, dir: Identity, at: u64, (fd, place): (OwnedFd, Place)) {
        let hash = table::hash(dir);
        let mut shard = self.shard(hash).lock();
        let oldest = (shard.len() >= EACH).then(|| shard.remove(0));
        shard.push(Stream {
            hash,
            dir,
            at,
            fd,
            place,
        });
        drop(shard);
        drop(oldest); // closes it outside the lock
    }

    /// Nobody holds the directory any more.
    pub(crate) fn remove(&self, hash: u64) {
        let mut shard = self.shard(hash).lock();
        if shard.iter().any(|stream| stream.hash == hash) {
            shard.retain(|stream| stream.hash != hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn identity(ino: u64) -> Identity {
        Identity {
            dev: 1,
            ino,
            generation: 0,
        }
    }

    fn somewhere() -> (OwnedFd, Place) {
        let place = Place {
            order: Order::Plain,
            at: 7,
        };
        (File::open("/").unwrap().into(), place)
    }

    #[test]
    fn a_stream_is_found_where_it_stands_and_nowhere_else() {
        let streams = Streams::new();
        streams.keep(identity(1), 50, somewhere());
        assert!(streams.take(identity(1), 49).is_none());
        assert!(streams.take(identity(2), 50).is_none());
        assert!(streams.take(identity(1), 50).is_some());
        assert!(
            streams.take(identity(1), 50).is_none(),
            "nobody else reads from it"
        );
    }

    #[test]
    fn they_are_bounded() {
        let streams = Streams::new();
        for at in 0..1_000 {
            streams.keep(identity(at), at, somewhere());
        }
        let held: usize = streams.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(held <= SHARDS * EACH);
    }
}
