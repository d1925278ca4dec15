//! Client and server together: the wire itself.
// A test says that it has failed by panicking.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]

mod common;
mod conformance;
mod forged;
mod given_up;
mod locks;
mod near;
mod network;
mod pair;
mod removed;
mod restart;
mod roles;
mod tls;
