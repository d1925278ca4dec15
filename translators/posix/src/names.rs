//! Operations that make, move and take away names.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hermitfs_api::{Context, Entry, File, Inode, Kind, Make, Name, OpenFlags, RenameFlags};
use rustix::fs::{
    self, AtFlags, CWD, FileType, Mode, OFlags, linkat, mkdirat, mknodat, openat, renameat_with,
    symlinkat, unlinkat,
};
use rustix::io::{Errno, Result};

use crate::brick::Brick;
use crate::caller;
use crate::data::open_flags;
use crate::node::Pin;
use crate::shares::Share;
use crate::table;
use crate::view::{Held, LOOK};

/// What stood at a name that goes: held, so that it lives on for those who have it open.
struct Victim {
    fd: OwnedFd,
    /// As somebody above knows it; what nobody knows needs no care.
    inode: Option<Arc<Inode>>,
    last_name: bool,
    /// What whoever takes it away may hold of it; `None` where it does not go, or he holds his share already.
    stays: Option<Stays>,
}

/// The descriptor of a victim may stay, and counts as this.
struct Stays(Option<Share>);

impl Victim {
    /// Whether somebody holds what goes with this name for good: he keeps it, by a descriptor.
    fn outlives(&self) -> bool {
        self.last_name && self.inode.is_some()
    }

    /// It is to go. Who holds all that he may can still remove: that is how he gets out of it. Then no descriptor
    /// stays: who has the object open goes on, and its handle leads there meanwhile; who only knows it has ESTALE.
    fn going(mut self, cx: &Context) -> Victim {
        if self.outlives() {
            self.stays = Share::take(cx).ok().map(Stays);
        }
        self
    }
}

impl Brick {
    pub(crate) fn lookup(
        self: &Arc<Brick>,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
    ) -> Result<Entry> {
        let view = self.view(cx);
        let fd = self.hold_name(view, dir, name)?;
        self.capture(view, fd, Some((dir, name)))
    }

    pub(crate) fn mknod(
        self: &Arc<Brick>,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        make: &Make,
    ) -> Result<Entry> {
        let kind = match make.kind {
            Kind::File => FileType::RegularFile,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Directory | Kind::Symlink => return Err(Errno::INVAL),
        };
        let rdev = if make.kind.is_device() { make.rdev } else { 0 };
        let mode = Mode::from_raw_mode(make.mode & 0o7777);
        {
            let at = self.hold_dir(self.to_change(cx)?, dir)?;
            caller::making(cx, Some(make.umask), groups_matter(make.mode), || {
                mknodat(&at, name.as_bytes(), kind, mode, rdev)
            })?;
        }
        self.lookup(cx, dir, name)
    }

    pub(crate) fn mkdir(
        self: &Arc<Brick>,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        {
            let at = self.hold_dir(self.to_change(cx)?, dir)?;
            caller::making(cx, Some(umask), false, || {
                mkdirat(&at, name.as_bytes(), mode)
            })?;
        }
        self.lookup(cx, dir, name)
    }

    pub(crate) fn symlink(
        self: &Arc<Brick>,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        target: &[u8],
    ) -> Result<Entry> {
        {
            let at = self.hold_dir(self.to_change(cx)?, dir)?;
            caller::making(cx, None, false, || symlinkat(target, &at, name.as_bytes()))?;
        }
        self.lookup(cx, dir, name)
    }

    pub(crate) fn create(
        self: &Arc<Brick>,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        flags: OpenFlags,
        mode: u32,
        umask: u32,
    ) -> Result<(Entry, Arc<File>)> {
        let view = self.to_change(cx)?;
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = open_flags(flags)? | new;
        let permissions = Mode::from_raw_mode(mode & 0o7777);
        let share = Share::take(cx)?;
        let fd = {
            let at = self.hold_dir(view, dir)?;
            caller::making(cx, Some(umask), groups_matter(mode), || {
                openat(&at, name.as_bytes(), how, permissions)
            })?
        };
        // Known by the descriptor of the new file, not by its name: that may be another's by now.
        let found = self.identify(view, fd.as_fd())?;
        let (entry, needs_pin) = self.intern(view, found, Some((dir, name)))?;
        if needs_pin {
            // Not this descriptor: a pin must not hold a file open.
            let path = Held::Lent(fd.as_fd()).proc_path();
            let pin = openat(CWD, path, LOOK - OFlags::NOFOLLOW, Mode::empty())?;
            let _ = self.node(&entry.inode)?.pin.set(Pin::new(pin, None));
        }
        let file = self.file(cx, &entry.inode, flags, (fd, share), false);
        Ok((entry, Arc::new(file)))
    }

    pub(crate) fn link(
        self: &Arc<Brick>,
        cx: &Context,
        inode: &Inode,
        dir: &Arc<Inode>,
        name: &Name,
    ) -> Result<Entry> {
        let view = self.to_change(cx)?;
        self.changing_names(cx)?;
        {
            let object = self.hold(view, inode)?;
            let at = self.hold_dir(view, dir)?;
            linkat(&object, c"", &at, name.as_bytes(), AtFlags::EMPTY_PATH)?;
        }
        self.lookup(cx, dir, name)
    }

    pub(crate) fn unlink(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        self.take_away(cx, dir, name, AtFlags::empty())
    }

    pub(crate) fn rmdir(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        self.take_away(cx, dir, name, AtFlags::REMOVEDIR)
    }

    fn take_away(&self, cx: &Context, dir: &Arc<Inode>, name: &Name, flags: AtFlags) -> Result<()> {
        let view = self.to_change(cx)?;
        self.changing_names(cx)?;
        let victim = self.victim(dir, name)?.going(cx);
        let at = self.hold_dir(view, dir)?;
        unlinkat(&at, name.as_bytes(), flags)?;
        self.bury(victim, dir, name);
        Ok(())
    }

    pub(crate) fn rename(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        new_dir: &Arc<Inode>,
        new_name: &Name,
        flags: RenameFlags,
    ) -> Result<()> {
        let view = self.to_change(cx)?;
        self.changing_names(cx)?;
        let moved = self.victim(dir, name)?;
        let there = match self.victim(new_dir, new_name) {
            Ok(there) if flags.replaces() => Some(there.going(cx)),
            Ok(there) => Some(there),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        {
            let from = self.hold_dir(view, dir)?;
            let to = self.hold_dir(view, new_dir)?;
            let how = fs::RenameFlags::from_bits_retain(flags.bits());
            let rename = || renameat_with(&from, name.as_bytes(), &to, new_name.as_bytes(), how);
            match flags.leaves_whiteout() {
                // The whiteout is a new object, and the caller's.
                true => caller::making(cx, None, false, rename)?,
                false => rename()?,
            }
        }
        let same = |there: &Victim| match (&moved.inode, &there.inode) {
            (Some(moved), Some(there)) => Arc::ptr_eq(moved, there),
            _ => false,
        };
        match (flags, there) {
            // Two names of one object: rename(2) leaves both.
            (flags, Some(there)) if flags.replaces() && same(&there) => return Ok(()),
            (RenameFlags::Exchange, Some(there)) => self.moved(&there, dir, name),
            (_, Some(there)) => self.bury(there, new_dir, new_name),
            (_, None) => {}
        }
        if let Some(inode) = &moved.inode {
            self.compare(&self.plain, moved.fd.as_fd(), inode);
        }
        self.moved(&moved, new_dir, new_name);
        Ok(())
    }

    /// Growing directories are the user's, and no more of the reserve is his for it.
    fn changing_names(&self, cx: &Context) -> Result<()> {
        if cx.origin.is_internal() {
            Ok(())
        } else {
            caller::give_up_reserve()
        }
    }

    /// What stands at a name that may go.
    fn victim(&self, dir: &Inode, name: &Name) -> Result<Victim> {
        let fd = self.hold_name(&self.plain, dir, name)?;
        let found = match self.identify(&self.plain, fd.as_fd()) {
            Err(Errno::XDEV) => return Err(Errno::BUSY), // a mount point, as natively
            found => found?,
        };
        let inode = self.table.get(found.identity);
        let directory = found.attr.kind == Kind::Directory;
        Ok(Victim {
            fd,
            inode,
            last_name: directory || found.attr.nlink <= 1,
            stays: None,
        })
    }

    /// A name has gone, and perhaps its object: who still holds that goes on with a descriptor.
    fn bury(&self, victim: Victim, dir: &Arc<Inode>, name: &Name) {
        let Some(inode) = victim.inode else { return };
        let Ok(node) = self.node(&inode) else { return };
        node.lost(dir, name);
        if victim.last_name {
            self.graves.bury(table::hash(inode.identity()));
            if let Some(Stays(share)) = victim.stays {
                let _ = node.pin.set(Pin::new(victim.fd, share));
            }
            if inode.kind() == Kind::Directory {
                self.forget_directory(table::hash(inode.identity()));
            }
        }
    }

    fn moved(&self, what: &Victim, dir: &Arc<Inode>, name: &Name) {
        if let Some(inode) = &what.inode
            && let Ok(node) = self.node(inode)
        {
            match inode.kind() {
                Kind::Directory => node.called(name),
                _ => node.saw(dir, name),
            }
        }
    }
}

/// Linux lets a set-gid bit with the group's x fall where the maker is not of the group.
fn groups_matter(mode: u32) -> bool {
    mode & 0o2010 == 0o2010
}
