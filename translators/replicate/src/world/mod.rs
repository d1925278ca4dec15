//! A pair of trees in memory, users and a healer that take turns one operation at a time, and a
//! kill possible between any two. The code that runs here is the code that runs on disks.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;

use hermitfs_api::*;
use hermitfs_testkit::{BySteps, Memory};

use crate::heal::{Books, Healer, MARKER_DIR, STAGING};
use crate::ledger::{Ledger, Work};
use crate::leg::Leg;
use crate::record::Trust;
use crate::users::{UserLeg, Users};

mod deep;
mod exhaustive;
mod kernel;
mod panics;
mod power;
mod random;
mod several;
mod walks;

pub(crate) use kernel::Act;
use kernel::{Kernel, perform};

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
    bug: Option<Arc<Bug>>,
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
                let panics = self.bug.as_ref().and_then(|bug| bug.meets());
                if panics == Some(When::Before) {
                    panic_any(Planted);
                }
                let answer = self.below.$name($($arg),*).await;
                if panics == Some(When::After) {
                    panic_any(Planted);
                }
                answer
            })*
        }
    };
}
with_operations!(paced);

/// When an operation panics: before it is carried out, or after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    After,
}

/// What a panic says that was wanted.
struct Planted;

/// One operation of a healer that panics.
#[derive(Default)]
struct Bug(std::sync::Mutex<Option<(u32, When)>>);

impl Bug {
    fn meets(&self) -> Option<When> {
        let mut bug = self.0.lock().unwrap();
        let (left, when) = (*bug)?;
        *bug = left.checked_sub(1).map(|left| (left, when));
        bug.is_none().then_some(when)
    }
}

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;
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
    /// Healers, as threads would be, and what they work at.
    heals: [Option<(Work, Task<()>)>; HEALERS],
    bug: Arc<Bug>,
}

const USERS: usize = 2;
const HEALERS: usize = 4;

const ROOT: Context = Context::internal(Origin::Admin);

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
        let world = World::start(source, sink, Vec::new(), None);
        let root = block_on(world.source.root(&ROOT)).unwrap().inode;
        world.heal_turns.give(Turns::ALL);
        let known = block_on(world.healer.known(&root));
        world
            .leg
            .ledger(|ledger| ledger.plant_tree(&known, Trust::ALL, 0));
        world
    }

    /// Over what is on disk; `doubt` as [`crate::pair`] has it.
    fn start(
        source: Memory,
        sink: Memory,
        mut records: Vec<crate::record::Record>,
        doubt: Option<Trust>,
    ) -> World {
        let (source, sink) = (Arc::new(source), Arc::new(sink));
        block_on(source.role(Role::Source)).unwrap();
        let (user_turns, heal_turns) = (Arc::new(Turns::default()), Arc::new(Turns::default()));
        let bug = Arc::new(Bug::default());
        let paced = |below: &Arc<Memory>, turns: &Arc<Turns>| -> Arc<dyn Translator> {
            let heals = Arc::ptr_eq(turns, &heal_turns);
            // A compound may be seen, and killed, between any two of its steps.
            Arc::new(BySteps(Arc::new(Paced {
                below: below.clone(),
                turns: turns.clone(),
                bug: heals.then(|| bug.clone()),
            })))
        };
        let mut ledger = Ledger::default();
        ledger.replay(records.iter().cloned());
        let root = block_on(source.root(&ROOT)).unwrap().inode;
        if let Some(trust) = doubt {
            let known = block_on(crate::heal::known(&*source, &Default::default(), &root));
            ledger.doubt(&known, trust, false);
            records = ledger.dump();
            drop(ledger.take_records());
        }
        let leg = Arc::new(Leg::in_memory(ledger, records));
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
                copies: healer.copies.clone(),
            }],
            gate: Default::default(),
            rest: 0,
            leases: Default::default(),
            identities: Default::default(),
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
            bug,
        }
    }

    /// Ends the process where it stands, and starts it again over what is on disk.
    pub(crate) fn kill(self) -> World {
        let records = self.leg.kept();
        let (source, sink) = (self.source.fork(), self.sink.fork());
        World::start(source, sink, records, None)
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
            let (healer, its) = (self.healer.clone(), work.clone());
            let task = Box::pin(async move { heal(&healer, its).await });
            self.heals[which] = Some((work, task));
        }
        if let Some((work, task)) = &mut self.heals[which] {
            // As a healer's thread does it.
            let poll = AssertUnwindSafe(|| poll_once(task.as_mut()));
            match catch_unwind(poll) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(())) => self.heals[which] = None,
                Err(panic) if panic.is::<Planted>() => {
                    let work = work.clone();
                    self.heals[which] = None;
                    self.healer.panicked(&work);
                }
                Err(panic) => resume_unwind(panic),
            }
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
                // No healer's thread does this.
                let bug = self.bug.0.lock().unwrap().take();
                block_on(self.healer.sweep()).unwrap();
                *self.bug.0.lock().unwrap() = bug;
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
        let staged = format!("/{}/{}/", MARKER_DIR.escape_ascii(), STAGING.escape_ascii());
        let all = self.sink.tree();
        let left = all
            .0
            .keys()
            .filter(|path| path.starts_with(staged.as_bytes()));
        wrong.extend(left.map(|path| format!("nobody's: {}", path.escape_ascii())));
        wrong
    }
}

async fn heal(healer: &Healer, work: Work) {
    if let Err(trouble) = healer.heal(&work).await {
        panic!("the sink is in trouble: {trouble:?}");
    }
}
