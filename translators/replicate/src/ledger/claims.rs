//! Who works where, and what held at one moment.

use super::{BodyWork, Ledger, State};
use crate::record::{Bytes, Oid, Piece};

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
