//! What the journal says: every durable change of a [`Ledger`](crate::ledger::Ledger).

use hermitfs_api::{Identity, Kind, NameBuf, Time};
use serde::{Deserialize, Serialize};

use crate::loss::{Class, Loss};
use crate::ranges::Ranges;

/// An object of the source, for ever: its number, and the generation that tells apart those who
/// had the number one after the other. The device is left out, as it changes between boots; the
/// generation covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Oid(pub(crate) u64, pub(crate) u64);

impl From<Identity> for Oid {
    fn from(identity: Identity) -> Oid {
        Oid(identity.ino, identity.generation)
    }
}

/// Bytes that are a name or a handle, in a record.
pub(crate) type Bytes = Box<[u8]>;

/// A file whose size, mode, owner and times are equal on both sides is taken for equal when the
/// source's ctime is before this: [`Time::MAX`] trusts all (a sink that only we have written),
/// [`Time::MIN`] none (content is compared).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Trust(i64, u32);

impl Trust {
    pub(crate) const ALL: Trust = Trust(i64::MAX, 999_999_999);
    pub(crate) const NOTHING: Trust = Trust(i64::MIN, 0);

    pub(crate) const fn before(time: Time) -> Trust {
        Trust(time.sec, time.nsec)
    }

    pub(crate) fn covers(self, ctime: Time) -> bool {
        self == Trust::ALL || (ctime.sec, ctime.nsec) < (self.0, self.1)
    }
}

/// How an object of the source is found again after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Locator {
    /// Its handle; `None` where the source has none.
    pub(crate) handle: Option<Bytes>,
    /// A directory's handle and the name in it.
    pub(crate) whence: Option<(Bytes, Bytes)>,
}

/// Where the image of an object stands on the sink, when not at the object's own path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// Under this name in the image of this directory (and the handle of the directory).
    At {
        dir: Oid,
        handle: Option<Bytes>,
        name: Bytes,
    },
    /// In the staging space, under this number.
    Staged(u64),
}

impl Place {
    /// Whether it is this slot.
    pub(crate) fn is(&self, slot: Oid, in_it: &[u8]) -> bool {
        matches!(self, Place::At { dir, name, .. } if *dir == slot && **name == *in_it)
    }
}

/// One of an object's marks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Piece {
    /// Content and attributes.
    Body,
    /// All below, unseen.
    Tree,
    /// One name in it.
    Name(Bytes),
}

/// The name in a record. Only validated names are recorded, and a damaged record fails its
/// checksum before it is read.
pub(crate) fn name_of(bytes: &[u8]) -> hermitfs_api::Result<NameBuf> {
    Ok(NameBuf::new(bytes)?)
}

/// Kinds, as the journal writes them.
pub(crate) fn kind_code(kind: Kind) -> u8 {
    (kind.bits() >> 12) as u8
}

pub(crate) fn kind_from(code: u8) -> Kind {
    Kind::from_mode(u32::from(code) << 12).unwrap_or(Kind::File)
}

/// One durable change. Replaying all of them in order gives the ledger back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// These pieces of the object are marked; ranges are added to those that are there.
    Mark {
        oid: Oid,
        kind: u8,
        locator: Locator,
        body: Option<(Ranges, bool)>,
        tree: Option<Trust>,
        names: Vec<Bytes>,
    },
    /// The object is found elsewhere now.
    Moved { oid: Oid, whence: (Bytes, Bytes) },
    /// This piece is settled.
    Settled { oid: Oid, piece: Piece },
    /// The object is gone from the source: all its marks are void.
    Gone { oid: Oid },
    /// Its image stands here. `handle` leads to the source's object.
    Placed {
        oid: Oid,
        handle: Option<Bytes>,
        place: Place,
    },
    /// Its image stands at its own path, or nowhere.
    Unplaced { oid: Oid },
    /// The sink's object that is the image of one with several names.
    Image { oid: Oid, sink: Oid, handle: Bytes },
    /// That image is no more.
    NoImage { oid: Oid },
    /// Not written any more: what was waived, without saying of what class. It is asked for again.
    Waived { oid: Oid, piece: Piece },
    /// It matters again, as it was touched since.
    Unwaived { oid: Oid, piece: Piece },
    /// Something below the root may have been changed without us; settled when a walk that
    /// began after this is done.
    Unverified,
    /// All that was unverified has been compared.
    Verified,
    /// An administrator waived troubles of these classes at this piece; all that are.
    WaivedOf {
        oid: Oid,
        piece: Piece,
        classes: Vec<Class>,
    },
    /// The sink does not get this of an object.
    Lost { oid: Oid, class: Class, loss: Loss },
    /// It has got it after all, or the object is no more.
    Kept { oid: Oid, class: Class },
    /// More objects have a loss of this class than are listed.
    MoreLosses { class: Class },
    /// An administrator agreed that all objects may lose this.
    Agreed { class: Class },
}
