#![doc = include_str!("../README.md")]
// A harness says that a test has failed by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod bricks;
pub mod crew;
pub mod daemon;
pub mod disk;
pub mod faulty;
pub mod guest;
pub mod hermitfs;
pub mod lab;
pub mod locker;
pub mod migration;
pub mod mounted;
pub mod need;
pub mod net;
pub mod odd;
pub mod papers;
pub mod proxy;
pub mod requests;
pub mod setup;
pub mod shell;
pub mod sys;
pub mod together;
pub mod tree;
pub mod wait;
pub mod world;
