//! Open files and their data.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hermitfs_api::{
    Allocate, Context, File, Inode, Kind, Lend, Lent, Lock, LockKind, OpenFlags, Seek,
};
use rustix::fs::{
    FallocateFlags, FlockOperation, OFlags, SeekFrom, Statx, StatxAttributes, copy_file_range,
    fallocate, fdatasync, flock, fsync, ftruncate, seek, syncfs,
};
use rustix::io::{Errno, Result, fcntl_dupfd_cloexec, pread, pwrite, retry_on_intr};

use crate::attr::stat;
use crate::brick::Brick;
use crate::ours::Listed;
use crate::shares::Share;
use crate::view::{Held, LIST, View};
use crate::{caller, sys};

/// The leaf's part of an open file.
pub(crate) struct Opened {
    pub(crate) fd: Descriptor,
    /// The file is append-only: the kernel writes at its end, whatever the offset.
    fixed: bool,
    /// Dropped after it.
    _share: Option<Share>,
}

/// Its descriptor.
pub(crate) enum Descriptor {
    /// A user's.
    Alone(OwnedFd),
    /// Our own traffic's, which is found by the file's identity as well.
    Listed(Listed),
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Descriptor::Alone(fd) => fd.as_fd(),
            Descriptor::Listed(listed) => listed.as_fd(),
        }
    }
}

/// What of open(2)'s flags goes to the brick. Not `O_APPEND`, unless others write there as well:
/// offsets come with every write.
/// Not `O_DIRECT`: what a user aligned for the mount need not be aligned for us, and the door
/// keeps its own cache out of the way. Not `O_TRUNC`: that is done as the caller.
pub(crate) fn open_flags(flags: OpenFlags) -> Result<OFlags> {
    const KEPT: i32 = libc::O_ACCMODE | libc::O_SYNC | libc::O_DSYNC | libc::O_NOATIME;
    if !flags.reads() && !flags.writes() {
        return Err(Errno::INVAL); // the access mode 3
    }
    let append = if flags.appends() { libc::O_APPEND } else { 0 };
    Ok(OFlags::from_bits_retain((flags.0 & KEPT | append) as u32))
}

impl Brick {
    pub(crate) fn open_file(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        flags: OpenFlags,
    ) -> Result<Arc<File>> {
        if inode.kind() != Kind::File {
            return Err(Errno::INVAL);
        }
        let changes = flags.writes() || flags.truncates();
        let view = if changes {
            self.to_change(cx)?
        } else {
            self.view(cx)
        };
        let share = Share::take(cx)?;
        let (fd, fixed) = self.reopen_as(view, inode, flags)?;
        if changes {
            self.compare(view, fd.as_fd(), inode);
        }
        if flags.truncates() {
            if flags.writes() {
                let _caller = caller::writing(cx)?;
                ftruncate(&fd, 0)?;
            } else {
                let writable = self.reopen(view, inode, OFlags::WRONLY)?;
                let _caller = caller::writing(cx)?;
                ftruncate(&writable, 0)?;
            }
        }
        let moved = flags.counts_as_read() && !cx.origin.is_internal() && touch_atime(&fd);
        let file = self.file(cx, inode, flags, (fd, share), fixed);
        Ok(Arc::new(file.with_moved_atime(moved)))
    }

    /// As a user asked for it. An append-only file (`chattr +a`) can be opened to write with `O_APPEND` alone.
    fn reopen_as(&self, view: &View, inode: &Inode, flags: OpenFlags) -> Result<(OwnedFd, bool)> {
        let plain = open_flags(flags)?;
        match self.reopen(view, inode, plain) {
            Err(Errno::PERM) if flags.writes() && flags.0 & libc::O_APPEND != 0 => {
                let appending = self.reopen(view, inode, plain | OFlags::APPEND);
                appending.map(|fd| (fd, !flags.appends()))
            }
            opened => opened.map(|fd| (fd, false)),
        }
    }

    /// The open file that a descriptor makes.
    pub(crate) fn file(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        flags: OpenFlags,
        (fd, share): (OwnedFd, Option<Share>),
        fixed: bool,
    ) -> File {
        let fd = match cx.origin.is_internal() {
            true => Descriptor::Listed(self.ours.list(inode.identity(), fd)),
            false => Descriptor::Alone(fd),
        };
        let opened = Opened {
            fd,
            fixed,
            _share: share,
        };
        File::new(inode.clone(), flags, opened)
    }

    pub(crate) fn read(&self, file: &File, at: u64, buffer: &mut [u8]) -> Result<usize> {
        let fd = &self.opened(file)?.fd;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match retry_on_intr(|| pread(fd, &mut *rest, at.saturating_add(done as u64))) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break, // the next call gets the error
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    pub(crate) fn write(&self, cx: &Context, file: &File, at: u64, data: &[u8]) -> Result<usize> {
        self.to_change(cx)?;
        let Opened { fd, fixed, .. } = self.opened(file)?;
        let _caller = caller::writing(cx)?;
        // A caller that appends knows where the end is. What else comes was stored through a mapping, which an
        // append-only file cannot have.
        if *fixed && stat(fd)?.stx_size != at {
            return Err(Errno::PERM);
        }
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match retry_on_intr(|| pwrite(fd, rest, at.saturating_add(done as u64))) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break, // the next call gets the error
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// The open file has the lock, whoever its owner is for others.
    pub(crate) fn lock(&self, file: &File, lock: &Lock) -> Result<()> {
        let fd = &self.opened(file)?.fd;
        if !lock.flock {
            return sys::lock_range(fd.as_fd(), lock);
        }
        let operation = match lock.kind {
            LockKind::Shared => FlockOperation::NonBlockingLockShared,
            LockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
            LockKind::Unlock => FlockOperation::NonBlockingUnlock,
        };
        flock(fd, operation)
    }

    /// Some file systems (NFS) write out, and tell of errors, when a descriptor is closed.
    pub(crate) fn flush(&self, file: &File) -> Result<()> {
        let fd = &self.opened(file)?.fd;
        if file.flags().writes() {
            sys::close(fcntl_dupfd_cloexec(fd, 0)?)?;
        }
        Ok(())
    }

    pub(crate) fn fsync(&self, file: &File, datasync: bool) -> Result<()> {
        let fd = &self.opened(file)?.fd;
        if datasync { fdatasync(fd) } else { fsync(fd) }
    }

    pub(crate) fn fsyncdir(&self, cx: &Context, dir: &Inode, datasync: bool) -> Result<()> {
        if dir.kind() != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        let fd = self.reopen(self.view(cx), dir, LIST)?;
        if datasync { fdatasync(fd) } else { fsync(fd) }
    }

    /// The descriptor is from the start, so it has seen every error since.
    pub(crate) fn sync(&self) -> Result<()> {
        syncfs(&self.plain.root)
    }

    pub(crate) fn fallocate(
        &self,
        cx: &Context,
        file: &File,
        how: Allocate,
        at: u64,
        len: u64,
    ) -> Result<()> {
        self.to_change(cx)?;
        let fd = &self.opened(file)?.fd;
        let mode = FallocateFlags::from_bits_retain(how.bits() as u32);
        let _caller = caller::writing(cx)?;
        retry_on_intr(|| fallocate(fd, mode, at, len))
    }

    pub(crate) fn lseek(&self, file: &File, at: u64, what: Seek) -> Result<u64> {
        let fd = &self.opened(file)?.fd;
        match what {
            Seek::Data => seek(fd, SeekFrom::Data(at)),
            Seek::Hole => seek(fd, SeekFrom::Hole(at)),
        }
    }

    pub(crate) fn copy_range(
        &self,
        cx: &Context,
        (from, mut from_at): (&File, u64),
        (to, mut to_at): (&File, u64),
        len: u64,
    ) -> Result<u64> {
        self.to_change(cx)?;
        let (from, to) = (&self.opened(from)?.fd, &self.opened(to)?.fd);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let _caller = caller::writing(cx)?;
        let copied = copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), len)?;
        Ok(copied as u64)
    }

    /// For users (passthrough) an `O_PATH` descriptor, which holds nothing open on the brick. Our
    /// own traffic gets one to read, or to read and write, with.
    pub(crate) fn lend(&self, cx: &Context, inode: &Inode, lend: Lend) -> Result<Option<Lent>> {
        if inode.kind() != Kind::File {
            return Ok(None);
        }
        let view = match lend {
            Lend::Read => self.view(cx),
            Lend::Write => self.to_change(cx)?,
        };
        if !cx.origin.is_internal() && self.is_append_only(view, inode)? {
            // Through a mapping that passes us by anything could be stored.
            return Err(Errno::PERM);
        }
        let fd = match (cx.origin.is_internal(), lend) {
            (false, _) => match self.hold(view, inode)? {
                Held::Own(fd) => Arc::new(fd),
                Held::Shared(fd) => fd,
                Held::Lent(fd) => Arc::new(fcntl_dupfd_cloexec(fd, 0)?),
            },
            (true, Lend::Read) => Arc::new(self.reopen(view, inode, OFlags::RDONLY)?),
            (true, Lend::Write) => Arc::new(self.reopen(view, inode, OFlags::RDWR)?),
        };
        Ok(Some(Lent::new(fd)))
    }

    fn is_append_only(&self, view: &View, inode: &Inode) -> Result<bool> {
        let told = stat(self.hold(view, inode)?)?;
        Ok(told.stx_attributes.contains(StatxAttributes::APPEND))
    }

    pub(crate) fn quiet(&self, inode: &Inode) -> Result<bool> {
        if inode.kind() != Kind::File {
            return Err(Errno::INVAL);
        }
        let fd = self.reopen(&self.quiet, inode, OFlags::RDONLY)?;
        match sys::take_read_lease(fd.as_fd()) {
            Ok(()) => sys::drop_lease(fd.as_fd()).map(|()| true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Has the kernel count a read of the file, by its own rules (relatime, noatime, a frozen file system and
/// all). A read at the end of the file asks no disk for anything. Whether the access time moved.
fn touch_atime(fd: &OwnedFd) -> bool {
    let Ok(before) = stat(fd) else { return false };
    // It is no more than an access time: whoever opens the file is not to notice when this fails.
    let _ = pread(fd, &mut [0; 1], before.stx_size);
    let atime = |stat: &Statx| (stat.stx_atime.tv_sec, stat.stx_atime.tv_nsec);
    stat(fd).is_ok_and(|after| atime(&after) != atime(&before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brick_is_opened_without_append_direct_and_truncate() {
        let asked = OpenFlags::READ_WRITE.with(
            libc::O_APPEND | libc::O_DIRECT | libc::O_TRUNC | libc::O_SYNC | libc::O_NONBLOCK,
        );
        let flags = open_flags(asked).unwrap();
        assert_eq!(flags.bits() as i32, libc::O_RDWR | libc::O_SYNC);
        assert_eq!(open_flags(OpenFlags(3)), Err(Errno::INVAL));
        let shared = OpenFlags::WRITE.with(libc::O_APPEND | OpenFlags::SHARED);
        let flags = open_flags(shared).unwrap();
        assert_eq!(flags.bits() as i32, libc::O_WRONLY | libc::O_APPEND);
    }
}
