//! What is healed next.

use super::{AHEAD, BodyWork, CRAWL, Ledger, Millis, REST_AT_MOST, State, TOUCHED, URGENT, Work};
use crate::record::{Bytes, Oid, Piece};

/// For how long a body is put off whose name is healed first.
const BEHIND_ITS_NAME: Millis = 30;

impl Ledger {
    pub(super) fn enqueue(&mut self, oid: Oid, class: u8, due: Millis) {
        let Some(mark) = self.marks.get(&oid) else {
            return;
        };
        let due = due
            .min(mark.since + REST_AT_MOST)
            .max(due.saturating_sub(REST_AT_MOST));
        self.enqueue_at(oid, class, due);
    }

    fn enqueue_at(&mut self, oid: Oid, class: u8, due: Millis) {
        if let Some((old_class, old_due, order)) = self.queued.get(&oid).copied() {
            if (old_class, old_due) <= (class, due) {
                return;
            }
            self.queue.remove(&(old_class, old_due, order, oid));
        }
        // The crawl goes deep first: later ones come before earlier ones.
        let order = if class == CRAWL {
            u64::MAX - self.next_generation()
        } else {
            0
        };
        let due = if class == CRAWL { 0 } else { due };
        self.queue.insert((class, due, order, oid));
        self.queued.insert(oid, (class, due, order));
        self.newly = Some(self.newly.map_or(due, |newly| newly.min(due)));
    }

    /// When the first of what was queued since the last call is due.
    pub(crate) fn take_queued(&mut self) -> Option<Millis> {
        self.newly.take()
    }

    /// When the first of all that may be claimed is due.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        let classes = [URGENT, TOUCHED, CRAWL];
        let classes = classes
            .into_iter()
            .filter(|class| !(self.resting && *class == CRAWL));
        let firsts = classes.filter_map(|class| {
            let from = (class, 0, 0, Oid(0, 0));
            let to = (class + 1, 0, 0, Oid(0, 0));
            self.queue.range(from..to).next()
        });
        firsts.map(|&(_, due, ..)| due).min()
    }

    pub(super) fn dequeue(&mut self, oid: Oid) {
        if let Some((class, due, order)) = self.queued.remove(&oid) {
            self.queue.remove(&(class, due, order, oid));
        }
    }

    /// A user looked at this directory: it comes next.
    pub(crate) fn urge(&mut self, oid: Oid) -> bool {
        let unseen = self.tree_dirty(oid);
        let wanted = unseen && !self.busy.contains(&oid);
        if wanted {
            self.enqueue(oid, URGENT, 0);
        } else if self.resting && !unseen && self.trees > 0 {
            // Nobody knows of it yet; when its turn comes it must not be left alone.
            self.wanted.insert(oid);
        }
        wanted
    }

    /// The next object to heal and all its open pieces, claimed for the caller until
    /// [`Ledger::finish`]; or when to ask again.
    pub(crate) fn claim_next(&mut self, now: Millis, hurry: bool) -> Result<Work, Option<Millis>> {
        let mut soonest: Option<Millis> = None;
        let mut taken = None;
        let mut tried = 0;
        let mut put_off = Vec::new();
        // Under users who never rest the crawl would never come: every other turn is its own.
        self.turn = !self.turn;
        let classes: &[u8] = match (self.resting, self.turn) {
            (true, _) => &[URGENT, TOUCHED],
            (false, true) => &[URGENT, TOUCHED, CRAWL],
            (false, false) => &[URGENT, CRAWL, TOUCHED],
        };
        'classes: for &class in classes {
            let from = (class, 0, 0, Oid(0, 0));
            let to = (class + 1, 0, 0, Oid(0, 0));
            for &(.., due, _, oid) in self.queue.range(from..to) {
                if due > now && !hurry {
                    soonest = Some(soonest.map_or(due, |s| s.min(due)));
                    break;
                }
                if self.busy.contains(&oid) {
                    soonest = Some(soonest.map_or(now + 2, |s| s.min(now + 2)));
                    continue;
                }
                if self.waits_for_its_name(oid, now) || self.waits_for_its_image(oid, now) {
                    put_off.push(oid);
                } else if let Some(work) = self.work(oid, now) {
                    taken = Some(work);
                    break 'classes;
                }
                soonest = Some(soonest.map_or(now + 10, |s| s.min(now + 10)));
                tried += 1;
                if tried > AHEAD {
                    break 'classes;
                }
            }
        }
        // Out of the way of those that come after them, however long they have waited: it is one of those that they
        // wait for.
        for oid in put_off {
            self.dequeue(oid);
            self.enqueue_at(oid, TOUCHED, now + BEHIND_ITS_NAME);
        }
        let Some(work) = taken else {
            return Err(soonest);
        };
        self.dequeue(work.oid);
        self.busy.insert(work.oid);
        Ok(work)
    }

    /// Whether the name of what is no directory is open itself and is healed now or soon, which takes the
    /// body along. A name that was put off, or that failed, is not waited for here: who
    /// heals the body finds out what that means for it.
    fn waits_for_its_name(&self, oid: Oid, now: Millis) -> bool {
        let named = self.marks.get(&oid).and_then(|mark| {
            let (_, name) = mark.locator.whence.as_ref()?;
            let dir = mark
                .dir
                .filter(|_| mark.tree.is_none() && mark.names.is_empty())?;
            Some((dir, name))
        });
        named.is_some_and(|(dir, name)| self.is_healed_soon(dir, name, now))
    }

    /// The same of a directory that users have just made in another one which they have just made as well. In a long row
    /// of these nothing is done but from its top: else whoever begins further down climbs all of it in vain.
    fn waits_for_its_image(&self, oid: Oid, now: Millis) -> bool {
        let born = self.born.get(&oid);
        born.is_some_and(|(above, name)| {
            let above_waits = self.born.contains_key(above) || self.busy.contains(above);
            above_waits && self.is_healed_soon(*above, name, now)
        })
    }

    /// A directory that users have just made has its image: what is in it has waited for this.
    pub(crate) fn wake(&mut self, oid: Oid) {
        let Some(mark) = self.marks.get_mut(&oid) else {
            return;
        };
        let troubles = &self.troubles;
        for (name, state) in &mut mark.names {
            if !troubles.contains_key(&(oid, Piece::Name(name.clone()))) {
                state.not_before = 0;
            }
        }
        self.enqueue_at(oid, TOUCHED, 0);
    }

    fn is_healed_soon(&self, dir: Oid, name: &Bytes, now: Millis) -> bool {
        let piece = (dir, Piece::Name(name.clone()));
        self.state(dir, &piece.1).is_some_and(|state| {
            Self::dirty(state)
                && state.not_before <= now
                && !self.is_parked(&piece)
                && !self.troubles.contains_key(&piece)
                && !self.behind.contains_key(&piece)
        })
    }

    /// What is open of one object.
    pub(crate) fn work(&self, oid: Oid, now: Millis) -> Option<Work> {
        let mark = self.marks.get(&oid)?;
        let open = |piece: Piece, state: &State| {
            !state.copied
                && state.in_flight == 0
                && state.not_before <= now
                && !self.is_parked(&(oid, piece))
        };
        let body = mark
            .body
            .as_ref()
            .filter(|body| open(Piece::Body, &body.state));
        let tree = mark
            .tree
            .as_ref()
            .filter(|(state, _)| open(Piece::Tree, state));
        let names: Vec<_> = mark
            .names
            .iter()
            .filter(|(name, state)| open(Piece::Name((*name).clone()), state))
            .map(|(name, state)| (name.clone(), state.generation))
            .collect();
        let work = Work {
            oid,
            kind: mark.kind,
            locator: mark.locator.clone(),
            body: body.map(|body| BodyWork {
                generation: body.state.generation,
                data: body.data.clone(),
                escaped: body.escaped,
            }),
            tree: tree.map(|(state, walk)| (state.generation, *walk)),
            names,
        };
        (work.body.is_some() || work.tree.is_some() || !work.names.is_empty()).then_some(work)
    }

    /// Whether there is something to heal now or soon.
    pub(crate) fn is_open(&self, now: Millis) -> bool {
        let due = |&(class, due, ..): &(u8, Millis, u64, Oid)| {
            due <= now + 20 && !(class == CRAWL && self.resting)
        };
        !self.busy.is_empty() || self.queue.iter().any(due)
    }

    /// Whether unseen directories are left alone until somebody looks at them.
    pub(crate) fn set_resting(&mut self, resting: bool) {
        self.resting = resting;
        self.wanted.clear();
    }

    /// Ends a claim of [`Ledger::claim_next`]; what is still open comes again.
    pub(crate) fn release(&mut self, oid: Oid, now: Millis) {
        self.busy.remove(&oid);
        self.requeue(oid, now);
    }

    pub(super) fn requeue(&mut self, oid: Oid, now: Millis) {
        let Some(mark) = self.marks.get(&oid) else {
            return;
        };
        let bodies = mark.body.iter().map(|body| (Piece::Body, &body.state));
        let names = mark
            .names
            .iter()
            .map(|(name, state)| (Piece::Name(name.clone()), state));
        let soonest = |states: &mut dyn Iterator<Item = (Piece, &State)>| {
            states
                .filter(|(piece, s)| !s.copied && !self.is_parked(&(oid, piece.clone())))
                .map(|(_, s)| {
                    if s.in_flight > 0 {
                        now + 20
                    } else {
                        s.not_before
                    }
                })
                .min()
        };
        let touched = soonest(&mut bodies.chain(names));
        let tree = soonest(&mut mark.tree.iter().map(|(state, _)| (Piece::Tree, state)));
        if let Some(due) = touched {
            self.enqueue(oid, TOUCHED, due.max(now));
        }
        match tree {
            Some(due) if due > now => self.enqueue(oid, TOUCHED, due),
            Some(_) => self.enqueue(oid, CRAWL, now),
            // What is left waits for a sync: it must not look like work that keeps one away.
            None if touched.is_none() => self.dequeue(oid),
            None => {}
        }
    }

    /// A piece that failed is tried now.
    pub(crate) fn retry(&mut self, oid: Oid, piece: &Piece, now: Millis) {
        if let Some(trouble) = self.troubles.get_mut(&(oid, piece.clone())) {
            trouble.stale = true;
        }
        self.state_mut(oid, piece, |state| state.not_before = 0);
        self.dequeue(oid);
        if !self.busy.contains(&oid) {
            self.requeue(oid, now);
        }
    }

    /// Everything that failed or waits is tried now.
    pub(crate) fn retry_all(&mut self, now: Millis) {
        self.troubles
            .values_mut()
            .for_each(|trouble| trouble.stale = true);
        let oids: Vec<Oid> = self.marks.keys().copied().collect();
        for oid in oids {
            if let Some(mark) = self.marks.get_mut(&oid) {
                mark.body
                    .iter_mut()
                    .for_each(|body| body.state.not_before = 0);
                mark.tree
                    .iter_mut()
                    .for_each(|(state, _)| state.not_before = 0);
                mark.names
                    .values_mut()
                    .for_each(|state| state.not_before = 0);
            }
            self.dequeue(oid);
            if !self.busy.contains(&oid) {
                self.requeue(oid, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hermitfs_api::Kind;

    use crate::ledger::{Known, Ledger, Outcome, Touch};
    use crate::record::{Bytes, Locator, Oid, Piece};
    use crate::trouble::{Side, Trouble};

    #[test]
    fn what_only_waits_for_a_sync_is_not_open() {
        let mut ledger = Ledger::default();
        let file = Known {
            oid: Oid(1, 1),
            kind: Kind::File,
            locator: Locator::default(),
            dir: None,
        };
        // Found to differ by who has claimed it already, and made equal at once.
        assert!(ledger.claim(file.oid));
        ledger.mark_body(&file, None, 0);
        let body = ledger.body_work(file.oid).unwrap();
        assert!(ledger.finish(file.oid, &Piece::Body, body.generation, Outcome::Equal, 0));
        ledger.release(file.oid, 0);
        assert_eq!(ledger.copied(), 1);
        assert!(!ledger.is_open(0), "it would keep the sync waiting");
        assert!(ledger.claim_next(0, true).is_err());
        let cut = ledger.cut();
        ledger.seal(cut, true, 0);
        assert_eq!(ledger.pending(), 0);
    }

    const DIR: Oid = Oid(1, 1);
    const FILE: Oid = Oid(2, 2);

    /// A file that somebody has just made and written, by this clock.
    fn made(ledger: &mut Ledger, now: u64) -> Bytes {
        let name = Bytes::from(&b"name"[..]);
        let dir = Known {
            oid: DIR,
            kind: Kind::Directory,
            locator: Locator::default(),
            dir: None,
        };
        let file = Known {
            oid: FILE,
            kind: Kind::File,
            locator: Locator {
                handle: None,
                whence: Some((Bytes::default(), name.clone())),
            },
            dir: Some(DIR),
        };
        let written = Touch::Body {
            oid: FILE,
            data: Some((0, 9)),
            escaped: false,
        };
        for touch in [Touch::Name(DIR, name.clone()), written] {
            let known = [dir.clone(), file.clone()];
            let ticket = ledger.begin(&[touch], &[], &known, now).unwrap();
            ledger.end(ticket, now, 0);
        }
        name
    }

    /// A row of directories, each just made in the one before.
    fn row(ledger: &mut Ledger, long: u64) -> Bytes {
        let name = Bytes::from(&b"name"[..]);
        for n in 0..long {
            let known = [Known::of_dir(Oid(1, n))];
            let touch = [Touch::Name(Oid(1, n), name.clone())];
            let ticket = ledger.begin(&touch, &[], &known, 0).unwrap();
            ledger.bear(Oid(1, n + 1), Oid(1, n), &name);
            ledger.end(ticket, 0, 0);
        }
        name
    }

    #[test]
    fn a_row_of_new_directories_is_healed_from_its_top() {
        let mut ledger = Ledger::default();
        let name = row(&mut ledger, 5);
        let claimed = |ledger: &mut Ledger| {
            let works = std::iter::from_fn(|| ledger.claim_next(1000, true).ok());
            works
                .map(|work| work.oid.1)
                .collect::<std::collections::BTreeSet<_>>()
        };
        // Who makes the next image is to heal that one's name, before others climb to it.
        assert_eq!(claimed(&mut ledger), [0].into());
        ledger.release(Oid(1, 0), 1000);
        assert!(ledger.take_born(Oid(1, 1)));
        assert_eq!(claimed(&mut ledger), [0, 1].into());
        (0..2).for_each(|n| ledger.release(Oid(1, n), 1000));
        assert!(ledger.take_born(Oid(1, 2)));
        assert_eq!(claimed(&mut ledger), [0, 1, 2].into());
        (0..3).for_each(|n| ledger.release(Oid(1, n), 1000));
        // Where one is to fail, who is below finds out what that means for it.
        let trouble = Trouble::told(Side::Sink, "make", None, String::new());
        let generation = ledger.generation_of(Oid(1, 2), &Piece::Name(name.clone()));
        let failed = Outcome::Failed(trouble);
        let piece = Piece::Name(name);
        assert!(!ledger.finish(Oid(1, 2), &piece, generation.unwrap(), failed, 1000));
        assert!(claimed(&mut ledger).contains(&3));
    }

    #[test]
    fn who_has_waited_for_an_image_is_woken_when_it_is_there() {
        let mut ledger = Ledger::default();
        let name = row(&mut ledger, 3);
        ledger.take_born(Oid(1, 1));
        ledger.claim(Oid(1, 1));
        let generation = ledger.generation_of(Oid(1, 1), &Piece::Name(name.clone()));
        let later = Outcome::Later(500);
        let piece = Piece::Name(name);
        assert!(!ledger.finish(Oid(1, 1), &piece, generation.unwrap(), later, 1000));
        ledger.release(Oid(1, 1), 1000);
        let claimed = |ledger: &mut Ledger| {
            let works = std::iter::from_fn(|| ledger.claim_next(1000, false).ok());
            works.map(|work| work.oid.1).collect::<Vec<_>>()
        };
        assert!(!claimed(&mut ledger).contains(&1));
        ledger.wake(Oid(1, 1));
        assert_eq!(claimed(&mut ledger), [1]);
    }

    #[test]
    fn those_that_wait_do_not_keep_away_the_one_that_they_wait_for() {
        let mut ledger = Ledger::default();
        let long = 3 * super::AHEAD as u64;
        let name = row(&mut ledger, long);
        let late = 20_000;
        // The topmost one was healed meanwhile, but for the name that leads down.
        let known = Known::of_dir(Oid(1, 0));
        ledger.mark_body(&known, None, late);
        ledger.claim(known.oid);
        let body = ledger.body_work(known.oid).unwrap();
        let equal = Outcome::Equal;
        assert!(ledger.finish(known.oid, &Piece::Body, body.generation, equal, late));
        ledger.release(known.oid, late);
        ledger.dequeue(known.oid);
        ledger.enqueue(known.oid, super::TOUCHED, late + super::REST_AT_MOST);
        ledger.claim(Oid(1, 1)); // whose image would be made on the way
        let mut claims = Vec::new();
        for now in (late..late + 2 * super::REST_AT_MOST).step_by(50) {
            claims.extend(ledger.claim_next(now, false));
        }
        assert!(claims.iter().any(|work| work.oid == known.oid), "{name:?}");
    }

    #[test]
    fn a_new_directory_that_is_moved_waits_for_those_above_it_now() {
        let mut ledger = Ledger::default();
        let name = row(&mut ledger, 5);
        ledger.born_moves(Oid(1, 4), Oid(1, 0), b"other");
        let mut claimed = Vec::new();
        while let Ok(work) = ledger.claim_next(1000, true) {
            claimed.push(work.oid.1);
        }
        assert!(claimed.contains(&4), "{claimed:?} {name:?}");
    }

    #[test]
    fn a_body_waits_for_its_name_while_that_is_healed() {
        let mut ledger = Ledger::default();
        let name = made(&mut ledger, 0);
        let work = ledger.claim_next(0, false).unwrap();
        assert_eq!(work.oid, DIR);
        assert!(
            ledger.claim_next(0, false).is_err(),
            "the name takes it along"
        );
        assert!(ledger.claim_next(90, true).is_err());
        let generation = work.names[0].1;
        assert!(ledger.finish(DIR, &Piece::Name(name), generation, Outcome::Equal, 100));
        ledger.release(DIR, 100);
        let work = ledger.claim_next(200, false).unwrap();
        assert_eq!(work.oid, FILE, "it did not take it along");
    }

    #[test]
    fn a_body_does_not_wait_for_a_name_that_is_not_healed() {
        let put_off = |outcome: Outcome| {
            let mut ledger = Ledger::default();
            let name = made(&mut ledger, 0);
            let work = ledger.claim_next(0, false).unwrap();
            let generation = work.names[0].1;
            ledger.finish(DIR, &Piece::Name(name), generation, outcome, 0);
            ledger.release(DIR, 0);
            let work = ledger.claim_next(50, false).unwrap();
            assert_eq!(work.oid, FILE, "who heals it finds out what it waits for");
        };
        put_off(Outcome::Later(1000));
        put_off(Outcome::Failed(Trouble::told(
            Side::Sink,
            "create",
            None,
            String::new(),
        )));
    }
}
