//! The one word of a request that fuser has read and does not tell.

#![allow(unsafe_code)]

use fuser::Request;

/// `FUSE_SETLK`, `FUSE_SETLKW`.
const OPCODES: [u32; 2] = [32, 33];

/// `FUSE_LK_FLOCK`: the lock is one of flock(2).
const FLOCK: u32 = 1;

/// `struct fuse_in_header`, of which a [`Request`] is made.
const HEADER: usize = 40;

/// Header and `struct fuse_lk_in`: file handle, owner, start and end (64 bits each), kind, pid,
/// flags and padding (32 bits each).
const LENGTH: u32 = 88;

const _: () = assert!(size_of::<Request>() == HEADER);

/// Whether a request for a lock is one of flock(2): the kernel says so in a flag that fuser 0.18
/// does not pass on, and nothing else tells it from a record lock on the whole file.
///
/// `None` when the request does not look as expected, handle and owner (as fuser told them)
/// included.
pub(crate) fn is_flock(request: &Request, handle: u64, owner: u64) -> Option<bool> {
    let at = std::ptr::from_ref(request).cast::<u8>();
    // SAFETY: a `Request` is the header, of 40 bytes; alignment is not asked for.
    let word = |offset: usize| unsafe { at.add(offset).cast::<u32>().read_unaligned() };
    if word(0) != LENGTH || !OPCODES.contains(&word(4)) {
        return None;
    }
    // The reference was made from the buffer that the kernel filled, whose address went to
    // read(2) and so is exposed; the header that says how much of it is there was checked above.
    let body = std::ptr::with_exposed_provenance::<u8>(at.expose_provenance() + HEADER);
    // SAFETY: the kernel filled `LENGTH` bytes from `at` on, in fuser's buffer for this thread,
    // which lives, and is only read, until the call that has the `Request` returns.
    let long = |offset: usize| unsafe { body.add(offset).cast::<u64>().read_unaligned() };
    if (long(0), long(8)) != (handle, owner) {
        return None;
    }
    // SAFETY: as above; offset 40 of 48.
    let flags = unsafe { body.add(40).cast::<u32>().read_unaligned() };
    Some(flags & FLOCK != 0)
}
