//! Ways down that were found of late: what a name of the source leads to, and its image. Whoever goes
//! the same way again need not look at either brick, which may be far, as long as the ledger says
//! that nothing on it has changed: no user has begun to change the name, and no healer has moved the image.

use std::collections::HashMap;
use std::sync::Arc;

use hermitfs_api::{Inode, NameBuf};
use parking_lot::Mutex;

use crate::ledger::Ledger;
use crate::record::{Bytes, Oid, Place};

/// Remembered at most, of each kind; then they are found anew.
const MOST: usize = 4096;

#[derive(Default)]
pub(super) struct Ways(Mutex<Known>);

#[derive(Default)]
struct Known {
    downs: HashMap<(Oid, Bytes), Down>,
    paths: HashMap<Oid, Arc<[NameBuf]>>,
}

/// One name down.
#[derive(Clone)]
pub(super) struct Down {
    /// The image that it was found in.
    pub(super) from: Oid,
    /// What the source has under the name.
    pub(super) next: Arc<Inode>,
    /// What the sink has.
    pub(super) image: Arc<Inode>,
    /// The name, as the ledger saw it before both were looked at.
    pub(super) seen: (u64, Option<u64>),
    /// Where the ledger had the image meanwhile.
    pub(super) place: Option<Place>,
}

impl Down {
    /// Whether what was found still holds, and the name is settled.
    pub(super) fn holds(&self, ledger: &Ledger, above: Oid, name: &Bytes) -> bool {
        let place = ledger.place_of(Oid::from(self.next.identity()));
        place == self.place.as_ref()
            && ledger.name_stands(above, name, self.seen)
            && is_settled(ledger, above, name, place)
            && !ledger.tree_dirty(above)
    }
}

/// Whether an image is under its name: an open name is no obstacle where it is known to stand there.
pub(super) fn is_settled(ledger: &Ledger, above: Oid, name: &Bytes, place: Option<&Place>) -> bool {
    match place {
        Some(place) => place.is(above, name),
        None => !ledger.name_dirty(above, name),
    }
}

impl Ways {
    pub(super) fn down(&self, above: Oid, from: Oid, name: &Bytes) -> Option<Down> {
        let known = self.0.lock();
        let down = known.downs.get(&(above, name.clone()))?;
        (down.from == from).then(|| down.clone())
    }

    pub(super) fn found(&self, above: Oid, name: Bytes, down: Down) {
        let downs = &mut self.0.lock().downs;
        if downs.len() >= MOST {
            downs.clear();
        }
        downs.insert((above, name), down);
    }

    /// Where a directory was when it was last asked for: true if the names lead there.
    pub(super) fn path(&self, dir: Oid) -> Option<Arc<[NameBuf]>> {
        self.0.lock().paths.get(&dir).cloned()
    }

    pub(super) fn located(&self, dir: Oid, path: Option<Arc<[NameBuf]>>) {
        let paths = &mut self.0.lock().paths;
        if paths.len() >= MOST {
            paths.clear();
        }
        match path {
            Some(path) => drop(paths.insert(dir, path)),
            None => drop(paths.remove(&dir)),
        }
    }

    /// Something is not as it should be: all is looked at again.
    pub(super) fn forget_all(&self) {
        *self.0.lock() = Known::default();
    }
}

#[cfg(test)]
mod tests {
    use hermitfs_api::{Identity, Kind};

    use super::*;
    use crate::ledger::{Known as KnownTo, Touch};
    use crate::record::Locator;

    const ABOVE: Oid = Oid(1, 1);
    const FROM: Oid = Oid(1, 2);

    fn name() -> Bytes {
        b"name"[..].into()
    }

    fn at(dir: Oid) -> Place {
        Place::At {
            dir,
            handle: None,
            name: name(),
        }
    }

    fn inode(ino: u64) -> Arc<Inode> {
        let identity = Identity {
            dev: 1,
            ino,
            generation: 0,
        };
        Arc::new(Inode::new(identity, Kind::Directory, ()))
    }

    fn down(ledger: &Ledger) -> Down {
        let next = inode(10);
        let place = ledger.place_of(Oid::from(next.identity())).cloned();
        Down {
            from: FROM,
            next,
            image: inode(20),
            seen: ledger.name_seen(ABOVE, &name()),
            place,
        }
    }

    /// A user begins to change the name; at the end of it, when told so.
    fn changed(ledger: &mut Ledger, ends: bool) {
        let known = KnownTo {
            oid: ABOVE,
            kind: Kind::Directory,
            locator: Locator::default(),
            dir: None,
        };
        let ticket = ledger.begin(&[Touch::Name(ABOVE, name())], &[], &[known], 0);
        if ends {
            ledger.end(ticket.unwrap(), 0, 0);
        }
    }

    #[test]
    fn a_way_holds_until_its_name_is_changed_or_its_image_is_moved() {
        let next = Oid::from(inode(10).identity());
        let holds = |before: &dyn Fn(&mut Ledger), meanwhile: &dyn Fn(&mut Ledger)| {
            let mut ledger = Ledger::default();
            before(&mut ledger);
            let down = down(&ledger);
            meanwhile(&mut ledger);
            down.holds(&ledger, ABOVE, &name())
        };
        let nothing = |_: &mut Ledger| {};
        let there = |ledger: &mut Ledger| ledger.set_place(next, None, at(ABOVE));
        let elsewhere = |ledger: &mut Ledger| ledger.set_place(next, None, at(Oid(9, 9)));
        let changed_and_there = |ledger: &mut Ledger| {
            changed(ledger, true);
            there(ledger);
        };
        assert!(holds(&nothing, &nothing));
        assert!(holds(&there, &nothing));
        assert!(
            holds(&changed_and_there, &nothing),
            "it stands there all the same"
        );
        for before in [&nothing as &dyn Fn(&mut Ledger), &there, &changed_and_there] {
            for ends in [false, true] {
                assert!(!holds(before, &|ledger| changed(ledger, ends)));
            }
            assert!(!holds(before, &elsewhere));
        }
        assert!(!holds(&nothing, &there));
        assert!(!holds(&elsewhere, &nothing));
        assert!(
            !holds(&|ledger| changed(ledger, true), &nothing),
            "open, and not known to be there"
        );
    }

    #[test]
    fn a_way_is_had_again_from_where_it_was_found_until_all_is_forgotten() {
        let (ways, ledger) = (Ways::default(), Ledger::default());
        ways.found(ABOVE, name(), down(&ledger));
        ways.located(ABOVE, Some([].into()));
        assert!(ways.down(ABOVE, FROM, &name()).is_some());
        assert!(ways.down(ABOVE, Oid(1, 3), &name()).is_none());
        assert!(ways.path(ABOVE).is_some());
        ways.forget_all();
        assert!(ways.down(ABOVE, FROM, &name()).is_none());
        assert!(ways.path(ABOVE).is_none());
    }
}
