#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

#[macro_use]
mod exchange;

mod atime;
mod attributes;
mod capabilities;
mod convert;
mod directory;
mod door;
mod error;
mod files;
mod former;
mod gate;
mod hold;
mod ioctl;
mod kernel;
mod listening;
mod locks;
mod modes;
mod mount;
mod mountinfo;
mod nodes;
mod numbers;
mod opening;
mod options;
mod patience;
mod place;
mod recall;
mod setids;
mod sharing;
mod signals;
mod standby;
mod statistics;
mod straggler;
mod sys;
mod work;

pub use attributes::{Atime, Attributes};
pub use error::MountError;
pub use exchange::{Exchange, OpenFile};
pub use mount::{Mount, Placement};
pub use mountinfo::{MountInfo, is_dead};
pub use options::{InvalidOption, Options};
pub use standby::ExchangeThreads;
pub use statistics::{Op, Snapshot};
