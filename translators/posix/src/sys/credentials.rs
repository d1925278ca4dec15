use rustix::io::{Errno, Result};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `(uid_t) -1`: changes nothing, and tells what is set.
const ASK: u32 = u32::MAX;

/// setfsuid(2) of this thread alone. Going from 0 to another takes the file system's
/// capabilities (`CAP_FSETID`, `CAP_DAC_OVERRIDE` ...) out of the effective set; coming back to
/// 0 puts them in again. EPERM when the kernel did not do it: the call itself never says.
pub(crate) fn set_fs_uid(uid: u32) -> Result<()> {
    // SAFETY: takes a number, touches no memory.
    let now = unsafe {
        libc::setfsuid(uid);
        libc::setfsuid(ASK)
    };
    if now as u32 == uid {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

/// setfsgid(2) of this thread alone. EPERM when the kernel did not do it.
pub(crate) fn set_fs_gid(gid: u32) -> Result<()> {
    // SAFETY: takes a number, touches no memory.
    let now = unsafe {
        libc::setfsgid(gid);
        libc::setfsgid(ASK)
    };
    if now as u32 == gid {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

/// Gives this thread a umask (and working directory) of its own.
pub(crate) fn unshare_fs() -> Result<()> {
    // SAFETY: FS alone; descriptors stay shared by all threads.
    unsafe { unshare_unsafe(UnshareFlags::FS) }
}
