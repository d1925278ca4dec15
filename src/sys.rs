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

/// No signal is blocked, and none is ignored but those that tell of what a call has said already: a
/// closed pipe, a file that may not grow. A handler that somebody has installed stays. To be called
/// before there are threads.
pub(crate) fn reset_signals() {
    const QUIET: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: an action of zeros is valid; both calls get pointers to it, or none. A signal that
        // cannot be had (KILL, STOP, those of the C library) is refused, and nothing happens.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) != 0 {
                continue;
            }
            let ignored = action.sa_sigaction == libc::SIG_IGN;
            let wanted = match QUIET.contains(&signal) {
                true => libc::SIG_IGN,
                false => libc::SIG_DFL,
            };
            if ignored || QUIET.contains(&signal) {
                action.sa_sigaction = wanted;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
    // SAFETY: the set is made by sigemptyset(3) before it is used, and lives through the call.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Gives this thread the processor and the disks as to everybody: no idle, batch or real-time class.
/// To be called before there are other threads, which have it from this one.
pub(crate) fn schedule_as_others() {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    /// The class follows the processor's.
    const NONE: libc::c_int = 0;
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: both calls take numbers and one structure that lives through them; 0 is this thread.
    // A refusal changes nothing.
    unsafe {
        if libc::sched_getscheduler(0) != libc::SCHED_OTHER {
            libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary);
        }
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, NONE);
    }
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
    change(mount, set, clear, 0)
}

/// Takes the mount behind a descriptor out of its peer group: nothing that is mounted elsewhere
/// comes here.
pub(crate) fn make_private(mount: impl AsFd) -> io::Result<()> {
    change(mount, 0, 0, libc::MS_PRIVATE)
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

/// Sets and clears attributes (`MOUNT_ATTR_...`) of the mount behind a descriptor.
pub(crate) fn set_attributes(mount: impl AsFd, set: u64, clear: u64) -> io::Result<()> {
    change(mount, set, clear, 0)
}

fn change(mount: impl AsFd, set: u64, clear: u64, propagation: u64) -> io::Result<()> {
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
