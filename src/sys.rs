//! The one system call that no crate offers without `unsafe`.

/// Closes whatever was inherited beyond the standard streams: a lock or a pipe that a daemon kept
/// would hold up whoever waits for it. To be called before anything else is opened.
pub(crate) fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: no descriptor of this range is owned by anything in this process yet: it has just
    // been started, and opened nothing. Where the kernel has no such call (before 5.9) nothing
    // happens.
    unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
}
