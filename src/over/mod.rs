#![doc = include_str!("README.md")]

mod beside;
mod ground;
mod holders;
mod plan;
mod uppers;
mod ways;

pub(crate) use beside::{Beside, Open, Veil, give_back_dead, unveil_dead};
pub(crate) use ground::Over;
pub(crate) use plan::{Memory, target};

/// Whether a mount is read-only because of a run of ours that was killed.
pub(crate) fn is_shut_by_us(memory: Option<&Memory>, mount: &crate::mounts::Mount) -> bool {
    plan::is_shut_by_us(memory, &ground::boot(), mount)
}
