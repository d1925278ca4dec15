//! Random file operations as data, for translators, a reference model and directories on disk.

mod check;
mod disk;
mod random;
mod volume;

use hermitfs_api::{Allocate, Errno, RenameFlags, Time, XattrFlags};

pub use check::{run_against_model, shrink};
pub use disk::Disk;
pub use random::{Mix, Ops};

use crate::Node;

/// A file operation as a piece of data, to be run on a translator ([`Op::on`]) or on a directory
/// on disk ([`Op::on_disk`]).
///
/// Paths are relative, without a slash in front; no symbolic link is followed. Files are opened
/// and closed within an operation. The umask is 0o022.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the system calls' own names and arguments")]
pub enum Op {
    Create {
        path: String,
        mode: u32,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Mkfifo {
        path: String,
        mode: u32,
    },
    Symlink {
        path: String,
        target: String,
    },
    Link {
        path: String,
        new: String,
    },
    Unlink {
        path: String,
    },
    Rmdir {
        path: String,
    },
    Rename {
        path: String,
        new: String,
        flags: RenameFlags,
    },
    /// Writes [`Data`] at an offset and reads it back at once.
    Write {
        path: String,
        at: u64,
        data: Data,
    },
    /// The same at the end of the file.
    Append {
        path: String,
        data: Data,
    },
    Truncate {
        path: String,
        size: u64,
    },
    Fallocate {
        path: String,
        how: Allocate,
        at: u64,
        len: u64,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    Chown {
        path: String,
        uid: u32,
        gid: u32,
    },
    Utimes {
        path: String,
        mtime: Time,
    },
    SetXattr {
        path: String,
        name: String,
        value: Vec<u8>,
        flags: XattrFlags,
    },
    RemoveXattr {
        path: String,
        name: String,
    },
    /// Reads everything about an object: attributes, content, extended attributes.
    Look {
        path: String,
    },
    /// Reads the names in a directory, in byte order.
    List {
        path: String,
    },
}

/// Bytes that are known by two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// How many.
    pub len: usize,
    /// Which.
    pub seed: u8,
}

impl Data {
    /// The bytes themselves: never zero, so that holes show, and different from place to place.
    pub fn bytes(self) -> Vec<u8> {
        (0..self.len)
            .map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ usize::from(self.seed)) as u8 | 1)
            .collect()
    }
}

/// What an operation answered: two that are to be alike are compared by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done,
    /// It was refused. Where standards leave a choice, the kinder number of Linux' is taken
    /// (a symbolic link within a path is ENOTDIR).
    Refused(Errno),
    /// What stands there, without its times.
    Seen(Box<Node>),
    /// The names there.
    Names(Vec<Vec<u8>>),
    /// Written, but something else was read back.
    NotReadBack,
}

/// The process' umask that operations are made with.
pub(crate) const UMASK: u32 = 0o022;

impl Op {
    /// The path that it is about first.
    pub fn path(&self) -> &str {
        match self {
            Op::Create { path, .. }
            | Op::Mkdir { path, .. }
            | Op::Mkfifo { path, .. }
            | Op::Symlink { path, .. }
            | Op::Link { path, .. }
            | Op::Unlink { path }
            | Op::Rmdir { path }
            | Op::Rename { path, .. }
            | Op::Write { path, .. }
            | Op::Append { path, .. }
            | Op::Truncate { path, .. }
            | Op::Fallocate { path, .. }
            | Op::Chmod { path, .. }
            | Op::Chown { path, .. }
            | Op::Utimes { path, .. }
            | Op::SetXattr { path, .. }
            | Op::RemoveXattr { path, .. }
            | Op::Look { path }
            | Op::List { path } => path,
        }
    }

    /// POSIX lets a directory that is not empty be ENOTEMPTY or EEXIST (xfs says that to rename).
    fn refused(&self, errno: Errno) -> Answer {
        let may_be_either = match self {
            Op::Rename { flags, .. } => *flags == RenameFlags::Replace,
            Op::Rmdir { .. } => true,
            _ => false,
        };
        Answer::Refused(match errno {
            Errno::EEXIST if may_be_either => Errno::ENOTEMPTY,
            errno => errno,
        })
    }

    /// The second path of a link or rename.
    pub fn new_path(&self) -> Option<&str> {
        match self {
            Op::Link { new, .. } | Op::Rename { new, .. } => Some(new),
            _ => None,
        }
    }
}

/// The directory part of a path in its components, and the last name. The empty path is the
/// root, which no operation here is about but `Look` and `List`.
fn split(path: &str) -> (Vec<&str>, &str) {
    let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let last = names.pop().unwrap_or(".");
    (names, last)
}
