//! Several mounts of one volume: what the kernel may go on believing of a file's content.
//!
//! A file's pages stay over an open when size, mtime and ctime are as they were when the pages
//! were filled, and when these times tell: a clock that stands between two changes gives both the
//! same times. So pages are not trusted that were filled within a tick of the file system's clock
//! after its times were first seen. Only time that passes here is measured, as the clock of a brick's machine
//! may go otherwise.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hermitfs_api::{Attr, Context, File, Inode, OpenFlags, Result, SlotKey, Time, Translator};
use parking_lot::Mutex;

use crate::door::Door;
use crate::modes::Mode;

/// How long the kernel may believe a name or attributes that others may change.
pub(crate) const LIFETIME: Duration = Duration::from_secs(1);

/// How long a file system's clock may stand still, where it tells nanoseconds, and where it
/// tells seconds (ext3 with small inodes).
const TICK: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_millis(1100);

/// What tells that a file's content has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    size: u64,
    mtime: Time,
    ctime: Time,
}

impl Stamp {
    fn of(attr: &Attr) -> Stamp {
        Stamp {
            size: attr.size,
            mtime: attr.mtime,
            ctime: attr.ctime,
        }
    }

    /// How long after a change another one may come that this stamp does not tell.
    fn blind(&self) -> Duration {
        match self.ctime.nsec {
            0 => SECOND,
            _ => TICK,
        }
    }
}

/// What is known of the kernel's pages of one file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pages(Option<Known>);

#[derive(Clone, Copy, Debug)]
struct Known {
    stamp: Stamp,
    /// When the file was first seen with it.
    seen: Instant,
    /// Since then all pages were dropped once; not before this.
    dropped: Option<Instant>,
}

impl Pages {
    /// The file was looked at, and the look had come to its end by `now`. Whether the pages that the
    /// kernel has are the file's content.
    pub(crate) fn hold(&mut self, stamp: Stamp, now: Instant) -> bool {
        match self.0 {
            Some(known) if known.stamp == stamp => known
                .dropped
                .is_some_and(|dropped| dropped >= known.seen + stamp.blind()),
            _ => {
                self.0 = Some(Known {
                    stamp,
                    seen: now,
                    dropped: None,
                });
                false
            }
        }
    }

    /// All pages were dropped, not before `began`, after the look that found this stamp.
    pub(crate) fn dropped(&mut self, stamp: Stamp, began: Instant) {
        if let Some(known) = self.0.as_mut().filter(|known| known.stamp == stamp) {
            known.dropped = known.dropped.max(Some(began));
        }
    }
}

/// A door's place on the inodes for what it knows of their pages.
pub(crate) struct Sharing(SlotKey);

impl Default for Sharing {
    fn default() -> Sharing {
        Sharing(SlotKey::new())
    }
}

/// How a file is opened. `keep`: the pages that the kernel has are good.
pub(crate) fn mode(flags: OpenFlags, keep: bool) -> Mode {
    match flags.writes() && flags.0 & libc::O_APPEND != 0 {
        true => Mode::Direct,
        false => Mode::Cached { keep },
    }
}

/// What goes to the volume: where a file ends is known there alone.
pub(crate) fn flags(flags: OpenFlags) -> OpenFlags {
    match flags.writes() && flags.0 & libc::O_APPEND != 0 {
        true => flags.with(OpenFlags::SHARED),
        false => flags,
    }
}

/// Writes by a descriptor whose `O_APPEND` was changed by fcntl(2) since it was opened, or a
/// mapping's stores by one that has it.
pub(crate) async fn write_as(
    volume: &dyn Translator,
    cx: &Context,
    file: &Arc<File>,
    appends: bool,
    at: u64,
    data: &[u8],
) -> Result<usize> {
    const APPEND: i32 = libc::O_APPEND | OpenFlags::SHARED;
    let flags = OpenFlags::WRITE.with(file.flags().0 & (libc::O_SYNC | libc::O_DSYNC));
    let flags = if appends { flags.with(APPEND) } else { flags };
    let file = volume.open(cx, file.inode(), flags).await?;
    let written = volume.write(cx, &file, at, data).await;
    let released = volume.release(cx, &file).await;
    released.and(written)
}

impl Door {
    /// Before a file is opened: the kernel has no attributes, and no pages, that are not the file's.
    pub(crate) async fn freshen(
        &self,
        volume: &dyn Translator,
        cx: &Context,
        node: u64,
        inode: &Arc<Inode>,
        flags: OpenFlags,
    ) -> Result<Mode> {
        let stamp = Stamp::of(&volume.getattr(cx, inode, None).await?);
        let pages = inode
            .slots()
            .get_or_init(self.sharing.0, Mutex::<Pages>::default);
        let good = pages.is_some_and(|pages| pages.lock().hold(stamp, Instant::now()));
        // Whatever the kernel has asked for since good pages were dropped for the last time is as good
        // as they are: nothing has changed. So it need not ask again.
        if !good {
            // By a call instead of the answer's missing KEEP_CACHE: whoever opens it after us must
            // not be told of good pages before the bad ones are gone.
            let began = Instant::now();
            self.drop_pages(node, 0, 0);
            if let Some(pages) = pages {
                pages.lock().dropped(stamp, began);
            }
        }
        Ok(mode(flags, true))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(size: u64, millis: u64, whole_seconds: bool) -> Stamp {
        let nsec = match whole_seconds {
            true => 0,
            false => (millis % 1000) as u32 * 1_000_000 + 1,
        };
        let time = Time::new(1_000 + (millis / 1000) as i64, nsec);
        Stamp {
            size,
            mtime: time,
            ctime: time,
        }
    }

    #[test]
    fn pages_stay_when_nothing_has_changed_for_long_enough() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pages = Pages::default();
        let old = stamp(1, 0, false);
        assert!(!pages.hold(old, at(0)), "nothing is known");
        pages.dropped(old, at(0));
        assert!(
            !pages.hold(old, at(150)),
            "filled when the clock may have stood"
        );
        pages.dropped(old, at(150));
        assert!(pages.hold(old, at(160)));
        assert!(pages.hold(old, at(90_000)));
        assert!(!pages.hold(stamp(1, 90_010, false), at(90_020)), "changed");
        assert!(!pages.hold(old, at(90_030)), "an older look that came late");
    }

    #[test]
    fn a_clock_of_whole_seconds_is_blind_for_longer() {
        let start = Instant::now();
        let mut pages = Pages::default();
        let whole = stamp(1, 0, true);
        pages.hold(whole, start);
        pages.dropped(whole, start + Duration::from_millis(900));
        assert!(!pages.hold(whole, start + Duration::from_millis(950)));
    }

    #[test]
    fn only_who_appends_goes_past_the_pages() {
        let append = OpenFlags::WRITE.with(libc::O_APPEND);
        assert_eq!(mode(append, true), Mode::Direct);
        assert!(flags(append).appends());
        let read = OpenFlags::READ.with(libc::O_APPEND);
        assert_eq!(mode(read, true), Mode::Cached { keep: true });
        assert_eq!(flags(read), read);
        assert_eq!(
            mode(OpenFlags::READ_WRITE, false),
            Mode::Cached { keep: false }
        );
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// Somebody else changes the content.
        Change {
            size: u64,
        },
        /// A page is read, if it is not there, and then used.
        Read,
        /// A look at the attributes, an open that follows from it so much later.
        Open {
            later: u64,
        },
        Pass {
            millis: u64,
        },
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (1..3u64).prop_map(|size| Event::Change { size }),
            3 => Just(Event::Read),
            4 => prop_oneof![Just(0), 0..30u64].prop_map(|later| Event::Open { later }),
            4 => prop_oneof![0..20u64, 80..130u64, 900..1300u64].prop_map(|millis| Event::Pass { millis }),
        ]
    }

    proptest! {
        /// The brick's clock goes in ticks, and everybody who opens sees what was there by then.
        #[test]
        fn who_opens_never_sees_older_content(
            tick in prop_oneof![Just(1u64), Just(10), Just(100), Just(1000)],
            events in prop::collection::vec(event(), 1..60),
        ) {
            let start = Instant::now();
            let at = |millis: u64| start + Duration::from_millis(millis);
            let (mut clock, mut content, mut size, mut changed) = (0u64, 0u64, 1u64, 0u64);
            let mut pages = Pages::default();
            let mut kernel: Option<u64> = None;
            for event in events {
                match event {
                    Event::Change { size: new } => {
                        (content, size, changed) = (content + 1, new, clock / tick * tick);
                    }
                    Event::Read => {
                        kernel.get_or_insert(content);
                    }
                    Event::Pass { millis } => clock += millis,
                    Event::Open { later } => {
                        let (seen, was) = (stamp(size, changed, tick == 1000), content);
                        if !pages.hold(seen, at(clock)) {
                            clock += later;
                            let began = at(clock);
                            kernel = None;
                            pages.dropped(seen, began);
                        }
                        if let Some(cached) = kernel {
                            prop_assert!(cached >= was, "{cached} instead of {was}");
                        }
                    }
                }
            }
        }
    }
}
