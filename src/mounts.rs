//! The mount table, as `/proc/PID/mountinfo` has it (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use hermitfs_fuse::Attributes;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Unique among the mounts of this moment, in all namespaces.
    pub(crate) id: u64,
    /// The mount that it is mounted on; in no table where that cannot be reached.
    pub(crate) parent: u64,
    /// `st_dev` of what is on it: major, minor.
    pub(crate) device: (u32, u32),
    /// Which directory of the file system is mounted.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
    /// Options of the mount: `rw,relatime`.
    pub(crate) options: String,
    /// Peer groups that it gets mounts and unmounts from or sends them to: `shared:1`, `master:1`.
    pub(crate) groups: Vec<String>,
    /// File system, with its subtype: `ext4`, `fuse.hermitfs`.
    pub(crate) kind: String,
    /// What is mounted, a device most often.
    pub(crate) source: PathBuf,
    /// Options of the file system itself.
    pub(crate) super_options: String,
}

impl Mount {
    /// One of ours, alive or dead.
    pub(crate) fn is_ours(&self) -> bool {
        self.kind == "fuse.hermitfs"
    }

    /// Whether nothing can be changed through it.
    pub(crate) fn is_read_only(&self) -> bool {
        self.options.split(',').any(|option| option == "ro")
    }

    /// What mount(8) sets on a single mount.
    pub(crate) fn attributes(&self) -> Attributes {
        Attributes::of_mount(&self.options)
    }

    /// Whether the file system itself is read-only, by whatever mount one comes to it.
    pub(crate) fn disk_is_read_only(&self) -> bool {
        self.super_options.split(',').any(|option| option == "ro")
    }

    /// The peer group that gets what is mounted here, and in turn gives: `shared:1`.
    pub(crate) fn shares(&self) -> Option<&str> {
        self.group("shared:")
    }

    /// The peer group that only gives: `master:1`.
    pub(crate) fn master(&self) -> Option<&str> {
        self.group("master:")
    }

    fn group(&self, kind: &str) -> Option<&str> {
        self.groups
            .iter()
            .find_map(|group| group.strip_prefix(kind))
    }

    /// Where a path without symbolic links, that leads into this mount, is on the file system.
    pub(crate) fn inside(&self, path: &Path) -> Option<PathBuf> {
        let rest = path.strip_prefix(&self.point).ok()?;
        Some(joined(&self.root, rest))
    }

    /// The path by which a place of the file system is seen through this mount, if it is.
    pub(crate) fn shows(&self, inside: &Path) -> Option<PathBuf> {
        let rest = inside.strip_prefix(&self.root).ok()?;
        Some(joined(&self.point, rest))
    }

    /// The numbers of its peer groups.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &str> {
        self.groups
            .iter()
            .filter_map(|group| group.split_once(':'))
            .map(|(_, number)| number)
    }
}

/// Without the slash that joining nothing leaves.
fn joined(base: &Path, rest: &Path) -> PathBuf {
    match rest.as_os_str().is_empty() {
        true => base.to_owned(),
        false => base.join(rest),
    }
}

/// A mount table. Its order tells nothing: what went beneath another mount may come after it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mounts(pub(crate) Vec<Mount>);

impl Mounts {
    /// This process' own.
    pub(crate) fn read() -> io::Result<Mounts> {
        Mounts::of("self")
    }

    /// Another process', which may live in another mount namespace.
    pub(crate) fn of(pid: &str) -> io::Result<Mounts> {
        Ok(Mounts::parse(&std::fs::read(format!(
            "/proc/{pid}/mountinfo"
        ))?))
    }

    /// Lines that cannot be understood are left out.
    pub(crate) fn parse(text: &[u8]) -> Mounts {
        Mounts(text.split(|&b| b == b'\n').filter_map(line).collect())
    }

    /// What is on top at exactly this path.
    pub(crate) fn at(&self, point: &Path) -> Option<&Mount> {
        self.containing(point).filter(|mount| mount.point == point)
    }

    /// The mount that a path without symbolic links leads into: found as the kernel walks, so
    /// that what is hidden by another mount is not taken for what is seen.
    pub(crate) fn containing(&self, path: &Path) -> Option<&Mount> {
        let mut here = None;
        // No way is longer than the table: a guard against one that changed while it was read.
        for _ in &self.0 {
            let next = self.next(here, path);
            if next.is_none() {
                break;
            }
            here = next;
        }
        here
    }

    /// The first mount on the way from a mount (or the root) down a path.
    fn next(&self, from: Option<&Mount>, path: &Path) -> Option<&Mount> {
        let is_child = |mount: &&Mount| match from {
            Some(from) => mount.parent == from.id && mount.id != from.id,
            None => self.by_id(mount.parent).is_none() || mount.parent == mount.id,
        };
        self.0
            .iter()
            .filter(is_child)
            .filter(|mount| path.starts_with(&mount.point))
            .min_by_key(|mount| mount.point.as_os_str().len())
    }

    /// The mount with this id.
    pub(crate) fn by_id(&self, id: u64) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.id == id)
    }

    /// Mounts strictly below a path.
    pub(crate) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Mount> {
        self.0
            .iter()
            .filter(move |mount| mount.point != path && mount.point.starts_with(path))
    }
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let mut text = || {
        fields
            .next()
            .map(|field| String::from_utf8_lossy(field).into_owned())
    };
    let (id, parent) = (text()?.parse().ok()?, text()?.parse().ok()?);
    let device = text()?;
    let (major, minor) = device.split_once(':')?;
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let mut text = || {
        fields
            .next()
            .map(|field| String::from_utf8_lossy(field).into_owned())
    };
    let options = text()?;
    let mut groups = Vec::new();
    loop {
        match text()?.as_str() {
            "-" => break,
            group => groups.push(group.into()),
        }
    }
    let kind = text()?;
    let source = unescape(fields.next()?);
    let super_options = fields.next().unwrap_or_default();
    Some(Mount {
        id,
        parent,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        point,
        options,
        groups,
        kind,
        source,
        super_options: String::from_utf8_lossy(super_options).into_owned(),
    })
}

/// Blank, tab, newline and backslash are written as three octal digits.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = || {
            let digits = tail.get(..3)?;
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
        };
        match (byte, octal) {
            (b'\\', octal) => match octal() {
                Some(value) => {
                    out.push(value);
                    rest = &tail[3..];
                }
                None => {
                    out.push(byte);
                    rest = tail;
                }
            },
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// A path for a line of fstab(5).
pub(crate) fn escape(path: &Path) -> String {
    let mut out = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend(format!("\\{byte:03o}").into_bytes()),
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
        30 22 7:3 /sub /srv/my\\040old rw,noatime shared:7 master:2 - btrfs /dev/loop3 rw,subvol=/sub\n\
        31 22 0:50 / /data rw - fuse.hermitfs hermitfs rw,user_id=0\n\
        32 31 0:51 / /data rw - tmpfs none rw\n\
        nonsense\n";

    #[test]
    fn a_table_is_read_with_its_escapes() {
        let mounts = Mounts::parse(TABLE);
        assert_eq!(mounts.0.len(), 4);
        let old = mounts.at(Path::new("/srv/my old")).unwrap();
        assert_eq!(
            (old.device, old.root.as_path()),
            ((7, 3), Path::new("/sub"))
        );
        assert_eq!(old.peers().collect::<Vec<_>>(), ["7", "2"]);
        assert_eq!(escape(&old.point), "/srv/my\\040old");
        assert!(mounts.0[2].is_ours());
    }

    #[test]
    fn what_is_mounted_last_is_on_top() {
        let mounts = Mounts::parse(TABLE);
        assert_eq!(mounts.at(Path::new("/data")).unwrap().kind, "tmpfs");
        assert_eq!(
            mounts.containing(Path::new("/data/x")).unwrap().kind,
            "tmpfs"
        );
        assert_eq!(
            mounts.containing(Path::new("/database")).unwrap().kind,
            "ext4"
        );
        assert_eq!(mounts.below(Path::new("/srv")).count(), 1);
        assert_eq!(mounts.below(Path::new("/srv/my old")).count(), 0);
    }

    #[test]
    fn what_is_seen_is_found_by_who_stands_on_whom() {
        // The second line went beneath the third; the fourth is hidden by the fifth.
        let mounts = Mounts::parse(
            b"1 0 8:1 / / rw - ext4 a rw\n\
              5 4 0:9 / /data rw - btrfs new rw\n\
              3 5 0:8 / /data rw - fuse.hermitfs h rw\n\
              4 1 8:2 / /data rw - ext4 old rw\n\
              6 1 8:3 / /srv/x rw - ext4 x rw\n\
              7 1 8:4 / /srv ro,noatime shared:3 master:2 - ext4 y rw\n",
        );
        let id = |path: &str| mounts.containing(Path::new(path)).map(|mount| mount.id);
        assert_eq!((id("/data"), id("/data/x")), (Some(3), Some(3)));
        assert_eq!((id("/srv/x/y"), id("/srv/x")), (Some(7), Some(7)));
        assert_eq!(id("/database"), Some(1));
        assert!(mounts.at(Path::new("/srv/x")).is_none());
        let mount = mounts.by_id(7).unwrap();
        assert!(mount.is_read_only());
        assert_eq!((mount.shares(), mount.master()), (Some("3"), Some("2")));
    }

    #[test]
    fn a_place_is_known_by_its_path_within_the_file_system() {
        let mounts = Mounts::parse(b"1 0 8:1 /sub /srv rw - ext4 a rw\n");
        let mount = &mounts.0[0];
        let text = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
        assert_eq!(
            text(mount.inside(Path::new("/srv/x"))).as_deref(),
            Some("/sub/x")
        );
        assert_eq!(
            text(mount.inside(Path::new("/srv"))).as_deref(),
            Some("/sub")
        );
        assert_eq!(
            text(mount.shows(Path::new("/sub/x"))).as_deref(),
            Some("/srv/x")
        );
        assert_eq!(text(mount.shows(Path::new("/other"))), None);
    }
}
