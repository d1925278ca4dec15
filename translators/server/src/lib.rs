#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod buffers;
mod call;
mod change;
mod check;
mod claims;
mod compound;
mod door;
mod export;
mod given;
mod journal;
mod judge;
mod laden;
mod leaving;
mod listen;
mod near;
mod objects;
mod options;
mod record;
mod replies;
mod roles;
mod seal;
mod server;
mod sessions;
mod state;
mod turns;
mod waiting;
mod work;

#[cfg(test)]
mod crashes;

pub use given::Connection;
pub use listen::{Address, BadAddress};
pub use near::Near;
pub use options::{OpenError, Options};
pub use server::Server;
