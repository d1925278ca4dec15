//! Why something could not be healed.

use std::time::SystemTime;

use hermitfs_api::{Errno, Error};

use crate::ledger::Known;
use crate::loss::Class;
use crate::record::{Oid, Piece};
use crate::room::Need;

/// Which brick it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Sink,
}

/// One failure of one piece.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) side: Side,
    pub(crate) operation: &'static str,
    pub(crate) errno: Option<Errno>,
    pub(crate) reason: String,
    pub(crate) count: u64,
    pub(crate) since: SystemTime,
    /// It is to be tried again, by request: how it came out before says nothing any more.
    pub(crate) stale: bool,
    /// How often in a row it has to be met before anybody is told: what others did meanwhile may look the same.
    pub(crate) met_at_least: u32,
    /// Of what class it is, for who may waive it.
    pub(crate) class: Class,
    /// Of a loss that is asked for: what loses it.
    pub(crate) object: Option<Box<Known>>,
    /// What else is wrong with the same piece.
    pub(crate) more: Vec<Trouble>,
}

/// What a sink answers when another healer, or this one's own look-up, was overtaken: what was looked at is
/// not there any more, or something is that was not.
const OVERTAKEN: [Errno; 5] = [
    Errno::ESTALE,
    Errno::ENOENT,
    Errno::ENOTDIR,
    Errno::EEXIST,
    Errno::ENOTEMPTY,
];

impl Trouble {
    pub(crate) fn new(side: Side, operation: &'static str, error: &Error) -> Trouble {
        let errno = error.errno();
        let overtaken = side == Side::Sink && OVERTAKEN.contains(&errno);
        let told = Trouble::told(side, operation, Some(errno), error.to_string());
        told.when_met(if overtaken { 5 } else { 1 })
    }

    pub(crate) fn told(
        side: Side,
        operation: &'static str,
        errno: Option<Errno>,
        reason: String,
    ) -> Trouble {
        Trouble {
            side,
            operation,
            errno,
            reason,
            count: 1,
            since: SystemTime::now(),
            stale: false,
            met_at_least: 1,
            class: Class::of_step(operation),
            object: None,
            more: Vec::new(),
        }
    }

    /// A loss that has to be asked for.
    pub(crate) fn lost(side: Side, class: Class, what: String, object: Known) -> Trouble {
        Trouble {
            class,
            object: Some(Box::new(object)),
            ..Trouble::told(side, "keep", None, what)
        }
    }

    /// All that is wrong with one piece as one trouble; `None` when nothing is.
    pub(crate) fn all(troubles: Vec<Trouble>) -> Option<Trouble> {
        let mut troubles = troubles.into_iter();
        let mut first = troubles.next()?;
        for other in troubles {
            first.met_at_least = first.met_at_least.max(other.met_at_least);
            first.more.push(other);
        }
        Some(first)
    }

    /// It, and what else is wrong with the piece.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Trouble> {
        std::iter::once(self).chain(&self.more)
    }

    /// The same, not to be told before it was met so often in a row.
    pub(crate) fn when_met(self, times: u32) -> Trouble {
        Trouble {
            met_at_least: times,
            ..self
        }
    }

    /// Whether a file system may have died of it, so that only a new mount can bring it back. One
    /// that is merely full, or short of something, goes on as it is.
    pub(crate) fn may_be_fatal(&self) -> bool {
        use Errno as E;
        let passing = [E::ENOSPC, E::EDQUOT, E::ENOMEM, E::EMFILE, E::ENFILE];
        self.errno.is_some_and(|errno| !passing.contains(&errno))
    }

    /// The same trouble again counts on.
    pub(crate) fn after(mut self, old: Option<Trouble>) -> Trouble {
        if let Some(old) = old {
            self.count += old.count;
            self.since = old.since;
        }
        self
    }

    /// Milliseconds to wait before the next try: doubles from 1 s to a minute.
    pub(crate) fn back_off(&self) -> u64 {
        1000 << self.count.saturating_sub(1).min(6)
    }
}

/// Why a step of healing did not come off.
#[derive(Debug)]
pub(crate) enum Setback {
    /// Something else comes first, or moved meanwhile: try again after some milliseconds.
    Later(u64),
    /// A piece that failed itself comes first.
    Behind(Oid, Piece),
    /// This object has a trouble of its own.
    Object(Trouble),
    /// The sink has no room for so much; for what needs less, or nothing, it may have.
    Full(Need),
    /// The sink as a whole is in trouble: nothing can be healed for now.
    Sink(Trouble),
}

pub(crate) type Step<T> = Result<T, Setback>;

/// Tells which side an error came from, and in which operation.
pub(crate) trait Blame<T> {
    fn at_source(self, operation: &'static str) -> Step<T>;
    fn at_sink(self, operation: &'static str) -> Step<T>;
}

impl<T> Blame<T> for hermitfs_api::Result<T> {
    fn at_source(self, operation: &'static str) -> Step<T> {
        self.map_err(|error| match error.errno() {
            // It moved or went while we looked; whoever did that has marked it.
            Errno::ENOENT | Errno::ESTALE | Errno::ENOTDIR => Setback::Later(20),
            _ => Setback::Object(Trouble::new(Side::Source, operation, &error)),
        })
    }

    fn at_sink(self, operation: &'static str) -> Step<T> {
        self.map_err(|error| {
            let trouble = Trouble::new(Side::Sink, operation, &error);
            match error.errno() {
                // ext4 says ENOSPC of an attribute that is too large for its block.
                Errno::ENOSPC if operation == "set xattr" => Setback::Object(trouble),
                Errno::ENOSPC | Errno::EDQUOT => Setback::Full(Need::default()),
                Errno::EROFS
                | Errno::ENOTCONN
                | Errno::ESHUTDOWN
                | Errno::ENODEV
                | Errno::ETIMEDOUT
                | Errno::ENOMEM
                | Errno::EMFILE
                | Errno::ENFILE => Setback::Sink(trouble),
                _ => Setback::Object(trouble),
            }
        })
    }
}
