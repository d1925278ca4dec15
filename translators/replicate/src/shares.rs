//! What the source's files share on its disk, and which image has got it on the sink: a table without
//! I/O, of bounded size.
//!
//! It is a hint and no more. An image may have changed or gone since, and the disk may have given the place
//! to other content. Whoever takes a range over from an image compares it with the source afterwards, as it
//! compares any image of which nothing is known.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::record::Bytes;

/// So many pieces are remembered, the latest: about 12 MiB.
const MOST: usize = 1 << 17;

/// Shorter pieces are copied: to share them costs more than it saves.
const LEAST: u64 = 32 << 10;

/// A range of an image on the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Donor {
    /// The image's handle.
    pub(crate) handle: Bytes,
    /// First byte in it.
    pub(crate) at: u64,
}

/// What to do with a piece that the source shares.
pub(crate) enum Next<'a> {
    /// So many bytes have been brought already: they are this donor's.
    Brought(Donor, u64),
    /// So many bytes are the first of their kind. Others who come to them wait until the claim ends.
    First(Claim<'a>, u64),
    /// Waiting was given up.
    Stopped,
}

/// A piece of the source's disk that is being copied.
pub(crate) struct Claim<'a> {
    shares: &'a Shares,
    place: u64,
    len: u64,
    donor: Option<Donor>,
}

/// Pieces of the source's disk by where they begin.
pub(crate) struct Shares {
    known: Mutex<Known>,
    landed: Condvar,
    least: u64,
    most: usize,
}

#[derive(Default)]
struct Known {
    brought: BTreeMap<u64, (u64, Donor)>,
    /// Where those begin, the oldest first. Some may be gone.
    order: VecDeque<u64>,
    /// Being copied: where they begin, and how long they are.
    claimed: BTreeMap<u64, u64>,
}

impl Default for Shares {
    fn default() -> Shares {
        Shares {
            known: Mutex::default(),
            landed: Condvar::new(),
            least: LEAST,
            most: MOST,
        }
    }
}

impl Shares {
    #[cfg(test)]
    pub(crate) fn of(least: u64, most: usize) -> Shares {
        Shares {
            least,
            most,
            ..Shares::default()
        }
    }

    /// Whether a piece is long enough.
    pub(crate) fn worth(&self, len: u64) -> bool {
        len >= self.least
    }

    /// What to do from a place of the source's disk on, for `len` bytes at most. Waits while somebody
    /// copies what begins there, until `stopped`. Who waits has no claim himself, so nobody waits in a
    /// circle.
    pub(crate) fn next(&self, place: u64, len: u64, stopped: impl Fn() -> bool) -> Next<'_> {
        let mut known = self.known.lock();
        loop {
            if let Some((start, (size, donor))) = known.brought.range(..=place).next_back()
                && place - start < *size
            {
                let into = place - start;
                let donor = Donor {
                    handle: donor.handle.clone(),
                    at: donor.at.saturating_add(into),
                };
                return Next::Brought(donor, len.min(size - into));
            }
            let busy = known.claimed.range(..=place).next_back();
            if busy.is_none_or(|(start, size)| place - start >= *size) {
                break;
            }
            if stopped() {
                return Next::Stopped;
            }
            self.landed.wait_for(&mut known, Duration::from_millis(100));
        }
        let after = (place.saturating_add(1), place.saturating_add(len));
        let next = [
            known
                .brought
                .range(after.0..after.1.max(after.0))
                .next()
                .map(|(at, _)| *at),
            known
                .claimed
                .range(after.0..after.1.max(after.0))
                .next()
                .map(|(at, _)| *at),
        ];
        let len = next
            .into_iter()
            .flatten()
            .fold(len, |len, at| len.min(at - place));
        known.claimed.insert(place, len);
        Next::First(
            Claim {
                shares: self,
                place,
                len,
                donor: None,
            },
            len,
        )
    }

    /// A donor that turned out to be none: this one has it now.
    pub(crate) fn instead(&self, place: u64, len: u64, donor: Donor) {
        let mut known = self.known.lock();
        if let Some((start, (size, _))) = known.brought.range(..=place).next_back()
            && place - start < *size
        {
            let start = *start;
            known.brought.remove(&start);
        }
        self.put(&mut known, place, len, donor);
    }

    fn put(&self, known: &mut Known, place: u64, len: u64, donor: Donor) {
        // Pieces never overlap.
        let next = known
            .brought
            .range(place..)
            .next()
            .map(|(at, _)| at - place);
        let len = next.map_or(len, |room| len.min(room));
        if len == 0 {
            return;
        }
        known.brought.insert(place, (len, donor));
        known.order.push_back(place);
        while known.order.len() > self.most {
            if let Some(oldest) = known.order.pop_front() {
                known.brought.remove(&oldest);
            }
        }
    }
}

impl Claim<'_> {
    /// It has been copied, to here.
    pub(crate) fn landed(mut self, donor: Donor) {
        self.donor = Some(donor);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut known = self.shares.known.lock();
        known.claimed.remove(&self.place);
        if let Some(donor) = self.donor.take() {
            self.shares.put(&mut known, self.place, self.len, donor);
        }
        drop(known);
        self.shares.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn donor(name: u8, at: u64) -> Donor {
        Donor {
            handle: [name].as_slice().into(),
            at,
        }
    }

    fn never() -> bool {
        false
    }

    fn bring(shares: &Shares, place: u64, len: u64, donor: Donor) -> u64 {
        match shares.next(place, len, never) {
            Next::First(claim, len) => {
                claim.landed(donor);
                len
            }
            _ => panic!("it was brought before"),
        }
    }

    fn told(next: Next<'_>) -> Option<(Donor, u64)> {
        match next {
            Next::Brought(donor, len) => Some((donor, len)),
            _ => None,
        }
    }

    #[test]
    fn what_was_brought_is_found_from_any_place_in_it() {
        let shares = Shares::default();
        assert_eq!(bring(&shares, 1000, 100, donor(1, 0)), 100);
        assert_eq!(
            told(shares.next(1000, 100, never)),
            Some((donor(1, 0), 100))
        );
        assert_eq!(
            told(shares.next(1060, 100, never)),
            Some((donor(1, 60), 40))
        );
        assert_eq!(told(shares.next(1060, 10, never)), Some((donor(1, 60), 10)));
        assert_eq!(told(shares.next(1100, 10, never)), None);
    }

    #[test]
    fn what_is_new_ends_where_something_known_begins() {
        let shares = Shares::default();
        bring(&shares, 1000, 100, donor(1, 0));
        assert_eq!(bring(&shares, 900, 500, donor(2, 0)), 100);
        assert_eq!(bring(&shares, 1100, 300, donor(2, 200)), 300);
    }

    #[test]
    fn a_claim_that_did_not_land_leaves_the_piece_to_others() {
        let shares = Shares::default();
        let claim = shares.next(0, 100, never);
        assert!(matches!(shares.next(50, 10, || true), Next::Stopped));
        drop(claim);
        assert_eq!(bring(&shares, 0, 100, donor(1, 0)), 100);
    }

    #[test]
    fn who_comes_second_waits_for_the_first() {
        let shares = Shares::default();
        let Next::First(claim, _) = shares.next(0, 100, never) else {
            panic!("nobody has it")
        };
        std::thread::scope(|scope| {
            let second = scope.spawn(|| told(shares.next(0, 100, never)));
            std::thread::sleep(Duration::from_millis(20));
            claim.landed(donor(7, 4096));
            assert_eq!(second.join().unwrap(), Some((donor(7, 4096), 100)));
        });
    }

    #[test]
    fn a_donor_that_was_none_is_replaced() {
        let shares = Shares::default();
        bring(&shares, 0, 100, donor(1, 0));
        shares.instead(0, 100, donor(2, 8));
        assert_eq!(told(shares.next(10, 10, never)), Some((donor(2, 18), 10)));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let shares = Shares::of(1, 3);
        for place in 0..10 {
            bring(&shares, place * 100, 100, donor(place as u8, 0));
        }
        let known = shares.known.lock();
        let places: Vec<u64> = known.brought.keys().copied().collect();
        assert_eq!(places, [700, 800, 900]);
        assert!(known.order.len() <= 3 && known.claimed.is_empty());
    }

    proptest! {
        /// Whatever comes in whatever order: a byte of the disk is never said to be where another one was
        /// brought.
        #[test]
        fn a_byte_is_where_it_was_brought(
            asked in prop::collection::vec((0u64..64, 1u64..20, any::<bool>()), 1..40)
        ) {
            let shares = Shares::of(1, 6);
            // Of each file: from which place each of its bytes is.
            let mut files: Vec<Vec<u64>> = Vec::new();
            for (place, len, replace) in asked {
                let mut file = Vec::new();
                while (file.len() as u64) < len {
                    let here = place + file.len() as u64;
                    let (at, left) = (file.len() as u64, len - file.len() as u64);
                    let mine = donor(files.len() as u8, at);
                    let n = match shares.next(here, left, never) {
                        Next::First(claim, n) => { claim.landed(mine); n }
                        Next::Brought(found, n) => {
                            let its = &files.get(found.handle[0] as usize).unwrap_or(&file)[found.at as usize..];
                            let expected: Vec<u64> = (here..here + n).collect();
                            prop_assert_eq!(&its[..n as usize], &expected[..]);
                            if replace { shares.instead(here, n, mine); }
                            n
                        }
                        Next::Stopped => unreachable!(),
                    };
                    prop_assert!(n > 0);
                    file.extend(here..here + n);
                }
                files.push(file);
            }
        }
    }
}
