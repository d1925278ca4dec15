use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! ops {
    ($($op:ident $name:literal)*) => {
        /// A request of the kernel's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Op {
            $(#[doc = concat!("`FUSE_", $name, "`")] $op,)*
        }

        impl Op {
            /// All of them.
            pub const ALL: &'static [Op] = &[$(Op::$op),*];

            /// As the kernel calls it, without `FUSE_`.
            pub fn name(self) -> &'static str {
                match self { $(Op::$op => $name,)* }
            }
        }
    };
}

ops! {
    Lookup "LOOKUP" Forget "FORGET" Getattr "GETATTR" Setattr "SETATTR" Readlink "READLINK"
    Mknod "MKNOD" Mkdir "MKDIR" Symlink "SYMLINK" Link "LINK" Unlink "UNLINK" Rmdir "RMDIR"
    Rename "RENAME" Create "CREATE" Open "OPEN" Read "READ" Write "WRITE" Flush "FLUSH"
    Release "RELEASE" Fsync "FSYNC" Opendir "OPENDIR" Readdir "READDIR" Readdirplus "READDIRPLUS"
    Fsyncdir "FSYNCDIR" Getxattr "GETXATTR" Listxattr "LISTXATTR" Setxattr "SETXATTR"
    Removexattr "REMOVEXATTR" Ioctl "IOCTL" Fallocate "FALLOCATE" Lseek "LSEEK"
    CopyFileRange "COPY_FILE_RANGE" Statfs "STATFS" Getlk "GETLK" Setlk "SETLK"
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counters of one mount.
pub(crate) struct Statistics {
    requests: Vec<AtomicU64>,
    pub(crate) in_flight: AtomicU64,
    pub(crate) parked: AtomicU64,
    pub(crate) overflowed: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) bypassing: AtomicU64,
}

/// What the door has done since it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests of each kind, zeros left out.
    pub requests: Vec<(Op, u64)>,
    /// Requests that are being worked on now.
    pub in_flight: u64,
    /// How many of these wait for something.
    pub parked: u64,
    /// Requests that went to other threads as too few of the door's own were free.
    pub overflowed: u64,
    /// Operations that ended in a panic, and were answered EIO.
    pub panics: u64,
    /// Open files whose reads or mappings do not pass here.
    pub bypassing: u64,
    /// Objects that the kernel knows now.
    pub nodes: u64,
    /// Files that are open now.
    pub files: u64,
}

impl Statistics {
    pub(crate) fn new() -> Statistics {
        Statistics {
            requests: Op::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            in_flight: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            bypassing: AtomicU64::new(0),
        }
    }

    pub(crate) fn count(&self, op: Op) {
        if let Some(counter) = self.requests.get(op as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self, nodes: usize, files: usize) -> Snapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = Op::ALL
            .iter()
            .zip(&self.requests)
            .map(|(op, count)| (*op, get(count)));
        Snapshot {
            requests: counts.filter(|(_, count)| *count > 0).collect(),
            in_flight: get(&self.in_flight),
            parked: get(&self.parked),
            overflowed: get(&self.overflowed),
            panics: get(&self.panics),
            bypassing: get(&self.bypassing),
            nodes: nodes as u64,
            files: files as u64,
        }
    }
}

/// A counter that goes down again.
pub(crate) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(crate) fn up(counter: &'a AtomicU64) -> Gauge<'a> {
        counter.fetch_add(1, Ordering::Relaxed);
        Gauge(counter)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
