//! Who watches a mount (inotify(7), fanotify(7)): the kernel holds nothing open for it, and tells it in
//! the descriptors' fdinfo alone (proc_pid_fdinfo(5)).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::remove_watch;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{name, processes};
use crate::mounts::Mount;

/// One process that watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watcher {
    pub(crate) pid: u32,
    pub(crate) process: String,
    /// How much it watches of the mount.
    pub(crate) watches: usize,
    /// And of what our mount covers, since before that came.
    pub(crate) below: usize,
}

/// Who watches our mount, or the old brick's own, which it covers: all but this process itself.
pub(crate) fn watchers(ours: Option<&Mount>, covered: Option<&Mount>) -> Vec<Watcher> {
    let mut found: Vec<Watcher> = processes()
        .into_iter()
        .filter(|(pid, _)| *pid != std::process::id())
        .filter_map(|(pid, dir)| {
            let told = told(&dir);
            let of = |mount: Option<&Mount>| -> usize {
                let counts = mount.map(|mount| told.iter().map(|text| count(text, mount)).sum());
                counts.unwrap_or(0)
            };
            let (watches, below) = (of(ours), of(covered));
            (watches + below > 0).then(|| Watcher {
                pid,
                process: name(pid),
                watches,
                below,
            })
        })
        .collect();
    found.sort_by_key(|watcher| watcher.pid);
    found
}

/// What the kernel tells of each descriptor of a process that watches something.
fn told(dir: &Path) -> Vec<String> {
    watching(dir)
        .into_iter()
        .filter_map(|number| fs::read_to_string(dir.join("fdinfo").join(number.to_string())).ok())
        .collect()
}

/// The numbers of these.
fn watching(dir: &Path) -> Vec<i32> {
    let descriptors = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
    let watching = descriptors.filter(|descriptor| {
        let link = fs::read_link(descriptor.path()).unwrap_or_default();
        let link = link.to_string_lossy();
        link == INOTIFY || link == "anon_inode:[fanotify]"
    });
    watching
        .filter_map(|descriptor| descriptor.file_name().to_str()?.parse().ok())
        .collect()
}

const INOTIFY: &str = "anon_inode:inotify";

/// Takes the inotify watches of all objects of a mount's device away, which tells who watches that
/// they are gone (`IN_IGNORED`), as an unmount does. How many of each process, by its id.
///
/// Nobody may come to these objects any more.
pub(crate) fn end(mount: &Mount) -> Vec<(u32, usize)> {
    let ended = processes()
        .into_iter()
        .filter(|(pid, _)| *pid != std::process::id())
        .filter_map(|(pid, dir)| {
            let descriptors = watching(&dir).into_iter();
            let ended = descriptors.map(|number| end_by(pid, number, mount).unwrap_or(0));
            Some((pid, ended.sum())).filter(|(_, ended)| *ended > 0)
        });
    ended.collect()
}

/// The same by one descriptor of a process.
fn end_by(pid: u32, number: i32, mount: &Mount) -> io::Result<usize> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let descriptor = pidfd_getfd(process, number, PidfdGetfdFlags::empty())?;
    // What it is now, whatever it was when we looked: others cannot change what our copy is.
    if fs::read_link(own("fd", &descriptor))? != Path::new(INOTIFY) {
        return Ok(0);
    }
    let text = fs::read_to_string(own("fdinfo", &descriptor))?;
    let numbers = numbers(&text, mount).into_iter();
    let ended = numbers.filter(|watch| remove_watch(&descriptor, *watch).is_ok());
    Ok(ended.count())
}

fn own(what: &str, descriptor: &OwnedFd) -> String {
    format!("/proc/self/{what}/{}", descriptor.as_raw_fd())
}

/// The watch descriptors (in hexadecimal) of an inotify descriptor that concern a mount's device.
fn numbers(fdinfo: &str, mount: &Mount) -> Vec<i32> {
    let number = |line: &str| {
        let fields = line.strip_prefix("inotify wd:")?;
        i32::from_str_radix(fields.split(' ').next()?, 16).ok()
    };
    let lines = fdinfo.lines().filter(|line| count(line, mount) > 0);
    lines.filter_map(number).collect()
}

/// The watches of a descriptor that concern objects of a mount's device (`sdev`, as the kernel has it
/// in one number, in hexadecimal), or the mount itself (`mnt_id`, too).
fn count(fdinfo: &str, mount: &Mount) -> usize {
    let (major, minor) = mount.device;
    let device = u64::from(major) << 20 | u64::from(minor);
    let is = |field: Option<&str>, number| {
        field.is_some_and(|hex| u64::from_str_radix(hex, 16) == Ok(number))
    };
    let concerns = |line: &&str| {
        let mut fields = line.split(' ');
        matches!(fields.next(), Some("inotify" | "fanotify"))
            && fields.any(|field| {
                is(field.strip_prefix("sdev:"), device)
                    || is(field.strip_prefix("mnt_id:"), mount.id)
            })
    };
    fdinfo.lines().filter(concerns).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::Mounts;

    #[test]
    fn watches_of_a_mount_are_told_from_those_of_others() {
        let text = "pos:\t0\nflags:\t00\nmnt_id:\t15\nino:\t2\n\
            inotify wd:2 ino:5 sdev:3a mask:fce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:ab\n\
            inotify wd:1a ino:9 sdev:800013 mask:fce ignored_mask:0\n\
            fanotify flags:10 event-flags:0\n\
            fanotify ino:4f969 sdev:3a mflags:0 mask:3b ignored_mask:0\n\
            fanotify mnt_id:1f mflags:0 mask:3b ignored_mask:0\n\
            fanotify sdev:3a mflags:0 mask:3b ignored_mask:0\n";
        let table = Mounts::parse(
            b"31 1 0:58 / /data rw - fuse.hermitfs h rw\n\
              32 1 8:19 / /srv rw - ext4 d rw\n\
              21 1 0:59 / /other rw - fuse.hermitfs h rw\n",
        );
        let counts: Vec<_> = table.0.iter().map(|mount| count(text, mount)).collect();
        assert_eq!(counts, [4, 1, 0]);
        assert_eq!(numbers(text, &table.0[0]), [2]);
        assert_eq!(numbers(text, &table.0[1]), [0x1a]);
    }
}
