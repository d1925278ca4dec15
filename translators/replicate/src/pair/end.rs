//! The end of a pair: frozen, drained, retired.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hermitfs_api::{Inode, SetAttr, SetTime, Translator, block_on};

use super::Replicate;
use super::progress::told;
use super::sink::Sink;
use crate::answers::{Unanswered, within};
use crate::control::NotReady;
use crate::drain::Drain;
use crate::heal::{Books, HEAL};
use crate::volume;

/// How long it may take to leave a sink, its sync included.
const LEAVE_AT_MOST: Duration = Duration::from_secs(120);

/// How often a drain is looked at whether it can still come to its end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Users are held until this is dropped, or for longer where all came off.
struct Frozen<'a>(&'a Replicate);

impl Frozen<'_> {
    fn stay(self) {
        std::mem::forget(self);
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

impl Replicate {
    /// Holds new changes of users, drains what is pending and syncs the sink, within the limit.
    /// On an error everything goes on as before.
    pub fn freeze(&self, limit: Duration) -> Result<(), NotReady> {
        self.freeze_while(limit, &|| true)
    }

    /// The same, as long as it is wanted.
    pub fn freeze_while(&self, limit: Duration, wanted: &dyn Fn() -> bool) -> Result<(), NotReady> {
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
        self.fits(limit).map_err(NotReady::TooMuch)?;
        let frozen = Frozen(self);
        self.users.gate.freeze();
        self.drain(deadline, limit, wanted)?;
        frozen.stay();
        Ok(())
    }

    fn drain(
        &self,
        deadline: Instant,
        limit: Duration,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), NotReady> {
        self.drain.store(true, Ordering::Relaxed);
        // Users are held: nothing is spared now.
        self.brake.lift(true);
        let mut hurried = false;
        let (began, mut looked) = (Instant::now(), Instant::now());
        let watch = Drain::new(limit, self.to_do().0);
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
            if !wanted() {
                return Err(NotReady::GivenUp);
            }
            if Instant::now() >= deadline {
                return Err(NotReady::Timeout {
                    pending: pending + inside,
                    limit,
                });
            }
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                let (seconds, left) = self.to_do();
                if watch.is_hopeless(began.elapsed(), seconds) {
                    return Err(NotReady::TooSlow(format!(
                        "{} after {:.1} s, so that it could not end within {limit:?}: users go on",
                        told(left),
                        began.elapsed().as_secs_f64()
                    )));
                }
            }
            for sink in &self.sinks {
                sink.leg.wait_news(Duration::from_millis(5));
            }
        }
        for sink in &self.sinks {
            let brick = sink.healer.sink.clone();
            let left = deadline.saturating_duration_since(Instant::now());
            // Users are held: no disk may make that longer.
            match within(left, move || block_on(brick.sync(&HEAL))) {
                Ok(synced) => synced.map_err(|error| NotReady::Sync(error.to_string()))?,
                Err(Unanswered::Late(_)) => {
                    return Err(NotReady::Sync(format!("not within {limit:?}")));
                }
                Err(unanswered) => return Err(NotReady::Sync(unanswered.to_string())),
            }
        }
        Ok(())
    }

    /// Lets users go on after a freeze.
    pub fn thaw(&self) {
        self.drain.store(false, Ordering::Relaxed);
        self.brake.lift(false);
        self.users.gate.thaw();
    }

    /// Forgets this migration: takes everything of ours off the sink, and removes the state
    /// directory. What is held or comes later is answered ESTALE. After a freeze it is the end
    /// of a cut-over; without one it gives up. What of ours stays, and why: nothing, as a rule.
    #[must_use]
    pub fn retire(&self) -> Vec<String> {
        self.users.gate.retire();
        let ended = self.halt();
        let mut stays = Vec::new();
        for sink in &self.sinks {
            let leaving = sink.clone();
            let left = match ended {
                true => match within(LEAVE_AT_MOST, move || leaving.leave()) {
                    // It has just answered, and ours must not stay for want of a thread.
                    Err(Unanswered::NoThread(_)) => Some(sink.leave()),
                    answered => answered.ok(),
                },
                false => None,
            };
            let why = match left {
                Some(Ok(())) => continue,
                Some(Err(error)) => error.to_string(),
                None => "it does not answer".to_owned(),
            };
            stays.push(format!("the directory {}/.hermitfs ({why})", sink.place));
        }
        match std::fs::remove_dir_all(&self.state_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                stays.push(format!("{} ({error})", self.state_dir.display()));
            }
            _ => {}
        }
        stays
    }
}

impl Sink {
    /// Takes everything of ours off the sink.
    fn leave(&self) -> hermitfs_api::Result<()> {
        let root = self.healer.sink_root()?;
        block_on(clear(&*self.healer.sink, &root))
    }
}

/// Takes everything of ours off a sink that no pair has open.
pub fn unmark(sink: &dyn Translator) -> hermitfs_api::Result<()> {
    block_on(async {
        let root = sink.root(&HEAL).await?.inode;
        clear(sink, &root).await
    })
}

async fn clear(brick: &dyn Translator, root: &Arc<Inode>) -> hermitfs_api::Result<()> {
    let before = brick.getattr(&HEAL, root, None).await?;
    volume::unmark(brick, root).await?;
    // That alone changed when our own directory went from it. Users may be there already: the rest
    // is theirs.
    let times = SetAttr {
        mtime: Some(SetTime::At(before.mtime)),
        ..SetAttr::default()
    };
    brick.setattr(&HEAL, root, None, &times).await?;
    brick.sync(&HEAL).await
}
