//! A mount over a leaf in memory, and leaves that can do more.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "what cannot be done fails the test where it stands"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hermitfs_api::{
    Attr, Context, Errno, File, Filter, Inode, Lend, Lent, OpenFlags, Result, SetAttr, SlotKey,
    Translator, async_trait,
};
use hermitfs_fuse::{Mount, Op, Options, Placement};
use hermitfs_testkit::Memory;
use std::os::unix::fs::FileExt;

/// A mounted volume; gone with the test, whatever happens.
pub struct Mounted {
    pub mount: Mount,
    place: PathBuf,
    _directory: tempfile::TempDir,
}

impl Mounted {
    pub fn new(volume: impl Translator) -> Mounted {
        Mounted::with(volume, "")
    }

    pub fn with(volume: impl Translator, options: &str) -> Mounted {
        Mounted::of(Arc::new(volume), options)
    }

    /// One of several mounts.
    pub fn of(volume: Arc<dyn Translator>, options: &str) -> Mounted {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests mount, which needs root"
        );
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().canonicalize().unwrap().join("mnt");
        fs::create_dir(&place).unwrap();
        let options: Options = options.parse().unwrap();
        let mount = Mount::prepare(volume, options).unwrap();
        mount.attach(&place, Placement::Vacant).unwrap();
        Mounted {
            mount,
            place,
            _directory: directory,
        }
    }

    /// A path inside.
    pub fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.place.clone()
        } else {
            self.place.join(path)
        }
    }

    pub fn requests(&self, op: Op) -> u64 {
        let all = self.mount.statistics().requests;
        all.iter()
            .find(|(other, _)| *other == op)
            .map_or(0, |(_, count)| *count)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.mount.detach_lazy().ok();
        if !std::thread::panicking() {
            assert!(
                self.mount.wait_for(Duration::from_secs(20)),
                "the session ends"
            );
        }
    }
}

/// Cuts the connection between the kernel and a server.
pub fn abort(mount: &Mount) {
    let control = Path::new("/sys/fs/fuse/connections");
    let connection = control.join(libc::minor(mount.device().unwrap()).to_string());
    if !connection.exists() {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("fusectl", control, "fusectl", flags, None).unwrap();
    }
    fs::write(connection.join("abort"), "1").unwrap();
}

/// Does something on the named operation of a memory leaf.
pub struct Hooked<H> {
    memory: Memory,
    hook: H,
}

/// What is done. The default is nothing.
#[async_trait]
pub trait Hook: Send + Sync + 'static {
    async fn before(&self, _operation: &'static str) -> Result<()> {
        Ok(())
    }
}

pub fn hooked<H: Hook>(hook: H) -> Hooked<H> {
    Hooked {
        memory: Memory::new(),
        hook,
    }
}

macro_rules! hooks {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        #[async_trait]
        impl<H: Hook> Filter for Hooked<H> {
            fn below(&self) -> &dyn Translator {
                &self.memory
            }

            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                self.hook.before(stringify!($name)).await?;
                self.memory.$name($($arg),*).await
            })*
        }
    };
}

hooks! {
    lookup(cx: &Context, dir: &Arc<Inode>, name: &hermitfs_api::Name) -> Result<hermitfs_api::Entry>;
    mkdir(cx: &Context, dir: &Arc<Inode>, name: &hermitfs_api::Name, mode: u32, umask: u32) -> Result<hermitfs_api::Entry>;
    read(cx: &Context, file: &Arc<File>, at: u64, buffer: &mut [u8]) -> Result<usize>;
    write(cx: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize>;
    fsync(cx: &Context, file: &Arc<File>, datasync: bool) -> Result<()>;
    getxattr(cx: &Context, inode: &Arc<Inode>, name: &[u8]) -> Result<Vec<u8>>;
    listxattr(cx: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>>;
}

/// A leaf that lends: content is in files of its own, all else in memory.
pub struct Lender {
    memory: Memory,
    key: SlotKey,
    pub seen: Arc<Seen>,
}

#[derive(Default)]
pub struct Seen {
    pub lent_to_read: AtomicUsize,
    pub lent_to_write: AtomicUsize,
    pub refuse_to_write: AtomicBool,
    pub noisy: AtomicBool,
}

impl Lender {
    pub fn new() -> (Lender, Arc<Seen>) {
        let seen = Arc::new(Seen::default());
        let lender = Lender {
            memory: Memory::new(),
            key: SlotKey::new(),
            seen: seen.clone(),
        };
        (lender, seen)
    }

    fn content(&self, inode: &Inode) -> Arc<fs::File> {
        let make = || Arc::new(tempfile::tempfile_in("/tmp").unwrap());
        inode.slots().get_or_init(self.key, make).unwrap().clone()
    }

    fn sized(&self, inode: &Inode, mut attr: Attr) -> Attr {
        if inode.kind() == hermitfs_api::Kind::File {
            attr.size = self.content(inode).metadata().unwrap().len();
        }
        attr
    }
}

#[async_trait]
impl Filter for Lender {
    fn below(&self) -> &dyn Translator {
        &self.memory
    }

    async fn lookup(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &hermitfs_api::Name,
    ) -> Result<hermitfs_api::Entry> {
        let mut entry = self.memory.lookup(cx, dir, name).await?;
        entry.attr = self.sized(&entry.inode, entry.attr);
        Ok(entry)
    }

    async fn getattr(&self, cx: &Context, inode: &Arc<Inode>, file: Option<&File>) -> Result<Attr> {
        Ok(self.sized(inode, self.memory.getattr(cx, inode, file).await?))
    }

    async fn setattr(
        &self,
        cx: &Context,
        inode: &Arc<Inode>,
        file: Option<&File>,
        set: &SetAttr,
    ) -> Result<Attr> {
        if let Some(size) = set.size {
            self.content(inode).set_len(size)?;
        }
        let set = SetAttr { size: None, ..*set };
        Ok(self.sized(inode, self.memory.setattr(cx, inode, file, &set).await?))
    }

    async fn open(&self, cx: &Context, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Arc<File>> {
        if flags.truncates() {
            self.content(inode).set_len(0)?;
        }
        self.memory.open(cx, inode, flags).await
    }

    async fn read(
        &self,
        _: &Context,
        file: &Arc<File>,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        Ok(self.content(file.inode()).read_at(buffer, at)?)
    }

    async fn write(&self, _: &Context, file: &Arc<File>, at: u64, data: &[u8]) -> Result<usize> {
        self.content(file.inode()).write_all_at(data, at)?;
        Ok(data.len())
    }

    async fn lend(&self, _: &Context, inode: &Arc<Inode>, lend: Lend) -> Result<Option<Lent>> {
        match lend {
            Lend::Read => self.seen.lent_to_read.fetch_add(1, Ordering::SeqCst),
            Lend::Write if self.seen.refuse_to_write.load(Ordering::SeqCst) => return Ok(None),
            Lend::Write => self.seen.lent_to_write.fetch_add(1, Ordering::SeqCst),
        };
        let content = self.content(inode).try_clone()?;
        Ok(Some(Lent::new(Arc::new(content.into()))))
    }

    async fn quiet(&self, _: &Context, _: &Arc<Inode>) -> Result<bool> {
        Ok(!self.seen.noisy.load(Ordering::SeqCst))
    }
}

/// The error number of something that failed.
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::from_raw(result.unwrap_err().raw_os_error().unwrap())
}
