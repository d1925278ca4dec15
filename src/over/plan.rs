//! What is mounted where, and what is therefore to be done: the decision, without I/O.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ways::Target;
use crate::mounts::{Mount, Mounts};
use crate::shell;

/// What we wrote down of the mount that we stand on, to find it as it was after a kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Mount ids are of one boot.
    pub(crate) boot: String,
    pub(crate) mount: u64,
    pub(crate) device: (u32, u32),
    /// We were about to make it read-only, or have.
    pub(crate) shut: bool,
    /// Nobody could change OLD past us from the first on, where our mount is elsewhere.
    #[serde(default)]
    pub(crate) guarded: bool,
    /// A read-only mount of OLD over itself, for the time of a cut-over.
    #[serde(default)]
    pub(crate) veil: Option<u64>,
}

/// All that the decision needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// OLD, which is the mount point.
    pub(crate) point: &'a Path,
    /// Where OLD is kept reachable.
    pub(crate) kept: &'a Path,
    pub(crate) mounts: &'a Mounts,
    pub(crate) memory: Option<&'a Memory>,
    pub(crate) boot: &'a str,
    /// What is seen at the point is a mount of ours, whose daemon has died.
    pub(crate) dead: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing of ours covers OLD: keep it reachable, then cover it.
    Cover(Ground),
    /// A dead mount of ours does: the new one goes beneath it, and OLD is where it was kept.
    GoOn(Ground),
    /// A dead mount of ours lies on OLD, which was not shut yet: it is taken away, then all begins
    /// from the start. Nothing had been healed by then.
    Uncover,
    /// The sentence that says why not.
    Refuse(String),
}

/// What our mount is to stand on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ground {
    pub(crate) target: Target,
    /// OLD's mount is to be made read-only below us, and writable again when we leave.
    pub(crate) shut: bool,
    /// OLD's mount is read-only because of us: what is taken from it is to be writable.
    pub(crate) is_shut: bool,
    /// What a killed run has left where OLD is kept.
    pub(crate) leftover: bool,
}

/// Decides.
pub(crate) fn plan(facts: &Facts<'_>) -> Plan {
    let point = facts.point.display();
    let Some(target) = target(facts.mounts, facts.point) else {
        return Plan::Refuse(format!("{point} cannot be found among the mounts"));
    };
    if facts.point == Path::new("/") {
        return Plan::Refuse("the root of everything cannot be mounted over".into());
    }
    let covered = facts.mounts.by_id(target.mount);
    let read_only = covered.is_some_and(Mount::is_read_only);
    let is_shut = target.is_mount
        && covered.is_some_and(|mount| is_shut_by_us(facts.memory, facts.boot, mount));
    let kept = facts.mounts.at(facts.kept);
    let ground = Ground {
        // One that its administrator keeps read-only needs no help, and stays so.
        shut: target.is_mount && (!read_only || is_shut),
        is_shut,
        leftover: kept.is_some() && facts.memory.is_some(),
        target,
    };
    let top = facts.mounts.at(facts.point);
    if top.is_some_and(Mount::is_ours) {
        if !facts.dead {
            return Plan::Refuse(format!(
                "the mount point {point} is in use by another hermitfs"
            ));
        }
        if ground.target.is_mount && !read_only {
            return Plan::Uncover;
        }
        let same = kept.is_some_and(|kept| {
            (kept.device, &kept.root) == (ground.target.device, &ground.target.root)
        });
        return match same {
            true => Plan::GoOn(ground),
            false => Plan::Refuse(format!(
                "{} does not lead to the directory below the dead mount at {point} any more: \
                 `umount {}`, then give the same command again",
                facts.kept.display(),
                shell::word(facts.point)
            )),
        };
    }
    if kept.is_some() && !ground.leftover {
        return Plan::Refuse(format!(
            "the old brick of an earlier migration is still kept at {}: `umount -R {}` first",
            facts.kept.display(),
            shell::word(facts.kept.parent().unwrap_or(facts.kept))
        ));
    }
    Plan::Cover(ground)
}

/// Whether a mount is read-only because of a run of ours that was killed.
pub(crate) fn is_shut_by_us(memory: Option<&Memory>, boot: &str, mount: &Mount) -> bool {
    mount.is_read_only()
        && memory.is_some_and(|memory| {
            (memory.boot.as_str(), memory.mount, memory.device) == (boot, mount.id, mount.device)
                && memory.shut
        })
}

/// OLD at this path, below whatever of ours lies on it.
pub(crate) fn target(mounts: &Mounts, point: &Path) -> Option<Target> {
    let mut mount = mounts.containing(point)?;
    while mount.is_ours() && mount.point == point {
        mount = mounts.by_id(mount.parent)?;
    }
    Some(Target {
        mount: mount.id,
        device: mount.device,
        root: mount.inside(point)?,
        is_mount: mount.point == point,
    })
}

/// Where OLD is kept reachable, for restarts and for its administrator.
pub(crate) fn kept(state_dir: &Path, slot: &str) -> PathBuf {
    state_dir.join("over").join(slot).join("old")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "1 0 8:1 / / rw shared:1 - ext4 a rw\n";
    const OLD: &str = "2 1 8:2 /sub /srv/old rw - ext4 b rw\n";
    const SHUT: &str = "2 1 8:2 /sub /srv/old ro - ext4 b rw\n";
    const KEPT: &str = "90 1 8:2 /sub /state/old rw - ext4 b rw\n";
    const OURS: &str = "91 2 0:50 / /srv/old rw - fuse.hermitfs h rw\n";

    fn memory(shut: bool) -> Option<Memory> {
        Some(Memory {
            boot: "now".into(),
            mount: 2,
            device: (8, 2),
            shut,
            guarded: false,
            veil: None,
        })
    }

    fn decide(lines: &[&str], memory: Option<&Memory>, dead: bool) -> Plan {
        plan(&Facts {
            point: Path::new("/srv/old"),
            kept: Path::new("/state/old"),
            mounts: &Mounts::parse(lines.concat().as_bytes()),
            memory,
            boot: "now",
            dead,
        })
    }

    fn ground(shut: bool, is_shut: bool, leftover: bool) -> Ground {
        Ground {
            target: Target {
                mount: 2,
                device: (8, 2),
                root: "/sub".into(),
                is_mount: true,
            },
            shut,
            is_shut,
            leftover,
        }
    }

    #[test]
    fn an_ordinary_mount_is_covered_and_shut() {
        assert_eq!(
            decide(&[BASE, OLD], None, false),
            Plan::Cover(ground(true, false, false))
        );
    }

    #[test]
    fn a_mount_that_is_read_only_anyway_stays_so() {
        assert_eq!(
            decide(&[BASE, SHUT], None, false),
            Plan::Cover(ground(false, false, false))
        );
    }

    #[test]
    fn after_a_kill_the_new_mount_goes_beneath_the_dead_one() {
        let plan = decide(&[BASE, SHUT, KEPT, OURS], memory(true).as_ref(), true);
        assert_eq!(plan, Plan::GoOn(ground(true, true, true)));
        // Also when it was killed while it went beneath, and two lie there.
        let second = "92 91 0:51 / /srv/old rw - fuse.hermitfs h rw\n";
        let plan = decide(
            &[BASE, SHUT, KEPT, second, OURS],
            memory(true).as_ref(),
            true,
        );
        assert_eq!(plan, Plan::GoOn(ground(true, true, true)));
    }

    #[test]
    fn a_kill_before_old_was_shut_is_a_new_beginning() {
        let plan = decide(&[BASE, OLD, KEPT, OURS], memory(false).as_ref(), true);
        assert_eq!(plan, Plan::Uncover);
        let plan = decide(&[BASE, OLD, KEPT], memory(false).as_ref(), false);
        assert_eq!(plan, Plan::Cover(ground(true, false, true)));
    }

    #[test]
    fn after_a_kill_and_an_unmount_old_is_known_to_be_shut_by_us() {
        let plan = decide(&[BASE, SHUT, KEPT], memory(true).as_ref(), false);
        assert_eq!(plan, Plan::Cover(ground(true, true, true)));
        // Not what was written down in another boot, or of another mount.
        for wrong in [
            Memory {
                boot: "then".into(),
                ..memory(true).unwrap()
            },
            Memory {
                mount: 3,
                ..memory(true).unwrap()
            },
            Memory {
                device: (8, 9),
                ..memory(true).unwrap()
            },
        ] {
            let plan = decide(&[BASE, SHUT], Some(&wrong), false);
            assert_eq!(plan, Plan::Cover(ground(false, false, false)));
        }
    }

    #[test]
    fn a_living_mount_is_left_alone() {
        let plan = decide(&[BASE, SHUT, KEPT, OURS], memory(true).as_ref(), false);
        assert!(matches!(plan, Plan::Refuse(why) if why.contains("in use")));
    }

    #[test]
    fn what_is_kept_must_be_what_is_covered() {
        let other = "90 1 8:7 / /state/old rw - ext4 b rw\n";
        for lines in [vec![BASE, SHUT, OURS], vec![BASE, SHUT, OURS, other]] {
            let plan = decide(&lines, memory(true).as_ref(), true);
            assert!(matches!(plan, Plan::Refuse(why) if why.contains("umount /srv/old")));
        }
    }

    #[test]
    fn the_old_brick_of_an_earlier_migration_is_not_thrown_out() {
        let plan = decide(&[BASE, OLD, KEPT], None, false);
        assert!(matches!(plan, Plan::Refuse(why) if why.contains("umount -R /state")));
    }

    #[test]
    fn a_plain_directory_is_covered_and_cannot_be_shut() {
        let Plan::Cover(ground) = decide(&[BASE], None, false) else {
            panic!("not covered");
        };
        assert_eq!((ground.shut, ground.target.is_mount), (false, false));
        assert_eq!(ground.target.root, Path::new("/srv/old"));
        let ours = "91 1 0:50 / /srv/old rw - fuse.hermitfs h rw\n";
        let kept = "90 1 8:1 /srv/old /state/old rw - ext4 a rw\n";
        let plan = decide(&[BASE, ours, kept], memory(false).as_ref(), true);
        assert!(matches!(plan, Plan::GoOn(ground) if !ground.shut));
    }
}
