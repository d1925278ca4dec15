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

/// Keeps what is freed for the next buffer. A call over the wire has several of a MiB; glibc would give each of them back
/// to the kernel and have its pages made anew for the next call, which costs more than to encrypt
/// them. To be called before there are threads.
pub(crate) fn keep_freed() {
    /// At the end of each of glibc's arenas.
    #[cfg(target_env = "gnu")]
    const KEPT: libc::c_int = 8 << 20;
    /// What is longer than this is given back at once.
    #[cfg(target_env = "gnu")]
    const LONG: libc::c_int = 4 << 20;
    // SAFETY: mallopt(3) takes two numbers and changes no memory that is in use. When it refuses
    // one, glibc's own limits stay.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LONG);
    }
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

/// Lets others at the processor soon while this thread works: its slices become a tenth of a
/// millisecond, so that whoever wakes up waits no longer for it (sched_setattr(2), as of Linux
/// 6.12; what is older goes on as before). Its share of the processor stays what it was.
pub(crate) fn give_way_soon() {
    const SLICE: u64 = 100_000;
    let Ok(nice) = rustix::process::getpriority_process(None) else {
        return;
    };
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure lives through the call and says its size; 0 is this thread. A refusal
    // changes nothing.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
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

#[cfg(test)]
mod tests {
    /// Pages that this thread had made for it.
    #[cfg(target_env = "gnu")]
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(7).unwrap().parse().unwrap()
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn the_buffers_of_one_call_serve_the_next() {
        const MIB: usize = 1 << 20;
        const CALLS: usize = 50;
        super::keep_freed();
        let call = || {
            let buffers: Vec<Vec<u8>> = (0..4).map(|_| vec![1; MIB]).collect();
            drop(std::hint::black_box(buffers));
        };
        (0..3).for_each(|_| call());
        let before = faults();
        (0..CALLS).for_each(|_| call());
        let made = faults() - before;
        // Made anew each time they would be a thousand in each call.
        assert!(made < CALLS as u64 * 20, "{made} pages for {CALLS} calls");
    }
}
