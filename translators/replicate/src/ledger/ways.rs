//! Directories that are known to have their images where they belong: under the same names, all the way down from the root.
//!
//! A link is one name down: it says that a directory of the source has a name in another one, and that its image
//! has that name in the other one's image. It is noted when both were looked at, and cut by whatever may end it:
//! an operation on that name, another place of the image, a walk that is to come to the directory above. So a link
//! that is there holds; and a way holds while each link of it is there, and fits the one above.
//!
//! To ask whether a way holds costs no more the deeper it is: what was found to hold is remembered until
//! anything is cut that others hang from.

use std::collections::HashMap;

use super::Ledger;
use crate::record::{Bytes, Oid};

/// So many links are kept before those are dropped that nothing hangs from; they are found anew.
const MOST: usize = 16_384;

#[derive(Debug)]
pub(super) struct Ways {
    links: HashMap<Oid, Link>,
    /// The other way round: whom a name in a directory leads to.
    below: HashMap<Oid, HashMap<Bytes, Oid>>,
    /// What was found to hold at this version does.
    version: u64,
    /// From so many on some are dropped.
    full: usize,
}

#[derive(Debug)]
struct Link {
    above: Oid,
    name: Bytes,
    /// The image of the directory above.
    from: Oid,
    image: Oid,
    /// All the way up was found to hold at this version.
    checked: u64,
}

impl Default for Ways {
    fn default() -> Ways {
        Ways {
            links: HashMap::new(),
            below: HashMap::new(),
            version: 1,
            full: MOST,
        }
    }
}

impl Ways {
    /// The image of a directory, if all the way down from the root, and its image, holds.
    fn image(&mut self, dir: Oid, root: (Oid, Oid)) -> Option<Oid> {
        let mut passed = Vec::new();
        let mut here = dir;
        while here != root.0 {
            let link = self.links.get(&here)?;
            if link.checked == self.version {
                break;
            }
            let above = match link.above == root.0 {
                true => root.1,
                false => self.links.get(&link.above)?.image,
            };
            if above != link.from || passed.len() > self.links.len() {
                return None;
            }
            passed.push(here);
            here = link.above;
        }
        for oid in passed {
            if let Some(link) = self.links.get_mut(&oid) {
                link.checked = self.version;
            }
        }
        match dir == root.0 {
            true => Some(root.1),
            false => self.links.get(&dir).map(|link| link.image),
        }
    }

    fn note(&mut self, (above, from): (Oid, Oid), name: &Bytes, (dir, image): (Oid, Oid)) {
        let is_this = |its: &&Link| {
            (its.above, its.from, its.image) == (above, from, image) && its.name == *name
        };
        if self.links.get(&dir).as_ref().is_some_and(is_this) {
            return;
        }
        self.cut(dir);
        self.cut_name(above, name);
        let names = self.below.entry(above).or_default();
        names.insert(name.clone(), dir);
        let link = Link {
            above,
            name: name.clone(),
            from,
            image,
            checked: 0,
        };
        self.links.insert(dir, link);
        if self.links.len() >= self.full {
            self.drop_ends(dir);
            // Where paths are that long that few are ends, not at each step again.
            self.full = MOST.max(2 * self.links.len());
        }
    }

    /// Drops all that nothing hangs from, but for this one.
    fn drop_ends(&mut self, but: Oid) {
        let ends = self.links.keys().copied();
        let ends = ends.filter(|oid| *oid != but && !self.below.contains_key(oid));
        let ends: Vec<Oid> = ends.collect();
        ends.into_iter().for_each(|oid| self.cut(oid));
    }

    fn cut(&mut self, dir: Oid) {
        let Some(Link { above, name, .. }) = self.links.remove(&dir) else {
            return;
        };
        if let Some(names) = self.below.get_mut(&above) {
            names.remove(&name);
            if names.is_empty() {
                self.below.remove(&above);
            }
        }
        if self.below.contains_key(&dir) {
            self.version += 1;
        }
    }

    fn cut_name(&mut self, above: Oid, name: &[u8]) {
        let leads = self.below.get(&above).and_then(|names| names.get(name));
        if let Some(dir) = leads.copied() {
            self.cut(dir);
        }
    }

    fn cut_below(&mut self, above: Oid) {
        let names = self.below.remove(&above).unwrap_or_default();
        names.into_values().for_each(|dir| self.cut(dir));
    }
}

impl Ledger {
    /// The image of a directory, if it is known to stand where it belongs. `root`: the source's root, and its image.
    pub(crate) fn settled(&mut self, dir: Oid, root: (Oid, Oid)) -> Option<Oid> {
        self.ways.image(dir, root)
    }

    /// Whether something is known of this directory's way.
    pub(crate) fn has_way(&self, dir: Oid) -> bool {
        self.ways.links.contains_key(&dir)
    }

    /// How many are known.
    pub(crate) fn ways(&self) -> usize {
        self.ways.links.len()
    }

    /// Below this directory, and in its image, this name was found to lead to these two; and all that was looked at
    /// still holds.
    pub(crate) fn note_way(&mut self, from: (Oid, Oid), name: &Bytes, to: (Oid, Oid)) {
        self.ways.note(from, name, to);
    }

    /// Something is not as it should be: all is looked at again.
    pub(crate) fn forget_ways(&mut self) {
        self.ways = Ways {
            version: self.ways.version + 1,
            ..Ways::default()
        };
    }

    /// A name may lead elsewhere from now on, or its image stand elsewhere.
    pub(super) fn name_moves(&mut self, dir: Oid, name: &[u8]) {
        self.ways.cut_name(dir, name);
    }

    /// It is not known where the images of those below are.
    pub(super) fn unsettle_below(&mut self, dir: Oid) {
        self.ways.cut_below(dir);
    }

    /// Another place of an image is known, or none any more.
    pub(super) fn image_moves(&mut self, oid: Oid) {
        let Some(Link { above, name, .. }) = self.ways.links.get(&oid) else {
            return;
        };
        if !self.is_settled_at(*above, name, oid) {
            self.ways.cut(oid);
        }
    }

    /// Whether an image is under its name: an open name is no obstacle where it is known to stand there.
    pub(crate) fn is_settled_at(&self, above: Oid, name: &[u8], oid: Oid) -> bool {
        match self.place_of(oid) {
            Some(place) => place.is(above, name),
            None => !self.name_dirty(above, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{Known, Touch};
    use crate::record::{Place, Trust};

    const ROOT: (Oid, Oid) = (Oid(1, 0), Oid(2, 0));

    fn dir(n: u64) -> Oid {
        Oid(1, n)
    }

    fn image(n: u64) -> Oid {
        Oid(2, n)
    }

    fn name(n: u64) -> Bytes {
        n.to_string().into_bytes().into()
    }

    impl Ways {
        /// The same without anything remembered.
        fn image_by_all(&self, dir: Oid) -> Option<Oid> {
            let (mut here, mut wanted) = (dir, None);
            for _ in 0..=self.links.len() {
                if here == ROOT.0 {
                    return match wanted {
                        None => Some(ROOT.1),
                        Some(from) => (from == ROOT.1).then(|| self.links[&dir].image),
                    };
                }
                let link = self.links.get(&here)?;
                if wanted.is_some_and(|image| image != link.image) {
                    return None;
                }
                (here, wanted) = (link.above, Some(link.from));
            }
            None
        }

        fn sound(&self) {
            for (oid, link) in &self.links {
                assert_eq!(self.below[&link.above][&link.name], *oid);
            }
            let below: usize = self.below.values().map(HashMap::len).sum();
            assert_eq!(below, self.links.len());
            assert!(self.below.values().all(|names| !names.is_empty()));
        }
    }

    /// A chain of directories below the root, the first one under it.
    fn chain(ledger: &mut Ledger, long: u64) {
        for n in 0..long {
            ledger.note_way((dir(n), image(n)), &name(n), (dir(n + 1), image(n + 1)));
        }
        assert_eq!(ledger.settled(dir(long), ROOT), Some(image(long)));
    }

    #[test]
    fn whatever_may_move_an_image_cuts_the_way_to_all_below() {
        let known = Known::of_dir;
        let at = |n| Place::At {
            dir: dir(n),
            handle: None,
            name: name(n),
        };
        type Act<'a> = &'a dyn Fn(&mut Ledger);
        let user = |ledger: &mut Ledger| {
            let touch = [Touch::Name(dir(1), name(1))];
            let ticket = ledger.begin(&touch, &[], &[known(dir(1))], 0).unwrap();
            ledger.end(ticket, 0, 0);
        };
        let moved = |ledger: &mut Ledger| ledger.set_place(dir(2), None, at(5));
        let walk = |ledger: &mut Ledger| ledger.plant_tree(&known(dir(1)), Trust::NOTHING, 0);
        let marked = |ledger: &mut Ledger| ledger.mark_name(&known(dir(1)), &name(1), 0);
        let taken = |ledger: &mut Ledger| {
            ledger.set_place(dir(2), None, at(1));
            ledger.set_place(dir(9), None, at(1));
            ledger.mark_name(&known(dir(1)), &name(1), 0);
        };
        let all = |ledger: &mut Ledger| ledger.forget_ways();
        for act in [&user as Act<'_>, &moved, &walk, &marked, &taken, &all] {
            let mut ledger = Ledger::default();
            chain(&mut ledger, 4);
            act(&mut ledger);
            for n in 2..=4 {
                assert_eq!(ledger.settled(dir(n), ROOT), None, "{n}");
            }
            ledger.ways.sound();
        }
    }

    #[test]
    fn what_happens_beside_it_leaves_a_way_alone() {
        let mut ledger = Ledger::default();
        chain(&mut ledger, 4);
        ledger.mark_name(&Known::of_dir(dir(1)), &name(7), 0);
        ledger.mark_body(&Known::of_dir(dir(2)), None, 0);
        let place = Place::At {
            dir: dir(1),
            handle: None,
            name: name(1),
        };
        ledger.set_place(dir(2), None, place);
        assert_eq!(ledger.settled(dir(4), ROOT), Some(image(4)));
        ledger.unplace(dir(2));
        assert_eq!(ledger.settled(dir(4), ROOT), Some(image(4)));
    }

    #[test]
    fn a_name_that_is_reopened_by_a_failed_sync_is_looked_at_again() {
        let mut ledger = Ledger::default();
        ledger.mark_name(&Known::of_dir(dir(1)), &name(1), 0);
        ledger.claim(dir(1));
        let work = ledger.work(dir(1), 0).unwrap();
        let piece = crate::record::Piece::Name(name(1));
        let equal = crate::ledger::Outcome::Equal;
        assert!(ledger.finish(dir(1), &piece, work.names[0].1, equal, 0));
        chain(&mut ledger, 4);
        let cut = ledger.cut();
        ledger.seal(cut, false, 0);
        assert_eq!(ledger.settled(dir(4), ROOT), None);
    }

    #[test]
    fn another_image_above_is_another_way() {
        let mut ledger = Ledger::default();
        chain(&mut ledger, 3);
        ledger.note_way((dir(0), image(0)), &name(0), (dir(1), image(8)));
        assert_eq!(ledger.settled(dir(1), ROOT), Some(image(8)));
        assert_eq!(ledger.settled(dir(3), ROOT), None);
        ledger.note_way((dir(1), image(8)), &name(1), (dir(2), image(2)));
        assert_eq!(ledger.settled(dir(3), ROOT), Some(image(3)));
    }

    #[test]
    fn few_are_kept_but_all_of_a_long_way() {
        let mut ledger = Ledger::default();
        let long = MOST as u64 * 2;
        chain(&mut ledger, long);
        let wide = MOST as u64 * 4;
        for n in 0..wide {
            let below = long + 1 + n;
            ledger.note_way((dir(5), image(5)), &name(below), (dir(below), image(below)));
        }
        // But for its ends, of which each time one goes.
        let near = long - 10;
        assert_eq!(ledger.settled(dir(near), ROOT), Some(image(near)));
        assert!(ledger.ways() < MOST * 5, "{}", ledger.ways());
        ledger.ways.sound();
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_what_would_be_found(
            acts in prop::collection::vec((0u8..5, 1u64..8, 0u64..8, 0u64..3, 0u64..2), 0..200),
        ) {
            let mut ways = Ways { full: 6, ..Ways::default() };
            for (act, one, above, called, other) in acts {
                match act {
                    0 | 1 if one != above => {
                        let from = image(above + 10 * if above == 0 { 0 } else { other });
                        ways.note((dir(above), from), &name(called), (dir(one), image(one + 10 * other)));
                    }
                    2 => ways.cut(dir(one)),
                    3 => ways.cut_name(dir(above), &name(called)),
                    4 => ways.cut_below(dir(above)),
                    _ => {}
                }
                ways.sound();
                for n in 0..8 {
                    let by_all = ways.image_by_all(dir(n));
                    prop_assert_eq!(ways.image(dir(n), ROOT), by_all);
                }
            }
        }
    }
}
