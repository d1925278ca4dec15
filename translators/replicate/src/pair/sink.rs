//! One sink: its healing threads, its syncs, its troubles.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hermitfs_api::{Errno, block_on};
use parking_lot::{Mutex, RwLock};

use super::turn;
use crate::answers::Answers;
use crate::control::ObjectError;
use crate::drain::{Left, Speed};
use crate::heal::{Books, HEAL, Healer};
use crate::leg::Leg;
use crate::record::{Oid, Piece};
use crate::tally::Work;
use crate::trouble::{Side, Trouble};
use crate::volume::{BrickId, MarkerOn, Served};

/// By what a sink is known again.
pub(super) struct Identity {
    pub(super) marker: Arc<MarkerOn>,
    pub(super) brick: BrickId,
}

/// A sink and all that heals it.
pub(crate) struct Sink {
    pub(super) name: String,
    /// What people call it.
    pub(super) place: String,
    pub(super) identity: Identity,
    /// Held by who uses the sink, against its being let go meanwhile.
    pub(super) presence: RwLock<()>,
    pub(crate) leg: Arc<Leg>,
    pub(crate) healer: Arc<Healer>,
    pub(super) answers: Arc<Answers>,
    pub(super) trouble: Mutex<Option<Pause>>,
    /// One sync at a time; when the last one ended.
    syncing: Mutex<Instant>,
    /// The last sweep of the staging space came off.
    can_sweep: AtomicBool,
    samples: Mutex<VecDeque<(Instant, Work)>>,
    /// What a drain can be expected to do.
    pub(super) speed: Mutex<Speed>,
    /// How large files are of which all is to be copied, in the middle.
    pub(super) mean_size: AtomicU64,
    /// Bytes that were copied when the last sync ended.
    synced_at: AtomicU64,
    /// What the walk from the root had found when it came to its end.
    pub(super) goal: Mutex<Option<u64>>,
    /// What has no room, in words.
    pub(super) full: Mutex<Option<String>>,
    /// When the source came to be open to others.
    pub(super) left: OnceLock<Served>,
}

/// What the source is called: by the volfile, and by people.
pub(super) struct SourceName {
    pub(super) name: String,
    pub(super) place: String,
}

/// The sink as a whole is in trouble.
pub(super) struct Pause {
    pub(super) trouble: Trouble,
    pub(super) until: Instant,
    pub(super) wait: Duration,
    /// It was let go, and this is why it has not been taken up again.
    pub(super) absent: Option<String>,
}

impl Pause {
    /// For people.
    pub(super) fn reason(&self, sink: &str) -> String {
        let first = &self.trouble;
        let failed = format!("{sink} failed ({}: {})", first.operation, first.reason);
        match &self.absent {
            _ if !first.may_be_fatal() => failed,
            Some(why) if *why != first.reason => format!("{failed}; now: {why}. {ADVICE}"),
            _ => format!("{failed}. {ADVICE}"),
        }
    }
}

const ADVICE: &str = "It is let go: unmount it, repair it and mount it again at the same place, \
                      writable; healing then goes on by itself";

/// Longest pause between tries while a sink is in trouble.
pub(super) const PAUSE_AT_MOST: Duration = Duration::from_secs(5);

/// How long what was copied waits for its sync while there is more to do.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// And when there is nothing more to do.
const SYNC_IDLE: Duration = Duration::from_millis(300);

/// How long nothing is changed before the journal says so. The next change waits for the disk.
const CALM_AFTER: Duration = Duration::from_secs(10);

/// What a sync settles, when this is dropped: nothing, unless it has come off by then.
struct Cut<'a> {
    leg: &'a Leg,
    pieces: Vec<(Oid, Piece, u64)>,
    synced: bool,
}

impl Cut<'_> {
    fn of(leg: &Leg) -> Cut<'_> {
        Cut {
            leg,
            pieces: leg.ledger(|ledger| ledger.cut()),
            synced: false,
        }
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let (pieces, now) = (std::mem::take(&mut self.pieces), self.leg.now());
        self.leg
            .ledger(|ledger| ledger.seal(pieces, self.synced, now));
    }
}

impl Sink {
    pub(super) fn new(
        (name, place): (String, String),
        identity: Identity,
        leg: Arc<Leg>,
        healer: Arc<Healer>,
        answers: Arc<Answers>,
    ) -> Sink {
        Sink {
            name,
            place,
            identity,
            presence: RwLock::new(()),
            leg,
            healer,
            answers,
            trouble: Mutex::new(None),
            syncing: Mutex::new(Instant::now()),
            can_sweep: AtomicBool::new(true),
            samples: Mutex::default(),
            speed: Mutex::default(),
            mean_size: AtomicU64::new(0),
            synced_at: AtomicU64::new(0),
            goal: Mutex::default(),
            full: Mutex::default(),
            left: OnceLock::new(),
        }
    }

    /// What to tell of a sink that blocks.
    pub(super) fn silence(&self) -> Option<String> {
        let silent = self.answers.silent(Instant::now())?;
        Some(format!(
            "{} has not answered for {} s: healing goes on when it does",
            self.place,
            silent.as_secs()
        ))
    }

    pub(super) fn work(&self, stop: &AtomicBool, drain: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if let Some(wait) = self.paused() {
                self.leg.wait_work(wait.min(Duration::from_millis(200)));
                continue;
            }
            let present = self.presence.read();
            // What cannot be written down is not done.
            if self.is_lost() || !self.leg.is_noted() {
                drop(present);
                self.leg.wait_work(Duration::from_millis(200));
                continue;
            }
            let work = match self.leg.claim(drain.load(Ordering::Relaxed)) {
                Ok(work) => work,
                Err(idle) => {
                    drop(present);
                    self.leg.sleep(idle);
                    continue;
                }
            };
            self.healer.brake.ease();
            let at_work = self.healer.brake.at_work();
            let healed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                block_on(self.healer.heal(&work))
            }));
            drop(at_work);
            match healed {
                Ok(Ok(())) => self.well(),
                Ok(Err(trouble)) => self.unwell(trouble),
                Err(_) => {
                    tracing::error!(?work, "healing panicked");
                    self.healer.panicked(&work);
                }
            }
            self.leg.news.notify_all();
        }
    }

    pub(super) fn paused(&self) -> Option<Duration> {
        let pause = self.trouble.lock();
        let until = pause.as_ref()?.until;
        until
            .checked_duration_since(Instant::now())
            .filter(|wait| !wait.is_zero())
    }

    fn well(&self) {
        let mut pause = self.trouble.lock();
        // One try after a pause that comes off is proof enough.
        if pause
            .as_ref()
            .is_some_and(|pause| pause.until <= Instant::now() && !pause.trouble.may_be_fatal())
        {
            tracing::info!(place = self.place, "the new brick can be written again");
            *pause = None;
        }
    }

    fn unwell(&self, trouble: Trouble) {
        let mut pause = self.trouble.lock();
        let now = Instant::now();
        let wait = match &*pause {
            // The worse one stays.
            Some(pause) if pause.trouble.may_be_fatal() => return,
            Some(pause) if pause.until > now && !trouble.may_be_fatal() => return,
            Some(pause) => (pause.wait * 2).min(PAUSE_AT_MOST),
            None => {
                tracing::warn!(sink = self.name, reason = trouble.reason, "healing waits");
                Duration::from_millis(250)
            }
        };
        *pause = Some(Pause {
            trouble,
            until: now + wait,
            wait,
            absent: None,
        });
    }

    pub(super) fn settle(&self, stop: &AtomicBool, drain: &AtomicBool) {
        let (mut beat, mut rested) = (Instant::now(), None);
        while !stop.load(Ordering::Relaxed) {
            let hurry = drain.load(Ordering::Relaxed);
            self.leg
                .wait_news(Duration::from_millis(if hurry { 5 } else { 100 }));
            turn("settling", || {
                self.look_after(hurry, &mut beat, &mut rested)
            });
        }
    }

    /// One turn of that: what is due just now.
    fn look_after(&self, hurry: bool, beat: &mut Instant, rested: &mut Option<(Instant, u64)>) {
        self.sample();
        self.catch_up();
        if self.is_lost() {
            self.attend();
        }
        let now = self.leg.now();
        let (copied, open, unswept) = self.leg.ledger(|ledger| {
            ledger.verified();
            let open = ledger.is_open(now);
            (ledger.copied(), open, ledger.is_unswept())
        });
        if !open && let Some(found) = self.unfinished_verification() {
            tracing::info!(
                sink = self.name,
                objects = found.objects,
                bytes = found.bytes,
                differed = found.different,
                "compared on request"
            );
        }
        let age = self.syncing.lock().elapsed();
        let due = hurry && !open || age > SYNC_EVERY || (!open && age > SYNC_IDLE);
        if copied > 0 && due && !self.is_lost() {
            self.sync(false);
        }
        if unswept && self.can_sweep.load(Ordering::Relaxed) && !self.is_lost() {
            self.sweep();
            self.leg.news.notify_all();
        }
        self.rest(rested);
        if beat.elapsed() > Duration::from_secs(5) {
            *beat = Instant::now();
            if let Err(error) = self.heartbeat(false) {
                tracing::debug!(%error, "no heartbeat");
            }
            self.leg.tidy();
            if !self.is_lost() {
                self.sweep();
            }
        }
    }

    /// What a verification came to that has just come to its end.
    fn unfinished_verification(&self) -> Option<crate::heal::Compared> {
        let walked = self.leg.ledger(|ledger| ledger.trees() == 0);
        walked.then(|| self.healer.findings.conclude()).flatten()
    }

    fn sweep(&self) {
        let swept = block_on(self.healer.sweep());
        self.can_sweep.store(swept.is_ok(), Ordering::Relaxed);
        if let Err(setback) = swept {
            tracing::debug!(?setback, "the staging space is swept later");
        }
    }

    /// Whether all is healed, and yet what was of use for that is still to be taken off the sink, as it can be.
    pub(super) fn is_unswept(&self) -> bool {
        self.can_sweep.load(Ordering::Relaxed)
            && !self.is_lost()
            && self.leg.ledger(|ledger| ledger.is_unswept())
    }

    /// Says in the journal that all is calm, when nothing has been changed for a while: a power cut
    /// from then on has left nothing undone. `since` is when it came to rest, and at what.
    fn rest(&self, since: &mut Option<(Instant, u64)>) {
        let Some(at) = self.leg.rested() else {
            *since = None;
            return;
        };
        match *since {
            Some((from, before)) if before == at => {
                if from.elapsed() < CALM_AFTER || self.leg.is_calm() {
                    return;
                }
                // Again from the beginning where this fails.
                *since = None;
                let bricks = [&self.healer.sink, &self.healer.source];
                let synced = bricks.map(|brick| block_on(brick.sync(&HEAL)).is_ok());
                if synced == [true, true]
                    && let Err(error) = self.leg.calm_down(at)
                {
                    tracing::debug!(%error, "the journal cannot say that all is calm");
                }
            }
            _ => *since = Some((Instant::now(), at)),
        }
    }

    /// Notes when we served last, how far we were, and whether that was the end of it.
    pub(super) fn heartbeat(&self, clean: bool) -> std::io::Result<()> {
        let seen = self.healer.tally.seen();
        let healed = (seen.files, seen.bytes);
        let served = self.left.get().copied().unwrap_or_else(Served::now);
        self.leg.heartbeat(clean, served, healed)
    }

    pub(super) fn sync(&self, source_too: bool) {
        let mut last = self.syncing.lock();
        let _at_work = self.healer.brake.at_work();
        let mut cut = Cut::of(&self.leg);
        let written = source_too || !cut.pieces.is_empty();
        let began = Instant::now();
        let mut synced = block_on(self.healer.sink.sync(&HEAL));
        let copied = self.healer.tally.work().bytes;
        let since = self.synced_at.swap(copied, Ordering::Relaxed);
        let mut speed = self.speed.lock();
        speed.measure_sync(began.elapsed(), copied.saturating_sub(since));
        drop(speed);
        if let Err(error) = &synced {
            self.healer.suspect.store(true, Ordering::Relaxed);
            self.leg.suspect();
            self.unwell(Trouble::new(Side::Sink, "sync", error));
        }
        if synced.is_ok() && written {
            synced = block_on(self.healer.source.sync(&HEAL));
        }
        if let Err(error) = &synced {
            tracing::warn!(sink = self.name, %error, "a sync failed: what was copied is copied again");
        }
        cut.synced = synced.is_ok();
        drop(cut);
        self.leg.ledger(|ledger| {
            ledger.verified();
            let mut held = self.healer.held.lock();
            held.retain(|oid, _| ledger.locator(*oid).is_some());
        });
        *last = Instant::now();
        self.leg.news.notify_all();
    }

    fn sample(&self) {
        let now = Instant::now();
        let mut samples = self.samples.lock();
        let last = samples.back().copied();
        if last.is_some_and(|(at, _)| now - at < Duration::from_millis(500)) {
            return;
        }
        let work = self.healer.tally.work();
        samples.push_back((now, work));
        while samples.len() > 12 {
            samples.pop_front();
        }
        drop(samples);
        let Some((at, before)) = last else { return };
        let done = Left {
            places: work.made.saturating_sub(before.made),
            bytes: work.bytes.saturating_sub(before.bytes),
        };
        let brake = &self.healer.brake;
        let held_back = brake.limit().is_some() || brake.pace() < 1.0;
        self.speed.lock().measure(now - at, done, held_back);
        self.measure();
        self.make_room();
    }

    /// Tries what may have room by now, and says what has none.
    fn make_room(&self) {
        let short = match self.is_lost() {
            true => return,
            false => block_on(self.healer.try_short()),
        };
        let told = short.map(|(shortage, free)| shortage.told(&self.place, free));
        let mut full = self.full.lock();
        match (&*full, &told) {
            (None, Some(reason)) => tracing::warn!(reason, "some wait for room"),
            (Some(_), None) => tracing::info!(sink = self.name, "all that waited has room"),
            _ => {}
        }
        *full = told;
    }

    /// Files and bytes a second over the last seconds.
    pub(super) fn rates(&self) -> (f64, f64) {
        let samples = self.samples.lock();
        match (samples.front(), samples.back()) {
            (Some((t0, before)), Some((t1, work))) if t1 > t0 => {
                let seconds = (*t1 - *t0).as_secs_f64();
                let (f0, b0) = before.all();
                let (f1, b1) = work.all();
                (
                    f1.saturating_sub(f0) as f64 / seconds,
                    b1.saturating_sub(b0) as f64 / seconds,
                )
            }
            _ => (0.0, 0.0),
        }
    }

    pub(super) fn failures(&self, source: &SourceName) -> Vec<(Oid, Piece, ObjectError)> {
        let troubles: Vec<_> = self.leg.ledger(|ledger| {
            ledger
                .troubles()
                .map(|(oid, piece, trouble, waived)| (oid, piece.clone(), trouble.clone(), waived))
                .collect()
        });
        troubles
            .into_iter()
            .map(|(oid, piece, trouble, waived)| {
                let mut path = block_on(self.healer.path_of(oid));
                if let Piece::Name(name) = &piece {
                    if path.last() != Some(&b'/') {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name);
                }
                let (side, place) = match trouble.side {
                    Side::Source => (source.name.clone(), source.place.clone()),
                    Side::Sink => (self.name.clone(), self.place.clone()),
                };
                let error = ObjectError {
                    class: trouble.class,
                    path,
                    side,
                    place,
                    operation: trouble.operation.to_owned(),
                    errno: trouble.errno.and_then(Errno::name).map(str::to_owned),
                    reason: trouble.reason,
                    count: trouble.count,
                    since: trouble.since,
                    waived,
                };
                (oid, piece, error)
            })
            .collect()
    }
}
