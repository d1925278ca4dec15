use std::os::fd::{AsRawFd, BorrowedFd};

use hermitfs_api::{Lock, LockKind};
use rustix::io::Result;

use super::outcome;

/// `F_OFD_SETLK`: takes or drops a lock on a range, owned by the open file. EAGAIN when somebody
/// else has it.
pub(crate) fn lock_range(fd: BorrowedFd<'_>, lock: &Lock) -> Result<()> {
    let kind = match lock.kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    // A length of 0 reaches to the end of any file.
    let len = lock
        .end
        .checked_sub(lock.start)
        .and_then(|len| len.checked_add(1));
    // SAFETY: all zeros is a valid value of this plain struct.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = lock.start as libc::off_t;
    range.l_len = len
        .and_then(|len| libc::off_t::try_from(len).ok())
        .unwrap_or(0);
    // SAFETY: the kernel reads `range`, which lives through the call.
    let returned = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &range) };
    outcome(returned.into()).map(drop)
}
