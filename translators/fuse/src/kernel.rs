//! The kernel's requests, translated. What is more than a translation stands in the other files.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use hermitfs_api::{
    Allocate, Errno, Error, Kind, LockKind, Make, Name, RenameFlags, Result, Seek, SetAttr,
    XattrFlags, block_on,
};

use crate::convert::{context, open_flags, rdev_in, set_time};
use crate::door::{Door, Found, Manner};
use crate::files::Open;
use crate::ioctl::GIVEN;
use crate::locks;
use crate::modes::Mode;
use crate::statistics::Op;
use crate::sys;
use crate::work::fence;

/// Largest read and write.
pub(crate) const MAX_IO: u32 = 1 << 20;

/// The largest value of an extended attribute that Linux knows (`XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 1 << 16;

/// What the session talks to.
pub(crate) struct Kernel(pub(crate) Arc<Door>);

thread_local! {
    /// Where reads go. One for each thread, as large as the largest so far.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Kernel {
    /// Works on a request that owns all it needs.
    fn run<F>(&self, op: Op, request: impl FnOnce(Arc<Door>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let door = self.0.clone();
        self.0.work.run(op, request(door));
    }

    /// The same where the answer is nothing or an error.
    fn run_empty<F>(&self, op: Op, reply: ReplyEmpty, request: impl FnOnce(Arc<Door>) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.run(op, |door| {
            let request = request(door.clone());
            async move {
                match request.await {
                    Ok(()) => reply.ok(),
                    Err(error) => reply.error(door.fail(op, &error)),
                }
            }
        });
    }

    /// The same where the answer is an object.
    fn run_entry<F>(&self, op: Op, reply: ReplyEntry, request: impl FnOnce(Arc<Door>) -> F)
    where
        F: Future<Output = Result<Found>> + Send + 'static,
    {
        self.run(op, |door| {
            // Of the time before the look: what it finds may be old when that has changed.
            let entry_lifetime = door.entry_lifetime();
            let request = request(door.clone());
            async move {
                match request.await {
                    Ok(Found {
                        attr,
                        generation,
                        lifetime,
                        ..
                    }) => {
                        let attrs = lifetime.min(door.attr_lifetime());
                        // Shorter when the volume was exchanged meanwhile.
                        let names = entry_lifetime.min(door.entry_lifetime());
                        reply.entry_with_ttls(&attrs, &names, &attr, generation);
                    }
                    Err(error) => reply.error(door.fail(op, &error)),
                }
            }
        });
    }

    /// The same where the answer is bytes, for which the caller has room or wants the size.
    fn run_xattr<F>(
        &self,
        op: Op,
        room: u32,
        reply: ReplyXattr,
        request: impl FnOnce(Arc<Door>) -> F,
    ) where
        F: Future<Output = Result<Vec<u8>>> + Send + 'static,
    {
        self.run(op, |door| {
            let request = request(door.clone());
            async move {
                match request.await {
                    Ok(value) if value.len() > XATTR_MAX => reply.error(fuser::Errno::E2BIG),
                    Ok(value) if room == 0 => reply.size(value.len() as u32),
                    Ok(value) if value.len() > room as usize => reply.error(fuser::Errno::ERANGE),
                    Ok(value) => reply.data(&value),
                    Err(error) => reply.error(door.fail(op, &error)),
                }
            }
        });
    }
}

fn owned(name: &OsStr) -> Box<[u8]> {
    name.as_bytes().into()
}

impl Filesystem for Kernel {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let door = &self.0;
        let offered = config.capabilities();
        // Never WRITEBACK_CACHE (it forbids passthrough, and hides from us when writes happen)
        // and never OVER_IO_URING (the mount hangs: nobody serves the rings). Locks stay with the
        // kernel while one mount is the only way in: its own are right, killable and free then. Nor
        // ATOMIC_O_TRUNC: with it the kernel asks us to truncate before it looks whether the file
        // is a program that runs (ETXTBSY), and that program is gone. Nor ALLOW_IDMAP: with it only
        // what makes an object says who asks, and all else has to be done as the caller, too.
        // NO_EXPORT: a node's number means nothing once the kernel has forgotten it, so a handle
        // would be ESTALE as soon as memory is short. Who needs handles is told at once.
        let wanted = InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_NO_EXPORT_SUPPORT
            | if door.options.shared {
                // Pages go when a file's attributes tell of a change; listings are not kept.
                InitFlags::FUSE_AUTO_INVAL_DATA | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
            } else {
                InitFlags::FUSE_NO_OPENDIR_SUPPORT | InitFlags::FUSE_PASSTHROUGH
            };
        let locks = match door.has_locks() {
            true => InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS,
            false => InitFlags::empty(),
        };
        let agreed = (wanted | locks) & offered;
        config.add_capabilities(agreed).ok();
        if agreed.contains(InitFlags::FUSE_PASSTHROUGH) {
            // Deeper, an overlayfs could be a brick, but none could stand on this mount.
            config.set_max_stack_depth(1).ok();
            door.openings.set_able(true);
        }
        door.no_opendir.store(
            agreed.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
            Ordering::Relaxed,
        );
        config.set_max_write(MAX_IO).ok();
        if let Err(most) = config.set_max_readahead(MAX_IO) {
            config.set_max_readahead(most).ok();
        }
        config.set_max_background(door.options.max_background).ok();
        tracing::debug!(abi = ?config.kernel_abi(), ?agreed, "the kernel agrees");
        Ok(())
    }

    fn lookup(&self, request: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // Also while look-ups are held.
        self.0.listening.hear(name);
        let (cx, name) = (context(request), owned(name));
        self.run_entry(Op::Lookup, reply, |door| async move {
            steady!(door, { door.lookup(&cx, dir.0, &name).await })
        });
    }

    fn forget(&self, _request: &Request, node: INodeNo, lookups: u64) {
        // Not answered, and never sent elsewhere: each comes after the last request for its node.
        let door = &self.0;
        door.statistics.count(Op::Forget);
        fence(Op::Forget, &door.statistics, || {
            door.nodes.forget(node.0, lookups)
        });
    }

    fn getattr(&self, request: &Request, node: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let cx = context(request);
        self.run(Op::Getattr, |door| async move {
            let attr = steady!(door, {
                let file = fh.and_then(|fh| door.files.get(fh.0));
                let file = file.as_ref().map(|open| &*open.file);
                let (inode, volume) = (door.node(node.0)?, door.volume());
                // Before the look: what was changed unseen until then is in it.
                door.openings.changes_unseen(&*volume, &cx, &inode).await;
                let attr = volume.getattr(&cx, &inode, file).await?;
                Ok((door.believed(node.0, &inode, &attr), attr))
            });
            match attr {
                Ok((lifetime, attr)) => reply.attr(&lifetime, &door.shown(node.0, &attr)),
                Err(error) => reply.error(door.fail(Op::Getattr, &error)),
            }
        });
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let cx = context(request);
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        self.run(Op::Setattr, |door| async move {
            let attr = steady!(door, {
                let file = fh.and_then(|fh| door.files.get(fh.0));
                let file = file.as_ref().map(|open| &*open.file);
                let inode = door.node(node.0)?;
                let volume = door.volume();
                if set == SetAttr::default() {
                    let attr = volume.getattr(&cx, &inode, file).await?;
                    return Ok((door.believed(node.0, &inode, &attr), attr));
                }
                door.settle_stores(node.0, &inode, &set);
                door.set_ids.may_be_set(&set);
                let attr = volume.setattr(&cx, &inode, file, &set).await;
                door.set_ids.may_be_set(&set);
                let attr = attr?;
                Ok((door.believed(node.0, &inode, &attr), attr))
            });
            match attr {
                Ok((lifetime, attr)) => {
                    reply.attr(&lifetime, &door.shown(node.0, &attr));
                    if door.options.shared && attr.kind == Kind::File {
                        // The kernel takes the times of this answer for those of its pages.
                        door.drop_pages(node.0, 0, 0);
                    }
                }
                Err(error) => reply.error(door.fail(Op::Setattr, &error)),
            }
        });
    }

    fn readlink(&self, request: &Request, node: INodeNo, reply: ReplyData) {
        let cx = context(request);
        self.run(Op::Readlink, |door| async move {
            let target = steady!(door, {
                let inode = door.node(node.0)?;
                let target = door.volume().readlink(&cx, &inode).await;
                door.gives(&inode);
                target
            });
            match target {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(door.fail(Op::Readlink, &error)),
            }
        });
    }

    fn mknod(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (cx, name) = (context(request), owned(name));
        self.run_entry(Op::Mknod, reply, |door| async move {
            steady!(door, {
                let kind = match mode & libc::S_IFMT {
                    0 => Kind::File,
                    _ => Kind::from_mode(mode).ok_or(Error::new(Errno::EINVAL))?,
                };
                let rdev = if kind.is_device() { rdev_in(rdev) } else { 0 };
                let make = Make {
                    kind,
                    mode: mode & 0o7777,
                    umask,
                    rdev,
                };
                let (dir, name) = (door.node(dir.0)?, Name::new(&name)?);
                Ok(door.found(&door.volume().mknod(&cx, &dir, name, &make).await?))
            })
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (cx, name) = (context(request), owned(name));
        self.run_entry(Op::Mkdir, reply, |door| async move {
            steady!(door, {
                let (dir, name) = (door.node(dir.0)?, Name::new(&name)?);
                Ok(door.found(
                    &door
                        .volume()
                        .mkdir(&cx, &dir, name, mode & 0o7777, umask)
                        .await?,
                ))
            })
        });
    }

    fn unlink(&self, request: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (cx, name) = (context(request), owned(name));
        self.run_empty(Op::Unlink, reply, |door| async move {
            steady!(door, {
                door.volume()
                    .unlink(&cx, &door.node(dir.0)?, Name::new(&name)?)
                    .await
            })
        });
    }

    fn rmdir(&self, request: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (cx, name) = (context(request), owned(name));
        self.run_empty(Op::Rmdir, reply, |door| async move {
            steady!(door, {
                door.volume()
                    .rmdir(&cx, &door.node(dir.0)?, Name::new(&name)?)
                    .await
            })
        });
    }

    fn symlink(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (cx, name, target) = (context(request), owned(name), owned(target.as_os_str()));
        self.run_entry(Op::Symlink, reply, |door| async move {
            steady!(door, {
                let (dir, name) = (door.node(dir.0)?, Name::new(&name)?);
                Ok(door.found(&door.volume().symlink(&cx, &dir, name, &target).await?))
            })
        });
    }

    fn rename(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        new_dir: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (cx, name, new_name) = (context(request), owned(name), owned(new_name));
        self.run_empty(Op::Rename, reply, |door| async move {
            steady!(door, {
                let flags =
                    RenameFlags::from_bits(flags.bits()).ok_or(Error::new(Errno::EINVAL))?;
                let (dir, new_dir) = (door.node(dir.0)?, door.node(new_dir.0)?);
                let (name, new_name) = (Name::new(&name)?, Name::new(&new_name)?);
                door.volume()
                    .rename(&cx, &dir, name, &new_dir, new_name, flags)
                    .await
            })
        });
    }

    fn link(
        &self,
        request: &Request,
        node: INodeNo,
        dir: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (cx, name) = (context(request), owned(name));
        self.run_entry(Op::Link, reply, |door| async move {
            steady!(door, {
                let (inode, dir) = (door.node(node.0)?, door.node(dir.0)?);
                Ok(door.found(
                    &door
                        .volume()
                        .link(&cx, &inode, &dir, Name::new(&name)?)
                        .await?,
                ))
            })
        });
    }

    fn open(&self, request: &Request, node: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        let (cx, flags) = (context(request), open_flags(flags.0));
        self.run(Op::Open, |door| async move {
            door.open(&cx, node.0, flags, reply).await
        });
    }

    fn create(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (cx, name) = (context(request), owned(name));
        self.run(Op::Create, |door| async move {
            door.create(&cx, dir.0, &name, flags, mode, umask, reply)
                .await;
        });
    }

    fn read(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        at: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (cx, size, door) = (context(request), size as usize, &self.0);
        let open = match door.open_file(fh) {
            Ok(open) => open,
            Err(error) => return reply.error(door.fail(Op::Read, &error)),
        };
        // Only what fills the page cache comes without an owner. On a file of which parts bypass
        // us (sendfile(2) and readahead(2) still do that) these pages would grow old unseen.
        let ages = lock_owner.is_none() && open.mode.is_backed();
        let answer = move |door: &Door, reply: ReplyData, read: Result<usize>, buffer: &[u8]| {
            match read {
                Ok(read) => reply.data(&buffer[..read.min(size)]),
                Err(error) => reply.error(door.fail(Op::Read, &error)),
            }
            if ages {
                door.drop_pages(node.0, at, size);
            }
        };
        let here = |(open, reply): (Arc<Open>, ReplyData)| {
            BUFFER.with_borrow_mut(|buffer| {
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let buffer = &mut buffer[..size];
                let read = block_on(door.read(&cx, (fh, open), at, buffer));
                answer(door, reply, read, buffer);
            });
        };
        let elsewhere = |(open, reply): (Arc<Open>, ReplyData)| {
            let door = door.clone();
            async move {
                let mut buffer = vec![0; size];
                let read = door.read(&cx, (fh, open), at, &mut buffer).await;
                answer(&door, reply, read, &buffer);
            }
        };
        let work = &door.work;
        work.run_borrowing(Op::Read, (open, reply), here, elsewhere);
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        at: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (mut cx, door) = (context(request), &self.0);
        // Mapped stores that the kernel writes back, on nobody's behalf, through any descriptor.
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        if mapped {
            (cx.uid, cx.gid, cx.pid) = (0, 0, 0);
        }
        let manner = Manner {
            kills: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            appends: !mapped && flags.0 & libc::O_APPEND != 0,
        };
        let open = match door.open_file(fh) {
            Ok(open) => open,
            Err(error) => return reply.error(door.fail(Op::Write, &error)),
        };
        let ages = matches!(open.mode, Mode::Cached { .. });
        let answer = move |door: &Door, reply: ReplyWrite, written: Result<usize>| {
            match written {
                Ok(written) => reply.written(written as u32),
                Err(error) => reply.error(door.fail(Op::Write, &error)),
            }
            if ages && (door.is_exchanged() || manner.appends && door.options.shared) {
                // What was appended stands where the file ended, not where the kernel thought.
                door.drop_pages(node.0, 0, 0);
            }
        };
        let here = |(open, reply): (Arc<Open>, ReplyWrite)| {
            let written = block_on(door.write(&cx, (fh, open), at, data, manner));
            answer(door, reply, written);
        };
        let elsewhere = |(open, reply): (Arc<Open>, ReplyWrite)| {
            let (door, data) = (door.clone(), data.to_vec());
            async move {
                let written = door.write(&cx, (fh, open), at, &data, manner).await;
                answer(&door, reply, written);
            }
        };
        let work = &door.work;
        work.run_borrowing(Op::Write, (open, reply), here, elsewhere);
    }

    fn flush(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if !self.0.options.flush && !self.0.options.shared && !self.0.has_locks() {
            return reply.error(fuser::Errno::ENOSYS);
        }
        let cx = context(request);
        self.run_empty(Op::Flush, reply, |door| async move {
            steady!(door, {
                let open = door.open_file(fh)?;
                door.volume().flush(&cx, &open.file, owner.0).await
            })
        });
    }

    fn release(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let cx = context(request);
        self.run_empty(Op::Release, reply, |door| async move {
            door.release(&cx, fh).await
        });
    }

    fn fsync(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let cx = context(request);
        self.run_empty(Op::Fsync, reply, |door| async move {
            steady!(door, {
                door.volume()
                    .fsync(&cx, &door.open_file(fh)?.file, datasync)
                    .await
            })
        });
    }

    fn opendir(
        &self,
        _request: &Request,
        _node: INodeNo,
        _flags: fuser::OpenFlags,
        reply: ReplyOpen,
    ) {
        self.0.statistics.count(Op::Opendir);
        if self.0.no_opendir.load(Ordering::Relaxed) {
            // Asked once: from then on the kernel opens directories by itself, and caches them.
            return reply.error(fuser::Errno::ENOSYS);
        }
        let flags = match self.0.options.shared {
            true => FopenFlags::empty(),
            false => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
        };
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(
        &self,
        request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        from: u64,
        reply: ReplyDirectory,
    ) {
        let cx = context(request);
        self.run(Op::Readdir, |door| async move {
            door.readdir(cx, node.0, from, reply).await
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        from: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let cx = context(request);
        self.run(Op::Readdirplus, |door| async move {
            door.readdirplus(cx, node.0, from, reply).await;
        });
    }

    fn fsyncdir(
        &self,
        request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let cx = context(request);
        self.run_empty(Op::Fsyncdir, reply, |door| async move {
            steady!(door, {
                door.volume()
                    .fsyncdir(&cx, &door.node(node.0)?, datasync)
                    .await
            })
        });
    }

    fn statfs(&self, request: &Request, node: INodeNo, reply: ReplyStatfs) {
        let cx = context(request);
        self.run(Op::Statfs, |door| async move {
            let statfs = steady!(door, {
                door.volume().statfs(&cx, &door.node(node.0)?).await
            });
            match statfs {
                Ok(s) => reply.statfs(
                    s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize,
                ),
                Err(error) => reply.error(door.fail(Op::Statfs, &error)),
            }
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (cx, name, value) = (context(request), owned(name), value.to_vec());
        self.run_empty(Op::Setxattr, reply, |door| async move {
            steady!(door, {
                let flags = match flags {
                    0 => XattrFlags::Any,
                    libc::XATTR_CREATE => XattrFlags::Create,
                    libc::XATTR_REPLACE => XattrFlags::Replace,
                    _ => return Err(Errno::EINVAL.into()),
                };
                let inode = door.node(node.0)?;
                door.capabilities.may_be_set(&name);
                let volume = door.volume();
                let set = volume.setxattr(&cx, &inode, &name, &value, flags).await;
                door.capabilities.may_be_set(&name);
                set
            })
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (cx, name) = (context(request), owned(name));
        self.run_xattr(Op::Getxattr, size, reply, |door| async move {
            steady!(door, {
                let (inode, seen) = (door.node(node.0)?, door.capabilities.now());
                if !door.is_shared() && door.capabilities.surely_none(&inode, &name) {
                    return Err(Errno::ENODATA.into());
                }
                let value = door.volume().getxattr(&cx, &inode, &name).await;
                if door.openings.is_far() {
                    door.capabilities.saw(&inode, &name, seen, &value);
                }
                value
            })
        });
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let cx = context(request);
        self.run_xattr(Op::Listxattr, size, reply, |door| async move {
            steady!(door, {
                door.volume().listxattr(&cx, &door.node(node.0)?).await
            })
        });
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (cx, name) = (context(request), owned(name));
        self.run_empty(Op::Removexattr, reply, |door| async move {
            steady!(door, {
                door.volume()
                    .removexattr(&cx, &door.node(node.0)?, &name)
                    .await
            })
        });
    }

    fn ioctl(
        &self,
        request: &Request,
        node: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        data: &[u8],
        room: u32,
        reply: ReplyIoctl,
    ) {
        let cx = context(request);
        let data = data[..data.len().min(GIVEN)].to_vec();
        self.run(Op::Ioctl, |door| async move {
            door.ioctl(cx, node.0, command, data, room, reply).await;
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        fh: FileHandle,
        at: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let cx = context(request);
        self.run_empty(Op::Fallocate, reply, |door| async move {
            steady!(door, {
                let how = Allocate::from_bits(mode).ok_or(Error::new(Errno::EOPNOTSUPP))?;
                let (open, kills) = (door.open_file(fh)?, cx.uid != 0);
                let volume = door.volume();
                let change = volume.fallocate(&cx, &open.file, how, at, len);
                door.changing(&cx, node.0, &open, kills, change).await
            })
        });
    }

    fn lseek(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        at: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let cx = context(request);
        self.run(Op::Lseek, |door| async move {
            let found = steady!(door, {
                let seek = match whence {
                    libc::SEEK_DATA => Seek::Data,
                    libc::SEEK_HOLE => Seek::Hole,
                    _ => return Err(Errno::EINVAL.into()),
                };
                let at = u64::try_from(at).map_err(|_| Error::new(Errno::ENXIO))?;
                door.volume()
                    .lseek(&cx, &door.open_file(fh)?.file, at, seek)
                    .await
            });
            match found {
                Ok(found) => reply.offset(found as i64),
                Err(error) => reply.error(door.fail(Op::Lseek, &error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        at: u64,
        to_node: INodeNo,
        to_fh: FileHandle,
        to_at: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let cx = context(request);
        // The answer has 32 bits; copying less is allowed.
        let len = len.min(1 << 30);
        self.run(Op::CopyFileRange, |door| async move {
            let copied = steady!(door, {
                let (from, to) = (door.open_file(fh)?, door.open_file(to_fh)?);
                let (volume, kills) = (door.volume(), cx.uid != 0);
                let copy = volume.copy_file_range(&cx, &from.file, at, &to.file, to_at, len);
                door.changing(&cx, to_node.0, &to, kills, copy).await
            });
            match copied {
                Ok(copied) => reply.written(copied as u32),
                Err(error) => reply.error(door.fail(Op::CopyFileRange, &error)),
            }
        });
    }

    // From here on: operations that this door has not got. ENOSYS is heard once each.

    fn access(
        &self,
        _request: &Request,
        _node: INodeNo,
        _mask: fuser::AccessFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn getlk(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        if !self.0.has_locks() {
            return reply.error(fuser::Errno::ENOSYS);
        }
        let cx = context(request);
        let lock = locks::lock(owner.0, (start, end), kind, pid, false);
        self.run(Op::Getlk, |door| async move {
            let found = match lock {
                Ok(lock) => door.getlk(&cx, fh.0, &lock).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(found) => locks::answer(reply, found),
                Err(error) => reply.error(door.fail(Op::Getlk, &error)),
            }
        });
    }

    fn setlk(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        if !self.0.has_locks() {
            return reply.error(fuser::Errno::ENOSYS);
        }
        let cx = context(request);
        let flock = sys::is_flock(request, fh.0, owner.0);
        self.run_empty(Op::Setlk, reply, |door| async move {
            let story = "fuser no longer leaves a lock's flags behind its request";
            let flock = flock.ok_or_else(|| Error::with_story(Errno::ENOLCK, story))?;
            let lock = locks::lock(owner.0, (start, end), kind, pid, flock)?;
            match sleep && lock.kind != LockKind::Unlock {
                true => door.wait_for_lock(&cx, fh.0, &lock).await,
                false => door.try_lock(&cx, fh.0, &lock).await,
            }
        });
    }

    fn bmap(&self, _request: &Request, _node: INodeNo, _size: u32, _block: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn poll(
        &self,
        _request: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}
