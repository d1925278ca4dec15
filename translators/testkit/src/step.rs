use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use async_trait::async_trait;
use hermitfs_api::*;
use parking_lot::Mutex;

use crate::Chooser;

/// Where a run stops before it goes on, so that others can come in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Grain {
    /// Before each operation: the code after an operation runs in one step with it.
    #[default]
    Before,
    /// Also after each operation that changes something: finer, and many more orders.
    Around,
}

/// Holds the operations of a run and lets them through one at a time.
///
/// [`Stepper::gate`] puts a gate before a translator; [`Actors`] run futures that work through gates. Outside
/// of [`Actors::run`] gates are open: a test sets up and checks as if they were not there.
///
/// ```
/// use std::sync::Arc;
/// use hermitfs_api::{Context, Origin, Translator};
/// use hermitfs_testkit::{Actors, Bounds, End, Memory, Stepper, explore};
///
/// explore(Bounds { preemptions: 2, ..Bounds::default() }, |chooser| {
///     let memory = Arc::new(Memory::new());
///     let stepper = Stepper::new(chooser);
///     let brick = stepper.gate("brick", memory.clone());
///     let cx = Context::internal(Origin::User);
///     let mut actors = Actors::new(&stepper);
///     for name in ["one", "two"] {
///         let brick = brick.clone();
///         actors.add(name, async move {
///             let root = brick.root(&cx).await.unwrap();
///             brick.getattr(&cx, &root.inode, None).await.unwrap();
///         });
///     }
///     match actors.run_with_kills() {
///         End::Done => {}
///         End::Killed => { /* build everything anew over memory.fork(), and check */ }
///         End::Stuck(who) => panic!("{who:?} wait for each other"),
///     }
/// });
/// ```
#[derive(Clone)]
pub struct Stepper(Arc<Shared>);

struct Shared {
    chooser: Chooser,
    grain: Grain,
    /// Set while actors run; else gates are open.
    stepping: AtomicBool,
    killed: AtomicBool,
    kills: AtomicBool,
    /// One operation may pass.
    granted: AtomicBool,
    /// Somebody stands at a gate: set in a poll, looked at after it.
    waiting: AtomicBool,
    /// Something durable changed since a kill was last considered.
    changed: AtomicBool,
    actor: Mutex<&'static str>,
}

impl Stepper {
    /// For one run, with steps [`Grain::Before`] operations.
    pub fn new(chooser: &Chooser) -> Stepper {
        Stepper::with_grain(chooser, Grain::Before)
    }

    /// The same with another grain.
    pub fn with_grain(chooser: &Chooser, grain: Grain) -> Stepper {
        Stepper(Arc::new(Shared {
            chooser: chooser.clone(),
            grain,
            stepping: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            kills: AtomicBool::new(false),
            granted: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            changed: AtomicBool::new(true),
            actor: Mutex::new(""),
        }))
    }

    /// A gate before a translator; `label` is for the tale.
    pub fn gate(&self, label: &'static str, below: Arc<dyn Translator>) -> Arc<dyn Translator> {
        Arc::new(Gate {
            stepper: self.clone(),
            label,
            below,
        })
    }

    /// From now on nothing passes a gate any more: whoever stands at one waits for ever, and has to be
    /// dropped.
    pub fn kill(&self) {
        self.0.killed.store(true, Ordering::SeqCst);
    }

    /// Whether it was killed: a store of the test's own has to take nothing more then.
    pub fn is_killed(&self) -> bool {
        self.0.killed.load(Ordering::SeqCst)
    }

    /// A step that is no operation of a translator (an append to a journal, a pause): waits for its turn.
    pub async fn turn(&self, what: &'static str) {
        self.pass(|| what.to_string()).await;
        self.0.changed.store(true, Ordering::SeqCst);
    }

    /// The same in code that cannot wait, right before something becomes durable: false when
    /// the process is killed here or was before, and it must not. Considers a kill only within
    /// [`Actors::run_with_kills`].
    pub fn point(&self, what: &'static str) -> bool {
        let shared = &self.0;
        let considers =
            shared.stepping.load(Ordering::SeqCst) && shared.kills.load(Ordering::SeqCst);
        if !self.is_killed() && considers && shared.chooser.choose(2) == 1 {
            self.tell(|| format!("killed before {what}"));
            self.kill();
        }
        if !self.is_killed() {
            self.tell(|| what.to_string());
            shared.changed.store(true, Ordering::SeqCst);
        }
        !self.is_killed()
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        self.0
            .chooser
            .tell(|| format!("{:>8}  {}", *self.0.actor.lock(), what()));
    }

    async fn pass(&self, what: impl FnOnce() -> String) {
        Turn(&self.0).await;
        self.tell(what);
    }
}

/// Ready when this run grants a step to whoever polls it.
struct Turn<'a>(&'a Shared);

impl Future for Turn<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<()> {
        let shared = self.0;
        if shared.killed.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        if !shared.stepping.load(Ordering::SeqCst) || shared.granted.swap(false, Ordering::SeqCst) {
            return Poll::Ready(());
        }
        shared.waiting.store(true, Ordering::SeqCst);
        Poll::Pending
    }
}

/// A filter in which every operation waits for its turn. See [`Stepper`].
struct Gate {
    stepper: Stepper,
    label: &'static str,
    below: Arc<dyn Translator>,
}

macro_rules! gate {
    ($($(#[doc = $doc:literal])* $class:ident $fop:ident: fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        #[async_trait]
        impl Translator for Gate {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                self.stepper.pass(|| {
                    let args: Vec<String> = vec![$(brief(&$arg).to_string()),*];
                    format!("{} {} {}", self.label, Fop::$fop.name(), args.join(", "))
                }).await;
                let answer = self.below.$name($($arg),*).await;
                if let Err(error) = &answer {
                    self.stepper.tell(|| format!("    {error:?}"));
                }
                if Fop::$fop.changes() && answer.is_ok() {
                    self.stepper.0.changed.store(true, Ordering::SeqCst);
                    if self.stepper.0.grain == Grain::Around {
                        Turn(&self.stepper.0).await;
                    }
                }
                answer
            })*
        }
    };
}

hermitfs_api::with_operations!(gate);

/// How a run of [`Actors`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All are through.
    Done,
    /// The process was killed: nothing of it is left but what the bricks hold.
    Killed,
    /// These wait, and nobody is left who could wake them.
    Stuck(Vec<&'static str>),
}

/// Futures that take turns, one operation at a time, in an order that the [`Chooser`] chooses.
pub struct Actors<'a> {
    stepper: Stepper,
    actors: Vec<Actor<'a>>,
}

struct Actor<'a> {
    name: &'static str,
    future: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
    at_gate: bool,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Actor<'_> {
    fn can_go_on(&self) -> bool {
        self.future.is_some() && (self.at_gate || self.woken.0.load(Ordering::SeqCst))
    }
}

/// More steps than any run of a small model takes: it goes round in circles.
const MOST_STEPS: usize = 100_000;

impl<'a> Actors<'a> {
    /// None yet.
    pub fn new(stepper: &Stepper) -> Actors<'a> {
        Actors {
            stepper: stepper.clone(),
            actors: Vec::new(),
        }
    }

    /// Adds one. It first runs when it is chosen.
    pub fn add(&mut self, name: &'static str, future: impl Future<Output = ()> + 'a) {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        self.actors.push(Actor {
            name,
            future: Some(Box::pin(future)),
            at_gate: false,
            woken,
        });
    }

    /// Runs them until all are through or nobody can go on.
    pub fn run(self) -> End {
        self.go(false)
    }

    /// The same, with a kill possible at every step since the last change of anything durable.
    /// The futures are dropped then; nothing of theirs reaches a brick any more.
    pub fn run_with_kills(self) -> End {
        self.go(true)
    }

    fn go(mut self, kills: bool) -> End {
        let shared = self.stepper.0.clone();
        let _open_again = OpenAgain(&shared);
        shared.stepping.store(true, Ordering::SeqCst);
        shared.kills.store(kills, Ordering::SeqCst);
        let mut preemptions = shared.chooser.preemptions();
        let mut last = None;
        for _ in 0..MOST_STEPS {
            if self.stepper.is_killed() {
                return End::Killed;
            }
            let mut able: Vec<usize> = (0..self.actors.len())
                .filter(|&i| self.actors[i].can_go_on())
                .collect();
            if able.is_empty() {
                let left = self.actors.iter().filter(|actor| actor.future.is_some());
                let left: Vec<_> = left.map(|actor| actor.name).collect();
                return if left.is_empty() {
                    End::Done
                } else {
                    End::Stuck(left)
                };
            }
            // Who ran last comes first, and alone when it may not be taken off any more.
            let goes_on = last.filter(|last| able.contains(last));
            if let Some(last) = goes_on {
                able.retain(|&i| i != last && preemptions > 0);
                able.insert(0, last);
            }
            let killable = kills && shared.changed.swap(false, Ordering::SeqCst);
            let choice = shared.chooser.choose(able.len() + usize::from(killable));
            let Some(&chosen) = able.get(choice) else {
                self.stepper.tell(|| "killed".into());
                self.stepper.kill();
                return End::Killed;
            };
            preemptions -= usize::from(goes_on.is_some_and(|last| last != chosen));
            last = Some(chosen);
            self.step(chosen);
        }
        panic!("{MOST_STEPS} steps and no end");
    }

    fn step(&mut self, chosen: usize) {
        let shared = &self.stepper.0;
        let actor = &mut self.actors[chosen];
        *shared.actor.lock() = actor.name;
        shared.granted.store(actor.at_gate, Ordering::SeqCst);
        shared.waiting.store(false, Ordering::SeqCst);
        actor.woken.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(actor.woken.clone());
        if let Some(future) = &mut actor.future
            && future
                .as_mut()
                .poll(&mut TaskContext::from_waker(&waker))
                .is_ready()
        {
            actor.future = None;
        }
        shared.granted.store(false, Ordering::SeqCst);
        actor.at_gate = shared.waiting.load(Ordering::SeqCst);
        *shared.actor.lock() = "";
    }
}

/// Opens the gates when a run is over, also by a panic; a kill stays.
struct OpenAgain<'a>(&'a Shared);

impl Drop for OpenAgain<'_> {
    fn drop(&mut self) {
        self.0.stepping.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::task::Poll;

    use super::*;
    use crate::{Bounds, Memory, explore};

    const CX: Context = Context::internal(Origin::User);

    fn name(text: &str) -> &Name {
        Name::new(text.as_bytes()).unwrap()
    }

    /// Reads a number from a file, and writes it back one higher: two steps.
    async fn count(brick: &dyn Translator, file: &Arc<File>) {
        let mut number = [0];
        brick.read(&CX, file, 0, &mut number).await.unwrap();
        brick.write(&CX, file, 0, &[number[0] + 1]).await.unwrap();
    }

    fn counter(memory: &Memory) -> Arc<File> {
        block_on(async {
            let root = memory.root(&CX).await.unwrap().inode;
            let made = memory
                .create(&CX, &root, name("n"), OpenFlags::READ_WRITE, 0o600, 0)
                .await;
            let file = made.unwrap().1;
            memory.write(&CX, &file, 0, &[0]).await.unwrap();
            file
        })
    }

    fn counted(memory: &Memory, file: &Arc<File>) -> u8 {
        let mut number = [0];
        block_on(memory.read(&CX, file, 0, &mut number)).unwrap();
        number[0]
    }

    fn outcomes(bounds: Bounds) -> (BTreeSet<u8>, u64) {
        let mut all = BTreeSet::new();
        let explored = explore(bounds, |chooser| {
            let memory = Arc::new(Memory::new());
            let stepper = Stepper::new(chooser);
            let brick = stepper.gate("brick", memory.clone());
            let file = counter(&memory);
            let mut actors = Actors::new(&stepper);
            actors.add("a", count(&*brick, &file));
            actors.add("b", count(&*brick, &file));
            assert_eq!(actors.run(), End::Done);
            all.insert(counted(&memory, &file));
        });
        assert!(explored.complete);
        (all, explored.paths)
    }

    #[test]
    fn a_lost_update_is_found_and_needs_one_preemption() {
        let (all, unbounded) = outcomes(Bounds::default());
        assert_eq!(all, BTreeSet::from([1, 2]));
        // Each has three steps (up to the gate, read, write): 6 over 3 orders.
        assert_eq!(unbounded, 20);
        let (all, paths) = outcomes(Bounds {
            preemptions: 0,
            ..Bounds::default()
        });
        assert_eq!((all, paths), (BTreeSet::from([2]), 2));
        assert_eq!(
            outcomes(Bounds {
                preemptions: 1,
                ..Bounds::default()
            })
            .0
            .len(),
            2
        );
    }

    #[test]
    fn a_kill_is_possible_after_every_change_and_nothing_passes_after_it() {
        let mut ends = Vec::new();
        explore(Bounds::default(), |chooser| {
            let memory = Arc::new(Memory::new());
            let stepper = Stepper::new(chooser);
            let brick = stepper.gate("brick", memory.clone());
            let file = counter(&memory);
            let mut actors = Actors::new(&stepper);
            actors.add("a", async {
                count(&*brick, &file).await;
                if stepper.point("journal") {
                    count(&*brick, &file).await;
                }
            });
            let end = actors.run_with_kills();
            ends.push((end == End::Killed, counted(&memory, &file)));
            if end == End::Killed {
                let root = block_on(memory.root(&CX)).unwrap().inode;
                let made = brick.mkdir(&CX, &root, name("late"), 0o700, 0);
                assert!(poll_once(std::pin::pin!(made)).is_pending());
            }
        });
        ends.sort();
        // At the point, after either count's write, and before anything; the last write ends it.
        assert_eq!(ends, [(false, 2), (true, 0), (true, 1), (true, 1)]);
    }

    #[test]
    fn who_waits_for_another_actor_goes_on_when_woken_and_else_is_stuck() {
        explore(Bounds::default(), |chooser| {
            let stepper = Stepper::new(chooser);
            let flag: RefCell<(bool, Option<Waker>)> = RefCell::default();
            let wait = || {
                std::future::poll_fn(|cx| {
                    let mut flag = flag.borrow_mut();
                    flag.1 = Some(cx.waker().clone());
                    if flag.0 {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
            };
            let mut actors = Actors::new(&stepper);
            actors.add("waits", wait());
            actors.add("wakes", async {
                stepper.turn("a step").await;
                let mut flag = flag.borrow_mut();
                flag.0 = true;
                if let Some(waker) = flag.1.take() {
                    waker.wake();
                }
            });
            assert_eq!(actors.run(), End::Done);
            flag.borrow_mut().0 = false;
            let mut actors = Actors::new(&stepper);
            actors.add("waits", wait());
            assert_eq!(actors.run(), End::Stuck(vec!["waits"]));
        });
    }
}
