use std::os::fd::{IntoRawFd, OwnedFd};

use rustix::io::Result;

use super::outcome;

/// close(2), and what the file system said about it. Dropping a descriptor does not tell.
pub(crate) fn close(fd: OwnedFd) -> Result<()> {
    // SAFETY: the descriptor was ours and is given up here; Linux frees its number even when
    // close fails, so it is closed once.
    let returned = unsafe { libc::close(fd.into_raw_fd()) };
    outcome(returned.into()).map(drop)
}
