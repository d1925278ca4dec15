//! End to end, on real mounts: a file for each promise.
// A test says that it has failed by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod applications;
mod beside;
mod commands;
mod cutover;
mod deep;
mod descriptors;
mod disks;
mod fair;
mod fidelity;
mod identity;
mod inherited;
mod journal;
mod kept;
mod killed;
mod lingering;
mod live;
mod locks;
mod losses;
mod over;
mod permissions;
mod plain;
mod posix;
mod power;
mod removed;
mod requests;
mod room;
mod served;
mod service;
mod sight;
mod space;
mod stopped;
mod submounts;
mod threads;
mod trouble;
mod unseen;
mod verify;
mod wire;
