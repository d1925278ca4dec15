#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::disallowed_methods))]
#![deny(unsafe_code)] // `sys` alone is allowed some

mod attr;
mod brick;
mod caller;
mod data;
mod descriptors;
mod graves;
mod handle;
mod identities;
mod list;
mod locate;
mod meta;
mod names;
mod node;
mod options;
mod ours;
mod placeholder;
mod positions;
mod posix;
mod probe;
mod shares;
mod space;
mod streams;
#[allow(unsafe_code, reason = "system calls that rustix does not have")]
mod sys;
mod table;
mod view;
mod whole;

pub use options::{OpenError, Options, OwnMount};
pub use posix::{Abilities, Posix};
