/// What an object is (the `S_IFMT` part of a mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Kind {
    /// The `S_IFMT` bits.
    pub fn bits(self) -> u32 {
        match self {
            Kind::File => libc::S_IFREG,
            Kind::Directory => libc::S_IFDIR,
            Kind::Symlink => libc::S_IFLNK,
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
            Kind::CharDevice => libc::S_IFCHR,
            Kind::BlockDevice => libc::S_IFBLK,
        }
    }

    /// From a `st_mode`; `None` when its kind is none of Linux'.
    pub fn from_mode(mode: u32) -> Option<Kind> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            libc::S_IFCHR => Kind::CharDevice,
            libc::S_IFBLK => Kind::BlockDevice,
            _ => return None,
        })
    }

    /// A character or block device.
    pub fn is_device(self) -> bool {
        matches!(self, Kind::CharDevice | Kind::BlockDevice)
    }
}

/// A point in time: seconds since 1970 (may be negative), and 0..=999,999,999 nanoseconds after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since the epoch.
    pub sec: i64,
    /// Nanoseconds, 0..=999,999,999.
    pub nsec: u32,
}

impl Time {
    /// The earliest.
    pub const MIN: Time = Time {
        sec: i64::MIN,
        nsec: 0,
    };
    /// The latest.
    pub const MAX: Time = Time {
        sec: i64::MAX,
        nsec: 999_999_999,
    };

    /// A time.
    pub const fn new(sec: i64, nsec: u32) -> Time {
        Time { sec, nsec }
    }
}

/// What stat(2) tells, as statx(2) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode's number on its file system, shown to users.
    pub ino: u64,
    /// The file system's device (`st_dev`); with `ino` it is unique on a brick.
    pub dev: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits: 0..=0o7777.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// A device's own number (`st_rdev`, as makedev(3) packs it), else 0.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred unit of I/O, in bytes.
    pub blksize: u32,
    /// Last read.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Birth, where the file system keeps it.
    pub btime: Option<Time>,
}

/// A time to set (utimensat(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// `UTIME_NOW`: the brick's own clock.
    Now,
    /// This time.
    At(Time),
}

/// Which attributes to change; what is `None` stays.
///
/// When several are given they are set in this order: size, owner and group, mode, times; so
/// that a mode given together with an owner is the mode afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission, set-id and sticky bits: 0..=0o7777.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// New size in bytes; what is added reads as zeros.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
}

/// What statvfs(3) tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Identity of the file system (`f_fsid`).
    pub fsid: u64,
    /// Fundamental block size in bytes; the unit of the block counts.
    pub frsize: u32,
    /// Preferred I/O size in bytes.
    pub bsize: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for those who are not root.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Longest name in bytes.
    pub namelen: u32,
}
