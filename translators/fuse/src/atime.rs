//! Access times of directories and symbolic links.
//!
//! The kernel answers from listings and targets that it has from before, and then nobody hears of the reading: the
//! brick's file system, which keeps access times, is asked by a READDIR or READLINK only. So where its
//! rule (relatime: at most once a day, and after a change) would have the next reading move the time, the kernel
//! drops what it has, when it next asks for attributes; and it asks no later than that. Who reads then
//! comes here. Of files the open counts (`OpenFlags::FROM_PAGES`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hermitfs_api::{Attr, Inode, Kind, SlotKey, Time};
use parking_lot::Mutex;

use crate::attributes::Atime;
use crate::door::Door;

/// After so long reading moves an access time in any case.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// When reading would move an access time: the kernel's rule (`relatime_need_update` in fs/inode.c), but for
/// changes of the inode alone. After a chmod nobody asks whether a directory was read since, and each
/// of a `chmod -R` would cost a listing.
fn until_due(attr: &Attr, now: Time) -> Duration {
    if attr.atime <= attr.mtime {
        return Duration::ZERO;
    }
    let age = u64::try_from(now.sec.saturating_sub(attr.atime.sec)).unwrap_or(0);
    DAY.saturating_sub(Duration::from_secs(age))
}

/// What the kernel may have of one directory or link.
#[derive(Default)]
struct Kept {
    /// It was given something that it keeps.
    given: AtomicBool,
    /// The access time with which it had to drop that last.
    dropped_at: Mutex<Option<Time>>,
}

impl Kept {
    /// Whether it has to drop it, now that reading would move this access time. Not twice with the
    /// same: then this brick does not move it (noatime, nodiratime, read-only).
    fn has_to_go(&self, atime: Time) -> bool {
        if !self.given.swap(false, Ordering::Relaxed) {
            return false;
        }
        self.dropped_at.lock().replace(atime) != Some(atime)
    }
}

/// A door's place on the inodes for that.
pub(crate) struct AccessTimes(SlotKey);

impl Default for AccessTimes {
    fn default() -> AccessTimes {
        AccessTimes(SlotKey::new())
    }
}

impl Door {
    /// How long the kernel may believe these attributes, which it asked for of something that it may know
    /// already.
    pub(crate) fn believed(&self, node: u64, inode: &Arc<Inode>, attr: &Attr) -> Duration {
        let lifetime = self.attr_lifetime();
        match attr.kind {
            Kind::File if self.openings.may_change_unseen(inode) => Duration::ZERO,
            Kind::Directory | Kind::Symlink if self.follows_atime() => {
                let due = until_due(attr, now());
                if !due.is_zero() {
                    return lifetime.min(due);
                }
                let kept = inode.slots().get::<Kept>(self.access_times.0);
                if kept.is_some_and(|kept| kept.has_to_go(attr.atime)) {
                    self.drop_pages(node, 0, 0);
                }
                lifetime
            }
            _ => lifetime,
        }
    }

    /// The kernel gets a listing or a target, and keeps it.
    pub(crate) fn gives(&self, inode: &Arc<Inode>) {
        if !self.follows_atime() {
            return;
        }
        let kept = inode
            .slots()
            .get_or_init(self.access_times.0, Kept::default);
        if let Some(kept) = kept {
            kept.given.store(true, Ordering::Relaxed);
        }
    }

    fn follows_atime(&self) -> bool {
        let mount = &self.options.attributes;
        !self.options.shared && mount.atime != Atime::Never && !mount.read_only
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Time::new(seconds, since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(atime: i64, mtime: i64, ctime: i64) -> Attr {
        let time = |sec| Time::new(sec, 0);
        Attr {
            ino: 1,
            dev: 1,
            kind: Kind::Directory,
            mode: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: time(atime),
            mtime: time(mtime),
            ctime: time(ctime),
            btime: None,
        }
    }

    #[test]
    fn reading_moves_an_access_time_once_a_day_and_after_a_change() {
        let due = |atime, mtime, ctime, now| {
            until_due(&attr(atime, mtime, ctime), Time::new(now, 0)).as_secs()
        };
        assert_eq!(due(1000, 500, 500, 1000), 86_400);
        assert_eq!(due(1000, 500, 500, 1000 + 86_399), 1);
        assert_eq!(due(1000, 500, 500, 1000 + 86_400), 0);
        assert_eq!(due(1000, 1000, 500, 1001), 0, "changed since");
        assert_eq!(due(1000, 500, 1001, 1002), 86_398, "the inode alone was");
        assert_eq!(due(9000, 500, 500, 1000), 86_400, "in the future");
    }

    #[test]
    fn what_the_kernel_has_goes_once_and_no_more_where_the_brick_moves_nothing() {
        let (old, new) = (Time::new(1, 0), Time::new(2, 0));
        let kept = Kept::default();
        assert!(!kept.has_to_go(old), "it has nothing");
        kept.given.store(true, Ordering::Relaxed);
        assert!(kept.has_to_go(old));
        assert!(!kept.has_to_go(old), "it is gone");
        kept.given.store(true, Ordering::Relaxed);
        assert!(!kept.has_to_go(old), "it was read, and nothing moved");
        kept.given.store(true, Ordering::Relaxed);
        assert!(kept.has_to_go(new));
    }
}
