//! What a door knows of its volume, and the requests that are more than one operation.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fuser::{FileAttr, FileHandle, FopenFlags, Generation, Notifier, ReplyCreate, ReplyOpen};
use hermitfs_api::{
    Context, Entry, Errno, Error, File, Identity, Inode, Kind, Name, OpenFlags, Result, Translator,
};
use parking_lot::RwLock;

use crate::atime::AccessTimes;
use crate::attributes::Atime;
use crate::capabilities::Capabilities;
use crate::convert::{absent, access, errno, file_attr};
use crate::files::{Files, Open};
use crate::former::Former;
use crate::gate::Gate;
use crate::hold::Hold;
use crate::listening::Listening;
use crate::modes::{Access, Mode};
use crate::nodes::{Nodes, known};
use crate::numbers::ROOT;
use crate::opening::{Granted, Openings};
use crate::options::Options;
use crate::setids::{SetIds, has_set_ids};
use crate::sharing::{self, Sharing};
use crate::signals::Signals;
use crate::statistics::{Op, Snapshot, Statistics};
use crate::work::Work;

pub(crate) struct Door {
    pub(crate) volume: RwLock<Arc<dyn Translator>>,
    pub(crate) options: Options,
    pub(crate) nodes: Nodes,
    pub(crate) files: Files,
    pub(crate) openings: Openings,
    pub(crate) work: Work,
    pub(crate) statistics: Arc<Statistics>,
    pub(crate) set_ids: SetIds,
    pub(crate) capabilities: Capabilities,
    pub(crate) sharing: Sharing,
    pub(crate) access_times: AccessTimes,
    pub(crate) notifier: RwLock<Option<Notifier>>,
    /// The kernel does without OPENDIR once it was told so.
    pub(crate) no_opendir: AtomicBool,
    /// Others may still change names in the volume: the kernel remembers none.
    pub(crate) shared: AtomicBool,
    /// Those who wait for locks, and files whose locks may be gone already.
    pub(crate) signals: Signals,
    /// Bytes that a READDIR had room for last time; fuser does not tell.
    pub(crate) readdir_room: AtomicUsize,
    /// Opens and creations, and look-ups, each held on its own before an exchange.
    pub(crate) opens: Hold,
    pub(crate) lookups: Hold,
    /// Look-ups that the program waits for.
    pub(crate) listening: Listening,
    /// Whether the volume was exchanged; while that is being done, the lock is held.
    pub(crate) exchanged: AtomicBool,
    pub(crate) exchanging: RwLock<()>,
    /// What was below before an exchange, while somebody may be on his way there.
    pub(crate) former: RwLock<Option<Arc<Former>>>,
    /// Nobody is any more.
    pub(crate) settled: AtomicBool,
    /// The kernel's device, for what fuser has no words for; while the session lives.
    pub(crate) device: RwLock<Option<OwnedFd>>,
}

/// How a write is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Set-id bits fall by it.
    pub(crate) kills: bool,
    /// Its descriptor has `O_APPEND` now.
    pub(crate) appends: bool,
}

/// An object that the kernel gets to know.
pub(crate) struct Found {
    pub(crate) id: u64,
    pub(crate) attr: FileAttr,
    pub(crate) generation: Generation,
    /// How long the attributes may be believed.
    pub(crate) lifetime: Duration,
}

impl Door {
    pub(crate) fn new(volume: Arc<dyn Translator>, root: Arc<Inode>, options: Options) -> Door {
        let statistics = Arc::new(Statistics::new());
        Door {
            nodes: Nodes::new(root),
            files: Files::new(),
            openings: Openings::new(options.passthrough),
            work: Work {
                gate: Gate::new(options.threads),
                statistics: statistics.clone(),
            },
            set_ids: SetIds::default(),
            capabilities: Capabilities::default(),
            sharing: Sharing::default(),
            access_times: AccessTimes::default(),
            notifier: RwLock::default(),
            no_opendir: AtomicBool::new(false),
            shared: AtomicBool::new(false),
            signals: Signals::default(),
            readdir_room: AtomicUsize::new(32 * 1024),
            statistics,
            opens: Hold::default(),
            lookups: Hold::default(),
            listening: Listening::default(),
            exchanged: AtomicBool::new(false),
            exchanging: RwLock::default(),
            former: RwLock::default(),
            settled: AtomicBool::new(false),
            device: RwLock::default(),
            volume: RwLock::new(volume),
            options,
        }
    }

    /// What is below.
    pub(crate) fn volume(&self) -> Arc<dyn Translator> {
        self.volume.read().clone()
    }

    /// How long the kernel may believe a name that is looked at from now on.
    pub(crate) fn entry_lifetime(&self) -> Duration {
        match self.shared.load(Ordering::SeqCst) {
            true => Duration::ZERO,
            false => self.lifetime(self.options.entry_lifetime),
        }
    }

    /// How long the kernel may believe attributes.
    pub(crate) fn attr_lifetime(&self) -> Duration {
        self.lifetime(self.options.attr_lifetime)
    }

    /// After an exchange this mount is no longer the only way in.
    fn lifetime(&self, wanted: Duration) -> Duration {
        if self.is_exchanged() {
            Duration::ZERO
        } else if self.options.shared {
            wanted.min(sharing::LIFETIME)
        } else {
            wanted
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.statistics.snapshot(self.nodes.len(), self.files.len())
    }

    pub(crate) fn node(&self, id: u64) -> Result<Arc<Inode>> {
        known(self.nodes.get(id))
    }

    pub(crate) fn open_file(&self, handle: FileHandle) -> Result<Arc<Open>> {
        self.files.get(handle.0).ok_or(Error::new(Errno::EBADF))
    }

    /// The one place where an error of an operation is logged.
    pub(crate) fn fail(&self, op: Op, error: &Error) -> fuser::Errno {
        match error.story() {
            Some(story) => tracing::warn!(%op, errno = %error.errno(), %story),
            None if error.errno() == Errno::EIO => tracing::warn!(%op, errno = %error.errno()),
            None => tracing::trace!(%op, errno = %error.errno()),
        }
        errno(error)
    }

    /// Attributes of a node, with the number that users see.
    pub(crate) fn shown(&self, id: u64, attr: &hermitfs_api::Attr) -> FileAttr {
        file_attr(if id == ROOT { attr.ino } else { id }, attr)
    }

    /// Counts one look-up. The answer has to reach the kernel, or be taken back by `forget`.
    pub(crate) fn found(&self, entry: &Entry) -> Found {
        let id = self.nodes.remember(&entry.inode);
        Found {
            id,
            attr: file_attr(id, &entry.attr),
            generation: Generation(generation(&self.nodes.known_as(id, &entry.inode))),
            lifetime: self.believed(id, &entry.inode, &entry.attr),
        }
    }

    /// A look-up, where absence is an answer that can be remembered like any other.
    pub(crate) async fn lookup(&self, cx: &Context, dir: u64, name: &[u8]) -> Result<Found> {
        let _pass = self.lookups.enter().await;
        let (dir, name) = (self.directory(cx, dir, name).await?, Name::new(name)?);
        match self.volume().lookup(cx, &dir, name).await {
            Ok(entry) => Ok(self.found(&entry)),
            Err(error) if error.errno() == Errno::ENOENT => Ok(Found {
                id: 0,
                attr: absent(),
                generation: Generation(0),
                lifetime: self.attr_lifetime(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Opens a file and answers. The mode is found first: whether a brick's file is quiet can
    /// only be told while we hold no descriptor of our own to write through.
    pub(crate) async fn open(&self, cx: &Context, id: u64, flags: OpenFlags, reply: ReplyOpen) {
        match self.opened(cx, id, flags, &reply).await {
            Ok((handle, granted)) => match granted.backing {
                Some(backing) => {
                    reply.opened_passthrough(handle, self.fopen_flags(granted.mode), &backing);
                }
                None => reply.opened(handle, self.fopen_flags(granted.mode)),
            },
            Err(error) => reply.error(self.fail(Op::Open, &error)),
        }
    }

    async fn opened(
        &self,
        cx: &Context,
        id: u64,
        flags: OpenFlags,
        reply: &ReplyOpen,
    ) -> Result<(FileHandle, Granted)> {
        self.openings
            .wait_for_readers(self.node(id)?.identity())
            .await;
        let _pass = self.opens.enter().await;
        let inode = self.node(id)?;
        if self.nodes.is_apart(id) {
            // The kernel walks the path again, and gets to know the file as another node.
            return Err(Errno::ESTALE.into());
        }
        let volume = &*self.volume();
        if self.options.shared {
            let mode = self.freshen(volume, cx, id, &inode, flags).await?;
            let flags = self.through_pages(sharing::flags(flags), mode);
            let file = volume.open(cx, &inode, flags).await?;
            if file.moved_atime() {
                self.call_back_attributes(id);
            }
            return Ok((self.handle(id, file, mode), Granted::unbacked(mode)));
        }
        let granted = self
            .openings
            .open(volume, cx, &inode, access(flags), reply)
            .await?;
        if granted.mode == Mode::Interposed && access(flags) == Access::Both {
            // What the kernel has of the file's times and size may grow old from now on.
            self.call_back_attributes(id);
        }
        match volume
            .open(cx, &inode, self.through_pages(flags, granted.mode))
            .await
        {
            Ok(file) => {
                if file.moved_atime() {
                    self.call_back_attributes(id);
                }
                Ok((self.handle(id, file, granted.mode), granted))
            }
            Err(error) => {
                self.openings.release(inode.identity(), granted.mode, 0);
                Err(error)
            }
        }
    }

    /// The kernel answers reads from the pages that it has, and of these we do not hear.
    fn through_pages(&self, flags: OpenFlags, mode: Mode) -> OpenFlags {
        match mode {
            Mode::Cached { .. } if self.options.attributes.atime != Atime::Never => {
                flags.with(OpenFlags::FROM_PAGES)
            }
            _ => flags,
        }
    }

    /// Reads from an open file.
    pub(crate) async fn read(
        &self,
        cx: &Context,
        (handle, open): (FileHandle, Arc<Open>),
        at: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let mut open = Some(open);
        steady!(self, {
            let open = self.still_open(handle, &mut open)?;
            self.volume().read(cx, &open.file, at, buffer).await
        })
    }

    /// Writes to an open file.
    pub(crate) async fn write(
        &self,
        cx: &Context,
        (handle, open): (FileHandle, Arc<Open>),
        at: u64,
        data: &[u8],
        Manner { kills, appends }: Manner,
    ) -> Result<usize> {
        let mut open = Some(open);
        steady!(self, {
            let open = self.still_open(handle, &mut open)?;
            let volume = self.volume();
            if self.is_shared() && open.file.flags().appends() != appends {
                let write = sharing::write_as(&*volume, cx, &open.file, appends, at, data);
                return self.changing(cx, open.node, &open, kills, write).await;
            }
            let write = volume.write(cx, &open.file, at, data);
            let written = self.changing(cx, open.node, &open, kills, write).await?;
            open.written.fetch_add(written as u64, Ordering::Relaxed);
            Ok(written)
        })
    }

    /// Whether others come to the volume by other ways.
    pub(crate) fn is_shared(&self) -> bool {
        self.options.shared || self.is_exchanged()
    }

    /// What was found behind a handle; what is there now when that did not do.
    fn still_open(&self, handle: FileHandle, found: &mut Option<Arc<Open>>) -> Result<Arc<Open>> {
        match found.take() {
            Some(open) => Ok(open),
            None => self.open_file(handle),
        }
    }

    fn fopen_flags(&self, mode: Mode) -> FopenFlags {
        match mode {
            // While it was closed nobody looked for what others changed.
            Mode::Cached { .. } if self.is_exchanged() => FopenFlags::empty(),
            Mode::Cached { keep: true } => FopenFlags::FOPEN_KEEP_CACHE,
            Mode::Cached { keep: false } => FopenFlags::empty(),
            // KEEP_CACHE together with passthrough is EIO. The bit of passthrough itself is set by
            // the reply that carries the backing.
            Mode::Passthrough => FopenFlags::empty(),
            Mode::Interposed | Mode::Direct => FopenFlags::FOPEN_DIRECT_IO,
        }
    }

    fn handle(&self, node: u64, file: Arc<File>, mode: Mode) -> FileHandle {
        if mode.is_backed() {
            self.statistics.bypassing.fetch_add(1, Ordering::Relaxed);
        }
        FileHandle(self.files.insert(node, file, mode))
    }

    pub(crate) async fn release(self: &Arc<Self>, cx: &Context, handle: FileHandle) -> Result<()> {
        let open = self
            .files
            .remove(handle.0)
            .ok_or(Error::new(Errno::EBADF))?;
        let released = self.volume().release(cx, &open.file).await;
        let (identity, mode, node) = (open.opened_as, open.mode, open.node);
        let written = open.written.load(Ordering::Relaxed);
        drop(open);
        if self.openings.release(identity, mode, written) {
            let door = self.clone();
            self.work.aside(move || door.drop_pages(node, 0, 0));
        }
        if mode.is_backed() {
            self.statistics.bypassing.fetch_sub(1, Ordering::Relaxed);
        }
        released
    }

    pub(crate) async fn create(
        &self,
        cx: &Context,
        dir: u64,
        name: &[u8],
        raw_flags: i32,
        mode: u32,
        umask: u32,
        reply: ReplyCreate,
    ) {
        let lifetime = self.entry_lifetime();
        match self
            .created(cx, dir, name, raw_flags, mode, umask, &reply)
            .await
        {
            Ok((found, handle, granted)) => {
                // Shorter when the volume was exchanged meanwhile.
                let lifetime = lifetime.min(self.attr_lifetime()).min(found.lifetime);
                let Found {
                    attr, generation, ..
                } = found;
                let flags = self.fopen_flags(granted.mode);
                match granted.backing {
                    Some(backing) => {
                        reply.created_passthrough(
                            &lifetime, &attr, generation, handle, flags, &backing,
                        );
                    }
                    None => reply.created(&lifetime, &attr, generation, handle, flags),
                }
            }
            Err(error) => reply.error(self.fail(Op::Create, &error)),
        }
    }

    async fn created(
        &self,
        cx: &Context,
        dir: u64,
        name: &[u8],
        raw_flags: i32,
        mode: u32,
        umask: u32,
        reply: &ReplyCreate,
    ) -> Result<(Found, FileHandle, Granted)> {
        let _pass = self.opens.enter().await;
        if self.is_former(dir) {
            // He came by a path, and that leads elsewhere by now.
            return Err(Errno::ESTALE.into());
        }
        let (dir, name) = (self.node(dir)?, Name::new(name)?);
        let mut flags = crate::convert::open_flags(raw_flags);
        if self.options.shared {
            flags = sharing::flags(flags);
        }
        let volume = &*self.volume();
        // Whoever took the name may be gone again when we look: then it is free once more.
        for _ in 0..16 {
            let (epoch, capabilities) = (self.set_ids.now(), self.capabilities.now());
            match volume
                .create(cx, &dir, name, flags, mode & 0o7777, umask)
                .await
            {
                Ok((entry, file)) => {
                    let granted = match self.grant(volume, cx, &entry.inode, flags, reply).await {
                        Ok(granted) => granted,
                        Err(error) => {
                            volume.release(cx, &file).await.ok();
                            return Err(error);
                        }
                    };
                    let found = self.found(&entry);
                    let handle = self.handle(found.id, file, granted.mode);
                    if !has_set_ids(&entry.attr)
                        && let Ok(open) = self.open_file(handle)
                    {
                        open.plain.seen(epoch);
                    }
                    if self.openings.is_far() {
                        self.capabilities.has_none(&entry.inode, capabilities);
                    }
                    return Ok((found, handle, granted));
                }
                Err(error) if error.errno() != Errno::EEXIST || raw_flags & libc::O_EXCL != 0 => {
                    return Err(error);
                }
                Err(_) => {}
            }
            let entry = match volume.lookup(cx, &dir, name).await {
                Err(error) if error.errno() == Errno::ENOENT => continue,
                found => found?,
            };
            if entry.attr.kind != Kind::File {
                // The kernel walks the path again, and finds out for itself what it is.
                return Err(Errno::ESTALE.into());
            }
            let inode = &entry.inode;
            let granted = self.grant(volume, cx, inode, flags, reply).await?;
            return match volume.open(cx, inode, flags).await {
                Ok(file) => {
                    let found = self.found(&entry);
                    let handle = self.handle(found.id, file, granted.mode);
                    Ok((found, handle, granted))
                }
                Err(error) => {
                    self.openings.release(inode.identity(), granted.mode, 0);
                    Err(error)
                }
            };
        }
        Err(Errno::ESTALE.into())
    }

    /// How to open what a creation made or found.
    async fn grant(
        &self,
        volume: &dyn Translator,
        cx: &Context,
        inode: &Arc<Inode>,
        flags: OpenFlags,
        reply: &ReplyCreate,
    ) -> Result<Granted> {
        if self.options.shared {
            // The answer brings the attributes, and the kernel drops what pages it has.
            return Ok(Granted::unbacked(sharing::mode(flags, false)));
        }
        self.openings
            .open(volume, cx, inode, access(flags), reply)
            .await
    }
}

/// The kernel keeps 32 bits of it.
pub(crate) fn generation(known_as: &Identity) -> u64 {
    let generation = known_as.generation;
    (generation ^ generation >> 32) & 0xffff_ffff
}
