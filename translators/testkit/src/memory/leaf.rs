use std::sync::Arc;

use hermitfs_api::{
    Allocate, Attr, Context, DirEntry, Entry, Errno, Extent, File, Fsx, Handle, Inode, Kind, Lend,
    Lent, Location, Lock, Make, Name, NameBuf, OpenFlags, RenameFlags, Result, Role, Seek, SetAttr,
    Snapshot, StatFs, Translator, Whole, XattrFlags, async_trait, make_whole_by_steps,
    snapshot_by_steps,
};
use parking_lot::MutexGuard;

use super::content::BLOCK;
use super::state::Body;
use super::{Held, Inner, Memory};

impl Memory {
    /// The way to any change: refused where this brick must not be changed.
    fn changing(&self, cx: &Context) -> Result<MutexGuard<'_, Inner>> {
        let mut inner = self.0.lock();
        let source = inner.state.role == Role::Source && cx.origin.is_internal();
        if source || inner.state.settings.read_only {
            return Err(Errno::EROFS.into());
        }
        inner.sweep();
        Ok(inner)
    }

    fn opened(&self, inner: &Inner, file: &File, may: bool) -> Result<u64> {
        if may {
            inner.number(file.inode())
        } else {
            Err(Errno::EBADF.into())
        }
    }
}

impl Inner {
    fn entry(&mut self, number: u64, seen: Option<(u64, &Name)>) -> Entry {
        Entry {
            inode: self.inode(number, seen),
            attr: self.state.attr(number),
        }
    }
}

fn handle_bytes(dev: u64, number: u64, generation: u64) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (at, value) in bytes.chunks_exact_mut(8).zip([dev, number, generation]) {
        at.copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

#[async_trait]
impl Translator for Memory {
    async fn root(&self, _: &Context) -> Result<Entry> {
        let mut inner = self.0.lock();
        let root = inner.state.root();
        Ok(inner.entry(root, None))
    }

    async fn lookup(&self, _: &Context, dir: &Arc<Inode>, name: &Name) -> Result<Entry> {
        let mut inner = self.0.lock();
        let dir = inner.directory(dir)?;
        let number = inner.state.lookup(dir, name)?;
        Ok(inner.entry(number, Some((dir, name))))
    }

    async fn handle(&self, _: &Context, inode: &Arc<Inode>) -> Result<Handle> {
        let inner = self.0.lock();
        if !inner.state.settings.handles {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let number = inner.number(inode)?;
        let generation = inner.state.get(number).generation;
        Ok(Handle::new(&handle_bytes(
            inner.state.dev,
            number,
            generation,
        )))
    }

    async fn resolve(&self, _: &Context, handle: &Handle) -> Result<Entry> {
        let mut inner = self.0.lock();
        inner.sweep();
        let number = handle.as_bytes().get(8..16).and_then(|b| b.try_into().ok());
        let number = number.map(u64::from_be_bytes).ok_or(Errno::ESTALE)?;
        let object = inner.state.objects.get(&number).ok_or(Errno::ESTALE)?;
        if handle_bytes(inner.state.dev, number, object.generation) != *handle.as_bytes() {
            return Err(Errno::ESTALE.into());
        }
        Ok(inner.entry(number, None))
    }

    async fn locate(&self, _: &Context, inode: &Arc<Inode>) -> Result<Location> {
        let inner = self.0.lock();
        let number = inner.number(inode)?;
        let mut path = Vec::new();
        let mut at = number;
        if inode.kind() != Kind::Directory {
            let seen = inode
                .leaf::<Held>()
                .and_then(|held| held.seen.lock().clone());
            let (dir, name) = seen.ok_or(Errno::ENOENT)?;
            if !inner.state.objects.contains_key(&dir) {
                return Err(Errno::ENOENT.into());
            }
            path.push(name);
            at = dir;
        }
        while at != inner.state.root() {
            let removed = if at == number {
                Errno::ESTALE
            } else {
                Errno::ENOENT
            };
            if inner.state.get(at).nlink == 0 {
                return Err(removed.into());
            }
            let dir = inner.state.directory(at).map_err(|_| removed)?;
            path.extend(dir.name.clone());
            at = dir.parent;
        }
        path.reverse();
        Ok(Location { path })
    }

    async fn whence(&self, _: &Context, inode: &Arc<Inode>) -> Result<(Arc<Inode>, NameBuf)> {
        let mut inner = self.0.lock();
        let number = inner.number(inode)?;
        let seen = match inode.kind() {
            Kind::Directory => inner.state.above(number),
            _ => inode
                .leaf::<Held>()
                .and_then(|held| held.seen.lock().clone()),
        };
        let (dir, name) = seen.ok_or(Errno::ENOENT)?;
        if !inner.state.objects.contains_key(&dir) {
            return Err(Errno::ENOENT.into());
        }
        Ok((inner.inode(dir, None), name))
    }

    async fn getattr(&self, _: &Context, inode: &Arc<Inode>, _: Option<&File>) -> Result<Attr> {
        let inner = self.0.lock();
        Ok(inner.state.attr(inner.number(inode)?))
    }

    async fn setattr(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        _: Option<&File>,
        set: &SetAttr,
    ) -> Result<Attr> {
        let mut inner = self.changing(cx)?;
        let number = inner.number(inode)?;
        inner.state.setattr(cx, number, set)
    }

    async fn readlink(&self, _: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        let inner = self.0.lock();
        match &inner.state.get(inner.number(inode)?).body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    async fn mknod(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        make: &Make,
    ) -> Result<Entry> {
        let mut inner = self.changing(cx)?;
        let dir = inner.directory(dir)?;
        let number = inner.state.mknod(cx, dir, name, make)?;
        Ok(inner.entry(number, Some((dir, name))))
    }

    async fn mkdir(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        let mut inner = self.changing(cx)?;
        let dir = inner.directory(dir)?;
        let number = inner.state.mkdir(cx, dir, name, mode, umask)?;
        Ok(inner.entry(number, Some((dir, name))))
    }

    async fn symlink(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        target: &[u8],
    ) -> Result<Entry> {
        let mut inner = self.changing(cx)?;
        let dir = inner.directory(dir)?;
        let number = inner.state.symlink(cx, dir, name, target)?;
        Ok(inner.entry(number, Some((dir, name))))
    }

    async fn link(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        dir: &Arc<Inode>,
        name: &Name,
    ) -> Result<Entry> {
        let mut inner = self.changing(cx)?;
        let (number, dir) = (inner.number(inode)?, inner.directory(dir)?);
        inner.state.link(number, dir, name)?;
        Ok(inner.entry(number, Some((dir, name))))
    }

    async fn unlink(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        let mut inner = self.changing(cx)?;
        let dir = inner.directory(dir)?;
        let number = inner.state.lookup(dir, name)?;
        inner.state.unlink(dir, name)?;
        inner.unseen(number, dir, name, None);
        Ok(())
    }

    async fn rmdir(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        let mut inner = self.changing(cx)?;
        let dir = inner.directory(dir)?;
        let number = inner.state.lookup(dir, name)?;
        inner.state.rmdir(dir, name)?;
        inner.unseen(number, dir, name, None);
        Ok(())
    }

    async fn rename(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        new_dir: &Arc<Inode>,
        new_name: &Name,
        flags: RenameFlags,
    ) -> Result<()> {
        let mut inner = self.changing(cx)?;
        let (dir, new_dir) = (inner.directory(dir)?, inner.directory(new_dir)?);
        let number = inner.state.lookup(dir, name)?;
        let target = inner.state.lookup(new_dir, new_name).ok();
        inner.state.rename(dir, name, new_dir, new_name, flags)?;
        if target == Some(number) {
            return Ok(());
        }
        if let Some(target) = target {
            let now = (flags == RenameFlags::Exchange).then_some((dir, name));
            inner.unseen(target, new_dir, new_name, now);
        }
        inner.unseen(number, dir, name, Some((new_dir, new_name)));
        if flags.leaves_whiteout() {
            let whiteout = Make {
                kind: Kind::CharDevice,
                mode: 0,
                umask: 0,
                rdev: 0,
            };
            inner.state.mknod(cx, dir, name, &whiteout)?;
        }
        Ok(())
    }

    async fn create(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        flags: OpenFlags,
        mode: u32,
        umask: u32,
    ) -> Result<(Entry, Arc<File>)> {
        let make = Make {
            kind: Kind::File,
            mode,
            umask,
            rdev: 0,
        };
        let mut inner = self.changing(cx)?;
        let dir = inner.directory(dir)?;
        let number = inner.state.mknod(cx, dir, name, &make)?;
        let entry = inner.entry(number, Some((dir, name)));
        let file = Arc::new(File::new(entry.inode.clone(), flags, ()));
        Ok((entry, file))
    }

    async fn open(&self, cx: &Context, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Arc<File>> {
        let changes = flags.writes() || flags.truncates();
        let mut inner = if changes {
            self.changing(cx)?
        } else {
            self.0.lock()
        };
        let number = inner.number(inode)?;
        match inode.kind() {
            Kind::File => {}
            _ => return Err(Errno::EINVAL.into()),
        }
        let appends = flags.0 & libc::O_APPEND != 0;
        inner
            .state
            .may_open(number, changes, appends, flags.truncates())?;
        if flags.truncates() {
            inner.state.truncate(cx, number);
        }
        Ok(Arc::new(File::new(inode.clone(), flags, ())))
    }

    async fn read(
        &self,
        _: &Context,
        file: &Arc<File>,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let inner = self.0.lock();
        let number = self.opened(&inner, file, file.flags().reads())?;
        Ok(inner.state.content(number).read(at, buffer))
    }

    async fn write(&self, cx: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize> {
        let mut inner = self.changing(cx)?;
        let number = self.opened(&inner, file, file.flags().writes())?;
        let at = match file.flags().appends() {
            true => inner.state.content(number).size,
            false => at,
        };
        inner.state.write(cx, number, at, data)
    }

    async fn flush(&self, _: &Context, _: &Arc<File>, _: u64) -> Result<()> {
        Ok(())
    }

    async fn release(&self, _: &Context, _: &Arc<File>) -> Result<()> {
        Ok(())
    }

    async fn fsync(&self, _: &Context, file: &Arc<File>, _: bool) -> Result<()> {
        self.0.lock().number(file.inode()).map(drop)
    }

    async fn fsyncdir(&self, _: &Context, dir: &Arc<Inode>, _: bool) -> Result<()> {
        self.0.lock().directory(dir).map(drop)
    }

    async fn readdir(
        &self,
        _: &Context,
        dir: &Arc<Inode>,
        from: u64,
        max: usize,
        plus: bool,
    ) -> Result<Vec<DirEntry>> {
        let mut inner = self.0.lock();
        let dir = inner.directory(dir)?;
        if inner.state.get(dir).nlink == 0 {
            return Err(Errno::ENOENT.into());
        }
        let list = inner.state.directory(dir)?.list(dir, from, max);
        let entries = list.into_iter().map(|(name, number, next)| {
            let kind = Some(inner.state.get(number).kind);
            let found = NameBuf::new(&name).ok().filter(|_| plus);
            let entry = found.map(|name| inner.entry(number, Some((dir, &name))));
            DirEntry {
                name,
                ino: number,
                kind,
                next,
                entry,
            }
        });
        Ok(entries.collect())
    }

    async fn snapshot(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        names: &[NameBuf],
        most: u64,
    ) -> Result<Vec<Result<Snapshot>>> {
        snapshot_by_steps(self, cx, dir, names, most).await
    }

    async fn make_whole(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        files: &[Whole],
    ) -> Result<Vec<Result<Attr>>> {
        make_whole_by_steps(self, cx, dir, files).await
    }

    async fn getxattr(&self, _: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<Vec<u8>> {
        let inner = self.0.lock();
        inner.state.getxattr(inner.number(inode)?, name)
    }

    async fn listxattr(&self, _: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        let inner = self.0.lock();
        let names = inner.state.get(inner.number(inode)?).xattrs.keys();
        Ok(names
            .flat_map(|name| [name, &b"\0"[..]])
            .flatten()
            .copied()
            .collect())
    }

    async fn setxattr(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        let mut inner = self.changing(cx)?;
        let number = inner.number(inode)?;
        inner.state.setxattr(number, name, value, flags)
    }

    async fn removexattr(&self, cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        let mut inner = self.changing(cx)?;
        let number = inner.number(inode)?;
        inner.state.removexattr(number, name)
    }

    async fn get_flags(&self, _: &Context, inode: &Arc<Inode>) -> Result<u32> {
        let inner = self.0.lock();
        let number = inner.number(inode)?;
        inner.state.has_flags(number)?;
        Ok(inner.state.get(number).flags)
    }

    async fn set_flags(&self, cx: &Context, inode: &Arc<Inode>, flags: u32) -> Result<()> {
        let mut inner = self.changing(cx)?;
        let number = inner.number(inode)?;
        inner.state.set_flags(number, flags)
    }

    async fn get_fsx(&self, _: &Context, inode: &Arc<Inode>) -> Result<Fsx> {
        let inner = self.0.lock();
        let number = inner.number(inode)?;
        inner.state.fsx(number)
    }

    async fn set_fsx(&self, cx: &Context, inode: &Arc<Inode>, fsx: &Fsx) -> Result<()> {
        let mut inner = self.changing(cx)?;
        let number = inner.number(inode)?;
        inner.state.set_fsx(number, fsx)
    }

    async fn fallocate(
        &self,
        cx: &Context,
        file: &Arc<File>,
        how: Allocate,
        at: u64,
        len: u64,
    ) -> Result<()> {
        let mut inner = self.changing(cx)?;
        let number = self.opened(&inner, file, file.flags().writes())?;
        inner.state.fallocate(cx, number, how, at, len)
    }

    async fn lseek(&self, _: &Context, file: &Arc<File>, at: u64, seek: Seek) -> Result<u64> {
        let inner = self.0.lock();
        let number = inner.number(file.inode())?;
        inner.state.content(number).seek(at, seek)
    }

    async fn copy_file_range(
        &self,
        cx: &Context,
        from: &Arc<File>,
        from_at: u64,
        to: &Arc<File>,
        to_at: u64,
        len: u64,
    ) -> Result<u64> {
        let mut inner = self.changing(cx)?;
        let from = self.opened(&inner, from, from.flags().reads())?;
        let to = self.opened(&inner, to, to.flags().writes())?;
        inner.state.copy(cx, from, from_at, to, to_at, len)
    }

    async fn extents(&self, _: &Context, _: &Arc<File>, _: u64, _: usize) -> Result<Vec<Extent>> {
        Err(Errno::EOPNOTSUPP.into())
    }

    async fn clone_range(
        &self,
        _: &Context,
        _: &Arc<File>,
        _: u64,
        _: &Arc<File>,
        _: u64,
        _: u64,
    ) -> Result<()> {
        Err(Errno::EOPNOTSUPP.into())
    }

    async fn statfs(&self, _: &Context, _: &Arc<Inode>) -> Result<StatFs> {
        let inner = self.0.lock();
        let (used, settings) = (inner.state.used() / BLOCK, &inner.state.settings);
        let blocks = settings
            .capacity
            .map_or(1 << 30, |bytes| bytes / BLOCK)
            .max(used);
        let objects = inner.state.objects.len() as u64;
        let files = settings.objects.unwrap_or(1 << 30).max(objects);
        Ok(StatFs {
            fsid: inner.state.dev,
            frsize: BLOCK as u32,
            bsize: BLOCK as u32,
            blocks,
            bfree: blocks - used,
            bavail: blocks - used,
            files,
            ffree: files - objects,
            namelen: 255,
        })
    }

    async fn getlk(&self, _: &Context, _: &Arc<File>, _: &Lock) -> Result<Option<Lock>> {
        Err(Errno::ENOSYS.into())
    }

    async fn setlk(&self, _: &Context, _: &Arc<File>, _: &Lock, _: bool) -> Result<()> {
        Err(Errno::ENOSYS.into())
    }

    async fn lend(&self, _: &Context, _: &Arc<Inode>, _: Lend) -> Result<Option<Lent>> {
        Ok(None)
    }

    async fn quiet(&self, _: &Context, inode: &Arc<Inode>) -> Result<bool> {
        let inner = self.0.lock();
        let number = inner.number(inode)?;
        Ok(!inner.state.busy.contains(&number))
    }

    async fn sync(&self, _: &Context) -> Result<()> {
        let mut inner = self.0.lock();
        inner.sweep();
        inner.synced = inner.state.clone();
        Ok(())
    }

    async fn role(&self, role: Role) -> Result<()> {
        self.0.lock().state.role = role;
        Ok(())
    }
}
