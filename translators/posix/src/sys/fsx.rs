use std::os::fd::{AsRawFd, BorrowedFd};

use hermitfs_api::Fsx;
use rustix::io::{Errno, Result};

use super::outcome;

/// `struct fsxattr`, as bytes that are aligned as it is.
#[repr(C, align(4))]
struct Raw([u8; Fsx::SIZE]);

/// `FS_IOC_FSGETXATTR`: `_IOR('X', 31, struct fsxattr)`, as most architectures number ioctls.
const FS_IOC_FSGETXATTR: u32 = (2 << 30) | ((Fsx::SIZE as u32) << 16) | (0x58 << 8) | 31;

/// `FS_IOC_FSSETXATTR`: `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSSETXATTR: u32 = (1 << 30) | ((Fsx::SIZE as u32) << 16) | (0x58 << 8) | 32;

/// Extended flags, hints and project. ENOTTY where the file system has none.
pub(crate) fn get_fsx(fd: BorrowedFd<'_>) -> Result<Fsx> {
    let mut told = Raw([0; Fsx::SIZE]);
    // SAFETY: the structure has the size in the request's number, and lives through the call.
    let returned = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut told) };
    outcome(returned.into())?;
    Fsx::from_bytes(&told.0).ok_or(Errno::INVAL)
}

/// Sets them.
pub(crate) fn set_fsx(fd: BorrowedFd<'_>, fsx: &Fsx) -> Result<()> {
    let raw = Raw(fsx.to_bytes());
    // SAFETY: the structure has the size in the request's number, and lives through the call, which only reads it.
    let returned = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSSETXATTR as _, &raw const raw) };
    outcome(returned.into()).map(drop)
}
