//! Placeholders: what btrfs shows in a snapshot where the original has another subvolume.
//!
//! It is an empty directory that has a name and is no object. All of a file system have one number and one
//! handle, which leads nowhere. So each is known by the directory that it is in, and its name there: it can
//! be removed, but not moved. Its times are of when it was looked at first.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hermitfs_api::{Attr, Kind, Name, NameBuf};
use rustix::fs::{Mode, OFlags, fstatfs, openat, readlink};
use rustix::io::{Errno, Result};

use crate::attr::{attr, stat};
use crate::handle::FileHandle;
use crate::sys;
use crate::view::{LOOK, View, proc_path};

/// `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`
const NUMBER: u64 = 2;

/// `BTRFS_SUPER_MAGIC`
const BTRFS: u64 = 0x9123_683e;

/// Whether an object is one. (Number 2 is the root of other file systems.)
pub(crate) fn is_one(fd: BorrowedFd<'_>, attr: &Attr) -> Result<bool> {
    Ok(attr.ino == NUMBER && attr.kind == Kind::Directory && fstatfs(fd)?.f_type as u64 == BTRFS)
}

/// Where it is. ESTALE when it has been removed.
pub(crate) fn handle(fd: BorrowedFd<'_>) -> Result<FileHandle> {
    let above = openat(fd, c"..", LOOK, Mode::empty())?;
    let path = readlink(proc_path(fd), Vec::new())?;
    let name = path.as_bytes().rsplit(|&b| b == b'/').next();
    let name = NameBuf::new(name.unwrap_or_default()).map_err(|_| Errno::STALE)?;
    // The path of what was removed tells another name.
    let there = openat(&above, name.as_bytes(), LOOK, Mode::empty()).map_err(gone)?;
    if !is_one(there.as_fd(), &attr(&stat(&there)?)?)? {
        return Err(Errno::STALE);
    }
    let (dir, _) = sys::name_to_handle_at(above.as_fd())?;
    let place = (FileHandle::keep(&dir)?, name);
    Ok(FileHandle::Placeholder(place.into()))
}

/// Opens the one that is there. ESTALE when there is none.
pub(crate) fn open(view: &View, dir: &FileHandle, name: &Name, flags: OFlags) -> Result<OwnedFd> {
    let above = view.by_handle(dir, LOOK)?;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let there = openat(&above, name.as_bytes(), LOOK, Mode::empty()).map_err(gone)?;
    if !is_one(there.as_fd(), &attr(&stat(&there)?)?)? {
        return Err(Errno::STALE);
    }
    match flags.contains(OFlags::PATH) {
        true => Ok(there),
        false => openat(&there, c".", flags, Mode::empty()),
    }
}

fn gone(error: Errno) -> Errno {
    match error {
        Errno::NOENT | Errno::NOTDIR => Errno::STALE,
        error => error,
    }
}
