//! Where an object stands. For a directory the kernel knows; for anything else there is the name
//! by which it was last seen.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hermitfs_api::{Context, Entry, Handle, Inode, Kind, Location, Name, NameBuf};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags, openat, openat2, readlink, statx};
use rustix::io::{Errno, Result};

use crate::attr::{stat, wanted};
use crate::brick::Brick;
use crate::handle::{self, Opened};
use crate::view::{Held, LIST, LOOK, View};

/// How often a directory has to be found outside before that is believed.
const INSISTENCE: u32 = 20;

/// How often to look again where somebody renamed a directory above meanwhile.
const PATIENCE: usize = 8;
/// No directory is deeper; where the way up is longer, it goes round in circles.
const DEEPEST: usize = 1 << 20;

impl Brick {
    pub(crate) fn handle(&self, inode: &Inode) -> Result<Handle> {
        let identity = inode.identity();
        match &self.node(inode)?.handle {
            Some(handle) => handle.seal(self.id).ok_or(Errno::OPNOTSUPP),
            // Always held, so the number always leads to it.
            None if identity == self.root => Ok(handle::seal_number(
                self.id,
                identity.ino,
                identity.generation,
            )),
            // A number would lead back only while somebody holds the object: no handle at all,
            // so that who needs it knows to hold it.
            None => Err(Errno::OPNOTSUPP),
        }
    }

    pub(crate) fn resolve(self: &Arc<Brick>, cx: &Context, handle: &Handle) -> Result<Entry> {
        let view = self.view(cx);
        let entry = match handle::open(self.id, handle).ok_or(Errno::STALE)? {
            Opened::ByKernel(handle) => {
                let fd = self.by_handle(view, &handle).map_err(|error| match error {
                    Errno::INVAL | Errno::OVERFLOW => Errno::STALE, // not even the form is right
                    error => error,
                })?;
                self.capture(view, fd, None)?
            }
            Opened::ByNumber { ino, generation } => {
                // Only the root's own device can be meant: what has subvolumes has handles.
                let identity = hermitfs_api::Identity {
                    dev: self.root.dev,
                    ino,
                    generation,
                };
                let inode = self.table.get(identity).ok_or(Errno::STALE)?;
                let attr = self.getattr(cx, &inode, None)?;
                Entry { inode, attr }
            }
        };
        if entry.attr.nlink == 0 {
            return Err(Errno::STALE);
        }
        if entry.attr.kind == Kind::Directory {
            // A handle leads anywhere on the file system. What is no directory has no way up by
            // which to tell; our handles of it were made inside.
            self.must_be_inside(&entry.inode)?;
        }
        Ok(entry)
    }

    /// ESTALE for a directory outside the brick, and for nothing else: while directories above it
    /// are moved about a way up can fail too, so one failure is not believed.
    fn must_be_inside(self: &Arc<Brick>, dir: &Inode) -> Result<()> {
        for _ in 0..INSISTENCE {
            match self.is_inside(dir) {
                Err(Errno::STALE | Errno::NOENT) => std::thread::yield_now(),
                found => return found,
            }
        }
        self.is_inside(dir)
    }

    /// On a clone of the brick's own the kernel looks whether the way up comes by its root before it lets
    /// anybody take a step up (path_connected in fs/namei.c). That is one call, however deep the directory is.
    fn is_inside(self: &Arc<Brick>, dir: &Inode) -> Result<()> {
        if dir.identity() == self.root {
            return Ok(());
        }
        let view = self.home(dir)?;
        if !(self.quiet_is_kept_by_kernel && std::ptr::eq(view, &self.quiet)) {
            return self.path_of(dir).map(drop);
        }
        let fd = self.hold(view, dir)?;
        must_have_a_name(&fd)?;
        go_up(&fd, LOOK).map(drop)
    }

    pub(crate) fn locate(self: &Arc<Brick>, inode: &Inode) -> Result<Location> {
        if inode.kind() == Kind::Directory {
            return Ok(Location {
                path: self.path_of(inode)?,
            });
        }
        let (dir, name) = self.node(inode)?.last_seen().ok_or(Errno::NOENT)?;
        match self.path_of(&dir) {
            Ok(mut path) => {
                path.push(name);
                Ok(Location { path })
            }
            Err(Errno::STALE) => Err(Errno::NOENT),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn whence(self: &Arc<Brick>, inode: &Inode) -> Result<(Arc<Inode>, NameBuf)> {
        if inode.identity() == self.root {
            return Err(Errno::NOENT);
        }
        if inode.kind() != Kind::Directory {
            return self.node(inode)?.last_seen().ok_or(Errno::NOENT);
        }
        match self.above(inode) {
            Err(Errno::STALE) => Err(Errno::NOENT),
            found => found,
        }
    }

    /// The directory above a directory, and the name there. ESTALE when it is removed, or outside. Costs no more
    /// the deeper it is, where the name is the one that it was last seen under.
    fn above(self: &Arc<Brick>, inode: &Inode) -> Result<(Arc<Inode>, NameBuf)> {
        let view = self.home(inode)?;
        let fd = self.hold(view, inode)?;
        let hint = self.node(inode)?.last_name();
        let mut up = go_up(&fd, LOOK)?;
        let name = match hint.filter(|name| self.stands_at(view, &up, name, inode)) {
            Some(name) => name,
            None => {
                let name;
                (up, name) = self.found_above(view, &fd, inode)?;
                self.node(inode)?.called(&name);
                name
            }
        };
        Ok((self.capture(view, up, None)?.inode, name))
    }

    /// The same with the name that the kernel has for it, or that the directory above lists.
    fn found_above(&self, view: &View, fd: &Held<'_>, inode: &Inode) -> Result<(OwnedFd, NameBuf)> {
        for _ in 0..PATIENCE {
            let path = match readlink(fd.proc_path(), Vec::new()) {
                Ok(path) => path,
                // Longer than the kernel tells.
                Err(Errno::NAMETOOLONG) => break,
                Err(error) => return Err(error),
            };
            let up = go_up(fd, LOOK)?;
            let name = path
                .as_bytes()
                .rsplit(|&b| b == b'/')
                .next()
                .unwrap_or_default();
            if let Ok(name) = NameBuf::new(name)
                && self.stands_at(view, &up, &name, inode)
            {
                return Ok((up, name));
            }
            must_have_a_name(fd)?;
        }
        let up = go_up(fd, LIST)?;
        let identity = inode.identity();
        let name = name_of(&up, identity.dev, identity.ino)?;
        Ok((openat(&up, c".", LOOK, Mode::empty())?, name))
    }

    fn stands_at(&self, view: &View, dir: &OwnedFd, name: &Name, inode: &Inode) -> bool {
        let there = openat(dir, name.as_bytes(), LOOK, Mode::empty());
        there.is_ok_and(|there| self.is(view, &there, inode))
    }

    fn is(&self, view: &View, fd: &OwnedFd, inode: &Inode) -> bool {
        self.identify(view, fd.as_fd())
            .is_ok_and(|found| found.identity == inode.identity())
    }

    /// Where to look for a directory's place: on the private clone, whose paths begin at the
    /// brick's root. A pinned one is on the plain mount.
    fn home(&self, dir: &Inode) -> Result<&View> {
        let pinned = self.node(dir)?.pin.get().is_some();
        Ok(if pinned { &self.plain } else { &self.quiet })
    }

    /// Names from the root down to a directory. ESTALE when it is removed, or outside.
    fn path_of(self: &Arc<Brick>, dir: &Inode) -> Result<Vec<NameBuf>> {
        if dir.identity() == self.root {
            return Ok(Vec::new());
        }
        let view = self.home(dir)?;
        let fd = self.hold(view, dir)?;
        for _ in 0..PATIENCE {
            let (path, top) = match (readlink(fd.proc_path(), Vec::new()), self.top(view)) {
                (Ok(path), Ok(top)) => (path, top),
                (Err(Errno::NAMETOOLONG), _) | (_, Err(Errno::NAMETOOLONG)) => break,
                (Err(error), _) | (_, Err(error)) => return Err(error),
            };
            if let Some(path) = path.as_bytes().strip_prefix(top.as_slice())
                && let Some(names) = names(path)
                && self.leads_to(path, dir)
            {
                return Ok(names);
            }
            must_have_a_name(&fd)?;
        }
        self.climb(dir)
    }

    /// What the path in proc of everything below the root begins with.
    fn top(&self, view: &View) -> Result<Vec<u8>> {
        let quiet = self.quiet_is_kept_by_kernel && std::ptr::eq(view, &self.quiet);
        if quiet || self.plain_is_alone {
            return Ok(Vec::new());
        }
        let root = Held::Lent(view.root.as_fd());
        let path = readlink(root.proc_path(), Vec::new())?.into_bytes();
        Ok(if path == b"/" { Vec::new() } else { path })
    }

    /// Whether a path, as proc told it, leads from the root to this directory. For a directory
    /// that was moved out of the brick proc tells some path as well.
    fn leads_to(&self, path: &[u8], dir: &Inode) -> bool {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let inside = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let flags = LOOK | OFlags::DIRECTORY;
        let there = openat2(&self.quiet.root, path, flags, Mode::empty(), inside);
        there.is_ok_and(|there| self.is(&self.quiet, &there, dir))
    }

    /// The same by walking up: for paths longer than the kernel tells. ESTALE when the way up does
    /// not come by the root.
    fn climb(self: &Arc<Brick>, dir: &Inode) -> Result<Vec<NameBuf>> {
        let (mut here, name) = self.step_up(dir)?;
        let mut path = vec![name];
        for _ in 0..DEEPEST {
            if here.identity() == self.root {
                path.reverse();
                return Ok(path);
            }
            let (above, name) = self.step_up(&here)?;
            if above.identity() == here.identity() {
                return Err(Errno::STALE);
            }
            path.push(name);
            here = above;
        }
        Err(Errno::STALE)
    }

    fn step_up(self: &Arc<Brick>, dir: &Inode) -> Result<(Arc<Inode>, NameBuf)> {
        self.above(dir).map_err(|error| match error {
            Errno::XDEV => Errno::STALE, // by a mount point, and out
            error => error,
        })
    }
}

/// Opens the directory above. ESTALE for one that was moved out: from a clone of the brick's
/// mount the kernel does not let `..` lead to where its root cannot reach.
fn go_up(dir: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    openat(dir, c"..", flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => Errno::STALE,
        error => error,
    })
}

/// ESTALE for a directory that was removed.
fn must_have_a_name(dir: impl AsFd) -> Result<()> {
    if stat(dir)?.stx_nlink == 0 {
        Err(Errno::STALE)
    } else {
        Ok(())
    }
}

/// A path's names; `None` when it is no path from a root.
fn names(path: &[u8]) -> Option<Vec<NameBuf>> {
    let path = path.strip_prefix(b"/")?;
    path.split(|&b| b == b'/')
        .map(|name| NameBuf::new(name).ok())
        .collect()
}

/// Under which name a directory stands in the one above it. The numbers in the entries of a
/// directory tell, but for those of mount points and subvolumes.
fn name_of(above: &OwnedFd, dev: u64, ino: u64) -> Result<NameBuf> {
    let is = |name: &std::ffi::CStr| {
        let told = statx(above, name, AtFlags::SYMLINK_NOFOLLOW, wanted());
        let attr = told.and_then(|told| crate::attr::attr(&told));
        attr.is_ok_and(|attr| attr.dev == dev && attr.ino == ino)
    };
    for by_number in [true, false] {
        rustix::fs::seek(above, rustix::fs::SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(above, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if (entry.ino() == ino) == by_number
                && let Ok(name_buf) = NameBuf::new(name.to_bytes())
                && is(name)
            {
                return Ok(name_buf);
            }
        }
    }
    Err(Errno::STALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_falls_into_its_names() {
        let text = |path: &[u8]| names(path).map(|path| Location { path }.display());
        assert_eq!(text(b"/a/b c").as_deref(), Some("/a/b c"));
        assert_eq!(text(b"a/b"), None);
        assert_eq!(text(b"/a//b"), None);
        assert_eq!(text(b"/"), None);
    }
}
