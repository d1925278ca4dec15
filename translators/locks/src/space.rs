//! All locks of a volume, and all that wait for one: what is granted, in which order, and what
//! would never end. Knows no clock and wakes nobody: it is told the time, and says who is done.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hermitfs_api::{Identity, LockKind, OwnedLock};

use crate::closing::Closing;
use crate::queue::{Object, Ticket};

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is done.
    Done,
    /// Somebody holds a conflicting lock, and the request does not wait.
    Busy,
    /// It waits.
    Waits(Ticket),
    /// It would wait for somebody who waits for it (EDEADLK).
    Deadlock,
    /// Too many ranges or waiters on this file (ENOLCK).
    Full,
}

/// What became of a request that waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has the lock, until it is said that nobody wants it ([`Space::undo`]).
    Granted,
    Deadlock,
    /// The open file through which it was asked for is gone.
    Closed,
}

/// One who holds record locks: (client, owner).
type Owner = (u64, u64);

/// Granted, and to be undone if nobody comes for it.
struct Unheard {
    at: Identity,
    granted: OwnedLock,
    /// What its owner held there before.
    before: Vec<OwnedLock>,
}

#[derive(Default)]
pub(crate) struct Space {
    objects: HashMap<Identity, Object>,
    /// Where each one waits.
    places: HashMap<Ticket, Identity>,
    /// Requests for record locks that wait, by owner. Not those of open files (OFD locks and
    /// flock(2)): whoever has such a file can drop its lock, also while another waits through it.
    waiting: HashMap<Owner, Vec<Ticket>>,
    /// What was granted to who waited, and nobody has heard of yet.
    unheard: HashMap<Ticket, Unheard>,
    closing: Closing,
    /// How many open files are gone.
    released: u64,
    next: u64,
    limit: usize,
    done: Vec<(Ticket, Outcome)>,
}

impl Space {
    /// With room for so many ranges and waiters on each file.
    pub(crate) fn new(limit: usize) -> Space {
        Space {
            limit,
            ..Space::default()
        }
    }

    /// Takes, changes or drops a lock.
    pub(crate) fn ask(
        &mut self,
        at: Identity,
        asked: OwnedLock,
        waits: bool,
        now: Duration,
    ) -> Answer {
        self.closing.is_known(asked.file);
        // Its owner has spoken since: what was granted before is not to be undone any more. (A line
        // was cut, and the same was asked for again by another.)
        self.unheard.retain(|_, unheard| {
            let met = unheard.granted.lock.flock == asked.lock.flock
                && unheard.granted.is_same_owner(&asked)
                && unheard.granted.lock.overlaps(&asked.lock);
            !(unheard.at == at && met)
        });
        let object = self.objects.entry(at).or_default();
        if asked.lock.kind == LockKind::Unlock {
            object.held.set(asked);
            self.serve(at);
            return Answer::Done;
        }
        if object.held.len() + object.queue.len() >= self.limit {
            return Answer::Full;
        }
        if asked.lock.flock {
            let own = object.held.within(&asked);
            if own.iter().any(|held| held.lock.kind == asked.lock.kind) {
                return Answer::Done;
            }
            // flock(2) gives up what it has before it asks for another kind, and does not get it
            // back when that cannot be had.
            object.held.set(unlock(asked));
        }
        let answer = if object.is_free(&asked, waits) {
            self.grant(at, asked);
            Answer::Done
        } else if !waits {
            Answer::Busy
        } else if self.is_deadlock(at, &asked) {
            Answer::Deadlock
        } else {
            Answer::Waits(self.wait(at, asked, now))
        };
        self.serve(at);
        answer
    }

    /// Who is in the way.
    pub(crate) fn conflict(&self, at: Identity, asked: &OwnedLock) -> Option<OwnedLock> {
        self.objects.get(&at)?.held.conflict(asked).copied()
    }

    /// Nobody waits for this any more.
    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        if let Some(at) = self.forget(ticket) {
            self.serve(at);
        }
    }

    /// Whoever waited has heard that it has its lock.
    pub(crate) fn heard(&mut self, ticket: Ticket) {
        self.unheard.remove(&ticket);
    }

    /// A lock was granted, and nobody wants it any more: all is as it was before.
    pub(crate) fn undo(&mut self, ticket: Ticket) {
        let Some(unheard) = self.unheard.remove(&ticket) else {
            return;
        };
        let held = &mut self.objects.entry(unheard.at).or_default().held;
        held.set(unlock(unheard.granted));
        unheard.before.into_iter().for_each(|lock| held.set(lock));
        self.serve(unheard.at);
    }

    /// A process closed a descriptor.
    pub(crate) fn close(&mut self, at: Identity, client: u64, owner: u64) {
        self.unheard.retain(|_, unheard| {
            let OwnedLock {
                client: of, lock, ..
            } = unheard.granted;
            (unheard.at, of, lock.owner, lock.flock) != (at, client, owner, false)
        });
        if let Some(object) = self.objects.get_mut(&at)
            && object.held.drop_owner(client, owner)
        {
            self.serve(at);
        }
    }

    /// A descriptor of an open file was closed; it may have been the last.
    pub(crate) fn closes(&mut self, file: u64, now: Duration) {
        self.closing.closes(file, now);
    }

    /// Until when all that is in the way of a lock may turn out to be gone; `None` when some of it
    /// stays.
    pub(crate) fn may_be_gone(
        &self,
        at: Identity,
        asked: &OwnedLock,
        now: Duration,
    ) -> Option<Duration> {
        let mut held = self.objects.get(&at)?.held.conflicts(asked);
        held.try_fold(now, |latest, held| {
            Some(latest.max(self.closing.until(held.file, now)?))
        })
    }

    /// How many open files are gone: another number means that something may be free now.
    pub(crate) fn released(&self) -> u64 {
        self.released
    }

    /// An open file is gone.
    pub(crate) fn release(&mut self, at: Identity, file: u64) {
        self.closing.is_known(file);
        self.released += 1;
        self.unheard
            .retain(|_, unheard| unheard.granted.file != file);
        let Some(object) = self.objects.get_mut(&at) else {
            return;
        };
        object.held.drop_file(file);
        let waiting = object.queue.iter();
        let gone: Vec<_> = waiting
            .filter(|waiter| waiter.asked.file == file)
            .map(|waiter| waiter.ticket)
            .collect();
        for ticket in gone {
            self.forget(ticket);
            self.done.push((ticket, Outcome::Closed));
        }
        self.serve(at);
    }

    /// Lets those go on who have stood behind others for long enough.
    pub(crate) fn ripen(&mut self, now: Duration) {
        let objects = self.objects.iter_mut();
        let ripe: Vec<_> = objects
            .filter_map(|(at, object)| object.ripen(now).then_some(*at))
            .collect();
        ripe.into_iter().for_each(|at| self.serve(at));
    }

    /// When [`Space::ripen`] is to be called next.
    pub(crate) fn next_ripe(&self) -> Option<Duration> {
        let waiting: HashSet<_> = self.places.values().collect();
        let objects = waiting.into_iter().filter_map(|at| self.objects.get(at));
        objects.filter_map(Object::next_ripe).min()
    }

    /// Requests that waited, and are done since this was asked last.
    pub(crate) fn take_done(&mut self) -> Vec<(Ticket, Outcome)> {
        std::mem::take(&mut self.done)
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiters(&self) -> usize {
        self.places.len()
    }

    fn wait(&mut self, at: Identity, asked: OwnedLock, now: Duration) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        if let Some(object) = self.objects.get_mut(&at) {
            object.wait(ticket, asked, now);
        }
        self.places.insert(ticket, at);
        if let Some(owner) = waits_as(&asked) {
            self.waiting.entry(owner).or_default().push(ticket);
        }
        ticket
    }

    /// Takes a request out of everything. Where it was.
    fn forget(&mut self, ticket: Ticket) -> Option<Identity> {
        let at = self.places.remove(&ticket)?;
        let queue = &mut self.objects.get_mut(&at)?.queue;
        if let Some(place) = queue.iter().position(|waiter| waiter.ticket == ticket) {
            let waiter = queue.remove(place);
            self.forget_owner(ticket, &waiter.asked);
        }
        Some(at)
    }

    fn forget_owner(&mut self, ticket: Ticket, asked: &OwnedLock) {
        let Some(owner) = waits_as(asked) else {
            return;
        };
        if let Some(tickets) = self.waiting.get_mut(&owner) {
            tickets.retain(|other| *other != ticket);
            if tickets.is_empty() {
                self.waiting.remove(&owner);
            }
        }
    }

    /// Gives a file's locks to those in the queue who can have them now.
    fn serve(&mut self, at: Identity) {
        while let Some(object) = self.objects.get_mut(&at) {
            let Some(waiter) = object.next() else {
                if object.is_idle() {
                    self.objects.remove(&at);
                }
                return;
            };
            let before = object.held.within(&waiter.asked);
            self.places.remove(&waiter.ticket);
            self.forget_owner(waiter.ticket, &waiter.asked);
            let unheard = Unheard {
                at,
                granted: waiter.asked,
                before,
            };
            self.unheard.insert(waiter.ticket, unheard);
            self.done.push((waiter.ticket, Outcome::Granted));
            self.grant(at, waiter.asked);
        }
    }

    fn grant(&mut self, at: Identity, asked: OwnedLock) {
        let Some(object) = self.objects.get_mut(&at) else {
            return;
        };
        object.held.set(asked);
        // Another thread of the new holder may be waiting: then who waits for this lock may now
        // be waiting in a circle that did not exist when he began.
        if waits_as(&asked).is_none_or(|owner| !self.waiting.contains_key(&owner)) {
            return;
        }
        let queue = object.queue.iter();
        let met: Vec<_> = queue
            .filter(|waiter| waiter.asked.conflicts(&asked))
            .map(|waiter| (waiter.ticket, waiter.asked))
            .collect();
        for (ticket, waiter) in met {
            if self.is_deadlock(at, &waiter) {
                self.forget(ticket);
                self.done.push((ticket, Outcome::Deadlock));
            }
        }
    }

    /// Whether whoever is in the way of this lock waits, by whatever detour, for its owner.
    fn is_deadlock(&self, at: Identity, asked: &OwnedLock) -> bool {
        let Some(me) = waits_as(asked) else {
            return false;
        };
        let mut met = HashSet::new();
        let mut open = Vec::new();
        self.holders(at, asked, &mut open);
        while let Some(owner) = open.pop() {
            if owner == me {
                return true;
            }
            if !met.insert(owner) {
                continue;
            }
            for ticket in self.waiting.get(&owner).into_iter().flatten() {
                let Some(at) = self.places.get(ticket) else {
                    continue;
                };
                let object = self.objects.get(at);
                let queue = object.into_iter().flat_map(|object| &object.queue);
                for waiter in queue.filter(|waiter| waiter.ticket == *ticket) {
                    self.holders(*at, &waiter.asked, &mut open);
                }
            }
        }
        false
    }

    fn holders(&self, at: Identity, asked: &OwnedLock, into: &mut Vec<Owner>) {
        if let Some(object) = self.objects.get(&at) {
            let held = object.held.conflicts(asked);
            into.extend(held.map(|held| (held.client, held.lock.owner)));
        }
    }
}

/// Under which owner a request waits, if its waiting can be part of a deadlock.
fn waits_as(asked: &OwnedLock) -> Option<Owner> {
    let lock = &asked.lock;
    (!lock.flock && !lock.ofd).then_some((asked.client, lock.owner))
}

fn unlock(mut lock: OwnedLock) -> OwnedLock {
    lock.lock.kind = LockKind::Unlock;
    lock
}

#[cfg(test)]
mod tests;
