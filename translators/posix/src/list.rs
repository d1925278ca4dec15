use std::os::fd::OwnedFd;
use std::sync::Arc;

use hermitfs_api::{Context, DirEntry, Inode, Kind, Name};
use rustix::fs::{FileType, Mode, RawDir, SeekFrom, openat, seek};
use rustix::io::{Errno, Result};

use crate::brick::Brick;
use crate::positions::{Order, order};
use crate::streams::Place;
use crate::view::{Held, LIST, LOOK, View};

/// What getdents(2) is given at once: about a thousand short names.
const BUFFER: usize = 32 << 10;
/// Room for one entry, at least.
const LEAST: usize = 1 << 10;
/// What an entry takes, more or less.
const USUAL: usize = 40;

impl Brick {
    pub(crate) fn readdir(
        self: &Arc<Brick>,
        cx: &Context,
        dir: &Arc<Inode>,
        from: u64,
        max: usize,
        plus: bool,
    ) -> Result<Vec<DirEntry>> {
        if dir.kind() != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        let view = self.view(cx);
        let (stream, place) = self.stream(view, dir, from)?;
        let (mut entries, more) = read(&stream, max)?;
        if let Some(last) = entries.last() {
            must_advance(place.at, last.next)?;
            if more {
                seek(&stream, position(last.next))?;
            }
            let at = last.next;
            let order = show(&mut entries, place, self.hashes);
            let next = entries.last().map_or(0, |last| last.next);
            let place = Place { order, at };
            view.streams.keep(dir.identity(), next, (stream, place));
        }
        if dir.identity() == self.root {
            // Above the root is nothing that concerns users.
            for entry in entries.iter_mut().filter(|entry| &*entry.name == b"..") {
                entry.ino = self.root.ino;
            }
        }
        if plus {
            let held = self.hold_dir(view, dir)?;
            for entry in &mut entries {
                self.look_closer(view, dir, &held, entry);
            }
        }
        Ok(entries)
    }

    /// The directory, open where reading goes on.
    fn stream(&self, view: &View, dir: &Inode, from: u64) -> Result<(OwnedFd, Place)> {
        let mut place = Place {
            order: Order::Plain,
            at: 0,
        };
        if from != 0
            && let Some(stream) = view.streams.take(dir.identity(), from)
        {
            return Ok(stream);
        }
        let stream = self.reopen(view, dir, LIST)?;
        if from != 0 {
            // A directory of such a file system may have either kind of positions. Its first name tells.
            if self.hashes
                && let (first, _) = read(&stream, 1)?
                && let Some(first) = first.first()
            {
                place.order = order(first.next);
            }
            place.at = place.order.at(from);
            seek(&stream, position(place.at))?;
        }
        Ok((stream, place))
    }

    /// What vanished meanwhile, is a mount that is not ours to enter, or cannot be read, stays a
    /// name: the others of its directory are not to suffer for it.
    fn look_closer(
        self: &Arc<Brick>,
        view: &View,
        dir: &Arc<Inode>,
        held: &Held<'_>,
        entry: &mut DirEntry,
    ) {
        let Ok(name) = Name::new(&entry.name) else {
            return;
        };
        let found = openat(held, name.as_bytes(), LOOK, Mode::empty())
            .and_then(|fd| self.capture(view, fd, Some((dir, name))));
        entry.entry = found.ok();
    }
}

/// Gives the entries of one call the positions that callers get; the first was read from `place` on.
fn show(entries: &mut [DirEntry], place: Place, hashes: bool) -> Order {
    let order = match (place.at, entries.first()) {
        (0, Some(first)) if hashes => order(first.next),
        _ => place.order,
    };
    let mut before = place.at;
    for entry in entries {
        let at = entry.next;
        entry.next = order.shown(before, at);
        before = at;
    }
    order
}

/// Before a block that cannot be read ext4 gives the entry before it again and again to who comes
/// with that entry's position: who asks would never come to the end.
fn must_advance(from: u64, next: u64) -> Result<()> {
    match from != 0 && from == next {
        true => Err(Errno::IO),
        false => Ok(()),
    }
}

/// ext4's positions fill all 63 bits, and the last one of xfs or btrfs is the highest there is.
fn position(cookie: u64) -> SeekFrom {
    SeekFrom::Start(cookie)
}

/// At most `max` entries from where the stream stands, and whether the kernel gave more.
fn read(stream: &OwnedFd, max: usize) -> Result<(Vec<DirEntry>, bool)> {
    let room = max.saturating_mul(USUAL).clamp(LEAST, BUFFER);
    let mut buffer = Vec::with_capacity(room);
    let mut raw = RawDir::new(stream, buffer.spare_capacity_mut());
    let mut entries = Vec::new();
    if max == 0 {
        return Ok((entries, false));
    }
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let full = entries.len() + 1 >= max;
        entries.push(DirEntry {
            name: entry.file_name().to_bytes().into(),
            ino: entry.ino(),
            kind: kind(entry.file_type()),
            next: entry.next_entry_cookie(),
            entry: None,
        });
        if raw.is_buffer_empty() {
            return Ok((entries, false));
        }
        if full {
            return Ok((entries, true));
        }
    }
    Ok((entries, false))
}

fn kind(kind: FileType) -> Option<Kind> {
    Some(match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_leads_nowhere_is_an_error_and_no_endless_list() {
        assert_eq!(must_advance(0, 0), Ok(()));
        assert_eq!(must_advance(0, 7), Ok(()));
        assert_eq!(must_advance(7, 9), Ok(()));
        assert_eq!(must_advance(9, 7), Ok(()), "positions are in no order");
        assert_eq!(must_advance(7, 7), Err(Errno::IO));
    }
}
