//! How far a pair is.

use std::time::Duration;

use super::Replicate;
use super::sink::Sink;
use crate::control::Status;
use crate::tally::Amount;

/// How long a drain may be expected to take for a pair to be called ready.
const READY_WITHIN: f64 = 4.0;

impl Replicate {
    /// How far it is. Cheap: numbers that are kept anyway.
    pub fn status(&self) -> Status {
        let mut status = Status {
            source: self.source.name.clone(),
            since: Some(self.since),
            volume_id: self.id.clone(),
            pace: self.brake.pace(),
            limit: self.limit().map(crate::Rate::bytes_a_second),
            ..Status::default()
        };
        let mut ready = true;
        for sink in &self.sinks {
            ready &= sink.add_to(&mut status, *self.counted.lock());
        }
        self.forecast(&mut status);
        if let Some(reason) = self.users.identities.reason() {
            status.reason.get_or_insert_with(|| reason.to_owned());
            ready = false;
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

    /// How long the rest will take.
    fn forecast(&self, status: &mut Status) {
        // Nobody knows when there is room, or an answer.
        if status.reason.is_some() {
            return;
        }
        let left = |total: Option<u64>, done: u64, rate: f64| {
            let left = total?.saturating_sub(done) as f64;
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
}

impl Sink {
    /// Adds what this sink has to tell; whether it would be ready for a cut-over. `counted`: how much the source has.
    fn add_to(&self, status: &mut Status, counted: Option<Amount>) -> bool {
        // What was found may have been healed, or waived, a moment ago.
        self.catch_up();
        let (survey, left) = self.left();
        let (errors, (waived, losses), trees, unverified, short) = self.leg.ledger(|l| {
            (
                l.errors(),
                (l.waived(), l.lost()),
                l.trees(),
                l.unverified(),
                l.is_short(),
            )
        });
        let first = status.sinks.is_empty();
        status.pending += survey.places;
        status.pending_bytes += left.bytes;
        status.errors += errors;
        status.waived += waived;
        status.losses += losses;
        status.crawl_left += trees;
        status.unverified |= unverified;
        let oldest = survey.oldest.map(Duration::from_millis);
        status.oldest_pending = status.oldest_pending.max(oldest);
        let (files_rate, bytes_rate) = self.rates();
        status.files_rate += files_rate;
        status.bytes_rate += bytes_rate;
        let pause = self.trouble.lock();
        let trouble = pause.as_ref().map(|pause| pause.reason(&self.place));
        drop(pause);
        let full = short.then(|| {
            let told = self.full.lock().clone();
            told.unwrap_or_else(|| format!("{} is full", self.place))
        });
        let troubles: Vec<String> = self
            .silence()
            .into_iter()
            .chain(trouble)
            .chain(full)
            .chain(self.leg.lost())
            .collect();
        let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
        let health = trouble.clone().unwrap_or_else(|| "healthy".to_owned());
        status.sinks.push((self.name.clone(), health));
        let tally = &self.healer.tally;
        let walking = tally.is_walking();
        let seconds = self.seconds(left);
        status.drain = status.drain.max(Duration::try_from_secs_f64(seconds).ok());
        let ready = trees == 0
            && !walking
            && !unverified
            && errors == 0
            && trouble.is_none()
            && !self.is_unswept()
            && seconds < READY_WITHIN;
        status.reason = status.reason.take().or(trouble);
        let (done, total) = so_far(walking, tally.seen(), counted, survey.places, left.bytes);
        // Of several sinks the one that is farthest behind counts.
        let least = |so_far: u64, its: u64| if first { its } else { so_far.min(its) };
        status.files_done = least(status.files_done, done.files);
        status.bytes_done = least(status.bytes_done, done.bytes);
        status.files_total = status.files_total.max(total.map(|total| total.files));
        status.bytes_total = status.bytes_total.max(total.map(|total| total.bytes));
        ready
    }
}

/// How much of the tree is equal, and how much there is; while it is walked what the walk has come to, and else all but
/// what is pending.
fn so_far(
    walking: bool,
    seen: Amount,
    counted: Option<Amount>,
    places: u64,
    bytes: u64,
) -> (Amount, Option<Amount>) {
    if walking {
        // Users make files while they are counted: what was seen is there.
        let total = counted.map(|counted| Amount {
            files: counted.files.max(seen.files),
            bytes: counted.bytes.max(seen.bytes),
        });
        return (seen, total);
    }
    let total = counted.unwrap_or(seen);
    let done = Amount {
        files: total.files.saturating_sub(places),
        bytes: total.bytes.saturating_sub(bytes),
    };
    (done, Some(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Amount = Amount {
        files: 50,
        bytes: 500,
    };
    const ALL: Amount = Amount {
        files: 100,
        bytes: 1000,
    };

    #[test]
    fn a_walk_tells_what_it_has_come_to_of_what_there_is() {
        assert_eq!(so_far(true, HALF, None, 7, 7), (HALF, None));
        assert_eq!(so_far(true, HALF, Some(ALL), 7, 7), (HALF, Some(ALL)));
        assert_eq!(so_far(true, ALL, Some(HALF), 7, 7), (ALL, Some(ALL)));
    }

    #[test]
    fn without_one_all_is_done_but_what_is_pending() {
        assert_eq!(so_far(false, HALF, Some(ALL), 0, 0), (ALL, Some(ALL)));
        let most = Amount {
            files: 98,
            bytes: 400,
        };
        assert_eq!(so_far(false, HALF, Some(ALL), 2, 600), (most, Some(ALL)));
        assert_eq!(so_far(false, ALL, None, 0, 0), (ALL, Some(ALL)));
        let more = so_far(false, ALL, None, 1000, 2000).0;
        assert_eq!(more, Amount::default());
    }
}
