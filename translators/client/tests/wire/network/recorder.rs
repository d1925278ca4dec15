//! A brick that writes down what is done to it, and for which call of a client.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use hermitfs_api::*;
use hermitfs_testkit::Memory;
use parking_lot::Mutex;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

/// What a call came to: the same words at the brick and at the client when it is the same.
pub(crate) type Told = std::result::Result<String, Errno>;

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The client asks.
    Asked,
    /// Done at the brick.
    Done(Fop, Told),
    /// The client has its answer.
    Answered(Told),
}

/// Everything that happened, in order: calls are told apart by what they have as process number.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) events: Mutex<Vec<(u32, Event)>>,
    /// Files that were opened at the brick.
    opened: Mutex<Vec<Weak<File>>>,
    /// Who hears of everything as well.
    pub(crate) teller: OnceLock<Box<dyn Fn(String) + Send + Sync>>,
}

impl Log {
    pub(crate) fn add(&self, call: u32, event: Event) {
        if let Some(tell) = self.teller.get() {
            tell(format!("{call}: {event:?}"));
        }
        self.events.lock().push((call, event));
    }

    fn opened(&self, file: &Arc<File>) {
        let mut opened = self.opened.lock();
        opened.retain(|file| file.strong_count() > 0);
        opened.push(Arc::downgrade(file));
    }

    /// How many files are open at the brick.
    pub(crate) fn open(&self) -> usize {
        let opened = self.opened.lock();
        opened.iter().filter(|file| file.strong_count() > 0).count()
    }
}

/// A brick in memory, where things take their time, so that a server may be killed before an operation
/// and after it.
pub(crate) struct Recorder {
    pub(crate) below: Arc<Memory>,
    pub(crate) log: Arc<Log>,
    pub(crate) rng: Mutex<ChaCha8Rng>,
    /// The disk may fail, now and then, for who heals.
    pub(crate) fails: Arc<AtomicBool>,
}

pub(crate) fn told<T>(result: &Result<T>, words: impl FnOnce(&T) -> String) -> Told {
    result.as_ref().map(words).map_err(Error::errno)
}

pub(crate) fn entry(entry: &Entry) -> String {
    inode(&entry.inode)
}

pub(crate) fn inode(inode: &Inode) -> String {
    let Identity {
        ino, generation, ..
    } = inode.identity();
    format!("{ino}.{generation}")
}

pub(crate) fn attr(attr: &Attr) -> String {
    format!(
        "{} bytes, mode {:o}, {} names, of {:?}",
        attr.size, attr.mode, attr.nlink, attr.mtime
    )
}

pub(crate) fn bytes(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

pub(crate) fn names(entries: &[DirEntry]) -> String {
    let mut names: Vec<_> = entries.iter().map(|entry| bytes(&entry.name)).collect();
    names.sort_unstable();
    names.join(" ")
}

fn done(_: &()) -> String {
    "done".into()
}

impl Recorder {
    async fn nap(&self, cx: &Context) {
        // The server's own looks are not held up: it asks before it has a runtime.
        let of_ten = match cx.origin {
            Origin::User => 3,
            // There is more of it.
            Origin::Heal => 1,
            _ => return,
        };
        let lot = self.rng.lock().random_range(0..100);
        let time = match (self.rng.lock().random_range(0..10) < of_ten, lot) {
            (false, _) => return,
            (true, 0..93) => 3,
            (true, _) => 200,
        };
        tokio::time::sleep(Duration::from_millis(time)).await;
    }

    async fn note<T>(
        &self,
        cx: &Context,
        fop: Fop,
        words: impl FnOnce(&T) -> String + Send,
        operation: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.nap(cx).await;
        let lot = self.rng.lock().random_range(0..100);
        let is_hit = cx.origin == Origin::Heal && lot < 6 && self.fails.load(Ordering::Relaxed);
        // Before anything is done, or after it.
        let result = match is_hit && lot < 3 {
            true => Err(Errno::EIO.into()),
            false => operation.await,
        };
        self.log.add(cx.pid, Event::Done(fop, told(&result, words)));
        match is_hit {
            true => Err(Errno::EIO.into()),
            false => result,
        }
    }
}

macro_rules! recorded {
    ($($fop:ident $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $words:expr;)*) => {
        #[async_trait]
        impl Filter for Recorder {
            fn below(&self) -> &dyn Translator {
                &*self.below
            }

            $(async fn $name(&self, cx: &Context, $($arg: $ty),*) -> Result<$ret> {
                let result = self.note(cx, Fop::$fop, $words, self.below.$name(cx, $($arg),*)).await;
                self.nap(cx).await;
                result
            })*

            async fn create(&self, cx: &Context, dir: &Arc<Inode>, name: &Name, flags: OpenFlags, mode: u32, umask: u32) -> Result<(Entry, Arc<File>)> {
                let operation = self.below.create(cx, dir, name, flags, mode, umask);
                let result = self.note(cx, Fop::Create, |(made, _)| entry(made), operation).await;
                result.iter().for_each(|(_, file)| self.log.opened(file));
                result
            }

            async fn rename(&self, cx: &Context, dir: &Arc<Inode>, name: &Name, new_dir: &Arc<Inode>, new_name: &Name, flags: RenameFlags) -> Result<()> {
                self.nap(cx).await;
                // Between two names of one object it changes nothing, however often.
                let (old, new) = (self.below.lookup(cx, dir, name).await, self.below.lookup(cx, new_dir, new_name).await);
                let is_one = matches!((old, new), (Ok(old), Ok(new)) if Arc::ptr_eq(&old.inode, &new.inode));
                let result = self.below.rename(cx, dir, name, new_dir, new_name, flags).await;
                let fop = if is_one { Fop::Lookup } else { Fop::Rename };
                self.log.add(cx.pid, Event::Done(fop, told(&result, done)));
                self.nap(cx).await;
                result
            }

            async fn open(&self, cx: &Context, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Arc<File>> {
                let operation = self.below.open(cx, inode, flags);
                let result = self.note(cx, Fop::Open, |_| "open".into(), operation).await;
                result.iter().for_each(|file| self.log.opened(file));
                result
            }

            async fn read(&self, cx: &Context, file: &Arc<File>, at: u64, buffer: &mut [u8]) -> Result<usize> {
                self.nap(cx).await;
                let result = self.below.read(cx, file, at, buffer).await;
                let words = |len: &usize| format!("{} {}", inode(file.inode()), bytes(&buffer[..*len]));
                self.log.add(cx.pid, Event::Done(Fop::Read, told(&result, words)));
                self.nap(cx).await;
                result
            }

            async fn write(&self, cx: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize> {
                let operation = self.below.write(cx, file, at, data);
                let words = |len: &usize| format!("{} {len}", inode(file.inode()));
                let result = self.note(cx, Fop::Write, words, operation).await;
                self.nap(cx).await;
                result
            }
        }
    };
}

recorded! {
    Lookup lookup(dir: &Arc<Inode>, name: &Name) -> Entry = entry;
    Resolve resolve(handle: &Handle) -> Entry = entry;
    Getattr getattr(inode: &Arc<Inode>, file: Option<&File>) -> Attr = attr;
    Setattr setattr(inode: &Arc<Inode>, file: Option<&File>, set: &SetAttr) -> Attr = attr;
    Readlink readlink(inode: &Arc<Inode>) -> Vec<u8> = |target| bytes(target);
    Mknod mknod(dir: &Arc<Inode>, name: &Name, make: &Make) -> Entry = entry;
    Mkdir mkdir(dir: &Arc<Inode>, name: &Name, mode: u32, umask: u32) -> Entry = entry;
    Symlink symlink(dir: &Arc<Inode>, name: &Name, target: &[u8]) -> Entry = entry;
    Link link(inode: &Arc<Inode>, dir: &Arc<Inode>, name: &Name) -> Entry = entry;
    Unlink unlink(dir: &Arc<Inode>, name: &Name) -> () = done;
    Rmdir rmdir(dir: &Arc<Inode>, name: &Name) -> () = done;
    Readdir readdir(dir: &Arc<Inode>, from: u64, max: usize, plus: bool) -> Vec<DirEntry> = |entries| names(entries);
    Getxattr getxattr(inode: &Arc<Inode>, name: &[u8]) -> Vec<u8> = |value| bytes(value);
    Setxattr setxattr(inode: &Arc<Inode>, name: &[u8], value: &[u8], flags: XattrFlags) -> () = done;
    Removexattr removexattr(inode: &Arc<Inode>, name: &[u8]) -> () = done;
    Fallocate fallocate(file: &Arc<File>, how: Allocate, at: u64, len: u64) -> () = done;
    CopyFileRange copy_file_range(from: &Arc<File>, from_at: u64, to: &Arc<File>, to_at: u64, len: u64) -> u64 = u64::to_string;
    Fsync fsync(file: &Arc<File>, datasync: bool) -> () = done;
}
