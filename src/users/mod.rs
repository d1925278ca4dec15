//! Who uses a mount: every process of every mount namespace, found without asking the mount.

mod judge;
mod kernel;
mod stacked;
mod watches;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

pub(crate) use self::judge::{Opened, Verdict, judge};
pub(crate) use self::stacked::{Overlay, overlays, way};
pub(crate) use self::watches::{Watcher, end as end_watches, watchers};
use crate::mounts::{Mount, Mounts};

/// The kernel takes no longer paths (`PATH_MAX`).
const LONGEST: usize = 4000;

/// One way in which one process uses the mount.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Usage {
    /// 0 for the kernel itself.
    pub(crate) pid: u32,
    pub(crate) process: String,
    /// `open file`, `working directory` ...
    pub(crate) how: &'static str,
    pub(crate) path: PathBuf,
}

/// What is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum What {
    /// A regular file, by a descriptor that can read it or cannot.
    File {
        reads: bool,
    },
    /// Something that is only held: a directory, a device, a descriptor of a place.
    Held,
    Fifo,
    /// A lock on a file.
    Lock,
    /// A mapping whose stores others see.
    SharedMapping,
    Mapping,
    /// A working or a root directory.
    Place,
    /// Programs, leases, other mounts, and what the kernel uses.
    Fixed,
}

/// A use, and of which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Use {
    pub(crate) usage: Usage,
    pub(crate) what: What,
    /// The inode number that users see; 0 where none is known.
    pub(crate) number: u64,
    /// Of a directory: those above it, up to the root of the mount.
    pub(crate) above: Vec<u64>,
}

impl Use {
    /// What cannot be moved.
    pub(crate) fn fixed(usage: Usage) -> Use {
        Use {
            usage,
            what: What::Fixed,
            number: 0,
            above: Vec::new(),
        }
    }
}

/// All of them but this process itself. What ends while we look is not listed.
pub(crate) fn scan(mount: &Mount) -> Vec<Usage> {
    let mut found: Vec<Usage> = look(mount).into_iter().map(|one| one.usage).collect();
    found.dedup();
    found
}

/// The same with what is used.
pub(crate) fn look(mount: &Mount) -> Vec<Use> {
    let mut found = Vec::new();
    kernel::devices(mount, &mut found);
    kernel::exports(mount, &mut found);
    let mut namespaces = HashSet::new();
    namespaces.extend(fs::read_link("/proc/self/ns/mnt"));
    let mut overlays = HashSet::new();
    if let Ok(mounts) = Mounts::read() {
        stacked::layers(&mounts, mount, 0, "the kernel", &mut overlays, &mut found);
        copies(&mounts, mount, 0, "the kernel", &mut found);
        below(&mounts, mount, &mut found);
    }
    let mut networks = HashSet::new();
    networks.extend(fs::read_link("/proc/self/ns/net"));
    let mut sockets = kernel::sockets("self", mount);
    for (pid, dir) in processes() {
        if let Ok(network) = fs::read_link(dir.join("ns/net"))
            && networks.insert(network)
        {
            sockets.extend(kernel::sockets(&pid.to_string(), mount));
        }
    }
    for (pid, dir) in processes() {
        if pid == std::process::id() {
            continue;
        }
        let before = found.len();
        process(&dir, pid, mount, &sockets, &mut found);
        if let Ok(namespace) = fs::read_link(dir.join("ns/mnt"))
            && namespaces.insert(namespace)
            && let Ok(mounts) = Mounts::of(&pid.to_string())
        {
            copies(&mounts, mount, pid, "", &mut found);
            stacked::layers(&mounts, mount, pid, "", &mut overlays, &mut found);
        }
        if found.len() > before {
            let process = name(pid);
            for one in &mut found[before..] {
                one.usage.process = process.clone();
            }
        }
    }
    kernel::locks(mount, &mut found);
    found.sort();
    found.dedup();
    found
}

/// What processes have of a mount that no path leads to any more.
pub(crate) fn held(mount: &Mount) -> Vec<Usage> {
    let mut found = Vec::new();
    for (pid, dir) in processes() {
        if pid != std::process::id() {
            process(&dir, pid, mount, &HashMap::new(), &mut found);
        }
    }
    found.into_iter().map(|one| one.usage).collect()
}

fn processes() -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect()
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

fn process(
    dir: &Path,
    pid: u32,
    mount: &Mount,
    sockets: &HashMap<u64, PathBuf>,
    found: &mut Vec<Use>,
) {
    let mut note = |how, what, number, above, path: PathBuf| {
        found.push(Use {
            usage: Usage {
                pid,
                process: String::new(),
                how,
                path: named(path),
            },
            what,
            number,
            above,
        });
    };
    for (link, how, what) in [
        ("cwd", "working directory", What::Place),
        ("root", "root directory", What::Place),
        ("exe", "running program", What::Fixed),
    ] {
        let link = dir.join(link);
        if let Some((kind, number)) = on(&link, mount) {
            let path = fs::read_link(&link).unwrap_or_default();
            note(how, what, number, above(&link, kind, mount), path);
        }
    }
    for descriptor in fs::read_dir(dir.join("fd")).into_iter().flatten().flatten() {
        let link = descriptor.path();
        if let Some((kind, number)) = on(&link, mount) {
            let flags = flags(&dir.join("fdinfo").join(descriptor.file_name()));
            let (how, what) = opened(kind, flags);
            let path = fs::read_link(&link).unwrap_or_default();
            note(how, what, number, above(&link, kind, mount), path);
        } else if !sockets.is_empty()
            && let Some(path) = socket(&link).and_then(|socket| sockets.get(&socket))
        {
            note("bound socket", What::Fixed, 0, Vec::new(), path.clone());
        }
    }
    if let Ok(maps) = fs::read(dir.join("maps")) {
        for (path, number, shared) in mapped(&maps, mount.device) {
            let (how, what) = match shared {
                true => ("shared mapping", What::SharedMapping),
                false => ("mapping", What::Mapping),
            };
            note(how, what, number, Vec::new(), path);
        }
    }
}

/// The directories above the one that a link of /proc leads to: whoever holds it comes to them by
/// `..`, which no name leads to and no mount is asked for.
fn above(link: &Path, kind: FileType, mount: &Mount) -> Vec<u64> {
    let mut found = Vec::new();
    if kind != FileType::Directory {
        return found;
    }
    let mut up = link.join("..");
    // The root's parent is on another device; of a mount that is attached nowhere, itself.
    while let Some((_, number)) = on(&up, mount)
        && found.last() != Some(&number)
        && up.as_os_str().len() < LONGEST
    {
        found.push(number);
        up.push("..");
    }
    found
}

/// What a descriptor is, by its object and the flags that it was opened with.
fn opened(kind: FileType, flags: i32) -> (&'static str, What) {
    let place = flags & libc::O_PATH != 0;
    match kind {
        FileType::Directory => ("open directory", What::Held),
        _ if place => ("held place", What::Held),
        FileType::RegularFile => {
            let reads = flags & libc::O_ACCMODE != libc::O_WRONLY;
            ("open file", What::File { reads })
        }
        FileType::Fifo => ("open fifo", What::Fifo),
        _ => ("open device", What::Held),
    }
}

/// The flags of a descriptor, from the text of its fdinfo; of one that is gone, 0.
fn flags(info: &Path) -> i32 {
    let text = fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
        .unwrap_or(0)
}

/// The number of the socket that a link of /proc leads to.
fn socket(link: &Path) -> Option<u64> {
    let target = fs::read_link(link).ok()?;
    let number = target.to_str()?.strip_prefix("socket:[")?;
    number.strip_suffix(']')?.parse().ok()
}

/// What a link of /proc leads to, if that is on the mount. Attributes that the kernel has are
/// enough (`AT_STATX_DONT_SYNC`): the mount is not asked, and may be frozen.
fn on(link: &Path, mount: &Mount) -> Option<(FileType, u64)> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = statx(CWD, link, flags, StatxFlags::empty()).ok()?;
    let here = (stat.stx_dev_major, stat.stx_dev_minor) == mount.device;
    here.then(|| (FileType::from_raw_mode(stat.stx_mode.into()), stat.stx_ino))
}

/// Files of a device in the text of /proc/PID/maps, their numbers, and whether stores to them are
/// shared.
fn mapped(maps: &[u8], device: (u32, u32)) -> Vec<(PathBuf, u64, bool)> {
    let wanted = format!("{:02x}:{:02x}", device.0, device.1);
    let mut found: Vec<(PathBuf, u64, bool)> = Vec::new();
    for line in maps.split(|&b| b == b'\n') {
        // address perms offset dev inode path; the path begins after blanks and has its own.
        let fields: Vec<&[u8]> = line.splitn(6, |&b| b == b' ').collect();
        let [_, permissions, _, device, number, path] = fields[..] else {
            continue;
        };
        if device != wanted.as_bytes() {
            continue;
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(path.trim_ascii_start()));
        let number = std::str::from_utf8(number)
            .ok()
            .and_then(|n| n.parse().ok());
        let shared = permissions.contains(&b's') && permissions.contains(&b'w');
        let one = (path.to_owned(), number.unwrap_or(0), shared);
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

/// Other mounts of the same file system that would stay when ours goes: what is in a peer group
/// with it goes along.
fn copies(mounts: &Mounts, ours: &Mount, pid: u32, process: &str, found: &mut Vec<Use>) {
    for mount in mounts.0.iter().filter(|mount| mount.device == ours.device) {
        let same = pid == 0 && mount.point == ours.point;
        let along = mount
            .peers()
            .any(|peer| ours.peers().any(|own| own == peer));
        if !same && !along {
            let how = if pid == 0 {
                "bind mount"
            } else {
                "mount namespace"
            };
            found.push(fixed(pid, process, how, mount.point.clone()));
        }
    }
}

/// What is mounted in ours would go with it. What was mounted there before is hidden, and stays.
fn below(mounts: &Mounts, ours: &Mount, found: &mut Vec<Use>) {
    let mut later = mounts
        .0
        .iter()
        .skip_while(|mount| (&mount.point, mount.device) != (&ours.point, ours.device));
    later.next();
    for mount in later {
        if mount.point.starts_with(&ours.point)
            && mount.point != ours.point
            && mount.device != ours.device
        {
            found.push(fixed(0, "the kernel", "mount", mount.point.clone()));
        }
    }
}

fn fixed(pid: u32, process: &str, how: &'static str, path: PathBuf) -> Use {
    Use {
        usage: Usage {
            pid,
            process: process.into(),
            how,
            path,
        },
        what: What::Fixed,
        number: 0,
        above: Vec::new(),
    }
}

/// Without what /proc adds to the name of a file that was deleted.
fn named(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(name) => PathBuf::from(std::ffi::OsStr::from_bytes(name)),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_files_of_one_device_are_found_with_blanks_in_their_names() {
        let maps = b"5595-5596 r--p 00000000 fe:00 1234                       /usr/bin/cat\n\
            7f01-7f02 rw-s 00000000 00:32 77                         /data/a b\n\
            7f02-7f03 rw-s 00001000 00:32 77                         /data/a b\n\
            7f02-7f03 rw-p 00001000 00:32 78                         /data/c\n\
            7f03-7f04 rw-p 00000000 00:00 0 \n";
        let found = |device| mapped(maps, device);
        assert_eq!(
            found((0, 0x32)),
            [
                (PathBuf::from("/data/a b"), 77, true),
                (PathBuf::from("/data/c"), 78, false)
            ]
        );
        assert_eq!(
            found((0xfe, 0)),
            [(PathBuf::from("/usr/bin/cat"), 1234, false)]
        );
    }

    #[test]
    fn descriptors_are_told_apart_by_what_they_are() {
        let what = |kind, flags| opened(kind, flags).1;
        let file = FileType::RegularFile;
        assert_eq!(what(file, libc::O_RDWR), What::File { reads: true });
        assert_eq!(what(file, libc::O_WRONLY), What::File { reads: false });
        assert_eq!(what(file, libc::O_PATH), What::Held);
        assert_eq!(what(FileType::Directory, 0), What::Held);
        assert_eq!(what(FileType::Fifo, 0), What::Fifo);
        assert_eq!(what(FileType::Fifo, libc::O_PATH), What::Held);
    }

    #[test]
    fn a_process_that_holds_a_file_is_found_by_name_and_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("held");
        let file = fs::File::create(&path).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(file)
            .spawn()
            .unwrap();
        let mounts = Mounts::read().unwrap();
        let mut mount = mounts.containing(&path).unwrap().clone();
        // Not the mount's own place: what other mounts of this disk there are is not the question.
        mount.point = dir.path().to_owned();
        let found = look(&mount);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.iter().any(|one| {
            let usage = &one.usage;
            usage.path == path
                && usage.pid == child.id()
                && usage.how == "open file"
                && one.what == (What::File { reads: false })
        }));
    }

    #[test]
    fn copies_that_go_along_are_no_users() {
        let mounts = Mounts::parse(
            b"1 0 0:50 / /data rw shared:5 - fuse.hermitfs h rw\n\
              2 0 0:50 / /slave rw master:5 - fuse.hermitfs h rw\n\
              3 0 0:50 / /copy rw - fuse.hermitfs h rw\n",
        );
        let mut found = Vec::new();
        copies(&mounts, &mounts.0[0], 0, "the kernel", &mut found);
        let paths: Vec<_> = found.iter().map(|one| one.usage.path.clone()).collect();
        assert_eq!(paths, [PathBuf::from("/copy")]);
    }

    #[test]
    fn what_is_mounted_in_the_mount_would_go_with_it() {
        let mounts = Mounts::parse(
            b"1 0 8:1 / /data/hidden rw - ext4 d rw\n\
              2 0 0:50 / /data rw - fuse.hermitfs h rw\n\
              3 2 8:2 / /data/disk rw - ext4 d rw\n\
              4 0 8:3 / /database rw - ext4 d rw\n",
        );
        let mut found = Vec::new();
        below(&mounts, &mounts.0[1], &mut found);
        let paths: Vec<_> = found.iter().map(|one| one.usage.path.clone()).collect();
        assert_eq!(paths, [PathBuf::from("/data/disk")]);
    }
}
