//! The ways by which OLD can be reached when we stand over it: which mounts, of all namespaces,
//! show it or a part of it. A decision on mount tables, without a look at the system.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::mounts::{Mount, Mounts};

/// The mounts that a process sees.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// 0 for our own.
    pub(crate) pid: u32,
    pub(crate) process: String,
    pub(crate) mounts: Mounts,
}

/// OLD, as it is known to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The mount that ours stands on: OLD itself, or what OLD is a directory of.
    pub(crate) mount: u64,
    pub(crate) device: (u32, u32),
    /// Its directory on that file system.
    pub(crate) root: PathBuf,
    /// Whether OLD is a mount of its own, which the kernel shuts for us.
    pub(crate) is_mount: bool,
}

/// A way to OLD that is not by our mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) pid: u32,
    pub(crate) process: String,
    pub(crate) how: &'static str,
    pub(crate) path: PathBuf,
    /// Nothing can be changed by it; what is seen by it stays OLD's after the cut-over.
    pub(crate) read_only: bool,
}

/// Mounts that show OLD or a part of it and that our mount does not cover. `covers`: our mount is
/// there; otherwise what it will cover is told from the peer groups. `own`: mounts of ours.
pub(crate) fn ways(tables: &[Table], target: &Target, own: &[u64], covers: bool) -> Vec<Way> {
    let reached = reached(tables, target.mount);
    let mut seen: HashSet<u64> = own.iter().copied().collect();
    let mut ways = Vec::new();
    for table in tables {
        for mount in overlapping(&table.mounts, target) {
            let (point, whole) = shown_at(mount, target);
            let visible = table.mounts.containing(&point).map(|top| top.id) == Some(mount.id);
            let will_be_covered = !covers && whole && reached.contains(&mount.id);
            if visible && !will_be_covered && seen.insert(mount.id) {
                ways.push(Way {
                    pid: table.pid,
                    process: table.process.clone(),
                    how: match table.pid {
                        0 => "mount",
                        _ => "mount in its namespace",
                    },
                    path: point,
                    read_only: mount.is_read_only(),
                });
            }
        }
        ways.extend(overlays(table, target));
    }
    ways
}

/// Mounts of OLD's file system that show OLD, a part of it, or more than it.
pub(crate) fn overlapping<'a>(
    mounts: &'a Mounts,
    target: &'a Target,
) -> impl Iterator<Item = &'a Mount> {
    let overlaps = |mount: &&Mount| {
        mount.device == target.device
            && (mount.root.starts_with(&target.root) || target.root.starts_with(&mount.root))
    };
    mounts.0.iter().filter(overlaps)
}

/// Where a mount shows OLD, or the part of it that it shows; and whether that is all of it.
pub(crate) fn shown_at(mount: &Mount, target: &Target) -> (PathBuf, bool) {
    match mount.shows(&target.root) {
        Some(point) => (point, true),
        None => (mount.point.clone(), false),
    }
}

/// Mounts that get what is mounted on this one: its peers, their slaves, and so on.
fn reached(tables: &[Table], from: u64) -> HashSet<u64> {
    let all = || tables.iter().flat_map(|table| &table.mounts.0);
    let mut reached = HashSet::from([from]);
    let mut groups: Vec<&str> = all()
        .filter(|mount| mount.id == from)
        .filter_map(Mount::shares)
        .collect();
    let mut known: HashSet<&str> = groups.iter().copied().collect();
    while let Some(group) = groups.pop() {
        for mount in all() {
            if mount.shares() == Some(group) || mount.master() == Some(group) {
                reached.insert(mount.id);
                groups.extend(mount.shares().filter(|shared| known.insert(shared)));
            }
        }
    }
    reached
}

/// How an overlay is one.
pub(crate) const LAYER: &str = "layer of an overlay";

/// Whether a path without symbolic links leads into OLD.
pub(crate) fn is_in(table: &Table, target: &Target, path: &Path) -> bool {
    table.mounts.0.iter().any(|mount| {
        mount.device == target.device
            && mount
                .inside(path)
                .is_some_and(|inside| inside.starts_with(&target.root))
    })
}

/// An overlay holds its layers by private mounts, which no table shows.
fn overlays(table: &Table, target: &Target) -> Vec<Way> {
    let layers = |mount: &Mount| -> Vec<(PathBuf, bool)> {
        let options = mount.super_options.split(',');
        let named = options.filter_map(|option| option.split_once('='));
        named
            .flat_map(|(name, value)| match name {
                "upperdir" | "workdir" => vec![(PathBuf::from(value), false)],
                name if name.starts_with("lowerdir") => value
                    .split(':')
                    .map(|layer| (PathBuf::from(layer), true))
                    .collect(),
                _ => Vec::new(),
            })
            .collect()
    };
    let mut ways = Vec::new();
    for mount in table
        .mounts
        .0
        .iter()
        .filter(|mount| mount.kind == "overlay")
    {
        for (layer, read_only) in layers(mount) {
            if is_in(table, target, &layer) {
                ways.push(Way {
                    pid: table.pid,
                    process: table.process.clone(),
                    how: LAYER,
                    path: mount.point.clone(),
                    read_only,
                });
                break;
            }
        }
    }
    ways
}

/// Directories that the kernel's NFS server exports, in the text of /proc/fs/nfsd/exports, and by
/// which clients come to OLD.
pub(crate) fn exports(text: &str, old: &Path, is_mount: bool) -> Vec<Way> {
    let paths = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next());
    paths
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        // What is exported above OLD shows it only where it is no mount of its own.
        .filter(|path| path.starts_with(old) || !is_mount && old.starts_with(path))
        .map(|path| Way {
            pid: 0,
            process: "nfsd".into(),
            how: "NFS export",
            path,
            read_only: false,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pid: u32, text: &str) -> Table {
        Table {
            pid,
            process: if pid == 0 { "" } else { "other" }.into(),
            mounts: Mounts::parse(text.as_bytes()),
        }
    }

    /// OLD is the mount 2, or the directory /srv/old of the mount 1.
    fn target(is_mount: bool) -> Target {
        Target {
            mount: if is_mount { 2 } else { 1 },
            device: if is_mount { (8, 2) } else { (8, 1) },
            root: if is_mount { "/" } else { "/srv/old" }.into(),
            is_mount,
        }
    }

    fn found(tables: &[Table], is_mount: bool, covers: bool) -> Vec<String> {
        let ways = ways(tables, &target(is_mount), &[90], covers);
        ways.into_iter()
            .map(|way| {
                let writable = if way.read_only { "ro" } else { "rw" };
                format!("{} {writable} {}", way.pid, way.path.display())
            })
            .collect()
    }

    const OWN: &str = "1 0 8:1 / / rw shared:1 - ext4 a rw\n\
        2 1 8:2 / /srv/old rw shared:2 - ext4 b rw\n\
        90 1 8:2 / /state/old rw - ext4 b rw\n";

    #[test]
    fn nothing_but_ourselves_is_no_way() {
        for is_mount in [true, false] {
            let text = if is_mount {
                OWN
            } else {
                "1 0 8:1 / / rw - ext4 a rw\n"
            };
            assert!(found(&[table(0, text)], is_mount, false).is_empty());
        }
    }

    #[test]
    fn another_mount_of_the_same_directory_or_of_a_part_of_it_is_a_way() {
        let text = format!(
            "{OWN}3 1 8:2 / /again rw - ext4 b rw\n\
             4 1 8:2 /www /var/www rw shared:2 - ext4 b rw\n\
             5 1 8:2 / /backup ro - ext4 b rw\n\
             6 1 8:3 / /elsewhere rw - ext4 c rw\n"
        );
        assert_eq!(
            found(&[table(0, &text)], true, false),
            ["0 rw /again", "0 rw /var/www", "0 ro /backup"]
        );
    }

    #[test]
    fn a_part_in_the_peer_group_gets_nothing_of_what_covers_the_whole() {
        // mount --bind of a shared mount makes a peer: ours does not come to it.
        let text = format!("{OWN}4 1 8:2 /www /var/www rw shared:2 - ext4 b rw\n");
        assert_eq!(found(&[table(0, &text)], true, false), ["0 rw /var/www"]);
        let text = "1 0 8:1 / / rw shared:1 - ext4 a rw\n\
             4 1 8:1 /srv /bind rw shared:1 - ext4 a rw\n\
             5 1 8:1 /srv/old/x /part rw shared:1 - ext4 a rw\n\
             6 1 8:1 /srv/older /other rw shared:1 - ext4 a rw\n";
        // /bind/old gets ours as well, /part does not.
        assert_eq!(found(&[table(0, text)], false, false), ["0 rw /part"]);
    }

    #[test]
    fn namespaces_that_get_our_mount_are_no_way_and_those_that_do_not_are() {
        let copy = |first: u32, groups: [&str; 2]| {
            format!(
                "{first} 0 8:1 / / rw {} - ext4 a rw\n{} {first} 8:2 / /srv/old rw {} - ext4 b rw\n",
                groups[0],
                first + 1,
                groups[1]
            )
        };
        let tables = [
            table(0, OWN),
            table(11, &copy(20, ["shared:1", "shared:2"])),
            table(12, &copy(30, ["shared:7 master:1", "shared:8 master:2"])),
            table(13, &copy(40, ["master:7", "master:8"])),
            table(14, &copy(50, ["", ""]).replace("rw  -", "rw -")),
        ];
        assert_eq!(found(&tables, true, false), ["14 rw /srv/old"]);
        let mut private = tables.to_vec();
        private[0] = table(0, &OWN.replace(" shared:2", ""));
        assert_eq!(found(&private, true, false).len(), 4);
    }

    #[test]
    fn where_our_mount_stands_it_is_looked_at_and_not_foretold() {
        let over = format!("{OWN}91 2 0:50 / /srv/old rw - fuse.hermitfs h rw\n");
        assert!(found(&[table(0, &over)], true, true).is_empty());
        // It did not come to this namespace, whatever the groups say.
        let other = "20 0 8:1 / / rw shared:1 - ext4 a rw\n\
             21 20 8:2 / /srv/old rw shared:2 - ext4 b rw\n";
        let tables = [table(0, &over), table(11, other)];
        assert_eq!(found(&tables, true, true), ["11 rw /srv/old"]);
        assert!(found(&tables, true, false).is_empty());
    }

    #[test]
    fn what_another_mount_hides_is_no_way() {
        let text =
            format!("{OWN}3 1 8:2 / /again rw - ext4 b rw\n4 3 0:7 / /again rw - tmpfs t rw\n");
        assert!(found(&[table(0, &text)], true, false).is_empty());
    }

    #[test]
    fn a_layer_of_an_overlay_is_a_way_that_no_table_shows() {
        let overlay =
            |layers: &str| format!("{OWN}7 1 0:60 / /merged rw - overlay overlay rw,{layers}\n");
        let upper = overlay("lowerdir=/a:/b,upperdir=/srv/old/up,workdir=/srv/old/work");
        assert_eq!(found(&[table(0, &upper)], true, false), ["0 rw /merged"]);
        let lower = overlay("lowerdir=/a:/srv/old/low,upperdir=/x,workdir=/y");
        assert_eq!(found(&[table(0, &lower)], true, false), ["0 ro /merged"]);
        let none = overlay("lowerdir=/a:/srv/older,upperdir=/x,workdir=/y");
        assert!(found(&[table(0, &none)], true, false).is_empty());
    }

    #[test]
    fn an_export_is_a_way() {
        let text = "# Version 1.1\n/srv *(rw)\n/srv/old/home\\040x 10.0.0.0/8(rw)\n/other *(ro)\n";
        let paths = |is_mount| -> Vec<PathBuf> {
            let ways = exports(text, Path::new("/srv/old"), is_mount);
            ways.into_iter().map(|way| way.path).collect()
        };
        assert_eq!(paths(true), [PathBuf::from("/srv/old/home x")]);
        assert_eq!(paths(false).len(), 2);
    }
}
