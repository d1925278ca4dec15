use hermitfs_api::{Attr, Kind, Time};
use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp, makedev, statx};
use rustix::io::{Errno, Result};
use std::os::fd::AsFd;

/// What is asked of statx(2) each time.
pub(crate) fn wanted() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID
}

/// statx(2) of what a descriptor, which may be `O_PATH`, stands for.
pub(crate) fn stat(fd: impl AsFd) -> Result<Statx> {
    statx(fd, c"", AtFlags::EMPTY_PATH, wanted())
}

/// EIO for an object of a kind that Linux has not got.
pub(crate) fn attr(stat: &Statx) -> Result<Attr> {
    let mode = u32::from(stat.stx_mode);
    let btime = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(Attr {
        ino: stat.stx_ino,
        dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
        kind: Kind::from_mode(mode).ok_or(Errno::IO)?,
        mode: mode & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        blksize: stat.stx_blksize,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        btime: btime.then(|| time(stat.stx_btime)),
    })
}

fn time(time: StatxTimestamp) -> Time {
    Time::new(time.tv_sec, time.tv_nsec)
}
