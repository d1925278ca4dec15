//! Making the mount, and putting it in its place.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
};

use crate::attributes::Attributes;
use crate::error::MountError;
use crate::kernel::MAX_IO;
use crate::mount::Placement;
use crate::mountinfo::{MountInfo, is_dead};

/// What mountinfo shows as type, and as source.
pub(crate) const TYPE: &str = "fuse.hermitfs";
const SUBTYPE: &str = "hermitfs";
const SOURCE: &str = "hermitfs";

/// `MOVE_MOUNT_BENEATH` (Linux 6.5), which rustix does not name.
const BENEATH: MoveMountFlags = MoveMountFlags::from_bits_retain(0x200);

/// Opens the device over which the kernel talks to one mount.
pub(crate) fn device() -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open("/dev/fuse", flags, Mode::empty()).map_err(|error| {
        let error = io::Error::from(error);
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => MountError::step("open /dev/fuse")(error),
            _ => MountError::NoDevice(error),
        }
    })
}

/// Makes the file system, which sends INIT, but mounts it nowhere yet. `None` where the kernel
/// (or a filter in front of it) has not got the calls for that.
pub(crate) fn file_system(device: BorrowedFd<'_>) -> Result<Option<OwnedFd>, MountError> {
    let step = MountError::step("make a FUSE file system");
    let fs = match rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(fs) => fs,
        Err(rustix::io::Errno::NOSYS) => return Ok(None),
        Err(error) => return Err(step(error.into())),
    };
    configure(fs.as_fd(), device).map_err(|error| step(error.into()))?;
    Ok(Some(fs))
}

fn configure(fs: BorrowedFd<'_>, device: BorrowedFd<'_>) -> rustix::io::Result<()> {
    use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string};
    fsconfig_set_string(fs, "source", SOURCE)?;
    fsconfig_set_string(fs, "subtype", SUBTYPE)?;
    for (key, value) in settings(device) {
        match value {
            Some(value) => fsconfig_set_string(fs, key, value)?,
            None => fsconfig_set_flag(fs, key)?,
        }
    }
    fsconfig_create(fs)
}

fn settings(device: BorrowedFd<'_>) -> Vec<(&'static str, Option<String>)> {
    vec![
        ("fd", Some(device.as_raw_fd().to_string())),
        ("rootmode", Some("40000".into())),
        (
            "user_id",
            Some(rustix::process::getuid().as_raw().to_string()),
        ),
        (
            "group_id",
            Some(rustix::process::getgid().as_raw().to_string()),
        ),
        ("default_permissions", None),
        ("allow_other", None),
        ("max_read", Some(MAX_IO.to_string())),
    ]
}

/// A mount of the file system that is nowhere yet.
pub(crate) fn detached(fs: &OwnedFd, attributes: Attributes) -> Result<OwnedFd, MountError> {
    // Those that rustix does not name as well.
    let bits = u32::try_from(attributes.bits()).unwrap_or(0);
    let flags = MountAttrFlags::from_bits_retain(bits);
    rustix::mount::fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)
        .map_err(|error| MountError::step("make a mount")(error.into()))
}

/// The mount point, without asking what is mounted there.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    let not_found = |_| MountError::NotFound(path.to_owned());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return path.canonicalize().map_err(not_found);
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let place = parent.canonicalize().map_err(not_found)?.join(name);
    match std::fs::read_link(&place) {
        Ok(_) => place.canonicalize().map_err(not_found),
        Err(_) => Ok(place),
    }
}

/// What a mount point is when a mount is to be put there.
enum Ground {
    /// A directory to mount on.
    Free,
    /// A mount of ours whose server was killed.
    Dead,
}

fn ground(place: &Path, placement: Placement) -> Result<Ground, MountError> {
    let mounted = MountInfo::at(place).map_err(MountError::at("look", place))?;
    if let Some(mount) = mounted {
        if mount.kind == TYPE && is_dead(place) {
            return Ok(Ground::Dead);
        }
        if placement == Placement::Vacant {
            let MountInfo {
                path,
                kind,
                source: from,
                ..
            } = mount;
            return Err(MountError::AlreadyMounted { path, kind, from });
        }
    }
    let found = std::fs::symlink_metadata(place).map_err(MountError::at("look", place))?;
    match found.is_dir() {
        true => Ok(Ground::Free),
        false => Err(MountError::NotDirectory(place.to_owned())),
    }
}

/// Puts a detached mount in its place. A dead mount of ours is replaced such that nobody ever
/// sees the directory under it: the new one goes beneath it first, then the dead one goes away.
pub(crate) fn put(mount: &OwnedFd, place: &Path, placement: Placement) -> Result<(), MountError> {
    let move_to = |extra| {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | extra;
        rustix::mount::move_mount(mount, c"", CWD, place, flags).map_err(io::Error::from)
    };
    if let Ground::Dead = ground(place, placement)? {
        match move_to(BENEATH) {
            Ok(()) => return detach_dead(place),
            Err(error) => {
                tracing::info!(%error, "cannot go beneath the dead mount: taking it away first");
                detach_dead(place)?;
            }
        }
        // Killed several times without a clean-up, dead mounts lie on top of each other.
        return put(mount, place, placement);
    }
    move_to(MoveMountFlags::empty()).map_err(MountError::at("mount", place))
}

fn detach_dead(place: &Path) -> Result<(), MountError> {
    unmount(place, true).map_err(MountError::at("take the dead mount away", place))?;
    while let Ok(Some(mount)) = MountInfo::at(place)
        && mount.kind == TYPE
        && is_dead(place)
    {
        unmount(place, true).map_err(MountError::at("take a dead mount away", place))?;
    }
    Ok(())
}

/// The old way, in one call, for kernels without the new ones.
pub(crate) fn mount_classic(
    device: BorrowedFd<'_>,
    place: &Path,
    placement: Placement,
    attributes: Attributes,
) -> Result<(), MountError> {
    while let Ground::Dead = ground(place, placement)? {
        unmount(place, true).map_err(MountError::at("take the dead mount away", place))?;
    }
    let bits = u32::try_from(attributes.classic_bits()).unwrap_or(0);
    let flags = MountFlags::from_bits_retain(bits);
    let settings = settings(device)
        .into_iter()
        .map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.into(),
        });
    let settings = settings.collect::<Vec<_>>().join(",");
    let settings = std::ffi::CString::new(settings).unwrap_or_default();
    rustix::mount::mount(SOURCE, place, TYPE, flags, Some(settings.as_c_str()))
        .map_err(|error| MountError::at("mount", place)(error.into()))
}

/// Ends the kernel's side of a mount of ours: all calls fail from then on. True when nobody was in it, and it is gone
/// altogether; else it stays where it is.
pub(crate) fn cut_off(place: &Path) -> io::Result<bool> {
    // FUSE aborts its connection before it looks whether the mount is in use.
    match rustix::mount::unmount(place, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::BUSY) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn unmount(place: &Path, lazy: bool) -> io::Result<()> {
    let how = if lazy {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    Ok(rustix::mount::unmount(place, how | UnmountFlags::NOFOLLOW)?)
}
