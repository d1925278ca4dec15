//! Overlays that write to OLD, and whose options do not say so: the kernel tells an upper directory as
//! it was given, by a relative path or through symbolic links.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatVfs, StatxFlags, fstatvfs, open, statvfs, statx};

use super::ways::{LAYER, Table, Target, Way, is_in, ways};
use crate::mounts::{Mount, unescape};
use crate::users::way;

/// As many symbolic links as the kernel follows.
const LINKS: usize = 40;

/// How often two file systems are compared: the same one changes between two looks.
const LOOKS: usize = 16;

/// The ways that the tables show, and these.
pub(super) fn every_way(tables: &[Table], target: &Target, own: &[u64], covers: bool) -> Vec<Way> {
    let mut found = ways(tables, target, own, covers);
    let disk = tables.first().and_then(|own| disk(own, target));
    let mut seen = HashSet::new();
    for table in tables {
        let mounts = table.mounts.0.iter();
        for mount in mounts.filter(|mount| mount.kind == "overlay") {
            let Some(upper) = upper(&mount.super_options) else {
                continue;
            };
            let is_listed = found
                .iter()
                .any(|way| way.how == LAYER && way.path == mount.point);
            if is_listed || !seen.insert(mount.device) {
                continue;
            }
            let there = match upper.is_absolute() {
                true => is_in(table, target, &resolve(table, &upper)),
                false => disk
                    .as_ref()
                    .is_some_and(|disk| stands_on(table.pid, mount, disk)),
            };
            if there {
                found.push(Way {
                    pid: table.pid,
                    process: table.process.clone(),
                    how: LAYER,
                    path: mount.point.clone(),
                    read_only: false,
                });
            }
        }
    }
    found
}

/// The directory that an overlay writes to.
fn upper(options: &str) -> Option<PathBuf> {
    let mut named = options
        .split(',')
        .filter_map(|option| option.split_once('='));
    let (_, path) = named.find(|(name, _)| *name == "upperdir")?;
    Some(unescape(path.as_bytes()))
}

/// Where OLD's file system is seen; `None` where OLD is a part of it: which part an overlay stands
/// on cannot be found out.
fn disk(own: &Table, target: &Target) -> Option<PathBuf> {
    let mut mounts = own.mounts.0.iter();
    let seen = mounts.find(|mount| {
        let top = own.mounts.containing(&mount.point).map(|top| top.id);
        mount.device == target.device && top == Some(mount.id)
    });
    let whole = target.is_mount && target.root == Path::new("/");
    seen.filter(|_| whole).map(|mount| mount.point.clone())
}

/// Whether an overlay's upper directory is on a file system: statfs(2) of an overlay tells what is
/// true of that, but for the type, and the id where it has one of its own.
fn stands_on(pid: u32, overlay: &Mount, disk: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = open(way(pid, &overlay.point), flags, Mode::empty()) else {
        return false;
    };
    let stat = statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    let is_it = stat.is_ok_and(|stat| (stat.stx_dev_major, stat.stx_dev_minor) == overlay.device);
    is_it
        && (0..LOOKS).any(|_| match (fstatvfs(&root), statvfs(disk)) {
            (Ok(overlay), Ok(disk)) => is_same(&overlay, &disk),
            _ => false,
        })
}

fn is_same(one: &StatVfs, other: &StatVfs) -> bool {
    let told = |stat: &StatVfs| (stat.f_bsize, stat.f_blocks, stat.f_bfree, stat.f_files);
    let has_id = one.f_fsid != 0;
    has_id && one.f_fsid == other.f_fsid || one.f_blocks > 0 && told(one) == told(other)
}

/// A path without its symbolic links, as a process sees it. What is in a mount of ours is not looked
/// at: that may stand still, and wait for us.
fn resolve(table: &Table, path: &Path) -> PathBuf {
    let is_ours = |path: &Path| {
        let mut mounts = table.mounts.0.iter();
        mounts.any(|mount| mount.is_ours() && mount.point == path)
    };
    let (mut real, mut links) = (PathBuf::from("/"), 0);
    let mut rest: Vec<PathBuf> = parts(path);
    while let Some(part) = rest.pop() {
        if part == Path::new("..") {
            real.pop();
            continue;
        }
        let next = real.join(&part);
        let link = match is_ours(&next) || links == LINKS {
            true => None,
            false => fs::read_link(way(table.pid, &next)).ok(),
        };
        match link {
            Some(link) => {
                links += 1;
                if link.is_absolute() {
                    real = PathBuf::from("/");
                }
                rest.extend(parts(&link));
            }
            None if is_ours(&next) => {
                rest.reverse();
                return rest.iter().fold(next, |path, part| path.join(part));
            }
            None => real = next,
        }
    }
    real
}

/// The parts of a path, the last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        _ => None,
    });
    parts.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::Mounts;

    #[test]
    fn an_upper_directory_is_read_from_the_options() {
        let told = upper("rw,lowerdir=/a:b,upperdir=u\\040p,workdir=work");
        assert_eq!(told, Some("u p".into()));
        assert_eq!(upper("ro,lowerdir=/a:/upperdir"), None);
    }

    #[test]
    fn links_are_followed_up_to_a_mount_of_ours() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("real/deep")).unwrap();
        symlink("real/deep", base.join("short")).unwrap();
        symlink(base.join("short/../x"), base.join("long")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        let table = |text: &str| Table {
            pid: 0,
            process: String::new(),
            mounts: Mounts::parse(text.as_bytes()),
        };
        let plain = table("1 0 8:1 / / rw - ext4 a rw\n");
        assert_eq!(
            resolve(&plain, &base.join("short/up")),
            base.join("real/deep/up")
        );
        assert_eq!(resolve(&plain, &base.join("long")), base.join("real/x"));
        assert_eq!(
            resolve(&plain, &base.join("./none/up")),
            base.join("none/up")
        );
        // It comes to an end.
        resolve(&plain, &base.join("loop"));
        let point = base.join("real");
        let ours = table(&format!(
            "2 1 0:50 / {} rw - fuse.hermitfs h rw\n",
            point.display()
        ));
        assert_eq!(
            resolve(&ours, &base.join("short/up")),
            base.join("real/deep/up")
        );
    }

    #[test]
    fn what_is_a_part_of_a_file_system_is_not_told_from_the_rest() {
        let table = Table {
            pid: 0,
            process: String::new(),
            mounts: Mounts::parse(
                b"1 0 8:1 / / rw - ext4 a rw\n\
                  2 1 8:2 / /srv/old rw - ext4 b rw\n\
                  3 2 0:50 / /srv/old rw - fuse.hermitfs h rw\n\
                  4 1 8:2 / /state/old rw - ext4 b rw\n",
            ),
        };
        let target = |device, root: &str, is_mount| Target {
            mount: 2,
            device,
            root: root.into(),
            is_mount,
        };
        let whole = disk(&table, &target((8, 2), "/", true));
        assert_eq!(whole, Some("/state/old".into()));
        assert_eq!(disk(&table, &target((8, 1), "/srv", false)), None);
        assert_eq!(disk(&table, &target((8, 2), "/sub", true)), None);
    }
}
