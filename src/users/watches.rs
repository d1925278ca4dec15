//! Who watches a mount (inotify(7), fanotify(7)): the kernel holds nothing open for it, and tells it in
//! the descriptors' fdinfo alone (proc_pid_fdinfo(5)).

use std::fs;
use std::path::Path;

use super::{name, processes};
use crate::mounts::Mount;

/// One process that watches a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watcher {
    pub(crate) pid: u32,
    pub(crate) process: String,
    /// How many objects it watches there.
    pub(crate) watches: usize,
}

/// All of them but this process itself.
pub(crate) fn watchers(mount: &Mount) -> Vec<Watcher> {
    let mut found: Vec<Watcher> = processes()
        .into_iter()
        .filter(|(pid, _)| *pid != std::process::id())
        .filter_map(|(pid, dir)| {
            let watches = by(&dir, mount);
            (watches > 0).then(|| Watcher {
                pid,
                process: name(pid),
                watches,
            })
        })
        .collect();
    found.sort_by_key(|watcher| watcher.pid);
    found
}

/// How much of a mount a process watches.
fn by(dir: &Path, mount: &Mount) -> usize {
    let descriptors = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
    let watching = descriptors.filter(|descriptor| {
        let link = fs::read_link(descriptor.path()).unwrap_or_default();
        let link = link.to_string_lossy();
        link == "anon_inode:inotify" || link == "anon_inode:[fanotify]"
    });
    watching
        .map(|descriptor| dir.join("fdinfo").join(descriptor.file_name()))
        .filter_map(|info| fs::read_to_string(info).ok())
        .map(|text| count(&text, mount.device, mount.id))
        .sum()
}

/// The watches of a descriptor that concern objects of a device (`sdev`, as the kernel has it in one
/// number, in hexadecimal), or a mount (`mnt_id`, too).
fn count(fdinfo: &str, (major, minor): (u32, u32), id: u64) -> usize {
    let device = u64::from(major) << 20 | u64::from(minor);
    let is = |field: Option<&str>, number| {
        field.is_some_and(|hex| u64::from_str_radix(hex, 16) == Ok(number))
    };
    let concerns = |line: &&str| {
        let mut fields = line.split(' ');
        matches!(fields.next(), Some("inotify" | "fanotify"))
            && fields.any(|field| {
                is(field.strip_prefix("sdev:"), device) || is(field.strip_prefix("mnt_id:"), id)
            })
    };
    fdinfo.lines().filter(concerns).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_of_a_mount_are_told_from_those_of_others() {
        let text = "pos:\t0\nflags:\t00\nmnt_id:\t15\nino:\t2\n\
            inotify wd:2 ino:5 sdev:3a mask:fce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:ab\n\
            inotify wd:1 ino:9 sdev:800013 mask:fce ignored_mask:0\n\
            fanotify flags:10 event-flags:0\n\
            fanotify ino:4f969 sdev:3a mflags:0 mask:3b ignored_mask:0\n\
            fanotify mnt_id:1f mflags:0 mask:3b ignored_mask:0\n\
            fanotify sdev:3a mflags:0 mask:3b ignored_mask:0\n";
        assert_eq!(count(text, (0, 0x3a), 0x1f), 4);
        assert_eq!(count(text, (8, 0x13), 0x20), 1);
        assert_eq!(count(text, (0, 0x3b), 0x15), 0);
    }
}
