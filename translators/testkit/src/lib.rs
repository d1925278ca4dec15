#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test equipment: what cannot be done fails the test where it stands"
)]

pub mod conformance;
mod explore;
mod memory;
pub mod net;
mod step;
mod steps;
mod tree;
pub mod workload;

pub use explore::{Bounds, Chooser, Explored, explore, explore_random, replay};
pub use memory::{Hints, Memory, Settings};
pub use step::{Actors, End, Grain, Stepper};
pub use steps::BySteps;
pub use tree::{Blocks, NOT_OF_THE_TREE, Node, Tree};
