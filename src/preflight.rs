//! What must be right before anything is touched: where the bricks, the mount point and the
//! state stand to each other. The decision is taken on facts that were gathered before, so that
//! it can be tried without a disk.

use std::path::{Path, PathBuf};

use crate::mounts::{Mount, Mounts};

/// A directory as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Without symbolic links.
    pub(crate) path: PathBuf,
    /// Its device, and its path within that file system: the same for two bind mounts of it.
    pub(crate) within: Option<((u32, u32), PathBuf)>,
    /// What is mounted in it is left out, if nothing lies hidden beneath: where something does.
    pub(crate) left_out: Option<Vec<PathBuf>>,
}

impl Place {
    /// A path without symbolic links, located in the mount table.
    pub(crate) fn new(path: PathBuf, mounts: &Mounts) -> Place {
        let within = mounts
            .containing(&path)
            .and_then(|mount| within(mount, &path));
        Place {
            path,
            within,
            left_out: None,
        }
    }

    /// A mount point: located in what it is on, not in what may be mounted on it.
    pub(crate) fn of_mount_point(path: PathBuf, mounts: &Mounts) -> Place {
        let name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let within = mounts
            .containing(parent)
            .and_then(|mount| within(mount, parent))
            .map(|(device, inside)| (device, inside.join(name)));
        Place {
            path,
            within,
            left_out: None,
        }
    }

    fn is(&self, other: &Place) -> bool {
        self.path == other.path || self.within.is_some() && self.within == other.within
    }

    fn is_inside(&self, other: &Place) -> bool {
        let by_path = self.path != other.path && self.path.starts_with(&other.path);
        let by_place = match (&self.within, &other.within) {
            (Some((device, inside)), Some((other_device, outer))) => {
                device == other_device && inside != outer && inside.starts_with(outer)
            }
            _ => false,
        };
        by_path || by_place
    }
}

fn within(mount: &Mount, path: &Path) -> Option<((u32, u32), PathBuf)> {
    Some((mount.device, mount.inside(path)?))
}

/// What stands at the mount point now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// An empty directory.
    Free,
    /// A mount of ours whose daemon was killed: to be replaced.
    DeadMount,
    /// Nothing at all.
    Missing,
    /// A directory with something in it, that would be hidden.
    NotEmpty,
    /// Something that is no directory.
    NoDirectory,
    /// A mount of somebody.
    Mounted,
    /// The source, that is to be mounted over.
    Old,
}

/// All that is known before the start.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Bricks, the source first; with the names that they have in the volfile.
    pub(crate) bricks: Vec<(String, Place)>,
    pub(crate) mount_point: Place,
    pub(crate) standing: Standing,
    pub(crate) state_dir: Place,
    pub(crate) mounts: Mounts,
    /// The mount point is the source itself.
    pub(crate) over: bool,
}

/// The first sentence that speaks against a start; `None` when nothing does.
pub(crate) fn obstacle(facts: &Facts) -> Option<String> {
    let mut pairs = bricks_to_each_other(facts);
    pairs
        .next()
        .or_else(|| mounts_in_bricks(facts))
        .or_else(|| mount_point_to_bricks(facts))
        .or_else(|| state_to_the_rest(facts))
        .or_else(|| mount_point_itself(facts))
}

fn bricks_to_each_other(facts: &Facts) -> impl Iterator<Item = String> + '_ {
    let bricks = &facts.bricks;
    let pairs = (0..bricks.len()).flat_map(move |i| (i + 1..bricks.len()).map(move |j| (i, j)));
    pairs.filter_map(|(i, j)| {
        let (a, b) = (&facts.bricks[i].1, &facts.bricks[j].1);
        let (a_path, b_path) = (a.path.display(), b.path.display());
        if a.is(b) {
            return Some(format!(
                "{a_path} and {b_path} are the same directory: a brick cannot be healed from itself"
            ));
        }
        if b.is_inside(a) {
            return Some(format!(
                "{b_path} is inside {a_path}: healing would never end"
            ));
        }
        if a.is_inside(b) {
            return Some(format!(
                "{a_path} is inside {b_path}: the new brick would contain the old one"
            ));
        }
        None
    })
}

fn mounts_in_bricks(facts: &Facts) -> Option<String> {
    facts.bricks.iter().enumerate().find_map(|(n, (_, brick))| {
        let path = brick.path.display();
        let covered = facts.over && n == 0;
        if !covered && facts.mounts.containing(&brick.path).is_some_and(Mount::is_ours) {
            return Some(format!("{path} is itself a mount of hermitfs: give the directory behind it"));
        }
        // One at the mount point is the mount point's matter.
        let below: Vec<String> = facts
            .mounts
            .below(&brick.path)
            .filter(|mount| mount.point != facts.mount_point.path)
            .map(|mount| mount.point.display().to_string())
            .collect();
        if below.is_empty() {
            return None;
        }
        let below = below.join(", ");
        match &brick.left_out {
            _ if covered => Some(format!(
                "something is mounted below {path}, where nobody would find it under our mount: {below}; \
                 unmount it, or mount elsewhere than over the old brick"
            )),
            None => Some(format!(
                "something is mounted below {path}, which would not be moved: {below}; unmount it and \
                 move it by itself, or leave it out with --one-file-system"
            )),
            Some(hidden) if !hidden.is_empty() => {
                let hidden: Vec<_> = hidden.iter().map(|path| path.display().to_string()).collect();
                Some(format!(
                    "something lies hidden beneath what is mounted at {}, and would come to light: \
                     unmount that and look, or bind-mount {path} elsewhere to see it",
                    hidden.join(", ")
                ))
            }
            Some(_) => None,
        }
    })
}

fn mount_point_to_bricks(facts: &Facts) -> Option<String> {
    let at = &facts.mount_point;
    // Over the source it stands on purpose.
    let bricks = facts
        .bricks
        .iter()
        .enumerate()
        .skip(usize::from(facts.over));
    bricks.into_iter().find_map(|(n, (_, brick))| {
        let (path, point) = (brick.path.display(), at.path.display());
        if at.is(brick) {
            return Some(match n {
                0 => format!("the mount point {point} is the old brick {path} by another name: give one name for both"),
                _ => format!("the mount point {point} is the new brick {path}: mount it elsewhere"),
            });
        }
        if at.is_inside(brick) {
            return Some(format!("the mount point {point} is inside the brick {path}: mount it elsewhere"));
        }
        if brick.is_inside(at) {
            return Some(format!("the brick {path} is inside the mount point {point}, which would hide it"));
        }
        None
    })
}

fn state_to_the_rest(facts: &Facts) -> Option<String> {
    let state = &facts.state_dir;
    let mut places: Vec<(&Place, &str)> = facts
        .bricks
        .iter()
        .map(|(_, brick)| (brick, "the brick"))
        .collect();
    places.push((&facts.mount_point, "the mount point"));
    places
        .into_iter()
        .find(|(place, _)| state.is(place) || state.is_inside(place))
        .map(|(place, what)| {
            format!(
                "the state directory {} is inside {what} {}: give another one with --state-dir",
                state.path.display(),
                place.path.display()
            )
        })
}

fn mount_point_itself(facts: &Facts) -> Option<String> {
    let point = facts.mount_point.path.display();
    match facts.standing {
        Standing::Free | Standing::DeadMount | Standing::Old => None,
        Standing::Missing => Some(format!(
            "the mount point {point} is not there: create the directory first"
        )),
        Standing::NotEmpty => Some(format!(
            "the mount point {point} is not empty: what is in it would be hidden; give an empty directory"
        )),
        Standing::NoDirectory => Some(format!("the mount point {point} is no directory")),
        Standing::Mounted => {
            let what = facts
                .mounts
                .at(&facts.mount_point.path)
                .map_or_else(String::new, |mount| {
                    format!(" ({} on {})", mount.source.display(), mount.kind)
                });
            Some(format!(
                "the mount point {point} is in use: something is mounted there already{what}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
        2 1 8:2 / /srv/old rw - ext3 /dev/sdb rw\n\
        3 1 8:3 / /srv/new rw - btrfs /dev/sdc rw\n\
        4 1 8:2 /deep /bind rw - ext3 /dev/sdb rw\n\
        5 1 8:2 / /again rw - ext3 /dev/sdb rw\n\
        6 1 0:44 / /fuse rw - fuse.hermitfs hermitfs rw\n\
        7 1 8:4 / /tmp/full rw - tmpfs none rw\n\
        8 1 8:5 / /srv/nest rw - ext4 /dev/sdd rw\n\
        9 8 8:6 / /srv/nest/below rw - ext4 /dev/sde rw\n";

    fn said(old: &str, new: &str, mount_point: &str, state: &str, standing: Standing) -> String {
        let mounts = Mounts::parse(TABLE.as_bytes());
        let place = |path: &str| Place::new(path.into(), &mounts);
        let facts = Facts {
            bricks: vec![("old".into(), place(old)), ("new".into(), place(new))],
            mount_point: Place::of_mount_point(mount_point.into(), &mounts),
            standing,
            state_dir: place(state),
            mounts: mounts.clone(),
            over: old == mount_point,
        };
        obstacle(&facts).unwrap_or_default()
    }

    fn between(old: &str, new: &str) -> String {
        said(old, new, "/data", "/var/lib/hermitfs", Standing::Free)
    }

    #[test]
    fn an_ordinary_pair_may_start_also_over_its_dead_mount() {
        assert_eq!(between("/srv/old", "/srv/new"), "");
        assert_eq!(
            said("/srv/old", "/srv/new", "/data", "/s", Standing::DeadMount),
            ""
        );
        assert_eq!(between("/srv/old/a", "/srv/old/b"), "");
    }

    #[test]
    fn bricks_within_each_other_are_refused_also_through_bind_mounts() {
        assert!(between("/srv/old", "/srv/old").contains("same directory"));
        assert!(between("/srv/old", "/again").contains("same directory"));
        assert!(between("/srv/old", "/srv/old/x").contains("/srv/old/x is inside /srv/old"));
        assert!(between("/srv/old/x", "/srv/old").contains("/srv/old/x is inside /srv/old"));
        assert!(between("/srv/old", "/bind/x").contains("is inside"));
        assert!(between("/bind", "/again").contains("is inside"));
        assert_eq!(between("/srv/older", "/srv/old"), "");
    }

    #[test]
    fn a_brick_with_mounts_below_or_on_a_mount_of_ours_is_refused() {
        assert!(between("/srv/nest", "/srv/new").contains("/srv/nest/below"));
        assert!(between("/srv/old", "/fuse/x").contains("itself a mount of hermitfs"));
    }

    #[test]
    fn mounts_below_a_brick_may_be_left_out_where_they_hide_nothing() {
        let mounts = Mounts::parse(TABLE.as_bytes());
        let with = |left_out, over: bool| {
            let place = |path: &str| Place::new(path.into(), &mounts);
            let nest = Place {
                left_out,
                ..place("/srv/nest")
            };
            let point = if over { "/srv/nest" } else { "/data" };
            obstacle(&Facts {
                bricks: vec![("old".into(), nest), ("new".into(), place("/srv/new"))],
                mount_point: Place::of_mount_point(point.into(), &mounts),
                standing: if over { Standing::Old } else { Standing::Free },
                state_dir: place("/s"),
                mounts: mounts.clone(),
                over,
            })
            .unwrap_or_default()
        };
        assert!(with(None, false).contains("--one-file-system"));
        assert_eq!(with(Some(vec![]), false), "");
        let hidden = with(Some(vec!["/srv/nest/below".into()]), false);
        assert!(hidden.contains("hidden beneath") && hidden.contains("/srv/nest/below"));
        let over = with(Some(vec![]), true);
        assert!(over.contains("/srv/nest/below") && over.contains("mount elsewhere"));
    }

    #[test]
    fn the_mount_point_stands_apart_from_the_bricks() {
        let at = |point| said("/srv/old", "/srv/new", point, "/s", Standing::Free);
        assert!(at("/srv/old/data").contains("inside the brick /srv/old"));
        assert!(at("/srv/new").contains("is the new brick"));
        let named = said("/srv/old", "/srv/new", "/again", "/s", Standing::Mounted);
        // Its parent is not on the brick's file system: what is mounted there tells.
        assert!(named.contains("mounted there already"));
        let named = said(
            "/srv/old/x",
            "/srv/new",
            "/again/x",
            "/s",
            Standing::NotEmpty,
        );
        assert!(named.contains("by another name"));
        assert!(at("/srv").contains("would hide it"));
        assert!(at("/again/data").contains("inside the brick"));
    }

    #[test]
    fn the_mount_point_may_be_the_source_itself() {
        let over = |old, new, state| said(old, new, old, state, Standing::Old);
        assert_eq!(over("/srv/old", "/srv/new", "/s"), "");
        assert_eq!(over("/srv/old/x", "/srv/new", "/s"), "");
        assert!(over("/srv/old", "/srv/old/new", "/s").contains("is inside /srv/old"));
        assert!(over("/srv/old", "/srv/new", "/srv/old/s").contains("the state directory"));
        assert!(over("/srv/nest", "/srv/new", "/s").contains("/srv/nest/below"));
    }

    #[test]
    fn the_mount_point_must_be_an_empty_directory() {
        let at = |standing| said("/srv/old", "/srv/new", "/tmp/full", "/s", standing);
        assert!(at(Standing::Missing).contains("create the directory"));
        assert!(at(Standing::NotEmpty).contains("not empty"));
        assert!(at(Standing::NoDirectory).contains("no directory"));
        assert!(
            at(Standing::Mounted).contains("in use") && at(Standing::Mounted).contains("tmpfs")
        );
    }

    #[test]
    fn the_state_stands_apart_from_all_of_them() {
        let at = |state| said("/srv/old", "/srv/new", "/data", state, Standing::Free);
        assert!(at("/srv/old/state").contains("inside the brick /srv/old"));
        assert!(at("/srv/new").contains("the state directory"));
        assert!(at("/data/state").contains("inside the mount point"));
    }
}
