//! What mount(8) forbids where OLD is, it forbids in our mount: a set-uid file that is dead there is
//! dead here, and in the new brick that takes the place. The mount table is asked, not the file system.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hermitfs_fuse::{Atime, Attributes};
use hermitfs_posix::OwnMount;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};

use super::serve::Daemon;
use crate::bricks::{Brick, Bricks};
use crate::exit::{Failure, Result};
use crate::mounts::{Mount, Mounts};
use crate::order::Order;
use crate::sys;

/// How often it is seen whether a daemon is still there.
const ALIVE: Duration = Duration::from_secs(1);

/// What our mount took over from the one that the source is on.
#[derive(Clone, Debug)]
pub(crate) struct Inherited {
    /// The source's mount.
    mount: u64,
    /// What was asked for with `-o`, which goes before what the source has.
    asked: Vec<String>,
    /// As the source's mount was seen last.
    seen: Attributes,
    /// The file system itself is read-only, which is no wish of its administrator for another one.
    disk_is_read_only: bool,
}

impl Inherited {
    /// Of a source in this process' reach. `shut`: its mount is read-only because of us.
    pub(crate) fn of_source(
        order: &Order,
        bricks: &Bricks,
        mounts: &Mounts,
        shut: impl Fn(&Mount) -> bool,
    ) -> Option<Inherited> {
        let mount = source(bricks, mounts)?;
        let mut seen = mount.attributes();
        seen.read_only &= !shut(mount);
        Some(Inherited {
            mount: mount.id,
            asked: order.options.clone(),
            seen,
            disk_is_read_only: mount.disk_is_read_only(),
        })
    }

    /// What our mount is to have.
    pub(crate) fn attributes(&self) -> Attributes {
        let seen = Attributes {
            read_only: self.seen.read_only || self.disk_is_read_only,
            ..self.seen
        };
        asked(&self.asked, seen).unwrap_or(seen)
    }

    /// The mount is read-only for the file system's sake alone.
    pub(crate) fn disk_is_read_only(&self) -> bool {
        let wished = asked(&self.asked, self.seen).is_ok_and(|wished| wished.read_only);
        self.disk_is_read_only && !wished
    }

    /// What is to be set and cleared on our mount, now that the source's is seen like this.
    fn change(&mut self, now: Attributes) -> Option<(u64, u64)> {
        let before = self.attributes();
        self.seen = Attributes {
            // The source itself answers EROFS, and while we are there its mount is shut by us.
            read_only: self.seen.read_only,
            ..now
        };
        let after = self.attributes();
        let (old, new) = (before.bits(), after.bits());
        let atime = match before.atime == after.atime {
            true => 0,
            false => libc::MOUNT_ATTR__ATIME,
        };
        let flags = !libc::MOUNT_ATTR__ATIME;
        let set = (new & !old & flags) | (new & atime);
        let clear = (old & !new & flags) | atime;
        (before != after).then_some((set, clear))
    }
}

/// The mount that the source is on, below what of ours may lie over it.
fn source<'a>(bricks: &Bricks, mounts: &'a Mounts) -> Option<&'a Mount> {
    let named = bricks.source().and_then(Brick::directory)?;
    let ours = mounts.containing(named).is_some_and(Mount::is_ours);
    let real: PathBuf = match ours {
        true => named.to_owned(),
        false => named.canonicalize().ok()?,
    };
    mounts.by_id(crate::over::target(mounts, &real)?.mount)
}

/// Options of the mount, on top of what the source has.
fn asked(options: &[String], source: Attributes) -> Result<Attributes> {
    let mut all = hermitfs_fuse::Options {
        attributes: source,
        ..hermitfs_fuse::Options::default()
    };
    for list in options {
        all.set_all(list)
            .map_err(|error| Failure::usage(error.to_string()))?;
    }
    Ok(all.attributes)
}

/// How the source of a pair is opened: by a mount of our own, as its own path is shut.
pub(super) fn pairs_own(inherited: Option<&Inherited>, attributes: Attributes) -> OwnMount {
    let source = inherited.is_some_and(|has| has.seen.read_only || has.disk_is_read_only);
    OwnMount {
        read_only: Some(attributes.read_only || source),
        no_atime: attributes.atime == Atime::Never,
    }
}

/// How the brick that users see is to be opened, so that it keeps what the mount promises: what is
/// read-only, or keeps no access times, leaves no trace on the only copy.
pub(super) fn own_mount(attributes: Attributes) -> Option<OwnMount> {
    let own = OwnMount {
        read_only: attributes.read_only.then_some(true),
        no_atime: attributes.atime == Atime::Never,
    };
    (own != OwnMount::default()).then_some(own)
}

/// Does to our mount what is done to the source's, as `mount -o remount,nosuid`, until the daemon is
/// gone.
pub(super) fn follow(daemon: &Weak<Daemon>) {
    let Ok(table) = std::fs::File::open("/proc/self/mountinfo") else {
        return tracing::warn!(
            "/proc/self/mountinfo cannot be read: a remount of the old brick is not followed"
        );
    };
    let second = Timespec::try_from(ALIVE).ok();
    loop {
        // The kernel says so when any mount has changed since.
        let mut watched = [PollFd::new(&table, PollFlags::PRI)];
        let _ = poll(&mut watched, second.as_ref());
        let Some(daemon) = daemon.upgrade() else {
            return;
        };
        look(&daemon);
        if let Some(beside) = &daemon.beside {
            beside.look();
        }
    }
}

/// Takes over what has changed on the source's mount since the last look.
pub(super) fn look(daemon: &Arc<Daemon>) {
    let mut inherited = daemon.inherited.lock();
    let Some(inherited) = inherited.as_mut() else {
        return;
    };
    let Ok(mounts) = Mounts::read() else { return };
    let Some(now) = mounts.by_id(inherited.mount).map(Mount::attributes) else {
        return;
    };
    let before = inherited.seen;
    let Some((set, clear)) = inherited.change(now) else {
        return;
    };
    let words = now.to_string();
    let done = own_root(daemon).and_then(|root| sys::set_attributes(root, set, clear));
    match done {
        Ok(()) => tracing::info!(
            mount = words,
            "the old brick was mounted anew, and the mount with it"
        ),
        Err(error) => {
            // Tried again at the next look.
            inherited.seen = before;
            tracing::error!(%error, mount = words, "the mount cannot be made what the old brick is mounted as");
        }
    }
}

/// Our mount's root, and nobody else's.
fn own_root(daemon: &Daemon) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = open(&daemon.record.mountpoint, flags, Mode::empty())?;
    // statx(2) would ask ourselves.
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", root.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let id = id.and_then(|id| id.trim().parse().ok());
    match id.is_some() && id == daemon.mount.id() {
        true => Ok(root),
        false => Err(std::io::Error::other("something else is mounted over it")),
    }
}

/// What the new brick is mounted as in the mount's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Successor {
    pub(super) attributes: Attributes,
    /// Sentences that say where it differs from how the new brick is mounted at its own path.
    pub(super) notes: Vec<String>,
}

/// Users find in it what they found before: nothing that was dead comes to life, nothing that ran stops.
/// `new`: how the new brick is mounted at its own path.
pub(super) fn successor(
    ours: Attributes,
    disk_is_read_only: bool,
    new: Attributes,
    paths: (&Path, &Path),
) -> Successor {
    let attributes = Attributes {
        read_only: ours.read_only && !disk_is_read_only,
        // Of the other two it has what its administrator has chosen, if he has.
        atime: match new.atime {
            Atime::Relative => ours.atime,
            chosen => chosen,
        },
        no_dir_atime: ours.no_dir_atime || new.no_dir_atime,
        ..ours
    };
    let (place, own) = (paths.0.display(), paths.1.display());
    let (here, there) = (attributes.words(), new.words());
    let only = |these: &[&'static str], those: &[&'static str]| -> String {
        let words = these
            .iter()
            .filter(|word| !those.contains(word) && !word.contains("atime"));
        words.copied().collect::<Vec<_>>().join(",")
    };
    let mut notes = Vec::new();
    let (kept, lost) = (only(&here, &there), only(&there, &here));
    if !kept.is_empty() {
        notes.push(format!(
            "{place} stays {kept}, as the old brick is mounted. {own} is not: `mount -o remount,bind,{kept} {own}`, or \
             unmount it, before anybody uses it there."
        ));
    }
    if !lost.is_empty() {
        notes.push(format!(
            "{own} is mounted {lost}; {place} is not, as the old brick is not. To have it so: `mount -o \
             remount,bind,{lost} {place}`."
        ));
    }
    Successor { attributes, notes }
}

/// Sentences about a new brick that can be reached at its own path, and allows there what the old one forbids.
pub(super) fn warnings(inherited: &Inherited, bricks: &Bricks, mounts: &Mounts) -> Vec<String> {
    let wanted = inherited.attributes();
    let near = bricks.sinks().filter_map(|(_, brick)| brick.directory());
    near.filter_map(|directory| {
        let mount = mounts.containing(&directory.canonicalize().ok()?)?;
        let has = mount.attributes();
        let missing: Vec<&str> = [
            (wanted.no_suid && !has.no_suid).then_some("nosuid"),
            (wanted.no_dev && !has.no_dev).then_some("nodev"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let (path, words) = (directory.display(), missing.join(","));
        (!missing.is_empty()).then(|| {
            format!(
                "the old brick is mounted {words} and {path} is not: who reaches {path} by its own path can use there \
                 what is dead in the old one; `mount -o remount,bind,{words} {}`",
                mount.point.display()
            )
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(options: &str) -> Attributes {
        Attributes::of_mount(options)
    }

    fn inherited(seen: &str, asked: &[&str]) -> Inherited {
        Inherited {
            mount: 1,
            asked: asked.iter().map(|&list| list.to_owned()).collect(),
            seen: attributes(seen),
            disk_is_read_only: false,
        }
    }

    #[test]
    fn what_is_asked_for_goes_before_what_the_source_has() {
        let has = |seen, asked: &[&str]| inherited(seen, asked).attributes().to_string();
        assert_eq!(has("rw,nosuid,nodev,noatime", &[]), "nosuid,nodev,noatime");
        assert_eq!(has("rw,nosuid,relatime", &["suid,noexec"]), "noexec");
        assert_eq!(has("ro,relatime", &["threads=4"]), "ro");
        assert_eq!(has("rw,noatime", &["strictatime"]), "strictatime");
    }

    #[test]
    fn a_file_system_that_is_read_only_makes_the_mount_so_and_not_the_new_brick() {
        let broken = Inherited {
            disk_is_read_only: true,
            ..inherited("rw,relatime", &[])
        };
        assert!(broken.attributes().read_only);
        let paths = (Path::new("/data"), Path::new("/new"));
        let after = successor(broken.attributes(), true, attributes("rw,relatime"), paths);
        assert_eq!(
            (after.attributes, after.notes),
            (Attributes::default(), vec![])
        );
    }

    #[test]
    fn a_remount_of_the_source_is_followed_where_nothing_else_was_asked_for() {
        let mut followed = inherited("rw,relatime", &["nodev"]);
        assert_eq!(followed.change(attributes("rw,relatime,nodev")), None);
        assert_eq!(
            followed.change(attributes("ro,nosuid,noexec,nodev,noatime")),
            Some((
                libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOATIME,
                libc::MOUNT_ATTR__ATIME
            )),
            "that it is read-only may be our doing"
        );
        assert_eq!(
            followed.change(attributes("rw,nosuid,noatime")),
            Some((0, libc::MOUNT_ATTR_NOEXEC)),
            "nodev was asked for"
        );
    }

    #[test]
    fn the_new_brick_comes_as_users_had_the_old_one() {
        let paths = (Path::new("/data"), Path::new("/srv/new"));
        let after = |ours, new| successor(attributes(ours), false, attributes(new), paths);
        let weaker = after("rw,nosuid,nodev,relatime", "rw,noatime");
        assert_eq!(weaker.attributes.to_string(), "nosuid,nodev,noatime");
        assert!(weaker.notes[0].contains("remount,bind,nosuid,nodev /srv/new"));
        let stronger = after("rw,relatime", "rw,noexec,relatime");
        assert_eq!(stronger.attributes.to_string(), "defaults");
        assert!(stronger.notes[0].contains("remount,bind,noexec /data"));
        let same = after("rw,nosuid,noatime", "rw,nosuid,relatime");
        assert_eq!(same.attributes.to_string(), "nosuid,noatime");
        assert!(same.notes.is_empty());
    }

    #[test]
    fn what_must_leave_no_trace_gets_a_mount_of_its_own() {
        let own = |options| own_mount(attributes(options));
        assert_eq!(own("rw,nosuid,relatime"), None);
        let read_only = own("ro,relatime").unwrap();
        assert_eq!(
            (read_only.read_only, read_only.no_atime),
            (Some(true), false)
        );
        assert!(own("rw,noatime").unwrap().no_atime);
    }
}
