use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use hermitfs_api::Extent;
use rustix::io::{Errno, Result};
use rustix::ioctl::opcode;

use super::outcome;

/// `struct fiemap` without the extents that follow it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Header {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Raw {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// As many as are asked for in one call.
const ROOM: usize = 256;

#[repr(C)]
struct Map {
    header: Header,
    extents: [Raw; ROOM],
}

const LAST: u32 = 0x1;
const UNKNOWN: u32 = 0x2;
const DELALLOC: u32 = 0x4;
const DATA_INLINE: u32 = 0x200;
const UNWRITTEN: u32 = 0x800;
const SHARED: u32 = 0x2000;

/// `FS_IOC_FIEMAP` from an offset on, without writing anything out first (ioctl_fiemap(2) is in the
/// kernel's Documentation/filesystems/fiemap.rst): some extents, and whether there are more.
pub(crate) fn extents(fd: BorrowedFd<'_>, from: u64) -> Result<(Vec<Extent>, bool)> {
    let mut map = Box::new(Map {
        header: Header {
            start: from,
            length: u64::MAX - from,
            count: ROOM as u32,
            ..Header::default()
        },
        extents: [Raw::default(); ROOM],
    });
    let call = opcode::read_write::<Header>(b'f', 11);
    // SAFETY: `map` is laid out as the kernel's struct with `count` extents behind it, and lives through
    // the call.
    let returned = unsafe { libc::ioctl(fd.as_raw_fd(), call as _, &raw mut *map) };
    outcome(returned.into())?;
    let told = map.extents.iter().take(map.header.mapped as usize);
    let more = told.len() == ROOM && told.clone().all(|raw| raw.flags & LAST == 0);
    let extents = told.filter(|raw| raw.length > 0).map(|raw| Extent {
        at: raw.logical,
        len: raw.length,
        place: (raw.flags & (UNKNOWN | DELALLOC | DATA_INLINE) == 0).then_some(raw.physical),
        // What waits for its place in the page cache has been written.
        unwritten: raw.flags & UNWRITTEN != 0 && raw.flags & DELALLOC == 0,
        shared: raw.flags & SHARED != 0,
    });
    Ok((extents.collect(), more))
}

/// `struct file_clone_range`
#[repr(C)]
struct Range {
    from: i64,
    from_at: u64,
    len: u64,
    to_at: u64,
}

/// `FICLONERANGE`. A length of 0 would be the whole file.
pub(crate) fn clone_range(
    (from, from_at): (BorrowedFd<'_>, u64),
    (to, to_at): (BorrowedFd<'_>, u64),
    len: u64,
) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    let range = Range {
        from: from.as_raw_fd().into(),
        from_at,
        len,
        to_at,
    };
    let call = opcode::write::<Range>(0x94, 13);
    // SAFETY: the kernel reads `range`, which has its layout and lives through the call.
    let returned = unsafe { libc::ioctl(to.as_raw_fd(), call as _, &raw const range) };
    outcome(returned.into()).map(drop)
}

/// `struct fsxattr`
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    rest: [u32; 6],
}

/// Whether users have reserved space in this file, where its file system makes a note of it
/// (`FS_XFLAG_PREALLOC`, ioctl_xfs_fsgetxattr(2)).
pub(crate) fn has_reserved(fd: BorrowedFd<'_>) -> Result<bool> {
    const PREALLOC: u32 = 0x2;
    const { assert!(size_of::<Attributes>() == 28) };
    let mut attributes = Attributes::default();
    let call = opcode::read::<Attributes>(b'X', 31);
    // SAFETY: the kernel fills `attributes`, which has its layout and lives through the call.
    let returned = unsafe { libc::ioctl(fd.as_raw_fd(), call as _, &raw mut attributes) };
    match outcome(returned.into()) {
        Ok(_) => Ok(attributes.flags & PREALLOC != 0),
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}
