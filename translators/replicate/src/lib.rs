#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::disallowed_methods))]
#![forbid(unsafe_code)]

mod answers;
mod backoff;
mod brake;
mod control;
mod copies;
mod drain;
mod gate;
mod heal;
mod identities;
mod journal;
mod ledger;
mod leg;
mod lingering;
mod loss;
mod options;
mod pair;
mod ranges;
mod record;
mod room;
mod shares;
mod sleepers;
mod tally;
mod timed;
mod trouble;
mod users;
mod volume;
#[cfg(test)]
mod world;

pub use brake::Rate;
pub use control::{
    Difference, Goal, Leg, Losses, NotReady, ObjectError, ObjectLoss, OpenError, Reached,
    SinkNumber, Status, Verified,
};
pub use loss::{Class, Gravity};
pub use options::Options;
pub use pair::{Carried, Held, NotCarried, Replicate, unmark};
pub use volume::{is_id, is_of};
