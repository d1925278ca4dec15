#![doc = include_str!("README.md")]

mod ground;
mod holders;
mod plan;
mod ways;

pub(crate) use ground::Over;
pub(crate) use plan::{Memory, target};
