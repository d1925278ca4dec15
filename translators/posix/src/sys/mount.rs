use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;

use super::outcome;

/// mount_setattr(2): makes a mount of our own read-only, without access times, devices, programs
/// and set-id bits. Other mounts of the file system stay as they are.
pub(crate) fn make_quiet(mount: BorrowedFd<'_>) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOATIME
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC
            | libc::MOUNT_ATTR_NOSUID,
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the structure lives through the call and its size is said.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    outcome(returned).map(drop)
}
