//! Who may hold how many of the process' descriptors.
//!
//! A file that a user has open is a descriptor of ours, and so is an object that he holds and whose last name has
//! gone. The process has only so many, for all users, for the healer, for every look at the brick.
//! So users' are counted, by user id, over all bricks of the process:
//!
//! - A part of the limit is never theirs: what everything else needs.
//! - Another part is for root alone.
//! - Of what is left nobody gets more than four times what is free after it: one user four fifths, two
//!   four ninths each. So there is always some for who comes next.
//!
//! Who asks for more gets ENFILE, as from a kernel whose own limit is reached.

use std::collections::HashMap;
use std::sync::LazyLock;

use hermitfs_api::Context;
use parking_lot::Mutex;
use rustix::io::{Errno, Result};
use rustix::process::{Resource, getrlimit};

/// How much more than what stays free one user may hold.
const GREED: u64 = 4;

/// What is never a user's: a fourth of the limit. Caches of descriptors take up to two thousand for each
/// brick, requests that are under way and healing threads a few each.
const OURS: u64 = 8192;

/// What is root's alone: a tenth.
const ROOTS: u64 = 4096;

/// No limit that is worth counting against.
const ENDLESS: u64 = 1 << 40;

/// The process' limit of open files.
pub(crate) fn limit() -> u64 {
    let limit = getrlimit(Resource::Nofile).current;
    limit.unwrap_or(ENDLESS).min(ENDLESS)
}

/// The decision, without any descriptor.
#[derive(Debug)]
struct Shares {
    /// For everybody, and for root as well.
    room: u64,
    roots: u64,
    held: HashMap<u32, u64>,
    total: u64,
}

impl Shares {
    fn of(limit: u64) -> Shares {
        let roots = (limit / 10).min(ROOTS);
        let ours = (limit / 4).min(OURS);
        Shares {
            room: limit.saturating_sub(ours + roots),
            roots,
            held: HashMap::new(),
            total: 0,
        }
    }

    fn take(&mut self, uid: u32) -> bool {
        let room = if uid == 0 {
            self.room + self.roots
        } else {
            self.room
        };
        let Some(free) = room.checked_sub(self.total + 1) else {
            return false;
        };
        let held = self.held.get(&uid).copied().unwrap_or_default();
        if uid != 0 && held >= free.saturating_mul(GREED) {
            return false;
        }
        self.held.insert(uid, held + 1);
        self.total += 1;
        true
    }

    fn give_back(&mut self, uid: u32) {
        self.total = self.total.saturating_sub(1);
        if let Some(held) = self.held.get_mut(&uid) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(&uid);
            }
        }
    }
}

static SHARES: LazyLock<Mutex<Shares>> = LazyLock::new(|| Mutex::new(Shares::of(limit())));

/// One descriptor of a user's; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share(u32);

impl Share {
    /// Before a descriptor is opened that lives on. `None` for our own traffic, which is not counted.
    /// ENFILE when the caller holds his share.
    pub(crate) fn take(cx: &Context) -> Result<Option<Share>> {
        if cx.origin.is_internal() {
            return Ok(None);
        }
        match SHARES.lock().take(cx.uid) {
            true => Ok(Some(Share(cx.uid))),
            false => Err(Errno::NFILE),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        SHARES.lock().give_back(self.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn takes_all(shares: &mut Shares, uid: u32) -> u64 {
        (0..).take_while(|_| shares.take(uid)).count() as u64
    }

    #[test]
    fn one_user_leaves_a_fifth_and_two_leave_a_ninth() {
        let mut shares = Shares::of(20_000);
        assert_eq!((shares.room, shares.roots), (13_000, 2_000));
        let alone = takes_all(&mut shares, 7);
        assert!((10_350..=10_400).contains(&alone), "{alone}");
        let next = takes_all(&mut shares, 8);
        assert!((2_050..=2_080).contains(&next), "{next}");
        assert!(
            takes_all(&mut shares, 9) > 400,
            "and there is some for a third"
        );
        assert!(!shares.take(7), "the first gets no more");
    }

    #[test]
    fn root_gets_what_users_cannot_have_and_no_more() {
        let mut shares = Shares::of(20_000);
        for uid in 1..100 {
            takes_all(&mut shares, uid);
        }
        assert!(shares.total <= shares.room);
        assert!(takes_all(&mut shares, 0) >= 2_000);
        assert_eq!(shares.total, 15_000, "the rest is ours");
    }

    #[test]
    fn who_was_refused_leaves_nothing_behind() {
        let mut shares = Shares::of(64);
        takes_all(&mut shares, 5);
        let next: Vec<u32> = (6..1_000).filter(|uid| !shares.take(*uid)).collect();
        assert!(!next.is_empty(), "somebody came too late");
        assert!(next.iter().all(|uid| !shares.held.contains_key(uid)));
    }

    #[test]
    fn a_small_limit_is_shared_as_well() {
        let mut shares = Shares::of(256);
        assert!(takes_all(&mut shares, 5) > 100);
        assert!(takes_all(&mut shares, 6) > 10);
        assert!(takes_all(&mut shares, 0) > 20);
        assert!(shares.total <= 192);
    }

    proptest! {
        #[test]
        fn what_is_given_back_can_be_had_again(
            limit in 64u64..5_000,
            acts in prop::collection::vec((0u32..6, any::<bool>()), 0..3_000),
        ) {
            let mut shares = Shares::of(limit);
            let mut model: HashMap<u32, u64> = HashMap::new();
            for (uid, takes) in acts {
                let held = model.entry(uid).or_default();
                if takes {
                    *held += u64::from(shares.take(uid));
                } else if *held > 0 {
                    shares.give_back(uid);
                    *held -= 1;
                }
                let total: u64 = model.values().sum();
                prop_assert_eq!(shares.total, total);
                prop_assert!(total <= limit - limit / 4);
            }
            for (uid, held) in model {
                (0..held).for_each(|_| shares.give_back(uid));
            }
            prop_assert!(shares.total == 0 && shares.held.is_empty());
            prop_assert!(shares.take(3));
        }
    }
}
