//! A source and its sinks as one volume: opened, healed by threads, frozen, retired.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hermitfs_api::{Errno, Error, Inode, Kind, Location, Role, Time, Translator, block_on};
use parking_lot::Mutex;

use crate::control::{Goal, NotReady, ObjectError, OpenError, Reached, Status};
use crate::heal::{Books, HEAL, Healer};
use crate::journal::{Header, Journal, VERSION};
use crate::ledger::Ledger;
use crate::leg::{Leg, boot_id};
use crate::options::Options;
use crate::record::{Oid, Piece, Trust};
use crate::trouble::{Side, Trouble};
use crate::users::{UserLeg, Users};
use crate::volume::{self, Found, Marker, io};

/// A sink and all that heals it.
pub(crate) struct Sink {
    name: String,
    pub(crate) leg: Arc<Leg>,
    pub(crate) healer: Arc<Healer>,
    trouble: Mutex<Option<Pause>>,
    /// One sync at a time; when the last one ended.
    syncing: Mutex<Instant>,
    samples: Mutex<VecDeque<(Instant, u64, u64)>>,
    /// Objects a second, the best so far: what a drain can be expected to do.
    best_rate: AtomicU64,
}

/// The sink as a whole is in trouble.
struct Pause {
    trouble: Trouble,
    until: Instant,
    wait: Duration,
}

/// A source and its sinks. See the crate's page.
pub struct Replicate {
    pub(crate) users: Users,
    pub(crate) sinks: Vec<Arc<Sink>>,
    source_name: String,
    id: String,
    since: SystemTime,
    state_dir: PathBuf,
    workers: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Arc<AtomicBool>,
    drain: Arc<AtomicBool>,
    /// Files and bytes of the source, once counted.
    scouted: Arc<Mutex<Option<(u64, u64)>>>,
}

/// Longest pause between tries while a sink is in trouble.
const PAUSE_AT_MOST: Duration = Duration::from_secs(5);

/// How long what was copied waits for its sync while there is more to do.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// And when there is nothing more to do.
const SYNC_IDLE: Duration = Duration::from_millis(300);

/// Before a forecast is worth the reading.
const COUNT_AFTER: Duration = Duration::from_secs(3);

/// How long a drain may be expected to take for a pair to be called ready.
const READY_WITHIN: f64 = 4.0;

impl Replicate {
    /// Opens or goes on with a pair. Blocks on I/O; to be called before the mount is there.
    /// `state_base` is the directory in which each migration has one of its own, by its id.
    pub fn open(
        options: Options,
        source: (String, Arc<dyn Translator>),
        sinks: Vec<(String, Arc<dyn Translator>)>,
        state_base: &Path,
    ) -> Result<Arc<Replicate>, OpenError> {
        block_on(open(options, source, sinks, state_base))
    }

    /// Starts the healing threads.
    pub fn start(self: &Arc<Self>) {
        let mut threads = self.threads.lock();
        for sink in &self.sinks {
            for n in 0..self.workers {
                let (sink, stop, drain) = (sink.clone(), self.stop.clone(), self.drain.clone());
                let name = format!("heal-{n}");
                threads.extend(spawn(name, move || sink.work(&stop, &drain)));
            }
            let (sink, stop, drain) = (sink.clone(), self.stop.clone(), self.drain.clone());
            threads.extend(spawn("settle".into(), move || sink.settle(&stop, &drain)));
        }
        let (source, root) = (self.users.source.clone(), self.users.root.clone());
        let (stop, scouted) = (self.stop.clone(), self.scouted.clone());
        threads.extend(spawn("count".into(), move || {
            // What is over in a moment needs no forecast.
            let soon = Instant::now() + COUNT_AFTER;
            while Instant::now() < soon && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
            }
            let counted = block_on(count(&*source, root, &stop));
            *scouted.lock() = counted.ok();
        }));
    }

    /// Ends healing, syncs, and closes the state cleanly: the volume must not be used after it.
    pub fn stop(&self) {
        self.halt();
        for sink in &self.sinks {
            sink.sync(true);
            sink.leg.tidy();
            if let Err(error) = sink.leg.heartbeat(true, volume::seconds_now()) {
                tracing::warn!(%error, "the journal cannot be closed in good order");
            }
        }
    }

    fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
        for sink in &self.sinks {
            sink.healer.stop.store(true, Ordering::Relaxed);
            sink.leg.work.notify_all();
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a healing thread had died");
            }
        }
    }

    /// Where this migration keeps its state: `<state_base>/<volume-id>`.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// How far it is. Cheap: numbers that are kept anyway.
    pub fn status(&self) -> Status {
        let mut status = Status {
            source: self.source_name.clone(),
            since: Some(self.since),
            volume_id: self.id.clone(),
            ..Status::default()
        };
        let scouted = *self.scouted.lock();
        let mut ready = true;
        for sink in &self.sinks {
            let now = sink.leg.now();
            let (pending, oldest, errors, waived, trees, unverified) = sink.leg.ledger(|l| {
                (
                    l.pending(),
                    l.oldest(now),
                    l.errors(),
                    l.waived(),
                    l.trees(),
                    l.unverified(),
                )
            });
            status.pending += pending;
            status.errors += errors;
            status.waived += waived;
            status.crawl_left += trees;
            status.unverified |= unverified;
            let oldest = oldest.map(Duration::from_millis);
            status.oldest_pending = status.oldest_pending.max(oldest);
            let (files_rate, bytes_rate) = sink.rates();
            status.files_rate += files_rate;
            status.bytes_rate += bytes_rate;
            let trouble = sink
                .trouble
                .lock()
                .as_ref()
                .map(|pause| pause.trouble.reason.clone());
            let trouble = trouble.or_else(|| {
                sink.leg
                    .lost()
                    .map(|why| format!("the journal cannot be written: {why}"))
            });
            status.sinks.push((
                sink.name.clone(),
                trouble.clone().unwrap_or_else(|| "healthy".to_owned()),
            ));
            let best = sink.best_rate.load(Ordering::Relaxed).max(500) as f64;
            ready &= trees == 0
                && !unverified
                && errors == 0
                && trouble.is_none()
                && pending as f64 / best < READY_WITHIN;
            status.reason = status.reason.or(trouble);
            let files = sink.healer.tally.files.load(Ordering::Relaxed);
            let bytes = sink.healer.tally.bytes.load(Ordering::Relaxed);
            // Of several sinks the one that is farthest behind counts.
            let first = status.sinks.len() == 1;
            status.files_done = if first {
                files
            } else {
                status.files_done.min(files)
            };
            status.bytes_done = if first {
                bytes
            } else {
                status.bytes_done.min(bytes)
            };
        }
        let complete = status.crawl_left == 0 && !status.unverified;
        if let Some((files, bytes)) = scouted.or(complete.then_some((0, 0))) {
            // Users make and remove files while we count: what is complete is complete.
            let total = |counted: u64, done: u64| if complete { done } else { counted.max(done) };
            status.files_total = Some(total(files, status.files_done));
            status.bytes_total = Some(total(bytes, status.bytes_done));
            let left = |total: Option<u64>, done: u64, rate: f64| {
                let left = total.unwrap_or(done).saturating_sub(done) as f64;
                if left == 0.0 {
                    Some(0.0)
                } else {
                    (rate > 0.0).then(|| left / rate)
                }
            };
            let files = left(status.files_total, status.files_done, status.files_rate);
            let bytes = left(status.bytes_total, status.bytes_done, status.bytes_rate);
            // Files and bytes are healed side by side; the slower of the two estimates holds.
            status.eta = match (files, bytes) {
                (Some(files), Some(bytes)) => Some(files.max(bytes)),
                (one, other) => one.or(other),
            }
            .filter(|seconds| *seconds < 1e9)
            .map(Duration::from_secs_f64);
        }
        status.ready = ready && !self.users.gate.is_retired();
        status.state = if self.users.gate.is_retired() {
            "retired"
        } else if self.users.gate.is_frozen() {
            "frozen"
        } else if status.reason.is_some() {
            "waiting"
        } else if status.ready {
            "ready"
        } else {
            "healing"
        }
        .to_owned();
        status
    }

    /// Each object that could not be healed.
    pub fn errors(&self) -> Vec<ObjectError> {
        let mut errors = Vec::new();
        for sink in &self.sinks {
            for (.., error) in sink.failures(&self.source_name) {
                errors.push(error);
            }
        }
        errors
    }

    /// Waives what failed at this path (absolute from the brick's root); the number of errors
    /// that this took away, 0 when there was none.
    pub fn waive(&self, path: &[u8]) -> u64 {
        let mut waived = 0;
        for sink in &self.sinks {
            for (oid, piece, error) in sink.failures(&self.source_name) {
                if error.path == path && !error.waived {
                    sink.leg.ledger(|ledger| ledger.waive(oid, &piece));
                    tracing::warn!(
                        path = %String::from_utf8_lossy(path),
                        reason = error.reason,
                        "waived by an administrator"
                    );
                    waived += 1;
                }
            }
        }
        waived
    }

    /// Crawls (a part of) the tree now. `full` compares the content of everything again.
    pub fn heal(&self, at: &Location, full: bool) -> hermitfs_api::Result<Goal> {
        let source = &*self.users.source;
        let (mut dir, mut here) = (self.users.root.clone(), self.users.root.clone());
        for name in &at.path {
            dir = here.clone();
            here = block_on(source.lookup(&HEAL, &here, name))?.inode;
        }
        let mut goal = 0;
        for sink in &self.sinks {
            let healer = &sink.healer;
            let now = sink.leg.now();
            if here.kind() == Kind::Directory {
                let known = block_on(healer.known(&here));
                // What is settled needs no second look, unless that is asked for.
                let trust = if full { Trust::NOTHING } else { Trust::ALL };
                if full || sink.leg.ledger(|ledger| ledger.trees() == 0) {
                    sink.leg
                        .ledger(|ledger| ledger.plant_tree(&known, trust, now));
                }
            } else if let Some(name) = at.path.last() {
                let known = block_on(healer.known(&here));
                let parent = block_on(healer.known(&dir));
                let bytes = name.as_bytes().into();
                sink.leg.ledger(|ledger| {
                    ledger.mark_name(&parent, &bytes, now);
                    if full {
                        ledger.mark_body(&known, Some(crate::ranges::Ranges::WHOLE), now);
                    }
                });
            }
            goal = goal.max(sink.leg.ledger(|ledger| {
                ledger.retry_all(now);
                ledger.now_mark()
            }));
            sink.leg.work.notify_all();
        }
        Ok(Goal(goal))
    }

    /// How far a goal is.
    pub fn reached(&self, goal: &Goal) -> Reached {
        let (mut open, mut failed) = (0, 0);
        for sink in &self.sinks {
            let (its_open, its_failed) = sink.leg.ledger(|ledger| ledger.left_before(goal.0));
            open += its_open;
            failed += its_failed;
        }
        match (open, failed) {
            (0, 0) => Reached::Yes,
            (0, failed) => Reached::Failed(failed),
            _ => Reached::No,
        }
    }

    /// Blocks until something that [`Replicate::status`] tells has changed, at most this long.
    pub fn wait_change(&self, at_most: Duration) {
        match self.sinks.first() {
            Some(sink) => sink.leg.wait_news(at_most),
            None => std::thread::sleep(at_most),
        }
    }

    /// Holds new changes of users, drains what is pending and syncs the sink, within the limit.
    /// On an error everything goes on as before.
    pub fn freeze(&self, limit: Duration) -> Result<(), NotReady> {
        let deadline = Instant::now() + limit;
        let status = self.status();
        let mut reasons = Vec::new();
        if status.crawl_left > 0 {
            reasons.push(format!(
                "{} directories have not been healed yet",
                status.crawl_left
            ));
        }
        if status.unverified {
            reasons.push("not everything has been compared since the last start".to_owned());
        }
        if status.errors > 0 {
            reasons.push(format!("{} objects could not be healed", status.errors));
        }
        reasons.extend(status.reason.clone());
        if !reasons.is_empty() {
            return Err(NotReady::NotReady(reasons));
        }
        self.users.gate.freeze();
        let done = self.drain(deadline, limit);
        if done.is_err() {
            self.thaw();
        }
        done
    }

    fn drain(&self, deadline: Instant, limit: Duration) -> Result<(), NotReady> {
        self.drain.store(true, Ordering::Relaxed);
        let mut hurried = false;
        loop {
            let inside = self.users.gate.inside();
            if inside == 0 && !hurried {
                for sink in &self.sinks {
                    let now = sink.leg.now();
                    sink.leg.ledger(|ledger| ledger.retry_all(now));
                }
                hurried = true;
            }
            self.sinks.iter().for_each(|sink| {
                sink.leg.work.notify_all();
            });
            let pending: u64 = self
                .sinks
                .iter()
                .map(|sink| sink.leg.ledger(|ledger| ledger.pending()))
                .sum();
            if inside == 0 && pending == 0 {
                break;
            }
            if Instant::now() >= deadline {
                return Err(NotReady::Timeout {
                    pending: pending + inside,
                    limit,
                });
            }
            for sink in &self.sinks {
                sink.leg.wait_news(Duration::from_millis(5));
            }
        }
        for sink in &self.sinks {
            block_on(sink.healer.sink.sync(&HEAL)).map_err(|e| NotReady::Sync(e.to_string()))?;
        }
        Ok(())
    }

    /// Lets users go on after a freeze.
    pub fn thaw(&self) {
        self.drain.store(false, Ordering::Relaxed);
        self.users.gate.thaw();
    }

    /// Forgets this migration: takes everything of ours off the sink, and removes the state
    /// directory. What is held or comes later is answered ESTALE. After a freeze it is the end
    /// of a cut-over; without one it gives up.
    pub fn retire(&self) -> hermitfs_api::Result<()> {
        self.users.gate.retire();
        self.halt();
        for sink in &self.sinks {
            let healer = &sink.healer;
            block_on(volume::unmark(&*healer.sink, &healer.sink_root))?;
            block_on(healer.root_attributes())?;
            block_on(healer.sink.sync(&HEAL))?;
        }
        match std::fs::remove_dir_all(&self.state_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name).spawn(run);
    thread
        .inspect_err(|error| tracing::error!(%error, "no thread to be had"))
        .ok()
}

impl Sink {
    fn work(&self, stop: &AtomicBool, drain: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if let Some(wait) = self.paused() {
                self.leg.wait_work(wait.min(Duration::from_millis(200)));
                continue;
            }
            let now = self.leg.now();
            let hurry = drain.load(Ordering::Relaxed);
            match self.leg.ledger(|ledger| ledger.claim_next(now, hurry)) {
                Ok(work) => {
                    let healed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        block_on(self.healer.heal(&work))
                    }));
                    match healed {
                        Ok(Ok(())) => self.well(),
                        Ok(Err(trouble)) => self.unwell(trouble),
                        Err(_) => {
                            tracing::error!(?work, "healing panicked");
                            let now = self.leg.now();
                            self.leg.ledger(|ledger| {
                                ledger.panicked(&work, now);
                            });
                        }
                    }
                    self.leg.news.notify_all();
                }
                Err(due) => {
                    let wait = due
                        .map_or(1000, |due| due.saturating_sub(now))
                        .clamp(1, 1000);
                    self.leg.wait_work(Duration::from_millis(wait));
                }
            }
        }
    }

    fn paused(&self) -> Option<Duration> {
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
            .is_some_and(|pause| pause.until <= Instant::now())
        {
            tracing::info!(sink = self.name, "the sink can be written again");
            *pause = None;
        }
    }

    fn unwell(&self, trouble: Trouble) {
        let mut pause = self.trouble.lock();
        let now = Instant::now();
        let wait = match &*pause {
            Some(pause) if pause.until > now => return,
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
        });
    }

    fn settle(&self, stop: &AtomicBool, drain: &AtomicBool) {
        let mut beat = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let hurry = drain.load(Ordering::Relaxed);
            self.leg
                .wait_news(Duration::from_millis(if hurry { 5 } else { 100 }));
            self.sample();
            let now = self.leg.now();
            let (copied, open) = self
                .leg
                .ledger(|ledger| (ledger.copied(), ledger.is_open(now)));
            let age = self.syncing.lock().elapsed();
            let due = hurry && !open || age > SYNC_EVERY || (!open && age > SYNC_IDLE);
            if copied > 0 && due {
                self.sync(false);
            }
            if beat.elapsed() > Duration::from_secs(5) {
                beat = Instant::now();
                if let Err(error) = self.leg.heartbeat(false, volume::seconds_now()) {
                    tracing::debug!(%error, "no heartbeat");
                }
                self.leg.tidy();
                if let Err(setback) = block_on(self.healer.sweep()) {
                    tracing::debug!(?setback, "the staging space is swept later");
                }
            }
        }
    }

    fn sync(&self, source_too: bool) {
        let mut last = self.syncing.lock();
        let cut = self.leg.ledger(|ledger| ledger.cut());
        let written = source_too || !cut.is_empty();
        let mut synced = block_on(self.healer.sink.sync(&HEAL));
        if synced.is_ok() && written {
            synced = block_on(self.healer.source.sync(&HEAL));
        }
        if let Err(error) = &synced {
            tracing::warn!(sink = self.name, %error, "a sync failed: what was copied is copied again");
        }
        let now = self.leg.now();
        self.leg.ledger(|ledger| {
            ledger.seal(cut, synced.is_ok(), now);
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
        if samples
            .back()
            .is_some_and(|(at, ..)| now - *at < Duration::from_millis(500))
        {
            return;
        }
        let files = self.healer.tally.files.load(Ordering::Relaxed);
        let bytes = self.healer.tally.bytes.load(Ordering::Relaxed);
        samples.push_back((now, files, bytes));
        while samples.len() > 12 {
            samples.pop_front();
        }
        drop(samples);
        self.best_rate
            .fetch_max(self.rates().0 as u64, Ordering::Relaxed);
    }

    /// Files and bytes a second over the last seconds.
    fn rates(&self) -> (f64, f64) {
        let samples = self.samples.lock();
        match (samples.front(), samples.back()) {
            (Some((t0, f0, b0)), Some((t1, f1, b1))) if t1 > t0 => {
                let seconds = (*t1 - *t0).as_secs_f64();
                ((f1 - f0) as f64 / seconds, (b1 - b0) as f64 / seconds)
            }
            _ => (0.0, 0.0),
        }
    }

    fn failures(&self, source_name: &str) -> Vec<(Oid, Piece, ObjectError)> {
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
                let side = match trouble.side {
                    Side::Source => source_name.to_owned(),
                    Side::Sink => self.name.clone(),
                };
                let error = ObjectError {
                    path,
                    side,
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

/// Objects and bytes of the source, for users' eyes: counted once, beside the healing.
async fn count(
    source: &dyn Translator,
    root: Arc<Inode>,
    stop: &AtomicBool,
) -> hermitfs_api::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    let mut dirs = vec![root];
    while let Some(dir) = dirs.pop() {
        let mut from = 0;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::new(Errno::EINTR));
            }
            let entries = match source.readdir(&HEAL, &dir, from, 512, true).await {
                Ok(entries) => entries,
                // It went while we counted.
                Err(_) => break,
            };
            let Some(last) = entries.last() else { break };
            from = last.next;
            for entry in entries.into_iter().filter_map(|entry| entry.entry) {
                files += 1;
                match entry.inode.kind() {
                    Kind::Directory => dirs.push(entry.inode),
                    Kind::File => bytes += entry.attr.size.min(entry.attr.blocks * 512),
                    _ => {}
                }
            }
        }
    }
    Ok((files, bytes))
}

async fn open(
    options: Options,
    source: (String, Arc<dyn Translator>),
    sinks: Vec<(String, Arc<dyn Translator>)>,
    state_base: &Path,
) -> Result<Arc<Replicate>, OpenError> {
    let (source_name, source) = source;
    source.role(Role::Source).await.map_err(io("the source"))?;
    let root = source.root(&HEAL).await.map_err(io("the source"))?.inode;
    if volume::has_marker(&*source, &root)
        .await
        .map_err(io("the source"))?
    {
        return Err(OpenError::Identity(
            "the source has a directory .hermitfs: it is, or was, the sink of a migration. Give it \
             as the sink, or end that migration with `hermitfs abort` or `cutover` first"
                .to_owned(),
        ));
    }
    let source_id = volume::brick_id(&*source, &root)
        .await
        .map_err(io("the source"))?;

    // First look at all, then touch anything.
    let mut found = Vec::new();
    for (name, sink) in &sinks {
        let what = format!("the sink {name}");
        sink.role(Role::Sink).await.map_err(io(&what))?;
        let root = sink.root(&HEAL).await.map_err(io(&what))?.inode;
        let id = volume::brick_id(&**sink, &root).await.map_err(io(&what))?;
        if id == source_id {
            return Err(OpenError::Refused(format!(
                "the sink {name} is the source itself"
            )));
        }
        let state = volume::inspect(&**sink, &root).await.map_err(io(&what))?;
        found.push((root, id, state));
    }
    let mut id = None;
    for ((name, _), (.., state)) in sinks.iter().zip(&found) {
        match state {
            Found::Marked(marker) => {
                if marker.source != source_id {
                    return Err(OpenError::Identity(format!(
                        "the sink {name} belongs to the migration {} of another source: that one \
                         is file system {} (root {}), this one is file system {} (root {})",
                        marker.id,
                        marker.source.fsid,
                        marker.source.root,
                        source_id.fsid,
                        source_id.root
                    )));
                }
                if !volume::is_id(&marker.id) {
                    return Err(OpenError::Identity(format!(
                        "the marker on the sink {name} is damaged: its id is {:?}",
                        marker.id
                    )));
                }
                if id.as_ref().is_some_and(|id| *id != marker.id) {
                    return Err(OpenError::Identity(
                        "the sinks belong to different migrations".to_owned(),
                    ));
                }
                id = Some(marker.id.clone());
            }
            Found::Foreign if !options.adopt => {
                return Err(OpenError::Refused(format!(
                    "the sink {name} is not empty. Give an empty directory, or say --adopt to \
                     have all that is in it compared, changed and removed as the source has it"
                )));
            }
            Found::Empty | Found::Foreign => {}
        }
    }
    let id = match id {
        Some(id) => id,
        None => volume::new_id()?,
    };
    let state_dir = volume::state_dir(state_base, &id);
    let old = volume::read_record(&state_dir)?;
    if let Some(old) = &old
        && old.source != source_id
    {
        return Err(OpenError::Identity(format!(
            "the recorded source of this migration is file system {} (root {}), the one given is \
             file system {} (root {})",
            old.source.fsid, old.source.root, source_id.fsid, source_id.root
        )));
    }
    let since = old
        .as_ref()
        .map_or(volume::seconds_now() as u64, |old| old.since);
    let record = volume::Record {
        version: 1,
        id: id.clone(),
        since,
        source: source_id.clone(),
        sinks: sinks
            .iter()
            .zip(&found)
            .map(|((name, _), (_, id, _))| (name.clone(), id.clone()))
            .collect(),
    };
    volume::write_record(&state_dir, &record)?;

    let mut all = Vec::new();
    for (n, ((name, sink), (sink_root, _, state))) in sinks.into_iter().zip(found).enumerate() {
        let what = format!("the sink {name}");
        let path = state_dir.join(format!("journal.{n}"));
        let journal_io =
            |error: std::io::Error| OpenError::Io(format!("{}: {error}", path.display()));
        let mut ledger = Ledger::default();
        let journal = Journal::read(&path).map_err(journal_io)?;
        let boot = boot_id();
        // What is known of the sink, and what has to be compared.
        let doubt = match (&state, &journal) {
            (Found::Marked(_), Some(journal)) => {
                let header = &journal.header;
                let same_boot = header.boot == boot;
                if journal.torn || header.all_dirty || (!same_boot && !header.clean) {
                    Some(Trust::NOTHING)
                } else if header.clean || !options.continuous {
                    // A margin for clocks that tick coarsely.
                    Some(Trust::before(Time::new(header.served - 2, 0)))
                } else {
                    None
                }
            }
            (Found::Marked(_) | Found::Foreign, _) => Some(Trust::NOTHING),
            (Found::Empty, _) => Some(Trust::ALL),
        };
        if let (Found::Marked(_), Some(found)) = (&state, journal) {
            found
                .records
                .into_iter()
                .for_each(|record| ledger.replay(record));
        }
        let known = crate::heal::known(&*source, &Default::default(), &root).await;
        // Where the source has no handles, marks do not lead back: the whole tree is compared.
        let doubt = match ledger.has_unfindable() {
            true => Some(Trust::NOTHING),
            false => doubt,
        };
        if let Some(trust) = doubt {
            if trust != Trust::ALL {
                ledger.doubt_images();
                ledger.set_unverified();
            }
            ledger.plant_tree(&known, trust, 0);
        }
        drop(ledger.take_records());
        let header = Header {
            version: VERSION,
            boot,
            clean: false,
            served: volume::seconds_now(),
            all_dirty: false,
        };
        let journal = Journal::create(&path, header, &ledger.dump()).map_err(journal_io)?;
        let marker = Marker {
            version: 1,
            id: id.clone(),
            role: "sink".to_owned(),
            source: source_id.clone(),
        };
        let staging = volume::mark(&*sink, &sink_root, &marker)
            .await
            .map_err(io(&what))?;
        let leg = Arc::new(Leg::new(ledger, journal));
        let healer = Arc::new(Healer::new(
            (source.clone(), root.clone()),
            (sink, sink_root, staging),
            leg.clone(),
            LANES,
        ));
        if let Err(setback) = healer.sweep_unknown().await {
            tracing::warn!(?setback, "the staging space could not be swept");
        }
        all.push(Arc::new(Sink {
            name,
            leg,
            healer,
            trouble: Mutex::new(None),
            syncing: Mutex::new(Instant::now()),
            samples: Mutex::default(),
            best_rate: AtomicU64::new(0),
        }));
    }
    let legs = all
        .iter()
        .map(|sink| UserLeg {
            leg: sink.leg.clone(),
            held: sink.healer.held.clone(),
        })
        .collect();
    let users = Users {
        source,
        root,
        legs,
        gate: Default::default(),
        rest: options.rest_ms,
        leases: Default::default(),
    };
    Ok(Arc::new(Replicate {
        users,
        sinks: all,
        source_name,
        id,
        since: UNIX_EPOCH + Duration::from_secs(since),
        state_dir,
        workers: options.workers.clamp(1, 64),
        threads: Mutex::default(),
        stop: Arc::default(),
        drain: Arc::default(),
        scouted: Arc::default(),
    }))
}

/// Threads that share one big file.
const LANES: usize = 3;

impl hermitfs_api::Filter for Replicate {
    /// What users do goes through [`Users`], which writes every operation out.
    fn below(&self) -> &dyn Translator {
        &self.users
    }
}
