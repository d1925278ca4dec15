use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;

use super::outcome;

/// Makes a mount of our own read-only, without access times, devices, programs and set-id bits.
/// Other mounts of the file system stay as they are.
pub(crate) fn make_quiet(mount: BorrowedFd<'_>) -> Result<()> {
    let set = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOATIME
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC
        | libc::MOUNT_ATTR_NOSUID;
    set_attributes(mount, set, libc::MOUNT_ATTR__ATIME, 0)
}

/// Makes a mount of our own read-only or not, or leaves that as it is, and takes it out of its peer
/// group.
pub(crate) fn make_own(
    mount: BorrowedFd<'_>,
    read_only: Option<bool>,
    no_atime: bool,
) -> Result<()> {
    let (mut set, mut clear) = match read_only {
        None => (0, 0),
        Some(true) => (libc::MOUNT_ATTR_RDONLY, 0),
        Some(false) => (0, libc::MOUNT_ATTR_RDONLY),
    };
    if no_atime {
        set |= libc::MOUNT_ATTR_NOATIME;
        clear |= libc::MOUNT_ATTR__ATIME;
    }
    set_attributes(mount, set, clear, libc::MS_PRIVATE)
}

/// mount_setattr(2).
fn set_attributes(mount: BorrowedFd<'_>, set: u64, clear: u64, propagation: u64) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation,
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
