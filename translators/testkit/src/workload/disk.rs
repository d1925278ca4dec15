use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use hermitfs_api::{Errno, Time, XattrFlags};
use rustix::fs::{AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno as Raw;

use super::{Answer, Data, Op, UMASK, split};
use crate::tree::disk::Found;

/// A directory on disk, or in a mount, on which operations run as system calls.
pub struct Disk(OwnedFd);

impl Disk {
    /// Opens it. **Sets the umask of this process to 0o022**, which operations rely on.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Disk> {
        rustix::process::umask(Mode::from_raw_mode(UMASK));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Disk(rustix::fs::open(path.as_ref(), flags, Mode::empty())?))
    }
}

impl Op {
    /// Runs it on a directory, as this process' user.
    pub fn on_disk(&self, disk: &Disk) -> Answer {
        match self.calls(disk.0.as_fd()) {
            Ok(answer) => answer,
            Err(error) => self.refused(Errno::from_raw(error.raw_os_error())),
        }
    }

    fn calls(&self, root: BorrowedFd<'_>) -> Result<Answer, Raw> {
        let place = Place::of(root, self.path());
        if let Op::Link { new, .. } | Op::Rename { new, .. } = self {
            return self.two(&place?, Place::of(root, new));
        }
        let Place { dir, name } = &place?;
        let mode = |mode: u32| Mode::from_raw_mode(mode);
        match self {
            Op::Create { mode: bits, .. } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                rustix::fs::openat(dir, name, flags, mode(*bits))?;
            }
            Op::Mkdir { mode: bits, .. } => rustix::fs::mkdirat(dir, name, mode(*bits))?,
            Op::Mkfifo { mode: bits, .. } => {
                rustix::fs::mknodat(dir, name, FileType::Fifo, mode(*bits), 0)?;
            }
            Op::Symlink { target, .. } => rustix::fs::symlinkat(target, dir, name)?,
            Op::Unlink { .. } => rustix::fs::unlinkat(dir, name, AtFlags::empty())?,
            Op::Rmdir { .. } => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?,
            Op::Write { at, data, .. } => return write(&file(dir, name)?, *at, *data),
            Op::Append { data, .. } => {
                let file = file(dir, name)?;
                return write(&file, rustix::fs::fstat(&file)?.st_size as u64, *data);
            }
            Op::Truncate { size, .. } => {
                // What truncate(2) says of a directory open(2) would say differently.
                if kind(dir, name)? == FileType::Directory {
                    return Err(Raw::ISDIR);
                }
                rustix::fs::ftruncate(file(dir, name)?, *size)?;
            }
            Op::Fallocate { how, at, len, .. } => {
                let bits = FallocateFlags::from_bits_retain(how.bits() as u32);
                rustix::fs::fallocate(file(dir, name)?, bits, *at, *len)?;
            }
            Op::Chmod { mode: bits, .. } => {
                if kind(dir, name)? == FileType::Symlink {
                    return Err(Raw::OPNOTSUPP);
                }
                rustix::fs::chmodat(dir, name, mode(*bits), AtFlags::empty())?;
            }
            Op::Chown { uid, gid, .. } => {
                let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Op::Utimes { mtime, .. } => {
                let Time { sec, nsec } = *mtime;
                let time = Timespec {
                    tv_sec: sec,
                    tv_nsec: nsec.into(),
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Op::SetXattr {
                name: xattr,
                value,
                flags,
                ..
            } => {
                let flags = match flags {
                    XattrFlags::Any => rustix::fs::XattrFlags::empty(),
                    XattrFlags::Create => rustix::fs::XattrFlags::CREATE,
                    XattrFlags::Replace => rustix::fs::XattrFlags::REPLACE,
                };
                rustix::fs::lsetxattr(proc_path(dir, name)?, xattr, value, flags)?;
            }
            Op::RemoveXattr { name: xattr, .. } => {
                rustix::fs::lremovexattr(proc_path(dir, name)?, xattr)?;
            }
            Op::Look { .. } => {
                let mut node = Found::at(dir.as_fd(), name)?.node;
                node.mtime = Time::default();
                return Ok(Answer::Seen(Box::new(node)));
            }
            Op::List { .. } => return names(dir, name),
            Op::Link { .. } | Op::Rename { .. } => {}
        }
        Ok(Answer::Done)
    }

    fn two(&self, from: &Place, to: Result<Place, Raw>) -> Result<Answer, Raw> {
        match self {
            Op::Rename { flags, .. } => {
                let bits = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
                let to = to?;
                rustix::fs::renameat_with(&from.dir, &from.name, &to.dir, &to.name, bits)?;
            }
            _ => {
                kind(&from.dir, &from.name)?;
                let to = to?;
                rustix::fs::linkat(&from.dir, &from.name, &to.dir, &to.name, AtFlags::empty())?;
            }
        }
        Ok(Answer::Done)
    }
}

/// A directory and a name in it.
struct Place {
    dir: OwnedFd,
    name: CString,
}

impl Place {
    /// Step by step, through directories alone.
    fn of(root: BorrowedFd<'_>, path: &str) -> Result<Place, Raw> {
        let (dirs, name) = split(path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir = rustix::fs::openat(root, c".", flags, Mode::empty())?;
        for name in dirs {
            dir = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
        }
        Ok(Place {
            dir,
            name: CString::new(name).map_err(|_| Raw::INVAL)?,
        })
    }
}

fn kind(dir: &OwnedFd, name: &CString) -> Result<FileType, Raw> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// Opens a regular file; what is none is EINVAL, as the contract has it.
fn file(dir: &OwnedFd, name: &CString) -> Result<OwnedFd, Raw> {
    if kind(dir, name)? != FileType::RegularFile {
        return Err(Raw::INVAL);
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

fn proc_path(dir: &OwnedFd, name: &CString) -> Result<CString, Raw> {
    let prefix = format!("/proc/self/fd/{}/", dir.as_raw_fd());
    CString::new([prefix.as_bytes(), name.as_bytes()].concat()).map_err(|_| Raw::INVAL)
}

fn write(file: &OwnedFd, at: u64, data: Data) -> Result<Answer, Raw> {
    let bytes = data.bytes();
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::io::pwrite(file, &bytes[done..], at + done as u64)?;
    }
    let mut again = vec![0; data.len];
    let mut len = 0;
    while len < again.len() {
        match rustix::io::pread(file, &mut again[len..], at + len as u64)? {
            0 => break,
            read => len += read,
        }
    }
    Ok(if again == bytes {
        Answer::Done
    } else {
        Answer::NotReadBack
    })
}

fn names(dir: &OwnedFd, name: &CString) -> Result<Answer, Raw> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let here = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(here)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    Ok(Answer::Names(names))
}
