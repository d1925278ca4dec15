//! Work of several hosts in one tree at once, and what must be true of it afterwards.
//!
//! | directory | what they do there | what must be true |
//! |---|---|---|
//! | `lines` | append lines under a lock: record, OFD, flock; at the end that they see, or by `O_APPEND` | each line that was acknowledged is there once and whole |
//! | `counts` | read a number under a lock, and write the next | no number was given twice, none is lost |
//! | `claims` | create a file that all want, `O_EXCL` | one has it |
//! | `new`, `spool` | write a file and rename it into the spool | it is there once, and whole for whoever takes it |
//! | `taken` | rename what is in the spool to a name of one's own | one has it |
//!
//! Whatever a dead mount or a dead server leaves undecided has happened once or not at all.

mod deed;
mod hand;
mod judge;
mod team;

pub use deed::{Deed, Report};
pub use hand::Hand;
pub use judge::{Found, judge};
pub use team::Team;

/// Where they work, below one directory.
pub const PLACES: [&str; 6] = ["lines", "counts", "claims", "new", "spool", "taken"];

/// What is written for something by this name: a line, with one that is empty before it.
pub fn record(name: &str) -> String {
    let hash = blake3::hash(name.as_bytes());
    let filler = hash.to_hex().repeat(usize::from(hash.as_bytes()[0]) % 40);
    format!("\n{name} {filler} {name}.\n")
}
