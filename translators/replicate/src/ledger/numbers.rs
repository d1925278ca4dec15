//! Numbers and failures, for those who watch.

use std::collections::BTreeSet;

use hermitfs_api::Kind;

use super::{Ledger, Millis, State};
use crate::loss::Class;
use crate::record::{Bytes, Locator, Oid, Piece, Record};
use crate::trouble::{Setback, Trouble};

/// How many files are asked for their size, where all of them is to be copied.
const SIZED: usize = 64;

/// What is pending.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    /// Names, and objects without a name that is pending.
    pub(crate) places: u64,
    /// Content to be copied, as far as its size is known.
    pub(crate) bytes: u64,
    /// Files to be copied to their end, wherever that is; and some of them.
    pub(crate) whole: u64,
    pub(crate) some: Vec<Oid>,
    /// Age of the oldest mark.
    pub(crate) oldest: Option<Millis>,
}

impl Ledger {
    /// Objects with a mark that is not waived.
    pub(crate) fn pending(&self) -> u64 {
        if self.waived.is_empty() {
            return self.marks.len() as u64;
        }
        self.marks
            .keys()
            .filter(|oid| self.open_pieces(**oid).next().is_some())
            .count() as u64
    }

    pub(super) fn open_pieces(&self, oid: Oid) -> impl Iterator<Item = (Piece, State)> + '_ {
        let mark = self.marks.get(&oid);
        let bodies = mark
            .and_then(|m| m.body.as_ref())
            .map(|b| (Piece::Body, b.state));
        let trees = mark
            .and_then(|m| m.tree.as_ref())
            .map(|(s, _)| (Piece::Tree, *s));
        let names = mark.into_iter().flat_map(|m| m.names.iter());
        let names = names.map(|(name, state)| (Piece::Name(name.clone()), *state));
        let all = bodies.into_iter().chain(trees).chain(names);
        // Not what waits for something that was waived: nobody has waived that.
        all.filter(move |(piece, _)| !self.is_parked(&(oid, piece.clone())))
    }

    /// A piece, what it waits for as that failed, what this waits for, and so on.
    fn chain(&self, first: (Oid, Piece)) -> impl Iterator<Item = (Oid, Piece)> + '_ {
        let next = |key: &(Oid, Piece)| self.behind.get(key).cloned();
        // What waits for each other in a circle has an end, too.
        std::iter::successors(Some(first), next).take(self.behind.len() + 1)
    }

    /// Whether nothing at all is marked, waived or not, and all is verified.
    pub(crate) fn is_settled(&self) -> bool {
        self.marks.is_empty() && !self.unverified
    }

    /// What is pending, and for how long. Of what is waived nothing counts.
    pub(crate) fn survey(&self, now: Millis) -> Survey {
        let mut all = Survey::default();
        for (oid, mark) in &self.marks {
            if !self.waived.is_empty() && self.open_pieces(*oid).next().is_none() {
                continue;
            }
            all.places += (mark.names.len() as u64).max(1);
            all.oldest = all.oldest.max(Some(now.saturating_sub(mark.since)));
            if let Some(body) = &mark.body {
                let (bytes, open) = body.data.len();
                all.bytes = all.bytes.saturating_add(bytes);
                if open && mark.kind == Kind::File {
                    all.whole += 1;
                    if all.some.len() < SIZED {
                        all.some.push(*oid);
                    }
                }
            }
        }
        all
    }

    /// Whether something from before `goal` is still open that has not failed. Quick as long as there is much.
    pub(crate) fn is_open_before(&self, goal: u64) -> bool {
        self.marks.keys().any(|&oid| {
            // What passes us by is not copied before it is closed.
            let escaped = self.body_escaped(oid);
            self.open_pieces(oid).any(|(piece, state)| {
                !(escaped && piece == Piece::Body)
                    && (state.born <= goal || piece == Piece::Tree)
                    && self.failed_for((oid, piece)).is_none()
            })
        })
    }

    /// Directories that no crawl has finished.
    pub(crate) fn trees(&self) -> u64 {
        self.trees
    }

    /// A point that [`Ledger::reached`] can be asked about: all that is marked now.
    pub(crate) fn now_mark(&mut self) -> u64 {
        self.next_generation()
    }

    /// Pieces from before `goal` that are still open: those that only wait, and those that failed.
    /// Of what waits for a piece that failed, this one counts, however young.
    pub(crate) fn left_before(&self, goal: u64) -> (u64, u64) {
        let (mut open, mut failed) = (0, BTreeSet::new());
        for &oid in self.marks.keys() {
            for (piece, state) in self.open_pieces(oid) {
                // A tree, whenever it was planted, may stand for something older below.
                if state.born <= goal || piece == Piece::Tree {
                    match self.failed_for((oid, piece)) {
                        Some(culprit) => drop(failed.insert(culprit)),
                        None => open += 1,
                    }
                }
            }
        }
        (open, failed.len() as u64)
    }

    /// The piece whose failure keeps this one open: itself, or one that it waits for.
    fn failed_for(&self, key: (Oid, Piece)) -> Option<(Oid, Piece)> {
        self.chain(key)
            .find(|key| self.troubles.contains_key(key))
            .filter(|key| self.troubles.get(key).is_some_and(|trouble| !trouble.stale))
    }

    /// How to wait for another piece: for some milliseconds, or for the end of its trouble.
    pub(crate) fn wait_for(&self, oid: Oid, piece: Piece, wait: Millis) -> Setback {
        let key = (oid, piece);
        let stuck = self.troubles.contains_key(&key)
            || self.behind.contains_key(&key)
            || self.short.contains_key(&key);
        match stuck {
            true => Setback::Behind(key.0, key.1),
            false => Setback::Later(wait),
        }
    }

    /// How to wait for the name of an object that has none which we know of: it is one of those
    /// that are open, unless nothing is open but bodies.
    pub(crate) fn wait_for_a_name(&self, wait: Millis) -> Setback {
        let open = self.marks.keys().flat_map(|&oid| {
            let pieces = self.open_pieces(oid);
            pieces.filter_map(move |(piece, state)| {
                (piece != Piece::Body && !state.copied).then_some((oid, piece))
            })
        });
        let mut culprit = None;
        for key in open {
            if self.failed_for(key.clone()).is_none() {
                return Setback::Later(wait);
            }
            culprit.get_or_insert(key);
        }
        culprit.map_or(Setback::Later(wait), |(oid, piece)| {
            Setback::Behind(oid, piece)
        })
    }

    /// What failed, and whether it was waived. A piece may have several.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = (Oid, &Piece, &Trouble, bool)> {
        self.troubles.iter().flat_map(|(key, first)| {
            let waived = |trouble: &Trouble| self.is_waived(key, trouble.class);
            let told = first.each().map(|one| (key.0, &key.1, one, waived(one)));
            told.collect::<Vec<_>>()
        })
    }

    /// Whether this name failed, and has not been healed since.
    pub(crate) fn name_failed(&self, dir: Oid, name: &Bytes) -> bool {
        !self.troubles.is_empty()
            && self
                .troubles
                .contains_key(&(dir, Piece::Name(name.clone())))
    }

    /// Number of pieces with a failure that is not waived.
    pub(crate) fn errors(&self) -> u64 {
        let open = |(key, first): &(&(Oid, Piece), &Trouble)| !self.covers(key, first);
        self.troubles.iter().filter(open).count() as u64
    }

    /// Number of pieces that were waived, and of losses that were agreed to.
    pub(crate) fn waived(&self) -> u64 {
        let agreed = self.losses().filter(|(.., loss)| loss.agreed).count();
        (self.waived.len() + agreed) as u64
    }

    fn is_waived(&self, key: &(Oid, Piece), class: Class) -> bool {
        let classes = self.waived.get(key);
        classes.is_some_and(|classes| classes.contains(&class))
    }

    /// Whether every failure of a piece was waived.
    fn covers(&self, key: &(Oid, Piece), first: &Trouble) -> bool {
        first
            .each()
            .all(|trouble| self.is_waived(key, trouble.class))
    }

    /// Whether a piece is left as it is: all that failed at it was waived, and it was not changed since.
    pub(super) fn is_parked(&self, key: &(Oid, Piece)) -> bool {
        if self.waived.is_empty() {
            return false;
        }
        let failed = self.troubles.get(key);
        failed.is_some_and(|first| !first.stale && self.covers(key, first))
    }

    /// An administrator says that failures of these classes do not matter at this piece.
    pub(crate) fn waive(
        &mut self,
        oid: Oid,
        piece: &Piece,
        classes: impl IntoIterator<Item = Class>,
    ) {
        let its = self.waived.entry((oid, piece.clone())).or_default();
        its.extend(classes);
        self.records.push(Record::WaivedOf {
            oid,
            piece: piece.clone(),
            classes: its.iter().copied().collect(),
        });
    }

    pub(super) fn unwaive(&mut self, oid: Oid, piece: &Piece) {
        if !self.waived.is_empty() && self.waived.remove(&(oid, piece.clone())).is_some() {
            self.records.push(Record::Unwaived {
                oid,
                piece: piece.clone(),
            });
        }
    }

    /// A piece was changed: it is looked at again, and what was waived of its content matters again. What the
    /// sink cannot hold of its attributes it could not hold before.
    pub(super) fn matters_again(&mut self, oid: Oid, piece: &Piece) {
        if self.waived.is_empty() {
            return;
        }
        let key = (oid, piece.clone());
        let Some(mut left) = self.waived.remove(&key) else {
            return;
        };
        if let Some(trouble) = self.troubles.get_mut(&key) {
            trouble.stale = true;
        }
        left.retain(|class| !class.is_content());
        self.records.push(Record::Unwaived {
            oid,
            piece: piece.clone(),
        });
        if !left.is_empty() {
            self.waive(oid, piece, left);
        }
    }

    /// Whether something is marked that no handle leads back to: after a restart it cannot be found.
    pub(crate) fn has_unfindable(&self) -> bool {
        self.marks
            .values()
            .any(|mark| mark.locator.handle.is_none())
    }

    /// How the object is found, as its mark has it.
    pub(crate) fn locator(&self, oid: Oid) -> Option<Locator> {
        self.marks.get(&oid).map(|mark| mark.locator.clone())
    }

    /// Whether something below the root may have been changed without us.
    pub(crate) fn unverified(&self) -> bool {
        self.unverified
    }

    /// Says so; until [`Ledger::verified`].
    pub(crate) fn set_unverified(&mut self) {
        self.unverified = true;
        self.records.push(Record::Unverified);
    }

    /// All has been compared when no tree is open any more and none waits for a sync. To be asked after
    /// each sync, and also without one: the last tree may have gone with its directory.
    pub(crate) fn verified(&mut self) {
        let is_tree = |(_, piece, _): &(Oid, Piece, u64)| *piece == Piece::Tree;
        if self.unverified && self.trees == 0 && !self.copied.iter().any(is_tree) {
            self.unverified = false;
            self.records.push(Record::Verified);
        }
    }
}

#[cfg(test)]
mod tests {
    use hermitfs_api::{Errno, Error, Kind};

    use crate::ledger::{Known, Ledger, Outcome};
    use crate::loss::Class;
    use crate::record::{Locator, Oid, Piece, Trust};
    use crate::trouble::{Setback, Side, Trouble};

    fn known(number: u64, kind: Kind) -> Known {
        Known {
            oid: Oid(1, number),
            kind,
            locator: Locator::default(),
            dir: None,
        }
    }

    fn failed() -> Outcome {
        let error = Error::new(Errno::EIO);
        Outcome::Failed(Trouble::new(Side::Sink, "remove", &error))
    }

    /// A name whose healing failed, and the body of its object, which waits for it.
    fn stuck() -> (Ledger, Known, Piece, Known, u64) {
        let mut ledger = Ledger::default();
        let (dir, file) = (known(1, Kind::Directory), known(2, Kind::File));
        let name = Piece::Name(b"name"[..].into());
        ledger.mark_body(&file, None, 0);
        let goal = ledger.now_mark();
        ledger.mark_name(&dir, &b"name"[..].into(), 0);
        let generation = ledger.generation_of(dir.oid, &name).unwrap();
        ledger.finish(dir.oid, &name, generation, failed(), 0);
        let setback = ledger.wait_for(dir.oid, name.clone(), 20);
        let (outcome, passed_on) = Outcome::of(Err(setback));
        assert!(passed_on.is_ok());
        let generation = ledger.body_work(file.oid).unwrap().generation;
        ledger.finish(file.oid, &Piece::Body, generation, outcome, 0);
        (ledger, dir, name, file, goal)
    }

    #[test]
    fn what_is_pending_is_counted_in_names_and_bytes() {
        let mut ledger = Ledger::default();
        let (dir, file) = (known(1, Kind::Directory), known(2, Kind::File));
        for n in 0..1000 {
            ledger.mark_name(&dir, &n.to_string().as_bytes().into(), 0);
        }
        ledger.mark_body(&file, Some((0, 500)), 0);
        let survey = ledger.survey(9);
        assert_eq!((survey.places, survey.bytes, survey.whole), (1001, 500, 0));
        assert_eq!((ledger.pending(), survey.oldest), (2, Some(9)));
        ledger.mark_body(&file, Some(crate::ranges::Ranges::WHOLE), 0);
        let survey = ledger.survey(9);
        assert_eq!((survey.bytes, survey.whole), (0, 1));
        assert_eq!(survey.some, [file.oid]);
        let goal = ledger.now_mark();
        assert!(ledger.is_open_before(goal));
        // What has failed is not waited for, nor what is younger.
        let generation = ledger.generation_of(file.oid, &Piece::Body).unwrap();
        ledger.finish(file.oid, &Piece::Body, generation, failed(), 0);
        ledger.forget(dir.oid);
        ledger.mark_name(&dir, &b"later"[..].into(), 0);
        assert!(!ledger.is_open_before(goal));
    }

    #[test]
    fn what_waits_for_a_failure_is_no_hope() {
        let (mut ledger, dir, name, _, goal) = stuck();
        assert_eq!(ledger.left_before(goal), (0, 1), "the name is younger");
        let later = ledger.now_mark();
        assert_eq!(ledger.left_before(later), (0, 1), "one failure, not two");
        assert_eq!((ledger.errors(), ledger.pending()), (1, 2));
        ledger.retry_all(0);
        assert_eq!(ledger.left_before(goal), (1, 0));
        // The name comes off: then the body may, too.
        let generation = ledger.generation_of(dir.oid, &name).unwrap();
        ledger.finish(dir.oid, &name, generation, Outcome::Equal, 0);
        assert_eq!(ledger.left_before(goal), (1, 0));
    }

    #[test]
    fn what_waits_for_what_was_waived_is_not_waived() {
        let (mut ledger, dir, name, file, goal) = stuck();
        ledger.waive(dir.oid, &name, [Class::Name]);
        // The content differs still, and it may have another name.
        assert_eq!((ledger.left_before(goal), ledger.pending()), ((0, 1), 1));
        let generation = ledger.body_work(file.oid).unwrap().generation;
        ledger.finish(file.oid, &Piece::Body, generation, Outcome::Later(5), 0);
        assert_eq!((ledger.left_before(goal), ledger.pending()), ((1, 0), 1));
    }

    #[test]
    fn one_without_a_name_waits_while_there_is_hope() {
        let (mut ledger, dir, name, ..) = stuck();
        assert!(matches!(
            ledger.wait_for_a_name(100),
            Setback::Behind(oid, piece) if oid == dir.oid && piece == name
        ));
        ledger.mark_name(&dir, &b"other"[..].into(), 0);
        assert!(matches!(ledger.wait_for_a_name(100), Setback::Later(100)));
    }

    #[test]
    fn all_is_compared_when_the_last_unseen_directory_is_gone() {
        let (root, dir) = (known(1, Kind::Directory), known(2, Kind::Directory));
        let mut ledger = Ledger::default();
        ledger.doubt(&root, Trust::NOTHING, false);
        ledger.plant_tree(&dir, Trust::NOTHING, 0);
        let walked = |ledger: &mut Ledger, dir: Oid| {
            let generation = ledger.generation_of(dir, &Piece::Tree).unwrap();
            assert!(ledger.finish(dir, &Piece::Tree, generation, Outcome::Equal, 0));
        };
        walked(&mut ledger, root.oid);
        let cut = ledger.cut();
        ledger.seal(cut, true, 0);
        ledger.verified();
        assert!(ledger.unverified(), "there is another one");
        let other = known(3, Kind::Directory);
        ledger.plant_tree(&other, Trust::NOTHING, 0);
        walked(&mut ledger, other.oid);
        ledger.forget(dir.oid);
        ledger.verified();
        assert!(ledger.unverified(), "one waits for a sync");
        ledger.plant_tree(&dir, Trust::NOTHING, 0);
        let cut = ledger.cut();
        ledger.seal(cut, true, 0);
        // Somebody removes it: there is nothing to heal or to sync any more.
        ledger.forget(dir.oid);
        ledger.verified();
        assert!(!ledger.unverified());
    }

    #[test]
    fn a_circle_of_those_that_wait_ends() {
        let (mut ledger, dir, name, file, goal) = stuck();
        let generation = ledger.generation_of(dir.oid, &name).unwrap();
        let circle = Outcome::Behind(file.oid, Piece::Body);
        ledger.finish(dir.oid, &name, generation, Outcome::Equal, 0);
        ledger.mark_name(&dir, &b"name"[..].into(), 0);
        ledger.finish(dir.oid, &name, generation + 1, circle, 0);
        assert_eq!(ledger.left_before(goal).1, 0);
    }
}
