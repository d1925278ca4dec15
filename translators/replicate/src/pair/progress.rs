//! How much of the tree is equal, how much is left, and how long that takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hermitfs_api::{Errno, Error, Inode, Translator, block_on};

use super::Replicate;
use super::sink::Sink;
use crate::answers::{Unanswered, within};
use crate::brake::Brake;
use crate::drain::Left;
use crate::heal::{Books, HEAL};
use crate::ledger::Survey;
use crate::room::size;
use crate::tally::Amount;

/// Before a forecast is worth the reading.
const COUNT_AFTER: Duration = Duration::from_secs(10);

/// The part of the time that counting may take.
const COUNT_PART: u32 = 100;

/// Counts are not made more often.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// When the tree is to be counted: once early, when all of it has been seen, and when it may have changed since; but
/// never for more than a hundredth of the time. Without I/O.
#[derive(Debug)]
pub(super) struct Counting {
    started: Instant,
    /// When the last count ended, how long it took, and as of what.
    last: Option<(Instant, Duration, u64)>,
    walking: bool,
}

impl Counting {
    pub(super) fn new(now: Instant) -> Counting {
        Counting {
            started: now,
            last: None,
            walking: true,
        }
    }

    /// Whether now. `stamp` changes when users change something.
    fn is_due(&mut self, now: Instant, walking: bool, stamp: u64) -> bool {
        let over = self.walking && !walking;
        self.walking = walking;
        match self.last {
            None => !walking || now - self.started >= COUNT_AFTER,
            // Whatever users did meanwhile, a count of the whole was made then.
            Some((.., as_of)) if as_of == stamp && !over => false,
            Some((at, took, _)) => {
                let rest = now - at >= (took * COUNT_PART).max(COUNT_EVERY);
                if over && !rest {
                    // It is not forgotten.
                    self.walking = true;
                }
                rest
            }
        }
    }

    fn counted(&mut self, began: Instant, now: Instant, stamp: u64) {
        self.last = Some((now, now - began, stamp));
    }
}

impl Replicate {
    /// Counts the tree if that is due.
    pub(super) fn count(&self, counting: &mut Counting) {
        // Not as users go: our own counting is no load of theirs.
        let Some(first) = self.sinks.first() else {
            return;
        };
        let tallies = || self.sinks.iter().map(|sink| &sink.healer.tally);
        let walking = tallies().any(|tally| tally.is_walking());
        let stamp = first.leg.ledger(|ledger| ledger.begun());
        let (source, root) = (&*first.healer.source, self.users.root.clone());
        let began = Instant::now();
        if !counting.is_due(began, walking, stamp) {
            return;
        }
        let Ok(counted) = block_on(count(source, root, &self.brake, &self.stop)) else {
            return;
        };
        counting.counted(began, Instant::now(), stamp);
        *self.counted.lock() = Some(counted);
        for tally in tallies().filter(|tally| !tally.is_walking()) {
            tally.settle(Some(counted));
        }
        first.leg.news.notify_all();
    }

    /// Seconds until nothing is pending, as estimated; and what is.
    pub(super) fn to_do(&self) -> (f64, Left) {
        let (mut longest, mut all) = (0.0, Left::default());
        for sink in &self.sinks {
            let (_, left) = sink.left();
            let seconds = sink.seconds(left);
            if seconds >= longest {
                (longest, all) = (seconds, left);
            }
        }
        (longest, all)
    }

    /// Puts on the disk what was copied, while users still work; and what speaks against holding them for so long,
    /// which may be over in a moment.
    pub fn can_drain(&self, limit: Duration) -> Result<(), String> {
        for sink in &self.sinks {
            let (syncing, healer) = (sink.clone(), sink.clone());
            let sync = move || {
                if syncing.leg.ledger(|ledger| ledger.copied()) > 0 {
                    syncing.sync(false);
                }
            };
            within(limit.max(Duration::from_secs(1)), sync).map_err(|unanswered| {
                let place = &sink.place;
                match unanswered {
                    Unanswered::Late(_) => format!(
                        "{place} takes longer than {limit:?} to bring to its disk what was copied"
                    ),
                    unanswered => format!(
                        "what was copied cannot be brought to the disk of {place}: {unanswered}"
                    ),
                }
            })?;
            // A sink that blocks is told of by others.
            let _ = within(limit, move || healer.measure());
        }
        self.fits(limit)
    }

    /// Whether what is pending is done within the limit, as estimated.
    pub(super) fn fits(&self, limit: Duration) -> Result<(), String> {
        let (seconds, left) = self.to_do();
        match seconds > limit.as_secs_f64() {
            true => Err(format!(
                "{}, which takes about {} s; users are to be held for {:.1} s at most",
                told(left),
                seconds.ceil(),
                limit.as_secs_f64()
            )),
            false => Ok(()),
        }
    }
}

/// `40000 name(s) and 1.0 GiB of content are still to be made equal on the new brick`
pub(super) fn told(left: Left) -> String {
    let places = format!("{} name(s)", left.places);
    let content = match left.bytes {
        0 => String::new(),
        bytes => format!(" and {} of content", size(bytes)),
    };
    format!("{places}{content} are still to be made equal on the new brick")
}

impl Sink {
    /// What is pending, and what of it is work.
    pub(super) fn left(&self) -> (Survey, Left) {
        let now = self.leg.now();
        let (survey, copied) = self
            .leg
            .ledger(|ledger| (ledger.survey(now), ledger.copied() as u64));
        let mean = self.mean_size.load(Ordering::Relaxed);
        let bytes = survey
            .bytes
            .saturating_add(survey.whole.saturating_mul(mean))
            .saturating_sub(self.healer.tally.under_way());
        let places = survey.places.saturating_sub(copied);
        (survey, Left { places, bytes })
    }

    /// How long that takes, as estimated.
    pub(super) fn seconds(&self, left: Left) -> f64 {
        self.speed.lock().seconds(left)
    }

    /// How large files are of which all is to be copied: some are asked.
    pub(super) fn measure(&self) {
        let (survey, _) = self.left();
        if survey.whole > 0 {
            let mean = block_on(self.healer.mean_size(&survey.some));
            self.mean_size.store(mean, Ordering::Relaxed);
        }
    }

    /// Whether the walk from the root has come to its end, and all that it found is healed or has failed.
    pub(super) fn catch_up(&self) {
        let tally = &self.healer.tally;
        if !tally.is_walking() {
            return;
        }
        let mut goal = self.goal.lock();
        let over = self.leg.ledger(|ledger| {
            if ledger.trees() > 0 || ledger.unverified() {
                *goal = None;
                return false;
            }
            let goal = *goal.get_or_insert_with(|| ledger.now_mark());
            !ledger.is_open_before(goal)
        });
        if over {
            *goal = None;
            tally.settle(None);
            self.leg.news.notify_all();
        }
    }
}

/// Names and bytes of the source.
async fn count(
    source: &dyn Translator,
    root: Arc<Inode>,
    brake: &Brake,
    stop: &AtomicBool,
) -> hermitfs_api::Result<Amount> {
    let mut all = Amount::ROOT;
    let mut dirs = vec![root];
    while let Some(dir) = dirs.pop() {
        let mut from = 0;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::new(Errno::EINTR));
            }
            brake.ease();
            let entries = match source.readdir(&HEAL, &dir, from, 512, true).await {
                Ok(entries) => entries,
                // It went while we counted.
                Err(_) => break,
            };
            let Some(last) = entries.last() else { break };
            from = last.next;
            for entry in entries.into_iter().filter_map(|entry| entry.entry) {
                all.add(Amount::name(&entry.attr));
                if entry.inode.kind() == hermitfs_api::Kind::Directory {
                    dirs.push(entry.inode);
                }
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_counted_when_it_was_seen_and_when_it_has_changed_and_seldom() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut counting = Counting::new(start);
        assert!(
            !counting.is_due(at(9), true, 0),
            "it may be over in a moment"
        );
        assert!(counting.is_due(at(10), true, 0));
        counting.counted(at(10), at(12), 0);
        assert!(!counting.is_due(at(1000), true, 0), "nothing has changed");
        assert!(counting.is_due(at(1000), false, 0), "all was seen");
        counting.counted(at(1000), at(1002), 5);
        assert!(!counting.is_due(at(2000), false, 5));
        assert!(!counting.is_due(at(1100), false, 6), "too soon");
        assert!(counting.is_due(at(1202), false, 6));
        let mut quick = Counting::new(start);
        assert!(quick.is_due(at(0), false, 0));
        quick.counted(at(0), at(0), 0);
        assert!(!quick.is_due(at(0), true, 7) && !quick.is_due(at(0), false, 7));
        assert!(
            quick.is_due(at(1), false, 0),
            "a walk that was over too soon"
        );
    }

    #[test]
    fn what_is_left_is_told_in_names_and_bytes() {
        let left = |places, bytes| told(Left { places, bytes });
        assert_eq!(
            left(40_000, 520 << 20),
            "40000 name(s) and 520.0 MiB of content are still to be made equal on the new brick"
        );
        assert!(left(1, 0).starts_with("1 name(s) are"));
    }
}
