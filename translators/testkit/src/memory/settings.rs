use super::state::{APPEND, IMMUTABLE};

/// What a [`Memory`](super::Memory) can hold and does: everything a good Linux file system can, unless a
/// test takes something away.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Every change is EROFS, as after a remount.
    pub read_only: bool,
    /// Bytes of file content, counted in blocks of 4 KiB; beyond it ENOSPC.
    pub capacity: Option<u64>,
    /// Objects; beyond it ENOSPC.
    pub objects: Option<u64>,
    /// Largest file in bytes; beyond it EFBIG.
    pub max_file: u64,
    /// Names of one object, and sub-directories of one directory plus two; beyond it EMLINK.
    pub max_links: u32,
    /// Whether it has extended attributes at all (else EOPNOTSUPP).
    pub xattrs: bool,
    /// Bytes of names and values of one object's extended attributes; beyond it ENOSPC.
    pub xattr_space: usize,
    /// Inode flags that can be set (others EOPNOTSUPP); 0: it has none (ENOTTY).
    pub flags: u32,
    /// Whether objects can be counted for a project (else EOPNOTSUPP).
    pub projects: bool,
    /// Whether it has fallocate (else EOPNOTSUPP).
    pub fallocate: bool,
    /// Whether it gives handles (else EOPNOTSUPP).
    pub handles: bool,
    /// Times that are set are cut down to multiples of this, in nanoseconds.
    pub time_granularity: u32,
    /// Times that are set are drawn into this range, in seconds.
    pub time_range: (i64, i64),
    /// The number of what was deleted is used again at once, with another generation. That is
    /// what ext4 does.
    pub reuse_numbers: bool,
    /// What it says of where an object was last seen.
    pub hints: Hints,
    /// The clock stands: changes get the same time, as two within one tick of a kernel do.
    pub clock_stands: bool,
}

/// Which name an object was last seen by: any of these is an honest answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hints {
    /// The latest.
    Latest,
    /// The first, whatever has become of it: as when an answer comes late.
    First,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            read_only: false,
            capacity: None,
            objects: None,
            max_file: i64::MAX as u64,
            max_links: 65_000,
            xattrs: true,
            xattr_space: 64 << 10,
            flags: IMMUTABLE | APPEND | 0x8 | 0x40 | 0x80 | 0x1_0000,
            projects: true,
            fallocate: true,
            handles: true,
            time_granularity: 1,
            time_range: (i64::MIN, i64::MAX),
            reuse_numbers: true,
            hints: Hints::Latest,
            clock_stands: false,
        }
    }
}
