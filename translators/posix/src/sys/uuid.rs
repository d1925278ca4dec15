use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;

use super::outcome;

/// `struct fsuuid2` of linux/fs.h.
#[repr(C)]
struct FsUuid {
    len: u8,
    uuid: [u8; 16],
}

/// `FS_IOC_GETFSUUID`: `_IOR(0x15, 0, struct fsuuid2)`, as most architectures number ioctls.
const FS_IOC_GETFSUUID: u32 = (2 << 30) | ((size_of::<FsUuid>() as u32) << 16) | (0x15 << 8);

/// The file system's UUID. ENOTTY where the kernel (before 6.9) or the file system does not tell.
pub(crate) fn file_system_uuid(fd: BorrowedFd<'_>) -> Result<[u8; 16]> {
    let mut told = FsUuid {
        len: 0,
        uuid: [0; 16],
    };
    // SAFETY: the structure is what this request number says, and lives through the call.
    let returned = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFSUUID as _, &raw mut told) };
    outcome(returned.into()).map(|_| told.uuid)
}
