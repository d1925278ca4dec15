//! What is found out about a brick when it is opened.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, Statx, makedev, openat};
use rustix::io::Result;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::attr::stat;
use crate::handle::{FileHandle, Fingerprint};
use crate::identities::magic;
use crate::options::OwnMount;
use crate::sys;
use crate::view::{LIST, LOOK};

/// The root's handle, if it leads back to the root.
pub(crate) fn probe_handles(root: BorrowedFd<'_>) -> Option<FileHandle> {
    let (raw, _) = sys::name_to_handle_at(root).ok()?;
    let again = stat(sys::open_by_handle_at(root, &raw, LOOK).ok()?).ok()?;
    let root = stat(root).ok()?;
    let same = again.stx_ino == root.stx_ino && device(&again) == device(&root);
    FileHandle::keep(&raw).ok().filter(|_| same)
}

fn device(stat: &Statx) -> u64 {
    makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// A mount of the brick that is nowhere in the tree of mounts, and that the kernel keeps
/// read-only and without access times. Its descriptor is open for reading: an `O_PATH` one, as
/// open_tree gives it, cannot stand for the mount of a handle.
pub(crate) fn private_clone(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let tree = clone(root)?;
    sys::make_quiet(tree.as_fd())?;
    openat(&tree, c".", LIST, Mode::empty())
}

/// The same as users may change it: a mount of this directory alone, in which nothing else is
/// mounted, now or later.
pub(crate) fn own_clone(root: BorrowedFd<'_>, how: OwnMount) -> Result<OwnedFd> {
    let tree = clone(root)?;
    sys::make_own(tree.as_fd(), how.read_only, how.no_atime)?;
    openat(&tree, c".", LIST, Mode::empty())
}

fn clone(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let empty_path = OpenTreeFlags::AT_EMPTY_PATH;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | empty_path;
    open_tree(root, c"", flags)
}

/// statfs(2)'s `f_type`.
pub(crate) fn file_system_type(root: BorrowedFd<'_>) -> Result<u64> {
    // Of 32 bits, and signed on some machines.
    Ok(u64::from(rustix::fs::fstatfs(root)?.f_type as u32))
}

/// Which file system this is, across reboots.
pub(crate) fn file_system_id(root: BorrowedFd<'_>) -> Result<u64> {
    if let Ok(uuid) = sys::file_system_uuid(root) {
        return Ok(Fingerprint::new().with(&uuid).done());
    }
    // XFS makes its fsid of the device's number, which is another one after a reboot.
    let of = rustix::fs::fstatfs(root)?;
    let xfs = u64::try_from(of.f_type) == Ok(magic::XFS);
    let fsid = if xfs {
        0
    } else {
        rustix::fs::fstatvfs(root)?.f_fsid
    };
    Ok(Fingerprint::new()
        .with(&of.f_type.to_le_bytes())
        .with(&fsid.to_le_bytes())
        .done())
}

/// `EXT4_SUPER_MAGIC`, which ext2 and ext3 have as well, and `OVERLAYFS_SUPER_MAGIC`, which may hand on the
/// positions of a directory below.
const HASHING: [u64; 2] = [0xef53, 0x794c_7630];

/// Whether positions in directories may be hashes there.
pub(crate) fn may_hash(root: BorrowedFd<'_>) -> Result<bool> {
    let kind = rustix::fs::fstatfs(root)?.f_type;
    Ok(u64::try_from(kind).is_ok_and(|kind| HASHING.contains(&kind)))
}

/// Which brick this is: the file system and the directory on it.
pub(crate) fn brick_id(
    file_system: u64,
    root: BorrowedFd<'_>,
    handle: Option<&FileHandle>,
) -> Result<u64> {
    let directory = match handle {
        Some(handle) => handle.fingerprint(),
        None => stat(root)?.stx_ino,
    };
    Ok(Fingerprint::new()
        .with(&file_system.to_le_bytes())
        .with(&directory.to_le_bytes())
        .done())
}
