//! What a healer has for itself while it works there, and lets go of however that ends: also by a panic.

use super::Healer;
use crate::ledger::{BodyWork, Ledger, Moment};
use crate::record::{Bytes, Oid};

/// Something that nobody else works at, until this is dropped.
///
/// Never to be dropped under the ledger's lock, which it takes.
#[must_use = "what is claimed is let go of when this is dropped"]
pub(super) struct Claim<'a> {
    healer: &'a Healer,
    what: What,
}

enum What {
    /// An object as it is, with or without marks.
    Object(Oid),
    /// The making of a directory's image.
    Place(Oid),
    /// A directory of the sink, as the image of that one of the source.
    Image { sink: Oid, owner: Oid },
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let now = self.healer.now();
        self.healer.ledger(|ledger| match self.what {
            What::Object(oid) => ledger.release(oid, now),
            What::Place(oid) => ledger.unclaim_place(oid),
            What::Image { sink, owner } => ledger.leave(sink, owner),
        });
    }
}

/// The guards' side of the ledger. Each is called under its lock, as part of one step.
impl Healer {
    fn claim_of(&self, what: What) -> Claim<'_> {
        Claim { healer: self, what }
    }

    /// See [`Ledger::claim`]. `None` when another has it.
    pub(super) fn claim_object(&self, ledger: &mut Ledger, oid: Oid) -> Option<Claim<'_>> {
        ledger.claim(oid).then(|| self.claim_of(What::Object(oid)))
    }

    /// See [`Ledger::claim_place`].
    pub(super) fn claim_place(&self, ledger: &mut Ledger, oid: Oid) -> Option<Claim<'_>> {
        let claimed = ledger.claim_place(oid);
        claimed.then(|| self.claim_of(What::Place(oid)))
    }

    /// See [`Ledger::claim_new`]; with what of its body the copy takes along.
    pub(super) fn claim_new(
        &self,
        ledger: &mut Ledger,
        dir: Oid,
        slot: (&Bytes, Option<u64>),
        oid: Oid,
        since: Moment,
    ) -> Option<(Option<BodyWork>, Claim<'_>)> {
        let claimed = ledger.claim_new(dir, slot, oid, since)?;
        Some((claimed.body, self.claim_of(What::Object(oid))))
    }

    /// See [`Ledger::enter`].
    pub(super) fn enter(&self, ledger: &mut Ledger, sink: Oid, owner: Oid) -> Option<Claim<'_>> {
        let entered = ledger.enter(sink, owner);
        entered.then(|| self.claim_of(What::Image { sink, owner }))
    }
}
