//! Locks on such a network: whoever has one works under it, and nobody else does meanwhile.
//!
//! What is compared is what the brick hears. A *section* begins with a write under a lock and ends with another one; when
//! both were answered, nobody may have begun or gone on with one that excludes it in between. Whoever lost his
//! lock to others must have been told by then: his second write is EIO.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hermitfs_api::*;
use hermitfs_client::Client;
use hermitfs_locks::{Locks, Options};
use parking_lot::Mutex;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep, timeout};

use super::{GRACE, Harshness, PING_TIMEOUT, SERVER_GRACE, afterwards, begin, many};

const CX: Context = Context::internal(Origin::User);

/// A file for each family of locks.
const NAMES: [&[u8]; 3] = [b"record", b"open file", b"flock"];

/// The end of what record locks are taken of.
const END: u64 = 3;

#[derive(Clone, Debug)]
struct Section {
    name: usize,
    lock: Lock,
    /// Both writes were answered.
    whole: bool,
}

impl Section {
    fn excludes(&self, other: &Section) -> bool {
        let (one, two) = (&self.lock, &other.lock);
        self.name == other.name
            && one.owner != two.owner
            && (one.kind == LockKind::Exclusive || two.kind == LockKind::Exclusive)
            && (one.flock || one.start <= two.end && two.start <= one.end)
    }
}

/// What is done under locks.
#[derive(Default)]
struct Diary {
    sections: Mutex<Vec<Section>>,
    /// The sections that the brick has heard of, in order.
    heard: Mutex<Vec<usize>>,
}

impl Diary {
    fn begin(&self, name: usize, lock: Lock) -> usize {
        let mut sections = self.sections.lock();
        sections.push(Section {
            name,
            lock,
            whole: false,
        });
        sections.len() - 1
    }

    fn wrong(&self) -> Vec<String> {
        let (sections, heard) = (self.sections.lock(), self.heard.lock());
        let mut spans: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (at, &section) in heard.iter().enumerate() {
            spans.entry(section).or_insert((at, at)).1 = at;
        }
        let mut wrong = Vec::new();
        for (&number, &(from, to)) in &spans {
            let section = &sections[number];
            if !section.whole {
                continue;
            }
            let within = heard[from..to].iter();
            if let Some(&other) = within.clone().find(|&&at| section.excludes(&sections[at])) {
                let other = &sections[other];
                wrong.push(format!("under {section:?} somebody worked under {other:?}"));
            }
        }
        wrong
    }
}

/// Writes down which section a write is of, when it comes and when it is done.
struct Scribe {
    below: Arc<dyn Translator>,
    diary: Arc<Diary>,
}

#[async_trait]
impl Filter for Scribe {
    fn below(&self) -> &dyn Translator {
        &*self.below
    }

    async fn write(&self, cx: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize> {
        let section = usize::from_le_bytes(data.try_into().expect("a section's number"));
        self.diary.heard.lock().push(section);
        let done = self.below.write(cx, file, at, data).await;
        self.diary.heard.lock().push(section);
        done
    }
}

/// Somebody who works under locks at a client.
struct Locker {
    client: Arc<Client>,
    diary: Arc<Diary>,
    rng: ChaCha8Rng,
    owner: u64,
}

impl Locker {
    async fn work(mut self, files: usize) {
        for _ in 0..files {
            let name = self.rng.random_range(0..NAMES.len());
            let Ok(file) = open(&self.client, name).await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            for _ in 0..self.rng.random_range(1..5) {
                if self.section(name, &file).await.is_err() {
                    break;
                }
                sleep(Duration::from_millis(self.rng.random_range(0..30))).await;
            }
            close(&self.client, &file, self.owner).await;
        }
    }

    fn lock(&mut self, name: usize) -> Lock {
        let (from, to) = (
            self.rng.random_range(0..=END),
            self.rng.random_range(0..=END),
        );
        let shared = self.rng.random_bool(0.3);
        Lock {
            owner: self.owner,
            pid: 0,
            kind: match shared {
                true => LockKind::Shared,
                false => LockKind::Exclusive,
            },
            start: if name == 2 { 0 } else { from.min(to) },
            end: if name == 2 { u64::MAX } else { from.max(to) },
            flock: name == 2,
            ofd: name == 1,
        }
    }

    /// Works once under a lock, if it can be had. An error when the file is of no use any more.
    async fn section(&mut self, name: usize, file: &Arc<File>) -> Result<()> {
        let lock = self.lock(name);
        let wait = self.rng.random_bool(0.7);
        let patience = Duration::from_millis(self.rng.random_range(1..4_000));
        let asking = self.client.setlk(&CX, file, &lock, wait);
        match timeout(patience, asking).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if matches!(error.errno(), Errno::EAGAIN | Errno::EDEADLK) => {
                return Ok(());
            }
            Ok(Err(error)) => return Err(error),
            // As after a signal: then it is not had.
            Err(_) => return Ok(()),
        }
        let section = self.diary.begin(name, lock);
        let word = section.to_le_bytes();
        self.client.write(&CX, file, 0, &word).await?;
        sleep(Duration::from_millis(self.rng.random_range(0..60))).await;
        self.client.write(&CX, file, 0, &word).await?;
        self.diary.sections.lock()[section].whole = true;
        if self.rng.random_bool(0.8) {
            let end = Lock {
                kind: LockKind::Unlock,
                ..lock
            };
            self.client.setlk(&CX, file, &end, false).await?;
        }
        Ok(())
    }
}

async fn open(client: &Client, name: usize) -> Result<Arc<File>> {
    let root = client.root(&CX).await?.inode;
    let (name, flags) = (Name::new(NAMES[name])?, OpenFlags::READ_WRITE);
    match client.lookup(&CX, &root, name).await {
        Ok(found) => client.open(&CX, &found.inode, flags).await,
        Err(_) => {
            let made = client.create(&CX, &root, name, flags, 0o600, 0).await;
            made.map(|(_, file)| file)
        }
    }
}

/// As close(2) does it.
async fn close(client: &Client, file: &Arc<File>, owner: u64) {
    // What cannot be said any more, the release says.
    drop(client.flush(&CX, file, owner).await);
    drop(client.release(&CX, file).await);
}

/// Takes everything at once, when nobody works any more: what could not be had.
async fn all_is_free(client: Arc<Client>) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(GRACE + SERVER_GRACE + 3 * PING_TIMEOUT);
    let mut left: Vec<usize> = (0..NAMES.len()).collect();
    let mut last = String::new();
    while !left.is_empty() && Instant::now() < end {
        let mut still = Vec::new();
        for name in left {
            let lock = Lock {
                owner: 99,
                pid: 0,
                kind: LockKind::Exclusive,
                start: 0,
                end: u64::MAX,
                flock: name == 2,
                ofd: name == 1,
            };
            let taken = async {
                let file = open(&client, name).await?;
                let taken = client.setlk(&CX, &file, &lock, false).await;
                let held = client.getlk(&CX, &file, &lock).await;
                let taken = taken.map_err(|error| {
                    let story = format!("{error}; held: {held:?}");
                    Error::with_story(error.errno(), story)
                });
                close(&client, &file, 99).await;
                taken
            };
            if let Err(error) = taken.await {
                last = error.to_string();
                still.push(name);
            }
        }
        left = still;
        sleep(Duration::from_millis(250)).await;
    }
    let names = left.into_iter().map(|name| NAMES[name].escape_ascii());
    names
        .map(|name| format!("a lock of `{name}` is had by nobody, and not free: {last}"))
        .collect()
}

fn run(seed: u64, harshness: Harshness) -> (Vec<String>, Vec<String>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let diary = Arc::new(Diary::default());
    let heard = diary.clone();
    let above = move |brick| -> Arc<dyn Translator> {
        let scribe = Scribe {
            below: brick,
            diary: heard.clone(),
        };
        Arc::new(Locks::new(Arc::new(scribe), Options::default()))
    };
    let (mut world, clients) = begin(&mut rng, seed, harshness, Box::new(above));
    let mut lockers = Vec::new();
    for (owner, client) in (1..=4).zip(clients.iter().cycle()) {
        let locker = Locker {
            client: client.clone(),
            diary: diary.clone(),
            rng: ChaCha8Rng::seed_from_u64(rng.random()),
            owner,
        };
        lockers.push(world.clients.spawn(locker.work(12)));
    }
    let mut wrong = world.see_through(lockers, harshness);
    wrong.extend(diary.wrong());
    let all = world.clients.spawn(all_is_free(clients[0].clone()));
    wrong.extend(world.wait(all, 1_000_000));
    wrong.extend(afterwards(&world, clients));
    (world.story, wrong)
}

#[test]
fn a_lock_keeps_others_out_though_lines_are_cut() {
    many(run, Harshness::Lines, 15);
}

#[test]
fn a_lock_keeps_others_out_though_servers_are_killed() {
    many(run, Harshness::Servers, 25);
}

#[test]
fn a_lock_keeps_others_out_or_its_loss_is_told() {
    many(run, Harshness::Long, 25);
}

#[test]
fn who_works_under_a_lock_of_another_is_found() {
    let diary = Diary::default();
    let lock = |owner, kind, start, end| Lock {
        owner,
        pid: 0,
        kind,
        start,
        end,
        flock: false,
        ofd: false,
    };
    let begin = |name, lock, whole| {
        let section = diary.begin(name, lock);
        diary.sections.lock()[section].whole = whole;
        section
    };
    let one = begin(0, lock(1, LockKind::Exclusive, 0, 1), true);
    let apart = begin(0, lock(2, LockKind::Exclusive, 2, 3), true);
    let elsewhere = begin(1, lock(2, LockKind::Exclusive, 0, 3), true);
    let lost = begin(0, lock(3, LockKind::Shared, 1, 1), false);
    let hears = |all: &[usize]| {
        *diary.heard.lock() = all.to_vec();
        diary.wrong().len()
    };
    assert_eq!(
        hears(&[one, apart, elsewhere, one, lost, lost, apart, elsewhere]),
        0
    );
    assert_eq!(hears(&[lost, one, one, lost]), 0, "it was told");
    assert_eq!(hears(&[one, lost, one]), 1);
}
