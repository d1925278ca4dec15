//! A pair of trees in memory, users and a healer that take turns one operation at a time, and a
//! kill possible between any two. The code that runs here is the code that runs on disks.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;

use hermitfs_api::*;
use hermitfs_testkit::Memory;
use parking_lot::Mutex;

use crate::heal::{Books, Healer, MARKER_DIR, STAGING};
use crate::ledger::{Ledger, Work};
use crate::leg::Leg;
use crate::record::Trust;
use crate::users::{UserLeg, Users};

/// Whether every step is to be told.
fn told() -> bool {
    std::env::var_os("HERMITFS_STEPS").is_some()
}

/// Operations that an actor may still do before it has to wait.
#[derive(Default)]
pub(crate) struct Turns(AtomicI64);

impl Turns {
    const ALL: i64 = i64::MAX / 2;

    fn give(&self, turns: i64) {
        self.0.store(turns, Ordering::Relaxed);
    }

    async fn turn(&self) {
        std::future::poll_fn(|_| {
            if self.0.load(Ordering::Relaxed) > 0 {
                self.0.fetch_sub(1, Ordering::Relaxed);
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await
    }
}

/// Waits for a turn before each operation.
struct Paced {
    below: Arc<Memory>,
    turns: Arc<Turns>,
}

macro_rules! paced {
    ($($(#[doc = $doc:literal])* $class:ident $fop:ident: fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        #[async_trait]
        impl Translator for Paced {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                self.turns.turn().await;
                let _told = told().then(|| {
                    let mut line = format!("      {}", stringify!($name));
                    $(line += &format!(" {:?}", $arg);)*
                    eprintln!("{line}");
                });
                self.below.$name($($arg),*).await
            })*
        }
    };
}
with_operations!(paced);

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a user does, by paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Create(&'static str),
    Write(&'static str, u64, u8),
    Truncate(&'static str, u64),
    Mkdir(&'static str),
    Unlink(&'static str),
    Rmdir(&'static str),
    Rename(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    Link(&'static str, &'static str),
    Symlink(&'static str),
    Chmod(&'static str, u32),
    Xattr(&'static str, u8),
}

/// Source, sink, users, healer.
pub(crate) struct World {
    pub(crate) source: Arc<Memory>,
    pub(crate) sink: Arc<Memory>,
    leg: Arc<Leg>,
    healer: Arc<Healer>,
    users: Arc<Users>,
    user_turns: Arc<Turns>,
    heal_turns: Arc<Turns>,
    /// Users at work, as processes would be.
    tasks: [Option<Task<()>>; USERS],
    kernel: Arc<Kernel>,
    /// Healers, as threads would be.
    heals: [Option<Task<()>>; HEALERS],
}

const USERS: usize = 2;
const HEALERS: usize = 4;

/// What the kernel does above a mount: who changes names in a directory has it for himself, and
/// so has who gives or takes a name the file; one at a time moves things between directories.
#[derive(Default)]
struct Kernel(Mutex<HashSet<(u64, u64)>>);

fn numbers(inode: &Arc<Inode>) -> (u64, u64) {
    (inode.identity().dev, inode.identity().ino)
}

struct Locked<'a>(&'a Kernel, Vec<(u64, u64)>);

impl Kernel {
    /// What is no directory under this name.
    async fn lock_named(
        &self,
        volume: &dyn Translator,
        names: &[(&Arc<Inode>, &Name)],
    ) -> Locked<'_> {
        let mut found = Vec::new();
        for (dir, name) in names {
            if let Ok(entry) = volume.lookup(&USER, dir, name).await
                && entry.inode.kind() != Kind::Directory
            {
                found.push(entry.inode);
            }
        }
        self.hold(found.iter().map(numbers).collect()).await
    }

    async fn lock(&self, dirs: &[&Arc<Inode>]) -> Locked<'_> {
        let mut wanted: Vec<_> = dirs.iter().copied().map(numbers).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.len() > 1 {
            wanted.push((0, 0));
        }
        self.hold(wanted).await
    }

    async fn hold(&self, wanted: Vec<(u64, u64)>) -> Locked<'_> {
        std::future::poll_fn(|_| {
            let mut held = self.0.lock();
            if wanted.iter().any(|dir| held.contains(dir)) {
                return Poll::Pending;
            }
            held.extend(wanted.iter().copied());
            Poll::Ready(())
        })
        .await;
        Locked(self, wanted)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let mut held = self.0.0.lock();
        held.retain(|dir| !self.1.contains(dir));
    }
}

const ROOT: Context = Context::internal(Origin::Admin);
const USER: Context = Context {
    uid: 0,
    gid: 0,
    pid: 1,
    origin: Origin::User,
};

impl World {
    /// A source made by `acts`, and an empty sink.
    pub(crate) fn new(acts: &[Act]) -> World {
        let (source, sink) = (Memory::with_dev(1), Memory::with_dev(2));
        for act in acts {
            block_on(perform(&source, &Kernel::default(), act.clone()))
                .unwrap_or_else(|e| panic!("{act:?}: {e}"));
        }
        let root = block_on(sink.root(&ROOT)).unwrap().inode;
        let ours = Name::new(MARKER_DIR).unwrap();
        let dir = block_on(sink.mkdir(&ROOT, &root, ours, 0o700, 0))
            .unwrap()
            .inode;
        block_on(sink.mkdir(&ROOT, &dir, Name::new(STAGING).unwrap(), 0o700, 0)).unwrap();
        let world = World::start(source, sink, Vec::new());
        let root = block_on(world.source.root(&ROOT)).unwrap().inode;
        world.heal_turns.give(Turns::ALL);
        let known = block_on(world.healer.known(&root));
        world
            .leg
            .ledger(|ledger| ledger.plant_tree(&known, Trust::ALL, 0));
        world
    }

    fn start(source: Memory, sink: Memory, records: Vec<crate::record::Record>) -> World {
        let (source, sink) = (Arc::new(source), Arc::new(sink));
        block_on(source.role(Role::Source)).unwrap();
        let (user_turns, heal_turns) = (Arc::new(Turns::default()), Arc::new(Turns::default()));
        let paced = |below: &Arc<Memory>, turns: &Arc<Turns>| -> Arc<dyn Translator> {
            Arc::new(Paced {
                below: below.clone(),
                turns: turns.clone(),
            })
        };
        let mut ledger = Ledger::default();
        records
            .iter()
            .cloned()
            .for_each(|record| ledger.replay(record));
        let leg = Arc::new(Leg::in_memory(ledger, records));
        let root = block_on(source.root(&ROOT)).unwrap().inode;
        let sink_root = block_on(sink.root(&ROOT)).unwrap().inode;
        let look = |dir: &Arc<Inode>, name: &[u8]| {
            block_on(sink.lookup(&ROOT, dir, Name::new(name).unwrap()))
                .unwrap()
                .inode
        };
        let staging = look(&look(&sink_root, MARKER_DIR), STAGING);
        let healer = Arc::new(Healer::new(
            (paced(&source, &heal_turns), root.clone()),
            (paced(&sink, &heal_turns), sink_root, staging),
            leg.clone(),
            Arc::default(),
            1,
        ));
        heal_turns.give(Turns::ALL);
        block_on(healer.sweep_unknown()).unwrap();
        let users = Arc::new(Users {
            source: paced(&source, &user_turns),
            root,
            legs: vec![UserLeg {
                leg: leg.clone(),
                held: healer.held.clone(),
            }],
            gate: Default::default(),
            rest: 0,
            leases: Default::default(),
        });
        World {
            source,
            sink,
            leg,
            healer,
            users,
            user_turns,
            heal_turns,
            tasks: Default::default(),
            kernel: Arc::default(),
            heals: Default::default(),
        }
    }

    /// Ends the process where it stands, and starts it again over what is on disk.
    pub(crate) fn kill(self) -> World {
        let records = self.leg.kept();
        let (source, sink) = (self.source.fork(), self.sink.fork());
        World::start(source, sink, records)
    }

    /// Something that was done while nobody watched; nothing where it cannot be done.
    fn before(&self, act: &Act) -> Option<String> {
        let done = block_on(perform(&*self.source, &Kernel::default(), act.clone()));
        done.is_ok().then(|| format!("before: {act:?}"))
    }

    /// Starts an operation of a user; it goes on with [`World::step_user`].
    pub(crate) fn begin(&mut self, act: Act) {
        self.begin_as(0, act);
    }

    fn begin_as(&mut self, who: usize, act: Act) {
        assert!(self.tasks[who].is_none());
        let (users, kernel) = (self.users.clone(), self.kernel.clone());
        self.tasks[who] = Some(Box::pin(async move {
            // What fails natively fails here: that is the user's own affair.
            drop(perform(&*users, &kernel, act).await);
        }));
    }

    pub(crate) fn has_user(&self) -> bool {
        self.tasks.iter().any(Option::is_some)
    }

    /// The user does at most so many operations at the source.
    pub(crate) fn step_user(&mut self, turns: i64) {
        self.step_user_at(0, turns);
    }

    fn step_user_at(&mut self, who: usize, turns: i64) {
        self.user_turns.give(turns);
        if let Some(task) = &mut self.tasks[who]
            && poll_once(task.as_mut()).is_ready()
        {
            self.tasks[who] = None;
        }
    }

    /// All users come to the end of what they do.
    fn finish_users(&mut self) {
        while self.has_user() {
            (0..USERS).for_each(|who| self.step_user_at(who, Turns::ALL));
        }
    }

    pub(crate) fn act(&mut self, act: Act) {
        self.begin(act);
        self.step_user(Turns::ALL);
        assert!(!self.has_user());
    }

    /// The first healer does at most so many operations at either brick; `false` when there was
    /// nothing to do.
    pub(crate) fn step_heal(&mut self, turns: i64) -> bool {
        self.step_healer(0, turns)
    }

    /// The same for either of the two.
    pub(crate) fn step_healer(&mut self, which: usize, turns: i64) -> bool {
        self.heal_turns.give(turns);
        if self.heals[which].is_none() {
            let now = self.leg.now();
            let Ok(work) = self.leg.ledger(|ledger| ledger.claim_next(now, true)) else {
                return false;
            };
            if told() {
                eprintln!("{which}: {work:?}");
            }
            let healer = self.healer.clone();
            self.heals[which] = Some(Box::pin(async move { heal(&healer, work).await }));
        }
        if let Some(task) = &mut self.heals[which]
            && poll_once(task.as_mut()).is_ready()
        {
            self.heals[which] = None;
        }
        true
    }

    pub(crate) fn sync(&mut self, succeeds: bool) {
        let now = self.leg.now();
        self.leg.ledger(|ledger| {
            let cut = ledger.cut();
            ledger.seal(cut, succeeds, now);
        });
    }

    /// Heals to the end; panics when there is none.
    pub(crate) fn settle(&mut self) {
        for _ in 0..3000 {
            // One may wait for what another holds.
            let mut others = false;
            for which in 1..HEALERS {
                others |= self.heals[which].is_some() && self.step_healer(which, Turns::ALL);
            }
            if self.step_heal(Turns::ALL) || others {
                continue;
            }
            self.sync(true);
            // Nothing open is out of sight of those who heal.
            let now = self.leg.now();
            let lost = self.leg.ledger(|ledger| {
                ledger.copied() == 0 && ledger.pending() > 0 && !ledger.is_open(now + 100_000)
            });
            assert!(!lost, "something is open and will never be tried again");
            if self.leg.ledger(|ledger| ledger.pending()) == 0 {
                self.heal_turns.give(Turns::ALL);
                block_on(self.healer.sweep()).unwrap();
                return;
            }
            self.leg.advance(50);
        }
        let left = self.leg.ledger(|ledger| format!("{:?}", ledger.dump()));
        let troubles: Vec<_> = self.leg.ledger(|ledger| {
            ledger
                .troubles()
                .map(|(oid, piece, t, _)| format!("{oid:?} {piece:?} {t:?}"))
                .collect()
        });
        panic!("healing comes to no end: {left} {troubles:?}");
    }

    /// Nothing pending and no error: the trees are equal, nothing of ours is left over.
    pub(crate) fn check(&self) -> Vec<String> {
        let (source, sink) = (self.source.tree(), self.sink.tree_without(&[".hermitfs"]));
        let mut wrong = hermitfs_testkit::Tree::diff(&source, &sink);
        let troubles = self.leg.ledger(|ledger| ledger.errors());
        if troubles > 0 {
            wrong.push(format!("{troubles} errors"));
        }
        let stages = self.leg.ledger(|ledger| ledger.stages());
        if !stages.is_empty() {
            wrong.push(format!("left in the staging space: {stages:?}"));
        }
        wrong
    }
}

async fn heal(healer: &Healer, work: Work) {
    if let Err(trouble) = healer.heal(&work).await {
        panic!("the sink is in trouble: {trouble:?}");
    }
}

async fn walk(volume: &dyn Translator, path: &str) -> Result<(Arc<Inode>, NameBuf)> {
    let mut dir = volume.root(&USER).await?.inode;
    let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
    for name in above.split('/').filter(|name| !name.is_empty()) {
        dir = volume
            .lookup(&USER, &dir, Name::new(name.as_bytes())?)
            .await?
            .inode;
    }
    if dir.kind() != Kind::Directory {
        return Err(Error::new(Errno::ENOTDIR));
    }
    Ok((dir, NameBuf::new(last.as_bytes())?))
}

async fn find(volume: &dyn Translator, path: &str) -> Result<Arc<Inode>> {
    let (dir, name) = walk(volume, path).await?;
    Ok(volume.lookup(&USER, &dir, &name).await?.inode)
}

async fn perform(volume: &dyn Translator, kernel: &Kernel, act: Act) -> Result<()> {
    match act {
        Act::Create(path) => {
            let (dir, name) = walk(volume, path).await?;
            let _locked = kernel.lock(&[&dir]).await;
            let flags = OpenFlags::WRITE;
            let (_, file) = volume.create(&USER, &dir, &name, flags, 0o644, 0).await?;
            volume.release(&USER, &file).await
        }
        Act::Write(path, at, byte) => {
            let inode = find(volume, path).await?;
            let file = volume.open(&USER, &inode, OpenFlags::WRITE).await?;
            volume.write(&USER, &file, at, &[byte; 10]).await?;
            volume.release(&USER, &file).await
        }
        Act::Truncate(path, size) => {
            let inode = find(volume, path).await?;
            let set = SetAttr {
                size: Some(size),
                ..SetAttr::default()
            };
            volume.setattr(&USER, &inode, None, &set).await.map(drop)
        }
        Act::Mkdir(path) => {
            let (dir, name) = walk(volume, path).await?;
            let _locked = kernel.lock(&[&dir]).await;
            volume.mkdir(&USER, &dir, &name, 0o755, 0).await.map(drop)
        }
        Act::Unlink(path) => {
            let (dir, name) = walk(volume, path).await?;
            let _locked = kernel.lock(&[&dir]).await;
            let _file = kernel.lock_named(volume, &[(&dir, &name)]).await;
            volume.unlink(&USER, &dir, &name).await
        }
        Act::Rmdir(path) => {
            let (dir, name) = walk(volume, path).await?;
            let _locked = kernel.lock(&[&dir]).await;
            volume.rmdir(&USER, &dir, &name).await
        }
        Act::Rename(from, to) | Act::Exchange(from, to) => {
            let flags = match act {
                Act::Exchange(..) => RenameFlags::Exchange,
                _ => RenameFlags::Replace,
            };
            let ((dir, name), (to, new)) = (walk(volume, from).await?, walk(volume, to).await?);
            let _locked = kernel.lock(&[&dir, &to]).await;
            let _files = kernel
                .lock_named(volume, &[(&dir, &name), (&to, &new)])
                .await;
            volume.rename(&USER, &dir, &name, &to, &new, flags).await
        }
        Act::Link(from, to) => {
            let inode = find(volume, from).await?;
            if inode.kind() == Kind::Directory {
                return Err(Error::new(Errno::EPERM));
            }
            let (dir, name) = walk(volume, to).await?;
            let _locked = kernel.lock(&[&dir]).await;
            let _file = kernel.hold(vec![numbers(&inode)]).await;
            volume.link(&USER, &inode, &dir, &name).await.map(drop)
        }
        Act::Symlink(path) => {
            let (dir, name) = walk(volume, path).await?;
            let _locked = kernel.lock(&[&dir]).await;
            volume
                .symlink(&USER, &dir, &name, b"target")
                .await
                .map(drop)
        }
        Act::Chmod(path, mode) => {
            let inode = find(volume, path).await?;
            let set = SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            };
            volume.setattr(&USER, &inode, None, &set).await.map(drop)
        }
        Act::Xattr(path, value) => {
            let inode = find(volume, path).await?;
            volume
                .setxattr(&USER, &inode, b"user.x", &[value], XattrFlags::Any)
                .await
        }
    }
}

mod random {
    use rand::prelude::*;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const PATHS: &[&str] = &[
        "a", "b", "d", "e", "d/a", "d/b", "e/a", "e/b", "d/s", "d/s/a", "d/s/t", "e/s", "e/s/a",
        "e/s/t/a", "d/s/t/a", "d/e", "d/e/a", "e/d", "e/d/a",
    ];

    pub(crate) fn act(rng: &mut ChaCha8Rng) -> Act {
        let path = *PATHS.choose(rng).unwrap();
        let other = *PATHS.choose(rng).unwrap();
        match rng.random_range(0..24) {
            0..3 => Act::Create(path),
            3..5 => Act::Write(path, rng.random_range(0..3) * 5000, rng.random()),
            5 => Act::Truncate(path, rng.random_range(0..3) * 4000),
            6..8 => Act::Mkdir(path),
            8..10 => Act::Unlink(path),
            10 => Act::Rmdir(path),
            11..16 => Act::Rename(path, other),
            16..18 => Act::Exchange(path, other),
            18..21 => Act::Link(path, other),
            21 => Act::Symlink(path),
            22 => Act::Chmod(path, 0o600 + rng.random_range(0..8)),
            _ => Act::Xattr(path, rng.random()),
        }
    }

    /// Everybody comes to an end; what is wrong then.
    fn ended(mut world: World) -> Vec<String> {
        world.finish_users();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.settle()));
        let mut wrong = world.check();
        if let Err(panic) = caught {
            // Of an assertion, of a panic with arguments, or something without words.
            let told = panic.downcast_ref::<&str>().map(|told| (*told).to_owned());
            let told = told.or_else(|| panic.downcast_ref::<String>().cloned());
            wrong.push(told.unwrap_or_default());
        }
        wrong
    }

    /// One run: the steps that were taken, and what was wrong at the end.
    fn run(seed: u64, kills: bool) -> (Vec<String>, Vec<String>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut steps = Vec::new();
        let mut world = World::new(&[]);
        for _ in 0..rng.random_range(0..15) {
            let act = act(&mut rng);
            steps.extend(world.before(&act));
        }
        if rng.random_bool(0.5) {
            world.settle();
            steps.push("settled".into());
        }
        for _ in 0..rng.random_range(1..25) {
            match rng.random_range(0..if kills { 26 } else { 24 }) {
                0..10 => {
                    if world.has_user() {
                        world.step_user(Turns::ALL);
                    }
                    let act = act(&mut rng);
                    steps.push(format!("{act:?}"));
                    world.begin(act);
                    if rng.random_bool(0.7) {
                        world.step_user(Turns::ALL);
                    } else {
                        let turns = rng.random_range(0..12);
                        world.step_user(turns);
                        steps.push(format!("  of it {turns} operations: {}", !world.has_user()));
                    }
                }
                10..20 => {
                    let turns = rng.random_range(1..40);
                    let which = usize::from(rng.random_bool(0.4));
                    let any = world.step_healer(which, turns);
                    steps.push(format!("healer {which} {turns}: {any}"));
                }
                20..22 => {
                    let mut n = 0;
                    while n < 20 && world.step_heal(Turns::ALL) {
                        n += 1;
                    }
                    steps.push(format!("heal {n} objects"));
                }
                22..24 => {
                    let good = rng.random_bool(0.8);
                    world.sync(good);
                    world.leg.advance(rng.random_range(0..300));
                    let now = world.leg.now();
                    if rng.random_bool(0.3) {
                        world.leg.ledger(|ledger| ledger.retry_all(now));
                    }
                    steps.push(format!("sync {good}"));
                }
                _ => {
                    steps.push("kill".into());
                    world = world.kill();
                }
            }
        }
        (steps, ended(world))
    }

    const DEEP: &[&str] = &[
        "d", "e", "d/s", "e/s", "d/s/t", "e/s/t", "d/t", "e/t", "d/a", "e/b", "d/s/a", "e/s/b",
        "d/s/t/a", "e/s/t/b", "d/t/a", "d/e", "e/d", "d/e/s", "e/d/s", "d/e/s/t",
    ];

    /// Trees that are full, directories that move and are exchanged without a pause, and everybody
    /// at work at once, an operation or two at a time.
    fn storm(seed: u64, kills: bool) -> (Vec<String>, Vec<String>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut steps = Vec::new();
        let mut world = World::new(&[]);
        for path in DEEP {
            let act = match path.ends_with(['a', 'b']) {
                true => Act::Create(path),
                false => Act::Mkdir(path),
            };
            if rng.random_bool(0.8) {
                steps.extend(world.before(&act));
            }
        }
        if rng.random_bool(0.8) {
            world.settle();
            steps.push("settled".into());
        }
        for _ in 0..rng.random_range(20..200) {
            match rng.random_range(0..if kills { 201 } else { 200 }) {
                0..60 => {
                    let who = rng.random_range(0..USERS);
                    if world.tasks[who].is_none() {
                        let (path, other) = (
                            *DEEP.choose(&mut rng).unwrap(),
                            *DEEP.choose(&mut rng).unwrap(),
                        );
                        let act = match rng.random_range(0..12) {
                            0..6 => Act::Rename(path, other),
                            6..9 => Act::Exchange(path, other),
                            9 => Act::Link(path, other),
                            10 => Act::Mkdir(path),
                            _ => Act::Create(path),
                        };
                        steps.push(format!("user {who} {act:?}"));
                        world.begin_as(who, act);
                    }
                    let turns = rng.random_range(1..20);
                    if told() {
                        eprintln!("   user {who}: {:?}", steps.last());
                    }
                    world.step_user_at(who, turns);
                    steps.push(format!(
                        "user {who} {turns}: {}",
                        world.tasks[who].is_none()
                    ));
                }
                60..195 => {
                    let (which, turns) = (rng.random_range(0..HEALERS), rng.random_range(1..8));
                    if told() {
                        eprintln!("   healer {which}");
                    }
                    let any = world.step_healer(which, turns);
                    steps.push(format!("healer {which} {turns}: {any}"));
                }
                195..200 => {
                    let good = rng.random_bool(0.8);
                    world.sync(good);
                    world.leg.advance(rng.random_range(0..300));
                    let now = world.leg.now();
                    if rng.random_bool(0.3) {
                        world.leg.ledger(|ledger| ledger.retry_all(now));
                    }
                    steps.push(format!("sync {good}"));
                }
                _ => {
                    steps.push("kill".into());
                    world = world.kill();
                }
            }
        }
        (steps, ended(world))
    }

    fn many(run: fn(u64, bool) -> (Vec<String>, Vec<String>), kills: bool, count: u64) {
        let base: u64 = std::env::var("HERMITFS_SEED").map_or(0, |s| s.parse().unwrap());
        let count = std::env::var("HERMITFS_RUNS").map_or(count, |s| s.parse().unwrap());
        let mut shortest: Option<(u64, Vec<String>, Vec<String>)> = None;
        let mut failed = 0;
        for seed in base..base + count {
            let (steps, wrong) = run(seed, kills);
            if !wrong.is_empty() {
                failed += 1;
                if shortest
                    .as_ref()
                    .is_none_or(|(_, s, _)| steps.len() < s.len())
                {
                    shortest = Some((seed, steps, wrong));
                }
            }
        }
        if let Some((seed, steps, wrong)) = shortest {
            panic!("{failed} of {count} runs failed; seed {seed}:\n{steps:#?}\n{wrong:#?}");
        }
    }

    #[test]
    fn whatever_users_do_while_it_heals_both_trees_are_equal_at_the_end() {
        many(run, false, 20_000);
    }

    #[test]
    fn killed_at_any_moment_nothing_is_lost_and_both_trees_are_equal_at_the_end() {
        many(run, true, 20_000);
    }

    #[test]
    fn directories_moved_and_exchanged_by_several_users_under_several_healers() {
        many(storm, false, 10_000);
    }

    #[test]
    fn the_same_killed_again_and_again() {
        many(storm, true, 10_000);
    }
}

mod exhaustive {
    use super::*;

    /// Small, but with all that is hard: a file with two names, a directory in a directory.
    const BEFORE: &[Act] = &[
        Act::Create("a"),
        Act::Write("a", 0, 1),
        Act::Link("a", "b"),
        Act::Mkdir("d"),
        Act::Create("d/c"),
        Act::Write("d/c", 0, 2),
        Act::Mkdir("d/s"),
        Act::Create("d/s/f"),
        Act::Write("d/s/f", 0, 3),
        Act::Mkdir("e"),
    ];

    const ACTS: &[Act] = &[
        Act::Write("a", 5, 9),
        Act::Truncate("d/c", 3),
        Act::Chmod("d/s", 0o711),
        Act::Create("e/n"),
        Act::Unlink("a"),
        Act::Unlink("d/c"),
        Act::Link("d/c", "e/l"),
        Act::Link("b", "d/l"),
        Act::Rename("a", "d/c"),
        Act::Rename("d/c", "e/c"),
        Act::Rename("d/s", "e/s"),
        Act::Rename("d/s", "s"),
        Act::Rename("d", "e/d"),
        Act::Rename("d", "e"),
        Act::Rename("e", "d/s/e"),
        Act::Rename("s", "d/s"),
        Act::Rename("e/d/s", "d"),
        Act::Rename("e/s/f", "f"),
        Act::Exchange("d", "e"),
        Act::Exchange("d/s", "e"),
        Act::Exchange("a", "d/c"),
        Act::Exchange("d/s/f", "e"),
        Act::Rmdir("e"),
        Act::Mkdir("d/c"),
    ];

    /// The healer's operations that one healing of everything open takes.
    fn lengths(world: &mut World) -> usize {
        let mut length = 0;
        while world.step_heal(1) {
            length += 1;
            assert!(length < 10_000);
        }
        length
    }

    fn settled() -> World {
        let mut world = World::new(BEFORE);
        world.settle();
        world
    }

    /// Every two acts, with the second after every operation of healing the first.
    #[test]
    fn any_two_operations_with_the_second_at_every_step_of_healing_the_first() {
        let mut runs = 0;
        for first in ACTS {
            let mut world = settled();
            world.act(first.clone());
            let length = lengths(&mut world);
            for second in ACTS {
                for at in 0..=length {
                    let mut world = settled();
                    world.act(first.clone());
                    (0..at).for_each(|_| {
                        world.step_heal(1);
                    });
                    world.act(second.clone());
                    world.settle();
                    let wrong = world.check();
                    assert!(
                        wrong.is_empty(),
                        "{first:?}, {at} steps, {second:?}: {wrong:#?}"
                    );
                    runs += 1;
                }
            }
        }
        println!("{runs} runs");
    }

    /// Every two acts, and a kill after every operation of healing both.
    #[test]
    fn any_two_operations_and_a_kill_at_every_step_of_healing_them() {
        let mut runs = 0;
        for first in ACTS {
            for second in ACTS {
                let mut world = settled();
                world.act(first.clone());
                world.act(second.clone());
                for at in 0..=lengths(&mut world) {
                    let mut world = settled();
                    world.act(first.clone());
                    world.act(second.clone());
                    (0..at).for_each(|_| {
                        world.step_heal(1);
                    });
                    let mut world = world.kill();
                    world.settle();
                    let wrong = world.check();
                    assert!(
                        wrong.is_empty(),
                        "{first:?}, {second:?}, kill at {at}: {wrong:#?}"
                    );
                    runs += 1;
                }
            }
        }
        println!("{runs} runs");
    }

    /// Every act, killed at each of its own operations, and again at each step of the healing.
    #[test]
    fn any_operation_killed_half_way_and_the_healing_killed_at_every_step() {
        let mut runs = 0;
        for act in ACTS {
            for half in 0..20 {
                let begun = || {
                    let mut world = settled();
                    world.begin(act.clone());
                    world.step_user(half);
                    let over = !world.has_user();
                    (world.kill(), over)
                };
                let (mut world, over) = begun();
                for at in 0..=lengths(&mut world) {
                    let mut world = begun().0;
                    (0..at).for_each(|_| {
                        world.step_heal(1);
                    });
                    let mut world = world.kill();
                    world.settle();
                    let wrong = world.check();
                    assert!(
                        wrong.is_empty(),
                        "{act:?} cut at {half}, kill at {at}: {wrong:#?}"
                    );
                    runs += 1;
                }
                if over {
                    break;
                }
            }
        }
        println!("{runs} runs");
    }

    /// The first crawl, with an act at each of its steps, and a kill some steps later.
    #[test]
    fn any_operation_at_every_step_of_the_first_crawl() {
        let length = lengths(&mut World::new(BEFORE));
        let mut runs = 0;
        for act in ACTS {
            for at in 0..=length {
                for kill in [None, Some(3), Some(17)] {
                    let mut world = World::new(BEFORE);
                    (0..at).for_each(|_| {
                        world.step_heal(1);
                    });
                    world.act(act.clone());
                    if let Some(steps) = kill {
                        (0..steps).for_each(|_| {
                            world.step_heal(1);
                        });
                        world = world.kill();
                    }
                    world.settle();
                    let wrong = world.check();
                    assert!(
                        wrong.is_empty(),
                        "{act:?} at {at}, kill {kill:?}: {wrong:#?}"
                    );
                    runs += 1;
                }
            }
        }
        println!("{runs} runs, {length} steps");
    }
}
