//! READDIR and READDIRPLUS: filling the kernel's buffer.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuser::{FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use hermitfs_api::{Context, DirEntry, Entry, Errno, Inode, Name, Result};

use crate::convert::{absent, file_type};
use crate::door::Door;
use crate::statistics::Op;

/// Bytes of an entry beside its name (`struct fuse_dirent`, `struct fuse_direntplus`).
const PLAIN: usize = 24;
const PLUS: usize = 152;

/// A long directory's entries are asked for in pieces of this many.
const PIECE: usize = 1024;

/// One side of the two replies.
trait Buffer {
    const HEADER: usize;
    /// False when there was no room.
    fn add(&mut self, door: &Door, dir: &Inode, entry: &DirEntry) -> bool;
}

impl Buffer for ReplyDirectory {
    const HEADER: usize = PLAIN;

    fn add(&mut self, door: &Door, dir: &Inode, entry: &DirEntry) -> bool {
        let number = INodeNo(door.nodes.shown(dir, entry.ino));
        let kind = entry.kind.map_or(FileType::RegularFile, file_type);
        !ReplyDirectory::add(
            self,
            number,
            entry.next,
            kind,
            OsStr::from_bytes(&entry.name),
        )
    }
}

impl Buffer for ReplyDirectoryPlus {
    const HEADER: usize = PLUS;

    fn add(&mut self, door: &Door, dir: &Inode, entry: &DirEntry) -> bool {
        let name = OsStr::from_bytes(&entry.name);
        let Some(object) = &entry.entry else {
            // `.`, `..`, and what cannot be looked up just now: the kernel takes the number and
            // the kind, and counts no look-up.
            let mut attr = absent();
            attr.ino = INodeNo(door.nodes.shown(dir, entry.ino));
            attr.kind = match entry.is_dots() {
                true => FileType::Directory,
                false => entry.kind.map_or(FileType::RegularFile, file_type),
            };
            let none = (Duration::ZERO, Generation(0));
            return !ReplyDirectoryPlus::add(
                self, attr.ino, entry.next, name, &none.0, &attr, none.1,
            );
        };
        let found = door.found(object);
        let lifetime = door.entry_lifetime().min(found.lifetime);
        let number = INodeNo(found.id);
        let full = ReplyDirectoryPlus::add(
            self,
            number,
            entry.next,
            name,
            &lifetime,
            &found.attr,
            found.generation,
        );
        if full {
            door.nodes.forget(found.id, 1);
        }
        !full
    }
}

impl Door {
    pub(crate) async fn readdir(
        &self,
        cx: Context,
        dir: u64,
        from: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.fill(&cx, dir, from, &mut reply).await {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(Op::Readdir, &error)),
        }
    }

    pub(crate) async fn readdirplus(
        &self,
        cx: Context,
        dir: u64,
        from: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match self.fill(&cx, dir, from, &mut reply).await {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(Op::Readdirplus, &error)),
        }
    }

    /// Goes on until the buffer is full or the directory ends: another call of the volume is
    /// cheaper than another request of the kernel's.
    async fn fill<B: Buffer>(
        &self,
        cx: &Context,
        node: u64,
        mut from: u64,
        reply: &mut B,
    ) -> Result<()> {
        let _pass = self.lookups.enter().await;
        let mut dir = self.node(node)?;
        let plus = B::HEADER == PLUS;
        self.gives(&dir);
        let (mut used, mut added) = (0, false);
        loop {
            let max = self.ask_for(B::HEADER, used);
            let listed = steady!(self, {
                dir = self.node(node)?;
                self.volume().readdir(cx, &dir, from, max, plus).await
            });
            let entries = match listed {
                Ok(entries) => entries,
                // What was found before the error is good; the kernel will ask again from there.
                Err(_) if added => return Ok(()),
                Err(error) => return Err(error),
            };
            let Some(last) = entries.last() else {
                return Ok(());
            };
            from = last.next;
            for mut entry in entries {
                if !self.complete(cx, &dir, &mut entry, plus).await {
                    continue;
                }
                if !reply.add(self, &dir, &entry) {
                    let room = used.max(4096).next_multiple_of(4096);
                    self.readdir_room.store(room, Ordering::Relaxed);
                    return Ok(());
                }
                added = true;
                used += (B::HEADER + entry.name.len()).next_multiple_of(8);
            }
        }
    }

    /// How many entries are likely to fit in what is left. What does not fit was looked up in
    /// vain, which is dear with attributes only.
    fn ask_for(&self, header: usize, used: usize) -> usize {
        let left = self
            .readdir_room
            .load(Ordering::Relaxed)
            .saturating_sub(used);
        (left / (header + 24)).clamp(16, PIECE)
    }

    /// Gets what an entry lacks for its reply. False when it cannot be shown: it vanished.
    async fn complete(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        entry: &mut DirEntry,
        plus: bool,
    ) -> bool {
        let lacks = if plus {
            entry.entry.is_none()
        } else {
            entry.kind.is_none()
        };
        if !lacks || entry.is_dots() {
            return true;
        }
        let Ok(name) = Name::new(&entry.name) else {
            return false;
        };
        match self.volume().lookup(cx, dir, name).await {
            Ok(object) => {
                entry.kind = Some(object.attr.kind);
                entry.entry = Some(Entry {
                    inode: object.inode,
                    attr: object.attr,
                });
                true
            }
            Err(error) if error.errno() == Errno::ENOENT => false,
            // As the brick's own file system has it: the name is there, and whoever asks for
            // more gets the error.
            Err(error) => {
                tracing::debug!(?dir, %name, %error, "listed without attributes");
                true
            }
        }
    }
}
