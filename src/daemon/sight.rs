//! Whether what we serve is still where it was: looked at in the table of mounts, as nobody tells a
//! daemon when its mount is taken away lazily, a brick is unmounted, or something is mounted in one.

use std::path::{Path, PathBuf};

use hermitfs_replicate::Leg;

use crate::bricks::{Brick, Bricks};
use crate::mounts::{Mount, Mounts};
use crate::preflight::Place;

/// How it was when we began.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    /// The mount point, and the device of what we mounted there.
    mount: Option<(PathBuf, (u32, u32))>,
    legs: Vec<(Leg, Was)>,
}

/// A brick of this machine, at its path.
#[derive(Debug)]
struct Was {
    place: Place,
    /// What was mounted in it already, and is left out.
    below: Vec<PathBuf>,
}

/// How it is now: what is wrong, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Users do not come to us by the mount point.
    pub(crate) mount: Option<String>,
    /// Bricks that are not to be found at their paths.
    pub(crate) gone: Vec<(Leg, String)>,
    /// Something is mounted in a brick, and hides what is to be moved.
    pub(crate) below: Vec<String>,
}

impl Scene {
    /// `ours` is the mount point and the device of the mount there. What our mount stands on is not
    /// looked for at its path.
    pub(crate) fn new(
        ours: Option<(&Path, (u32, u32))>,
        bricks: &Bricks,
        over: bool,
        mounts: &Mounts,
    ) -> Scene {
        let was = |(leg, brick): (Leg, &Brick)| {
            let directory = brick.directory()?;
            let was = Was {
                place: Place::new(directory.to_owned(), mounts),
                below: below(directory, ours.map(|(point, _)| point), mounts)
                    .map(|mount| mount.point.clone())
                    .collect(),
            };
            (!over || leg != Leg::Source).then_some((leg, was))
        };
        Scene {
            mount: ours.map(|(point, device)| (point.to_owned(), device)),
            legs: bricks.legs().filter_map(was).collect(),
        }
    }

    /// The mount as it was when it was at its place.
    pub(crate) fn mount(&self) -> Option<Mount> {
        let (point, device) = self.mount.as_ref()?;
        Some(Mount {
            id: 0,
            parent: 0,
            device: *device,
            root: "/".into(),
            point: point.clone(),
            options: String::new(),
            groups: Vec::new(),
            kind: "fuse.hermitfs".into(),
            source: "hermitfs".into(),
            super_options: String::new(),
        })
    }

    /// Compares. `is_same` is asked of a brick at whose path another mount is than there was: that
    /// may be the very same disk.
    pub(crate) fn look(&self, mounts: &Mounts, is_same: impl Fn(Leg, &Path) -> bool) -> Sight {
        let mut sight = Sight::default();
        let point = self.mount.as_ref().map(|(point, _)| point.as_path());
        if let Some((point, device)) = &self.mount {
            sight.mount = match mounts.at(point) {
                Some(mount) if mount.device == *device => None,
                Some(mount) => Some(format!(
                    "something else is mounted over {} ({} on {})",
                    point.display(),
                    mount.source.display(),
                    mount.kind
                )),
                None => Some(format!(
                    "nothing is mounted at {} any more",
                    point.display()
                )),
            };
        }
        for (leg, was) in &self.legs {
            let path = &was.place.path;
            let now = Place::new(path.clone(), mounts);
            if now.within != was.place.within && !is_same(*leg, path) {
                let gone = format!("{} is not mounted there any more", path.display());
                sight.gone.push((*leg, gone));
                continue;
            }
            for mount in below(path, point, mounts) {
                if !was.below.contains(&mount.point) {
                    sight.below.push(format!(
                        "something is mounted at {}, which hides what is to be moved: unmount it",
                        mount.point.display()
                    ));
                }
            }
        }
        sight
    }
}

impl Sight {
    /// Why a brick is not to be found.
    pub(crate) fn gone(&self, leg: Leg) -> Option<&str> {
        let mut gone = self.gone.iter();
        gone.find(|(its, _)| *its == leg)
            .map(|(_, gone)| gone.as_str())
    }

    /// What is in the way of a cut-over. The source may well be hidden from all but us.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let sinks = self.gone.iter().filter(|(leg, _)| *leg != Leg::Source);
        let all: Vec<&str> = self
            .mount
            .iter()
            .chain(sinks.map(|(_, gone)| gone))
            .chain(&self.below)
            .map(String::as_str)
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

fn below<'a>(
    directory: &'a Path,
    point: Option<&'a Path>,
    mounts: &'a Mounts,
) -> impl Iterator<Item = &'a Mount> {
    mounts
        .below(directory)
        .filter(move |mount| Some(mount.point.as_path()) != point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bricks::Stand;

    const BASE: &str = "1 0 8:1 / / rw - ext4 a rw\n";
    const OLD: &str = "2 1 8:2 / /srv/old rw - ext4 b rw\n";
    const NEW: &str = "3 1 8:3 / /srv/new rw - btrfs c rw\n";
    const OURS: &str = "4 1 0:50 / /data rw - fuse.hermitfs hermitfs rw\n";

    fn look(then: &[&str], now: &[&str]) -> Sight {
        let brick = |directory: &str| Brick {
            name: directory.into(),
            stand: Stand::Directory(directory.into()),
            one_file_system: false,
        };
        let bricks = Bricks::pair(brick("/srv/old"), vec![brick("/srv/new")]);
        let mounts = |lines: &[&str]| Mounts::parse(lines.concat().as_bytes());
        let ours = Some((Path::new("/data"), (0, 50)));
        let scene = Scene::new(ours, &bricks, false, &mounts(then));
        scene.look(&mounts(now), |_, _| false)
    }

    #[test]
    fn all_at_its_place_is_nothing_to_tell() {
        let all = [BASE, OLD, NEW, OURS];
        let sight = look(&all, &all);
        assert_eq!((sight.obstacle(), sight.gone), (None, Vec::new()));
    }

    #[test]
    fn a_mount_that_is_gone_or_covered_is_told() {
        let all = [BASE, OLD, NEW, OURS];
        let gone = look(&all, &[BASE, OLD, NEW]).obstacle().unwrap();
        assert!(gone.contains("nothing is mounted at /data"), "{gone}");
        let over = "5 4 0:60 / /data rw - tmpfs none rw\n";
        let covered = look(&all, &[BASE, OLD, NEW, OURS, over])
            .obstacle()
            .unwrap();
        assert!(covered.contains("over /data (none on tmpfs)"), "{covered}");
    }

    #[test]
    fn a_new_brick_that_is_unmounted_is_in_the_way_and_a_hidden_old_one_is_told() {
        let all = [BASE, OLD, NEW, OURS];
        let sight = look(&all, &[BASE, OLD, OURS]);
        assert!(sight.obstacle().unwrap().contains("/srv/new"));
        let sight = look(&all, &[BASE, NEW, OURS]);
        assert_eq!(sight.obstacle(), None);
        assert!(sight.gone(Leg::Source).unwrap().contains("/srv/old"));
    }

    #[test]
    fn what_is_mounted_in_a_brick_since_is_told_and_what_was_there_is_not() {
        let inside = "6 2 8:9 / /srv/old/disk rw - ext4 d rw\n";
        let all = [BASE, OLD, NEW, OURS];
        let with = [BASE, OLD, NEW, OURS, inside];
        assert!(
            look(&all, &with)
                .obstacle()
                .unwrap()
                .contains("/srv/old/disk")
        );
        assert_eq!(look(&with, &with).obstacle(), None);
    }
}
