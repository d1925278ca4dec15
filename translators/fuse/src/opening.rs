//! Drives [`modes`](crate::modes): asks the volume and the kernel what a decision needs.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use fuser::{BackingId, ReplyCreate, ReplyOpen};
use hermitfs_api::{Context, Errno, Error, Identity, Inode, Lend, Lent, Result, Translator};
use parking_lot::Mutex;

use crate::modes::{Access, Facts, Mode, Modes, Step};
use crate::patience::{IN_VAIN, Patience};

const SHARDS: usize = 16;

/// What the kernel asks for with one READ when it reads ahead, in bytes (its default).
const SMALL: u64 = 128 << 10;

/// Inodes in one shard with no open file, of which is remembered that a mapping escaped.
const REMEMBERED: usize = 512;

/// What makes a backing of a brick's descriptor: the reply that will carry it.
pub(crate) trait Backer: Sync {
    fn back(&self, brick: &Lent) -> io::Result<BackingId>;
}

impl Backer for ReplyOpen {
    fn back(&self, brick: &Lent) -> io::Result<BackingId> {
        self.open_backing(brick.as_fd())
    }
}

impl Backer for ReplyCreate {
    fn back(&self, brick: &Lent) -> io::Result<BackingId> {
        self.open_backing(brick.as_fd())
    }
}

/// How to open a file, counted until [`Openings::release`].
pub(crate) struct Granted {
    pub(crate) mode: Mode,
    /// There for the modes that are backed. One for all opens of an inode.
    pub(crate) backing: Option<Arc<BackingId>>,
}

impl Granted {
    pub(crate) fn unbacked(mode: Mode) -> Granted {
        Granted {
            mode,
            backing: None,
        }
    }
}

struct Opened {
    modes: Modes,
    backing: Option<Arc<BackingId>>,
    inode: Weak<Inode>,
    /// Until then nobody waits again for those who have it open past the door.
    in_vain: Option<Instant>,
}

pub(crate) struct Openings {
    /// What the kernel and our privileges allow.
    able: AtomicBool,
    /// What was asked for.
    wanted: AtomicBool,
    /// The volume has not said that it lends nothing. It is not asked again then.
    lends: AtomicBool,
    /// A mapping may have escaped, of any file, at any time.
    escaped: AtomicBool,
    /// It was asked.
    asked: AtomicBool,
    shards: Vec<Mutex<HashMap<Identity, Opened>>>,
    patience: Patience,
}

impl Openings {
    pub(crate) fn new(wanted: bool) -> Openings {
        Openings {
            able: AtomicBool::new(false),
            wanted: AtomicBool::new(wanted),
            lends: AtomicBool::new(true),
            escaped: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            patience: Patience::default(),
        }
    }

    pub(crate) fn set_able(&self, able: bool) {
        self.able.store(able, Ordering::Relaxed);
    }

    pub(crate) fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// While nothing is to be opened past the door any more, but others have this file open so:
    /// waits a moment for them, as this open would have to be as theirs. Readers who come and go
    /// would be there for ever.
    pub(crate) async fn wait_for_readers(&self, identity: Identity) {
        if self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let waits = |opened: &Opened| {
            let again = opened.in_vain.is_none_or(|until| Instant::now() >= until);
            opened.modes.is_backed() && again
        };
        let free = || {
            let shard = self.shard(identity).lock();
            self.wanted.load(Ordering::Relaxed) || !shard.get(&identity).is_some_and(waits)
        };
        if !self.patience.until(free).await
            && let Some(opened) = self.shard(identity).lock().get_mut(&identity)
        {
            opened.in_vain = Some(Instant::now() + IN_VAIN);
        }
    }

    /// Whether the volume has no descriptors of its own, so that asking it may take long.
    pub(crate) fn is_far(&self) -> bool {
        !self.lends.load(Ordering::Relaxed)
    }

    fn passthrough(&self) -> bool {
        let flags = [&self.able, &self.wanted, &self.lends];
        flags.iter().all(|flag| flag.load(Ordering::Relaxed))
    }

    /// Finds the mode for an open. Nothing is locked while the volume is asked; when another open
    /// of the same inode came in between, the decision starts again with what is known by then.
    pub(crate) async fn open(
        &self,
        volume: &dyn Translator,
        cx: &Context,
        inode: &Arc<Inode>,
        access: Access,
        backer: &impl Backer,
    ) -> Result<Granted> {
        let mut facts = Facts {
            passthrough: self.passthrough(),
            ..Facts::default()
        };
        let mut offer = None;
        loop {
            match self.step(inode, access, facts, &mut offer) {
                Ok(granted) => {
                    // Whether it is far is of use to those who write as well.
                    if granted.mode == Mode::Direct && !self.asked.load(Ordering::Relaxed) {
                        self.lent(volume, cx, inode).await;
                    }
                    return Ok(granted);
                }
                Err(Step::AskSize) => {
                    let attr = volume.getattr(cx, inode, None).await;
                    facts.small = Some(attr.is_ok_and(|attr| attr.size <= SMALL));
                }
                Err(Step::AskBacking) => {
                    offer = self.backing(volume, cx, inode, backer).await.map(Arc::new);
                    facts.backing = Some(offer.is_some());
                }
                Err(Step::AskMark) => {
                    facts.marked = match volume.lend(cx, inode, Lend::Write).await {
                        // It has become append-only while somebody reads it past the door.
                        Err(error) if error.errno() == Errno::EPERM => return Err(error),
                        lent => Some(matches!(lent, Ok(Some(_)))),
                    };
                }
                Err(Step::AskQuiet) => {
                    facts.quiet = Some(volume.quiet(cx, inode).await.unwrap_or(false));
                }
                Err(Step::Refuse | Step::Open(_)) => {
                    // The volume lends for reading but not for this. What is open now cannot be
                    // changed; no file will get there again.
                    self.set_able(false);
                    return Err(Error::with_story(
                        Errno::EBUSY,
                        "open for reading past the door, and the volume lends nothing to write to",
                    ));
                }
            }
        }
    }

    fn step(
        &self,
        inode: &Arc<Inode>,
        access: Access,
        facts: Facts,
        offer: &mut Option<Arc<BackingId>>,
    ) -> std::result::Result<Granted, Step> {
        let mut shard = self.shard(inode.identity()).lock();
        let opened = shard.entry(inode.identity()).or_insert_with(|| Opened {
            modes: Modes::default(),
            backing: None,
            inode: Arc::downgrade(inode),
            in_vain: None,
        });
        match opened.modes.open(access, facts) {
            Step::Open(mode) if mode.is_backed() => {
                if opened.modes.changes_unseen() {
                    self.escaped.store(true, Ordering::Relaxed);
                }
                let backing = opened.backing.get_or_insert_with_option(offer);
                Ok(Granted { mode, backing })
            }
            Step::Open(mode) => Ok(Granted::unbacked(mode)),
            step => {
                if opened.modes.is_idle() {
                    shard.remove(&inode.identity());
                }
                Err(step)
            }
        }
    }

    /// A descriptor to read from, if the volume has any.
    async fn lent(
        &self,
        volume: &dyn Translator,
        cx: &Context,
        inode: &Arc<Inode>,
    ) -> Option<Lent> {
        let lent = volume.lend(cx, inode, Lend::Read).await.ok()?;
        self.asked.store(true, Ordering::Relaxed);
        if lent.is_none() {
            self.lends.store(false, Ordering::Relaxed);
        }
        lent
    }

    async fn backing(
        &self,
        volume: &dyn Translator,
        cx: &Context,
        inode: &Arc<Inode>,
        backer: &impl Backer,
    ) -> Option<BackingId> {
        let brick = self.lent(volume, cx, inode).await?;
        match backer.back(&brick) {
            Ok(backing) => Some(backing),
            Err(error) => {
                // EPERM is about us (no CAP_SYS_ADMIN), all else about this file's file system.
                if error.raw_os_error() == Some(libc::EPERM) {
                    self.set_able(false);
                    tracing::info!("not permitted to pass files through: going on without");
                } else {
                    tracing::debug!(?inode, %error, "cannot be passed through");
                }
                None
            }
        }
    }

    /// An open is gone, through which so many bytes were written; the kernel has counted it out
    /// before. Whether the kernel's pages of the file are of no more use.
    pub(crate) fn release(&self, identity: Identity, mode: Mode, written: u64) -> bool {
        let mut shard = self.shard(identity).lock();
        let Some(opened) = shard.get_mut(&identity) else {
            return false;
        };
        let surplus = opened.modes.release(mode, written);
        // Closed below, when the lock is gone.
        let mut _backing = None;
        if !opened.modes.is_backed() {
            _backing = opened.backing.take();
        }
        if opened.modes.is_idle() {
            shard.remove(&identity);
        } else if shard.len() > REMEMBERED && shard.values().any(|other| other.modes.is_closed()) {
            shard.retain(|_, other| !other.modes.is_closed() || other.inode.strong_count() > 0);
        }
        drop(shard);
        surplus && self.passthrough()
    }

    /// Whether a file's content and times may change without a word to us. Asks the volume, when nobody has
    /// the file open, whether that is over: attributes are to be read after this.
    pub(crate) async fn changes_unseen(
        &self,
        volume: &dyn Translator,
        cx: &Context,
        inode: &Arc<Inode>,
    ) -> bool {
        if !self.may_change_unseen(inode) {
            return false;
        }
        let escapes = self.look(inode, |modes| modes.escapes()).flatten();
        if let Some(escapes) = escapes
            && volume.quiet(cx, inode).await.unwrap_or(false)
        {
            self.look(inode, |modes| modes.calm(escapes));
        }
        self.may_change_unseen(inode)
    }

    /// The same from memory.
    pub(crate) fn may_change_unseen(&self, inode: &Inode) -> bool {
        let seldom = self.escaped.load(Ordering::Relaxed);
        seldom && self.look(inode, |modes| modes.changes_unseen()) == Some(true)
    }

    /// Whether somebody has the file open through the kernel's pages.
    pub(crate) fn is_cached(&self, inode: &Inode) -> bool {
        self.look(inode, |modes| modes.is_cached()) == Some(true)
    }

    fn look<T>(&self, inode: &Inode, look: impl FnOnce(&mut Modes) -> T) -> Option<T> {
        let mut shard = self.shard(inode.identity()).lock();
        let opened = shard.get_mut(&inode.identity())?;
        Some(look(&mut opened.modes))
    }

    fn shard(&self, identity: Identity) -> &Mutex<HashMap<Identity, Opened>> {
        &self.shards[(identity.ino ^ identity.ino >> 4) as usize % SHARDS]
    }
}

/// The first backing of an inode stays; another that was made meanwhile is dropped.
trait FirstStays<T> {
    fn get_or_insert_with_option(&mut self, offer: &mut Option<T>) -> Option<T>;
}

impl<T: Clone> FirstStays<T> for Option<T> {
    fn get_or_insert_with_option(&mut self, offer: &mut Option<T>) -> Option<T> {
        if self.is_none() {
            *self = offer.take();
        }
        self.clone()
    }
}
