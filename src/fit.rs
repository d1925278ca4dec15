//! Whether OLD fits on NEW, and whether NEW is where it should be: before anything is touched. The decision is taken on
//! facts that were gathered before, so that it can be tried without a disk.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use crate::bricks::{Brick, Bricks};
use crate::mounts::{Mount, Mounts};
use crate::screen::human;

/// Of what is free, in hundredths: more than this is close, and more than that cannot fit. What a file system counts
/// as used is in part its own (the journal, reservations), of which nothing has to be copied.
const CLOSE: u64 = 90;
const TOO_MUCH: u64 = 103;

/// A brick and the file system that it is on.
#[derive(Clone, Debug)]
struct Side {
    path: PathBuf,
    kind: String,
    /// Where its file system is mounted.
    point: PathBuf,
    device: (u32, u32),
    /// The disk that it is a partition of, or that it is.
    disk: Option<PathBuf>,
    /// The brick is all of its file system.
    whole: bool,
    /// More fits than is free.
    compresses: bool,
    bytes: Count,
    /// `None` where inodes are made as they are needed.
    inodes: Option<Count>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    all: u64,
    free: u64,
}

/// What is to be said before the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// It cannot fit.
    pub(crate) refusal: Option<String>,
    /// Sentences.
    pub(crate) words: Vec<String>,
}

/// Looks at a source and its sinks on this machine. Nothing is said of what goes on where it was, of a brick
/// elsewhere, or of what cannot be looked at: the start tells what is wrong with it.
pub(crate) fn look(bricks: &Bricks, adopt: bool) -> Verdict {
    let mut all = Verdict::default();
    let (Some(old), Ok(mounts)) = (bricks.source(), Mounts::read()) else {
        return all;
    };
    let Some(source) = side(old, &mounts) else {
        return all;
    };
    for (_, new) in bricks.sinks() {
        let ours = |directory: &Path| directory.join(".hermitfs").symlink_metadata().is_ok();
        if new.directory().is_some_and(ours) {
            continue;
        }
        let Some(sink) = side(new, &mounts) else {
            continue;
        };
        let verdict = judge(&source, &sink, adopt);
        all.refusal = all.refusal.or(verdict.refusal);
        all.words.extend(verdict.words);
    }
    all
}

fn side(brick: &Brick, mounts: &Mounts) -> Option<Side> {
    // Asked by its name alone: our own mount there may be dead.
    let directory = brick.directory()?;
    let mount = mounts.containing(directory)?;
    if mount.is_ours() {
        return None;
    }
    let path = directory.canonicalize().ok()?;
    let mount = mounts.containing(&path).filter(|mount| !mount.is_ours())?;
    let stat = statvfs(&path).ok()?;
    let counted = |all: u64, free: u64, unit: u64| Count {
        all: all.saturating_mul(unit),
        free: free.saturating_mul(unit),
    };
    let all = path == mount.point && mount.root == Path::new("/");
    Some(Side {
        kind: mount.kind.clone(),
        point: mount.point.clone(),
        device: mount.device,
        disk: disk(mount),
        whole: all,
        compresses: mount
            .super_options
            .split(',')
            .any(|option| option.starts_with("compress")),
        bytes: counted(
            stat.f_blocks,
            stat.f_bfree.max(stat.f_bavail),
            stat.f_frsize,
        ),
        inodes: (stat.f_files > 0).then(|| counted(stat.f_files, stat.f_ffree, 1)),
        path,
    })
}

/// The disk under a mount, as sysfs knows it: that of a partition is what the partition is in.
fn disk(mount: &Mount) -> Option<PathBuf> {
    let number = mount.source.metadata().ok()?.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let at = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let at = at.canonicalize().ok()?;
    match at.join("partition").exists() {
        true => at.parent().map(Path::to_owned),
        false => Some(at),
    }
}

fn judge(old: &Side, new: &Side, adopt: bool) -> Verdict {
    let mut verdict = Verdict::default();
    let (from, to) = (old.path.display(), new.path.display());
    if ["tmpfs", "ramfs"].contains(&new.kind.as_str()) {
        verdict.words.push(format!(
            "{to} is in memory ({}): all that is moved there is gone after a reboot",
            new.kind
        ));
    }
    if new.point == Path::new("/") {
        verdict.words.push(format!(
            "{to} is on the root file system: is the new disk mounted?"
        ));
    } else if new.device == old.device {
        verdict.words.push(format!(
            "{to} is on the same file system as {from} ({}): is the new disk mounted?",
            new.point.display()
        ));
    } else if new.disk.is_some() && new.disk == old.disk {
        let disk = new.disk.as_deref().and_then(Path::file_name);
        let disk = disk.unwrap_or_default().display();
        verdict
            .words
            .push(format!("{to} is on the same disk as {from} ({disk})"));
    }
    // How much of a file system a directory of it is nobody knows without looking at all of it.
    if !old.whole || new.device == old.device {
        return verdict;
    }
    let room = |count: Count| match (adopt, new.whole) {
        (false, _) => Some(count.free),
        // What is there may be what is wanted, or goes.
        (true, true) => Some(count.all),
        (true, false) => None,
    };
    let used = |count: Count| count.all.saturating_sub(count.free);
    let mut compare = |need: u64, room: u64, told: fn(u64) -> String, what: &str, sure: bool| {
        let part = u128::from(need) * 100;
        let has = format!(
            "{from} has {} {what}, and {to} has room for {}",
            told(need),
            told(room)
        );
        if part > u128::from(room) * u128::from(TOO_MUCH) && sure {
            verdict
                .refusal
                .get_or_insert(format!("{has}: it does not fit"));
        } else if part > u128::from(room) * u128::from(CLOSE) {
            verdict.words.push(format!("{has}: this is close"));
        }
    };
    if let Some(room) = room(new.bytes) {
        let sure = !new.compresses;
        compare(used(old.bytes), room, human::bytes, "in use", sure);
    }
    if let (Some(its), Some(count)) = (old.inodes, new.inodes)
        && let Some(room) = room(count)
    {
        compare(used(its), room, human::count, "files and directories", true);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A file system of 1,000 MiB and 1,000 inodes with so much free.
    fn disk(path: &str, minor: u32, free: u64, inodes: u64) -> Side {
        let count = |free: u64, unit: u64| Count {
            all: 1000 * unit,
            free: free * unit,
        };
        Side {
            path: path.into(),
            kind: "ext4".into(),
            point: path.into(),
            device: (8, minor),
            disk: Some(format!("/sys/block/sd{minor}").into()),
            whole: true,
            compresses: false,
            bytes: count(free, MIB),
            inodes: Some(count(inodes, 1)),
        }
    }

    fn old() -> Side {
        disk("/old", 1, 200, 500)
    }

    fn refusal(new: &Side, adopt: bool) -> String {
        judge(&old(), new, adopt).refusal.unwrap_or_default()
    }

    fn words(old: &Side, new: &Side) -> String {
        let verdict = judge(old, new, false);
        assert_eq!(verdict.refusal, None);
        verdict.words.join("\n")
    }

    #[test]
    fn what_cannot_fit_is_refused_with_both_numbers() {
        let said = refusal(&disk("/new", 2, 700, 900), false);
        assert_eq!(
            said,
            "/old has 800 MiB in use, and /new has room for 700 MiB: it does not fit"
        );
        let said = refusal(&disk("/new", 2, 1000, 400), false);
        assert!(
            said.contains("500 files and directories") && said.contains("for 400"),
            "{said}"
        );
        assert_eq!(refusal(&disk("/new", 2, 950, 900), false), "");
        // What is adopted is taken away, or taken over.
        assert_eq!(refusal(&disk("/new", 2, 0, 0), true), "");
        let part = Side {
            whole: false,
            ..disk("/new", 2, 0, 0)
        };
        assert_eq!(refusal(&part, true), "");
        let squeezed = Side {
            compresses: true,
            ..disk("/new", 2, 700, 900)
        };
        assert!(words(&old(), &squeezed).contains("close"));
    }

    #[test]
    fn a_directory_of_a_larger_file_system_may_be_small() {
        let part = Side {
            whole: false,
            ..old()
        };
        assert_eq!(words(&part, &disk("/new", 2, 1, 1)), "");
    }

    #[test]
    fn what_is_close_or_where_nobody_wants_it_is_said() {
        assert_eq!(words(&old(), &disk("/new", 2, 950, 900)), "");
        assert!(words(&old(), &disk("/new", 2, 820, 900)).contains("this is close"));
        assert!(words(&old(), &disk("/new", 2, 950, 510)).contains("500 files"));
        let memory = Side {
            kind: "tmpfs".into(),
            ..disk("/new", 2, 950, 900)
        };
        assert!(words(&old(), &memory).contains("in memory (tmpfs)"));
        let root = Side {
            point: "/".into(),
            ..disk("/srv/new", 2, 950, 900)
        };
        assert!(words(&old(), &root).contains("root file system"));
        let same = Side {
            point: "/srv".into(),
            ..disk("/srv/new", 1, 1, 1)
        };
        assert!(words(&old(), &same).contains("same file system as /old (/srv)"));
        let partition = Side {
            disk: old().disk,
            ..disk("/new", 2, 950, 900)
        };
        assert!(words(&old(), &partition).contains("same disk as /old (sd1)"));
    }
}
