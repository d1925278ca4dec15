//! What is mounted where, read from /proc without a word to the file system itself: one that has
//! died, or does not answer yet, is described like any other.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// One mount of this process' namespace, as `/proc/self/mountinfo` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Unique among the mounts of this moment.
    pub id: u64,
    /// Device of its file system (`st_dev` of everything in it, but for btrfs subvolumes).
    pub device: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Type of its file system, such as `ext4` or `fuse.hermitfs`.
    pub kind: String,
    /// What was given as its source.
    pub source: String,
}

impl MountInfo {
    /// The mount that a path leads into: the topmost where several are at one place.
    pub fn of_path(path: &Path) -> io::Result<MountInfo> {
        MountInfo::of_id(mount_id(&pin(path)?)?)
    }

    /// The mount that is seen *at* a path, `None` when the path is an ordinary directory.
    pub fn at(path: &Path) -> io::Result<Option<MountInfo>> {
        let mount = MountInfo::of_path(path)?;
        Ok((mount.path == path).then_some(mount))
    }

    /// The mount with this id. ENOENT when there is none (any more).
    pub fn of_id(id: u64) -> io::Result<MountInfo> {
        let all = MountInfo::all()?;
        all.into_iter()
            .find(|mount| mount.id == id)
            .ok_or(io::ErrorKind::NotFound.into())
    }

    /// All mounts that can be reached.
    pub fn all() -> io::Result<Vec<MountInfo>> {
        Ok(fs::read("/proc/self/mountinfo")?
            .split(|b| *b == b'\n')
            .filter_map(parse)
            .collect())
    }
}

/// Whether what is mounted here has lost its server. Waits for the answer of one that lives.
pub fn is_dead(path: &Path) -> bool {
    // Attributes may still be answered from the kernel's memory; this never is.
    let error = rustix::fs::statfs(path).err();
    matches!(
        error,
        Some(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)
    )
}

/// Holds a place without opening what is there.
pub(crate) fn pin(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// From fdinfo: statx would ask the file system.
pub(crate) fn mount_id(fd: &impl AsFd) -> io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or(io::ErrorKind::InvalidData.into())
}

/// `36 35 98:0 /root /path options optional... - type source options`
fn parse(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|b| *b == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = std::str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
    let path = std::ffi::OsString::from_vec(unescape(fields.nth(1)?));
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    Some(MountInfo {
        id,
        device: libc::makedev(major.parse().ok()?, minor.parse().ok()?),
        path: path.into(),
        kind: text(rest.next()?),
        source: text(rest.next()?),
    })
}

/// Space, tab, newline and backslash are written as `\040` and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(&byte) = field.get(at) {
        let octal = field.get(at + 1..at + 4).filter(|_| byte == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                plain.push(escaped);
                at += 4;
            }
            None => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood_with_its_odd_names() {
        let line = br"36 35 259:70000 / /mnt/a\040b\134c rw,noatime shared:1 - fuse.hermitfs hermit\040fs rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.device), (36, libc::makedev(259, 70_000)));
        assert_eq!(mount.path, Path::new("/mnt/a b\\c"));
        assert_eq!(
            (&*mount.kind, &*mount.source),
            ("fuse.hermitfs", "hermit fs")
        );
    }

    #[test]
    fn a_directory_is_told_from_a_mount_point() {
        assert_eq!(
            MountInfo::at(Path::new("/proc")).unwrap().unwrap().kind,
            "proc"
        );
        let here = tempfile::tempdir().unwrap();
        assert_eq!(MountInfo::at(here.path()).unwrap(), None);
    }
}
