//! The few system calls that neither std nor rustix offer safely.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use rustix::mm::{Advice, MapFlags, MprotectFlags, MsyncFlags, ProtFlags};

/// A shared mapping of a file's first bytes.
pub struct Mapping {
    at: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes (more than 0) from the file's start, to be written unless `read_only`.
    pub fn new(file: &File, len: usize, read_only: bool) -> io::Result<Mapping> {
        let prot = if read_only {
            ProtFlags::READ
        } else {
            ProtFlags::READ | ProtFlags::WRITE
        };
        // SAFETY: a new mapping at an address that the kernel picks; `Drop` unmaps it.
        let at =
            unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, file, 0)? };
        Ok(Mapping { at, len })
    }

    /// Faults the pages of a range in for writing, so that a dead mount is an error and no SIGBUS.
    pub fn populate(&self, at: usize, len: usize) -> io::Result<()> {
        let page = at / 4096 * 4096;
        let end = (at + len).min(self.len);
        // SAFETY: the range lies within the mapping, and populating changes no byte of it.
        unsafe {
            rustix::mm::madvise(
                self.at.byte_add(page),
                end - page,
                Advice::LinuxPopulateWrite,
            )?
        };
        Ok(())
    }

    /// Stores bytes into the mapping.
    pub fn store(&mut self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= self.len, "a store beyond the mapping");
        // SAFETY: in bounds as just checked; nothing else in this process refers to the mapping.
        unsafe {
            ptr::copy_nonoverlapping(data.as_ptr(), self.at.cast::<u8>().add(at), data.len())
        };
    }

    /// Loads bytes from the mapping.
    pub fn load(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len, "a load beyond the mapping");
        let mut data = vec![0; len];
        // SAFETY: in bounds as just checked; `data` is memory of our own.
        unsafe { ptr::copy_nonoverlapping(self.at.cast::<u8>().add(at), data.as_mut_ptr(), len) };
        data
    }

    /// msync(2) of all of it.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the mapping that `new` made.
        unsafe { rustix::mm::msync(self.at, self.len, MsyncFlags::SYNC)? };
        Ok(())
    }

    /// Makes it writable where the file was opened so.
    pub fn writable(&self) -> io::Result<()> {
        let prot = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: exactly the mapping that `new` made; more rights invalidate no reference.
        unsafe { rustix::mm::mprotect(self.at, self.len, prot)? };
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made, and `self` is its only owner.
        let _ = unsafe { rustix::mm::munmap(self.at, self.len) };
    }
}

/// Which family of byte-range locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeLock {
    /// `F_SETLK`: the process owns it.
    Process,
    /// `F_OFD_SETLK`: the open file owns it.
    OpenFile,
}

/// Takes (or with `F_UNLCK` drops) a lock on `len` bytes; EAGAIN when somebody else has it.
pub fn range_lock(
    file: &File,
    family: RangeLock,
    kind: i32,
    start: i64,
    len: i64,
) -> io::Result<()> {
    let command = match family {
        RangeLock::Process => libc::F_SETLK,
        RangeLock::OpenFile => libc::F_OFD_SETLK,
    };
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // SAFETY: `file` is open, and the kernel only reads `lock`, which lives through the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
