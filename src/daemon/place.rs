//! Gathering what [`crate::preflight`] decides on.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{OpenTreeFlags, UnmountFlags, open_tree, unmount};

use crate::bricks::{Brick, Bricks, Stand};
use crate::exit::{Code, Failure, Result};
use crate::mounts::{Mount, Mounts};
use crate::order::Order;
use crate::paths;
use crate::preflight::{Facts, Place, Standing};
use crate::run::{Record, Slot};

/// Makes the directory of the logs, and says which file is this daemon's.
pub(crate) fn log(order: &Order) -> Result<PathBuf> {
    let slot = Slot::new(&order.state_dir, &order.mountpoint);
    // Before anything is made: the state directory may be a brick by mistake.
    if order.serve {
        slot.prepare()?;
        return Ok(slot.log());
    }
    look(order, &Bricks::of(&order.graph()?))?;
    slot.prepare()?;
    Ok(slot.log())
}

/// Looks at everything, and refuses what cannot go well. Tells whether a dead mount of ours is in
/// the way, which will be replaced.
pub(crate) fn look(order: &Order, bricks: &Bricks) -> Result<Standing> {
    succeeded(order, bricks)?;
    let mounts = mounts()?;
    let over = is_over(order, bricks, &mounts);
    let mut places = Vec::new();
    for brick in bricks.all() {
        let Some(at) = brick.directory() else {
            continue;
        };
        let is_source = bricks
            .source()
            .is_some_and(|source| std::ptr::eq(source, brick));
        let place = match over && is_source {
            true => covered(&order.mountpoint, &mounts)?,
            false => Place::new(directory(at, &mounts)?, &mounts),
        };
        let left_out = brick.one_file_system || order.one_file_system;
        let place = match left_out {
            true => Place {
                left_out: Some(hidden(&place.path, &mounts)?),
                ..place
            },
            false => place,
        };
        places.push((brick.name.clone(), place));
    }
    let facts = Facts {
        bricks: places,
        standing: match standing(&order.mountpoint, &mounts) {
            Standing::Free | Standing::NotEmpty if over => Standing::Old,
            Standing::Mounted if over && !is_ours(&order.mountpoint, &mounts) => Standing::Old,
            standing => standing,
        },
        over,
        mount_point: Place::of_mount_point(order.mountpoint.clone(), &mounts),
        state_dir: Place::new(paths::future(&order.state_dir)?, &mounts),
        mounts,
    };
    let Some(sentence) = crate::preflight::obstacle(&facts) else {
        return Ok(facts.standing);
    };
    let ours = served(&Slot::new(&order.state_dir, &order.mountpoint));
    let ours = ours.filter(|_| facts.standing == Standing::Mounted);
    Err(ours.unwrap_or_else(|| Failure::configuration(sentence)))
}

/// Whether the mount point is the source itself. Neither is asked: either may be dead.
pub(crate) fn is_over(order: &Order, bricks: &Bricks, mounts: &Mounts) -> bool {
    let source = bricks
        .source()
        .and_then(Brick::directory)
        .map(|directory| paths::mount_point(directory, mounts));
    source.is_some_and(|source| source.is_ok_and(|source| source == order.mountpoint))
}

/// A source that our mount is to go over, or is over already.
fn covered(point: &Path, mounts: &Mounts) -> Result<Place> {
    if !is_ours(point, mounts) {
        return Ok(Place::new(directory(point, mounts)?, mounts));
    }
    Ok(Place {
        path: point.to_owned(),
        within: crate::over::target(mounts, point).map(|target| (target.device, target.root)),
        left_out: None,
    })
}

/// Mount points in a directory beneath which something lies that nobody sees.
fn hidden(directory: &Path, mounts: &Mounts) -> Result<Vec<PathBuf>> {
    let points: Vec<_> = mounts.below(directory).map(|mount| &mount.point).collect();
    if points.is_empty() || mounts.containing(directory).is_some_and(Mount::is_ours) {
        return Ok(Vec::new());
    }
    let clone = || {
        let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let brick = rustix::fs::open(directory, path, Mode::empty())?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&brick, c"", clone)
    };
    let alone = clone().map_err(|error| {
        let directory = directory.display();
        Failure::other(format!(
            "what lies beneath the mounts in {directory} cannot be looked at: {error}"
        ))
    })?;
    let has_something = |point: &Path| {
        let inside = point.strip_prefix(directory).ok()?;
        let beneath = Path::new("/proc/self/fd").join(alone.as_raw_fd().to_string());
        let beneath = beneath.join(inside);
        let meta = beneath.symlink_metadata().ok()?;
        match meta.is_dir() {
            true => beneath.read_dir().ok()?.next().map(drop),
            false => (meta.len() > 0).then_some(()),
        }
    };
    let hidden = points
        .into_iter()
        .filter(|point| has_something(point).is_some());
    Ok(hidden.cloned().collect())
}

fn is_ours(point: &Path, mounts: &Mounts) -> bool {
    mounts.at(point).is_some_and(Mount::is_ours)
}

/// The refusal when a daemon serves this mount point already.
pub(crate) fn served(slot: &Slot) -> Option<Failure> {
    if !slot.is_taken() {
        return None;
    }
    let record = slot.record()?;
    let bricks: Vec<String> = record
        .bricks
        .iter()
        .map(|(_, dir)| dir.display().to_string())
        .collect();
    Some(Failure::configuration(format!(
        "the mount point {} is in use: hermitfs (process {}) serves {} there",
        record.mountpoint.display(),
        record.pid,
        bricks.join(", ")
    )))
}

fn directory(path: &Path, mounts: &Mounts) -> Result<PathBuf> {
    // A dead mount of ours would answer that it is not connected, and a live one may be the very
    // one that is to be replaced: what is on one is told by its name alone.
    if mounts.containing(path).is_some_and(|mount| mount.is_ours()) {
        return Ok(path.to_owned());
    }
    let wrong = |what: &str| Failure::configuration(format!("the brick {} {what}", path.display()));
    let real = path.canonicalize().map_err(|error| match error.kind() {
        ErrorKind::NotFound => wrong("is not there"),
        ErrorKind::NotADirectory => wrong("is no directory"),
        _ => wrong(&format!("cannot be reached: {error}")),
    })?;
    match real.metadata() {
        Ok(meta) if meta.is_dir() => Ok(real),
        Ok(_) => Err(wrong("is no directory")),
        Err(error) => Err(wrong(&format!("cannot be reached: {error}"))),
    }
}

fn standing(point: &Path, mounts: &Mounts) -> Standing {
    match mounts.at(point) {
        Some(mount) if mount.is_ours() && hermitfs_fuse::is_dead(point) => {
            return Standing::DeadMount;
        }
        Some(_) => return Standing::Mounted,
        None => {}
    }
    match std::fs::read_dir(point) {
        Ok(mut entries) => match entries.next() {
            None => Standing::Free,
            Some(_) => Standing::NotEmpty,
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Standing::Missing,
        Err(_) => Standing::NoDirectory,
    }
}

/// The kernel's side of FUSE, before anything is written on a sink.
pub(crate) fn fuse_device() -> Result<()> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    let Err(error) = opened else { return Ok(()) };
    Err(match error.kind() {
        ErrorKind::PermissionDenied => Failure::new(
            Code::Permission,
            "/dev/fuse may not be opened here: a container needs that device and CAP_SYS_ADMIN",
        ),
        _ => Failure::other(format!(
            "/dev/fuse cannot be opened ({error}): load the kernel's module with `modprobe fuse`"
        )),
    })
}

/// Refuses bricks that another daemon works on.
pub(crate) fn unused(slot: &Slot, bricks: &Bricks) -> Result<()> {
    if bricks.all().count() < 2 {
        return Ok(());
    }
    for other in slot.others() {
        let shared = bricks
            .all()
            // What a leaf of another kind is called says nothing of where it is.
            .filter(|brick| !matches!(brick.stand, Stand::Elsewhere(_)))
            .find(|brick| other.bricks.iter().any(|(_, dir)| dir == brick.called()));
        if let Some(brick) = shared {
            return Err(Failure::configuration(format!(
                "{} is in use by the hermitfs that serves {} (process {}): end that one first",
                brick.called().display(),
                other.mountpoint.display(),
                other.pid
            )));
        }
    }
    Ok(())
}

/// All that is mounted.
pub(crate) fn mounts() -> Result<Mounts> {
    Mounts::read()
        .map_err(|error| Failure::other(format!("/proc/self/mountinfo cannot be read: {error}")))
}

/// A cut-over that was killed in its last moment is brought to its end, and there is nothing to begin.
fn succeeded(order: &Order, bricks: &Bricks) -> Result<()> {
    let point = &order.mountpoint;
    let is_so = || -> Result<bool> {
        let sink = successor(point, bricks, &mounts()?).filter(|sink| is_marked(sink));
        Ok(sink.is_some() && hermitfs_fuse::is_dead(point))
    };
    if !is_so()? {
        return Ok(());
    }
    // Nobody else is about to do the same: what he would take away then is the new brick.
    let slot = Slot::new(&order.state_dir, point);
    slot.prepare()?;
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::other(format!("{what} {}: {error}", point.display()))
    };
    let lock = slot
        .lock()
        .map_err(|error| failed("the lock cannot be taken of", &error))?;
    let table = mounts()?;
    let (Some(_lock), true, Some(sink)) = (lock, is_so()?, successor(point, bricks, &table)) else {
        return Ok(());
    };
    unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(|error| failed("the dead mount cannot be taken away at", &error))?;
    // Below the new brick it stays as it is.
    if !is_over(order, bricks, &table)
        && let Some(source) = bricks.source().and_then(Brick::directory)
    {
        crate::over::give_back_dead(&slot, source)
            .map_err(|error| failed("the old brick cannot be opened again after", &error))?;
    }
    let (at, new) = (point.display(), sink.display());
    Err(Failure::configuration(format!(
        "the cut-over of {at} was killed in its last moment, and is over now: {at} is {new}, which is complete and is \
         all that is to be used from here on; remove {new}/.hermitfs, and put the line for {at} into fstab"
    )))
}

/// Whether its marker says that it has taken the source's place. A cut-over that could not be ended takes that back:
/// then the source is newer.
fn is_marked(sink: &Path) -> bool {
    let text = std::fs::read(sink.join(".hermitfs/volume.json")).unwrap_or_default();
    let marker: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    marker["role"] == "successor"
}

/// The sink that a cut-over had put beneath our mount when it was killed, before that one went away. When it is marked
/// as the source's successor, nobody has changed the source since: users are to have it.
fn successor<'a>(point: &Path, bricks: &'a Bricks, mounts: &Mounts) -> Option<&'a Path> {
    let ours = mounts.at(point).filter(|mount| mount.is_ours())?;
    let beneath = mounts.by_id(ours.parent)?;
    if beneath.point != point || beneath.is_ours() {
        return None;
    }
    let mut sinks = bricks.sinks().filter_map(|(_, brick)| brick.directory());
    sinks.find(|sink| {
        let its = mounts.containing(sink);
        its.is_some_and(|its| {
            its.device == beneath.device && its.inside(sink).as_ref() == Some(&beneath.root)
        })
    })
}

/// Whether a dead mount was this very volume's: then nobody can have come to the source by it
/// meanwhile. Another volume's dead mount is not ours to take away.
pub(crate) fn continues(
    standing: Standing,
    last: Option<&Record>,
    bricks: &Bricks,
) -> Result<bool> {
    if standing != Standing::DeadMount {
        return Ok(false);
    }
    let Some(last) = last else { return Ok(false) };
    if last.is_of(bricks) {
        return Ok(true);
    }
    let names: Vec<String> = last
        .bricks
        .iter()
        .map(|(_, dir)| dir.display().to_string())
        .collect();
    Err(Failure::configuration(format!(
        "{} has the dead mount of another volume ({}): start that one again, or `umount` it first",
        last.mountpoint.display(),
        names.join(", ")
    )))
}

/// Whether the last run here had the very same bricks, all of this machine: then a new brick that is not there has failed,
/// and cannot have taken the old one's place elsewhere.
pub(crate) fn resumed(slot: &Slot, bricks: &Bricks) -> bool {
    let near = bricks.all().all(|brick| brick.directory().is_some());
    near && slot.record().is_some_and(|last| last.is_of(bricks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brick(directory: &str) -> Brick {
        Brick {
            name: directory.into(),
            stand: Stand::Directory(directory.into()),
            one_file_system: false,
        }
    }

    #[test]
    fn what_a_killed_cut_over_put_beneath_its_mount_is_the_successor() {
        const TABLE: &str = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
            2 1 8:2 / /srv rw - ext4 /dev/sdb rw\n\
            3 1 8:3 / /new rw - btrfs /dev/sdc rw\n\
            4 1 8:3 /deep /data rw - btrfs /dev/sdc rw\n\
            5 4 0:44 / /data rw - fuse.hermitfs hermitfs rw\n\
            6 1 0:45 / /free rw - fuse.hermitfs hermitfs rw\n";
        let mounts = Mounts::parse(TABLE.as_bytes());
        let of = |point: &str, bricks: &[&str]| {
            let mut all = bricks.iter().map(|directory| brick(directory));
            let bricks = Bricks::pair(all.next().unwrap(), all.collect());
            let found = successor(point.as_ref(), &bricks, &mounts);
            found.map(Path::to_owned)
        };
        assert_eq!(
            of("/data", &["/srv/old", "/srv/x", "/new/deep"]),
            Some("/new/deep".into())
        );
        assert_eq!(
            of("/data", &["/srv/old", "/new"]),
            None,
            "another directory"
        );
        assert_eq!(of("/data", &["/new/deep", "/srv/old"]), None, "no sink");
        assert_eq!(
            of("/free", &["/srv/old", "/new/deep"]),
            None,
            "nothing beneath"
        );
        assert_eq!(
            of("/new", &["/srv/old", "/new/deep"]),
            None,
            "no mount of ours"
        );
    }

    #[test]
    fn only_the_same_volume_goes_on_over_a_dead_mount() {
        let record = Record {
            pid: 1,
            mountpoint: "/data".into(),
            volfile: String::new(),
            bricks: vec![("a".into(), "/a".into()), ("b".into(), "/b".into())],
            volume_id: String::new(),
            log: None,
            command: String::new(),
            ended: None,
        };
        let pair = |new| Bricks::pair(brick("/a"), vec![brick(new)]);
        let same = pair("/b");
        assert_eq!(
            continues(Standing::DeadMount, Some(&record), &same),
            Ok(true)
        );
        assert_eq!(continues(Standing::Free, Some(&record), &same), Ok(false));
        assert_eq!(continues(Standing::DeadMount, None, &same), Ok(false));
        let other = continues(Standing::DeadMount, Some(&record), &pair("/c"));
        assert!(other.unwrap_err().message.contains("another volume"));
    }
}
