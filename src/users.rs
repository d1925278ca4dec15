//! Who uses a mount: every process of every mount namespace, found without asking the mount.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::mounts::{Mount, Mounts};

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

/// All of them but this process itself. What ends while we look is not listed.
pub(crate) fn scan(mount: &Mount) -> Vec<Usage> {
    let mut found = Vec::new();
    kernel(mount, &mut found);
    let own_namespace = fs::read_link("/proc/self/ns/mnt").ok();
    let mut namespaces: HashSet<PathBuf> = own_namespace.into_iter().collect();
    if let Ok(mounts) = Mounts::read() {
        copies(&mounts, mount, 0, "the kernel", &mut found);
    }
    let Ok(processes) = fs::read_dir("/proc") else {
        return found;
    };
    for entry in processes.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let dir = entry.path();
        let before = found.len();
        process(&dir, pid, mount, &mut found);
        if let Ok(namespace) = fs::read_link(dir.join("ns/mnt"))
            && namespaces.insert(namespace)
            && let Ok(mounts) = Mounts::of(&pid.to_string())
        {
            copies(&mounts, mount, pid, "", &mut found);
        }
        if found.len() > before {
            let process = fs::read_to_string(dir.join("comm")).unwrap_or_default();
            for usage in &mut found[before..] {
                usage.process = process.trim_end().to_owned();
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn process(dir: &Path, pid: u32, mount: &Mount, found: &mut Vec<Usage>) {
    let mut usage = |how, path: PathBuf| {
        found.push(Usage {
            pid,
            process: String::new(),
            how,
            path: named(path),
        });
    };
    for (link, how) in [
        ("cwd", "working directory"),
        ("root", "root directory"),
        ("exe", "running program"),
    ] {
        if is_on(&dir.join(link), mount) {
            usage(how, fs::read_link(dir.join(link)).unwrap_or_default());
        }
    }
    for descriptor in fs::read_dir(dir.join("fd")).into_iter().flatten().flatten() {
        if is_on(&descriptor.path(), mount) {
            usage(
                "open file",
                fs::read_link(descriptor.path()).unwrap_or_default(),
            );
        }
    }
    if let Ok(maps) = fs::read(dir.join("maps")) {
        for path in mapped(&maps, mount.device) {
            usage("mapping", path);
        }
    }
}

/// Whether what a link of /proc leads to is on the mount. Attributes that the kernel has are
/// enough (`AT_STATX_DONT_SYNC`): the mount is not asked, and may be frozen.
fn is_on(link: &Path, mount: &Mount) -> bool {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    statx(CWD, link, flags, StatxFlags::empty())
        .is_ok_and(|stat| (stat.stx_dev_major, stat.stx_dev_minor) == mount.device)
}

/// Files of a device in the text of /proc/PID/maps.
fn mapped(maps: &[u8], device: (u32, u32)) -> Vec<PathBuf> {
    let wanted = format!("{:02x}:{:02x}", device.0, device.1);
    let mut paths = Vec::new();
    for line in maps.split(|&b| b == b'\n') {
        // address perms offset dev inode path; the path begins after blanks and has its own.
        let mut fields = line.splitn(6, |&b| b == b' ');
        if fields.nth(3) != Some(wanted.as_bytes()) {
            continue;
        }
        if let Some(path) = fields.nth(1) {
            let path = Path::new(std::ffi::OsStr::from_bytes(path.trim_ascii_start()));
            if paths.last().map(PathBuf::as_path) != Some(path) {
                paths.push(path.to_owned());
            }
        }
    }
    paths
}

/// Other mounts of the same file system that would stay when ours goes: what is in a peer group
/// with it goes along.
fn copies(mounts: &Mounts, ours: &Mount, pid: u32, process: &str, found: &mut Vec<Usage>) {
    for mount in mounts.0.iter().filter(|mount| mount.device == ours.device) {
        let same = pid == 0 && mount.point == ours.point;
        let along = mount
            .peers()
            .any(|peer| ours.peers().any(|own| own == peer));
        if !same && !along {
            found.push(Usage {
                pid,
                process: process.into(),
                how: if pid == 0 {
                    "bind mount"
                } else {
                    "mount namespace"
                },
                path: mount.point.clone(),
            });
        }
    }
}

/// Loop devices and swap files.
fn kernel(mount: &Mount, found: &mut Vec<Usage>) {
    let mut files: HashMap<PathBuf, &'static str> = HashMap::new();
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        if let Ok(file) = fs::read_to_string(device.path().join("loop/backing_file")) {
            files.insert(PathBuf::from(file.trim_end()), "loop device");
        }
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    for file in swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
    {
        files.insert(PathBuf::from(file), "swap");
    }
    for (path, how) in files {
        if path.starts_with(&mount.point) {
            found.push(Usage {
                pid: 0,
                process: "the kernel".into(),
                how,
                path,
            });
        }
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
            7f03-7f04 rw-p 00000000 00:00 0 \n";
        assert_eq!(mapped(maps, (0, 0x32)), [PathBuf::from("/data/a b")]);
        assert_eq!(mapped(maps, (0xfe, 0)), [PathBuf::from("/usr/bin/cat")]);
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
        let found = scan(&mount);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.iter().any(|usage| {
            usage.path == path && usage.pid == child.id() && usage.how == "open file"
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
        let paths: Vec<_> = found.iter().map(|usage| usage.path.clone()).collect();
        assert_eq!(paths, [PathBuf::from("/copy")]);
    }
}
