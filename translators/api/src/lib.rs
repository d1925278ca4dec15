#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::disallowed_methods))]
#![forbid(unsafe_code)]

mod attr;
mod brief;
mod compound;
mod context;
mod error;
mod file;
mod fsx;
mod inode;
mod lockset;
mod name;
mod poll;
mod threads;
mod translator;
mod types;

pub use attr::{Attr, Kind, SetAttr, SetTime, StatFs, Time};
pub use brief::{Brief, brief};
pub use compound::{
    Snapshot, Whole, Xattrs, is_small, make_whole_by_steps, snapshot_by_steps, xattr_names,
};
pub use context::{Context, Origin};
pub use error::{Errno, Error, Result};
pub use file::{File, Lent, OpenFlags};
pub use fsx::Fsx;
pub use inode::{Handle, Identity, Inode, SlotKey, Slots};
pub use lockset::{LockSet, OwnedLock};
pub use name::{InvalidName, Name, NameBuf};
pub use poll::{block_on, poll_for, poll_once};
pub use threads::try_threads;
pub use translator::{Filter, Fop, Translator};
pub use types::{
    Allocate, DirEntry, Entry, Extent, Lend, Location, Lock, LockKind, Make, RenameFlags, Role,
    Seek, XattrFlags,
};

/// The trait attribute that room authors put over their `impl Translator`.
pub use async_trait::async_trait;
