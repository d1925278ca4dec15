//! How far a pair is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Replicate;
use super::sink::Sink;
use crate::control::Status;
use crate::heal::Books;

/// How long a drain may be expected to take for a pair to be called ready.
const READY_WITHIN: f64 = 4.0;

impl Replicate {
    /// How far it is. Cheap: numbers that are kept anyway.
    pub fn status(&self) -> Status {
        let mut status = Status {
            source: self.source_name.clone(),
            since: Some(self.since),
            volume_id: self.id.clone(),
            pace: self.brake.pace(),
            limit: self.limit().map(crate::Rate::bytes_a_second),
            ..Status::default()
        };
        let mut ready = true;
        for sink in &self.sinks {
            ready &= sink.add_to(&mut status);
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

    /// Totals, and how long the rest will take.
    fn forecast(&self, status: &mut Status) {
        let complete = status.crawl_left == 0 && !status.unverified;
        let Some((files, bytes)) = self.scouted.lock().or(complete.then_some((0, 0))) else {
            return;
        };
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
}

impl Sink {
    /// Adds what this sink has to tell; whether it would be ready for a cut-over.
    fn add_to(&self, status: &mut Status) -> bool {
        let now = self.leg.now();
        let (pending, oldest, errors, (waived, losses), trees, unverified) = self.leg.ledger(|l| {
            (
                l.pending(),
                l.oldest(now),
                l.errors(),
                (l.waived(), l.lost()),
                l.trees(),
                l.unverified(),
            )
        });
        status.pending += pending;
        status.errors += errors;
        status.waived += waived;
        status.losses += losses;
        status.crawl_left += trees;
        status.unverified |= unverified;
        let oldest = oldest.map(Duration::from_millis);
        status.oldest_pending = status.oldest_pending.max(oldest);
        let (files_rate, bytes_rate) = self.rates();
        status.files_rate += files_rate;
        status.bytes_rate += bytes_rate;
        let pause = self.trouble.lock();
        let trouble = pause.as_ref().map(|pause| pause.reason(&self.place));
        drop(pause);
        let troubles: Vec<String> = self
            .silence()
            .into_iter()
            .chain(trouble)
            .chain(self.leg.lost())
            .collect();
        let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
        let health = trouble.clone().unwrap_or_else(|| "healthy".to_owned());
        status.sinks.push((self.name.clone(), health));
        let best = self.best_rate.load(Ordering::Relaxed).max(500) as f64;
        let ready = trees == 0
            && !unverified
            && errors == 0
            && trouble.is_none()
            && !self.is_unswept()
            && pending as f64 / best < READY_WITHIN;
        status.reason = status.reason.take().or(trouble);
        // Of several sinks the one that is farthest behind counts.
        let first = status.sinks.len() == 1;
        let least = |so_far: u64, its: u64| if first { its } else { so_far.min(its) };
        let (files, bytes) = self.healer.tally.now();
        status.files_done = least(status.files_done, files);
        status.bytes_done = least(status.bytes_done, bytes);
        ready
    }
}
