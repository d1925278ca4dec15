//! Compounds: everything of an object in one go, and a file made whole in one go.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hermitfs_api::{
    Attr, Context, Fsx, Inode, Kind, Name, NameBuf, SetTime, Snapshot, Whole, Xattrs, is_small,
    xattr_names,
};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    self, AtFlags, Gid, IFlags, Mode, OFlags, Timestamps, Uid, fchmod, fchown, fgetxattr,
    flistxattr, fremovexattr, fsetxattr, futimens, openat, statx, unlinkat,
};
use rustix::io::{Errno, Result, pread, pwrite, retry_on_intr};

use crate::attr::{attr, stat, wanted};
use crate::brick::Brick;
use crate::meta::{fsx_of, growing, has_no_flags, time, without_doubles};
use crate::view::{Held, LOOK, View};
use crate::{caller, sys};

impl Brick {
    /// What each of the names stands for, until it is enough for one answer.
    pub(crate) fn snapshot(
        self: &Arc<Brick>,
        cx: &Context,
        dir: &Arc<Inode>,
        names: &[NameBuf],
        most: u64,
    ) -> Result<Vec<Result<Snapshot>>> {
        let view = self.view(cx);
        let held = self.hold_dir(view, dir)?;
        let (mut answers, mut bytes) = (Vec::with_capacity(names.len()), 0);
        for name in names {
            let answer = self.look_into(cx, view, (dir, &held), name, most);
            bytes += answer.as_ref().map_or(0, Snapshot::bytes);
            answers.push(answer);
            if bytes >= Snapshot::AT_ONCE {
                break;
            }
        }
        Ok(answers)
    }

    fn look_into(
        self: &Arc<Brick>,
        cx: &Context,
        view: &View,
        (dir, held): (&Arc<Inode>, &Held<'_>),
        name: &Name,
        most: u64,
    ) -> Result<Snapshot> {
        // Looked at first, and opened when it is known to be no device or fifo.
        let fd = openat(held, name.as_bytes(), LOOK, Mode::empty())?;
        let entry = self.capture(view, fd, Some((dir, name)))?;
        let inode = &entry.inode;
        if !matches!(inode.kind(), Kind::File | Kind::Directory) {
            let content = match inode.kind() {
                Kind::Symlink => Some(self.readlink(cx, inode)?),
                _ => None,
            };
            let list = self.listxattr(cx, inode)?;
            let xattrs = values(&list, |name| self.getxattr(cx, inode, name))?;
            return Ok(Snapshot {
                entry,
                content,
                xattrs,
                fsx: Fsx::default(),
            });
        }
        let fd = self.reopen(view, inode, OFlags::RDONLY)?;
        let content = match is_small(&entry.attr, most) && !shares(&fd, &entry.attr) {
            true => Some(read_all(&fd, entry.attr.size)?),
            false => None,
        };
        let xattrs = values(&names_of(&fd)?, |name| {
            growing(|buffer| fgetxattr(&fd, name, spare_capacity(buffer)))
        })?;
        let fsx = match fsx_of(fd.as_fd()) {
            Err(error) if has_no_flags(error) => Fsx::default(),
            fsx => fsx?,
        };
        Ok(Snapshot {
            entry,
            content,
            xattrs,
            fsx,
        })
    }

    /// Makes files, as root. Nobody above has to know the objects, so they get no inode.
    pub(crate) fn make_whole(
        &self,
        cx: &Context,
        dir: &Inode,
        files: &[Whole],
    ) -> Result<Vec<Result<Attr>>> {
        let view = self.to_change(cx)?;
        let at = self.hold_dir(view, dir)?;
        Ok(files.iter().map(|file| make(cx, &at, file)).collect())
    }
}

/// Whether a file has space in common with others; what cannot be told has not.
fn shares(fd: &OwnedFd, attr: &Attr) -> bool {
    attr.size >= Snapshot::SHARED_FROM
        && sys::extents(fd.as_fd(), 0).is_ok_and(|(some, _)| some.iter().any(|some| some.shared))
}

/// The values of attributes; those that went since they were listed, or are listed but not kept,
/// are left out.
fn values(list: &[u8], value: impl Fn(&[u8]) -> Result<Vec<u8>>) -> Result<Xattrs> {
    let (mut all, mut bytes) = (Xattrs::new(), 0);
    for name in xattr_names(list) {
        match value(name) {
            Ok(value) => {
                bytes += name.len() + value.len();
                if bytes > Snapshot::XATTRS_AT_MOST {
                    return Err(Errno::TOOBIG);
                }
                all.push((name.into(), value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn names_of(fd: &OwnedFd) -> Result<Vec<u8>> {
    match growing(|buffer| flistxattr(fd, spare_capacity(buffer))) {
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        list => Ok(without_doubles(list?)),
    }
}

fn read_all(fd: &OwnedFd, size: u64) -> Result<Vec<u8>> {
    let (mut content, mut got) = (vec![0; size as usize], 0);
    while let Some(rest) = content.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match retry_on_intr(|| pread(fd, &mut *rest, got as u64))? {
            0 => break,
            more => got += more,
        }
    }
    content.truncate(got);
    Ok(content)
}

fn make(cx: &Context, at: &Held<'_>, file: &Whole) -> Result<Attr> {
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    let name = file.name.as_bytes();
    // Reachable for nobody until it is whole.
    let fd = caller::making(cx, Some(0), false, || openat(at, name, new, Mode::empty()))?;
    let done = fill(&fd, file);
    if done.is_err() {
        // Whether this comes off or not, what went wrong first is told.
        let _ = take_back(&fd, at, name);
    }
    done
}

fn fill(fd: &OwnedFd, file: &Whole) -> Result<Attr> {
    let mut done = 0;
    while let Some(rest) = file.content.get(done..).filter(|rest| !rest.is_empty()) {
        match retry_on_intr(|| pwrite(fd, rest, done as u64))? {
            0 => return Err(Errno::NOSPC),
            more => done += more,
        }
    }
    // Root's own it is already, but for the group that a set-gid directory gives.
    let owner = (file.uid, file.gid);
    let mut attr = dress(fd, file, owner != (0, 0))?;
    if owner != (attr.uid, attr.gid) {
        attr = dress(fd, file, true)?;
    }
    // Last, as flags may forbid all else. It may be made with some of its directory's.
    let there = match fsx_of(fd.as_fd()) {
        // None to be had, and none wanted.
        Err(error) if has_no_flags(error) && file.flags & file.mask == 0 && file.project == 0 => {
            return Ok(attr);
        }
        there => there?,
    };
    if there.project != file.project {
        let project = file.project;
        sys::set_fsx(fd.as_fd(), &Fsx { project, ..there })?;
    }
    let wanted = there.flags & !file.mask | file.flags & file.mask;
    if wanted != there.flags {
        fs::ioctl_setflags(fd, IFlags::from_bits_retain(wanted))?;
    }
    Ok(attr)
}

/// Owner, mode, extended attributes, times, in this order: each takes away or bends of what
/// comes after it, if at all.
fn dress(fd: &OwnedFd, file: &Whole, own: bool) -> Result<Attr> {
    if own {
        let owner = Some(Uid::from_raw(file.uid));
        fchown(fd, owner, Some(Gid::from_raw(file.gid)))?;
    }
    fchmod(fd, Mode::from_raw_mode(file.mode & 0o7777))?;
    // A directory's default ACL, and security modules, give some to every new file.
    for name in xattr_names(&names_of(fd)?) {
        if file.xattrs.iter().any(|(wanted, _)| **wanted == *name) {
            continue;
        }
        match fremovexattr(fd, name) {
            Err(Errno::NODATA) => {}
            Err(_) if Whole::may_stay(name) => {}
            done => done?,
        }
    }
    for (name, value) in &file.xattrs {
        fsetxattr(fd, &**name, value, fs::XattrFlags::empty())?;
    }
    let times = Timestamps {
        last_access: time(Some(SetTime::At(file.atime))),
        last_modification: time(Some(SetTime::At(file.mtime))),
    };
    futimens(fd, &times)?;
    attr(&stat(fd)?)
}

/// Takes the name away if it still leads to this file.
fn take_back(fd: &OwnedFd, at: &Held<'_>, name: &[u8]) -> Result<()> {
    let ours = stat(fd)?;
    let there = statx(at.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW, wanted())?;
    let place = |stat: &fs::Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    match place(&ours) == place(&there) {
        true => unlinkat(at, name, AtFlags::empty()),
        false => Ok(()),
    }
}
