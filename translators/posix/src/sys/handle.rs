use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use super::outcome;

/// `MAX_HANDLE_SZ`
const MAX: usize = 128;

/// `struct file_handle` with room for the longest.
#[repr(C)]
pub(crate) struct RawHandle {
    len: u32,
    kind: i32,
    bytes: [u8; MAX],
}

impl RawHandle {
    /// EOVERFLOW when there are more than 128 bytes.
    pub(crate) fn new(kind: u8, bytes: &[u8]) -> Result<RawHandle> {
        let mut raw = RawHandle {
            len: bytes.len() as u32,
            kind: i32::from(kind),
            bytes: [0; MAX],
        };
        raw.bytes
            .get_mut(..bytes.len())
            .ok_or(Errno::OVERFLOW)?
            .copy_from_slice(bytes);
        Ok(raw)
    }

    /// The kind that the file system gave it.
    pub(crate) fn kind(&self) -> i32 {
        self.kind
    }

    /// The file system's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len as usize).unwrap_or_default()
    }
}

/// name_to_handle_at(2) of the object behind a descriptor, which may be `O_PATH`: its handle and
/// the id of the mount that it was reached by.
pub(crate) fn name_to_handle_at(fd: BorrowedFd<'_>) -> Result<(RawHandle, i32)> {
    let mut raw = RawHandle {
        len: MAX as u32,
        kind: 0,
        bytes: [0; MAX],
    };
    let mut mount: libc::c_int = 0;
    // SAFETY: `raw` has the layout of `struct file_handle` and says truly how long it is; both
    // pointers live through the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut raw,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    outcome(returned).map(|_| (raw, mount))
}

/// How often a handle is tried whose inode number is just being given to another object.
const TRIES: u32 = 200;

/// open_by_handle_at(2), by the mount that `mount` (not an `O_PATH` descriptor) is on.
///
/// While an object is being made that gets the number of one that is gone, ext4 answers ENOMEM for
/// the handle of the latter (`iget_locked` in the kernel's fs/inode.c has no inode to give). A moment
/// later it is ESTALE, as everywhere.
pub(crate) fn open_by_handle_at(
    mount: BorrowedFd<'_>,
    handle: &RawHandle,
    flags: OFlags,
) -> Result<OwnedFd> {
    let mut tries = 0;
    loop {
        match open_once(mount, handle, flags) {
            Err(Errno::NOMEM) if tries < TRIES => tries += 1,
            answer => return answer,
        }
        if tries < TRIES / 4 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn open_once(mount: BorrowedFd<'_>, handle: &RawHandle, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    // SAFETY: `handle` has the layout of `struct file_handle` and the kernel only reads it.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw const *handle,
            flags.bits() as libc::c_int,
        )
    };
    let fd = outcome(returned)?;
    // SAFETY: the kernel just made this descriptor for us; nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
