use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use hermitfs_api::{
    Allocate, Attr, Context, DirEntry, Entry, Errno, Error, Extent, File, Fsx, Handle, Inode, Lend,
    Lent, Location, Lock, Make, Name, NameBuf, OpenFlags, RenameFlags, Result, Role, Seek, SetAttr,
    Snapshot, StatFs, Translator, Whole, XattrFlags, make_whole_by_steps,
};

use crate::brick::Brick;
use crate::options::{OpenError, Options};

/// A brick: the leaf of kind `storage/posix`.
pub struct Posix {
    options: Options,
    /// `None` while it is away.
    here: ArcSwapOption<Here>,
}

/// A brick that is open.
struct Here {
    brick: Arc<Brick>,
    /// Held, so that it is always in the table.
    root: Arc<Inode>,
}

/// What the brick's kernel and file system can do, for a preflight to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Objects have handles that survive a restart. Without: a descriptor for each object held,
    /// and nothing leads back to one after a restart.
    pub handles: bool,
    /// The kernel keeps our own reading of a source from changing it (a private clone of the
    /// mount, read-only and noatime). Without: `O_NOATIME` and this crate's own refusals do.
    pub private_view: bool,
}

impl Posix {
    /// Opens the brick that the options name, and finds out what its file system can do.
    pub fn open(options: &Options) -> std::result::Result<Posix, OpenError> {
        Ok(Posix {
            options: options.clone(),
            here: ArcSwapOption::from_pointee(Here::open(options)?),
        })
    }

    /// What the file system can do; nothing while it is away.
    pub fn abilities(&self) -> Abilities {
        let here = self.here.load();
        Abilities {
            handles: here.as_ref().is_some_and(|here| here.brick.handles),
            private_view: here
                .as_ref()
                .is_some_and(|here| here.brick.quiet_is_kept_by_kernel),
        }
    }

    fn at<T>(&self, operation: impl FnOnce(&Arc<Brick>) -> rustix::io::Result<T>) -> Result<T> {
        match &*self.here.load() {
            Some(here) => told(operation(&here.brick)),
            None => Err(Errno::ENODEV.into()),
        }
    }

    /// The same for what may find no room. A user who does waits for what he, or another one, has just removed.
    async fn with_room<T>(
        &self,
        cx: &Context,
        mut operation: impl FnMut(&Arc<Brick>) -> rustix::io::Result<T> + Send,
    ) -> Result<T> {
        loop {
            let gone = self.gone();
            match self.at(&mut operation) {
                Err(error) if self.may_try_again(cx, &error, gone).await => {}
                answer => return answer,
            }
        }
    }

    /// What came of a change, after a look at what was changed: some file systems give it another identity.
    fn after<T>(&self, cx: &Context, changed: &[&Inode], answer: Result<T>) -> Result<T> {
        if answer.is_ok() {
            // The change is done, whatever the look finds.
            let _ = self.at(|brick| brick.look_again(cx, changed));
        }
        answer
    }

    /// What has gone so far of what was removed.
    fn gone(&self) -> u64 {
        let here = self.here.load();
        here.as_ref().map_or(0, |here| here.brick.graves.gone())
    }

    /// Whether there may be room now for an operation that has found none; waits for that.
    async fn may_try_again(&self, cx: &Context, error: &Error, gone: u64) -> bool {
        let full = matches!(error.errno(), Errno::ENOSPC | Errno::EDQUOT);
        if !full || cx.origin.is_internal() {
            return false;
        }
        match self.here.load_full() {
            Some(here) => here.brick.graves.room_since(gone).await,
            None => false,
        }
    }
}

impl Here {
    fn open(options: &Options) -> std::result::Result<Here, OpenError> {
        let brick = Arc::new(Brick::open(options)?);
        let root = brick.root().map_err(|error| OpenError::FileSystem {
            path: options.directory.clone(),
            call: "openat",
            source: error.into(),
        })?;
        Ok(Here { brick, root })
    }
}

/// What the kernel said, as the contract has it.
fn told<T>(result: rustix::io::Result<T>) -> Result<T> {
    result.map_err(|errno| Error::new(Errno::from_raw(errno.raw_os_error())))
}

// Each answers at its first poll, as there is nothing in here to wait for but the disk; and, on a full one, what is
// just being removed.
#[async_trait]
impl Translator for Posix {
    async fn root(&self, cx: &Context) -> Result<Entry> {
        let here = self.here.load();
        let here = here.as_ref().ok_or(Errno::ENODEV)?;
        Ok(Entry {
            inode: here.root.clone(),
            attr: told(here.brick.getattr(cx, &here.root, None))?,
        })
    }

    async fn lookup(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<Entry> {
        self.at(|brick| brick.lookup(cx, dir, name))
    }

    async fn handle(&self, _: &Context, inode: &Arc<Inode>) -> Result<Handle> {
        self.at(|brick| brick.handle(inode))
    }

    async fn resolve(&self, cx: &Context, handle: &Handle) -> Result<Entry> {
        self.at(|brick| brick.resolve(cx, handle))
    }

    async fn locate(&self, _: &Context, inode: &Arc<Inode>) -> Result<Location> {
        self.at(|brick| brick.locate(inode))
    }

    async fn whence(&self, _: &Context, inode: &Arc<Inode>) -> Result<(Arc<Inode>, NameBuf)> {
        self.at(|brick| brick.whence(inode))
    }

    async fn getattr(&self, cx: &Context, inode: &Arc<Inode>, file: Option<&File>) -> Result<Attr> {
        self.at(|brick| brick.getattr(cx, inode, file))
    }

    async fn setattr(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        file: Option<&File>,
        set: &SetAttr,
    ) -> Result<Attr> {
        let answer = self
            .with_room(cx, |brick| brick.setattr(cx, inode, file, set))
            .await;
        self.after(cx, &[inode], answer)
    }

    async fn readlink(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        self.at(|brick| brick.readlink(cx, inode))
    }

    async fn mknod(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        make: &Make,
    ) -> Result<Entry> {
        let answer = self
            .with_room(cx, |brick| brick.mknod(cx, dir, name, make))
            .await;
        self.after(cx, &[dir], answer)
    }

    async fn mkdir(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        let answer = self
            .with_room(cx, |brick| brick.mkdir(cx, dir, name, mode, umask))
            .await;
        self.after(cx, &[dir], answer)
    }

    async fn symlink(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        target: &[u8],
    ) -> Result<Entry> {
        let answer = self
            .with_room(cx, |brick| brick.symlink(cx, dir, name, target))
            .await;
        self.after(cx, &[dir], answer)
    }

    async fn link(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        dir: &Arc<Inode>,
        name: &Name,
    ) -> Result<Entry> {
        let answer = self
            .with_room(cx, |brick| brick.link(cx, inode, dir, name))
            .await;
        self.after(cx, &[inode, dir], answer)
    }

    async fn unlink(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        let answer = self.at(|brick| brick.unlink(cx, dir, name));
        self.after(cx, &[dir], answer)
    }

    async fn rmdir(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        let answer = self.at(|brick| brick.rmdir(cx, dir, name));
        self.after(cx, &[dir], answer)
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
        let answer = self
            .with_room(cx, |brick| {
                brick.rename(cx, dir, name, new_dir, new_name, flags)
            })
            .await;
        self.after(cx, &[dir, new_dir], answer)
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
        let answer = self
            .with_room(cx, |brick| brick.create(cx, dir, name, flags, mode, umask))
            .await;
        self.after(cx, &[dir], answer)
    }

    async fn open(&self, cx: &Context, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Arc<File>> {
        self.with_room(cx, |brick| brick.open_file(cx, inode, flags))
            .await
    }

    async fn read(
        &self,
        _: &Context,
        file: &Arc<File>,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        self.at(|brick| brick.read(file, at, buffer))
    }

    async fn write(&self, cx: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize> {
        let mut done = 0;
        loop {
            let gone = self.gone();
            let (at, rest) = (at.saturating_add(done as u64), data.get(done..));
            let rest = rest.unwrap_or_default();
            match self.at(|brick| brick.write(cx, file, at, rest)) {
                // Less than all only where the next byte fails: it is tried, as there may be room for it soon.
                Ok(n) if n > 0 && n < rest.len() => done += n,
                Ok(n) => return Ok(done + n),
                Err(error) if self.may_try_again(cx, &error, gone).await => {}
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
    }

    async fn flush(&self, _: &Context, file: &Arc<File>, _: u64) -> Result<()> {
        self.at(|brick| brick.flush(file))
    }

    async fn release(&self, _: &Context, file: &Arc<File>) -> Result<()> {
        self.at(|brick| brick.opened(file).map(drop))
    }

    async fn fsync(&self, _: &Context, file: &Arc<File>, datasync: bool) -> Result<()> {
        self.at(|brick| brick.fsync(file, datasync))
    }

    async fn fsyncdir(&self, cx: &Context, dir: &Arc<Inode>, datasync: bool) -> Result<()> {
        self.at(|brick| brick.fsyncdir(cx, dir, datasync))
    }

    async fn readdir(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        from: u64,
        max: usize,
        plus: bool,
    ) -> Result<Vec<DirEntry>> {
        self.at(|brick| brick.readdir(cx, dir, from, max, plus))
    }

    async fn snapshot(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        names: &[NameBuf],
        most: u64,
    ) -> Result<Vec<Result<Snapshot>>> {
        let answers = self.at(|brick| brick.snapshot(cx, dir, names, most))?;
        Ok(answers.into_iter().map(told).collect())
    }

    async fn make_whole(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        files: &[Whole],
    ) -> Result<Vec<Result<Attr>>> {
        if !cx.origin.is_internal() || (cx.uid, cx.gid) != (0, 0) {
            // As the caller, with all that falls and fails for him.
            return make_whole_by_steps(self, cx, dir, files).await;
        }
        let answers = self.at(|brick| brick.make_whole(cx, dir, files))?;
        Ok(answers.into_iter().map(told).collect())
    }

    async fn getxattr(&self, cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<Vec<u8>> {
        self.at(|brick| brick.getxattr(cx, inode, name))
    }

    async fn listxattr(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        self.at(|brick| brick.listxattr(cx, inode))
    }

    async fn setxattr(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        let answer = self
            .with_room(cx, |brick| brick.setxattr(cx, inode, name, value, flags))
            .await;
        self.after(cx, &[inode], answer)
    }

    async fn removexattr(&self, cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        let answer = self.at(|brick| brick.removexattr(cx, inode, name));
        self.after(cx, &[inode], answer)
    }

    async fn get_flags(&self, cx: &Context, inode: &Arc<Inode>) -> Result<u32> {
        self.at(|brick| brick.get_flags(cx, inode))
    }

    async fn set_flags(&self, cx: &Context, inode: &Arc<Inode>, flags: u32) -> Result<()> {
        let answer = self.at(|brick| brick.set_flags(cx, inode, flags));
        self.after(cx, &[inode], answer)
    }

    async fn get_fsx(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Fsx> {
        self.at(|brick| brick.get_fsx(cx, inode))
    }

    async fn set_fsx(&self, cx: &Context, inode: &Arc<Inode>, fsx: &Fsx) -> Result<()> {
        let answer = self.at(|brick| brick.set_fsx(cx, inode, fsx));
        self.after(cx, &[inode], answer)
    }

    async fn fallocate(
        &self,
        cx: &Context,
        file: &Arc<File>,
        how: Allocate,
        at: u64,
        len: u64,
    ) -> Result<()> {
        self.with_room(cx, |brick| brick.fallocate(cx, file, how, at, len))
            .await
    }

    async fn lseek(&self, _: &Context, file: &Arc<File>, at: u64, seek: Seek) -> Result<u64> {
        self.at(|brick| brick.lseek(file, at, seek))
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
        self.with_room(cx, |brick| {
            brick.copy_range(cx, (from, from_at), (to, to_at), len)
        })
        .await
    }

    async fn extents(
        &self,
        _: &Context,
        file: &Arc<File>,
        from: u64,
        max: usize,
    ) -> Result<Vec<Extent>> {
        self.at(|brick| brick.extents(file, from, max))
    }

    async fn clone_range(
        &self,
        cx: &Context,
        from: &Arc<File>,
        from_at: u64,
        to: &Arc<File>,
        to_at: u64,
        len: u64,
    ) -> Result<()> {
        self.at(|brick| brick.clone_range(cx, (from, from_at), (to, to_at), len))
    }

    async fn statfs(&self, cx: &Context, inode: &Arc<Inode>) -> Result<StatFs> {
        self.at(|brick| brick.statfs(cx, inode))
    }

    // One mount is the only way to a brick: the kernel's own locks there are right and free. Only
    // hermitfs itself locks on the brick, against those who come to it by another way. Users' locks
    // would be of one owner here, and keep nobody out.
    async fn getlk(&self, _: &Context, _: &Arc<File>, _: &Lock) -> Result<Option<Lock>> {
        Err(Errno::ENOSYS.into())
    }

    async fn setlk(&self, cx: &Context, file: &Arc<File>, lock: &Lock, wait: bool) -> Result<()> {
        if wait || !cx.origin.is_internal() {
            return Err(Errno::ENOSYS.into());
        }
        self.at(|brick| brick.lock(file, lock))
    }

    async fn lend(&self, cx: &Context, inode: &Arc<Inode>, lend: Lend) -> Result<Option<Lent>> {
        self.at(|brick| brick.lend(cx, inode, lend))
    }

    async fn quiet(&self, _: &Context, inode: &Arc<Inode>) -> Result<bool> {
        self.at(|brick| brick.quiet(inode))
    }

    async fn sync(&self, _: &Context) -> Result<()> {
        self.at(|brick| brick.sync())
    }

    async fn role(&self, role: Role) -> Result<()> {
        if role == Role::Away {
            self.here.store(None);
            return Ok(());
        }
        if self.here.load().is_none() {
            let here = Here::open(&self.options).map_err(|error| match &error {
                OpenError::Directory { source, .. } | OpenError::FileSystem { source, .. } => {
                    let raw = source.raw_os_error().unwrap_or(libc::EIO);
                    Error::with_story(Errno::from_raw(raw), error)
                }
            })?;
            self.here.store(Some(Arc::new(here)));
        }
        let here = self.here.load_full().ok_or(Errno::ENODEV)?;
        if let Some(sentence) = here.brick.obstacle(role) {
            return Err(Error::with_story(Errno::EOPNOTSUPP, sentence));
        }
        here.brick.play(role);
        Ok(())
    }
}
