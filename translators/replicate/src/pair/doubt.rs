//! What has to be compared when a sink is taken up again.

use std::fs;
use std::time::UNIX_EPOCH;

use hermitfs_api::Time;

use crate::journal::{self, Header};
use crate::leg::boot_id;
use crate::record::Trust;
use crate::volume::{self, Found, Marker};

/// What this boot and its clocks say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) boot: String,
    /// Seconds since 1970.
    pub(super) now: i64,
    /// Seconds since the boot, of a clock that never steps.
    pub(super) uptime: i64,
    /// A time at which the clock is known to have stood in this boot, as early as there is one.
    pub(super) early: Option<i64>,
}

impl Moment {
    pub(super) fn of_now() -> Moment {
        // A file system in memory that every boot makes anew, soon after its begin.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let early = in_memory(&mounts, "/run")
            .then(|| fs::metadata("/run").and_then(|run| run.created()).ok());
        let early = early
            .flatten()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Moment {
            boot: boot_id(),
            now: volume::seconds_now(),
            uptime: volume::uptime(),
            early: early.map(|time| time.as_secs() as i64),
        }
    }

    /// Whether the clock stands, or is known to have stood, lower than it should since we served:
    /// then an object may have been changed without us and have a ctime from before. A clock that
    /// was put back and right again while we were away leaves no trace.
    fn stepped_back(&self, header: &Header) -> bool {
        let passed = self.now - header.served;
        if header.boot == self.boot {
            let really = self.uptime - header.uptime;
            // Clocks that are slewed run slower by half a thousandth at most.
            passed + COARSE + really / 1000 < really
        } else {
            passed < 0 || self.early.is_some_and(|early| early < header.served)
        }
    }
}

/// Whether a tmpfs is mounted there, as proc_pid_mountinfo(5) tells.
fn in_memory(mounts: &str, point: &str) -> bool {
    let at = |line: &&str| line.split(' ').nth(4) == Some(point);
    let last = mounts.lines().rfind(at);
    let kind = last.and_then(|line| line.split(" - ").nth(1)?.split(' ').next());
    kind == Some("tmpfs")
}

/// Seconds that are none: clocks tick coarsely, and are read one after the other.
const COARSE: i64 = 2;

/// What has to be compared, as far as the state tells; `None` for nothing but what is marked.
/// `continuous` when nobody can have reached the source without us since.
pub(super) fn doubt(
    sink: &Found,
    journal: Option<&journal::Found>,
    continuous: bool,
    moment: &Moment,
) -> Option<Trust> {
    let journal = match (sink, journal) {
        // Nothing that is there is from before us.
        (Found::Empty, _) => return Some(Trust::ALL),
        (Found::Marked(Marker { dirty: false, .. }), Some(journal)) => journal,
        // The state is lost, or this is adopted.
        (Found::Marked(_) | Found::Foreign | Found::Taken, _) => return Some(Trust::NOTHING),
    };
    let header = &journal.header;
    let same_boot = header.boot == moment.boot;
    // A power cut in a calm leaves what a clean end leaves.
    let power_cut = !same_boot && !header.clean && !header.calm;
    if journal.torn || header.all_dirty || power_cut {
        return Some(Trust::NOTHING);
    }
    if continuous && same_boot && !header.clean {
        return None;
    }
    match moment.stepped_back(header) {
        true => Some(Trust::NOTHING),
        false => Some(Trust::before(Time::new(header.served - COARSE, 0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::VERSION;
    use crate::volume::BrickId;

    fn marked() -> Found {
        marked_as(false)
    }

    fn marked_as(dirty: bool) -> Found {
        let id = BrickId {
            fsid: "1".into(),
            root: "2".into(),
        };
        Found::Marked(Marker {
            version: 1,
            id: "a".into(),
            role: "sink".into(),
            source: id,
            dirty,
        })
    }

    #[test]
    fn a_marker_that_says_dirty_is_believed_rather_than_the_journal() {
        for continuous in [true, false] {
            for clean in [true, false] {
                let journal = journal(clean);
                let doubt = |sink| doubt(&sink, Some(&journal), continuous, &same_boot());
                assert_eq!(doubt(marked_as(true)), Some(Trust::NOTHING));
                assert_ne!(doubt(marked_as(false)), Some(Trust::NOTHING));
            }
        }
    }

    /// Served last at 100,000, an hour after the boot.
    fn journal(clean: bool) -> journal::Found {
        journal::Found {
            header: Header {
                version: VERSION,
                boot: "this".into(),
                clean,
                served: 100_000,
                uptime: 3600,
                ..Header::default()
            },
            ..journal::Found::default()
        }
    }

    /// Ten minutes later.
    fn same_boot() -> Moment {
        Moment {
            boot: "this".into(),
            now: 100_600,
            uptime: 4200,
            early: Some(96_400),
        }
    }

    /// Ten minutes later, half of which was a boot.
    fn other_boot() -> Moment {
        Moment {
            boot: "other".into(),
            now: 100_600,
            uptime: 300,
            early: Some(100_303),
        }
    }

    fn told(journal: &journal::Found, continuous: bool, moment: &Moment) -> Option<Trust> {
        doubt(&marked(), Some(journal), continuous, moment)
    }

    const NOTHING: Option<Trust> = Some(Trust::NOTHING);

    fn served() -> Option<Trust> {
        Some(Trust::before(Time::new(99_998, 0)))
    }

    #[test]
    fn killed_and_nobody_there_since_only_marks_count() {
        assert_eq!(told(&journal(false), true, &same_boot()), None);
    }

    #[test]
    fn whoever_may_have_been_there_since_is_seen_by_the_times_of_inodes() {
        assert_eq!(told(&journal(false), false, &same_boot()), served());
        assert_eq!(told(&journal(true), false, &same_boot()), served());
        assert_eq!(told(&journal(true), true, &same_boot()), served());
        assert_eq!(told(&journal(true), false, &other_boot()), served());
    }

    #[test]
    fn another_boot_without_a_clean_end_is_a_power_cut() {
        assert_eq!(told(&journal(false), false, &other_boot()), NOTHING);
        assert_eq!(told(&journal(false), true, &other_boot()), NOTHING);
    }

    #[test]
    fn a_power_cut_in_a_calm_leaves_what_a_clean_end_leaves() {
        let mut calm = journal(false);
        calm.header.calm = true;
        assert_eq!(told(&calm, false, &other_boot()), served());
        assert_eq!(told(&calm, true, &other_boot()), served());
        assert_eq!(told(&calm, true, &same_boot()), None);
        calm.torn = true;
        assert_eq!(told(&calm, false, &other_boot()), NOTHING);
        calm.torn = false;
        calm.header.all_dirty = true;
        assert_eq!(told(&calm, false, &other_boot()), NOTHING);
    }

    #[test]
    fn a_torn_or_dirty_journal_is_believed_in_nothing() {
        for (continuous, clean) in [(true, false), (false, false), (false, true)] {
            let (mut torn, mut dirty) = (journal(clean), journal(clean));
            torn.torn = true;
            dirty.header.all_dirty = true;
            assert_eq!(told(&torn, continuous, &same_boot()), NOTHING);
            assert_eq!(told(&dirty, continuous, &same_boot()), NOTHING);
        }
        let mut torn = journal(true);
        torn.torn = true;
        assert_eq!(told(&torn, false, &other_boot()), NOTHING);
    }

    #[test]
    fn without_a_journal_all_is_compared_unless_the_sink_is_empty() {
        let moment = same_boot();
        assert_eq!(doubt(&marked(), None, true, &moment), NOTHING);
        let clean = journal(true);
        for journal in [None, Some(&clean)] {
            let foreign = doubt(&Found::Foreign, journal, true, &moment);
            assert_eq!(foreign, NOTHING, "adopted");
            let empty = doubt(&Found::Empty, journal, true, &moment);
            assert_eq!(empty, Some(Trust::ALL));
        }
    }

    #[test]
    fn a_clock_that_stands_lower_than_when_we_served_is_not_believed() {
        let back = |moment: Moment| Moment {
            now: 99_000,
            ..moment
        };
        for clean in [true, false] {
            assert_eq!(told(&journal(clean), false, &back(same_boot())), NOTHING);
        }
        assert_eq!(told(&journal(true), false, &back(other_boot())), NOTHING);
    }

    #[test]
    fn a_step_back_is_known_from_the_clock_that_never_steps() {
        // An hour back, and two hours later: higher than when we served, all the same.
        let moment = Moment {
            now: 100_000 + 3600,
            uptime: 3600 + 7200,
            ..same_boot()
        };
        assert_eq!(told(&journal(true), false, &moment), NOTHING);
        // A week of slewing is no step.
        let week = 7 * 24 * 3600;
        let moment = Moment {
            now: 100_000 + week - week / 2000,
            uptime: 3600 + week,
            ..same_boot()
        };
        assert_eq!(told(&journal(true), false, &moment), served());
        // Nor is a step forward: all that is younger is compared.
        let moment = Moment {
            now: 100_000 + week,
            ..same_boot()
        };
        assert_eq!(told(&journal(true), false, &moment), served());
    }

    #[test]
    fn a_boot_that_began_with_a_wrong_clock_is_not_believed() {
        let moment = Moment {
            early: Some(0),
            ..other_boot()
        };
        assert_eq!(told(&journal(true), false, &moment), NOTHING);
        let moment = Moment {
            early: None,
            ..other_boot()
        };
        assert_eq!(told(&journal(true), false, &moment), served());
    }

    #[test]
    fn a_directory_that_outlives_a_boot_tells_nothing_of_it() {
        let mounts = "24 1 0:22 / / rw - ext4 /dev/root rw\n\
                      25 24 0:23 / /run rw,nosuid shared:2 - tmpfs tmpfs rw\n";
        assert!(in_memory(mounts, "/run"));
        assert!(!in_memory(mounts, "/run/lock"));
        let over = "26 25 0:24 /run /run rw - xfs /dev/disk rw\n";
        assert!(!in_memory(&format!("{mounts}{over}"), "/run"));
        assert!(!in_memory("", "/run"));
    }

    #[test]
    fn this_moment_has_a_boot_and_clocks() {
        let moment = Moment::of_now();
        assert!(moment.boot.len() > 30, "{moment:?}");
        assert!(
            moment.now > 1_000_000_000 && moment.uptime > 0,
            "{moment:?}"
        );
    }
}
