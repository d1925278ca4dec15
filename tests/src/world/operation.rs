//! What a worker can do. Paths are relative to its directory.

/// One operation; `fill` is the seed of the bytes that are written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the system calls' own arguments
pub enum Operation {
    Create {
        path: String,
        mode: u32,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Symlink {
        path: String,
        target: String,
    },
    Fifo {
        path: String,
        mode: u32,
    },
    Write {
        path: String,
        at: usize,
        len: usize,
        fill: u64,
    },
    Append {
        path: String,
        len: usize,
        fill: u64,
    },
    /// Opens with O_TRUNC and writes from the start.
    Overwrite {
        path: String,
        len: usize,
        fill: u64,
    },
    Truncate {
        path: String,
        len: usize,
    },
    /// A hole, where the file system has them.
    Punch {
        path: String,
        at: usize,
        len: usize,
    },
    /// Zeros, where the file system can.
    Zero {
        path: String,
        at: usize,
        len: usize,
    },
    /// Stores through a shared mapping, and msync.
    Map {
        path: String,
        at: usize,
        len: usize,
        fill: u64,
    },
    CopyRange {
        from: String,
        to: String,
        at: usize,
        len: usize,
    },
    Fsync {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    RenameNoReplace {
        from: String,
        to: String,
    },
    Exchange {
        a: String,
        b: String,
    },
    Link {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    Rmdir {
        path: String,
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
    Times {
        path: String,
        seconds: i64,
        nanoseconds: i64,
    },
    SetXattr {
        path: String,
        name: String,
        len: usize,
        fill: u64,
    },
    RemoveXattr {
        path: String,
        name: String,
    },
    SetAcl {
        path: String,
        user: u32,
        permissions: u16,
        mode: u32,
    },
    RemoveAcl {
        path: String,
    },
    /// Opens a file and keeps the descriptor in a slot.
    Hold {
        path: String,
        slot: usize,
    },
    HeldWrite {
        slot: usize,
        at: usize,
        len: usize,
        fill: u64,
    },
    HeldTruncate {
        slot: usize,
        len: usize,
    },
    HeldClose {
        slot: usize,
    },
}

impl Operation {
    /// The bytes that a seed stands for.
    pub fn bytes(fill: u64, len: usize) -> Vec<u8> {
        use rand::{RngCore, SeedableRng};
        let mut bytes = vec![0; len];
        rand_chacha::ChaCha8Rng::seed_from_u64(fill).fill_bytes(&mut bytes);
        bytes
    }

    /// Its name, for counts.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        text.split([' ', '{']).next().unwrap_or_default().to_owned()
    }

    /// Changes the content of one file, byte by byte: cut short, a part may have been done.
    pub fn may_be_partial(&self) -> bool {
        use Operation::*;
        matches!(
            self,
            Write { .. }
                | Append { .. }
                | Overwrite { .. }
                | Punch { .. }
                | Zero { .. }
                | Map { .. }
                | CopyRange { .. }
                | HeldWrite { .. }
        )
    }

    /// The paths that it names.
    pub fn paths(&self) -> Vec<&str> {
        use Operation::*;
        match self {
            Create { path, .. }
            | Mkdir { path, .. }
            | Symlink { path, .. }
            | Fifo { path, .. }
            | Write { path, .. }
            | Append { path, .. }
            | Overwrite { path, .. }
            | Truncate { path, .. }
            | Punch { path, .. }
            | Zero { path, .. }
            | Map { path, .. }
            | Fsync { path }
            | Unlink { path }
            | Rmdir { path }
            | Chmod { path, .. }
            | Chown { path, .. }
            | Times { path, .. }
            | SetXattr { path, .. }
            | RemoveXattr { path, .. }
            | SetAcl { path, .. }
            | RemoveAcl { path }
            | Hold { path, .. } => vec![path],
            CopyRange { from, to, .. }
            | Rename { from, to }
            | RenameNoReplace { from, to }
            | Link { from, to } => {
                vec![from, to]
            }
            Exchange { a, b } => vec![a, b],
            HeldWrite { .. } | HeldTruncate { .. } | HeldClose { .. } => vec![],
        }
    }
}
