//! Room on the sink: asked for before something large is begun there, and once anything did not fit.

use hermitfs_api::Attr;

use super::{HEAL, Healer};
use crate::record::{Oid, Piece};
use crate::room::{Admission, Free, Need, Shortage, WORTH};
use crate::trouble::{Setback, Step};

/// Milliseconds until it is asked again whether there is room beside what is being made.
const BESIDE: u64 = 200;

/// What is under way on the sink; ended when dropped.
struct Taken<'a>(&'a Healer, Need, Oid);

impl Taken<'_> {
    /// It came to its end; how much was copied or compared for it.
    fn end(self) -> u64 {
        self.0.tally.ended(self.2)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.room.lock().end(self.1);
        // Again, where it was told already: only who panicked has not.
        self.0.tally.ended(self.2);
    }
}

/// So much of the disk an object's content takes, at most.
pub(super) fn weight(attr: &Attr) -> u64 {
    attr.size.min(attr.blocks.saturating_mul(512))
}

impl Healer {
    /// Whether it is asked first if so much content fits.
    pub(super) fn is_looked_at(&self, bytes: u64) -> bool {
        bytes >= WORTH || self.is_tight()
    }

    /// Does some work for an object of the source, which needs so much of the sink, and so much at most, unless that is
    /// known not to fit.
    pub(super) async fn with_room<T>(
        &self,
        oid: Oid,
        (need, most): (Need, Need),
        work: impl Future<Output = Step<T>>,
    ) -> Step<T> {
        let look = most.bytes >= WORTH || need != Need::default() && self.is_tight();
        let before = if look { self.free().await } else { None };
        let admission = self.room.lock().begin(need, before, self.now());
        let taken = match admission {
            Admission::Go => Taken(self, need, oid),
            Admission::Wait => return Err(Setback::Later(BESIDE)),
            Admission::No => return Err(Setback::Full(need)),
        };
        let done = work.await;
        let written = taken.end();
        let Err(Setback::Full(told)) = done else {
            return done;
        };
        let need = most.max(told);
        let free = match before {
            Some(free) => Some(free),
            None => self.free().await,
        };
        if let Some(free) = free {
            self.room.lock().failed(need, written, free, self.now());
        }
        Err(Setback::Full(need))
    }

    /// How much content some files of the source have, in the middle.
    pub(crate) async fn mean_size(&self, some: &[Oid]) -> u64 {
        let (mut all, mut found) = (0u64, 0);
        for &oid in some {
            let locator = self.ledger(|ledger| ledger.locator(oid));
            if let Ok(Some(entry)) = self.find(oid, &locator.unwrap_or_default()).await {
                all = all.saturating_add(weight(&entry.attr));
                found += 1;
            }
        }
        all.checked_div(found).unwrap_or(0)
    }

    /// Whether something did not fit.
    pub(super) fn is_tight(&self) -> bool {
        self.room.lock().is_tight()
    }

    /// What the sink says that it has free.
    pub(crate) async fn free(&self) -> Option<Free> {
        let root = self.sink_root().ok()?;
        let stat = self.sink.statfs(&HEAL, &root).await.ok()?;
        Some(Free::of(&stat))
    }

    /// Tries what may fit by now of what did not. What still does not, and how much is free.
    pub(crate) async fn try_short(&self) -> Option<(Shortage, Free)> {
        if !self.ledger(|ledger| ledger.is_short()) {
            self.room.lock().ease(self.now());
            return None;
        }
        let free = self.free().await?;
        let now = self.now();
        let usable = self.room.lock().usable(free, now);
        let (pieces, need, (oid, piece), most) = self.ledger(|ledger| {
            ledger.try_short(usable, now);
            ledger.short()
        })?;
        let mut path = self.path_of(oid).await;
        if let Piece::Name(name) = &piece {
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        let shortage = Shortage {
            pieces,
            need,
            most,
            path,
        };
        Some((shortage, free))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use hermitfs_api::{Translator, block_on};
    use hermitfs_testkit::Memory;

    use super::*;
    use crate::heal::between;

    #[test]
    fn what_panicked_takes_no_room_and_is_not_under_way() {
        let brick = |dev| -> Arc<dyn Translator> { Arc::new(Memory::with_dev(dev)) };
        let healer = between(brick(1), brick(2));
        let root = healer.source_root.clone();
        let need = Need::object(WORTH);
        let work = async {
            healer.tally.moved(&root, 5, false);
            panic!("a bug");
        };
        let oid = Oid::from(root.identity());
        let done = || -> Step<()> { block_on(healer.with_room(oid, (need, need), work)) };
        assert!(catch_unwind(AssertUnwindSafe(done)).is_err());
        assert_eq!(healer.tally.under_way(), 0);
        let little = Free {
            bytes: WORTH,
            inodes: Some(1),
        };
        let admission = healer.room.lock().begin(need, Some(little), 0);
        assert_eq!(admission, Admission::Go);
    }
}
