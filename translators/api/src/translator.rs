use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    Allocate, Attr, Context, DirEntry, Entry, Extent, File, Fsx, Handle, Inode, Lend, Lent,
    Location, Lock, Make, Name, NameBuf, OpenFlags, RenameFlags, Result, Role, Seek, SetAttr,
    Snapshot, StatFs, Whole, XattrFlags,
};

/// What the table of operations is made into: both traits, the forwarding of filters, and [`Fop`].
macro_rules! operations {
    ($($(#[doc = $doc:literal])* $class:ident $fop:ident: fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        /// A layer of a stack. Every operation has to be written out: for leaves and fan-outs.
        /// Write a [`Filter`] where most operations just go on to one child.
        ///
        /// Futures are polled on the thread that has the request. An operation on local storage
        /// answers at the first poll; what waits for a network or a freeze returns `Pending`.
        /// A future must be run to its end: dropping one half way leaves the outcome unknown.
        #[async_trait]
        pub trait Translator: Send + Sync + 'static {
            $($(#[doc = $doc])* async fn $name(&self, $($arg: $ty),*) -> $ret;)*
        }

        /// A layer with one child, which says only what it changes: all else goes to the child.
        #[async_trait]
        pub trait Filter: Send + Sync + 'static {
            /// The child.
            fn below(&self) -> &dyn Translator;

            $($(#[doc = $doc])* async fn $name(&self, $($arg: $ty),*) -> $ret {
                self.below().$name($($arg),*).await
            })*
        }

        #[async_trait]
        impl<F: Filter> Translator for F {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                Filter::$name(self, $($arg),*).await
            })*
        }

        /// The operations, by name: for traces, statistics and faults.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Fop {
            $(#[doc = concat!("[`Translator::", stringify!($name), "`]")] $fop,)*
        }

        impl Fop {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Fop] = &[$(Fop::$fop),*];

            /// The method's name.
            pub fn name(self) -> &'static str {
                match self { $(Fop::$fop => stringify!($name),)* }
            }

            /// Whether it can change what is on the brick.
            pub fn changes(self) -> bool {
                match self { $(Fop::$fop => operations!(@ $class),)* }
            }
        }
    };
    (@ reads) => { false };
    (@ changes) => { true };
}

/// The one table of file operations, handed to the macro `$callback`: a layer that does the same
/// at every operation (a trace, a fault) generates itself from it and cannot forget one.
///
/// Each line is `reads|changes Fop: fn name(arg: Type, ...) -> Type;` with its documentation.
/// `reads` and `changes` say whether a successful call can alter what is on the brick. The types
/// are named as this crate exports them, so the caller has them in scope.
#[macro_export]
macro_rules! with_operations {
    ($callback:ident) => {
        $callback! {
            /// The root of the volume.
            reads Root: fn root(cx: &Context) -> Result<Entry>;

            /// Finds `name` in `dir`. ENOENT when there is none; an error proves nothing else.
            reads Lookup: fn lookup(cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<Entry>;

            /// Bytes that lead back to this object after a restart. EOPNOTSUPP where there are none.
            reads Handle: fn handle(cx: &Context, inode: &Arc<Inode>) -> Result<Handle>;

            /// Back from a handle. ESTALE when the object is gone, or the handle is of another brick.
            reads Resolve: fn resolve(cx: &Context, handle: &Handle) -> Result<Entry>;

            /// Where the object stands now. For a directory that is a fact (ESTALE when it was removed);
            /// for anything else one of its names as last seen, which the caller has to check. ENOENT
            /// when none is known.
            reads Locate: fn locate(cx: &Context, inode: &Arc<Inode>) -> Result<Location>;

            /// A directory and a name in it under which the object stands. For a directory that is a fact, and
            /// costs no more the deeper it is; ENOENT for the root, and for one that was removed. For anything
            /// else it is the name under which it was last seen through this volume (looked up, made, renamed):
            /// a hint from memory, which the caller has to check; ENOENT when there is none, as for what was
            /// only resolved from a handle, or a name taken away.
            reads Whence: fn whence(cx: &Context, inode: &Arc<Inode>) -> Result<(Arc<Inode>, NameBuf)>;

            /// stat(2); through the open file where one is given.
            reads Getattr: fn getattr(cx: &Context, inode: &Arc<Inode>, file: Option<&File>) -> Result<Attr>;

            /// chmod, chown, truncate, utimens in one. See [`SetAttr`] for the order. As a caller who is
            /// not root, set-id bits and capabilities fall as the kernel lets them fall.
            changes Setattr: fn setattr(cx: &Context, inode: &Arc<Inode>, file: Option<&File>, set: &SetAttr) -> Result<Attr>;

            /// A symbolic link's target: 1..=4095 bytes.
            reads Readlink: fn readlink(cx: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>>;

            /// Makes a file, fifo, socket or device, owned by the caller. EEXIST, EDQUOT, ENOSPC ...
            changes Mknod: fn mknod(cx: &Context, dir: &Arc<Inode>, name: &Name, make: &Make) -> Result<Entry>;

            /// Makes a directory, owned by the caller; `mode` is before the umask.
            changes Mkdir: fn mkdir(cx: &Context, dir: &Arc<Inode>, name: &Name, mode: u32, umask: u32) -> Result<Entry>;

            /// Makes a symbolic link, owned by the caller.
            changes Symlink: fn symlink(cx: &Context, dir: &Arc<Inode>, name: &Name, target: &[u8]) -> Result<Entry>;

            /// Another name for what is no directory.
            changes Link: fn link(cx: &Context, inode: &Arc<Inode>, dir: &Arc<Inode>, name: &Name) -> Result<Entry>;

            /// Takes away a name of what is no directory (EISDIR).
            changes Unlink: fn unlink(cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()>;

            /// Takes away an empty directory (ENOTDIR, ENOTEMPTY).
            changes Rmdir: fn rmdir(cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<()>;

            /// renameat2(2).
            changes Rename: fn rename(cx: &Context, dir: &Arc<Inode>, name: &Name, new_dir: &Arc<Inode>, new_name: &Name, flags: RenameFlags) -> Result<()>;

            /// Makes a regular file, owned by the caller, and opens it. EEXIST when the name is taken
            /// (also by a file; a door that did not get `O_EXCL` then looks it up and opens it).
            changes Create: fn create(cx: &Context, dir: &Arc<Inode>, name: &Name, flags: OpenFlags, mode: u32, umask: u32) -> Result<(Entry, Arc<File>)>;

            /// Opens a regular file. Changes it when the flags say `O_TRUNC`. Anything but a regular
            /// file is EINVAL: a brick's own fifos and devices are never opened by us.
            changes Open: fn open(cx: &Context, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Arc<File>>;

            /// Reads at an offset in bytes. Short only at the end of the file.
            reads Read: fn read(cx: &Context, file: &Arc<File>, at: u64, buffer: &mut [u8]) -> Result<usize>;

            /// Writes at an offset in bytes, as the caller. Short only when an error cut it short after
            /// some bytes, which the next call then reports.
            changes Write: fn write(cx: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize>;

            /// close(2) of one descriptor; there may be more of this open file. The record locks of
            /// `owner` (the closing process' lock owner, see [`Lock`]) on the file are dropped, through
            /// whichever open file they were taken.
            reads Flush: fn flush(cx: &Context, file: &Arc<File>, owner: u64) -> Result<()>;

            /// The last descriptor of this open file is gone, and with it all locks that were taken
            /// through it. Mappings of it may live on.
            reads Release: fn release(cx: &Context, file: &Arc<File>) -> Result<()>;

            /// fsync(2), fdatasync(2): when it returns the file is on stable storage.
            reads Fsync: fn fsync(cx: &Context, file: &Arc<File>, datasync: bool) -> Result<()>;

            /// The same for a directory.
            reads Fsyncdir: fn fsyncdir(cx: &Context, dir: &Arc<Inode>, datasync: bool) -> Result<()>;

            /// Entries of a directory from a position (0: the start), as many as come at once, at most
            /// `max`. None at the end. `plus` asks for the objects too. Without an open directory:
            /// positions stay good across restarts, as far as the brick's file system keeps them.
            reads Readdir: fn readdir(cx: &Context, dir: &Arc<Inode>, from: u64, max: usize, plus: bool) -> Result<Vec<DirEntry>>;

            /// Looks names of a directory up, and reads everything of what they stand for: content of
            /// regular files of at most `most` bytes, targets of symbolic links, extended attributes,
            /// flags. Answers in their order for as many of the names as come at once, at least one;
            /// each may fail for itself (ENOENT, EIO ...). See [`Snapshot`].
            reads Snapshot: fn snapshot(cx: &Context, dir: &Arc<Inode>, names: &[NameBuf], most: u64) -> Result<Vec<Result<Snapshot>>>;

            /// Makes regular files under names that are free (else EEXIST), each whole: content, owner,
            /// mode, extended attributes, times, flags; and what the brick made of its attributes, which
            /// may be bent. Until then nobody but root can open it. Answers in their order for as many as
            /// come at once, at least one; the others are not begun. Each may fail for itself, and leaves
            /// nothing under its name then. See [`Whole`].
            changes MakeWhole: fn make_whole(cx: &Context, dir: &Arc<Inode>, files: &[Whole]) -> Result<Vec<Result<Attr>>>;

            /// An extended attribute, of any namespace that the brick's file system has. ENODATA when
            /// there is none of this name. A door answers size probes.
            reads Getxattr: fn getxattr(cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<Vec<u8>>;

            /// All names, each ended by a NUL.
            reads Listxattr: fn listxattr(cx: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>>;

            /// setxattr(2). POSIX ACLs are `system.posix_acl_access` and `system.posix_acl_default`.
            changes Setxattr: fn setxattr(cx: &Context, inode: &Arc<Inode>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()>;

            /// removexattr(2).
            changes Removexattr: fn removexattr(cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<()>;

            /// Inode flags (`FS_IOC_GETFLAGS`, ioctl_iflags(2)). ENOTTY or EOPNOTSUPP where there are none.
            reads GetFlags: fn get_flags(cx: &Context, inode: &Arc<Inode>) -> Result<u32>;

            /// Sets inode flags (`FS_IOC_SETFLAGS`).
            changes SetFlags: fn set_flags(cx: &Context, inode: &Arc<Inode>, flags: u32) -> Result<()>;

            /// Inode flags, extended flags, extent size hints and project (`FS_IOC_FSGETXATTR`). ENOTTY or EOPNOTSUPP
            /// where there are none at all.
            reads GetFsx: fn get_fsx(cx: &Context, inode: &Arc<Inode>) -> Result<Fsx>;

            /// Sets them (`FS_IOC_FSSETXATTR`); of the inode flags those that have a twin among the extended ones.
            changes SetFsx: fn set_fsx(cx: &Context, inode: &Arc<Inode>, fsx: &Fsx) -> Result<()>;

            /// fallocate(2). EOPNOTSUPP where the brick's file system has not got the mode.
            changes Fallocate: fn fallocate(cx: &Context, file: &Arc<File>, how: Allocate, at: u64, len: u64) -> Result<()>;

            /// Finds data and holes.
            reads Lseek: fn lseek(cx: &Context, file: &Arc<File>, at: u64, seek: Seek) -> Result<u64>;

            /// copy_file_range(2) within the volume. May copy less than asked for.
            changes CopyFileRange: fn copy_file_range(cx: &Context, from: &Arc<File>, from_at: u64, to: &Arc<File>, to_at: u64, len: u64) -> Result<u64>;

            /// Where a file's space is on the brick's disk, from an offset in bytes on, in order, also
            /// behind its end: at most `max` pieces, none when there are no more. EOPNOTSUPP where the
            /// brick's file system does not tell. See [`Extent`].
            reads Extents: fn extents(cx: &Context, file: &Arc<File>, from: u64, max: usize) -> Result<Vec<Extent>>;

            /// Makes a range share the space of another one, and have its content (`FICLONERANGE`,
            /// ioctl_ficlonerange(2)): all of it or nothing. EINVAL where the file system's blocks do not
            /// fit, EOPNOTSUPP or EXDEV where it has no such thing.
            changes CloneRange: fn clone_range(cx: &Context, from: &Arc<File>, from_at: u64, to: &Arc<File>, to_at: u64, len: u64) -> Result<()>;

            /// statvfs(3).
            reads Statfs: fn statfs(cx: &Context, inode: &Arc<Inode>) -> Result<StatFs>;

            /// Who stands in the way of a lock; `None` when it could be had. Its `pid` is 0 when it
            /// is another client's.
            reads Getlk: fn getlk(cx: &Context, file: &Arc<File>, lock: &Lock) -> Result<Option<Lock>>;

            /// Takes or drops a lock on the brick, for the open file; waits for it when `wait`, else
            /// EAGAIN. EDEADLK when waiting could never end. Unlike other operations' this future may
            /// be dropped while it waits: then the lock is not taken. ENOSYS where there are none. A
            /// door does not ask while a single mount is the only way in: the kernel's own locks are
            /// enough then.
            reads Setlk: fn setlk(cx: &Context, file: &Arc<File>, lock: &Lock, wait: bool) -> Result<()>;

            /// The descriptor behind an inode, for the local data plane. `None` where there is none, or
            /// where this layer has to see what passes: of no file then, so that nobody need ask for
            /// another one. See [`Lend`] for what must be marked first.
            reads Lend: fn lend(cx: &Context, inode: &Arc<Inode>, lend: Lend) -> Result<Option<Lent>>;

            /// Whether nobody can write to this file unseen: no open descriptor for writing and no
            /// writable mapping of it, on the brick, by anybody (a lease could be taken: `F_SETLEASE`).
            reads Quiet: fn quiet(cx: &Context, inode: &Arc<Inode>) -> Result<bool>;

            /// Everything written to the brick so far is on stable storage (syncfs(2)), through a
            /// descriptor that was opened before, so that no error since is missed.
            reads Sync: fn sync(cx: &Context) -> Result<()>;

            /// Told once by the layer above, before the first operation, what the brick is used for.
            reads Role: fn role(role: Role) -> Result<()>;
        }
    };
}

with_operations!(operations);
