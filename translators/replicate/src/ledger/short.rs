//! What the sink has no room for: put by until it may have, or until users have changed it.

use super::{Ledger, Millis, TOUCHED};
use crate::record::{Oid, Piece};
use crate::room::{Free, Need};

/// Milliseconds until a piece that was put by is looked at in any case, and what waits for one.
pub(super) const AGAIN: Millis = 30_000;

impl Ledger {
    /// Puts a piece by.
    pub(super) fn park(&mut self, key: (Oid, Piece), need: Need, now: Millis) {
        self.state_mut(key.0, &key.1, |state| state.not_before = now + 10 * AGAIN);
        self.short.insert(key, need);
    }

    pub(super) fn forget_short(&mut self, oid: Oid, piece: &Piece) {
        if !self.short.is_empty() {
            self.short.remove(&(oid, piece.clone()));
        }
    }

    /// Users have changed it: it may fit now, or be gone.
    pub(super) fn unpark(&mut self, oid: Oid, piece: &Piece, now: Millis) {
        if !self.short.is_empty() && self.short.remove(&(oid, piece.clone())).is_some() {
            self.state_mut(oid, piece, |state| state.not_before = 0);
            self.enqueue(oid, TOUCHED, now);
        }
    }

    /// The same of a body. What was made under its name, if it was, has no room for more than that.
    pub(super) fn unpark_body(&mut self, oid: Oid, now: Millis) {
        if self.short.is_empty() {
            return;
        }
        self.unpark(oid, &Piece::Body, now);
        let named = self.marks.get(&oid).and_then(|mark| {
            let (_, name) = mark.locator.whence.as_ref()?;
            Some((mark.dir?, Piece::Name(name.clone())))
        });
        if let Some((dir, name)) = named {
            self.unpark(dir, &name, now);
        }
    }

    /// There is so much free: what may fit into it is tried, the least first.
    pub(crate) fn try_short(&mut self, mut free: Free, now: Millis) {
        let mut fit: Vec<_> = self
            .short
            .iter()
            .filter(|(_, need)| free.less(**need).is_some())
            .map(|(key, need)| (*need, key.clone()))
            .collect();
        fit.sort_unstable();
        for (need, (oid, piece)) in fit {
            let Some(less) = free.less(need) else { break };
            free = less;
            self.unpark(oid, &piece, now);
        }
    }

    /// How many pieces the sink has no room for, what they need together, and which of them needs most.
    pub(crate) fn short(&self) -> Option<(u64, Need, (Oid, Piece), Need)> {
        let (most, its) = self.short.iter().max_by_key(|(key, need)| (**need, *key))?;
        let mut all = Need::default();
        self.short.values().for_each(|need| all.add(*need));
        Some((self.short.len() as u64, all, most.clone(), *its))
    }

    /// Whether there are any.
    pub(crate) fn is_short(&self) -> bool {
        !self.short.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use hermitfs_api::Kind;

    use super::*;
    use crate::ledger::{Known, Outcome, Touch};
    use crate::record::{Bytes, Locator};

    const DIR: Oid = Oid(1, 1);
    const FILE: Oid = Oid(2, 2);
    const LONG: Millis = 1_000_000;

    fn known() -> Known {
        Known::of_dir(DIR)
    }

    fn name(n: u64) -> Bytes {
        n.to_string().as_bytes().into()
    }

    fn free(bytes: u64) -> Free {
        Free {
            bytes,
            inodes: None,
        }
    }

    /// Names with these needs, none of which fits.
    fn full(needs: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        for &need in needs {
            ledger.mark_name(&known(), &name(need), 0);
        }
        let work = ledger.claim_next(0, true).unwrap();
        for (name, generation) in work.names {
            let need = std::str::from_utf8(&name).unwrap().parse().unwrap();
            let outcome = Outcome::Full(Need::bytes(need));
            ledger.finish(DIR, &Piece::Name(name), generation, outcome, 0);
        }
        ledger.release(DIR, 0);
        ledger
    }

    fn tried(ledger: &Ledger) -> Vec<Bytes> {
        let work = ledger.work(DIR, 1);
        work.map_or(Vec::new(), |work| {
            work.names.into_iter().map(|(name, _)| name).collect()
        })
    }

    #[test]
    fn what_does_not_fit_is_left_alone_until_it_may() {
        let mut ledger = full(&[10, 20, 30, 100]);
        assert!(tried(&ledger).is_empty() && !ledger.is_open(1));
        ledger.try_short(free(9), 1);
        assert!(tried(&ledger).is_empty());
        ledger.try_short(free(35), 1);
        assert_eq!(tried(&ledger), [name(10), name(20)], "these fit together");
        let (pieces, need, most, its) = ledger.short().unwrap();
        assert_eq!((pieces, need.bytes, its.bytes), (2, 130, 100));
        assert_eq!(most, (DIR, Piece::Name(name(100))));
        assert_eq!(ledger.errors(), 0, "no error: room may come");
        assert!(ledger.work(DIR, LONG).is_some(), "looked at in the end");
    }

    #[test]
    fn what_users_change_is_tried_at_once_and_what_they_remove_is_forgotten() {
        let mut ledger = full(&[10, 20]);
        let touch = [Touch::Name(DIR, name(20))];
        let ticket = ledger.begin(&touch, &[], &[], 0).unwrap();
        ledger.end(ticket, 0, 0);
        assert_eq!(tried(&ledger), [name(20)]);
        // What is written to is found under its name.
        let file = Known {
            oid: FILE,
            kind: Kind::File,
            locator: Locator {
                handle: None,
                whence: Some((name(0), name(10))),
            },
            dir: Some(DIR),
        };
        ledger.mark_body(&file, Some((0, 1)), 0);
        assert_eq!(tried(&ledger), [name(10), name(20)]);
        assert!(!ledger.is_short());
        let mut ledger = full(&[10]);
        ledger.forget(DIR);
        assert!(!ledger.is_short());
    }

    /// The name is tried before the file is cut short, and does not fit: the end of that counts.
    #[test]
    fn what_did_not_fit_while_users_made_it_smaller_is_tried_when_they_have() {
        let mut ledger = full(&[100]);
        let file = Known {
            oid: FILE,
            kind: Kind::File,
            locator: Locator {
                handle: None,
                whence: Some((name(0), name(100))),
            },
            dir: Some(DIR),
        };
        let touch = [Touch::Body {
            oid: FILE,
            data: Some((1, 100)),
            escaped: false,
        }];
        let ticket = ledger.begin(&touch, &[], &[file], 0).unwrap();
        let piece = Piece::Name(name(100));
        let generation = ledger.generation_of(DIR, &piece).unwrap();
        let outcome = Outcome::Full(Need::bytes(100));
        ledger.finish(DIR, &piece, generation, outcome, 0);
        assert!(tried(&ledger).is_empty());
        ledger.end(ticket, 0, 0);
        assert_eq!(tried(&ledger), [name(100)]);
    }

    #[test]
    fn what_became_another_thing_meanwhile_is_not_put_by() {
        let mut ledger = Ledger::default();
        ledger.mark_name(&known(), &name(1), 0);
        let work = ledger.claim_next(0, true).unwrap();
        ledger.mark_name(&known(), &name(1), 0);
        let (bytes, generation) = work.names[0].clone();
        let full = Outcome::Full(Need::bytes(1));
        ledger.finish(DIR, &Piece::Name(bytes), generation, full, 0);
        assert!(!ledger.is_short());
    }
}
