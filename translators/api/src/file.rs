use std::any::Any;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::{Inode, Slots};

/// Flags of open(2), as the kernel has them.
///
/// Doors take `O_CREAT`, `O_EXCL` and `O_NOCTTY` away. `O_APPEND` may be there, but offsets are
/// always given by the caller: leaves do not pass it on (but see [`OpenFlags::SHARED`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OpenFlags(pub i32);

impl OpenFlags {
    /// `O_RDONLY`
    pub const READ: OpenFlags = OpenFlags(libc::O_RDONLY);
    /// `O_WRONLY`
    pub const WRITE: OpenFlags = OpenFlags(libc::O_WRONLY);
    /// `O_RDWR`
    pub const READ_WRITE: OpenFlags = OpenFlags(libc::O_RDWR);

    /// With `O_APPEND`, and no flag of the kernel's: others write to the file by other ways, so the
    /// caller cannot know where it ends. The leaf appends, whatever offset is given.
    pub const SHARED: i32 = 1 << 30;

    /// With a right to read, and no flag of the kernel's: the caller may have the content from before, so
    /// that reading need not reach the leaf. For access times the leaf counts the open as a read, unless
    /// `O_NOATIME` is there: see [`File::moved_atime`].
    pub const FROM_PAGES: i32 = 1 << 29;

    /// `O_RDONLY` or `O_RDWR`.
    pub fn reads(self) -> bool {
        matches!(self.0 & libc::O_ACCMODE, libc::O_RDONLY | libc::O_RDWR)
    }

    /// `O_WRONLY` or `O_RDWR`.
    pub fn writes(self) -> bool {
        matches!(self.0 & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR)
    }

    /// `O_TRUNC`
    pub fn truncates(self) -> bool {
        self.0 & libc::O_TRUNC != 0
    }

    /// Whether the leaf appends by itself: [`OpenFlags::SHARED`].
    pub fn appends(self) -> bool {
        const BOTH: i32 = OpenFlags::SHARED | libc::O_APPEND;
        self.0 & BOTH == BOTH
    }

    /// Whether the leaf counts the open as a read: [`OpenFlags::FROM_PAGES`].
    pub fn counts_as_read(self) -> bool {
        self.reads() && self.0 & (OpenFlags::FROM_PAGES | libc::O_NOATIME) == OpenFlags::FROM_PAGES
    }

    /// These bits as well.
    pub fn with(self, bits: i32) -> OpenFlags {
        OpenFlags(self.0 | bits)
    }

    /// Without these bits.
    pub fn without(self, bits: i32) -> OpenFlags {
        OpenFlags(self.0 & !bits)
    }
}

/// An open regular file. Dropping it closes it; [`release`](crate::Translator::release) comes first.
pub struct File {
    /// Goes before the inode: who waits for a removed file's space to be free is told by that one's end.
    leaf: Box<dyn Any + Send + Sync>,
    inode: Arc<Inode>,
    flags: OpenFlags,
    slots: Slots,
    moved_atime: bool,
}

impl File {
    /// For leaves: an open file and the leaf's state for it.
    pub fn new(inode: Arc<Inode>, flags: OpenFlags, leaf: impl Any + Send + Sync) -> File {
        File {
            inode,
            flags,
            leaf: Box::new(leaf),
            slots: Slots::default(),
            moved_atime: false,
        }
    }

    /// The same where the open itself may have moved the file's access time.
    pub fn with_moved_atime(self, moved_atime: bool) -> File {
        File {
            moved_atime,
            ..self
        }
    }

    /// What is open.
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// How it was opened.
    pub fn flags(&self) -> OpenFlags {
        self.flags
    }

    /// Whether the open itself moved the file's access time ([`OpenFlags::FROM_PAGES`]).
    pub fn moved_atime(&self) -> bool {
        self.moved_atime
    }

    /// The leaf's own state; `None` when another leaf made it.
    pub fn leaf<T: Any>(&self) -> Option<&T> {
        self.leaf.downcast_ref()
    }

    /// State of the layers above the leaf.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} opened {:#o}", self.inode, self.flags.0)
    }
}

/// A brick's descriptor, lent for the local data plane (FUSE passthrough, the copy engine).
///
/// May be an `O_PATH` descriptor when it was lent as a backing for passthrough.
#[derive(Clone, Debug)]
pub struct Lent(Arc<OwnedFd>);

impl Lent {
    /// Lends a descriptor.
    pub fn new(fd: Arc<OwnedFd>) -> Lent {
        Lent(fd)
    }
}

impl AsFd for Lent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
