//! The ledger of one sink: marks, and where images stand. A plain data structure without I/O.
//!
//! Every durable change also becomes a [`Record`]; replaying the records gives the ledger back,
//! all of it dirty. Generations, operations in flight and what was copied but not yet synced live
//! in memory alone: after a restart every mark is open again, which is the safe side.
//!
//! The rules that hold here, whatever the order of calls:
//! - A piece is dropped only by [`Ledger::seal`], after [`Ledger::finish`] found its generation
//!   unchanged and no operation in flight.
//! - A name is *clean* when neither it nor its directory nor anything above is dirty: then the
//!   sink has the image of its object at the same path.
//! - Each live directory is covered by a dirty tree (its own or above), or its image can be found:
//!   by its [`Place`], or at its own clean path. Who takes a place away plants a tree.
//! - A slot (directory, name) of the sink is claimed by one object at most.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use hermitfs_api::Kind;

use crate::ranges::{Ranges, rounded};
use crate::record::{Bytes, Locator, Oid, Piece, Place, Record, Trust, kind_code, kind_from};
use crate::trouble::{Side, Trouble};

/// Milliseconds of a clock that never goes back.
pub(crate) type Millis = u64;

/// A busy object is healed at last after this long.
const REST_AT_MOST: Millis = 10_000;

/// The life of one piece.
#[derive(Clone, Copy, Debug)]
struct State {
    /// Raised before and after each operation that concerns the piece.
    generation: u64,
    /// When it became different from the sink, as a generation.
    born: u64,
    in_flight: u32,
    /// Made equal at this generation, waiting for a sync.
    copied: bool,
    /// Not to be tried before this.
    not_before: Millis,
}

#[derive(Clone, Debug)]
struct Body {
    state: State,
    /// To be copied.
    data: Ranges,
    /// Copied since a sync, by epoch: comes back when that sync fails.
    unsynced: Vec<(u64, Ranges)>,
    /// What the journal says, a superset.
    journaled: Ranges,
    /// Writes may have passed unseen: settles only while nobody can write.
    escaped: bool,
}

#[derive(Clone, Debug)]
struct Mark {
    kind: Kind,
    locator: Locator,
    body: Option<Body>,
    tree: Option<(State, Trust)>,
    names: BTreeMap<Bytes, State>,
    touched: Millis,
    since: Millis,
}

/// What a user's operation concerns.
#[derive(Clone, Debug)]
pub(crate) enum Touch {
    /// A name in a directory.
    Name(Oid, Bytes),
    /// Attributes of an object, and bytes of its content.
    Body {
        oid: Oid,
        data: Option<(u64, u64)>,
        escaped: bool,
    },
}

/// An object as the caller knows it; needed once, when its first mark is made.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) oid: Oid,
    pub(crate) kind: Kind,
    pub(crate) locator: Locator,
}

/// Where an object is about to leave from, and the directories above, nearest first.
#[derive(Clone, Debug)]
pub(crate) struct Departure {
    pub(crate) object: Known,
    pub(crate) chain: Vec<Oid>,
    /// Handle of the nearest.
    pub(crate) handle: Option<Bytes>,
    pub(crate) name: Bytes,
    pub(crate) why: Why,
}

/// Why its place is worth noting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It gets another name instead of this one.
    Moves,
    /// It gets another name besides this one.
    Linked,
    /// A directory that goes for good.
    Dies,
}

/// Pieces that an operation has in flight.
#[derive(Debug, Default)]
#[must_use = "an operation that is not ended stays in flight for ever"]
pub(crate) struct Ticket(Vec<(Oid, Piece)>);

/// What to heal at one object, as of the claim.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) oid: Oid,
    pub(crate) kind: Kind,
    pub(crate) locator: Locator,
    pub(crate) body: Option<BodyWork>,
    pub(crate) tree: Option<(u64, Trust)>,
    pub(crate) names: Vec<(Bytes, u64)>,
}

/// The body's share of [`Work`].
#[derive(Clone, Debug)]
pub(crate) struct BodyWork {
    pub(crate) generation: u64,
    pub(crate) data: Ranges,
    pub(crate) escaped: bool,
}

/// How one piece came out.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The sink is equal, as far as this piece goes.
    Equal,
    /// To be tried again after some milliseconds; nothing is wrong.
    Later(Millis),
    /// It failed, and is tried again later.
    Failed(Trouble),
}

/// The ledger. See the module's page.
#[derive(Default)]
pub(crate) struct Ledger {
    marks: HashMap<Oid, Mark>,
    places: HashMap<Oid, (Option<Bytes>, Place)>,
    claims: BTreeMap<(Oid, Bytes), Oid>,
    images: HashMap<Oid, (Oid, Bytes)>,
    image_of: HashMap<Oid, Oid>,
    troubles: BTreeMap<(Oid, Piece), Trouble>,
    waived: BTreeSet<(Oid, Piece)>,
    busy: HashSet<Oid>,
    /// Directories that are getting their image just now.
    placing: HashSet<Oid>,
    /// Directories of the sink that somebody works in, and for which directory of the source.
    in_use: HashMap<Oid, Oid>,
    /// Operations that users have begun.
    begun: u64,
    queue: BTreeSet<(u8, Millis, u64, Oid)>,
    queued: HashMap<Oid, (u8, Millis, u64)>,
    copied: Vec<(Oid, Piece, u64)>,
    generation: u64,
    epoch: u64,
    staged: u64,
    trees: u64,
    unverified: bool,
    records: Vec<Record>,
}

/// How many that cannot be healed just now are passed over in search of one that can.
const AHEAD: usize = 64;

/// Classes of the queue, most urgent first.
const URGENT: u8 = 0;
const TOUCHED: u8 = 1;
const CRAWL: u8 = 2;

impl Ledger {
    // ---- marks -------------------------------------------------------------------------

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Marks an operation's pieces before it begins. Fails with those objects that have no mark
    /// yet and are not among `known`: nothing has happened then.
    pub(crate) fn begin(
        &mut self,
        touches: &[Touch],
        departures: &[Departure],
        known: &[Known],
        now: Millis,
    ) -> Result<Ticket, Vec<Oid>> {
        let oid_of = |touch: &Touch| match touch {
            Touch::Name(oid, _) | Touch::Body { oid, .. } => *oid,
        };
        let mut missing: Vec<Oid> = touches
            .iter()
            .map(oid_of)
            .filter(|oid| !self.marks.contains_key(oid) && !known.iter().any(|k| k.oid == *oid))
            .collect();
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            return Err(missing);
        }
        self.begun += 1;
        // Before the touches: they make the names dirty that are asked about here.
        for departure in departures {
            self.depart(departure, now);
        }
        let mut ticket = Ticket::default();
        for touch in touches {
            let oid = oid_of(touch);
            if !self.marks.contains_key(&oid)
                && let Some(known) = known.iter().find(|known| known.oid == oid)
            {
                self.admit(known, now);
            }
            let piece = match touch {
                Touch::Name(_, name) => self.dirty_name(oid, name, now),
                Touch::Body { data, escaped, .. } => self.dirty_body(oid, *data, *escaped, now),
            };
            self.state_mut(oid, &piece, |state| state.in_flight += 1);
            ticket.0.push((oid, piece));
        }
        Ok(ticket)
    }

    /// An operation is over, however it ended.
    pub(crate) fn end(&mut self, ticket: Ticket, now: Millis, rest: Millis) {
        for (oid, piece) in ticket.0 {
            let generation = self.next_generation();
            self.state_mut(oid, &piece, |state| {
                state.in_flight -= 1;
                state.generation = generation;
            });
            if let Some(mark) = self.marks.get_mut(&oid) {
                mark.touched = now;
            }
            self.enqueue(oid, TOUCHED, now + rest);
        }
    }

    fn admit(&mut self, known: &Known, now: Millis) {
        self.marks.entry(known.oid).or_insert_with(|| Mark {
            kind: known.kind,
            locator: known.locator.clone(),
            body: None,
            tree: None,
            names: BTreeMap::new(),
            touched: now,
            since: now,
        });
    }

    fn fresh(generation: u64) -> State {
        State {
            generation,
            born: generation,
            in_flight: 0,
            copied: false,
            not_before: 0,
        }
    }

    fn redirty(state: &mut State, generation: u64) {
        if state.copied {
            state.copied = false;
            state.born = generation;
            state.not_before = 0;
        }
        state.generation = generation;
    }

    fn dirty_name(&mut self, oid: Oid, name: &Bytes, now: Millis) -> Piece {
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
        self.unwaive(oid, &piece);
        self.records.extend(record);
        piece
    }

    fn dirty_body(
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
        self.unwaive(oid, &Piece::Body);
        self.records.extend(record);
        Piece::Body
    }

    fn mark_record(
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

    fn state_mut(&mut self, oid: Oid, piece: &Piece, change: impl FnOnce(&mut State)) {
        let Some(mark) = self.marks.get_mut(&oid) else {
            return;
        };
        let state = match piece {
            Piece::Body => mark.body.as_mut().map(|body| &mut body.state),
            Piece::Tree => mark.tree.as_mut().map(|(state, _)| state),
            Piece::Name(name) => mark.names.get_mut(name),
        };
        if let Some(state) = state {
            change(state);
        }
    }

    fn state(&self, oid: Oid, piece: &Piece) -> Option<&State> {
        let mark = self.marks.get(&oid)?;
        match piece {
            Piece::Body => mark.body.as_ref().map(|body| &body.state),
            Piece::Tree => mark.tree.as_ref().map(|(state, _)| state),
            Piece::Name(name) => mark.names.get(name),
        }
    }

    /// Everything below this directory is unseen. Heals soon, newest first, so that the frontier
    /// of a crawl stays short.
    pub(crate) fn plant_tree(&mut self, known: &Known, trust: Trust, now: Millis) {
        self.admit(known, now);
        let generation = self.next_generation();
        let mut grown = 0;
        let mut record = None;
        if let Some(mark) = self.marks.get_mut(&known.oid) {
            let wider = match &mut mark.tree {
                None => {
                    mark.tree = Some((Self::fresh(generation), trust));
                    grown = 1;
                    true
                }
                Some((state, old)) => {
                    if state.copied {
                        grown = 1;
                    }
                    Self::redirty(state, generation);
                    let wider = trust < *old;
                    *old = trust.min(*old);
                    wider
                }
            };
            if wider {
                let trust = mark.tree.as_ref().map(|(_, trust)| *trust);
                record = Some(Self::mark_record(known.oid, mark, None, trust, vec![]));
            }
        }
        self.trees += grown;
        self.records.extend(record);
        self.unwaive(known.oid, &Piece::Tree);
        self.enqueue(known.oid, CRAWL, now);
    }

    /// The same for a directory whose image is and stays where it is: a walk that is under way,
    /// or to come, and trusts no more than this one, will do.
    pub(crate) fn ensure_tree(&mut self, known: &Known, trust: Trust, now: Millis) {
        let tree = self
            .marks
            .get(&known.oid)
            .and_then(|mark| mark.tree.as_ref());
        if tree.is_none_or(|(state, old)| !Self::dirty(state) || *old > trust) {
            self.plant_tree(known, trust, now);
        }
    }

    /// This directory of the sink becomes the image, whatever it was before: all in it is unseen,
    /// also for those who work in what was the image so far, and nothing that is known to stand
    /// in the old one stands here.
    pub(crate) fn adopt(&mut self, known: &Known, sink: Oid, trust: Trust, now: Millis) {
        let elsewhere = self
            .in_use
            .iter()
            .any(|(image, owner)| *owner == known.oid && *image != sink);
        match elsewhere {
            true => self.plant_tree(known, trust, now),
            false => self.ensure_tree(known, trust, now),
        }
        let lost: Vec<Oid> = self.claims_in(known.oid).collect();
        lost.into_iter().for_each(|oid| self.unplace(oid));
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
    pub(crate) fn relocate(&mut self, oid: Oid, whence: (Bytes, Bytes)) {
        if let Some(mark) = self.marks.get_mut(&oid)
            && mark.locator.whence.as_ref() != Some(&whence)
        {
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
            self.trees -= 1;
        }
        self.marks.remove(&oid);
        self.dequeue(oid);
        let all = (oid, Piece::Body)..;
        let gone: Vec<_> = self
            .troubles
            .range(all)
            .map(|(key, _)| key.clone())
            .take_while(|(at, _)| *at == oid)
            .collect();
        gone.iter().for_each(|key| drop(self.troubles.remove(key)));
        self.waived.retain(|(at, _)| *at != oid);
        self.records.push(Record::Gone { oid });
    }

    // ---- what is clean -----------------------------------------------------------------

    fn dirty(state: &State) -> bool {
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

    fn clean(&self, chain: &[Oid], name: &[u8]) -> bool {
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

    // ---- places ------------------------------------------------------------------------

    fn depart(&mut self, departure: &Departure, now: Millis) {
        let Departure {
            object,
            chain,
            handle,
            name,
            why,
        } = departure;
        let is_dir = object.kind == Kind::Directory;
        let Some(&dir) = chain.first() else {
            // Where it stood could not be found out: then nothing is known of its image.
            if is_dir && *why == Why::Moves {
                self.plant_tree(object, Trust::NOTHING, now);
            }
            return;
        };
        let here = || Place::At {
            dir,
            handle: handle.clone(),
            name: name.clone(),
        };
        let clean = self.clean(chain, name);
        match why {
            // Of a directory that dies only the way to what came out of it is of use.
            Why::Dies => {
                if clean && self.has_claims_in(object.oid) {
                    self.place(object, here());
                }
            }
            Why::Linked if self.places.contains_key(&object.oid) => {}
            Why::Linked if self.images.contains_key(&object.oid) => {}
            _ if clean => self.place(object, here()),
            Why::Moves if is_dir && !self.places.contains_key(&object.oid) => {
                self.plant_tree(object, Trust::NOTHING, now);
            }
            Why::Moves | Why::Linked => {}
        }
    }

    fn place(&mut self, object: &Known, place: Place) {
        self.set_place(object.oid, object.locator.handle.clone(), place);
    }

    /// The image of this object stands there now.
    pub(crate) fn set_place(&mut self, oid: Oid, handle: Option<Bytes>, place: Place) {
        self.drop_claim(oid);
        if let Place::At { dir, name, .. } = &place
            && let Some(other) = self.claims.insert((*dir, name.clone()), oid)
        {
            self.places.remove(&other);
            self.records.push(Record::Unplaced { oid: other });
        }
        self.records.push(Record::Placed {
            oid,
            handle: handle.clone(),
            place: place.clone(),
        });
        self.places.insert(oid, (handle, place));
    }

    fn drop_claim(&mut self, oid: Oid) {
        if let Some((_, Place::At { dir, name, .. })) = self.places.remove(&oid) {
            self.claims.remove(&(dir, name));
        }
    }

    /// The image of this object is nowhere but, perhaps, at its own path.
    pub(crate) fn unplace(&mut self, oid: Oid) {
        if self.places.contains_key(&oid) {
            self.drop_claim(oid);
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

    // ---- images of objects with several names ------------------------------------------

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

    /// Forgets an image.
    pub(crate) fn drop_image(&mut self, oid: Oid) {
        if let Some((sink, _)) = self.images.remove(&oid) {
            self.image_of.remove(&sink);
            self.records.push(Record::NoImage { oid });
        }
    }

    /// Forgets all that is known of images and places: somebody else may have been there.
    pub(crate) fn doubt_images(&mut self) {
        let images: Vec<Oid> = self.images.keys().copied().collect();
        images.into_iter().for_each(|oid| self.drop_image(oid));
        let places: Vec<Oid> = self.places.keys().copied().collect();
        places.into_iter().for_each(|oid| self.unplace(oid));
    }

    // ---- healing -----------------------------------------------------------------------

    fn enqueue(&mut self, oid: Oid, class: u8, due: Millis) {
        let Some(mark) = self.marks.get(&oid) else {
            return;
        };
        let due = due
            .min(mark.since + REST_AT_MOST)
            .max(due.saturating_sub(REST_AT_MOST));
        if let Some((old_class, old_due, order)) = self.queued.get(&oid).copied() {
            if (old_class, old_due) <= (class, due) {
                return;
            }
            self.queue.remove(&(old_class, old_due, order, oid));
        }
        // The crawl goes deep first: later ones come before earlier ones.
        let order = if class == CRAWL {
            u64::MAX - self.next_generation()
        } else {
            0
        };
        let due = if class == CRAWL { 0 } else { due };
        self.queue.insert((class, due, order, oid));
        self.queued.insert(oid, (class, due, order));
    }

    fn dequeue(&mut self, oid: Oid) {
        if let Some((class, due, order)) = self.queued.remove(&oid) {
            self.queue.remove(&(class, due, order, oid));
        }
    }

    /// A user looked at this directory: it comes next.
    pub(crate) fn urge(&mut self, oid: Oid) -> bool {
        let wanted = self.tree_dirty(oid) && !self.busy.contains(&oid);
        if wanted {
            self.enqueue(oid, URGENT, 0);
        }
        wanted
    }

    /// The next object to heal and all its open pieces, claimed for the caller until
    /// [`Ledger::finish`]; or when to ask again.
    pub(crate) fn claim_next(&mut self, now: Millis, hurry: bool) -> Result<Work, Option<Millis>> {
        let mut soonest: Option<Millis> = None;
        let mut taken = None;
        let mut tried = 0;
        'classes: for class in [URGENT, TOUCHED, CRAWL] {
            let from = (class, 0, 0, Oid(0, 0));
            let to = (class + 1, 0, 0, Oid(0, 0));
            for &(.., due, _, oid) in self.queue.range(from..to) {
                if due > now && !hurry {
                    soonest = Some(soonest.map_or(due, |s| s.min(due)));
                    break;
                }
                if self.busy.contains(&oid) {
                    soonest = Some(soonest.map_or(now + 2, |s| s.min(now + 2)));
                    continue;
                }
                if let Some(work) = self.work(oid, now) {
                    taken = Some(work);
                    break 'classes;
                }
                soonest = Some(soonest.map_or(now + 10, |s| s.min(now + 10)));
                tried += 1;
                if tried > AHEAD {
                    break 'classes;
                }
            }
        }
        let Some(work) = taken else {
            return Err(soonest);
        };
        self.dequeue(work.oid);
        self.busy.insert(work.oid);
        Ok(work)
    }

    /// Claims an object as it is, with or without marks: what a healer is about to write must not
    /// be written by another at the same time. `None` when another has it.
    pub(crate) fn claim(&mut self, oid: Oid) -> bool {
        self.busy.insert(oid)
    }

    /// Gives back a claim of [`Ledger::claim`].
    pub(crate) fn unclaim(&mut self, oid: Oid) {
        self.busy.remove(&oid);
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

    fn work(&self, oid: Oid, now: Millis) -> Option<Work> {
        let mark = self.marks.get(&oid)?;
        let open = |piece: Piece, state: &State| {
            !state.copied
                && state.in_flight == 0
                && state.not_before <= now
                && !self.waived.contains(&(oid, piece))
        };
        let body = mark
            .body
            .as_ref()
            .filter(|body| open(Piece::Body, &body.state));
        let tree = mark
            .tree
            .as_ref()
            .filter(|(state, _)| open(Piece::Tree, state));
        let names: Vec<_> = mark
            .names
            .iter()
            .filter(|(name, state)| open(Piece::Name((*name).clone()), state))
            .map(|(name, state)| (name.clone(), state.generation))
            .collect();
        let work = Work {
            oid,
            kind: mark.kind,
            locator: mark.locator.clone(),
            body: body.map(|body| BodyWork {
                generation: body.state.generation,
                data: body.data.clone(),
                escaped: body.escaped,
            }),
            tree: tree.map(|(state, trust)| (state.generation, *trust)),
            names,
        };
        (work.body.is_some() || work.tree.is_some() || !work.names.is_empty()).then_some(work)
    }

    /// Tells how pieces of a claimed object came out. What was changed by users meanwhile, or
    /// is being changed, stays dirty. Returns whether this piece is equal now.
    pub(crate) fn finish(
        &mut self,
        oid: Oid,
        piece: &Piece,
        generation: u64,
        outcome: Outcome,
        now: Millis,
    ) -> bool {
        let Some(state) = self.state(oid, piece).copied() else {
            return false;
        };
        if state.copied {
            return false;
        }
        let stands = state.generation == generation && state.in_flight == 0;
        match outcome {
            Outcome::Equal => {
                self.troubles.remove(&(oid, piece.clone()));
                if !stands {
                    // What was there at the claim is healed; what remains is younger.
                    self.state_mut(oid, piece, |state| state.born = generation + 1);
                    return false;
                }
                self.state_mut(oid, piece, |state| state.copied = true);
                if *piece == Piece::Tree {
                    self.trees -= 1;
                }
                let epoch = self.epoch;
                if *piece == Piece::Body
                    && let Some(body) = self.marks.get_mut(&oid).and_then(|m| m.body.as_mut())
                {
                    let data = std::mem::take(&mut body.data);
                    body.unsynced.push((epoch, data));
                }
                if let Some(mark) = self.marks.get_mut(&oid) {
                    mark.since = now;
                }
                self.copied.push((oid, piece.clone(), generation));
                true
            }
            Outcome::Later(wait) => {
                self.state_mut(oid, piece, |state| state.not_before = now + wait);
                false
            }
            Outcome::Failed(trouble) => {
                let old = self.troubles.remove(&(oid, piece.clone()));
                let trouble = trouble.after(old);
                let wait = trouble.back_off();
                self.troubles.insert((oid, piece.clone()), trouble);
                self.state_mut(oid, piece, |state| state.not_before = now + wait);
                false
            }
        }
    }

    /// A claimed object whose healing came to no end: it failed, and is tried again.
    pub(crate) fn panicked(&mut self, work: &Work, now: Millis) {
        let failed = || {
            let reason = "hermitfs failed at this object: see its log".to_owned();
            Outcome::Failed(Trouble::told(Side::Sink, "heal", None, reason))
        };
        if let Some(body) = &work.body {
            self.finish(work.oid, &Piece::Body, body.generation, failed(), now);
        }
        if let Some((generation, _)) = work.tree {
            self.finish(work.oid, &Piece::Tree, generation, failed(), now);
        }
        for (name, generation) in &work.names {
            self.finish(
                work.oid,
                &Piece::Name(name.clone()),
                *generation,
                failed(),
                now,
            );
        }
        self.release(work.oid, now);
    }

    /// Whether there is something to heal now or soon.
    pub(crate) fn is_open(&self, now: Millis) -> bool {
        !self.busy.is_empty() || self.queue.iter().any(|(_, due, ..)| *due <= now + 20)
    }

    /// Ends a claim of [`Ledger::claim_next`]; what is still open comes again.
    pub(crate) fn release(&mut self, oid: Oid, now: Millis) {
        self.busy.remove(&oid);
        self.requeue(oid, now);
    }

    fn requeue(&mut self, oid: Oid, now: Millis) {
        let Some(mark) = self.marks.get(&oid) else {
            return;
        };
        let bodies = mark.body.iter().map(|body| (Piece::Body, &body.state));
        let names = mark
            .names
            .iter()
            .map(|(name, state)| (Piece::Name(name.clone()), state));
        let soonest = |states: &mut dyn Iterator<Item = (Piece, &State)>| {
            states
                .filter(|(piece, s)| !s.copied && !self.waived.contains(&(oid, piece.clone())))
                .map(|(_, s)| {
                    if s.in_flight > 0 {
                        now + 20
                    } else {
                        s.not_before
                    }
                })
                .min()
        };
        let touched = soonest(&mut bodies.chain(names));
        let tree = soonest(&mut mark.tree.iter().map(|(state, _)| (Piece::Tree, state)));
        if let Some(due) = touched {
            self.enqueue(oid, TOUCHED, due.max(now));
        }
        match tree {
            Some(due) if due > now => self.enqueue(oid, TOUCHED, due),
            Some(_) => self.enqueue(oid, CRAWL, now),
            None => {}
        }
    }

    /// Everything that failed or waits is tried now.
    pub(crate) fn retry_all(&mut self, now: Millis) {
        let oids: Vec<Oid> = self.marks.keys().copied().collect();
        for oid in oids {
            if let Some(mark) = self.marks.get_mut(&oid) {
                mark.body
                    .iter_mut()
                    .for_each(|body| body.state.not_before = 0);
                mark.tree
                    .iter_mut()
                    .for_each(|(state, _)| state.not_before = 0);
                mark.names
                    .values_mut()
                    .for_each(|state| state.not_before = 0);
            }
            self.dequeue(oid);
            if !self.busy.contains(&oid) {
                self.requeue(oid, now);
            }
        }
    }

    // ---- copied, then settled ----------------------------------------------------------

    /// Whether something waits for a sync.
    pub(crate) fn copied(&self) -> usize {
        self.copied.len()
    }

    /// Call before a sync: what has been copied so far is what it will settle.
    pub(crate) fn cut(&mut self) -> Vec<(Oid, Piece, u64)> {
        self.epoch += 1;
        std::mem::take(&mut self.copied)
    }

    /// After the sync: settles the cut, or makes it dirty again.
    pub(crate) fn seal(&mut self, cut: Vec<(Oid, Piece, u64)>, synced: bool, now: Millis) {
        let epoch = self.epoch;
        for (oid, piece, generation) in cut {
            if let Some(body) = self.marks.get_mut(&oid).and_then(|mark| mark.body.as_mut())
                && piece == Piece::Body
            {
                let (old, new) = std::mem::take(&mut body.unsynced)
                    .into_iter()
                    .partition::<Vec<_>, _>(|(at, _)| *at < epoch);
                body.unsynced = new;
                if !synced {
                    old.iter().for_each(|(_, data)| body.data.extend(data));
                }
            }
            let unchanged = self
                .state(oid, &piece)
                .is_some_and(|s| s.copied && s.generation == generation);
            if !unchanged {
                continue;
            }
            if synced {
                self.drop_piece(oid, &piece);
                self.records.push(Record::Settled { oid, piece });
            } else {
                self.state_mut(oid, &piece, |state| state.copied = false);
                if piece == Piece::Tree {
                    self.trees += 1;
                    if let Some((_, trust)) =
                        self.marks.get_mut(&oid).and_then(|mark| mark.tree.as_mut())
                    {
                        *trust = Trust::NOTHING;
                    }
                    let record = self.marks.get(&oid).map(|mark| {
                        Self::mark_record(oid, mark, None, Some(Trust::NOTHING), vec![])
                    });
                    self.records.extend(record);
                }
                self.requeue(oid, now);
            }
        }
    }

    fn drop_piece(&mut self, oid: Oid, piece: &Piece) {
        self.unwaive(oid, piece);
        let Some(mark) = self.marks.get_mut(&oid) else {
            return;
        };
        match piece {
            Piece::Body => mark.body = None,
            Piece::Tree => mark.tree = None,
            Piece::Name(name) => drop(mark.names.remove(name)),
        }
        if mark.body.is_none() && mark.tree.is_none() && mark.names.is_empty() {
            self.marks.remove(&oid);
            self.dequeue(oid);
        }
    }

    // ---- numbers -----------------------------------------------------------------------

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

    fn open_pieces(&self, oid: Oid) -> impl Iterator<Item = (Piece, State)> + '_ {
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
        all.filter(move |(piece, _)| !self.waived.contains(&(oid, piece.clone())))
    }

    /// Age of the oldest mark.
    pub(crate) fn oldest(&self, now: Millis) -> Option<Millis> {
        self.marks
            .values()
            .map(|mark| now.saturating_sub(mark.since))
            .max()
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
    pub(crate) fn left_before(&self, goal: u64) -> (u64, u64) {
        let (mut open, mut failed) = (0, 0);
        for &oid in self.marks.keys() {
            for (piece, state) in self.open_pieces(oid) {
                // A tree, whenever it was planted, may stand for something older below.
                if state.born <= goal || piece == Piece::Tree {
                    match self.troubles.contains_key(&(oid, piece)) {
                        true => failed += 1,
                        false => open += 1,
                    }
                }
            }
        }
        (open, failed)
    }

    /// What failed, and whether it was waived.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = (Oid, &Piece, &Trouble, bool)> {
        self.troubles
            .iter()
            .map(|(key, trouble)| (key.0, &key.1, trouble, self.waived.contains(key)))
    }

    /// Number of failures that are not waived.
    pub(crate) fn errors(&self) -> u64 {
        self.troubles
            .keys()
            .filter(|key| !self.waived.contains(*key))
            .count() as u64
    }

    /// Number of pieces that were waived.
    pub(crate) fn waived(&self) -> u64 {
        self.waived.len() as u64
    }

    /// An administrator says that this failure does not matter.
    pub(crate) fn waive(&mut self, oid: Oid, piece: &Piece) {
        if self.waived.insert((oid, piece.clone())) {
            self.records.push(Record::Waived {
                oid,
                piece: piece.clone(),
            });
        }
    }

    fn unwaive(&mut self, oid: Oid, piece: &Piece) {
        if !self.waived.is_empty() && self.waived.remove(&(oid, piece.clone())) {
            self.records.push(Record::Unwaived {
                oid,
                piece: piece.clone(),
            });
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

    /// No tree is open any more: all has been compared.
    pub(crate) fn verified(&mut self) {
        if self.unverified && self.trees == 0 {
            self.unverified = false;
            self.records.push(Record::Verified);
        }
    }

    // ---- the journal -------------------------------------------------------------------

    /// Records since the last call; to be written before any operation that they announce.
    pub(crate) fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// Whether there are any.
    pub(crate) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// Makes one change from the journal again.
    pub(crate) fn replay(&mut self, record: Record) {
        match record {
            Record::Mark {
                oid,
                kind,
                locator,
                body,
                tree,
                names,
            } => {
                let known = Known {
                    oid,
                    kind: kind_from(kind),
                    locator,
                };
                self.admit(&known, 0);
                if let Some((ranges, escaped)) = body {
                    self.dirty_body(oid, None, escaped, 0);
                    ranges.iter().for_each(|range| {
                        self.dirty_body(oid, Some(range), escaped, 0);
                    });
                }
                names
                    .iter()
                    .for_each(|name| drop(self.dirty_name(oid, name, 0)));
                if let Some(trust) = tree {
                    self.plant_tree(&known, trust, 0);
                }
                self.enqueue(oid, TOUCHED, 0);
            }
            Record::Moved { oid, whence } => self.relocate(oid, whence),
            Record::Settled { oid, piece } => {
                if piece == Piece::Tree && self.tree_dirty(oid) {
                    self.trees -= 1;
                }
                self.drop_piece(oid, &piece);
            }
            Record::Gone { oid } => self.forget(oid),
            Record::Placed { oid, handle, place } => {
                if let Place::Staged(number) = place {
                    self.staged = self.staged.max(number);
                }
                self.set_place(oid, handle, place);
            }
            Record::Unplaced { oid } => self.unplace(oid),
            Record::Image { oid, sink, handle } => self.set_image(oid, sink, handle),
            Record::NoImage { oid } => self.drop_image(oid),
            Record::Waived { oid, piece } => self.waive(oid, &piece),
            Record::Unwaived { oid, piece } => self.unwaive(oid, &piece),
            Record::Unverified => self.unverified = true,
            Record::Verified => self.unverified = false,
        }
        self.records.clear();
    }

    /// The shortest list of records that gives this ledger back: what a new journal begins with.
    pub(crate) fn dump(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (oid, mark) in &self.marks {
            let body = mark
                .body
                .as_ref()
                .map(|body| (body.journaled.clone(), body.escaped));
            let tree = mark.tree.as_ref().map(|(_, trust)| *trust);
            let names = mark.names.keys().cloned().collect();
            records.push(Self::mark_record(*oid, mark, body, tree, names));
        }
        for (oid, (handle, place)) in &self.places {
            let (handle, place) = (handle.clone(), place.clone());
            records.push(Record::Placed {
                oid: *oid,
                handle,
                place,
            });
        }
        for (oid, (sink, handle)) in &self.images {
            records.push(Record::Image {
                oid: *oid,
                sink: *sink,
                handle: handle.clone(),
            });
        }
        for (oid, piece) in &self.waived {
            records.push(Record::Waived {
                oid: *oid,
                piece: piece.clone(),
            });
        }
        if self.unverified {
            records.push(Record::Unverified);
        }
        records
    }
}
