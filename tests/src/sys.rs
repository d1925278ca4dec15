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
    lock_call(file, command, kind, start, len).map(drop)
}

/// The same, waiting for it.
pub fn range_lock_wait(
    file: &File,
    family: RangeLock,
    kind: i32,
    start: i64,
    len: i64,
) -> io::Result<()> {
    let command = match family {
        RangeLock::Process => libc::F_SETLKW,
        RangeLock::OpenFile => libc::F_OFD_SETLKW,
    };
    lock_call(file, command, kind, start, len).map(drop)
}

/// Who is in the way of a lock: kind, start, length and process.
pub fn holder(
    file: &File,
    family: RangeLock,
    kind: i32,
    start: i64,
    len: i64,
) -> io::Result<Option<(i32, i64, i64, i32)>> {
    let command = match family {
        RangeLock::Process => libc::F_GETLK,
        RangeLock::OpenFile => libc::F_OFD_GETLK,
    };
    let found = lock_call(file, command, kind, start, len)?;
    let kind = i32::from(found.l_type);
    Ok((kind != libc::F_UNLCK).then_some((kind, found.l_start, found.l_len, found.l_pid)))
}

fn lock_call(
    file: &File,
    command: i32,
    kind: i32,
    start: i64,
    len: i64,
) -> io::Result<libc::flock> {
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // SAFETY: `file` is open, and `lock`, which the kernel reads and writes, lives through the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock),
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Has SIGALRM interrupt what waits; with `restart` the call is made again afterwards.
pub fn handle_alarms(restart: bool) -> io::Result<()> {
    // SAFETY: all zeros is a `sigaction` without flags and with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
    // SAFETY: `action` lives through the call, and its handler does nothing at all.
    match unsafe { libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives this thread a network of its own, with nothing in it.
pub fn leave_network() -> io::Result<()> {
    // SAFETY: the table of open files is not left, and nothing else of this flag is about memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET)? };
    Ok(())
}

/// Switches a network device of this thread's network on or off.
pub fn switch_device(name: &str, on: bool) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    // SAFETY: all zeros is an `ifreq` with an empty name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    let places = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    for (place, byte) in places.zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    let up = libc::IFF_UP as libc::c_short;
    for set in [false, true] {
        let call = if set {
            // SAFETY: the kernel filled in the flags at the first turn.
            let flags = unsafe { request.ifr_ifru.ifru_flags };
            request.ifr_ifru.ifru_flags = if on { flags | up } else { flags & !up };
            libc::SIOCSIFFLAGS
        } else {
            libc::SIOCGIFFLAGS
        };
        // SAFETY: both calls read and write one `ifreq`, which lives through them.
        if unsafe { libc::ioctl(socket.as_raw_fd(), call, &mut request) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Does something on a thread that a mount sees as this user, of the group with the same number.
pub fn as_user<T: Send>(id: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            // SAFETY: both take plain numbers and concern this thread alone, which ends afterwards.
            unsafe {
                libc::setfsgid(id);
                libc::setfsuid(id);
            }
            work()
        });
        user.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A piece of a file's space, as `FS_IOC_FIEMAP` tells it: first byte, length, and whether nothing has been
/// written there.
pub type Piece = (u64, u64, bool);

/// The pieces of a file's space, written out first; those that go on behind each other as one.
pub fn space_of(file: &File) -> io::Result<Vec<Piece>> {
    const EXTENTS: usize = 512;
    let mut map = vec![0u64; 4 + EXTENTS * 7];
    map[1] = u64::MAX;
    map[2] = 1; // FIEMAP_FLAG_SYNC
    map[3] = EXTENTS as u64;
    // SAFETY: a `struct fiemap` with room for as many extents as it says, which lives through the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), 0xC020_660B, map.as_mut_ptr()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let told = (map[2] >> 32) as usize;
    let mut pieces: Vec<Piece> = Vec::new();
    for extent in map[4..].chunks(7).take(told) {
        let (at, len, unwritten) = (extent[0], extent[2], extent[5] & 0x800 != 0);
        match pieces.last_mut() {
            Some(last) if last.0 + last.1 == at && last.2 == unwritten => last.1 += len,
            _ => pieces.push((at, len, unwritten)),
        }
    }
    Ok(pieces)
}

/// Freezes the file system of a file, and thaws it again.
pub fn freeze_and_thaw(file: &File) -> io::Result<()> {
    const FIFREEZE: libc::c_ulong = 0xC004_5877;
    const FITHAW: libc::c_ulong = 0xC004_5878;
    for call in [FIFREEZE, FITHAW] {
        let mut nothing = 0;
        // SAFETY: neither call reads or writes more than the integer that is given, if that.
        if unsafe { libc::ioctl(file.as_raw_fd(), call as _, &raw mut nothing) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Asks for a handle of what is open, as servers do that hand it out (name_to_handle_at(2)).
pub fn can_give_handles(file: &File) -> io::Result<()> {
    let mut handle = [0u32; 34];
    handle[0] = 128;
    let mut mount = 0;
    // SAFETY: `handle` is a `struct file_handle` with room for 128 bytes, as it says.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            c"".as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes a detached mount of a directory in which other owners are shown, as containers do; `namespace`
/// is an open user namespace.
pub fn can_be_idmapped(directory: &std::path::Path, namespace: &File) -> io::Result<()> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, directory, flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    // SAFETY: the structure lives through the call and its size is said.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
