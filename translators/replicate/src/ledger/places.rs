//! Where images stand: places and the slots that they claim, and the images of objects with several names.

use std::ops::Bound;

use hermitfs_api::Kind;

use super::{Departure, Known, Lacking, Ledger, Mark, Millis, Why};
use crate::ranges::Ranges;
use crate::record::{Bytes, Oid, Place, Record, Trust};

impl Ledger {
    /// An object is about to leave a name. One that is to go, and where its image stands.
    pub(super) fn depart(&mut self, departure: &Departure, now: Millis) -> Option<(Known, Place)> {
        let Departure {
            object,
            chain,
            handle,
            name,
            why,
            ..
        } = departure;
        let is_dir = object.kind == Kind::Directory;
        let Some(&dir) = chain.first() else {
            // Where it stood could not be found out: then nothing is known of its image.
            if is_dir && *why == Why::Moves && !self.born.contains_key(&object.oid) {
                self.plant_tree(object, Trust::NOTHING, now);
            }
            return None;
        };
        let here = || Place::At {
            dir,
            handle: handle.clone(),
            name: name.clone(),
        };
        let clean = self.clean(chain, name);
        // A directory that walks are to come to stands where they would find it.
        let stands = is_dir
            && !chain.iter().any(|above| self.is_lost(*above))
            && !self.name_dirty(dir, name)
            && !self.places.contains_key(&object.oid)
            && self.claimant(dir, name).is_none();
        match why {
            // Of a directory that dies only the way to what came out of it is of use.
            Why::Dies => {
                self.born.remove(&object.oid);
                if clean || stands {
                    match self.has_claims_in(object.oid) {
                        true => self.place(object, here()),
                        false => return Some((object.clone(), here())),
                    }
                }
            }
            Why::Linked if self.places.contains_key(&object.oid) => {}
            Why::Linked if self.images.contains_key(&object.oid) => {}
            _ if clean => self.place(object, here()),
            // There is no image yet that could be lost.
            Why::Moves if self.born.contains_key(&object.oid) => {
                self.take_along(object, chain, now)
            }
            Why::Moves if is_dir => {
                if stands {
                    self.place(object, here());
                }
                match self.places.contains_key(&object.oid) {
                    true => self.take_along(object, chain, now),
                    false => self.plant_tree(object, Trust::NOTHING, now),
                }
            }
            Why::Moves => self.take_along(object, chain, now),
            Why::Linked => {}
        }
        None
    }

    /// Objects were moved: walks that were to come to them where they stood, also those that were asked for
    /// while they were moved, come to them where they are. Before that is over no walk can have passed their
    /// old names.
    pub(crate) fn carry(&mut self, departures: &[Departure], now: Millis) -> Result<(), Lacking> {
        if self.lacks_chains(departures) {
            return Err(Lacking::Chains);
        }
        for departure in departures {
            let Departure { object, chain, .. } = departure;
            if departure.why != Why::Moves {
                continue;
            }
            match chain.is_empty() {
                // Where it stood could not be found out.
                true if object.kind == Kind::Directory && !self.born.contains_key(&object.oid) => {
                    self.plant_tree(object, Trust::NOTHING, now);
                }
                _ => self.take_along(object, chain, now),
            }
        }
        Ok(())
    }

    /// Whether it matters what is above, and departures do not tell.
    pub(super) fn lacks_chains(&self, departures: &[Departure]) -> bool {
        self.trees > 0 && departures.iter().any(|departure| !departure.is_whole)
    }

    /// Walks that are still to come to where this object stands go with it. What is no directory is healed
    /// under its new name without a look at what it has already: so that has a mark.
    fn take_along(&mut self, object: &Known, chain: &[Oid], now: Millis) {
        let Some(walk) = self.to_come(chain) else {
            return;
        };
        // All in one that was made before our eyes has marks.
        let born = self.born.contains_key(&object.oid) && walk.trust == Trust::ALL;
        if object.kind == Kind::Directory && !born {
            self.go_on(object, walk, now);
        } else if self.has_image(object.oid) && walk.trust != Trust::ALL {
            self.mark_body(object, Some(Ranges::WHOLE), now);
        }
    }

    /// Whether it is known where the image of what is no directory is, wherever its names are.
    pub(crate) fn has_image(&self, oid: Oid) -> bool {
        self.places.contains_key(&oid) || self.images.contains_key(&oid)
    }

    pub(super) fn place(&mut self, object: &Known, place: Place) {
        self.set_place(object.oid, object.locator.handle.clone(), place);
    }

    /// The image of this object stands there now.
    pub(crate) fn set_place(&mut self, oid: Oid, handle: Option<Bytes>, place: Place) {
        self.drop_claim(oid);
        if let Place::At { dir, name, .. } = &place
            && let Some(other) = self.claims.insert((*dir, name.clone()), oid)
        {
            self.places.remove(&other);
            self.image_moves(other);
            self.records.push(Record::Unplaced { oid: other });
        }
        self.records.push(Record::Placed {
            oid,
            handle: handle.clone(),
            place: place.clone(),
        });
        self.places.insert(oid, (handle, place));
        self.image_moves(oid);
    }

    pub(super) fn drop_claim(&mut self, oid: Oid) {
        if let Some((_, Place::At { dir, name, .. })) = self.places.remove(&oid) {
            self.claims.remove(&(dir, name));
        }
    }

    /// The image of this object is nowhere but, perhaps, at its own path.
    pub(crate) fn unplace(&mut self, oid: Oid) {
        if self.places.contains_key(&oid) {
            self.drop_claim(oid);
            self.image_moves(oid);
            self.records.push(Record::Unplaced { oid });
        }
    }

    /// Where the image stands, if not at the object's own path.
    pub(crate) fn place_of(&self, oid: Oid) -> Option<&Place> {
        self.places.get(&oid).map(|(_, place)| place)
    }

    /// Whose image stands in this slot of the sink.
    pub(crate) fn claimant(&self, dir: Oid, name: &[u8]) -> Option<Oid> {
        self.claims.get(&(dir, name.into())).copied()
    }

    /// Whether images of objects that moved away stand right below this directory's image.
    pub(crate) fn has_claims_in(&self, dir: Oid) -> bool {
        self.claims_in(dir).next().is_some()
    }

    /// Those objects.
    pub(crate) fn claims_in(&self, dir: Oid) -> impl Iterator<Item = Oid> + '_ {
        let from = (dir, Bytes::default());
        self.claims
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |((at, _), _)| *at == dir)
            .map(|(_, oid)| *oid)
    }

    /// Handle of a placed object's source.
    pub(crate) fn placed_handle(&self, oid: Oid) -> Option<Bytes> {
        self.places.get(&oid).and_then(|(handle, _)| handle.clone())
    }

    /// A number in the staging space that nothing has.
    pub(crate) fn new_stage(&mut self) -> u64 {
        self.staged += 1;
        self.staged
    }

    /// Whether nothing is left to heal, and yet something stands in the staging space.
    pub(crate) fn is_unswept(&self) -> bool {
        let is_staged = |(_, place): &(Option<Bytes>, Place)| matches!(place, Place::Staged(_));
        self.is_settled() && self.places.values().any(is_staged)
    }

    /// All that stands in the staging space.
    pub(crate) fn stages(&self) -> Vec<(u64, Oid)> {
        self.places
            .iter()
            .filter_map(|(oid, (_, place))| match place {
                Place::Staged(number) => Some((*number, *oid)),
                Place::At { .. } => None,
            })
            .collect()
    }

    /// The sink's object that is this one's image, if it has or had several names.
    pub(crate) fn image(&self, oid: Oid) -> Option<(Oid, Bytes)> {
        self.images.get(&oid).cloned()
    }

    /// Whose image this object of the sink is.
    pub(crate) fn image_owner(&self, sink: Oid) -> Option<Oid> {
        self.image_of.get(&sink).copied()
    }

    /// Notes an image.
    pub(crate) fn set_image(&mut self, oid: Oid, sink: Oid, handle: Bytes) {
        if self.images.get(&oid).is_some_and(|(old, _)| *old == sink) {
            return;
        }
        self.drop_image(oid);
        if let Some(other) = self.image_of.get(&sink).copied() {
            self.drop_image(other);
        }
        self.image_of.insert(sink, oid);
        self.images.insert(oid, (sink, handle.clone()));
        self.records.push(Record::Image { oid, sink, handle });
    }

    /// What a walk has met under a name, and could not look at. That name is marked next: so it is written down
    /// that a directory stands there which was not moved.
    pub(crate) fn keep(&mut self, object: &Known, dir: Oid, handle: Option<Bytes>, name: &Bytes) {
        let moved = self.name_dirty(dir, name) || self.places.contains_key(&object.oid);
        if !moved && !self.is_lost(dir) && self.claimant(dir, name).is_none() {
            let name = name.clone();
            self.place(object, Place::At { dir, handle, name });
        }
    }

    /// Forgets an image.
    pub(crate) fn drop_image(&mut self, oid: Oid) {
        if let Some((sink, _)) = self.images.remove(&oid) {
            self.image_of.remove(&sink);
            self.records.push(Record::NoImage { oid });
        }
    }

    /// All is to be compared from the root on, and who is not trusted in everything may have been
    /// at the sink, too. `same_boot` when those who wrote past us may go on with it.
    pub(crate) fn doubt(&mut self, root: &Known, trust: Trust, same_boot: bool) {
        if trust == Trust::NOTHING {
            // They say nothing that is not found anyway, and after a power cut the source may know
            // nothing of their objects: some file systems then give their numbers to others, with
            // the same generation.
            let void = |mark: &Mark| !(same_boot && mark.body.as_ref().is_some_and(|b| b.escaped));
            let marks = self.marks.iter().filter(|(_, mark)| void(mark));
            let void: Vec<Oid> = marks.map(|(oid, _)| *oid).collect();
            void.into_iter().for_each(|oid| self.forget(oid));
        }
        if trust != Trust::ALL {
            self.doubt_images();
            self.set_unverified();
        }
        self.clear_lost();
        self.plant_tree(root, trust, 0);
    }

    /// Forgets all that is known of images and places: somebody else may have been there.
    fn doubt_images(&mut self) {
        let images: Vec<Oid> = self.images.keys().copied().collect();
        images.into_iter().for_each(|oid| self.drop_image(oid));
        let places: Vec<Oid> = self.places.keys().copied().collect();
        places.into_iter().for_each(|oid| self.unplace(oid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Touch;

    const ROOT: Oid = Oid(1, 1);
    const TO: Oid = Oid(1, 2);
    const MOVED: Oid = Oid(1, 3);

    /// Whether a walk is to come to a directory that a user has moved, when one of where it stood was asked for
    /// before that, or meanwhile.
    fn is_walked(before: bool, meanwhile: bool) -> bool {
        let name = Bytes::from(&b"name"[..]);
        let departures = [Departure {
            object: Known::of_dir(MOVED),
            chain: vec![ROOT],
            is_whole: true,
            handle: None,
            name: name.clone(),
            why: Why::Moves,
        }];
        let mut ledger = Ledger::default();
        let walk = |ledger: &mut Ledger| ledger.plant_tree(&Known::of_dir(ROOT), Trust::NOTHING, 0);
        if before {
            // Its image is known to stand elsewhere, so that nothing else asks for a walk.
            ledger.set_place(MOVED, None, Place::Staged(1));
            walk(&mut ledger);
        }
        let touches = [Touch::Name(ROOT, name.clone()), Touch::Name(TO, name)];
        let known = [Known::of_dir(ROOT), Known::of_dir(TO)];
        let ticket = ledger.begin(&touches, &departures, &known, 0).unwrap();
        if meanwhile {
            walk(&mut ledger);
        }
        ledger.carry(&departures, 0).unwrap();
        ledger.end(ticket, 0, 0);
        ledger.tree_dirty(MOVED)
    }

    #[test]
    fn a_walk_that_is_still_to_come_goes_along_with_what_is_moved() {
        assert!(!is_walked(false, false));
        assert!(is_walked(true, false));
        assert!(is_walked(false, true));
    }
}
