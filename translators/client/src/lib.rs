#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod address;
mod brick;
mod call;
mod client;
mod compound;
mod dial;
mod dirty;
mod file;
mod held;
mod here;
mod keeper;
mod line;
mod node;
mod options;
mod role;
mod sequence;
mod table;
mod waits;
mod wire;

pub use address::{Address, BadAddress};
pub use brick::Near;
pub use client::Client;
pub use dial::{Connection, Dialer};
pub use options::{OpenError, Options};
