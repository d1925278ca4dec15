//! How healing came out: copied, then settled by a sync.

use super::{Ledger, Millis, Outcome, Work};
use crate::record::{Oid, Piece, Record};
use crate::trouble::{Side, Trouble};

/// Milliseconds until a piece is looked at again that waits for one that failed.
const BEHIND: Millis = 500;

/// Milliseconds until a piece is tried again whose trouble may pass by itself: twice as many after the first
/// time, and so on.
const AGAIN: Millis = 20;

impl Ledger {
    /// Tells how pieces of a claimed object came out. What was changed by users meanwhile, or
    /// is being changed, stays dirty. Returns whether this piece is equal now.
    pub(crate) fn finish(
        &mut self,
        oid: Oid,
        piece: &Piece,
        generation: u64,
        outcome: Outcome,
        now: Millis,
    ) -> bool {
        let Some(state) = self.state(oid, piece).copied() else {
            return false;
        };
        if state.copied {
            return false;
        }
        let stands = state.generation == generation && state.in_flight == 0;
        if !self.behind.is_empty() {
            self.behind.remove(&(oid, piece.clone()));
        }
        self.forget_short(oid, piece);
        match outcome {
            Outcome::Equal => {
                self.troubles.remove(&(oid, piece.clone()));
                self.met.remove(&(oid, piece.clone()));
                if !stands {
                    // What was there at the claim is healed; what remains is younger.
                    self.state_mut(oid, piece, |state| state.born = generation + 1);
                    return false;
                }
                self.state_mut(oid, piece, |state| state.copied = true);
                if *piece == Piece::Tree {
                    self.passed(oid);
                }
                let epoch = self.epoch;
                if *piece == Piece::Body
                    && let Some(body) = self.marks.get_mut(&oid).and_then(|m| m.body.as_mut())
                {
                    let data = std::mem::take(&mut body.data);
                    body.unsynced.push((epoch, data));
                }
                if let Some(mark) = self.marks.get_mut(&oid) {
                    mark.since = now;
                }
                self.copied.push((oid, piece.clone(), generation));
                true
            }
            Outcome::Later(wait) => {
                self.state_mut(oid, piece, |state| state.not_before = now + wait);
                false
            }
            Outcome::Behind(other, its) => {
                let its = (other, its);
                let wait = match self.short.contains_key(&its) {
                    true => super::short::AGAIN,
                    false => BEHIND,
                };
                self.troubles.remove(&(oid, piece.clone()));
                self.behind.insert((oid, piece.clone()), its);
                self.state_mut(oid, piece, |state| state.not_before = now + wait);
                false
            }
            Outcome::Full(need) => {
                self.troubles.remove(&(oid, piece.clone()));
                match stands {
                    true => self.park((oid, piece.clone()), need, now),
                    // It is another one by now, which may fit.
                    false => self.state_mut(oid, piece, |state| state.not_before = now + 20),
                }
                false
            }
            // What users did meanwhile may look the same.
            Outcome::Failed(trouble) if trouble.met_at_least > 1 && !stands => {
                self.state_mut(oid, piece, |state| state.not_before = now + AGAIN);
                false
            }
            Outcome::Failed(trouble) => {
                let wait = self.failed((oid, piece.clone()), trouble);
                self.state_mut(oid, piece, |state| state.not_before = now + wait);
                false
            }
        }
    }

    /// A piece failed: milliseconds until it is tried again. It is told as a trouble from when it was met often
    /// enough.
    fn failed(&mut self, key: (Oid, Piece), trouble: Trouble) -> Millis {
        let old = self.troubles.remove(&key);
        if old.is_none() && trouble.met_at_least > 1 {
            let met = self.met.entry(key.clone()).or_insert(0);
            *met += 1;
            if *met < trouble.met_at_least {
                return AGAIN << *met;
            }
        }
        self.met.remove(&key);
        let trouble = trouble.after(old);
        let wait = trouble.back_off();
        self.troubles.insert(key, trouble);
        wait
    }

    /// A claimed object whose healing came to no end: it failed, and is tried again.
    pub(crate) fn panicked(&mut self, work: &Work, now: Millis) {
        let failed = || {
            let reason = "hermitfs failed at this object: see its log".to_owned();
            Outcome::Failed(Trouble::told(Side::Sink, "heal", None, reason))
        };
        if let Some(body) = &work.body {
            self.finish(work.oid, &Piece::Body, body.generation, failed(), now);
        }
        if let Some((generation, _)) = work.tree {
            self.finish(work.oid, &Piece::Tree, generation, failed(), now);
        }
        for (name, generation) in &work.names {
            self.finish(
                work.oid,
                &Piece::Name(name.clone()),
                *generation,
                failed(),
                now,
            );
        }
        self.release(work.oid, now);
    }

    /// Whether something waits for a sync.
    pub(crate) fn copied(&self) -> usize {
        self.copied.len()
    }

    /// Call before a sync: what has been copied so far is what it will settle.
    pub(crate) fn cut(&mut self) -> Vec<(Oid, Piece, u64)> {
        self.epoch += 1;
        std::mem::take(&mut self.copied)
    }

    /// After the sync: settles the cut, or makes it dirty again.
    pub(crate) fn seal(&mut self, cut: Vec<(Oid, Piece, u64)>, synced: bool, now: Millis) {
        let epoch = self.epoch;
        for (oid, piece, generation) in cut {
            if let Some(body) = self.marks.get_mut(&oid).and_then(|mark| mark.body.as_mut())
                && piece == Piece::Body
            {
                let (old, new) = std::mem::take(&mut body.unsynced)
                    .into_iter()
                    .partition::<Vec<_>, _>(|(at, _)| *at < epoch);
                body.unsynced = new;
                if !synced {
                    old.iter().for_each(|(_, data)| body.data.extend(data));
                }
            }
            let unchanged = self
                .state(oid, &piece)
                .is_some_and(|s| s.copied && s.generation == generation);
            if !unchanged {
                continue;
            }
            if synced {
                self.drop_piece(oid, &piece);
                self.records.push(Record::Settled { oid, piece });
            } else {
                if let Piece::Name(name) = &piece {
                    self.name_moves(oid, name);
                }
                match piece {
                    Piece::Tree => self.walk_again(oid),
                    _ => self.state_mut(oid, &piece, |state| state.copied = false),
                }
                self.requeue(oid, now);
            }
        }
    }

    pub(super) fn drop_piece(&mut self, oid: Oid, piece: &Piece) {
        self.unwaive(oid, piece);
        self.forget_short(oid, piece);
        if !self.behind.is_empty() {
            self.behind.remove(&(oid, piece.clone()));
        }
        if !self.met.is_empty() {
            self.met.remove(&(oid, piece.clone()));
        }
        let Some(mark) = self.marks.get_mut(&oid) else {
            return;
        };
        match piece {
            Piece::Body => mark.body = None,
            Piece::Tree => mark.tree = None,
            Piece::Name(name) => drop(mark.names.remove(name)),
        }
        if mark.body.is_none() && mark.tree.is_none() && mark.names.is_empty() {
            self.marks.remove(&oid);
            self.dequeue(oid);
        }
    }
}

#[cfg(test)]
mod tests {
    use hermitfs_api::{Errno, Error, Kind};

    use super::*;
    use crate::ledger::Known;
    use crate::record::Locator;

    const FILE: Oid = Oid(2, 2);

    fn mark(ledger: &mut Ledger) {
        let known = Known {
            oid: FILE,
            kind: Kind::File,
            locator: Locator::default(),
            dir: None,
        };
        ledger.mark_body(&known, None, 0);
    }

    fn marked() -> Ledger {
        let mut ledger = Ledger::default();
        mark(&mut ledger);
        ledger
    }

    fn finish(ledger: &mut Ledger, outcome: Outcome) {
        let generation = ledger.generation_of(FILE, &Piece::Body).unwrap();
        ledger.finish(FILE, &Piece::Body, generation, outcome, 0);
    }

    fn failed(errno: Errno) -> Outcome {
        Outcome::Failed(Trouble::new(Side::Sink, "read", &Error::new(errno)))
    }

    #[test]
    fn what_may_pass_by_itself_is_told_when_it_does_not() {
        let mut ledger = marked();
        for _ in 0..3 {
            for _ in 0..4 {
                finish(&mut ledger, failed(Errno::ESTALE));
            }
            let goal = ledger.now_mark();
            assert_eq!((ledger.errors(), ledger.left_before(goal)), (0, (1, 0)));
            // Whatever it was, it has passed; and then somebody writes.
            finish(&mut ledger, Outcome::Equal);
            mark(&mut ledger);
        }
        for told in [0, 0, 0, 0, 1, 1] {
            finish(&mut ledger, failed(Errno::ESTALE));
            assert_eq!(ledger.errors(), told);
        }
        let count = ledger.troubles().next().unwrap().2.count;
        assert_eq!(count, 2, "told once, and met once more");
        let goal = ledger.now_mark();
        assert_eq!(ledger.left_before(goal), (0, 1));
    }

    #[test]
    fn what_is_doubtful_does_not_count_while_users_change_it() {
        let mut ledger = marked();
        for _ in 0..20 {
            let generation = ledger.generation_of(FILE, &Piece::Body).unwrap();
            mark(&mut ledger);
            let outcome = failed(Errno::ESTALE);
            ledger.finish(FILE, &Piece::Body, generation, outcome, 0);
        }
        assert!(ledger.errors() == 0 && ledger.met.is_empty());
    }

    #[test]
    fn what_does_not_pass_is_told_at_once_and_nothing_is_kept_of_what_is_gone() {
        let mut ledger = marked();
        finish(&mut ledger, failed(Errno::EIO));
        assert_eq!(ledger.errors(), 1);
        let mut ledger = marked();
        finish(&mut ledger, failed(Errno::ESTALE));
        assert!(!ledger.met.is_empty());
        ledger.forget(FILE);
        assert!(ledger.met.is_empty());
    }
}
