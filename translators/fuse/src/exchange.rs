//! Another volume under a mount that is in use: what is open goes on, on other objects.
//!
//! The caller takes the mount out of sight ([`Mount::detach_lazy`](crate::Mount::detach_lazy))
//! before the exchange, so that whoever walks by a path comes elsewhere. What the kernel still
//! asks about is what somebody holds: open files and directories. Their node ids, and with them
//! the inode numbers that users see, stay. What has no successor is ESTALE, upon which the kernel
//! walks a path once more. Who finds one of these objects by a name, from a directory that is
//! held, gets the same node, and with it the same pages.
//!
//! From then on others come to the same objects by other ways. So nothing is believed for any
//! time, and pages go when their file has changed.
//!
//! Who was on his way to something by a path holds nothing; see [`former`](crate::former).

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hermitfs_api::{Attr, Context, Errno, File, Inode, Origin, Result, Time, Translator, block_on};

use crate::door::Door;
use crate::former::{Former, STRAGGLERS};
use crate::modes::Mode;
use crate::standby::ExchangeThreads;

/// Works on a request; once more when the volume was exchanged under it and it failed for that.
macro_rules! steady {
    ($door:expr, $work:block) => {
        loop {
            let before = $door.is_exchanged();
            let done: hermitfs_api::Result<_> = async { $work }.await;
            if !$door.failed_by_exchange(before, &done) {
                break done;
            }
        }
    };
}

/// A file that users have open.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// The kernel's handle.
    pub handle: u64,
    /// The inode number that users see.
    pub number: u64,
    /// What the volume opened.
    pub file: Arc<File>,
    /// Reads, or mappings that it allows, do not come to the door.
    pub bypasses: bool,
    /// Somebody has asked the volume for a lock through it.
    pub locked: bool,
}

/// What takes the place of a volume and of what is open in it.
pub struct Exchange {
    /// What all requests go to.
    pub volume: Arc<dyn Translator>,
    /// Its root.
    pub root: Arc<Inode>,
    /// Successors of open files, by handle. A file without one is gone.
    pub files: HashMap<u64, Arc<File>>,
    /// Successors of other objects that are held, by the inode number that users see.
    pub objects: HashMap<u64, Arc<Inode>>,
}

/// How often files are looked at for changes that others made.
const LOOK: Duration = Duration::from_millis(50);

/// At most one part in this many of a processor is spent on that.
const SHARE: u32 = 20;

/// How long a file system's clock may stand still: what changed just now may have changed again.
const TICK: Duration = Duration::from_millis(100);

/// `FUSE_NOTIFY_INC_EPOCH` (Linux 6.16), a `struct fuse_out_header`: length, code, no request.
const EXPIRE_ALL_NAMES: [u32; 4] = [16, 8, 0, 0];

impl Door {
    pub(crate) fn is_exchanged(&self) -> bool {
        self.exchanged.load(Ordering::Acquire)
    }

    /// Whether a request that began before the exchange met objects of both volumes.
    pub(crate) fn failed_by_exchange<T>(&self, before: bool, done: &Result<T>) -> bool {
        let stale = |errno| matches!(errno, Errno::ESTALE | Errno::EBADF);
        if before || !done.as_ref().is_err_and(|error| stale(error.errno())) {
            return false;
        }
        // One that is under way comes to its end first.
        drop(self.exchanging.read());
        self.is_exchanged()
    }

    pub(crate) fn set_device(&self, device: Option<OwnedFd>) {
        *self.device.write() = device;
    }

    /// The kernel shall look up every name anew. Older kernels cannot be told so.
    pub(crate) fn expire_names(&self) {
        let device = self.device.read();
        let Some(device) = device.as_ref() else {
            return;
        };
        let told: Vec<u8> = EXPIRE_ALL_NAMES
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        if let Err(error) = rustix::io::write(device.as_fd(), &told) {
            tracing::debug!(%error, "this kernel keeps the names that it knows");
        }
    }

    pub(crate) fn open_files(&self) -> Vec<OpenFile> {
        self.files
            .all()
            .into_iter()
            .map(|(handle, open)| OpenFile {
                handle,
                number: open.node,
                bypasses: match open.mode {
                    Mode::Cached { .. } | Mode::Direct => false,
                    Mode::Passthrough => true,
                    // What was opened to write alone cannot be mapped.
                    Mode::Interposed => open.file.flags().reads(),
                },
                locked: open.locked.load(Ordering::Relaxed),
                file: open.file.clone(),
            })
            .collect()
    }

    /// Puts another volume below. Takes as long as what is open, not as what is known.
    pub(crate) fn exchange(self: &Arc<Door>, new: Exchange, threads: ExchangeThreads) {
        let open = self.files.all();
        let mut nodes: HashMap<u64, Arc<Inode>> = new
            .objects
            .into_iter()
            .filter_map(|(number, inode)| Some((self.nodes.numbered(number)?, inode)))
            .collect();
        for (handle, open) in &open {
            if let Some(file) = new.files.get(handle) {
                nodes.insert(open.node, file.inode().clone());
            }
        }
        let held: Vec<u64> = nodes.keys().copied().collect();
        // The kernel wants all opens of a node to agree, and nothing may pass us by any more.
        let apart: HashSet<u64> = open
            .iter()
            .filter(|(_, open)| open.mode.is_backed())
            .map(|(_, open)| open.node)
            .collect();
        let exchanging = self.exchanging.write();
        let nodes = self.nodes.exchange(new.root, nodes, apart);
        let files = self.files.exchange(&new.files);
        let volume = std::mem::replace(&mut *self.volume.write(), new.volume);
        *self.former.write() = Some(Arc::new(Former { volume, nodes }));
        self.exchanged.store(true, Ordering::Release);
        drop(exchanging);
        let door = Arc::downgrade(self);
        let fresh = move || {
            if let Some(door) = door.upgrade() {
                for node in held {
                    door.drop_pages(node, 0, 0);
                }
            }
            keep_fresh(&door);
        };
        let door = Arc::downgrade(self);
        let forget = move || {
            drop((open, files));
            let until = Instant::now() + STRAGGLERS;
            while Instant::now() < until && door.upgrade().is_some_and(|door| door.has_session()) {
                std::thread::sleep(Duration::from_millis(10));
            }
            // A million nodes take their time to go.
            if let Some(door) = door.upgrade() {
                let former = door.former.write().take();
                drop(former);
                door.settled.store(true, Ordering::Release);
            }
        };
        threads.run(fresh, forget);
    }
}

/// Drops the kernel's pages of files that others change, until the session ends.
fn keep_fresh(door: &Weak<Door>) {
    let mut seen: HashMap<u64, Attr> = HashMap::new();
    while let Some(door) = door.upgrade().filter(|door| door.has_session()) {
        let began = Instant::now();
        let mut now = HashMap::new();
        for (_, open) in door.files.all() {
            let cached = matches!(open.mode, Mode::Cached { .. });
            if !cached || now.contains_key(&open.node) {
                continue;
            }
            let volume = door.volume();
            let cx = Context::internal(Origin::Admin);
            let asked = volume.getattr(&cx, open.file.inode(), Some(&open.file));
            let Ok(attr) = block_on(asked) else { continue };
            let same = seen.get(&open.node).is_some_and(|old| {
                (old.size, old.mtime, old.ctime) == (attr.size, attr.mtime, attr.ctime)
            });
            if !same || is_recent(attr.ctime) {
                door.drop_pages(open.node, 0, 0);
            }
            now.insert(open.node, attr);
        }
        seen = now;
        drop(door);
        std::thread::sleep(LOOK.max(began.elapsed() * SHARE));
    }
}

fn is_recent(time: Time) -> bool {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let at = Duration::new(time.sec.max(0) as u64, time.nsec);
    now.saturating_sub(at) < LOOK + TICK
}
