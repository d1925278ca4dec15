//! Operations on names, with the checks and their order of fs/namei.c in Linux.

use hermitfs_api::{Context, Errno, Kind, Make, Name, RenameFlags, Result};

use super::acl::Acl;
use super::content::Content;
use super::directory::Directory;
use super::state::{APPEND, Body, IMMUTABLE, State};

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

impl State {
    pub(super) fn lookup(&self, dir: u64, name: &Name) -> Result<u64> {
        self.directory(dir)?.get(name).ok_or(Errno::ENOENT.into())
    }

    /// That a name can be added to a directory.
    fn may_create(&self, dir: u64, name: &Name) -> Result<()> {
        if self.directory(dir)?.get(name).is_some() {
            return Err(Errno::EEXIST.into());
        }
        let object = self.get(dir);
        if object.nlink == 0 {
            return Err(Errno::ENOENT.into());
        }
        if object.flags & IMMUTABLE != 0 {
            return Err(Errno::EPERM.into());
        }
        Ok(())
    }

    /// That a name can be taken away, of a directory or of something else.
    fn may_delete(&self, dir: u64, number: u64, directory: bool) -> Result<()> {
        let (dir, object) = (self.get(dir), self.get(number));
        if (dir.flags | object.flags) & (IMMUTABLE | APPEND) != 0 {
            return Err(Errno::EPERM.into());
        }
        match (directory, object.kind == Kind::Directory) {
            (true, false) => Err(Errno::ENOTDIR.into()),
            (false, true) => Err(Errno::EISDIR.into()),
            _ => Ok(()),
        }
    }

    /// A new object in a directory, with the owner, mode and ACLs that it gets there.
    fn make_in(
        &mut self,
        cx: &Context,
        dir: u64,
        name: &Name,
        make: &Make,
        body: Body,
    ) -> Result<u64> {
        self.may_create(dir, name)?;
        let parent = self.get(dir);
        let is_dir = make.kind == Kind::Directory;
        if is_dir && parent.nlink >= self.settings.max_links {
            return Err(Errno::EMLINK.into());
        }
        let mut cx = *cx;
        let mut mode = make.mode & 0o7777;
        let inherits_group = parent.mode & 0o2000 != 0;
        if inherits_group {
            if cx.uid != 0 && cx.gid != parent.gid && mode & 0o2010 == 0o2010 {
                mode &= !0o2000;
            }
            cx.gid = parent.gid;
        }
        let default = parent.xattrs.get(DEFAULT).cloned();
        let mut access = None;
        if make.kind != Kind::Symlink {
            match default.as_deref().map(Acl::parse).transpose()?.flatten() {
                None => mode &= !(make.umask & 0o777),
                Some(mut acl) => {
                    mode = acl.inherit(mode);
                    access = (!acl.mode().1).then(|| acl.to_bytes());
                }
            }
        }
        if inherits_group && is_dir {
            mode |= 0o2000;
        }
        let number = self.make(&cx, make.kind, mode, make.rdev, body)?;
        let object = self.change(number);
        object.nlink = if is_dir { 2 } else { 1 };
        object
            .xattrs
            .extend(access.map(|value| (ACCESS.to_vec(), value)));
        if is_dir {
            object
                .xattrs
                .extend(default.map(|value| (DEFAULT.to_vec(), value)));
        }
        let now = object.ctime;
        self.change_directory(dir).insert(name, number);
        let parent = self.change(dir);
        (parent.mtime, parent.ctime) = (now, now);
        parent.nlink += u32::from(is_dir);
        Ok(number)
    }

    pub(super) fn mknod(
        &mut self,
        cx: &Context,
        dir: u64,
        name: &Name,
        make: &Make,
    ) -> Result<u64> {
        let body = match make.kind {
            Kind::Directory | Kind::Symlink => return Err(Errno::EINVAL.into()),
            Kind::File => Body::File(Content::default()),
            _ => Body::Special,
        };
        self.make_in(cx, dir, name, make, body)
    }

    pub(super) fn mkdir(
        &mut self,
        cx: &Context,
        dir: u64,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> Result<u64> {
        // mkdir(2) takes the permission and sticky bits alone.
        let make = Make {
            kind: Kind::Directory,
            mode: mode & 0o1777,
            umask,
            rdev: 0,
        };
        let body = Body::Directory(Directory::new(dir, Some(name.to_owned())));
        self.make_in(cx, dir, name, &make, body)
    }

    pub(super) fn symlink(
        &mut self,
        cx: &Context,
        dir: u64,
        name: &Name,
        target: &[u8],
    ) -> Result<u64> {
        match target.len() {
            0 => return Err(Errno::ENOENT.into()),
            1..=4095 => {}
            _ => return Err(Errno::ENAMETOOLONG.into()),
        }
        let make = Make {
            kind: Kind::Symlink,
            mode: 0o777,
            umask: 0,
            rdev: 0,
        };
        self.make_in(cx, dir, name, &make, Body::Symlink(target.to_vec()))
    }

    pub(super) fn link(&mut self, number: u64, dir: u64, name: &Name) -> Result<()> {
        self.may_create(dir, name)?;
        let object = self.get(number);
        if object.flags & (IMMUTABLE | APPEND) != 0 || object.kind == Kind::Directory {
            return Err(Errno::EPERM.into());
        }
        if object.nlink == 0 {
            return Err(Errno::ENOENT.into());
        }
        if object.nlink >= self.settings.max_links {
            return Err(Errno::EMLINK.into());
        }
        let now = self.now();
        let object = self.change(number);
        object.nlink += 1;
        object.ctime = now;
        self.change_directory(dir).insert(name, number);
        self.touch(dir, now);
        Ok(())
    }

    fn touch(&mut self, dir: u64, now: hermitfs_api::Time) {
        let dir = self.change(dir);
        (dir.mtime, dir.ctime) = (now, now);
    }

    pub(super) fn unlink(&mut self, dir: u64, name: &Name) -> Result<()> {
        let number = self.lookup(dir, name)?;
        self.may_delete(dir, number, false)?;
        let now = self.now();
        self.change_directory(dir).remove(name);
        self.unlinked(number, now);
        self.touch(dir, now);
        Ok(())
    }

    pub(super) fn rmdir(&mut self, dir: u64, name: &Name) -> Result<()> {
        let number = self.lookup(dir, name)?;
        self.may_delete(dir, number, true)?;
        if !self.directory(number)?.is_empty() {
            return Err(Errno::ENOTEMPTY.into());
        }
        let now = self.now();
        self.change_directory(dir).remove(name);
        self.unlinked(number, now);
        self.change(dir).nlink -= 1;
        self.touch(dir, now);
        Ok(())
    }

    /// The directory itself and all above it, up to the root.
    fn ancestors(&self, mut dir: u64) -> Result<Vec<u64>> {
        let mut all = vec![dir];
        while dir != self.root() {
            if self.get(dir).nlink == 0 {
                // What was above a removed directory may be gone as well.
                return Err(Errno::ENOENT.into());
            }
            dir = self.directory(dir)?.parent;
            all.push(dir);
        }
        Ok(all)
    }

    pub(super) fn rename(
        &mut self,
        dir: u64,
        name: &Name,
        new_dir: u64,
        new_name: &Name,
        flags: RenameFlags,
    ) -> Result<()> {
        self.directory(new_dir)?;
        let number = self.lookup(dir, name)?;
        let target = self.directory(new_dir)?.get(new_name);
        let exchange = flags == RenameFlags::Exchange;
        match (flags, target) {
            (RenameFlags::NoReplace | RenameFlags::WhiteoutNoReplace, Some(_)) => {
                return Err(Errno::EEXIST.into());
            }
            (RenameFlags::Exchange, None) => return Err(Errno::ENOENT.into()),
            _ => {}
        }
        if self.ancestors(new_dir)?.contains(&number) {
            return Err(Errno::EINVAL.into());
        }
        if target.is_some_and(|target| self.ancestors(dir).is_ok_and(|all| all.contains(&target))) {
            return Err(if exchange {
                Errno::EINVAL
            } else {
                Errno::ENOTEMPTY
            }
            .into());
        }
        // Two names of one object: nothing happens, and both stay.
        if target == Some(number) {
            return Ok(());
        }
        let is_dir = self.get(number).kind == Kind::Directory;
        self.may_delete(dir, number, is_dir)?;
        let Some(target) = target else {
            self.may_create(new_dir, new_name)?;
            if is_dir && dir != new_dir && self.get(new_dir).nlink >= self.settings.max_links {
                return Err(Errno::EMLINK.into());
            }
            let now = self.now();
            self.change_directory(dir).remove(name);
            self.place(number, dir, new_dir, new_name);
            self.moved(number, dir, new_dir, now);
            return Ok(());
        };
        let target_is_dir = self.get(target).kind == Kind::Directory;
        self.may_delete(
            new_dir,
            target,
            if exchange { target_is_dir } else { is_dir },
        )?;
        if exchange {
            let now = self.now();
            self.change_directory(dir).replace(name, target);
            self.change_directory(new_dir).replace(new_name, number);
            self.settle(number, dir, new_dir, new_name);
            self.settle(target, new_dir, dir, name);
            self.moved(number, dir, new_dir, now);
            self.moved(target, new_dir, dir, now);
            return Ok(());
        }
        if target_is_dir && !self.directory(target)?.is_empty() {
            return Err(Errno::ENOTEMPTY.into());
        }
        let now = self.now();
        self.change_directory(dir).remove(name);
        self.change_directory(new_dir).replace(new_name, number);
        self.settle(number, dir, new_dir, new_name);
        self.unlinked(target, now);
        if target_is_dir {
            self.change(new_dir).nlink -= 1;
        }
        self.moved(number, dir, new_dir, now);
        Ok(())
    }

    fn place(&mut self, number: u64, dir: u64, new_dir: u64, new_name: &Name) {
        self.change_directory(new_dir).insert(new_name, number);
        self.settle(number, dir, new_dir, new_name);
    }

    /// What else has to know that an object came from one directory to another.
    fn settle(&mut self, number: u64, dir: u64, new_dir: u64, new_name: &Name) {
        if let Body::Directory(moved) = &mut self.change(number).body {
            moved.parent = new_dir;
            moved.name = Some(new_name.to_owned());
            if dir != new_dir {
                self.change(dir).nlink -= 1;
                self.change(new_dir).nlink += 1;
            }
        }
    }

    fn moved(&mut self, number: u64, dir: u64, new_dir: u64, now: hermitfs_api::Time) {
        self.change(number).ctime = now;
        self.touch(dir, now);
        self.touch(new_dir, now);
    }
}
