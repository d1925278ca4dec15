//! Who works where, and what held at one moment.

use super::{BodyWork, Ledger, State};
use crate::record::{Bytes, Oid, Piece};

/// A moment of the ledger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    epoch: u64,
    generation: u64,
}

/// A new object that was claimed, and what of its body the copy takes along.
#[derive(Clone, Debug)]
pub(crate) struct Claimed {
    pub(crate) body: Option<BodyWork>,
}

impl Ledger {
    /// Claims an object as it is, with or without marks: what a healer is about to write must not
    /// be written by another at the same time; until [`Ledger::release`]. `false` when another has it.
    pub(crate) fn claim(&mut self, oid: Oid) -> bool {
        self.busy.insert(oid)
    }

    /// Claims the making of a directory's image, so that there is never more than one. Apart from
    /// the claim of the directory itself: who heals what is in it may have to make its image.
    pub(crate) fn claim_place(&mut self, oid: Oid) -> bool {
        self.placing.insert(oid)
    }

    /// Gives that back.
    pub(crate) fn unclaim_place(&mut self, oid: Oid) {
        self.placing.remove(&oid);
    }

    /// Somebody works in this directory of the sink, as the image of that one of the source: until
    /// [`Ledger::leave`] it becomes nobody else's image. `false` when it is another's just now.
    pub(crate) fn enter(&mut self, sink: Oid, owner: Oid) -> bool {
        *self.in_use.entry(sink).or_insert(owner) == owner
    }

    /// The work there is done.
    pub(crate) fn leave(&mut self, sink: Oid, owner: Oid) {
        if self.in_use.get(&sink) == Some(&owner) {
            self.in_use.remove(&sink);
        }
    }

    /// Whether somebody works there for another directory than this one.
    pub(crate) fn in_use_by_other(&self, sink: Oid, owner: Oid) -> bool {
        self.in_use.get(&sink).is_some_and(|user| *user != owner)
    }

    /// How many operations users have begun so far.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// What [`Ledger::name_stands`] compares with.
    pub(crate) fn name_seen(&self, dir: Oid, name: &Bytes) -> (u64, Option<u64>) {
        (
            self.epoch,
            self.generation_of(dir, &Piece::Name(name.clone())),
        )
    }

    /// Whether no user has begun to change this name since it was seen: then what was looked up
    /// in between still holds.
    pub(crate) fn name_stands(&self, dir: Oid, name: &Bytes, seen: (u64, Option<u64>)) -> bool {
        let now = self.name_seen(dir, name);
        // A generation is never used twice; a mark that came and went takes an epoch.
        now.1 == seen.1 && (seen.1.is_some() || now.0 == seen.0)
    }

    /// The body's open piece of a claimed object, if there is one that is not in flight.
    pub(crate) fn body_work(&self, oid: Oid) -> Option<BodyWork> {
        let body = self.marks.get(&oid)?.body.as_ref()?;
        let State {
            generation,
            copied,
            in_flight,
            ..
        } = body.state;
        (!copied && in_flight == 0).then(|| BodyWork {
            generation,
            data: body.data.clone(),
            escaped: body.escaped,
        })
    }

    /// Whether nobody has begun to change this object since `epoch` was read.
    pub(crate) fn untouched(&self, oid: Oid, epoch: u64) -> bool {
        self.epoch == epoch && !self.marks.contains_key(&oid)
    }

    /// What [`Ledger::claim_new`] compares with.
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            epoch: self.epoch,
            generation: self.generation,
        }
    }

    /// Whether nothing of an object's body is known to differ, open or not yet settled.
    pub(crate) fn body_unmarked(&self, oid: Oid) -> bool {
        self.marks.get(&oid).is_none_or(|mark| mark.body.is_none())
    }

    /// Whether a name has a mark, open or not yet settled.
    pub(crate) fn name_marked(&self, dir: Oid, name: &Bytes) -> bool {
        self.generation_of(dir, &Piece::Name(name.clone()))
            .is_some()
    }

    /// Claims an object that was found under a name and read since a moment, if what was read still
    /// holds, and nothing is known of it or of the name but that the image is to be made there.
    /// `generation` is that of the name's mark, which had it before the moment; without one the object has
    /// no mark either.
    pub(crate) fn claim_new(
        &mut self,
        dir: Oid,
        (name, generation): (&Bytes, Option<u64>),
        oid: Oid,
        since: Moment,
    ) -> Option<Claimed> {
        let named = match generation {
            None => !self.name_marked(dir, name),
            Some(generation) => self
                .state(dir, &Piece::Name(name.clone()))
                .is_some_and(|state| state.generation == generation && Self::open(state)),
        };
        let unknown = named
            && self.place_of(oid).is_none()
            && self.image(oid).is_none()
            && self.claimant(dir, name).is_none();
        let body = match self.marks.get(&oid) {
            None => (self.epoch == since.epoch).then_some(None)?,
            Some(mark) => {
                // A generation that is as old as the moment: no operation began since then, and none ended.
                let body = mark.body.as_ref()?;
                let still = body.state.generation <= since.generation && Self::open(&body.state);
                let alone = mark.tree.is_none() && mark.names.is_empty();
                let plain = generation.is_some() && alone && !body.escaped;
                Some((still && plain).then(|| self.body_work(oid))??)
            }
        };
        (unknown && self.claim(oid)).then_some(Claimed { body })
    }

    fn open(state: &State) -> bool {
        !state.copied && state.in_flight == 0
    }

    /// Whether an object is getting one more name just now. Under another one its image is not to be made
    /// until then: who makes it has to know that it is going to have several.
    pub(crate) fn is_named(&self, oid: Oid) -> bool {
        self.naming.contains_key(&oid)
    }

    /// A piece's generation.
    pub(crate) fn generation_of(&self, oid: Oid, piece: &Piece) -> Option<u64> {
        self.state(oid, piece).map(|state| state.generation)
    }

    /// Whether the body may be changed by stores that nobody sees.
    pub(crate) fn body_escaped(&self, oid: Oid) -> bool {
        self.marks
            .get(&oid)
            .and_then(|m| m.body.as_ref())
            .is_some_and(|body| body.escaped)
    }
}

#[cfg(test)]
mod tests {
    use hermitfs_api::Kind;

    use crate::ledger::{Known, Ledger, Outcome, Ticket, Touch};
    use crate::record::{Bytes, Locator, Oid, Piece, Place};

    const DIR: Oid = Oid(1, 1);
    const FILE: Oid = Oid(2, 2);

    fn known(oid: Oid, kind: Kind) -> Known {
        Known {
            oid,
            kind,
            locator: Locator::default(),
            dir: None,
        }
    }

    fn name() -> Bytes {
        b"name"[..].into()
    }

    /// Whether the file is claimed as new when `meanwhile` came after it was read.
    fn is_claimed(meanwhile: impl FnOnce(&mut Ledger)) -> bool {
        let mut ledger = Ledger::default();
        let since = ledger.moment();
        meanwhile(&mut ledger);
        let claimed = ledger
            .claim_new(DIR, (&name(), None), FILE, since)
            .is_some();
        assert!(!claimed || !ledger.claim(FILE), "nobody else gets it");
        claimed
    }

    #[test]
    fn what_is_known_of_a_file_or_its_name_keeps_it_from_being_taken_for_new() {
        assert!(is_claimed(|_| ()));
        let body = || Touch::Body {
            oid: FILE,
            data: None,
            escaped: false,
        };
        assert!(!is_claimed(|l| drop(begun(l, body()))), "in flight");
        assert!(!is_claimed(|l| did(l, body())), "changed");
        assert!(!is_claimed(|l| drop(begun(l, Touch::Name(DIR, name())))));
        assert!(
            !is_claimed(|l| drop(l.cut())),
            "a mark may have come and gone"
        );
        assert!(!is_claimed(|l| assert!(l.claim(FILE))));
        let elsewhere = Place::At {
            dir: Oid(9, 9),
            handle: None,
            name: name(),
        };
        assert!(!is_claimed(|l| l.set_place(FILE, None, elsewhere)));
        let here = Place::At {
            dir: DIR,
            handle: None,
            name: name(),
        };
        assert!(
            !is_claimed(|l| l.set_place(Oid(3, 3), None, here)),
            "another's place"
        );
        assert!(!is_claimed(|l| l.set_image(FILE, Oid(8, 8), name())));
    }

    /// A file that somebody makes, whose name and body are marked by it. Whether it is claimed as new
    /// when `meanwhile` came after it was read.
    fn is_claimed_marked(meanwhile: impl FnOnce(&mut Ledger)) -> bool {
        let mut ledger = made();
        did(&mut ledger, written());
        let generation = ledger.generation_of(DIR, &Piece::Name(name()));
        let body = ledger.body_work(FILE).unwrap().generation;
        let since = ledger.moment();
        meanwhile(&mut ledger);
        let claimed = ledger.claim_new(DIR, (&name(), generation), FILE, since);
        if let Some(claimed) = &claimed {
            assert_eq!(
                claimed.body.as_ref().map(|body| body.generation),
                Some(body)
            );
            assert!(!ledger.claim(FILE), "nobody else gets it");
        }
        claimed.is_some()
    }

    /// What is known when a file was made.
    fn made() -> Ledger {
        let mut ledger = Ledger::default();
        did(&mut ledger, Touch::Name(DIR, name()));
        ledger
    }

    fn begun(ledger: &mut Ledger, touch: Touch) -> Ticket {
        let both = [known(DIR, Kind::Directory), known(FILE, Kind::File)];
        ledger.begin(&[touch], &[], &both, 0).unwrap()
    }

    /// Begun and ended.
    fn did(ledger: &mut Ledger, touch: Touch) {
        let ticket = begun(ledger, touch);
        ledger.end(ticket, 0, 0);
    }

    fn written() -> Touch {
        Touch::Body {
            oid: FILE,
            data: Some((0, 9)),
            escaped: false,
        }
    }

    #[test]
    fn a_new_file_with_marks_is_claimed_when_nobody_was_at_it_since_it_was_read() {
        assert!(is_claimed_marked(|_| ()));
        assert!(!is_claimed_marked(|l| {
            drop(begun(l, written()));
        }));
        assert!(
            !is_claimed_marked(|l| did(l, written())),
            "written while it was read"
        );
        assert!(!is_claimed_marked(|l| did(l, Touch::Name(DIR, name()))));
        assert!(!is_claimed_marked(|l| assert!(l.claim(FILE))));
        assert!(
            !is_claimed_marked(|l| {
                let body = l.body_work(FILE).unwrap().generation;
                assert!(l.finish(FILE, &Piece::Body, body, Outcome::Equal, 0));
            }),
            "it has an image"
        );
        let escaped = Touch::Body {
            oid: FILE,
            data: None,
            escaped: true,
        };
        assert!(
            !is_claimed_marked(|l| did(l, escaped)),
            "stores that nobody sees"
        );
    }

    #[test]
    fn an_operation_that_ends_after_the_moment_is_noticed() {
        let mut ledger = made();
        let under_way = begun(&mut ledger, written());
        let generation = ledger.generation_of(DIR, &Piece::Name(name()));
        let since = ledger.moment();
        ledger.end(under_way, 0, 0);
        let claimed = ledger.claim_new(DIR, (&name(), generation), FILE, since);
        assert!(
            claimed.is_none(),
            "it may have been read before it was written"
        );
    }
}
