use hermitfs_api::{Handle, NameBuf};
use rustix::io::{Errno, Result};

use crate::sys::RawHandle;

/// Bytes that fit beside the tag, the kind and the length in three words: all of ext4's (8),
/// xfs' (12) and btrfs' (20).
const INLINE: usize = 21;

/// Leading byte of a handle that the file system gave.
const BY_KERNEL: u8 = 1;
/// Leading byte of a handle made of an inode number and a birth time.
const BY_NUMBER: u8 = 2;
/// Leading byte of a handle made of a directory's and a name in it.
const BY_NAME: u8 = 3;

/// Handles are no longer than this.
const LONGEST: usize = 160;

/// A file system's own handle of an object, kept small: there is one in every cached inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileHandle {
    /// A short one.
    Inline {
        kind: u8,
        len: u8,
        bytes: [u8; INLINE],
    },
    /// A long one (network file systems).
    Long(Box<(u8, Box<[u8]>)>),
    /// Of a [placeholder](crate::placeholder): the directory that it is in, and its name there.
    Placeholder(Box<(FileHandle, NameBuf)>),
}

impl FileHandle {
    /// Keeps what the kernel gave. EOVERFLOW for a kind that no file system in Linux has.
    pub(crate) fn keep(raw: &RawHandle) -> Result<FileHandle> {
        let kind = u8::try_from(raw.kind()).map_err(|_| Errno::OVERFLOW)?;
        Ok(FileHandle::new(kind, raw.bytes()))
    }

    fn new(kind: u8, from: &[u8]) -> FileHandle {
        let mut bytes = [0; INLINE];
        match bytes.get_mut(..from.len()) {
            Some(room) => {
                room.copy_from_slice(from);
                FileHandle::Inline {
                    kind,
                    len: from.len() as u8,
                    bytes,
                }
            }
            None => FileHandle::Long(Box::new((kind, from.into()))),
        }
    }

    fn parts(&self) -> (u8, &[u8]) {
        match self {
            FileHandle::Inline { kind, len, bytes } => {
                (*kind, bytes.get(..usize::from(*len)).unwrap_or_default())
            }
            FileHandle::Long(long) => (long.0, &long.1),
            FileHandle::Placeholder(place) => place.0.parts(),
        }
    }

    fn name(&self) -> &[u8] {
        match self {
            FileHandle::Placeholder(place) => place.1.as_bytes(),
            _ => &[],
        }
    }

    /// As the kernel takes it back; of a placeholder its directory's.
    pub(crate) fn raw(&self) -> Result<RawHandle> {
        let (kind, bytes) = self.parts();
        RawHandle::new(kind, bytes)
    }

    /// A number that is another one for another handle, stable for ever: it goes into
    /// [`Identity::generation`](hermitfs_api::Identity) and from there into journals.
    pub(crate) fn fingerprint(&self) -> u64 {
        let (kind, bytes) = self.parts();
        Fingerprint::new()
            .with(&[kind])
            .with(bytes)
            .with(self.name())
            .done()
    }

    /// The brick's handle for the object. `None` for a placeholder with a long name.
    pub(crate) fn seal(&self, brick: u64) -> Option<Handle> {
        let ((kind, bytes), name) = (self.parts(), self.name());
        let mut sealed = Vec::with_capacity(11 + bytes.len() + name.len());
        sealed.push(if name.is_empty() { BY_KERNEL } else { BY_NAME });
        sealed.extend(brick.to_le_bytes());
        sealed.push(kind);
        if !name.is_empty() {
            sealed.push(u8::try_from(bytes.len()).ok()?);
        }
        sealed.extend(bytes);
        sealed.extend(name);
        (sealed.len() <= LONGEST).then(|| Handle::new(&sealed))
    }
}

/// What a [`Handle`] of ours says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The file system can lead back to the object.
    ByKernel(FileHandle),
    /// Which object it was, but no way to it.
    ByNumber { ino: u64, generation: u64 },
}

/// A handle for an object of a file system without handles: tells whether an object is the one,
/// but leads to it only while somebody holds it.
pub(crate) fn seal_number(brick: u64, ino: u64, generation: u64) -> Handle {
    let mut sealed = [0; 25];
    sealed[0] = BY_NUMBER;
    sealed[1..9].copy_from_slice(&brick.to_le_bytes());
    sealed[9..17].copy_from_slice(&ino.to_le_bytes());
    sealed[17..].copy_from_slice(&generation.to_le_bytes());
    Handle::new(&sealed)
}

/// Takes a handle apart; `None` when it is of another brick, or no handle of ours at all.
pub(crate) fn open(brick: u64, handle: &Handle) -> Option<Opened> {
    let (tag, rest) = handle.as_bytes().split_first()?;
    let (of, rest) = rest.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*of) != brick {
        return None;
    }
    match *tag {
        BY_KERNEL => {
            let (kind, bytes) = rest.split_first()?;
            Some(Opened::ByKernel(FileHandle::new(*kind, bytes)))
        }
        BY_NAME => {
            let (kind, rest) = rest.split_first()?;
            let (len, rest) = rest.split_first()?;
            let (dir, name) = rest.split_at_checked(usize::from(*len))?;
            let place = (FileHandle::new(*kind, dir), NameBuf::new(name).ok()?);
            Some(Opened::ByKernel(FileHandle::Placeholder(place.into())))
        }
        BY_NUMBER => {
            let (ino, rest) = rest.split_first_chunk()?;
            let generation = u64::from_le_bytes(rest.try_into().ok()?);
            Some(Opened::ByNumber {
                ino: u64::from_le_bytes(*ino),
                generation,
            })
        }
        _ => None,
    }
}

/// FNV-1a over bytes, and a finish that spreads it over all 64 bits.
///
/// Written down here because the numbers outlive the program: a journal compares generations of
/// today with those of last week.
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn new() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn with(mut self, bytes: &[u8]) -> Fingerprint {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    pub(crate) fn done(self) -> u64 {
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_three_words_and_survives_the_way_out_and_back() {
        assert_eq!(size_of::<FileHandle>(), 24);
        for len in [0, 8, 12, 20, 21, 22, 128] {
            let handle = FileHandle::new(7, &vec![0xa5; len]);
            let sealed = handle.seal(42).unwrap();
            assert!(sealed.as_bytes().len() <= 160);
            assert_eq!(open(42, &sealed), Some(Opened::ByKernel(handle)));
            assert_eq!(open(43, &sealed), None, "of another brick");
        }
        let sealed = seal_number(42, 5, 9);
        assert_eq!(
            open(42, &sealed),
            Some(Opened::ByNumber {
                ino: 5,
                generation: 9
            })
        );
    }

    #[test]
    fn a_placeholder_is_known_by_its_directory_and_its_name() {
        let of = |name: &[u8]| {
            let place = (FileHandle::new(77, &[5; 20]), NameBuf::new(name).unwrap());
            FileHandle::Placeholder(place.into())
        };
        let sealed = of(b"a").seal(42).unwrap();
        assert_eq!(open(42, &sealed), Some(Opened::ByKernel(of(b"a"))));
        assert_ne!(of(b"a").fingerprint(), of(b"b").fingerprint());
        assert_ne!(
            of(b"a").fingerprint(),
            FileHandle::new(77, &[5; 20]).fingerprint()
        );
        assert!(of(&[b'n'; 129]).seal(42).is_some());
        assert_eq!(of(&[b'n'; 130]).seal(42), None);
    }

    #[test]
    fn bytes_that_are_no_handle_are_none() {
        for bytes in [
            &b""[..],
            b"\x01",
            b"\x02\0\0\0\0\0\0\0\0",
            b"\x09\0\0\0\0\0\0\0\0\0",
            b"\x03\0\0\0\0\0\0\0\0\x01\x02a",
            b"\x03\0\0\0\0\0\0\0\0\x01\x01a/",
        ] {
            assert_eq!(open(0, &Handle::new(bytes)), None, "{bytes:?}");
        }
    }

    #[test]
    fn the_fingerprint_never_changes() {
        assert_eq!(
            FileHandle::new(1, &[2, 0, 0, 0, 0, 0, 0, 0]).fingerprint(),
            FINGERPRINT
        );
        assert_ne!(
            FileHandle::new(2, &[1]).fingerprint(),
            FileHandle::new(1, &[2]).fingerprint()
        );
    }

    /// Of ext4's root; it stands in journals.
    const FINGERPRINT: u64 = 3_874_529_914_793_882_856;
}
