use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, Statx, StatxFlags};
use rustix::io::{Errno, Result};

use crate::attr::stat;
use crate::descriptors::Descriptors;
use crate::handle::FileHandle;
use crate::streams::Streams;
use crate::{placeholder, sys};

/// How an object is held that is only looked at.
pub(crate) const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How a directory is opened to read it.
pub(crate) const LIST: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A mount through which the brick is looked at.
pub(crate) struct View {
    /// The brick's directory, open for reading.
    pub(crate) root: OwnedFd,
    /// Id of the mount that it is on, as long as this mount is held.
    mount: u64,
    /// Flags that every open for reading gets on top.
    pub(crate) extra: OFlags,
    pub(crate) dirs: Descriptors,
    pub(crate) streams: Streams,
}

/// A descriptor to work with, from wherever it came.
pub(crate) enum Held<'a> {
    Own(OwnedFd),
    Shared(Arc<OwnedFd>),
    Lent(BorrowedFd<'a>),
}

impl AsFd for Held<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Held::Own(fd) => fd.as_fd(),
            Held::Shared(fd) => fd.as_fd(),
            Held::Lent(fd) => fd.as_fd(),
        }
    }
}

impl Held<'_> {
    /// Its path in proc: the one way to xattrs and new descriptors from an `O_PATH` descriptor.
    pub(crate) fn proc_path(&self) -> String {
        proc_path(self.as_fd())
    }
}

pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

impl View {
    pub(crate) fn new(root: OwnedFd, extra: OFlags) -> Result<View> {
        let mount = stat(&root)?.stx_mnt_id;
        Ok(View {
            root,
            mount,
            extra,
            dirs: Descriptors::new(),
            streams: Streams::new(),
        })
    }

    /// EXDEV for what another file system, or a bind, has put there. A btrfs subvolume is on the
    /// same mount. (Before Linux 5.8 the kernel does not tell.)
    pub(crate) fn must_be_on(&self, stat: &Statx) -> Result<()> {
        let known = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        if known && stat.stx_mnt_id != self.mount {
            Err(Errno::XDEV)
        } else {
            Ok(())
        }
    }

    pub(crate) fn by_handle(&self, handle: &FileHandle, flags: OFlags) -> Result<OwnedFd> {
        match handle {
            FileHandle::Placeholder(place) => placeholder::open(self, &place.0, &place.1, flags),
            handle => sys::open_by_handle_at(self.root.as_fd(), &handle.raw()?, flags),
        }
    }
}
