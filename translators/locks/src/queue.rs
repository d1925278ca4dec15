//! Who waits for a lock on one file, in the order of arrival.

use std::time::Duration;

use hermitfs_api::{LockSet, OwnedLock};

/// How long at least whoever could have a lock at once stands behind others that wait for a
/// conflicting one.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long at most. Whoever waits in front may wait for somebody who waits for us in turn, by
/// ways that we do not see (a parent with a shared lock and its child): nobody stands behind
/// others for ever.
const MOST_PATIENCE: Duration = Duration::from_secs(10);

/// Names one waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// A request that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) ticket: Ticket,
    pub(crate) asked: OwnedLock,
    since: Duration,
    /// From when on it passes those in front that are not served themselves; `None`: from now.
    patient_until: Option<Duration>,
}

/// The locks of one file, and those that wait for one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub(crate) held: LockSet,
    pub(crate) queue: Vec<Waiter>,
}

impl Object {
    /// Whether a request that arrives now can be served now. Who does not wait asks only for what
    /// is held: "no" means that somebody holds a conflicting lock, as on any Linux file system.
    pub(crate) fn is_free(&self, asked: &OwnedLock, waits: bool) -> bool {
        self.held.conflict(asked).is_none() && !(waits && self.is_behind(asked, self.queue.len()))
    }

    /// Puts a request at the end of the queue.
    pub(crate) fn wait(&mut self, ticket: Ticket, asked: OwnedLock, now: Duration) {
        let ahead = self.queue.iter();
        let oldest = ahead
            .filter(|waiter| waiter.asked.conflicts(&asked))
            .map(|waiter| waiter.since)
            .min();
        // The longer somebody has waited, the longer he is not passed.
        let patience = oldest.map(|since| {
            let age = now.saturating_sub(since);
            now + age.clamp(PATIENCE, MOST_PATIENCE)
        });
        self.queue.push(Waiter {
            ticket,
            asked,
            since: now,
            patient_until: patience,
        });
    }

    /// Takes the first that can be served out of the queue.
    pub(crate) fn next(&mut self) -> Option<Waiter> {
        let at = (0..self.queue.len()).find(|&at| {
            let waiter = &self.queue[at];
            self.held.conflict(&waiter.asked).is_none()
                && (waiter.patient_until.is_none() || !self.is_behind(&waiter.asked, at))
        })?;
        Some(self.queue.remove(at))
    }

    /// Ends the patience of those for whom it is time. Whether there was one.
    pub(crate) fn ripen(&mut self, now: Duration) -> bool {
        let mut any = false;
        for waiter in &mut self.queue {
            if waiter.patient_until.is_some_and(|until| until <= now) {
                waiter.patient_until = None;
                any = true;
            }
        }
        any
    }

    /// When the next one's patience ends.
    pub(crate) fn next_ripe(&self) -> Option<Duration> {
        let patient = self.queue.iter().filter_map(|waiter| waiter.patient_until);
        patient.min()
    }

    /// Whether one of the first `at` in the queue waits for a lock that conflicts with this one.
    /// Not behind those who wait for a lock of one's own: they cannot go before we do.
    fn is_behind(&self, asked: &OwnedLock, at: usize) -> bool {
        self.queue[..at].iter().any(|waiter| {
            waiter.asked.conflicts(asked)
                && !self
                    .held
                    .conflicts(&waiter.asked)
                    .any(|held| held.is_same_owner(asked))
        })
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.queue.is_empty()
    }
}
