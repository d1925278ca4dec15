//! Doing a thing as the one who asked for it, so that the brick's file system itself gives the
//! object its owner, charges quotas, honours setgid directories and default ACLs, and takes
//! set-id bits and capabilities away.
//!
//! Credentials and umask are per thread in Linux. Each guard here puts back what it changed, so
//! that whatever runs on the thread next is hermitfs again.

use std::cell::Cell;

use hermitfs_api::Context;
use rustix::fs::Mode;
use rustix::io::{Errno, Result};
use rustix::process::{Gid, getgroups, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups,
};

use crate::sys;

thread_local! {
    static OWN_UMASK: Cell<bool> = const { Cell::new(false) };
    static NO_UMASK: Cell<bool> = const { Cell::new(false) };
    static WITHOUT_RESERVE: Cell<bool> = const { Cell::new(false) };
}

/// What comes back when the thing is done.
#[derive(Default)]
pub(crate) struct Guard {
    uid: bool,
    gid: bool,
    groups: Option<Vec<Gid>>,
    umask: Option<Mode>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The user id first: it brings the capabilities back that the others may need. That the
        // kernel refuses to make root of root's thread does not happen.
        if self.uid {
            let _ = sys::set_fs_uid(0);
        }
        if self.gid {
            let _ = sys::set_fs_gid(0);
        }
        if let Some(groups) = &self.groups {
            let _ = set_thread_groups(groups);
        }
        if let Some(before) = self.umask {
            umask(before);
        }
    }
}

/// Writes, truncates, allocates as the caller: what matters for what falls off a file then is
/// whether `CAP_FSETID` is there and, for a set-gid bit without the group's x, which group he is
/// of; for the reserve, who it is. Supplementary groups, which would have to be read for each
/// write, are left out.
pub(crate) fn writing(cx: &Context) -> Result<Guard> {
    let mut guard = Guard::default();
    if cx.uid != 0 {
        give_up_reserve()?;
        if cx.gid != 0 {
            guard.gid = true;
            sys::set_fs_gid(cx.gid)?;
        }
        guard.uid = true;
        sys::set_fs_uid(cx.uid)?;
    }
    Ok(guard)
}

/// Makes something as the caller, with his umask. `attempt` is called with his own rights, and
/// once more with those that the kernel has found him to have where they are not enough.
///
/// `groups`: whether his supplementary groups matter (a set-gid file that he makes in a set-gid
/// directory keeps the bit only if he is of the group).
pub(crate) fn making<T>(
    cx: &Context,
    mask: Option<u32>,
    groups: bool,
    attempt: impl Fn() -> Result<T>,
) -> Result<T> {
    if !cx.origin.is_internal() {
        give_up_reserve()?;
    }
    let mut guard = Guard::default();
    if cx.origin.is_internal() && mask == Some(0) {
        no_umask()?;
    } else if let Some(mask) = mask {
        own_umask()?;
        guard.umask = Some(umask(Mode::from_raw_mode(mask & 0o777)));
    }
    let guard = become_caller(cx, groups, guard)?;
    match attempt() {
        Err(Errno::ACCESS | Errno::PERM) if guard.uid => {
            grant()?;
            attempt()
        }
        made => made,
    }
}

/// Does something to an object as the caller, who the kernel has found to own it.
pub(crate) fn owning<T>(cx: &Context, attempt: impl Fn() -> Result<T>) -> Result<T> {
    let guard = become_caller(cx, cx.uid != 0, Guard::default())?;
    if guard.uid {
        grant()?;
    }
    attempt()
}

fn become_caller(cx: &Context, groups: bool, mut guard: Guard) -> Result<Guard> {
    if groups && cx.uid != 0 {
        guard.groups = Some(getgroups()?);
        set_thread_groups(&groups_of(cx.pid))?;
    }
    if cx.gid != 0 {
        guard.gid = true;
        sys::set_fs_gid(cx.gid)?;
    }
    if cx.uid != 0 {
        guard.uid = true;
        sys::set_fs_uid(cx.uid)?;
    }
    Ok(guard)
}

/// What the kernel has checked already comes back on top of the caller's own rights. Not
/// `CAP_FSETID`, `CAP_CHOWN` and `CAP_SYS_RESOURCE`: those change what comes out.
fn grant() -> Result<()> {
    let now = capabilities(None)?;
    let granted = CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::MKNOD;
    let effective = now.effective | (granted & now.permitted);
    set_capabilities(None, CapabilitySets { effective, ..now })
}

/// `CAP_SYS_RESOURCE` would let users' data into the blocks that are reserved for root, and over
/// their quotas. A thread that has worked for users does without it from then on.
pub(crate) fn give_up_reserve() -> Result<()> {
    if WITHOUT_RESERVE.get() {
        return Ok(());
    }
    let now = capabilities(None)?;
    if now.effective.contains(CapabilitySet::SYS_RESOURCE) {
        let effective = now.effective - CapabilitySet::SYS_RESOURCE;
        set_capabilities(None, CapabilitySets { effective, ..now })?;
    }
    WITHOUT_RESERVE.set(true);
    Ok(())
}

/// A umask is shared by a process' threads until they say otherwise.
fn own_umask() -> Result<()> {
    if !OWN_UMASK.get() {
        sys::unshare_fs()?;
        OWN_UMASK.set(true);
    }
    Ok(())
}

/// None at all, which a thread of our own then keeps: what it makes says all of the mode.
fn no_umask() -> Result<()> {
    if !NO_UMASK.get() {
        own_umask()?;
        umask(Mode::empty());
        NO_UMASK.set(true);
    }
    Ok(())
}

/// Supplementary groups of a process that is waiting for our answer; none if it is unknown.
fn groups_of(pid: u32) -> Vec<Gid> {
    if pid == 0 {
        return Vec::new();
    }
    match std::fs::read(format!("/proc/{pid}/status")) {
        Ok(status) => parse_groups(&status),
        Err(_) => Vec::new(),
    }
}

fn parse_groups(status: &[u8]) -> Vec<Gid> {
    let Some(line) = status
        .split(|&b| b == b'\n')
        .find_map(|line| line.strip_prefix(b"Groups:"))
    else {
        return Vec::new();
    };
    line.split(|b| b.is_ascii_whitespace())
        .filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
        .map(Gid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_a_status() {
        let status = b"Name:\tcat\nGroups:\t4 24 1000 \nNStgid:\t1\n";
        assert_eq!(parse_groups(status), [4, 24, 1000].map(Gid::from_raw));
        assert_eq!(parse_groups(b"Groups:\t \n"), []);
        assert_eq!(parse_groups(b""), []);
    }
}
