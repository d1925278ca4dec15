use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;

use super::outcome;

/// fchmodat2(2) of the object behind a descriptor, which may be `O_PATH`.
/// ENOSYS before Linux 6.6, EOPNOTSUPP for symbolic links.
pub(crate) fn fchmodat2(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    // SAFETY: the descriptor is borrowed for the call, the path is a NUL-terminated literal.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_fchmodat2,
            fd.as_raw_fd(),
            c"".as_ptr(),
            mode,
            libc::AT_EMPTY_PATH,
        )
    };
    outcome(returned).map(drop)
}
