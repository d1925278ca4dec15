//! Marks: what is made dirty, and what is clean.

use super::{Body, Known, Ledger, Mark, Millis, State, TOUCHED};
use crate::loss::Class;
use crate::ranges::{Ranges, rounded};
use crate::record::{Bytes, Oid, Piece, Record, Trust, kind_code};

impl Ledger {
    pub(super) fn fresh(generation: u64) -> State {
        State {
            generation,
            born: generation,
            in_flight: 0,
            copied: false,
            not_before: 0,
        }
    }

    pub(super) fn redirty(state: &mut State, generation: u64) {
        if state.copied {
            state.copied = false;
            state.born = generation;
            state.not_before = 0;
        }
        state.generation = generation;
    }

    pub(super) fn dirty_name(&mut self, oid: Oid, name: &Bytes, now: Millis) -> Piece {
        let generation = self.next_generation();
        let piece = Piece::Name(name.clone());
        let mut record = None;
        if let Some(mark) = self.marks.get_mut(&oid) {
            mark.touched = now;
            match mark.names.get_mut(name) {
                Some(state) => Self::redirty(state, generation),
                None => {
                    mark.names.insert(name.clone(), Self::fresh(generation));
                    record = Some(Self::mark_record(oid, mark, None, None, vec![name.clone()]));
                }
            }
        }
        self.name_moves(oid, name);
        self.matters_again(oid, &piece);
        self.unpark(oid, &piece, now);
        self.records.extend(record);
        piece
    }

    pub(super) fn dirty_body(
        &mut self,
        oid: Oid,
        data: Option<(u64, u64)>,
        escaped: bool,
        now: Millis,
    ) -> Piece {
        let generation = self.next_generation();
        let mut record = None;
        if let Some(mark) = self.marks.get_mut(&oid) {
            mark.touched = now;
            let mut is_new = mark.body.is_none();
            let body = mark.body.get_or_insert_with(|| Body {
                state: Self::fresh(generation),
                data: Ranges::default(),
                unsynced: Vec::new(),
                journaled: Ranges::default(),
                escaped: false,
            });
            Self::redirty(&mut body.state, generation);
            is_new |= escaped && !body.escaped;
            body.escaped |= escaped;
            let mut coarse = Ranges::default();
            if let Some((from, to)) = data {
                body.data.add(from, to);
                if !body.journaled.contains(from, to) {
                    let (from, to) = rounded(from, to);
                    coarse.add(from, to);
                    body.journaled.add(from, to);
                }
            }
            if is_new || !coarse.is_empty() {
                let escaped = body.escaped;
                record = Some(Self::mark_record(
                    oid,
                    mark,
                    Some((coarse, escaped)),
                    None,
                    vec![],
                ));
            }
        }
        self.matters_again(oid, &Piece::Body);
        self.unpark_body(oid, now);
        self.records.extend(record);
        Piece::Body
    }

    pub(super) fn mark_record(
        oid: Oid,
        mark: &Mark,
        body: Option<(Ranges, bool)>,
        tree: Option<Trust>,
        names: Vec<Bytes>,
    ) -> Record {
        let (kind, locator) = (kind_code(mark.kind), mark.locator.clone());
        Record::Mark {
            oid,
            kind,
            locator,
            body,
            tree,
            names,
        }
    }

    /// A user has just made this directory, and the name that it was made under is marked.
    pub(crate) fn bear(&mut self, oid: Oid, above: Oid, name: &[u8]) {
        self.born.insert(oid, (above, name.into()));
    }

    /// Whether all in this directory has marks, as it was made before our eyes; its image is made
    /// now, so this is asked only once.
    pub(crate) fn take_born(&mut self, oid: Oid) -> bool {
        self.born.remove(&oid).is_some()
    }

    /// Whether it is one of those.
    pub(crate) fn is_born(&self, oid: Oid) -> bool {
        self.born.contains_key(&oid)
    }

    /// A directory has another name now.
    pub(crate) fn born_moves(&mut self, oid: Oid, above: Oid, name: &[u8]) {
        if let Some(at) = self.born.get_mut(&oid) {
            *at = (above, name.into());
        }
    }

    /// A mark that no user's operation made: something found to differ.
    pub(crate) fn mark_name(&mut self, dir: &Known, name: &Bytes, now: Millis) {
        self.admit(dir, now);
        self.dirty_name(dir.oid, name, now);
        self.enqueue(dir.oid, TOUCHED, now);
    }

    /// The same for content and attributes.
    pub(crate) fn mark_body(&mut self, object: &Known, data: Option<(u64, u64)>, now: Millis) {
        self.admit(object, now);
        self.dirty_body(object.oid, data, false, now);
        self.enqueue(object.oid, TOUCHED, now);
    }

    /// An object with marks is found under another name now.
    pub(crate) fn relocate(&mut self, oid: Oid, dir: Option<Oid>, whence: (Bytes, Bytes)) {
        self.relocate_losses(oid, &whence);
        if let Some(mark) = self.marks.get_mut(&oid)
            && mark.locator.whence.as_ref() != Some(&whence)
        {
            mark.dir = dir;
            mark.locator.whence = Some(whence.clone());
            self.records.push(Record::Moved { oid, whence });
        }
    }

    /// The object is gone from the source.
    pub(crate) fn forget(&mut self, oid: Oid) {
        let Some(mark) = self.marks.get(&oid) else {
            return;
        };
        let flying = mark
            .body
            .iter()
            .map(|b| &b.state)
            .chain(mark.names.values());
        if flying.map(|state| state.in_flight).sum::<u32>() > 0 {
            return;
        }
        if mark.tree.as_ref().is_some_and(|(state, _)| !state.copied) {
            self.less_trees();
        }
        self.marks.remove(&oid);
        self.unsettle_below(oid);
        self.walked.remove(&oid);
        self.dequeue(oid);
        let all = (oid, Piece::Body)..;
        let gone: Vec<_> = self
            .troubles
            .range(all)
            .map(|(key, _)| key.clone())
            .take_while(|(at, _)| *at == oid)
            .collect();
        gone.iter().for_each(|key| drop(self.troubles.remove(key)));
        if !self.met.is_empty() {
            self.met.retain(|(at, _), _| *at != oid);
        }
        self.waived.retain(|(at, _), _| *at != oid);
        for class in Class::ALL {
            self.drop_loss(oid, class);
        }
        if !self.short.is_empty() {
            self.short.retain(|(at, _), _| *at != oid);
        }
        self.records.push(Record::Gone { oid });
    }

    pub(super) fn dirty(state: &State) -> bool {
        !state.copied
    }

    /// Whether this very name is dirty; says nothing of what is above.
    pub(crate) fn name_dirty(&self, dir: Oid, name: &[u8]) -> bool {
        self.marks
            .get(&dir)
            .and_then(|m| m.names.get(name))
            .is_some_and(Self::dirty)
    }

    /// Whether this very directory is unseen.
    pub(crate) fn tree_dirty(&self, dir: Oid) -> bool {
        self.marks
            .get(&dir)
            .and_then(|m| m.tree.as_ref())
            .is_some_and(|(s, _)| Self::dirty(s))
    }

    /// Whether users are changing this name just now.
    pub(crate) fn name_in_flight(&self, dir: Oid, name: &[u8]) -> bool {
        self.marks
            .get(&dir)
            .and_then(|m| m.names.get(name))
            .is_some_and(|s| s.in_flight > 0)
    }

    pub(super) fn clean(&self, chain: &[Oid], name: &[u8]) -> bool {
        let Some(&dir) = chain.first() else {
            return false;
        };
        !self.name_dirty(dir, name) && !chain.iter().any(|&above| self.tree_dirty(above))
    }

    /// Whether nothing is open but bodies.
    pub(crate) fn only_bodies_open(&self) -> bool {
        self.trees == 0
            && !self
                .marks
                .values()
                .any(|m| m.names.values().any(Self::dirty))
    }
}
