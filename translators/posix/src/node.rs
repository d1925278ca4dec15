use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, LazyLock, OnceLock};

use hermitfs_api::{Inode, Name, NameBuf};
use parking_lot::Mutex;

use crate::brick::Brick;
use crate::handle::FileHandle;
use crate::shares::Share;

/// What the leaf keeps of an object. There may be a million of these: with the api's part, the
/// table's entry and a name of 22 bytes they come to about 200 bytes each.
pub(crate) struct Node {
    pub(crate) brick: Arc<Brick>,
    /// What [`table::hash`](crate::table::hash) made of its identity.
    hash: u64,
    /// `None` where the file system has no handles; then there is always a pin.
    pub(crate) handle: Option<FileHandle>,
    /// An `O_PATH` descriptor that keeps the object when its last name has gone.
    pub(crate) pin: OnceLock<Pin>,
    seen: Mutex<Seen>,
}

/// A descriptor that keeps an object.
pub(crate) struct Pin(OwnedFd);

/// Shares of who took the last names away, by descriptor. Few objects have one, and none is to be larger for it.
static SHARES: LazyLock<Mutex<HashMap<RawFd, Share>>> = LazyLock::new(Mutex::default);

impl Pin {
    pub(crate) fn new(fd: OwnedFd, share: Option<Share>) -> Pin {
        if let Some(share) = share {
            SHARES.lock().insert(fd.as_raw_fd(), share);
        }
        Pin(fd)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // While the number is still this one's.
        let share = SHARES.lock().remove(&self.0.as_raw_fd());
        drop(share);
    }
}

impl AsFd for Pin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where the object was last seen. Of directories, whose place the kernel knows, the name alone; so no
/// chain of parents keeps itself alive.
#[derive(Default)]
struct Seen {
    dir: Option<Arc<Inode>>,
    name: ShortName,
}

impl Node {
    pub(crate) fn new(brick: Arc<Brick>, hash: u64, handle: Option<FileHandle>) -> Node {
        Node {
            brick,
            hash,
            handle,
            pin: OnceLock::new(),
            seen: Mutex::default(),
        }
    }

    /// Remembers a name of the object.
    pub(crate) fn saw(&self, dir: &Arc<Inode>, name: &Name) {
        let mut seen = self.seen.lock();
        if let Some(before) = &seen.dir
            && Arc::ptr_eq(before, dir)
            && seen.name.as_bytes() == name.as_bytes()
        {
            return;
        }
        let before = std::mem::replace(
            &mut *seen,
            Seen {
                dir: Some(dir.clone()),
                name: ShortName::new(name.as_bytes()),
            },
        );
        drop(seen);
        drop(before); // may be the last hold on a directory, which then goes
    }

    /// Remembers the name of a directory, as a hint.
    pub(crate) fn called(&self, name: &Name) {
        let mut seen = self.seen.lock();
        if seen.name.as_bytes() != name.as_bytes() {
            seen.name = ShortName::new(name.as_bytes());
        }
    }

    /// The name that a directory was last seen under; it may have another by now.
    pub(crate) fn last_name(&self) -> Option<NameBuf> {
        NameBuf::new(self.seen.lock().name.as_bytes()).ok()
    }

    /// That name is no more.
    pub(crate) fn lost(&self, dir: &Arc<Inode>, name: &Name) {
        let mut seen = self.seen.lock();
        let same = seen
            .dir
            .as_ref()
            .is_some_and(|before| Arc::ptr_eq(before, dir));
        if same && seen.name.as_bytes() == name.as_bytes() {
            let before = std::mem::take(&mut *seen);
            drop(seen);
            drop(before);
        }
    }

    /// The name last seen, if none has gone since.
    pub(crate) fn last_seen(&self) -> Option<(Arc<Inode>, NameBuf)> {
        let seen = self.seen.lock();
        let dir = seen.dir.clone()?;
        Some((dir, NameBuf::new(seen.name.as_bytes()).ok()?))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.brick.let_go(self.hash);
        if let Some(pin) = self.pin.take() {
            drop(pin);
            self.brick.graves.is_gone(self.hash);
        }
    }
}

/// A name without an allocation where it is short.
enum ShortName {
    Inline { len: u8, bytes: [u8; 22] },
    Long(Box<[u8]>),
}

impl Default for ShortName {
    fn default() -> ShortName {
        ShortName::Inline {
            len: 0,
            bytes: [0; 22],
        }
    }
}

impl ShortName {
    fn new(name: &[u8]) -> ShortName {
        let mut bytes = [0; 22];
        match bytes.get_mut(..name.len()) {
            Some(room) => {
                room.copy_from_slice(name);
                ShortName::Inline {
                    len: name.len() as u8,
                    bytes,
                }
            }
            None => ShortName::Long(name.into()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            ShortName::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            ShortName::Long(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_object_takes_little() {
        assert_eq!(size_of::<ShortName>(), 24);
        assert!(size_of::<Node>() <= 88, "{}", size_of::<Node>());
    }

    #[test]
    fn names_of_any_length_are_kept() {
        for len in [0, 1, 21, 22, 23, 255] {
            let name = vec![b'n'; len];
            assert_eq!(ShortName::new(&name).as_bytes(), name);
        }
    }
}
