use std::sync::Arc;

use crate::{Attr, Inode, Kind, NameBuf};

/// An object that was found or made, with its attributes of that moment.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The object.
    pub inode: Arc<Inode>,
    /// Its attributes.
    pub attr: Attr,
}

/// What to make with [`mknod`](crate::Translator::mknod).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Make {
    /// A file, fifo, socket or device.
    pub kind: Kind,
    /// Permission, set-id and sticky bits: 0..=0o7777, before the umask.
    pub mode: u32,
    /// The caller's umask; a directory's default ACL wins over it, as on any Linux file system.
    pub umask: u32,
    /// A device's number (makedev(3)), else 0.
    pub rdev: u64,
}

/// Flags of renameat2(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RenameFlags {
    /// Replaces what stands at the new name.
    #[default]
    Replace,
    /// `RENAME_NOREPLACE`: EEXIST when something stands there.
    NoReplace,
    /// `RENAME_EXCHANGE`: both change places; both must exist.
    Exchange,
    /// `RENAME_WHITEOUT`: as `Replace`, and in the same step a character device 0:0 without any
    /// permission, owned by the caller, comes to stand at the old name. EINVAL where the brick's
    /// file system has no such thing.
    Whiteout,
    /// `RENAME_WHITEOUT | RENAME_NOREPLACE`
    WhiteoutNoReplace,
}

impl RenameFlags {
    /// Whether what stands at the new name makes room.
    pub fn replaces(self) -> bool {
        matches!(self, RenameFlags::Replace | RenameFlags::Whiteout)
    }

    /// Whether a whiteout comes to stand at the old name.
    pub fn leaves_whiteout(self) -> bool {
        matches!(self, RenameFlags::Whiteout | RenameFlags::WhiteoutNoReplace)
    }

    /// From the bits of renameat2(2); `None` for a combination that Linux refuses.
    pub fn from_bits(bits: u32) -> Option<RenameFlags> {
        const WHITEOUT_NOREPLACE: u32 = libc::RENAME_WHITEOUT | libc::RENAME_NOREPLACE;
        Some(match bits {
            0 => RenameFlags::Replace,
            libc::RENAME_NOREPLACE => RenameFlags::NoReplace,
            libc::RENAME_EXCHANGE => RenameFlags::Exchange,
            libc::RENAME_WHITEOUT => RenameFlags::Whiteout,
            WHITEOUT_NOREPLACE => RenameFlags::WhiteoutNoReplace,
            _ => return None,
        })
    }

    /// The bits of renameat2(2).
    pub fn bits(self) -> u32 {
        match self {
            RenameFlags::Replace => 0,
            RenameFlags::NoReplace => libc::RENAME_NOREPLACE,
            RenameFlags::Exchange => libc::RENAME_EXCHANGE,
            RenameFlags::Whiteout => libc::RENAME_WHITEOUT,
            RenameFlags::WhiteoutNoReplace => libc::RENAME_WHITEOUT | libc::RENAME_NOREPLACE,
        }
    }
}

/// One entry of a directory. `.` and `..` are among them.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// The raw bytes of the name; [`NameBuf::new`] fails for `.` and `..` alone.
    pub name: Box<[u8]>,
    /// Inode number as the directory has it.
    pub ino: u64,
    /// What it is; `None` where the file system does not tell without a look.
    pub kind: Option<Kind>,
    /// Where to read on after this entry; opaque, never 0.
    pub next: u64,
    /// The object, when asked for (readdirplus); `None` for `.`, `..`, and what vanished meanwhile.
    pub entry: Option<Entry>,
}

impl DirEntry {
    /// `.` or `..`
    pub fn is_dots(&self) -> bool {
        matches!(&*self.name, b"." | b"..")
    }
}

/// What [`fallocate`](crate::Translator::fallocate) does with the range (fallocate(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Allocate {
    /// Reserves blocks; the file grows to the range's end unless `keep_size`.
    Reserve {
        /// `FALLOC_FL_KEEP_SIZE`
        keep_size: bool,
    },
    /// `FALLOC_FL_PUNCH_HOLE | KEEP_SIZE`: the range becomes a hole.
    Punch,
    /// `FALLOC_FL_ZERO_RANGE`: the range reads as zeros, allocated.
    Zero {
        /// `FALLOC_FL_KEEP_SIZE`
        keep_size: bool,
    },
    /// `FALLOC_FL_COLLAPSE_RANGE`: the range is taken out, what follows moves down.
    Collapse,
    /// `FALLOC_FL_INSERT_RANGE`: a hole is put in, what follows moves up.
    Insert,
    /// `FALLOC_FL_UNSHARE_RANGE`: shared extents of the range get blocks of their own.
    Unshare {
        /// `FALLOC_FL_KEEP_SIZE`
        keep_size: bool,
    },
}

impl Allocate {
    /// From the mode bits of fallocate(2); `None` for a combination that Linux refuses.
    pub fn from_bits(bits: i32) -> Option<Allocate> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        let keep_size = bits & KEEP != 0;
        Some(match bits & !KEEP {
            0 => Allocate::Reserve { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Allocate::Punch,
            libc::FALLOC_FL_ZERO_RANGE => Allocate::Zero { keep_size },
            libc::FALLOC_FL_UNSHARE_RANGE => Allocate::Unshare { keep_size },
            libc::FALLOC_FL_COLLAPSE_RANGE if !keep_size => Allocate::Collapse,
            libc::FALLOC_FL_INSERT_RANGE if !keep_size => Allocate::Insert,
            _ => return None,
        })
    }

    /// The mode bits of fallocate(2).
    pub fn bits(self) -> i32 {
        let keep = |keep_size| {
            if keep_size {
                libc::FALLOC_FL_KEEP_SIZE
            } else {
                0
            }
        };
        match self {
            Allocate::Reserve { keep_size } => keep(keep_size),
            Allocate::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Allocate::Zero { keep_size } => libc::FALLOC_FL_ZERO_RANGE | keep(keep_size),
            Allocate::Collapse => libc::FALLOC_FL_COLLAPSE_RANGE,
            Allocate::Insert => libc::FALLOC_FL_INSERT_RANGE,
            Allocate::Unshare { keep_size } => libc::FALLOC_FL_UNSHARE_RANGE | keep(keep_size),
        }
    }
}

/// What [`lseek`](crate::Translator::lseek) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seek {
    /// `SEEK_DATA`: the next byte that is not in a hole; ENXIO when there is none.
    Data,
    /// `SEEK_HOLE`: the next hole; the end of the file counts as one.
    Hole,
}

/// A piece of a file's space on the disk ([`extents`](crate::Translator::extents)).
///
/// It is a hint: what is only in the page cache yet has no place, and what had one may have got another
/// since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// First byte on the disk, where the file system tells; of any two pieces that stand for one, the
    /// same.
    pub place: Option<u64>,
    /// It is reserved and reads as zeros: nothing has been written there.
    pub unwritten: bool,
    /// Other files, or other ranges of this one, have it as well.
    pub shared: bool,
}

impl Extent {
    /// The first byte behind it.
    pub fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }
}

/// Flags of setxattr(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum XattrFlags {
    /// Creates or replaces.
    #[default]
    Any,
    /// `XATTR_CREATE`: EEXIST when it is there.
    Create,
    /// `XATTR_REPLACE`: ENODATA when it is not.
    Replace,
}

/// A file lock of a kind and range (fcntl(2), flock(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Who holds it: the kernel's lock owner, unique in a client
    /// ([`Context::client`](crate::Context::client)). A process for `F_SETLK`, an open file for OFD
    /// locks and flock(2).
    pub owner: u64,
    /// Process that asked, for F_GETLK; 0 for OFD locks.
    pub pid: u32,
    /// Shared, exclusive or none.
    pub kind: LockKind,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `u64::MAX` is the end of any file.
    pub end: u64,
    /// flock(2) instead of a record lock; covers the whole file.
    pub flock: bool,
    /// A record lock of an open file (`F_OFD_SETLKW`), as far as the door can tell: others of its
    /// process may drop it, so waiting for it is never a deadlock.
    pub ofd: bool,
}

/// What a lock excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// `F_RDLCK`, `LOCK_SH`
    Shared,
    /// `F_WRLCK`, `LOCK_EX`
    Exclusive,
    /// `F_UNLCK`, `LOCK_UN`
    Unlock,
}

/// What a descriptor is lent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lend {
    /// Backs passthrough of opens that can only read: no writable mapping is possible.
    Read,
    /// Backs passthrough by which writes or mapped stores may reach the brick unseen. A layer
    /// that must know of every write marks the whole file before it lends, or refuses.
    Write,
}

/// Where an object stands, from the root of its brick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Names from the root down; empty for the root itself.
    pub path: Vec<NameBuf>,
}

impl Location {
    /// As text for people: `/` in front and between, lossy where a name is no UTF-8.
    pub fn display(&self) -> String {
        if self.path.is_empty() {
            return "/".into();
        }
        self.path.iter().map(|name| format!("/{name}")).collect()
    }
}

/// What a brick is used for by the layer above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Authoritative: users write, our own traffic only reads. A leaf refuses any change whose
    /// origin is not a user with EROFS, and reads for the healer through a view of the brick
    /// that the kernel keeps read-only and noatime where it can.
    Source,
    /// Written by the healer alone.
    Sink,
    /// No role: ordinary use.
    Plain,
    /// Out of use, so that its file system can be unmounted and repaired: a leaf closes all that
    /// it has open there, and answers every operation with ENODEV. With the next role it is opened
    /// anew, where its options say; inodes and files from before are ESTALE then. A leaf that
    /// holds nothing of the kind goes on as before.
    Away,
}
