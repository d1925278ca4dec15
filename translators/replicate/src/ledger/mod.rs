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
//! - The image of a directory is what stands at its [`Place`], or under its name in the image of the directory
//!   above when that name is not dirty, or there is none. Trees say what is unseen, not where it stands; but for
//!   those that began in an image that was another's ([`Ledger::is_lost`]).
//! - A directory whose image changes is unseen. Who takes a place away plants a tree, or makes a new image.
//! - A slot (directory, name) of the sink is claimed by one object at most.

mod claims;
mod losses;
mod marks;
mod numbers;
mod places;
mod queue;
mod replay;
mod settle;
mod short;
mod walks;
mod ways;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hermitfs_api::Kind;

pub(crate) use claims::Moment;
pub(crate) use numbers::Survey;
pub(crate) use walks::Walk;

use crate::loss::{Class, Loss};
use crate::ranges::Ranges;
use crate::record::{Bytes, Locator, Oid, Piece, Place, Record, Trust};
use crate::room::Need;
use crate::trouble::{Setback, Step, Trouble};

/// Classes of troubles that were waived.
type Classes = BTreeSet<Class>;

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
    /// The directory in which the locator has it, as long as that is known.
    dir: Option<Oid>,
    body: Option<Body>,
    tree: Option<(State, Walk)>,
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
    /// The names of what is no directory: it is getting one more, wherever it has its others by then. Together with
    /// its body.
    Names(Oid),
    /// Where an object's image stands, of which the operation knows no name for sure: all is compared from the
    /// root on. When the image is known here that is not needed; with [`Trust::NOTHING`] it is all the same.
    Image { oid: Oid, root: Oid, trust: Trust },
}

/// An object as the caller knows it; needed once, when its first mark is made.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) oid: Oid,
    pub(crate) kind: Kind,
    pub(crate) locator: Locator,
    /// The directory in which the locator has it. In memory alone.
    pub(crate) dir: Option<Oid>,
}

#[cfg(test)]
impl Known {
    /// A directory of which a test needs to know no more.
    fn of_dir(oid: Oid) -> Known {
        Known {
            oid,
            kind: Kind::Directory,
            locator: Locator::default(),
            dir: None,
        }
    }
}

/// Where an object is about to leave from, and the directories above, nearest first.
#[derive(Clone, Debug)]
pub(crate) struct Departure {
    pub(crate) object: Known,
    pub(crate) chain: Vec<Oid>,
    /// The chain goes up to the root; or is the nearest alone, which will do while no walk is to come.
    pub(crate) is_whole: bool,
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

/// What an operation lacks to begin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// These have no mark yet, and nothing is known of them.
    Known(Vec<Oid>),
    /// Departures have to tell all that is above them.
    Chains,
}

/// Pieces that an operation has in flight.
#[derive(Debug, Default)]
#[must_use = "an operation that is not ended stays in flight for ever"]
pub(crate) struct Ticket {
    pieces: Vec<(Oid, Piece)>,
    /// Objects that get one more name.
    named: Vec<Oid>,
    /// Directories that are to go, and where their images stand: known no more by a name that is changed.
    going: Vec<(Known, Place)>,
}

/// What to heal at one object, as of the claim.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) oid: Oid,
    pub(crate) kind: Kind,
    pub(crate) locator: Locator,
    pub(crate) body: Option<BodyWork>,
    pub(crate) tree: Option<(u64, Walk)>,
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
    /// It cannot be healed before another piece, which failed.
    Behind(Oid, Piece),
    /// The sink has no room for it: tried again when it may have.
    Full(Need),
    /// It failed, and is tried again later.
    Failed(Trouble),
}

impl Outcome {
    /// What a setback means for the piece that met it; the setback itself when it concerns more.
    pub(crate) fn of(done: Step<()>) -> (Outcome, Step<()>) {
        match done {
            Ok(()) => (Outcome::Equal, Ok(())),
            Err(Setback::Later(wait)) => (Outcome::Later(wait), Ok(())),
            Err(Setback::Behind(oid, piece)) => (Outcome::Behind(oid, piece), Ok(())),
            Err(Setback::Object(trouble)) => (Outcome::Failed(trouble), Ok(())),
            Err(Setback::Full(need)) => (Outcome::Full(need), Ok(())),
            Err(Setback::Sink(trouble)) => (Outcome::Later(100), Err(Setback::Sink(trouble))),
        }
    }
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
    /// How often in a row a trouble was met that is not told yet.
    met: HashMap<(Oid, Piece), u32>,
    /// Pieces that cannot be healed before another one, which failed.
    behind: BTreeMap<(Oid, Piece), (Oid, Piece)>,
    /// Pieces that the sink has no room for, and what they need.
    short: HashMap<(Oid, Piece), Need>,
    waived: BTreeMap<(Oid, Piece), Classes>,
    losses: BTreeMap<(Class, Oid), Loss>,
    /// More objects have a loss of these than are in `losses`.
    more: BTreeSet<Class>,
    /// Losses that all objects may have.
    agreed: BTreeSet<Class>,
    busy: HashSet<Oid>,
    /// Directories that are getting their image just now.
    placing: HashSet<Oid>,
    /// Directories of the sink that somebody works in, and for which directory of the source.
    in_use: HashMap<Oid, Oid>,
    /// Directories that users made before our eyes and that have no image yet: each name in them has
    /// a mark of its own, so nothing in them is unseen. With where they are. In memory only; without it they are
    /// walked.
    born: HashMap<Oid, (Oid, Bytes)>,
    /// Objects that are getting one more name from users just now, and from how many.
    naming: HashMap<Oid, u32>,
    /// Operations that users have begun.
    begun: u64,
    queue: BTreeSet<(u8, Millis, u64, Oid)>,
    queued: HashMap<Oid, (u8, Millis, u64)>,
    /// When the first of what was queued of late is due.
    newly: Option<Millis>,
    /// Whose turn it is: what users touched, or the crawl.
    turn: bool,
    /// No crawl by itself.
    resting: bool,
    /// Directories that were looked at before a walk had come to them.
    wanted: HashSet<Oid>,
    /// The last walk that has passed each directory. In memory only, and while there is any.
    walked: HashMap<Oid, Walk>,
    /// In memory only.
    ways: ways::Ways,
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
    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Marks an operation's pieces before it begins. Fails when not enough is known for that: nothing has
    /// happened then.
    pub(crate) fn begin(
        &mut self,
        touches: &[Touch],
        departures: &[Departure],
        known: &[Known],
        now: Millis,
    ) -> Result<Ticket, Lacking> {
        let oid_of = |touch: &Touch| match touch {
            Touch::Name(oid, _)
            | Touch::Names(oid)
            | Touch::Body { oid, .. }
            | Touch::Image { root: oid, .. } => *oid,
        };
        let mut missing: Vec<Oid> = touches
            .iter()
            .map(oid_of)
            .filter(|oid| !self.marks.contains_key(oid) && !known.iter().any(|k| k.oid == *oid))
            .collect();
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            return Err(Lacking::Known(missing));
        }
        if self.lacks_chains(departures) {
            return Err(Lacking::Chains);
        }
        self.begun += 1;
        let mut ticket = Ticket::default();
        // Before the touches: they make the names dirty that are asked about here.
        for departure in departures {
            ticket.going.extend(self.depart(departure, now));
        }
        for touch in touches {
            // A place is forgotten when what stands there is healed; an image stays known.
            if let Touch::Image { oid, trust, .. } = touch
                && *trust != Trust::NOTHING
                && self.images.contains_key(oid)
            {
                continue;
            }
            let oid = oid_of(touch);
            if !self.marks.contains_key(&oid)
                && let Some(known) = known.iter().find(|known| known.oid == oid)
            {
                self.admit(known, now);
            }
            let piece = match touch {
                Touch::Name(_, name) => self.dirty_name(oid, name, now),
                Touch::Body { data, escaped, .. } => self.dirty_body(oid, *data, *escaped, now),
                Touch::Image { trust, .. } => self.dirty_tree(oid, *trust, now),
                Touch::Names(_) => {
                    *self.naming.entry(oid).or_insert(0) += 1;
                    ticket.named.push(oid);
                    continue;
                }
            };
            self.state_mut(oid, &piece, |state| state.in_flight += 1);
            ticket.pieces.push((oid, piece));
        }
        Ok(ticket)
    }

    /// What was to go has stayed, before the end of the operation that failed.
    pub(crate) fn stayed(&mut self, ticket: &Ticket) {
        for (object, place) in &ticket.going {
            if !self.places.contains_key(&object.oid) {
                self.place(object, place.clone());
            }
        }
    }

    /// An operation is over, however it ended.
    pub(crate) fn end(&mut self, ticket: Ticket, now: Millis, rest: Millis) {
        for oid in ticket.named {
            if let Entry::Occupied(mut naming) = self.naming.entry(oid) {
                *naming.get_mut() -= 1;
                if *naming.get() == 0 {
                    naming.remove();
                }
            }
        }
        for (oid, piece) in ticket.pieces {
            let generation = self.next_generation();
            self.state_mut(oid, &piece, |state| {
                state.in_flight -= 1;
                state.generation = generation;
            });
            if let Some(mark) = self.marks.get_mut(&oid) {
                mark.touched = now;
            }
            if let Piece::Name(name) = &piece {
                self.name_moves(oid, name);
            }
            self.enqueue(oid, TOUCHED, now + rest);
            // What was tried while the operation was under way was tried as it had been before.
            match piece {
                Piece::Body => self.unpark_body(oid, now),
                piece => self.unpark(oid, &piece, now),
            }
        }
    }

    fn admit(&mut self, known: &Known, now: Millis) {
        self.marks.entry(known.oid).or_insert_with(|| Mark {
            kind: known.kind,
            locator: known.locator.clone(),
            dir: known.dir,
            body: None,
            tree: None,
            names: BTreeMap::new(),
            touched: now,
            since: now,
        });
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
}
