//! What the kernel itself has of a mount: loop devices, swap, exports, locks, sockets.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Use, What, fixed, name};
use crate::mounts::Mount;

const LEASE: &str = "lease";

/// Loop devices and swap files.
pub(super) fn devices(mount: &Mount, found: &mut Vec<Use>) {
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
            found.push(fixed(0, "the kernel", how, path));
        }
    }
}

/// What the kernel's NFS server exports.
pub(super) fn exports(mount: &Mount, found: &mut Vec<Use>) {
    let exports = fs::read_to_string("/proc/fs/nfsd/exports").unwrap_or_default();
    for line in exports.lines().filter(|line| !line.starts_with('#')) {
        let path = Path::new(line.split_whitespace().next().unwrap_or_default());
        if path.starts_with(&mount.point) {
            found.push(fixed(0, "the kernel", "NFS export", path.to_owned()));
        }
    }
}

/// Locks and leases. They are of this mount alone: whoever comes to the new brick by its path does
/// not see them.
pub(super) fn locks(mount: &Mount, found: &mut Vec<Use>) {
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    for (how, pid, number) in held(&text, mount.device) {
        let known = found
            .iter()
            .filter(|one| one.number == number && (one.usage.pid == pid || pid == 0));
        let path = known.map(|one| one.usage.path.clone()).next();
        let process = match pid {
            0 => "unknown".to_owned(),
            pid => name(pid),
        };
        let path = path.unwrap_or_else(|| mount.point.clone());
        let what = if how == LEASE {
            What::Fixed
        } else {
            What::Lock
        };
        found.push(Use {
            number,
            what,
            ..fixed(pid, &process, how, path)
        });
    }
}

/// Locks on a device in the text of /proc/locks: what, by whom (0: an open file), on which inode.
fn held(text: &str, device: (u32, u32)) -> Vec<(&'static str, u32, u64)> {
    let lock = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let how = match fields.next()? {
            "POSIX" | "OFDLCK" => "record lock",
            "FLOCK" => "file lock",
            "LEASE" | "DELEG" => LEASE,
            // `->` waits for one that is listed as well.
            _ => return None,
        };
        let pid = fields.nth(2)?.parse().unwrap_or(0);
        let mut inode = fields.next()?.split(':');
        let mut part = |radix| u64::from_str_radix(inode.next()?, radix).ok();
        let (major, minor, number) = (part(16)?, part(16)?, part(10)?);
        let here = (major, minor) == (device.0.into(), device.1.into());
        here.then_some((how, pid, number))
    };
    text.lines().filter_map(lock).collect()
}

/// Sockets that are bound to a path below the mount, by number, as a process' network has them.
pub(super) fn sockets(pid: &str, mount: &Mount) -> HashMap<u64, PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    bound(&text, &mount.point)
}

fn bound(text: &str, point: &Path) -> HashMap<u64, PathBuf> {
    // Num RefCount Protocol Flags Type St Inode Path
    const LISTENS_OR_BOUND: usize = 6;
    let socket = |line: &str| {
        let number = line.split_whitespace().nth(LISTENS_OR_BOUND)?;
        let path = Path::new(line.split_once(&format!(" {number} "))?.1);
        let here = path.starts_with(point);
        here.then_some((number.parse().ok()?, path.to_owned()))
    };
    text.lines().skip(1).filter_map(socket).collect()
}

impl Use {
    /// A use that no process is known for.
    pub(super) fn of_nobody(how: &'static str, path: PathBuf, number: u64) -> Use {
        Use {
            what: What::Fixed,
            number,
            ..fixed(0, "unknown", how, path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_of_one_device_are_found_but_not_who_waits_for_them() {
        let text = "1: POSIX  ADVISORY  WRITE 3568 00:32:4711 0 EOF\n\
            1: -> POSIX  ADVISORY  WRITE 3569 00:32:4711 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 12 fe:00:4711 0 EOF\n\
            3: OFDLCK ADVISORY  READ -1 00:32:7 10 20\n\
            4: LEASE  ACTIVE    READ 13 00:32:8 0 EOF\n";
        assert_eq!(
            held(text, (0, 0x32)),
            [
                ("record lock", 3568, 4711),
                ("record lock", 0, 7),
                ("lease", 13, 8)
            ]
        );
        assert_eq!(held(text, (0xfe, 0)), [("file lock", 12, 4711)]);
    }

    #[test]
    fn sockets_below_the_mount_are_found_by_their_path() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 29215 /data/run/a socket\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 29216 /database/s\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 29217\n";
        let found = bound(text, Path::new("/data"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[&29215], Path::new("/data/run/a socket"));
    }
}
