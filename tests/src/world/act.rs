//! Doing an operation for real.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags,
};

use super::held::Held;
use super::operation::Operation;
use crate::odd::acl;
use crate::sys::Mapping;

const ACCESS: &str = "system.posix_acl_access";

/// Whether the file system has the operation at all; only holes and zeros may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// Yes, and it was done.
    Yes,
    /// It answered EOPNOTSUPP.
    NotSupported,
}

/// Does it below `base`.
pub(super) fn act(base: &Path, held: &mut Held, operation: &Operation) -> io::Result<Done> {
    use Operation::*;
    let full = |path: &str| {
        if path.is_empty() {
            base.to_owned()
        } else {
            base.join(path)
        }
    };
    let writing = || OpenOptions::new().write(true).to_owned();
    match operation {
        Create { path, mode } => {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(*mode)
                .open(full(path))?;
        }
        Mkdir { path, mode } => rustix::fs::mkdir(full(path), Mode::from_raw_mode(*mode))?,
        Symlink { path, target } => symlink(target, full(path))?,
        Fifo { path, mode } => {
            rustix::fs::mknodat(
                CWD,
                full(path),
                FileType::Fifo,
                Mode::from_raw_mode(*mode),
                0,
            )?;
        }
        Write {
            path,
            at,
            len,
            fill,
        } => {
            writing()
                .open(full(path))?
                .write_all_at(&Operation::bytes(*fill, *len), *at as u64)?;
        }
        Append { path, len, fill } => {
            let mut file = OpenOptions::new().append(true).open(full(path))?;
            file.write_all(&Operation::bytes(*fill, *len))?;
        }
        Overwrite { path, len, fill } => {
            let mut file = writing().truncate(true).open(full(path))?;
            file.write_all(&Operation::bytes(*fill, *len))?;
        }
        Truncate { path, len } => writing().open(full(path))?.set_len(*len as u64)?,
        Punch { path, at, len } => {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            return allocate(&writing().open(full(path))?, how, *at, *len);
        }
        Zero { path, at, len } => {
            return allocate(
                &writing().open(full(path))?,
                FallocateFlags::ZERO_RANGE,
                *at,
                *len,
            );
        }
        Map {
            path,
            at,
            len,
            fill,
        } => {
            let file = OpenOptions::new().read(true).write(true).open(full(path))?;
            let mut mapping = Mapping::new(&file, at + len, false)?;
            mapping.populate(*at, *len)?;
            mapping.store(*at, &Operation::bytes(*fill, *len));
            mapping.sync()?;
        }
        CopyRange { from, to, at, len } => {
            let (from, to) = (File::open(full(from))?, writing().open(full(to))?);
            let (mut source, mut target) = (0, *at as u64);
            let mut left = *len;
            while left > 0 {
                match rustix::fs::copy_file_range(
                    &from,
                    Some(&mut source),
                    &to,
                    Some(&mut target),
                    left,
                )? {
                    0 => break,
                    copied => left -= copied.min(left),
                }
            }
        }
        Fsync { path } => File::open(full(path))?.sync_all()?,
        Rename { from, to } => fs::rename(full(from), full(to))?,
        RenameNoReplace { from, to } => {
            rustix::fs::renameat_with(CWD, full(from), CWD, full(to), RenameFlags::NOREPLACE)?;
        }
        Exchange { a, b } => {
            rustix::fs::renameat_with(CWD, full(a), CWD, full(b), RenameFlags::EXCHANGE)?
        }
        Link { from, to } => rustix::fs::linkat(CWD, full(from), CWD, full(to), AtFlags::empty())?,
        Unlink { path } => rustix::fs::unlink(full(path))?,
        Rmdir { path } => rustix::fs::rmdir(full(path))?,
        Chmod { path, mode } => rustix::fs::chmod(full(path), Mode::from_raw_mode(*mode))?,
        Chown { path, uid, gid } => std::os::unix::fs::lchown(full(path), Some(*uid), Some(*gid))?,
        Times {
            path,
            seconds,
            nanoseconds,
        } => {
            let time = Timespec {
                tv_sec: *seconds,
                tv_nsec: *nanoseconds,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(CWD, full(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        SetXattr {
            path,
            name,
            len,
            fill,
        } => {
            rustix::fs::lsetxattr(
                full(path),
                name.as_str(),
                &Operation::bytes(*fill, *len),
                XattrFlags::empty(),
            )?;
        }
        RemoveXattr { path, name } => rustix::fs::lremovexattr(full(path), name.as_str())?,
        SetAcl {
            path,
            user,
            permissions,
            mode,
        } => {
            let value = acl(&[(0x02, *permissions, Some(*user))], *mode as u16);
            rustix::fs::lsetxattr(full(path), ACCESS, &value, XattrFlags::empty())?;
        }
        RemoveAcl { path } => match rustix::fs::lremovexattr(full(path), ACCESS) {
            Ok(()) | Err(rustix::io::Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        },
        Hold { path, slot } => {
            let file = OpenOptions::new().read(true).write(true).open(full(path))?;
            held.insert(*slot, file);
        }
        HeldWrite {
            slot,
            at,
            len,
            fill,
        } => {
            held.file(*slot)?
                .write_all_at(&Operation::bytes(*fill, *len), *at as u64)?;
        }
        HeldTruncate { slot, len } => held.file(*slot)?.set_len(*len as u64)?,
        HeldClose { slot } => held.close(*slot),
    }
    Ok(Done::Yes)
}

fn allocate(file: &File, how: FallocateFlags, at: usize, len: usize) -> io::Result<Done> {
    match rustix::fs::fallocate(file, how, at as u64, len as u64) {
        Ok(()) => Ok(Done::Yes),
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(Done::NotSupported),
        Err(error) => Err(error.into()),
    }
}
