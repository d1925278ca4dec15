//! A source and its sinks as one volume.

mod away;
mod carry;
mod doubt;
mod end;
mod open;
mod progress;
mod sink;
mod status;
mod toll;
mod waive;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use hermitfs_api::{Kind, Location, Translator, block_on};
use parking_lot::Mutex;

pub use self::carry::{Carried, Held, NotCarried};
pub use self::end::unmark;
use self::progress::Counting;
use self::sink::{Sink, SourceName};
use crate::answers::{Unanswered, within};
use crate::backoff::WINDOW;
use crate::brake::{Brake, Rate};
use crate::control::{Difference, Goal, ObjectError, OpenError, Reached, SinkNumber, Verified};
use crate::heal::{Books, HEAL};
use crate::options::Options;
use crate::record::Trust;
use crate::tally::Amount;
use crate::users::Users;

/// A source and its sinks. See the crate's page.
pub struct Replicate {
    pub(crate) users: Users,
    pub(crate) sinks: Vec<Arc<Sink>>,
    brake: Arc<Brake>,
    source: SourceName,
    id: String,
    /// It began with this very opening.
    is_new: bool,
    since: SystemTime,
    state_dir: PathBuf,
    workers: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Arc<AtomicBool>,
    drain: Arc<AtomicBool>,
    /// How much the source has, as counted last.
    counted: Mutex<Option<Amount>>,
}

/// How long healing may take to end, and a sync to come to its end, before that is left to itself.
const HALT_AT_MOST: Duration = Duration::from_secs(120);
const SYNC_AT_MOST: Duration = Duration::from_secs(120);

impl Replicate {
    /// Opens or goes on with a pair. Blocks on I/O; to be called before the mount is there.
    /// `state_base` is the directory in which each migration has one of its own, by its id.
    pub fn open(
        options: Options,
        source: (String, Arc<dyn Translator>),
        sinks: Vec<(String, Arc<dyn Translator>)>,
        state_base: &Path,
    ) -> Result<Arc<Replicate>, OpenError> {
        block_on(open::open(options, source, sinks, state_base))
    }

    /// Starts the healing threads. Each calls `on_thread` first: what the program wants of a thread
    /// that works beside users.
    pub fn start(self: &Arc<Self>, on_thread: fn()) {
        let mut threads = self.threads.lock();
        for sink in &self.sinks {
            for n in 0..self.workers {
                let (sink, stop, drain) = (sink.clone(), self.stop.clone(), self.drain.clone());
                let name = format!("heal-{n}");
                threads.extend(spawn(name, move || {
                    on_thread();
                    sink.work(&stop, &drain);
                }));
            }
            let (sink, stop, drain) = (sink.clone(), self.stop.clone(), self.drain.clone());
            threads.extend(spawn("settle".into(), move || sink.settle(&stop, &drain)));
        }
        let (brake, stop) = (self.brake.clone(), self.stop.clone());
        threads.extend(spawn("pace".into(), move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(WINDOW);
                turn("the judgement of the pace", || brake.judge());
            }
        }));
        let (pair, stop) = (Arc::downgrade(self), self.stop.clone());
        threads.extend(spawn("count".into(), move || {
            let mut counting = Counting::new(Instant::now());
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                let Some(pair) = pair.upgrade() else { return };
                turn("counting", || pair.count(&mut counting));
            }
        }));
    }

    /// Whether this migration began with this opening, and not before.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Ends healing, syncs, and closes the state cleanly: the volume must not be used after it.
    pub fn stop(&self) {
        let ended = self.halt();
        for sink in &self.sinks {
            let syncing = sink.clone();
            let synced = match ended {
                true => within(SYNC_AT_MOST, move || syncing.sync(true)),
                false => Err(Unanswered::Late(HALT_AT_MOST)),
            };
            if let Err(why) = synced {
                tracing::error!(
                    place = sink.place,
                    %why,
                    "the new brick is left without a sync, and compared later"
                );
                continue;
            }
            sink.leg.tidy();
            if let Err(error) = sink.heartbeat(true) {
                tracing::warn!(%error, "the journal cannot be closed in good order");
            }
        }
    }

    /// From now on the source may be changed without us: what is changed later than this is looked
    /// at by the next start, however long it takes to stop.
    pub fn left(&self) {
        let now = crate::volume::Served::now();
        for sink in &self.sinks {
            let _ = sink.left.set(now);
        }
    }

    /// How many bytes a second healing may copy; `None` for no limit.
    pub fn limit(&self) -> Option<Rate> {
        self.brake.limit()
    }

    /// Changes that at once, until the end of this process.
    pub fn set_limit(&self, limit: Option<Rate>) {
        self.brake.set_limit(limit);
    }

    /// Ends the threads. False when some wait for a sink that does not answer: they end when it
    /// does, without another word to it.
    fn halt(&self) -> bool {
        self.brake.lift(true);
        self.stop.store(true, Ordering::Relaxed);
        for sink in &self.sinks {
            sink.healer.stop.store(true, Ordering::Relaxed);
            sink.leg.work.notify_all();
        }
        let until = Instant::now() + HALT_AT_MOST;
        let mut ended = true;
        for thread in std::mem::take(&mut *self.threads.lock()) {
            while !thread.is_finished() && !self.is_silent() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !thread.is_finished() {
                ended = false;
            } else if thread.join().is_err() {
                tracing::error!("a healing thread had died");
            }
        }
        ended
    }

    fn is_silent(&self) -> bool {
        let now = Instant::now();
        let mut answers = self.sinks.iter().map(|sink| &sink.answers);
        answers.any(|answers| answers.silent(now).is_some())
    }

    /// Where this migration keeps its state: `<state_base>/<volume-id>`.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Whether this is the root of a sink, as it is healed just now.
    pub fn is_sink(&self, sink: SinkNumber, dev: u64, ino: u64) -> bool {
        let root = self
            .sinks
            .get(sink.0)
            .and_then(|s| s.healer.sink_root().ok());
        root.is_some_and(|root| {
            let identity = root.identity();
            (identity.dev, identity.ino) == (dev, ino)
        })
    }

    /// Each object that could not be healed.
    pub fn errors(&self) -> Vec<ObjectError> {
        let mut errors = Vec::new();
        for sink in &self.sinks {
            for (.., error) in sink.failures(&self.source) {
                errors.push(error);
            }
        }
        errors
    }

    /// Crawls (a part of) the tree now. `full` compares the content of everything again.
    pub fn heal(&self, at: &Location, full: bool) -> hermitfs_api::Result<Goal> {
        let source = &*self.users.source;
        let (mut dir, mut here) = (self.users.root.clone(), self.users.root.clone());
        for name in &at.path {
            dir = here.clone();
            here = block_on(source.lookup(&HEAL, &here, name))?.inode;
        }
        let mut goal = Goal::default();
        for sink in &self.sinks {
            let healer = &sink.healer;
            let now = sink.leg.now();
            goal.before.push(match full {
                true => healer.findings.begin(),
                false => healer.findings.so_far(),
            });
            if here.kind() == Kind::Directory {
                let known = block_on(healer.known(&here));
                // What is settled needs no second look, unless that is asked for.
                let trust = if full { Trust::NOTHING } else { Trust::ALL };
                if full || sink.leg.ledger(|ledger| ledger.trees() == 0) {
                    sink.leg.ledger(|ledger| {
                        if at.path.is_empty() {
                            // All is counted once more.
                            healer.tally.begin();
                        }
                        match full {
                            true => ledger.plant_verification(&known, now),
                            false => ledger.plant_tree(&known, trust, now),
                        }
                    });
                }
            } else if let Some(name) = at.path.last() {
                let known = block_on(healer.known(&here));
                let parent = block_on(healer.known(&dir));
                let bytes = name.as_bytes().into();
                sink.leg.ledger(|ledger| {
                    if !full {
                        ledger.mark_name(&parent, &bytes, now);
                        return;
                    }
                    // It proves nothing to find what is known to differ.
                    if ledger.body_unmarked(known.oid) && !ledger.name_marked(parent.oid, &bytes) {
                        healer.findings.ask_for(known.oid);
                    }
                    ledger.mark_body(&known, Some(crate::ranges::Ranges::WHOLE), now);
                });
            }
            goal.marks.push(sink.leg.ledger(|ledger| {
                ledger.set_resting(false);
                ledger.retry_all(now);
                ledger.now_mark()
            }));
            sink.leg.work.notify_all();
        }
        Ok(goal)
    }

    /// How far a goal is.
    pub fn reached(&self, goal: &Goal) -> Reached {
        let (mut open, mut failed) = (0, 0);
        for (sink, &goal) in self.sinks.iter().zip(&goal.marks) {
            let (its_open, its_failed) = sink.leg.ledger(|ledger| ledger.left_before(goal));
            open += its_open + u64::from(sink.is_unswept());
            failed += its_failed;
        }
        match (open, failed) {
            (0, 0) => Reached::Yes,
            (0, failed) => Reached::Failed(failed),
            _ => Reached::No,
        }
    }

    /// What was compared for a goal so far, and what of it differed although it was thought equal.
    pub fn verified(&self, goal: &Goal) -> Verified {
        let mut all = Verified::default();
        for (sink, &before) in self.sinks.iter().zip(&goal.before) {
            let findings = &sink.healer.findings;
            let its = findings.so_far().since(before);
            all.objects += its.objects;
            all.bytes += its.bytes;
            all.different += its.different;
            let named = findings.named_since(before).into_iter();
            all.differences.extend(named.map(|(path, what)| Difference {
                path,
                sink: sink.name.clone(),
                what,
            }));
        }
        all
    }

    /// Blocks until something that [`Replicate::status`] tells has changed, at most this long.
    pub fn wait_change(&self, at_most: Duration) {
        match self.sinks.first() {
            Some(sink) => sink.leg.wait_news(at_most),
            None => std::thread::sleep(at_most),
        }
    }
}

/// How long a thread waits that has panicked, before it goes on.
const AFTER_PANIC: Duration = Duration::from_millis(500);

/// One turn of a thread without which nothing comes to its end: a panic ends the turn, and not the thread.
fn turn(what: &str, run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        tracing::error!("{what} panicked: it is tried again");
        std::thread::sleep(AFTER_PANIC);
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name).spawn(run);
    thread
        .inspect_err(|error| tracing::error!(%error, "no thread to be had"))
        .ok()
}

impl hermitfs_api::Filter for Replicate {
    /// What users do goes through [`Users`], which writes every operation out.
    fn below(&self) -> &dyn Translator {
        &self.users
    }
}
