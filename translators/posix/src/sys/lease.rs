use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Result;

use super::outcome;

/// fcntl(2); libc does not name it for every target.
const F_SETSIG: libc::c_int = 10;

/// Takes a read lease. EAGAIN while anybody has the file open for writing or mapped writable.
///
/// When somebody opens the file for writing before the lease is dropped, the kernel sends a
/// signal to this process and lets him wait: it is made SIGURG, which is ignored unless somebody
/// asked for it, instead of SIGIO, which kills.
pub(crate) fn take_read_lease(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: integers alone.
    let returned = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, libc::SIGURG) };
    outcome(returned.into())?;
    // SAFETY: integers alone.
    let returned = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    outcome(returned.into()).map(drop)
}

/// Drops it.
pub(crate) fn drop_lease(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: integers alone.
    let returned = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    outcome(returned.into()).map(drop)
}
