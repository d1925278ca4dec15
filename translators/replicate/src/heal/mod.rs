//! Making the sink equal at one marked place: state-driven, idempotent, and careful about what
//! it writes into and what it takes away.

mod claim;
mod data;
mod directory;
mod flags;
mod footing;
mod full;
mod hints;
mod image;
mod losses;
mod meta;
mod object;
mod reserve;
mod rest;
mod several;
mod share;
#[cfg(test)]
mod shared;
mod slot;
mod staging;
mod verify;
mod ways;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_lock::{Mutex as AsyncMutex, Semaphore};
use hermitfs_api::{Context, Entry, Errno, Handle, Inode, Kind, Name, Origin, Result, Translator};
use parking_lot::{Mutex, RwLock};

use crate::brake::Brake;
use crate::copies::Copies;
use crate::ledger::{Known, Ledger, Outcome, Work};
use crate::record::{Bytes, Locator, Oid, Piece, Trust};
use crate::room::Room;
use crate::shares::Shares;
use crate::tally::Tally;
use crate::trouble::{Blame, Setback, Step, Trouble};

pub(crate) use footing::Footing;
pub(crate) use staging::{MARKER_DIR, STAGING};
pub(crate) use verify::{Compared, Findings};

/// Our own traffic.
pub(crate) const HEAL: Context = Context::internal(Origin::Heal);

/// The name that mkfs leaves on ext file systems.
const LOST_FOUND: &[u8] = b"lost+found";

fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, |processors| processors.get().max(2))
}

/// Something that keeps a ledger, and writes down what changes in it.
pub(crate) trait Books: Send + Sync {
    fn with(&self, change: &mut dyn FnMut(&mut Ledger));
    fn now(&self) -> u64;
}

/// Objects of a source without handles, by identity.
pub(crate) type Held = Arc<Mutex<HashMap<Oid, Arc<Inode>>>>;

/// One source, one sink, and the ledger between them.
pub(crate) struct Healer {
    pub(crate) source: Arc<dyn Translator>,
    pub(crate) sink: Arc<dyn Translator>,
    pub(crate) source_root: Arc<Inode>,
    /// `None` while the sink is let go.
    footing: RwLock<Option<Footing>>,
    probes: AtomicU64,
    /// A sync of the sink has failed: what reading it tells may never have come to its disk, so
    /// nothing is taken for equal because it reads so.
    pub(crate) suspect: AtomicBool,
    pub(crate) books: Arc<dyn Books>,
    /// Objects of a source that has no handles, held while they have marks.
    pub(crate) held: Held,
    /// Files that are being copied just now.
    pub(crate) copies: Copies,
    /// What verifications have found.
    pub(crate) findings: Findings,
    /// Ways down that were found of late.
    ways: ways::Ways,
    /// Directories that were not found, and how often.
    missed: Mutex<HashMap<Oid, u8>>,
    /// The limit on copying.
    pub(crate) brake: Arc<Brake>,
    /// As many make images at a time as there are processors: a file system's own locks make more
    /// of them slower. Reading the source is no part of it.
    making: Semaphore,
    /// One at a time moves images about.
    moves: AsyncMutex<()>,
    /// What the sink has room for.
    room: Mutex<Room>,
    pub(crate) tally: Tally,
    pub(crate) stop: AtomicBool,
    /// Threads that share one big file.
    pub(crate) lanes: usize,
    /// What the source's files share, and where it is on the sink.
    shares: Shares,
    /// Whether the source tells where its files' space is, as far as is known.
    source_tells: AtomicBool,
    /// Whether files can share space on the sink, as far as is known.
    sink_shares: AtomicBool,
    /// Whether space can be reserved there, as far as is known.
    sink_reserves: AtomicBool,
}

impl Healer {
    pub(crate) fn new(
        source: (Arc<dyn Translator>, Arc<Inode>),
        sink: (Arc<dyn Translator>, Arc<Inode>, Arc<Inode>),
        books: Arc<dyn Books>,
        brake: Arc<Brake>,
        lanes: usize,
    ) -> Healer {
        Healer {
            source: source.0,
            source_root: source.1,
            sink: sink.0,
            footing: RwLock::new(Some(Footing {
                root: sink.1,
                staging: sink.2,
            })),
            probes: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
            books,
            held: Held::default(),
            copies: Copies::new(brake.clone()),
            findings: Findings::default(),
            ways: ways::Ways::default(),
            missed: Mutex::default(),
            brake,
            making: Semaphore::new(processors()),
            moves: AsyncMutex::new(()),
            room: Mutex::default(),
            tally: Tally::default(),
            stop: AtomicBool::new(false),
            lanes,
            shares: Shares::default(),
            source_tells: AtomicBool::new(true),
            sink_shares: AtomicBool::new(true),
            sink_reserves: AtomicBool::new(true),
        }
    }

    pub(crate) fn ledger<R>(&self, change: impl FnOnce(&mut Ledger) -> R) -> R {
        let (mut change, mut answer) = (Some(change), None);
        self.books.with(&mut |ledger| {
            if let Some(change) = change.take() {
                answer = Some(change(ledger));
            }
        });
        match answer {
            Some(answer) => answer,
            None => unreachable!("books run the change that they are given"),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.books.now()
    }

    /// Heals what was claimed. `Err` only when the sink as a whole is in trouble.
    pub(crate) async fn heal(&self, work: &Work) -> std::result::Result<(), Trouble> {
        let done = match work.kind {
            Kind::Directory => self.directory(work).await,
            _ => self.object(work).await,
        };
        let done = match done {
            Err(setback) => Err(self.weigh(setback).await),
            done => done,
        };
        if matches!(done, Err(Setback::Sink(_) | Setback::Object(_))) {
            self.forget_ways();
        }
        let now = self.now();
        let answer = match done {
            Ok(()) => Ok(()),
            Err(Setback::Sink(trouble)) => {
                self.all(work, || Outcome::Later(100));
                Err(trouble)
            }
            Err(Setback::Later(wait)) => {
                self.all(work, || Outcome::Later(wait));
                Ok(())
            }
            Err(Setback::Behind(oid, piece)) => {
                self.all(work, || Outcome::Behind(oid, piece.clone()));
                Ok(())
            }
            Err(Setback::Full(need)) => {
                self.all(work, || Outcome::Full(need));
                Ok(())
            }
            Err(Setback::Object(trouble)) => {
                self.all(work, || Outcome::Failed(trouble.clone()));
                Ok(())
            }
        };
        self.ledger(|ledger| {
            ledger.release(work.oid, now);
            if ledger.locator(work.oid).is_none() {
                self.held.lock().remove(&work.oid);
            }
        });
        answer
    }

    /// Healing it panicked. What was claimed on the way has been let go of; what was claimed for it is here.
    pub(crate) fn panicked(&self, work: &Work) {
        // Nobody knows what was about to be written there.
        self.forget_ways();
        let now = self.now();
        self.ledger(|ledger| ledger.panicked(work, now));
    }

    /// The same outcome for every piece of some work.
    fn all(&self, work: &Work, outcome: impl Fn() -> Outcome) {
        let now = self.now();
        self.ledger(|ledger| {
            if let Some(body) = &work.body {
                ledger.finish(work.oid, &Piece::Body, body.generation, outcome(), now);
            }
            if let Some((generation, _)) = work.tree {
                ledger.finish(work.oid, &Piece::Tree, generation, outcome(), now);
            }
            for (name, generation) in &work.names {
                ledger.finish(
                    work.oid,
                    &Piece::Name(name.clone()),
                    *generation,
                    outcome(),
                    now,
                );
            }
        });
    }

    /// The source's object with this identity; `None` when it is gone.
    async fn find(&self, oid: Oid, locator: &Locator) -> Step<Option<Entry>> {
        let held = self.held.lock().get(&oid).cloned();
        let found = match (held, &locator.handle) {
            (Some(inode), _) => self
                .source
                .getattr(&HEAL, &inode, None)
                .await
                .map(|attr| Entry { inode, attr }),
            (None, Some(handle)) => self.source.resolve(&HEAL, &Handle::new(handle)).await,
            (None, None) => return Ok(None),
        };
        match found {
            Ok(entry) if Oid::from(entry.inode.identity()) != oid => Ok(None),
            Ok(entry) if entry.attr.nlink == 0 => Ok(None),
            Ok(entry) => Ok(Some(entry)),
            Err(error) if error.errno() == Errno::ESTALE => Ok(None),
            Err(error) => Err(error).at_source("find"),
        }
    }

    /// Whether a directory was not found several times on end. To forget its marks when it lives is
    /// to lose what they stand for; and while users move the directories above it, a brick may
    /// fail to find it once.
    fn surely_gone(&self, oid: Oid) -> bool {
        let mut missed = self.missed.lock();
        let times = missed.entry(oid).or_insert(0u8);
        *times += 1;
        let sure = *times > 3;
        if sure {
            missed.remove(&oid);
        }
        sure
    }

    /// A marked object was not found. What had a handle is gone for good. What had none, and is
    /// not held any more, cannot be told from it: the whole tree is compared.
    async fn not_there(&self, work: &Work) {
        if work.locator.handle.is_none() && !self.held.lock().contains_key(&work.oid) {
            let root = self.known(&self.source_root).await;
            let now = self.now();
            self.ledger(|ledger| {
                ledger.set_unverified();
                ledger.plant_tree(&root, Trust::NOTHING, now);
            });
        }
        self.ledger(|ledger| ledger.forget(work.oid));
    }

    /// What the ledger has to know to mark an object of the source.
    pub(crate) async fn known(&self, inode: &Arc<Inode>) -> Known {
        known(&*self.source, &self.held, inode).await
    }

    /// Whether an object that has lost something is not on the source any more.
    pub(crate) async fn is_gone(&self, oid: Oid, locator: &Locator) -> bool {
        locator.handle.is_some() && matches!(self.find(oid, locator).await, Ok(None))
    }

    /// A path for people, with a leading slash.
    pub(crate) async fn path_of(&self, oid: Oid) -> Vec<u8> {
        let locator = self
            .ledger(|ledger| ledger.locator(oid).or_else(|| ledger.locator_of_loss(oid)))
            .unwrap_or_default();
        let located = match self.find(oid, &locator).await {
            Ok(Some(entry)) => self.source.locate(&HEAL, &entry.inode).await.ok(),
            _ => None,
        };
        let located = match (located, &locator.whence) {
            (Some(location), _) => location,
            (None, Some((dir, name))) => match self.by_whence(dir, name).await {
                Ok(location) => location,
                Err(_) => return b"?".to_vec(),
            },
            (None, None) => return b"?".to_vec(),
        };
        let mut path = Vec::new();
        for name in &located.path {
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
        }
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    async fn by_whence(&self, dir: &[u8], name: &[u8]) -> Result<hermitfs_api::Location> {
        let dir = self.source.resolve(&HEAL, &Handle::new(dir)).await?;
        let mut location = self.source.locate(&HEAL, &dir.inode).await?;
        location.path.push(crate::record::name_of(name)?);
        Ok(location)
    }

    fn is_source_root(&self, inode: &Inode) -> bool {
        inode.identity() == self.source_root.identity()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What the ledger has to know of an object: how to find it again. Where the source has no
/// handles the object is held in memory.
pub(crate) async fn known(source: &dyn Translator, held: &Held, inode: &Arc<Inode>) -> Known {
    let oid = Oid::from(inode.identity());
    let handle = handle_of(source, inode).await;
    if handle.is_none() {
        held.lock().insert(oid, inode.clone());
    }
    let (mut whence, mut at) = (None, None);
    if inode.kind() != Kind::Directory
        && let Ok((dir, name)) = source.whence(&HEAL, inode).await
        && let Some(handle) = handle_of(source, &dir).await
    {
        whence = Some((handle, name.as_bytes().into()));
        at = Some(Oid::from(dir.identity()));
    }
    Known {
        oid,
        kind: inode.kind(),
        locator: Locator { handle, whence },
        dir: at,
    }
}

pub(crate) async fn handle_of(brick: &dyn Translator, inode: &Arc<Inode>) -> Option<Bytes> {
    brick
        .handle(&HEAL, inode)
        .await
        .ok()
        .map(|handle| handle.as_bytes().into())
}

/// Looks a name up; that there is none is an answer.
async fn look(brick: &dyn Translator, dir: &Arc<Inode>, name: &Name) -> Result<Option<Entry>> {
    match brick.lookup(&HEAL, dir, name).await {
        Ok(entry) => Ok(Some(entry)),
        Err(error) if error.errno() == Errno::ENOENT => Ok(None),
        Err(error) => Err(error),
    }
}

/// A name in a directory, and what the directory itself tells of it.
struct Listed {
    ino: u64,
    kind: Option<Kind>,
    name: Bytes,
}

/// All names of a directory, without the dots.
async fn list(brick: &dyn Translator, dir: &Arc<Inode>) -> Result<Vec<Listed>> {
    let (mut names, mut from) = (Vec::new(), 0);
    loop {
        let some = brick.readdir(&HEAL, dir, from, 1024, false).await?;
        match some.last() {
            Some(last) => from = last.next,
            None => return Ok(names),
        }
        let some = some.into_iter().filter(|entry| !entry.is_dots());
        names.extend(some.map(|entry| Listed {
            ino: entry.ino,
            kind: entry.kind,
            name: entry.name,
        }));
    }
}

/// A healer between two bricks, with a ledger of its own that is empty.
#[cfg(test)]
fn between(source: Arc<dyn Translator>, sink: Arc<dyn Translator>) -> Healer {
    use crate::leg::Leg;

    let root = |brick: &dyn Translator| {
        let root = hermitfs_api::block_on(brick.root(&HEAL));
        root.expect("a brick in memory has a root").inode
    };
    let (source_root, sink_root) = (root(&*source), root(&*sink));
    Healer::new(
        (source, source_root),
        (sink, sink_root.clone(), sink_root),
        Arc::new(Leg::in_memory(Ledger::default(), Vec::new())),
        Arc::default(),
        1,
    )
}
