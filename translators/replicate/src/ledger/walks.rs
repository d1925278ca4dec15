//! Walks: directories below which everything is to be looked at, and those that were passed.
//!
//! A walk is asked for at one directory and goes down from there, pass by pass: a pass over a directory
//! plants it in each directory below. A directory that users move meanwhile takes it along if it has not been
//! passed by it yet, and only then. So it is passed once, however often it is moved, and users cannot keep a walk alive.
//!
//! Why once is enough: a walk has to pass what was below its directory when it was asked for. A pass for a walk
//! as young, or younger, that trusts no more, has planted that walk in all that was below then; and each of these was
//! passed since, or is still to be, or has taken it along.

use std::collections::HashMap;

use super::{CRAWL, Known, Ledger, Millis, State, URGENT};
use crate::record::{Oid, Piece, Trust};

/// What a directory is looked at for, and all below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// How much is taken for equal without a look at its content.
    pub(crate) trust: Trust,
    /// When the youngest that is part of it was asked for, as a generation. 0 for none: then this is for the
    /// directory alone, whose image is new.
    asked: u64,
    /// It began where another object of the sink became the image: what is known to stand below the old one is
    /// not below this one.
    lost: bool,
    /// All that it meets without a mark should be equal: what is not is told.
    pub(crate) verify: bool,
}

impl Walk {
    /// Whether what this one has passed needs not to be passed by the other one.
    fn covers(&self, other: &Walk) -> bool {
        self.asked >= other.asked && self.trust <= other.trust
    }

    /// One for both.
    fn and(&self, other: &Walk) -> Walk {
        Walk {
            trust: self.trust.min(other.trust),
            asked: self.asked.max(other.asked),
            lost: self.lost || other.lost,
            verify: self.verify && other.verify,
        }
    }
}

impl Ledger {
    /// A walk that is asked for now.
    pub(crate) fn ask(&mut self, trust: Trust) -> Walk {
        Walk {
            trust,
            asked: self.next_generation(),
            lost: false,
            verify: false,
        }
    }

    /// Everything below this directory is unseen. Heals soon, newest first, so that the frontier
    /// of a crawl stays short.
    pub(crate) fn plant_tree(&mut self, known: &Known, trust: Trust, now: Millis) {
        let walk = self.ask(trust);
        self.walked.remove(&known.oid);
        self.plant(known, walk, now);
    }

    /// The same to find out whether it is what it is thought to be.
    pub(crate) fn plant_verification(&mut self, known: &Known, now: Millis) {
        let walk = Walk {
            verify: true,
            ..self.ask(Trust::NOTHING)
        };
        self.walked.remove(&known.oid);
        self.plant(known, walk, now);
    }

    /// The same of one whose image was made just now, with nothing in it. What a kill leaves half done was made
    /// by us; but a walk that has come here may have to look at what is brought in.
    pub(crate) fn plant_new(&mut self, known: &Known, walk: Option<Walk>, now: Millis) {
        let walk = Walk {
            trust: walk.map_or(Trust::ALL, |walk| walk.trust),
            asked: walk.map_or(0, |walk| walk.asked),
            lost: false,
            verify: false,
        };
        self.walked.remove(&known.oid);
        self.plant(known, walk, now);
    }

    /// A walk has come to a directory whose image has stood elsewhere: nothing is new in it.
    pub(crate) fn go_on_in_known(&mut self, known: &Known, walk: Walk, now: Millis) {
        if walk.asked > 0 {
            self.go_on(known, walk, now);
        }
    }

    /// A walk has come to a directory whose image stays what it is: it goes on there, unless one that is as young,
    /// and trusts no more, has passed it or is to come anyway.
    pub(crate) fn go_on(&mut self, known: &Known, walk: Walk, now: Millis) {
        let to_come = self.walk_of(known.oid);
        let comes = to_come.is_some_and(|its| its.covers(&walk) && its.lost >= walk.lost);
        let passed = self.walked.get(&known.oid);
        if !comes && !passed.is_some_and(|its| its.covers(&walk)) {
            self.plant(known, walk, now);
        }
    }

    fn plant(&mut self, known: &Known, walk: Walk, now: Millis) {
        self.admit(known, now);
        self.born.remove(&known.oid);
        let generation = self.next_generation();
        let mut grown = 0;
        let mut record = None;
        if let Some(mark) = self.marks.get_mut(&known.oid) {
            let wider = match &mut mark.tree {
                None => {
                    mark.tree = Some((Self::fresh(generation), walk));
                    grown = 1;
                    true
                }
                Some((state, old)) => {
                    if state.copied {
                        grown = 1;
                        // That was found out by the pass. The trust stays, as no sync has followed it yet.
                        old.lost = false;
                        old.verify = walk.verify;
                    }
                    Self::redirty(state, generation);
                    let wider = walk.trust < old.trust;
                    *old = old.and(&walk);
                    wider
                }
            };
            if wider {
                let trust = mark.tree.as_ref().map(|(_, walk)| walk.trust);
                record = Some(Self::mark_record(known.oid, mark, None, trust, vec![]));
            }
        }
        self.trees += grown;
        self.unsettle_below(known.oid);
        self.records.extend(record);
        self.matters_again(known.oid, &Piece::Tree);
        self.unpark(known.oid, &Piece::Tree, now);
        match self.wanted.remove(&known.oid) {
            true => self.enqueue(known.oid, URGENT, 0),
            false => self.enqueue(known.oid, CRAWL, now),
        }
    }

    /// A walk from one that has a mark, or is admitted.
    pub(super) fn dirty_tree(&mut self, oid: Oid, trust: Trust, now: Millis) -> Piece {
        if let Some(mark) = self.marks.get(&oid) {
            let known = Known {
                oid,
                kind: mark.kind,
                locator: mark.locator.clone(),
                dir: mark.dir,
            };
            self.plant_tree(&known, trust, now);
        }
        Piece::Tree
    }

    /// This directory of the sink becomes the image, whatever it was before: all in it is unseen,
    /// also for those who work in what was the image so far, and nothing that is known to stand
    /// in the old one stands here. When a walk has come by a name that nobody has changed it is the image that
    /// it was before, if that is true of what is above.
    pub(crate) fn adopt(&mut self, known: &Known, sink: Oid, walk: Option<Walk>, now: Millis) {
        let elsewhere = self
            .in_use
            .iter()
            .any(|(image, owner)| *owner == known.oid && *image != sink);
        let same = walk.filter(|_| !elsewhere);
        match same {
            Some(walk) => self.go_on(known, walk, now),
            None => {
                let trust = walk.map_or(Trust::NOTHING, |its| its.trust);
                let lost = Walk {
                    lost: true,
                    ..self.ask(trust)
                };
                self.walked.remove(&known.oid);
                self.plant(known, lost, now);
            }
        }
        if same.is_none_or(|walk| walk.lost) {
            let lost: Vec<Oid> = self.claims_in(known.oid).collect();
            lost.into_iter().for_each(|oid| self.unplace(oid));
        }
    }

    /// A walk that the journal tells of. It does not tell whether images were lost.
    pub(super) fn replant(&mut self, known: &Known, trust: Trust) {
        let walk = Walk {
            lost: true,
            ..self.ask(trust)
        };
        self.plant(known, walk, 0);
    }

    /// Where nothing is known to stand anywhere nothing of it can be wrong.
    pub(super) fn clear_lost(&mut self) {
        if self.places.is_empty() {
            let trees = self
                .marks
                .values_mut()
                .filter_map(|mark| mark.tree.as_mut());
            trees.for_each(|(_, walk)| walk.lost = false);
        }
    }

    /// Whether what stands below the image of this directory may be other objects' images than those that are
    /// known to stand there, until a walk has passed it.
    pub(crate) fn is_lost(&self, dir: Oid) -> bool {
        self.walk_of(dir).is_some_and(|walk| walk.lost)
    }

    /// A directory's own walk that is still to come.
    fn walk_of(&self, dir: Oid) -> Option<Walk> {
        let (state, walk) = self.marks.get(&dir)?.tree?;
        Self::dirty(&state).then_some(walk)
    }

    /// The walks that are still to come to one of these directories, or on from there, in one.
    pub(super) fn to_come(&self, chain: &[Oid]) -> Option<Walk> {
        let walks = chain.iter().filter_map(|above| self.walk_of(*above));
        walks.reduce(|one, other| one.and(&other))
    }

    /// A directory was passed by its own walk.
    pub(super) fn passed(&mut self, dir: Oid) {
        let Some((_, walk)) = self.marks.get(&dir).and_then(|mark| mark.tree) else {
            return;
        };
        self.walked.insert(dir, walk);
        self.less_trees();
    }

    /// One less is to be walked.
    pub(super) fn less_trees(&mut self) {
        self.trees -= 1;
        if self.trees == 0 {
            self.walked = HashMap::new();
        }
    }

    /// What was walked may not be on the sink: it is walked once more, and what was passed was so in vain.
    pub(super) fn walk_again(&mut self, dir: Oid) {
        let walk = Walk {
            lost: true,
            ..self.ask(Trust::NOTHING)
        };
        self.walked.clear();
        self.unsettle_below(dir);
        let Some(mark) = self.marks.get_mut(&dir) else {
            return;
        };
        let Some((State { copied, .. }, its)) = &mut mark.tree else {
            return;
        };
        (*copied, *its) = (false, walk);
        self.trees += 1;
        let record = Self::mark_record(dir, mark, None, Some(walk.trust), vec![]);
        self.records.push(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Departure, Outcome, Why};
    use crate::record::{Bytes, Place};

    const ROOT: Oid = Oid(1, 1);
    const DIR: Oid = Oid(1, 2);
    const ABOVE: Oid = Oid(1, 3);
    const IMAGE: Oid = Oid(9, 9);

    fn name() -> Bytes {
        b"name"[..].into()
    }

    /// A pass over a directory, which has these below it.
    fn pass(ledger: &mut Ledger, dir: Oid, below: &[Oid]) {
        let (_, walk) = ledger.marks[&dir].tree.unwrap();
        below
            .iter()
            .for_each(|child| ledger.go_on(&Known::of_dir(*child), walk, 0));
        let generation = ledger.generation_of(dir, &Piece::Tree).unwrap();
        assert!(ledger.finish(dir, &Piece::Tree, generation, Outcome::Equal, 0));
    }

    /// A user moves a directory away from below these, nearest first.
    fn leaves(ledger: &mut Ledger, dir: Oid, chain: &[Oid]) {
        let departures = [Departure {
            object: Known::of_dir(dir),
            chain: chain.to_vec(),
            is_whole: true,
            handle: None,
            name: name(),
            why: Why::Moves,
        }];
        let ticket = ledger.begin(&[], &departures, &[], 0).unwrap();
        ledger.carry(&departures, 0).unwrap();
        ledger.end(ticket, 0, 0);
    }

    /// A walk from the root, which has come to one directory and not yet to that one's neighbour.
    fn passed(trust: Trust) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.plant_tree(&Known::of_dir(ROOT), trust, 0);
        pass(&mut ledger, ROOT, &[ABOVE, DIR]);
        pass(&mut ledger, DIR, &[]);
        ledger
    }

    #[test]
    fn a_walk_does_not_come_twice_to_what_is_moved() {
        let mut ledger = passed(Trust::NOTHING);
        for _ in 0..3 {
            leaves(&mut ledger, DIR, &[ABOVE, ROOT]);
            assert!(!ledger.tree_dirty(DIR));
        }
    }

    #[test]
    fn what_was_unseen_anyway_is_not_verified() {
        let verifies = |ledger: &Ledger, dir: Oid| ledger.marks[&dir].tree.unwrap().1.verify;
        let mut ledger = Ledger::default();
        ledger.plant_tree(&Known::of_dir(DIR), Trust::ALL, 0);
        ledger.plant_verification(&Known::of_dir(ROOT), 0);
        assert!(verifies(&ledger, ROOT));
        pass(&mut ledger, ROOT, &[DIR, ABOVE]);
        assert!(!verifies(&ledger, DIR) && verifies(&ledger, ABOVE));
        // Walked already, though not synced yet.
        pass(&mut ledger, DIR, &[]);
        ledger.plant_verification(&Known::of_dir(DIR), 0);
        assert!(verifies(&ledger, DIR));
    }

    #[test]
    fn another_walk_does() {
        let mut ledger = passed(Trust::NOTHING);
        ledger.plant_tree(&Known::of_dir(ROOT), Trust::NOTHING, 0);
        leaves(&mut ledger, DIR, &[ABOVE, ROOT]);
        assert!(ledger.tree_dirty(DIR), "asked for after that");
        let mut ledger = passed(Trust::ALL);
        ledger.plant_tree(&Known::of_dir(ABOVE), Trust::NOTHING, 0);
        leaves(&mut ledger, DIR, &[ABOVE, ROOT]);
        assert!(ledger.tree_dirty(DIR), "trusts less");
    }

    #[test]
    fn when_a_sync_fails_nothing_was_passed() {
        let mut ledger = passed(Trust::NOTHING);
        let cut = ledger.cut();
        ledger.seal(cut, false, 0);
        assert!(ledger.tree_dirty(DIR) && ledger.tree_dirty(ROOT));
        pass(&mut ledger, ROOT, &[DIR]);
        assert!(ledger.tree_dirty(DIR));
        let all_is_known = ledger.walked.keys().all(|dir| *dir == ROOT);
        assert!(all_is_known, "{:?}", ledger.walked);
    }

    #[test]
    fn what_was_passed_is_forgotten_with_the_last_walk() {
        let mut ledger = passed(Trust::ALL);
        assert!(!ledger.walked.is_empty());
        pass(&mut ledger, ABOVE, &[]);
        assert_eq!(ledger.trees(), 0);
        assert!(ledger.walked.is_empty());
    }

    #[test]
    fn what_a_walk_has_not_come_to_stands_where_it_stands() {
        let mut ledger = Ledger::default();
        ledger.plant_tree(&Known::of_dir(ROOT), Trust::NOTHING, 0);
        leaves(&mut ledger, DIR, &[ABOVE, ROOT]);
        let here = Place::At {
            dir: ABOVE,
            handle: None,
            name: name(),
        };
        assert_eq!(ledger.place_of(DIR), Some(&here));
        assert!(ledger.tree_dirty(DIR), "the walk goes along");
    }

    #[test]
    fn below_another_image_than_before_nothing_is_known_to_stand() {
        let mut ledger = Ledger::default();
        // By a name that users have changed: what stands there was never this directory's image.
        ledger.adopt(&Known::of_dir(ROOT), IMAGE, None, 0);
        assert!(ledger.is_lost(ROOT));
        leaves(&mut ledger, DIR, &[ABOVE, ROOT]);
        assert_eq!(ledger.place_of(DIR), None);
        // What is known to stand in the image of one that the walk comes to stood in another.
        let moved = Oid(1, 4);
        let here = Place::At {
            dir: ABOVE,
            handle: None,
            name: name(),
        };
        ledger.set_place(moved, None, here);
        let (_, walk) = ledger.marks[&ROOT].tree.unwrap();
        ledger.adopt(&Known::of_dir(ABOVE), Oid(9, 8), Some(walk), 0);
        assert!(ledger.is_lost(ABOVE));
        assert_eq!(ledger.place_of(moved), None);
    }

    #[test]
    fn what_a_walk_has_found_out_below_another_image_is_known_to_the_next_one() {
        let mut ledger = Ledger::default();
        ledger.adopt(&Known::of_dir(ROOT), IMAGE, None, 0);
        pass(&mut ledger, ROOT, &[]);
        assert!(!ledger.is_lost(ROOT), "no walk is to come");
        ledger.plant_tree(&Known::of_dir(ROOT), Trust::ALL, 0);
        assert!(ledger.tree_dirty(ROOT) && !ledger.is_lost(ROOT));
        // Unless that cannot be relied on.
        pass(&mut ledger, ROOT, &[]);
        let cut = ledger.cut();
        ledger.seal(cut, false, 0);
        assert!(ledger.is_lost(ROOT));
    }

    #[test]
    fn a_walk_that_adopts_what_stood_there_before_leaves_what_is_known_of_it() {
        let mut ledger = Ledger::default();
        let walk = ledger.ask(Trust::NOTHING);
        let moved = Oid(1, 4);
        let here = Place::At {
            dir: ABOVE,
            handle: None,
            name: name(),
        };
        ledger.set_place(moved, None, here.clone());
        ledger.adopt(&Known::of_dir(ABOVE), IMAGE, Some(walk), 0);
        assert!(ledger.tree_dirty(ABOVE) && !ledger.is_lost(ABOVE));
        assert_eq!(ledger.place_of(moved), Some(&here));
    }

    #[test]
    fn what_a_walk_could_not_look_at_is_known_to_stand_there_unless_somebody_changed_it() {
        for (changed, lost) in [(false, false), (true, false), (false, true)] {
            let mut ledger = Ledger::default();
            if changed {
                ledger.mark_name(&Known::of_dir(ROOT), &name(), 0);
            }
            if lost {
                ledger.adopt(&Known::of_dir(ROOT), IMAGE, None, 0);
            }
            ledger.keep(&Known::of_dir(DIR), ROOT, None, &name());
            assert_eq!(ledger.place_of(DIR).is_some(), !changed && !lost);
        }
    }

    #[test]
    fn a_restart_with_images_elsewhere_is_careful() {
        for placed in [false, true] {
            let mut ledger = Ledger::default();
            ledger.plant_tree(&Known::of_dir(ROOT), Trust::ALL, 0);
            if placed {
                ledger.set_place(DIR, None, Place::Staged(1));
            }
            let mut again = Ledger::default();
            again.replay(ledger.dump());
            assert!(again.tree_dirty(ROOT));
            assert_eq!(again.is_lost(ROOT), placed);
        }
    }

    #[test]
    fn what_is_brought_into_a_new_directory_is_walked_for_the_walk_that_has_come_there() {
        for asked in [None, Some(Trust::NOTHING)] {
            let mut ledger = Ledger::default();
            let walk = asked.map(|trust| ledger.ask(trust));
            ledger.plant_new(&Known::of_dir(ABOVE), walk, 0);
            let (_, walk) = ledger.marks[&ABOVE].tree.unwrap();
            ledger.go_on_in_known(&Known::of_dir(DIR), walk, 0);
            assert_eq!(ledger.tree_dirty(DIR), asked.is_some());
        }
    }
}
