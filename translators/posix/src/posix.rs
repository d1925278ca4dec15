use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use hermitfs_api::{
    Allocate, Attr, Context, DirEntry, Entry, Errno, Error, File, Handle, Inode, Lend, Lent,
    Location, Lock, Make, Name, NameBuf, OpenFlags, RenameFlags, Result, Role, Seek, SetAttr,
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

// Each answers at its first poll: there is nothing in here to wait for but the disk.
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
        self.at(|brick| brick.setattr(cx, inode, file, set))
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
        self.at(|brick| brick.mknod(cx, dir, name, make))
    }

    async fn mkdir(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        self.at(|brick| brick.mkdir(cx, dir, name, mode, umask))
    }

    async fn symlink(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        target: &[u8],
    ) -> Result<Entry> {
        self.at(|brick| brick.symlink(cx, dir, name, target))
    }

    async fn link(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        dir: &Arc<Inode>,
        name: &Name,
    ) -> Result<Entry> {
        self.at(|brick| brick.link(cx, inode, dir, name))
    }

    async fn unlink(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        self.at(|brick| brick.unlink(cx, dir, name))
    }

    async fn rmdir(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()> {
        self.at(|brick| brick.rmdir(cx, dir, name))
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
        self.at(|brick| brick.rename(cx, dir, name, new_dir, new_name, flags))
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
        self.at(|brick| brick.create(cx, dir, name, flags, mode, umask))
    }

    async fn open(&self, cx: &Context, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Arc<File>> {
        self.at(|brick| brick.open_file(cx, inode, flags))
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
        self.at(|brick| brick.write(cx, file, at, data))
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
        self.at(|brick| brick.setxattr(cx, inode, name, value, flags))
    }

    async fn removexattr(&self, cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.at(|brick| brick.removexattr(cx, inode, name))
    }

    async fn get_flags(&self, cx: &Context, inode: &Arc<Inode>) -> Result<u32> {
        self.at(|brick| brick.get_flags(cx, inode))
    }

    async fn set_flags(&self, cx: &Context, inode: &Arc<Inode>, flags: u32) -> Result<()> {
        self.at(|brick| brick.set_flags(cx, inode, flags))
    }

    async fn fallocate(
        &self,
        cx: &Context,
        file: &Arc<File>,
        how: Allocate,
        at: u64,
        len: u64,
    ) -> Result<()> {
        self.at(|brick| brick.fallocate(cx, file, how, at, len))
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
        self.at(|brick| brick.copy_range(cx, (from, from_at), (to, to_at), len))
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
        self.at(|brick| {
            brick.play(role);
            Ok(())
        })
    }
}
