//! Buffers for what is read, used again: the allocator would give a large one back to the kernel
//! after each call, and have it anew, zeroed page by page, for the next.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hermitfs_proto::brick::MAX_DATA;
use parking_lot::Mutex;

/// What is smaller the allocator keeps by itself.
const LARGE: usize = 64 << 10;

/// So many are kept.
const KEPT: usize = 4;

/// All large buffers that nobody uses.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Box<[u8]>>>>);

/// To be filled, and then sent.
pub(crate) enum Buffer {
    Small(BytesMut),
    Large(Large),
}

/// Comes back when dropped.
pub(crate) struct Large {
    all: Box<[u8]>,
    len: usize,
    home: Buffers,
}

impl Buffers {
    /// Room for so much, at most [`MAX_DATA`].
    pub(crate) fn take(&self, len: usize) -> Buffer {
        if len < LARGE {
            return Buffer::Small(BytesMut::zeroed(len));
        }
        let kept = self.0.lock().pop();
        Buffer::Large(Large {
            all: kept.unwrap_or_else(|| vec![0; MAX_DATA].into()),
            len: len.min(MAX_DATA),
            home: self.clone(),
        })
    }
}

impl Buffer {
    pub(crate) fn room(&mut self) -> &mut [u8] {
        match self {
            Buffer::Small(small) => small,
            Buffer::Large(large) => &mut large.all[..large.len],
        }
    }

    /// What was filled of it: no byte that was there before goes along.
    pub(crate) fn filled(self, len: usize) -> Bytes {
        match self {
            Buffer::Small(mut small) => {
                small.truncate(len);
                small.freeze()
            }
            Buffer::Large(mut large) => {
                large.len = large.len.min(len);
                Bytes::from_owner(large)
            }
        }
    }
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.all[..self.len]
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let mut kept = self.home.0.lock();
        if kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.all));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_comes_back_and_nothing_of_its_last_use_is_sent() {
        let buffers = Buffers::default();
        let mut first = buffers.take(LARGE);
        assert_eq!(first.room().len(), LARGE);
        first.room().fill(7);
        let sent = first.filled(LARGE);
        let part = sent.slice(5..);
        drop(sent);
        assert_eq!(buffers.0.lock().len(), 0, "somebody has a part of it");
        drop(part);
        assert_eq!(buffers.0.lock().len(), 1);
        let mut second = buffers.take(MAX_DATA);
        assert_eq!(buffers.0.lock().len(), 0);
        second.room()[..3].copy_from_slice(b"abc");
        assert_eq!(&second.filled(3)[..], b"abc");
    }

    #[test]
    fn only_some_are_kept() {
        let buffers = Buffers::default();
        let all: Vec<_> = (0..2 * KEPT).map(|_| buffers.take(LARGE)).collect();
        drop(all);
        assert_eq!(buffers.0.lock().len(), KEPT);
    }

    #[test]
    fn a_small_one_is_as_long_as_what_was_read() {
        let mut small = Buffers::default().take(10);
        small.room()[..2].copy_from_slice(b"ab");
        assert_eq!(&small.filled(2)[..], b"ab");
    }
}
