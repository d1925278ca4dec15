//! The system calls that no crate offers without `unsafe`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Closes whatever was inherited beyond the standard streams: a lock or a pipe that a daemon kept
/// would hold up whoever waits for it. To be called before anything else is opened.
pub(crate) fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: no descriptor of this range is owned by anything in this process yet: it has just
    // been started, and opened nothing. Where the kernel has no such call (before 5.9) nothing
    // happens.
    unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
}

/// Makes the mount behind a descriptor read-only, or writable again: mount_setattr(2). EBUSY while
/// anybody has a file open for writing through it. Other mounts of the file system stay as they
/// are.
pub(crate) fn set_read_only(mount: impl AsFd, read_only: bool) -> io::Result<()> {
    let (set, clear) = match read_only {
        true => (libc::MOUNT_ATTR_RDONLY, 0),
        false => (0, libc::MOUNT_ATTR_RDONLY),
    };
    set_attributes(mount, set, clear, 0)
}

/// Takes the mount behind a descriptor out of its peer group: nothing that is mounted elsewhere
/// comes here.
pub(crate) fn make_private(mount: impl AsFd) -> io::Result<()> {
    set_attributes(mount, 0, 0, libc::MS_PRIVATE)
}

fn set_attributes(mount: impl AsFd, set: u64, clear: u64, propagation: u64) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation,
        userns_fd: 0,
    };
    // SAFETY: the structure lives through the call and its size is said; the descriptor is
    // borrowed, and the path is a literal with its NUL.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match returned {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
