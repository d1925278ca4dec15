//! Whether the sink has room for what is to be made on it. A plain data structure without I/O.
//!
//! A sink that is full is so until somebody makes room, and what does not fit must not be written in part again and
//! again to find that out. So nothing large is begun for which the sink says that it has no room; and where it
//! says so wrongly (quotas, metadata, estimates) what was tried in vain is the measure, until more is free than then.

use hermitfs_api::StatFs;

use crate::ledger::Millis;

/// What a sink has free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) bytes: u64,
    /// `None` where a file system makes inodes as they are needed.
    pub(crate) inodes: Option<u64>,
}

impl Free {
    pub(crate) fn of(stat: &StatFs) -> Free {
        Free {
            // Healing may use what is kept for root, as who copies by hand may.
            bytes: stat
                .bfree
                .max(stat.bavail)
                .saturating_mul(stat.frsize.into()),
            inodes: (stat.files > 0).then_some(stat.ffree),
        }
    }

    /// What is left of it when a need is met; `None` where it cannot be.
    pub(crate) fn less(&self, need: Need) -> Option<Free> {
        let inodes = match self.inodes {
            Some(inodes) => Some(inodes.checked_sub(need.inodes)?),
            None => None,
        };
        let bytes = self.bytes.checked_sub(need.bytes)?;
        Some(Free { bytes, inodes })
    }

    fn has(&self, need: Need) -> bool {
        self.less(need).is_some()
    }
}

/// What one piece of healing needs of the sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Need {
    /// A new object with so much content.
    pub(crate) fn object(bytes: u64) -> Need {
        Need { bytes, inodes: 1 }
    }

    /// So much more content.
    pub(crate) fn bytes(bytes: u64) -> Need {
        Need { bytes, inodes: 0 }
    }

    /// The larger of both.
    pub(crate) fn max(self, other: Need) -> Need {
        Need {
            bytes: self.bytes.max(other.bytes),
            inodes: self.inodes.max(other.inodes),
        }
    }

    pub(crate) fn add(&mut self, other: Need) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }
}

/// Content of this size is begun only after a look at what is free.
pub(crate) const WORTH: u64 = 1 << 20;

/// How long what was tried in vain is not tried again while nothing more is free: twice as long after each time.
const AGAIN: Millis = 60_000;
const AGAIN_AT_MOST: u32 = 6;

/// How long nothing has to fail before the room is thought to be ample.
const CALM: Millis = 5_000;

/// What was tried in vain, though the sink said that it had room.
#[derive(Clone, Copy, Debug)]
struct Failed {
    /// What was free then.
    free: Free,
    /// So much was too much.
    need: Need,
    at: Millis,
    until: Millis,
    times: u32,
}

/// May it be begun?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Go,
    /// When others, that are under way, have come to their end.
    Wait,
    No,
}

/// What is known of a sink's room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    failed: Option<Failed>,
    /// For what is under way.
    taken: Need,
}

impl Room {
    /// Whether something was tried in vain, so that small things are worth a look as well.
    pub(crate) fn is_tight(&self) -> bool {
        self.failed.is_some()
    }

    /// Whether a piece that needs so much is to be begun; then it has to be ended.
    pub(crate) fn begin(&mut self, need: Need, free: Option<Free>, now: Millis) -> Admission {
        let taken = self.taken;
        let answer = match free.map(|free| self.usable(free, now)) {
            Some(usable) if !usable.has(need) => Admission::No,
            Some(usable) => {
                let mut all = need;
                all.add(taken);
                match usable.has(all) || taken == Need::default() {
                    true => Admission::Go,
                    false => Admission::Wait,
                }
            }
            None => Admission::Go,
        };
        if answer == Admission::Go {
            self.taken.add(need);
        }
        answer
    }

    /// It has come to its end.
    pub(crate) fn end(&mut self, need: Need) {
        self.taken.bytes = self.taken.bytes.saturating_sub(need.bytes);
        self.taken.inodes = self.taken.inodes.saturating_sub(need.inodes);
    }

    /// It did not fit, with so much of it written, where the sink had said that it had so much free.
    pub(crate) fn failed(&mut self, need: Need, written: u64, free: Free, now: Millis) {
        let times = self.failed.map_or(0, |failed| failed.times + 1);
        // What was written did fit; the next block did not.
        let bytes = match need {
            // It was to be changed where it stands, for which nobody can say what that needs.
            Need {
                bytes: 0,
                inodes: 0,
            } => WORTH,
            _ => need.bytes.min(written.saturating_add(WORTH)),
        };
        let need = Need { bytes, ..need };
        let before = self.failed.filter(|before| before.free.bytes >= free.bytes);
        self.failed = Some(Failed {
            free: before.map_or(free, |before| before.free),
            need: before.map_or(need, |before| Need {
                bytes: need.bytes.min(before.need.bytes),
                inodes: need.inodes.min(before.need.inodes),
            }),
            at: now,
            until: now + (AGAIN << times.min(AGAIN_AT_MOST)),
            times,
        });
    }

    /// Nothing waits for room. What has just failed, or is under way, may be about to.
    pub(crate) fn ease(&mut self, now: Millis) {
        let rests = self.taken == Need::default();
        self.failed
            .take_if(|failed| rests && now >= failed.at + CALM);
    }

    /// What can be used of what is free.
    pub(crate) fn usable(&self, free: Free, now: Millis) -> Free {
        let Some(failed) = self.failed else {
            return free;
        };
        let more = free.bytes.saturating_sub(failed.free.bytes);
        let more_inodes = match (free.inodes, failed.free.inodes) {
            (Some(now), Some(then)) => now > then,
            _ => false,
        };
        if more >= (failed.need.bytes / 8).max(WORTH) || more_inodes || now >= failed.until {
            return free;
        }
        Free {
            bytes: free.bytes.min(failed.need.bytes.saturating_sub(1)),
            // Where not even an object without content could be made, none can.
            inodes: match failed.need.bytes {
                0 => Some(0),
                _ => free.inodes,
            },
        }
    }
}

/// What did not fit, as far as everything has been looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) pieces: u64,
    /// Of all together.
    pub(crate) need: Need,
    /// Of the one that needs most.
    pub(crate) most: Need,
    pub(crate) path: Vec<u8>,
}

impl Shortage {
    /// For people. `place`: what they call the sink; `free`: what it says that it has.
    pub(crate) fn told(&self, place: &str, free: Free) -> String {
        let path = String::from_utf8_lossy(&self.path)
            .escape_debug()
            .to_string();
        let few = match self.pieces {
            1 => format!("{path} does not fit"),
            n => format!("{n} objects do not fit, {path} for one"),
        };
        if free.inodes == Some(0) {
            let missing = self.need.inodes.max(1);
            return format!(
                "{place} has no inodes left: {few}; at least {missing} more are needed"
            );
        }
        let each = match self.most.bytes {
            0 => String::new(),
            bytes => format!(" ({})", size(bytes)),
        };
        let missing = self.need.bytes.saturating_sub(free.bytes);
        let missing = match missing {
            // Quotas, and what a file system keeps for itself.
            0 => "more than it has for us is needed".to_owned(),
            missing => format!("at least {} more are needed", size(missing)),
        };
        format!(
            "{place} is full, with {} free: {few}{each}; {missing}",
            size(free.bytes)
        )
    }
}

/// `1.5 GiB`
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn free(mib: u64) -> Free {
        Free {
            bytes: mib * MIB,
            inodes: Some(1000),
        }
    }

    fn file(mib: u64) -> Need {
        Need::object(mib * MIB)
    }

    #[test]
    fn what_the_sink_has_no_room_for_is_not_begun_and_what_is_under_way_counts() {
        let mut room = Room::default();
        assert_eq!(room.begin(file(11), Some(free(10)), 0), Admission::No);
        assert_eq!(room.begin(file(6), Some(free(10)), 0), Admission::Go);
        assert_eq!(room.begin(file(6), Some(free(10)), 0), Admission::Wait);
        assert_eq!(room.begin(file(3), Some(free(10)), 0), Admission::Go);
        room.end(file(6));
        room.end(file(3));
        assert_eq!(room.begin(file(6), Some(free(10)), 0), Admission::Go);
        let none = Free {
            inodes: Some(0),
            ..free(10)
        };
        assert_eq!(room.begin(file(0), Some(none), 0), Admission::No);
        assert_eq!(room.begin(Need::bytes(1), Some(free(10)), 0), Admission::Go);
    }

    #[test]
    fn what_was_tried_in_vain_is_not_tried_again_before_more_is_free() {
        let mut room = Room::default();
        // It says 100, and after 40 nothing more fits.
        assert_eq!(room.begin(file(80), Some(free(100)), 0), Admission::Go);
        room.end(file(80));
        room.failed(file(80), 40 * MIB, free(100), 0);
        for need in [80, 60, 41] {
            assert_eq!(room.begin(file(need), Some(free(100)), 1), Admission::No);
        }
        assert_eq!(room.begin(file(39), Some(free(100)), 1), Admission::Go);
        room.end(file(39));
        // A little more is no reason, a good deal is one.
        assert_eq!(room.begin(file(80), Some(free(101)), 1), Admission::No);
        assert_eq!(room.begin(file(80), Some(free(110)), 1), Admission::Go);
        room.end(file(80));
        // And time is one, each time later.
        assert_eq!(room.begin(file(80), Some(free(100)), AGAIN), Admission::Go);
        room.end(file(80));
        room.failed(file(80), 40 * MIB, free(100), AGAIN);
        assert_eq!(
            room.begin(file(80), Some(free(100)), 2 * AGAIN),
            Admission::No
        );
        assert_eq!(
            room.begin(file(80), Some(free(100)), 3 * AGAIN),
            Admission::Go
        );
    }

    #[test]
    fn where_not_even_an_empty_object_can_be_made_none_is_tried() {
        let mut room = Room::default();
        room.failed(Need::object(0), 0, free(100), 0);
        assert_eq!(room.begin(file(1), Some(free(100)), 1), Admission::No);
        assert_eq!(
            room.begin(Need::object(0), Some(free(100)), 1),
            Admission::No
        );
        room.ease(CALM - 1);
        assert_eq!(room.begin(file(1), Some(free(100)), 1), Admission::No);
        room.ease(CALM);
        assert_eq!(room.begin(file(1), Some(free(100)), 1), Admission::Go);
    }

    #[test]
    fn what_could_not_be_changed_where_it_stands_keeps_no_small_object_away() {
        let mut room = Room::default();
        room.failed(Need::default(), 0, free(100), 0);
        assert_eq!(room.begin(file(2), Some(free(100)), 1), Admission::No);
        assert_eq!(
            room.begin(Need::object(0), Some(free(100)), 1),
            Admission::Go
        );
    }

    #[test]
    fn a_shortage_says_which_file_how_much_is_missing_and_of_what() {
        let mut shortage = Shortage {
            pieces: 1,
            need: file(600),
            most: file(600),
            path: b"/a/big\n".to_vec(),
        };
        assert_eq!(
            shortage.told("/srv/new", free(12)),
            "/srv/new is full, with 12.0 MiB free: /a/big\\n does not fit (600.0 MiB); at least 588.0 MiB more are needed"
        );
        shortage.pieces = 7;
        shortage.need.inodes = 7;
        let none = Free {
            inodes: Some(0),
            ..free(12)
        };
        assert_eq!(
            shortage.told("/srv/new", none),
            "/srv/new has no inodes left: 7 objects do not fit, /a/big\\n for one; at least 7 more are needed"
        );
        let lies = shortage.told("/srv/new", free(5000));
        assert!(lies.contains("more than it has for us"), "{lies}");
    }
}
