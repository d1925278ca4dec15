use std::os::fd::{AsFd, BorrowedFd};

use hermitfs_api::{
    Attr, Context, File, Fsx, Inode, Kind, SetAttr, SetTime, StatFs, Time, XattrFlags,
};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    self, AtFlags, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    chmod, chownat, fgetxattr, flistxattr, fremovexattr, fsetxattr, ftruncate, getxattr, listxattr,
    readlinkat, removexattr, setxattr, utimensat,
};
use rustix::io::{Errno, Result};

use crate::attr::{attr, stat};
use crate::brick::Brick;
use crate::view::{Held, View};
use crate::{caller, sys};

/// The longest value, and list of names, that Linux has (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_MAX: usize = 64 << 10;
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

impl Brick {
    pub(crate) fn getattr(&self, cx: &Context, inode: &Inode, file: Option<&File>) -> Result<Attr> {
        match file {
            Some(file) => attr(&stat(&self.opened(file)?.fd)?),
            None => attr(&stat(self.hold_or_ours(cx, inode)?)?),
        }
    }

    pub(crate) fn setattr(
        &self,
        cx: &Context,
        inode: &Inode,
        file: Option<&File>,
        set: &SetAttr,
    ) -> Result<Attr> {
        let view = self.to_change(cx)?;
        if let Some(size) = set.size {
            self.truncate(cx, view, inode, file, size)?;
        }
        let held = match file {
            Some(file) => Held::Lent(self.opened(file)?.fd.as_fd()),
            None => self.hold(view, inode)?,
        };
        if set.uid.is_some() || set.gid.is_some() {
            // The kernel takes set-id bits and capabilities away here, whoever does it.
            let owner = set.uid.map(Uid::from_raw);
            let group = set.gid.map(Gid::from_raw);
            chownat(&held, c"", owner, group, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = set.mode {
            change_mode(&held, mode & 0o7777)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let times = Timestamps {
                last_access: time(set.atime),
                last_modification: time(set.mtime),
            };
            utimensat(&held, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        attr(&stat(&held)?)
    }

    fn truncate(
        &self,
        cx: &Context,
        view: &View,
        inode: &Inode,
        file: Option<&File>,
        size: u64,
    ) -> Result<()> {
        match inode.kind() {
            Kind::File => {}
            Kind::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        if let Some(file) = file.filter(|file| file.flags().writes()) {
            let fd = &self.opened(file)?.fd;
            let _caller = caller::writing(cx)?;
            return ftruncate(fd, size);
        }
        let fd = self.reopen(view, inode, OFlags::WRONLY)?;
        let _caller = caller::writing(cx)?;
        ftruncate(&fd, size)
    }

    pub(crate) fn readlink(&self, cx: &Context, inode: &Inode) -> Result<Vec<u8>> {
        if inode.kind() != Kind::Symlink {
            return Err(Errno::INVAL);
        }
        let held = self.hold(self.view(cx), inode)?;
        Ok(readlinkat(&held, c"", Vec::new())?.into_bytes())
    }

    pub(crate) fn getxattr(&self, cx: &Context, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        match self.for_xattrs(cx, self.view(cx), inode)? {
            Way::Fd(fd) => growing(|buffer| fgetxattr(&fd, name, spare_capacity(buffer))),
            Way::Path(_held, path) => {
                growing(|buffer| getxattr(path.as_str(), name, spare_capacity(buffer)))
            }
        }
    }

    pub(crate) fn listxattr(&self, cx: &Context, inode: &Inode) -> Result<Vec<u8>> {
        let list = match self.for_xattrs(cx, self.view(cx), inode)? {
            Way::Fd(fd) => growing(|buffer| flistxattr(&fd, spare_capacity(buffer))),
            Way::Path(_held, path) => {
                growing(|buffer| listxattr(path.as_str(), spare_capacity(buffer)))
            }
        };
        match list {
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            list => Ok(without_doubles(list?)),
        }
    }

    pub(crate) fn setxattr(
        &self,
        cx: &Context,
        inode: &Inode,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        let view = self.to_change(cx)?;
        let flags = match flags {
            XattrFlags::Any => fs::XattrFlags::empty(),
            XattrFlags::Create => fs::XattrFlags::CREATE,
            XattrFlags::Replace => fs::XattrFlags::REPLACE,
        };
        let way = self.for_xattrs(cx, view, inode)?;
        let set = || match &way {
            Way::Fd(fd) => fsetxattr(fd, name, value, flags),
            Way::Path(_held, path) => setxattr(path.as_str(), name, value, flags),
        };
        if name == ACCESS_ACL && cx.uid != 0 {
            // An owner who is not of the file's group loses its set-gid bit by this.
            caller::owning(cx, set)
        } else {
            set()
        }
    }

    pub(crate) fn removexattr(&self, cx: &Context, inode: &Inode, name: &[u8]) -> Result<()> {
        match self.for_xattrs(cx, self.to_change(cx)?, inode)? {
            Way::Fd(fd) => fremovexattr(fd, name),
            Way::Path(_held, path) => removexattr(path.as_str(), name),
        }
    }

    /// A regular file opened to read takes its xattrs by descriptor, which is quicker; all else
    /// by its path in proc, which leads to a symbolic link itself.
    fn for_xattrs<'a>(&'a self, cx: &Context, view: &'a View, inode: &'a Inode) -> Result<Way<'a>> {
        if let Some(fd) = self.ours(cx, inode) {
            return Ok(Way::Fd(Held::Shared(fd)));
        }
        if inode.kind() == Kind::File {
            let fd = self.reopen(view, inode, OFlags::RDONLY)?;
            return Ok(Way::Fd(Held::Own(fd)));
        }
        let held = self.hold(view, inode)?;
        let path = held.proc_path();
        Ok(Way::Path(held, path))
    }

    pub(crate) fn get_flags(&self, cx: &Context, inode: &Inode) -> Result<u32> {
        let fd = self.for_flags(cx, self.view(cx), inode)?;
        Ok(fs::ioctl_getflags(fd)?.bits())
    }

    pub(crate) fn set_flags(&self, cx: &Context, inode: &Inode, flags: u32) -> Result<()> {
        let fd = self.for_flags(cx, self.to_change(cx)?, inode)?;
        fs::ioctl_setflags(fd, IFlags::from_bits_retain(flags))
    }

    pub(crate) fn get_fsx(&self, cx: &Context, inode: &Inode) -> Result<Fsx> {
        let fd = self.for_flags(cx, self.view(cx), inode)?;
        fsx_of(fd.as_fd())
    }

    pub(crate) fn set_fsx(&self, cx: &Context, inode: &Inode, fsx: &Fsx) -> Result<()> {
        let fd = self.for_flags(cx, self.to_change(cx)?, inode)?;
        sys::set_fsx(fd.as_fd(), fsx)
    }

    fn for_flags(&self, cx: &Context, view: &View, inode: &Inode) -> Result<Held<'static>> {
        if let Some(fd) = self.ours(cx, inode) {
            return Ok(Held::Shared(fd));
        }
        match inode.kind() {
            Kind::File | Kind::Directory => self.reopen(view, inode, OFlags::RDONLY).map(Held::Own),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    pub(crate) fn statfs(&self, cx: &Context, inode: &Inode) -> Result<StatFs> {
        self.node(inode)?;
        let told = fs::fstatvfs(&self.view(cx).root)?;
        let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(StatFs {
            fsid: self.file_system,
            frsize: small(told.f_frsize),
            bsize: small(told.f_bsize),
            blocks: told.f_blocks,
            bfree: told.f_bfree,
            bavail: told.f_bavail,
            files: told.f_files,
            ffree: told.f_ffree,
            namelen: small(told.f_namemax),
        })
    }
}

/// Inode flags and the rest. Some file systems have flags alone.
pub(crate) fn fsx_of(fd: BorrowedFd<'_>) -> Result<Fsx> {
    let (flags, fsx) = (fs::ioctl_getflags(fd), sys::get_fsx(fd));
    match (flags, fsx) {
        (Ok(flags), Ok(fsx)) => Ok(Fsx {
            flags: flags.bits(),
            ..fsx
        }),
        (Ok(flags), Err(error)) if has_no_flags(error) => Ok(Fsx {
            flags: flags.bits(),
            xflags: Fsx::twins_of(flags.bits()),
            ..Fsx::default()
        }),
        (Err(error), Ok(fsx)) if has_no_flags(error) => Ok(Fsx {
            flags: fsx.flags_with(0),
            ..fsx
        }),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// What file systems without inode flags answer.
pub(crate) fn has_no_flags(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL
    )
}

/// How to come to an object's xattrs.
enum Way<'a> {
    Fd(Held<'a>),
    Path(Held<'a>, String),
}

/// Calls again with more room while there is too little.
pub(crate) fn growing(call: impl Fn(&mut Vec<u8>) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(256);
    loop {
        match call(&mut buffer) {
            Err(Errno::RANGE) if buffer.capacity() < XATTR_MAX => {
                buffer = Vec::with_capacity(XATTR_MAX);
            }
            Err(error) => return Err(error),
            Ok(_) => {
                if buffer.capacity() == XATTR_MAX {
                    buffer.shrink_to_fit();
                }
                return Ok(buffer);
            }
        }
    }
}

fn change_mode(held: &Held<'_>, mode: u32) -> Result<()> {
    match sys::fchmodat2(held.as_fd(), mode) {
        // Before Linux 6.6.
        Err(Errno::NOSYS) => chmod(held.proc_path(), Mode::from_raw_mode(mode)),
        done => done,
    }
}

pub(crate) fn time(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        Some(SetTime::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        Some(SetTime::At(Time { sec, nsec })) => Timespec {
            tv_sec: sec,
            tv_nsec: nsec.min(999_999_999).into(),
        },
    }
}

/// xfs lists an ACL twice for root: as such, and by the name under which it keeps it. Only the
/// first means anything elsewhere.
pub(crate) fn without_doubles(list: Vec<u8>) -> Vec<u8> {
    const DOUBLE: &[u8] = b"trusted.SGI_ACL_";
    let is_double = |name: &[u8]| name.starts_with(DOUBLE);
    if !list.split(|byte| *byte == 0).any(is_double) {
        return list;
    }
    list.split_inclusive(|byte| *byte == 0)
        .filter(|name| !is_double(name))
        .flatten()
        .copied()
        .collect()
}
