use std::sync::Arc;

use hermitfs_api::*;

use super::{Can, Fixture};

/// A check's hands: operations that wait, with names as text, as root unless `cx` is changed.
pub(super) struct Hands {
    pub(super) volume: Arc<dyn Translator>,
    pub(super) can: Can,
    pub(super) cx: Context,
    pub(super) root: Arc<Inode>,
}

pub(super) type Answer<T> = std::result::Result<T, Errno>;

fn wait<T>(future: impl Future<Output = Result<T>>) -> Answer<T> {
    block_on(future).map_err(|error| error.errno())
}

fn each<T>(answers: Vec<Result<T>>) -> Vec<Answer<T>> {
    let each = answers.into_iter();
    each.map(|answer| answer.map_err(|error| error.errno()))
        .collect()
}

pub(super) fn name(name: impl AsRef<[u8]>) -> NameBuf {
    NameBuf::new(name.as_ref()).expect("a name")
}

impl Hands {
    pub(super) fn new(fixture: &Fixture) -> Hands {
        let cx = Context::internal(Origin::User);
        let root = wait(fixture.volume.root(&cx)).expect("a volume has a root");
        let (volume, can) = (fixture.volume.clone(), fixture.can.clone());
        Hands {
            volume,
            can,
            cx,
            root: root.inode,
        }
    }

    /// The same hands as somebody else.
    pub(super) fn as_user(&self, uid: u32, gid: u32) -> Hands {
        let cx = Context {
            uid,
            gid,
            ..self.cx
        };
        self.with(cx)
    }

    pub(super) fn of(&self, origin: Origin) -> Hands {
        self.with(Context { origin, ..self.cx })
    }

    fn with(&self, cx: Context) -> Hands {
        Hands {
            volume: self.volume.clone(),
            can: self.can.clone(),
            cx,
            root: self.root.clone(),
        }
    }

    pub(super) fn lookup(&self, dir: &Arc<Inode>, n: &str) -> Answer<Entry> {
        wait(self.volume.lookup(&self.cx, dir, &name(n)))
    }

    /// EEXIST and the like: whether there is anything.
    pub(super) fn there(&self, n: &str) -> bool {
        match self.lookup(&self.root, n) {
            Ok(_) => true,
            Err(Errno::ENOENT) => false,
            Err(other) => panic!("looking up {n}: {other}"),
        }
    }

    /// An empty file in the root, mode 0644.
    pub(super) fn file(&self, n: &str) -> Entry {
        let (entry, file) = self.create(&self.root, n).expect("a file can be made");
        self.release(&file);
        entry
    }

    /// A file in the root with this content, open for reading and writing.
    pub(super) fn with_content(&self, n: &str, content: &[u8]) -> Arc<File> {
        let file = self.create(&self.root, n).expect("a file can be made").1;
        self.write(&file, 0, content)
            .expect("content can be written");
        file
    }

    pub(super) fn create(&self, dir: &Arc<Inode>, n: &str) -> Answer<(Entry, Arc<File>)> {
        self.create_with(dir, n, 0o644, 0)
    }

    pub(super) fn create_with(
        &self,
        dir: &Arc<Inode>,
        n: &str,
        mode: u32,
        umask: u32,
    ) -> Answer<(Entry, Arc<File>)> {
        wait(
            self.volume
                .create(&self.cx, dir, &name(n), OpenFlags::READ_WRITE, mode, umask),
        )
    }

    /// A file in the root, opened so.
    pub(super) fn create_opened(&self, n: &str, flags: OpenFlags) -> Answer<(Entry, Arc<File>)> {
        wait(
            self.volume
                .create(&self.cx, &self.root, &name(n), flags, 0o644, 0),
        )
    }

    /// A directory in the root, mode 0755.
    pub(super) fn dir(&self, n: &str) -> Arc<Inode> {
        self.mkdir(&self.root, n)
            .expect("a directory can be made")
            .inode
    }

    pub(super) fn mkdir(&self, dir: &Arc<Inode>, n: &str) -> Answer<Entry> {
        self.mkdir_with(dir, n, 0o755, 0)
    }

    pub(super) fn mkdir_with(
        &self,
        dir: &Arc<Inode>,
        n: &str,
        mode: u32,
        umask: u32,
    ) -> Answer<Entry> {
        wait(self.volume.mkdir(&self.cx, dir, &name(n), mode, umask))
    }

    pub(super) fn mknod(&self, n: &str, kind: Kind, rdev: u64) -> Answer<Entry> {
        let make = Make {
            kind,
            mode: 0o640,
            umask: 0,
            rdev,
        };
        wait(self.volume.mknod(&self.cx, &self.root, &name(n), &make))
    }

    pub(super) fn symlink(&self, n: &str, target: &[u8]) -> Answer<Entry> {
        wait(self.volume.symlink(&self.cx, &self.root, &name(n), target))
    }

    pub(super) fn readlink(&self, inode: &Arc<Inode>) -> Answer<Vec<u8>> {
        wait(self.volume.readlink(&self.cx, inode))
    }

    pub(super) fn link(&self, inode: &Arc<Inode>, dir: &Arc<Inode>, n: &str) -> Answer<Entry> {
        wait(self.volume.link(&self.cx, inode, dir, &name(n)))
    }

    pub(super) fn unlink(&self, dir: &Arc<Inode>, n: &str) -> Answer<()> {
        wait(self.volume.unlink(&self.cx, dir, &name(n)))
    }

    pub(super) fn rmdir(&self, dir: &Arc<Inode>, n: &str) -> Answer<()> {
        wait(self.volume.rmdir(&self.cx, dir, &name(n)))
    }

    pub(super) fn rename(
        &self,
        from: (&Arc<Inode>, &str),
        to: (&Arc<Inode>, &str),
        flags: RenameFlags,
    ) -> Answer<()> {
        wait(
            self.volume
                .rename(&self.cx, from.0, &name(from.1), to.0, &name(to.1), flags),
        )
    }

    /// What names of the root stand for.
    pub(super) fn snapshot(&self, names: &[&str], most: u64) -> Vec<Answer<Snapshot>> {
        self.snapshot_in(&self.root, names, most)
            .expect("snapshots can be taken")
    }

    pub(super) fn snapshot_in(
        &self,
        dir: &Arc<Inode>,
        names: &[&str],
        most: u64,
    ) -> Answer<Vec<Answer<Snapshot>>> {
        let names: Vec<NameBuf> = names.iter().map(name).collect();
        wait(self.volume.snapshot(&self.cx, dir, &names, most)).map(each)
    }

    /// Makes files in the root.
    pub(super) fn make_whole(&self, files: &[Whole]) -> Vec<Answer<Attr>> {
        let mut answers = Vec::new();
        while let Some(rest) = files.get(answers.len()..).filter(|rest| !rest.is_empty()) {
            let some = wait(self.volume.make_whole(&self.cx, &self.root, rest));
            answers.extend(each(some.expect("files can be made")));
        }
        answers
    }

    pub(super) fn getattr(&self, inode: &Arc<Inode>) -> Attr {
        wait(self.volume.getattr(&self.cx, inode, None)).expect("attributes can be read")
    }

    pub(super) fn setattr(&self, inode: &Arc<Inode>, set: SetAttr) -> Answer<Attr> {
        wait(self.volume.setattr(&self.cx, inode, None, &set))
    }

    pub(super) fn chmod(&self, inode: &Arc<Inode>, mode: u32) -> Answer<Attr> {
        self.setattr(
            inode,
            SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            },
        )
    }

    pub(super) fn truncate(&self, inode: &Arc<Inode>, size: u64) -> Answer<Attr> {
        self.setattr(
            inode,
            SetAttr {
                size: Some(size),
                ..SetAttr::default()
            },
        )
    }

    pub(super) fn open(&self, inode: &Arc<Inode>, flags: OpenFlags) -> Answer<Arc<File>> {
        wait(self.volume.open(&self.cx, inode, flags))
    }

    pub(super) fn write(&self, file: &Arc<File>, at: u64, data: &[u8]) -> Answer<usize> {
        wait(self.volume.write(&self.cx, file, at, data))
    }

    pub(super) fn read(&self, file: &Arc<File>, at: u64, len: usize) -> Answer<Vec<u8>> {
        // What a short read leaves alone must not pass for zeros.
        let mut buffer = vec![0xee; len];
        let len = wait(self.volume.read(&self.cx, file, at, &mut buffer))?;
        buffer.truncate(len);
        Ok(buffer)
    }

    /// The whole content, read anew.
    pub(super) fn content(&self, inode: &Arc<Inode>) -> Vec<u8> {
        let file = self
            .open(inode, OpenFlags::READ)
            .expect("a file can be opened");
        let size = self.getattr(inode).size as usize;
        let content = self.read(&file, 0, size + 1).expect("a file can be read");
        assert_eq!(content.len(), size, "as much can be read as the size says");
        self.release(&file);
        content
    }

    pub(super) fn release(&self, file: &Arc<File>) {
        wait(self.volume.flush(&self.cx, file, 0)).expect("flush");
        wait(self.volume.release(&self.cx, file)).expect("release");
    }

    /// Takes or drops a lock without waiting.
    pub(super) fn setlk(&self, file: &Arc<File>, lock: &Lock) -> Answer<()> {
        wait(self.volume.setlk(&self.cx, file, lock, false))
    }

    pub(super) fn fallocate(
        &self,
        file: &Arc<File>,
        how: Allocate,
        at: u64,
        len: u64,
    ) -> Answer<()> {
        wait(self.volume.fallocate(&self.cx, file, how, at, len))
    }

    pub(super) fn lseek(&self, file: &Arc<File>, at: u64, seek: Seek) -> Answer<u64> {
        wait(self.volume.lseek(&self.cx, file, at, seek))
    }

    pub(super) fn getxattr(&self, inode: &Arc<Inode>, n: &str) -> Answer<Vec<u8>> {
        wait(self.volume.getxattr(&self.cx, inode, n.as_bytes()))
    }

    pub(super) fn setxattr(&self, inode: &Arc<Inode>, n: &str, value: &[u8]) -> Answer<()> {
        self.setxattr_with(inode, n, value, XattrFlags::Any)
    }

    pub(super) fn setxattr_with(
        &self,
        inode: &Arc<Inode>,
        n: &str,
        value: &[u8],
        flags: XattrFlags,
    ) -> Answer<()> {
        wait(
            self.volume
                .setxattr(&self.cx, inode, n.as_bytes(), value, flags),
        )
    }

    pub(super) fn removexattr(&self, inode: &Arc<Inode>, n: &str) -> Answer<()> {
        wait(self.volume.removexattr(&self.cx, inode, n.as_bytes()))
    }

    /// Names of the user's namespace, in order.
    pub(super) fn user_xattrs(&self, inode: &Arc<Inode>) -> Vec<String> {
        let list = wait(self.volume.listxattr(&self.cx, inode)).expect("a list of xattrs");
        assert!(
            list.is_empty() || list.ends_with(b"\0"),
            "each name is ended by a NUL"
        );
        let names = list
            .split(|&b| b == 0)
            .map(|name| String::from_utf8_lossy(name).into_owned());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("user.")).collect();
        names.sort();
        names
    }

    pub(super) fn get_flags(&self, inode: &Arc<Inode>) -> Answer<u32> {
        wait(self.volume.get_flags(&self.cx, inode))
    }

    pub(super) fn set_flags(&self, inode: &Arc<Inode>, flags: u32) -> Answer<()> {
        wait(self.volume.set_flags(&self.cx, inode, flags))
    }

    pub(super) fn get_fsx(&self, inode: &Arc<Inode>) -> Answer<Fsx> {
        wait(self.volume.get_fsx(&self.cx, inode))
    }

    pub(super) fn set_fsx(&self, inode: &Arc<Inode>, fsx: &Fsx) -> Answer<()> {
        wait(self.volume.set_fsx(&self.cx, inode, fsx))
    }

    pub(super) fn readdir(
        &self,
        dir: &Arc<Inode>,
        from: u64,
        max: usize,
        plus: bool,
    ) -> Answer<Vec<DirEntry>> {
        wait(self.volume.readdir(&self.cx, dir, from, max, plus))
    }

    /// All entries of a directory, so many at a time.
    pub(super) fn list(&self, dir: &Arc<Inode>, max: usize) -> Vec<DirEntry> {
        let mut all: Vec<DirEntry> = Vec::new();
        loop {
            let from = all.last().map_or(0, |entry| entry.next);
            let some = self
                .readdir(dir, from, max, false)
                .expect("a directory can be read");
            assert!(some.len() <= max, "not more than asked for");
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }

    pub(super) fn handle(&self, inode: &Arc<Inode>) -> Answer<Handle> {
        wait(self.volume.handle(&self.cx, inode))
    }

    pub(super) fn resolve(&self, handle: &Handle) -> Answer<Entry> {
        wait(self.volume.resolve(&self.cx, handle))
    }

    /// As text.
    pub(super) fn locate(&self, inode: &Arc<Inode>) -> Answer<String> {
        wait(self.volume.locate(&self.cx, inode)).map(|location| location.display())
    }

    pub(super) fn whence(&self, inode: &Arc<Inode>) -> Answer<(Arc<Inode>, NameBuf)> {
        wait(self.volume.whence(&self.cx, inode))
    }

    pub(super) fn statfs(&self) -> StatFs {
        wait(self.volume.statfs(&self.cx, &self.root)).expect("statfs")
    }

    pub(super) fn fsync(&self, file: &Arc<File>) -> Answer<()> {
        wait(self.volume.fsync(&self.cx, file, false))?;
        wait(self.volume.fsync(&self.cx, file, true))
    }

    pub(super) fn sync(&self) -> Answer<()> {
        wait(self.volume.fsyncdir(&self.cx, &self.root, false))?;
        wait(self.volume.sync(&self.cx))
    }

    pub(super) fn role(&self, role: Role) -> Answer<()> {
        wait(self.volume.role(role))
    }

    pub(super) fn quiet(&self, inode: &Arc<Inode>) -> Answer<bool> {
        wait(self.volume.quiet(&self.cx, inode))
    }

    pub(super) fn extents(&self, file: &Arc<File>, from: u64, max: usize) -> Answer<Vec<Extent>> {
        wait(self.volume.extents(&self.cx, file, from, max))
    }

    pub(super) fn clone_range(
        &self,
        from: (&Arc<File>, u64),
        to: (&Arc<File>, u64),
        len: u64,
    ) -> Answer<()> {
        let (volume, cx) = (&self.volume, &self.cx);
        wait(volume.clone_range(cx, from.0, from.1, to.0, to.1, len))
    }

    pub(super) fn copy(
        &self,
        from: (&Arc<File>, u64),
        to: (&Arc<File>, u64),
        len: u64,
    ) -> Answer<u64> {
        wait(
            self.volume
                .copy_file_range(&self.cx, from.0, from.1, to.0, to.1, len),
        )
    }
}

/// That an operation is refused with this number.
#[track_caller]
pub(super) fn refused<T>(answer: Answer<T>, errno: Errno) {
    match answer {
        Ok(_) => panic!("was not refused with {errno:?}, but done"),
        Err(other) => assert_eq!(other, errno, "refused for another reason"),
    }
}
