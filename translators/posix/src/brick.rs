use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hermitfs_api::{Attr, Context, Entry, File, Identity, Inode, Kind, Name, Role};
use rustix::fs::{CWD, Mode, OFlags, open, openat};
use rustix::io::{Errno, Result};

use crate::attr::{attr, stat};
use crate::data::Opened;
use crate::graves::Graves;
use crate::handle::{FileHandle, Fingerprint};
use crate::identities::{Identities, handles_last};
use crate::node::{Node, Pin};
use crate::options::{OpenError, Options, OwnMount};
use crate::ours::Ours;
use crate::probe::{
    brick_id, file_system_id, file_system_type, may_hash, own_clone, private_clone, probe_handles,
};
use crate::table::Table;
use crate::view::{Held, LIST, LOOK, View, proc_path};
use crate::{placeholder, sys};

/// A directory of a real file system, and all that is known of it.
///
/// Every look at it goes by a descriptor of a directory and one name, never followed if it is a
/// symbolic link, or by a file handle; what turns out to be on another mount is EXDEV. So nothing
/// leads out.
pub(crate) struct Brick {
    directory: PathBuf,
    /// As users see it, with the access times that the brick's mount keeps.
    pub(crate) plain: View,
    /// For our own reading: read-only and without access times.
    pub(crate) quiet: View,
    pub(crate) quiet_is_kept_by_kernel: bool,
    /// The plain view is a mount of its own as well.
    pub(crate) plain_is_alone: bool,
    /// What changes are refused to all but users.
    source: AtomicBool,
    pub(crate) handles: bool,
    pub(crate) identities: Identities,
    /// Its directories may have positions that are hashes.
    pub(crate) hashes: bool,
    /// Goes into handles; those of another brick are not ours.
    pub(crate) id: u64,
    /// The same number across reboots, and of no other file system.
    pub(crate) file_system: u64,
    pub(crate) root: Identity,
    pub(crate) table: Table,
    pub(crate) ours: Ours,
    pub(crate) graves: Graves,
}

/// What an object behind a descriptor turned out to be.
pub(crate) struct Found {
    pub(crate) identity: Identity,
    pub(crate) attr: Attr,
    handle: Option<FileHandle>,
}

impl Brick {
    pub(crate) fn open(options: &Options) -> std::result::Result<Brick, OpenError> {
        let path = &options.directory;
        let failed = |call| {
            move |error: Errno| OpenError::FileSystem {
                path: path.clone(),
                call,
                source: error.into(),
            }
        };
        let root = open(path, LIST - OFlags::NOFOLLOW, Mode::empty()).map_err(|error| {
            OpenError::Directory {
                path: path.clone(),
                source: error.into(),
            }
        })?;
        // Kernels before 6.15 clone a mount of the tree only, not a clone: both are made of this one.
        let found = root;
        let own = match options.own_mount {
            None if options.one_file_system => Some(OwnMount::default()),
            own => own,
        };
        let root = match own {
            Some(own) => own_clone(found.as_fd(), own).map_err(failed("open_tree"))?,
            None => openat(&found, c".", LIST, Mode::empty()).map_err(failed("openat"))?,
        };

        let f_type = file_system_type(root.as_fd()).map_err(failed("statfs"))?;
        let handle = (options.handles && handles_last(f_type))
            .then(|| probe_handles(root.as_fd()))
            .flatten();
        let file_system = file_system_id(root.as_fd()).map_err(failed("statfs"))?;
        let id = brick_id(file_system, root.as_fd(), handle.as_ref()).map_err(failed("statx"))?;

        // Without handles there is no way from an object on one mount to the same on another.
        let clone = match handle {
            Some(_) => private_clone(found.as_fd()),
            None => Err(Errno::OPNOTSUPP),
        };
        let (quiet, quiet_is_kept_by_kernel) = match clone {
            Ok(clone) => (View::new(clone, OFlags::empty()), true),
            Err(error) => {
                tracing::debug!(brick = %path.display(), %error, "no private clone of the mount");
                let again = openat(&root, c".", LIST, Mode::empty()).map_err(failed("openat"))?;
                (View::new(again, OFlags::NOATIME), false)
            }
        };
        let quiet = quiet.map_err(failed("statx"))?;
        // The brick's own mount may be unmounted, or made read-only, from here on.
        drop(found);
        let plain = View::new(root, OFlags::empty()).map_err(failed("statx"))?;
        let handles = handle.is_some();
        let hashes = may_hash(plain.root.as_fd()).map_err(failed("statfs"))?;
        let found = identify(&plain, plain.root.as_fd(), handles).map_err(failed("statx"))?;
        Ok(Brick {
            directory: path.clone(),
            plain,
            quiet,
            quiet_is_kept_by_kernel,
            plain_is_alone: own.is_some(),
            source: AtomicBool::new(false),
            handles,
            identities: Identities::of(f_type, handles),
            hashes,
            id,
            file_system,
            root: found.identity,
            table: Table::new(),
            ours: Ours::new(),
            graves: Graves::default(),
        })
    }

    pub(crate) fn root(self: &Arc<Brick>) -> Result<Arc<Inode>> {
        let root = openat(&self.plain.root, c".", LOOK, Mode::empty())?;
        Ok(self.capture(&self.plain, root, None)?.inode)
    }

    /// What speaks against this brick in a role.
    pub(crate) fn obstacle(&self, role: Role) -> Option<String> {
        self.identities
            .unfit(role, self.handles)
            .map(|why| format!("{} is on {why}", self.directory.display()))
    }

    pub(crate) fn play(&self, role: Role) {
        self.source.store(role == Role::Source, Ordering::Relaxed);
        if role == Role::Source && !self.quiet_is_kept_by_kernel {
            tracing::warn!(
                brick = %self.directory.display(),
                "the mount cannot be cloned: hermitfs itself keeps its own reading from changing \
                 the source, instead of the kernel"
            );
        }
    }

    /// Users' operations see the brick as it is; on a source, all others do no harm.
    pub(crate) fn view(&self, cx: &Context) -> &View {
        if cx.origin.is_internal() && self.source.load(Ordering::Relaxed) {
            &self.quiet
        } else {
            &self.plain
        }
    }

    /// The view to change something in. EROFS for our own traffic on a source.
    pub(crate) fn to_change(&self, cx: &Context) -> Result<&View> {
        if cx.origin.is_internal() && self.source.load(Ordering::Relaxed) {
            return Err(Errno::ROFS);
        }
        Ok(&self.plain)
    }

    /// Our state of an inode. ESTALE for one of another brick.
    pub(crate) fn node<'a>(&self, inode: &'a Inode) -> Result<&'a Node> {
        let node = inode
            .leaf::<Node>()
            .filter(|node| std::ptr::eq(&*node.brick, self));
        node.ok_or(Errno::STALE)
    }

    /// Our state of an open file. EBADF for one of another brick.
    pub(crate) fn opened<'a>(&self, file: &'a File) -> Result<&'a Opened> {
        self.node(file.inode()).map_err(|_| Errno::BADF)?;
        file.leaf().ok_or(Errno::BADF)
    }

    /// A descriptor, mostly `O_PATH`, of an object.
    pub(crate) fn hold<'a>(&'a self, view: &'a View, inode: &'a Inode) -> Result<Held<'a>> {
        if inode.identity() == self.root {
            return Ok(Held::Lent(view.root.as_fd()));
        }
        let node = self.node(inode)?;
        if let Some(pin) = node.pin.get() {
            return Ok(Held::Lent(pin.as_fd()));
        }
        let handle = node.handle.as_ref().ok_or(Errno::STALE)?;
        if inode.kind() != Kind::Directory {
            return view.by_handle(handle, LOOK).map(Held::Own);
        }
        if let Some(fd) = view.dirs.get(inode.identity()) {
            return Ok(Held::Shared(fd));
        }
        let fd = Arc::new(view.by_handle(handle, LOOK)?);
        view.dirs.put(inode.identity(), fd.clone());
        Ok(Held::Shared(fd))
    }

    /// The same for a look at an object: what our own traffic has open serves as well.
    pub(crate) fn hold_or_ours<'a>(&'a self, cx: &Context, inode: &'a Inode) -> Result<Held<'a>> {
        match self.ours(cx, inode) {
            Some(fd) => Ok(Held::Shared(fd)),
            None => self.hold(self.view(cx), inode),
        }
    }

    /// A descriptor that our own traffic has of a regular file just now.
    pub(crate) fn ours(&self, cx: &Context, inode: &Inode) -> Option<Arc<OwnedFd>> {
        let asked = cx.origin.is_internal() && inode.kind() == Kind::File;
        asked.then(|| self.ours.get(inode.identity())).flatten()
    }

    /// The same for a directory. ENOTDIR for anything else.
    pub(crate) fn hold_dir<'a>(&'a self, view: &'a View, dir: &'a Inode) -> Result<Held<'a>> {
        if dir.kind() != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        self.hold(view, dir)
    }

    /// Opens the object behind an inode in earnest: a regular file or a directory.
    pub(crate) fn reopen(&self, view: &View, inode: &Inode, flags: OFlags) -> Result<OwnedFd> {
        if !matches!(inode.kind(), Kind::File | Kind::Directory) {
            return Err(Errno::INVAL);
        }
        let flags = flags | view.extra | OFlags::CLOEXEC;
        if inode.identity() == self.root {
            return openat(&view.root, c".", flags, Mode::empty());
        }
        let node = self.node(inode)?;
        match (node.pin.get(), &node.handle) {
            (Some(pin), _) => {
                // A pin was opened by the plain mount.
                let quiet = std::ptr::eq(view, &self.quiet);
                let extra = if quiet {
                    OFlags::NOATIME
                } else {
                    OFlags::empty()
                };
                let flags = (flags | extra) - OFlags::NOFOLLOW;
                openat(CWD, proc_path(pin.as_fd()), flags, Mode::empty())
            }
            (None, Some(handle)) => view.by_handle(handle, flags | OFlags::NOFOLLOW),
            (None, None) => Err(Errno::STALE),
        }
    }

    /// A name in a directory, held with `O_PATH` whatever it is.
    pub(crate) fn hold_name(&self, view: &View, dir: &Inode, name: &Name) -> Result<OwnedFd> {
        let dir = self.hold_dir(view, dir)?;
        openat(&dir, name.as_bytes(), LOOK, Mode::empty())
    }

    /// Which object a descriptor of a view stands for. EXDEV if it is on another mount.
    pub(crate) fn identify(&self, view: &View, fd: BorrowedFd<'_>) -> Result<Found> {
        identify(view, fd, self.handles)
    }

    /// The object that an `O_PATH` descriptor of a view stands for, as everybody above knows it.
    /// Attributes and identity come from the one descriptor, so they belong to one object however
    /// names change meanwhile.
    pub(crate) fn capture(
        self: &Arc<Brick>,
        view: &View,
        fd: OwnedFd,
        name: Option<(&Arc<Inode>, &Name)>,
    ) -> Result<Entry> {
        let found = self.identify(view, fd.as_fd())?;
        let (entry, needs_pin) = self.intern(view, found, name)?;
        let kind = entry.attr.kind;
        if needs_pin {
            let _ = self.node(&entry.inode)?.pin.set(Pin::new(fd, None));
        } else if kind == Kind::Directory {
            view.dirs.put(entry.inode.identity(), Arc::new(fd));
        }
        Ok(entry)
    }

    /// The one inode of an object, and whether it has to be pinned, for want of a handle.
    pub(crate) fn intern(
        self: &Arc<Brick>,
        view: &View,
        found: Found,
        name: Option<(&Arc<Inode>, &Name)>,
    ) -> Result<(Entry, bool)> {
        let Found {
            identity,
            attr,
            handle,
        } = found;
        let needs_pin = handle.is_none();
        if needs_pin && self.quiet_is_kept_by_kernel && std::ptr::eq(view, &self.quiet) {
            return Err(Errno::OPNOTSUPP); // it would be pinned where nobody could change it
        }
        let inode = self.table.get_or_insert(identity, |hash| {
            Inode::new(identity, attr.kind, Node::new(self.clone(), hash, handle))
        });
        match name {
            Some((_, name)) if attr.kind == Kind::Directory => self.node(&inode)?.called(name),
            Some((dir, name)) => self.node(&inode)?.saw(dir, name),
            None => {}
        }
        Ok((Entry { inode, attr }, needs_pin))
    }

    /// An object by handle, of which nothing else is known. ESTALE when it is gone.
    pub(crate) fn by_handle(&self, view: &View, handle: &FileHandle) -> Result<OwnedFd> {
        view.by_handle(handle, LOOK)
    }

    /// The last hold on an inode is gone.
    pub(crate) fn let_go(&self, hash: u64) {
        self.table.sweep(hash);
        self.forget_directory(hash);
    }

    /// No cache keeps a directory open that is gone.
    pub(crate) fn forget_directory(&self, hash: u64) {
        for view in [&self.plain, &self.quiet] {
            view.dirs.remove(hash);
            view.streams.remove(hash);
        }
    }
}

fn identify(view: &View, fd: BorrowedFd<'_>, handles: bool) -> Result<Found> {
    let stat = stat(fd)?;
    view.must_be_on(&stat)?;
    let attr = attr(&stat)?;
    let told = match handles && placeholder::is_one(fd, &attr)? {
        true => Some(placeholder::handle(fd)),
        false => {
            handles.then(|| sys::name_to_handle_at(fd).and_then(|(raw, _)| FileHandle::keep(&raw)))
        }
    };
    let handle = match told {
        Some(Ok(handle)) => Some(handle),
        Some(Err(Errno::OPNOTSUPP | Errno::OVERFLOW)) | None => None,
        Some(Err(error)) => return Err(error),
    };
    let generation = match (&handle, attr.btime) {
        (Some(handle), _) => handle.fingerprint(),
        (None, Some(born)) => Fingerprint::new()
            .with(&born.sec.to_le_bytes())
            .with(&born.nsec.to_le_bytes())
            .done(),
        (None, None) => 0,
    };
    let identity = Identity {
        dev: attr.dev,
        ino: attr.ino,
        generation,
    };
    Ok(Found {
        identity,
        attr,
        handle,
    })
}
