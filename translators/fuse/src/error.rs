use std::io;
use std::path::{Path, PathBuf};

/// Why a volume could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel offers no FUSE here.
    #[error(
        "cannot open /dev/fuse ({0}): is the kernel's fuse module loaded (`modprobe fuse`), and the device there?"
    )]
    NoDevice(#[source] io::Error),
    /// Mounting needs `CAP_SYS_ADMIN`.
    #[error("not permitted to {what}: mounting needs root ({source})")]
    NotPermitted {
        /// The step.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There is nothing to mount on.
    #[error("mount point {}: no such directory", .0.display())]
    NotFound(PathBuf),
    /// It is a file.
    #[error("mount point {}: not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// Something alive is mounted there.
    #[error("mount point {}: {kind} is mounted there already (source {from})", path.display())]
    AlreadyMounted {
        /// The mount point.
        path: PathBuf,
        /// The file system's type.
        kind: String,
        /// Its source, as the kernel lists it.
        from: String,
    },
    /// Files are open in it, or a process stands in it.
    #[error("{}: in use", .0.display())]
    Busy(PathBuf),
    /// It was unmounted or covered by somebody else.
    #[error("{}: our mount is not the one that is seen there", .0.display())]
    NotThere(PathBuf),
    /// `attach` comes first, and once.
    #[error("the volume is {0}")]
    Stage(&'static str),
    /// The volume below has no root.
    #[error("the volume's root cannot be read: {0}")]
    Volume(#[source] hermitfs_api::Error),
    /// Another step failed.
    #[error("cannot {what}{at}: {source}", at = at(path))]
    Kernel {
        /// The step.
        what: &'static str,
        /// Where.
        path: Option<PathBuf>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn at(path: &Option<PathBuf>) -> String {
    path.as_ref()
        .map(|path| format!(" at {}", path.display()))
        .unwrap_or_default()
}

impl MountError {
    pub(crate) fn step(what: &'static str) -> impl FnOnce(io::Error) -> MountError {
        move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => MountError::NotPermitted { what, source },
            _ => MountError::Kernel {
                what,
                path: None,
                source,
            },
        }
    }

    pub(crate) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MountError {
        let path = path.to_owned();
        move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => MountError::NotPermitted { what, source },
            Some(libc::EBUSY) => MountError::Busy(path),
            Some(libc::ENOENT) => MountError::NotFound(path),
            Some(libc::ENOTDIR) => MountError::NotDirectory(path),
            _ => MountError::Kernel {
                what,
                path: Some(path),
                source,
            },
        }
    }
}
