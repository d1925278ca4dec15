//! What stands in a directory, down to the last bit, and how two such trees differ. The judge of
//! all end-to-end tests: it shares no code with what it judges.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// A time: seconds and nanoseconds.
pub type Stamp = (i64, i64);

/// One object, as its names see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Kind and permission bits, as stat(2) has them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes; 0 for a directory, whose size is its file system's own affair.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Stamp,
    /// A device's number.
    pub rdev: u64,
    /// Digest of a file's content, or a link's target.
    pub content: Vec<u8>,
    /// Extended attributes, ACLs and capabilities among them.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// Inode flags that every file system here knows (immutable, append-only, nodump, noatime).
    pub flags: u32,
    /// All names of an object that has several, itself included; empty for one name.
    pub names: BTreeSet<PathBuf>,
    /// Number of names, of what is no directory.
    pub nlink: u64,
    /// Bytes on disk; compared with some slack.
    pub allocated: u64,
    /// What only the same tree at another time can share.
    pub own: Own,
}

/// What differs between any two file systems, and must not between two moments of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Inode number.
    pub ino: u64,
    /// Last change of the inode.
    pub ctime: Stamp,
    /// Last read.
    pub atime: Stamp,
    /// Number of names, of directories too.
    pub nlink: u64,
}

/// A directory and all below, by path; the root has the empty path.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
    objects: BTreeMap<PathBuf, Object>,
}

/// One thing that is not the same.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Where.
    pub path: PathBuf,
    /// What: `missing`, `extra`, `mode`, `content` ...
    pub what: &'static str,
    /// Both sides, for people.
    pub detail: String,
}

const COMPARED_FLAGS: u32 = 0x10 | 0x20 | 0x40 | 0x80; // immutable, append, nodump, noatime

impl Tree {
    /// Reads a tree. An unreadable object fails the test.
    #[track_caller]
    pub fn of(root: &Path) -> Tree {
        Tree::read(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()))
    }

    /// The same, for a tree that may go away while it is read.
    pub fn read(root: &Path) -> io::Result<Tree> {
        let mut tree = Tree {
            root: root.to_owned(),
            objects: BTreeMap::new(),
        };
        let mut links: HashMap<(u64, u64), BTreeSet<PathBuf>> = HashMap::new();
        let mut left = vec![PathBuf::new()];
        while let Some(path) = left.pop() {
            let full = if path.as_os_str().is_empty() {
                root.to_owned()
            } else {
                root.join(&path)
            };
            let at = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            };
            let meta = fs::symlink_metadata(&full).map_err(at)?;
            if meta.is_dir() {
                for entry in fs::read_dir(&full).map_err(at)? {
                    let name = entry.map_err(at)?.file_name();
                    if !(path.as_os_str().is_empty() && name == "lost+found") {
                        left.push(path.join(name));
                    }
                }
            } else if meta.nlink() > 1 {
                links
                    .entry((meta.dev(), meta.ino()))
                    .or_default()
                    .insert(path.clone());
            }
            let object = object(&full, &meta).map_err(at)?;
            tree.objects.insert(path, object);
        }
        for names in links.into_values() {
            for name in &names {
                if let Some(object) = tree.objects.get_mut(name) {
                    object.names = names.clone();
                }
            }
        }
        Ok(tree)
    }

    /// Reads a sink that hermitfs still works on, to be compared with its source: our own directory,
    /// and the times of the root that it stands in, are left out.
    #[track_caller]
    pub fn of_sink(root: &Path, source: &Tree) -> Tree {
        let mut sink = Tree::of(root);
        sink.forget_below(".hermitfs");
        sink.copy_root_times_of(source);
        sink
    }

    /// Objects in all, the root included.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.objects.len() <= 1
    }

    /// Bytes of content that take room on disk.
    pub fn bytes_on_disk(&self) -> u64 {
        self.objects.values().map(|object| object.allocated).sum()
    }

    /// An object by its path.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Object> {
        self.objects.get(path.as_ref())
    }

    /// Takes a path and all below out of the comparison, also where it is another name of what
    /// stays in it.
    pub fn forget_below(&mut self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        self.objects.retain(|object, _| !object.starts_with(path));
        for object in self.objects.values_mut() {
            let before = object.names.len();
            object.names.retain(|name| !name.starts_with(path));
            object.nlink -= (before - object.names.len()) as u64;
            if object.names.len() == 1 {
                object.names.clear();
            }
        }
    }

    /// Takes the root's times out of the comparison with another tree.
    fn copy_root_times_of(&mut self, other: &Tree) {
        let root = Path::new("");
        if let (Some(mine), Some(theirs)) = (self.objects.get_mut(root), other.objects.get(root)) {
            mine.mtime = theirs.mtime;
        }
    }

    /// Takes atimes out of the comparison with the same tree at another time.
    pub fn without_atimes(mut self) -> Tree {
        self.objects
            .values_mut()
            .for_each(|object| object.own.atime = Stamp::default());
        self
    }

    /// Where two trees differ in what a migration has to carry over.
    pub fn differences(&self, other: &Tree) -> Vec<Difference> {
        self.compare(other, |path, a, b, report| {
            report(
                path,
                "mode",
                a.mode != b.mode,
                format!("{:o} {:o}", a.mode, b.mode),
            );
            report(
                path,
                "owner",
                (a.uid, a.gid) != (b.uid, b.gid),
                format!("{}:{} {}:{}", a.uid, a.gid, b.uid, b.gid),
            );
            report(
                path,
                "size",
                a.size != b.size,
                format!("{} {}", a.size, b.size),
            );
            report(
                path,
                "mtime",
                a.mtime != b.mtime,
                format!("{:?} {:?}", a.mtime, b.mtime),
            );
            report(
                path,
                "device number",
                a.rdev != b.rdev,
                format!("{:#x} {:#x}", a.rdev, b.rdev),
            );
            report(path, "content", a.content != b.content, String::new());
            report(
                path,
                "xattrs",
                a.xattrs != b.xattrs,
                format!("{:?} {:?}", a.xattrs, b.xattrs),
            );
            report(
                path,
                "inode flags",
                a.flags != b.flags,
                format!("{:#x} {:#x}", a.flags, b.flags),
            );
            report(
                path,
                "names",
                a.names != b.names,
                format!("{:?} {:?}", a.names, b.names),
            );
            report(
                path,
                "nlink",
                a.nlink != b.nlink,
                format!("{} {}", a.nlink, b.nlink),
            );
            let filled = b.allocated > a.allocated + a.allocated / 2 + 131_072;
            report(
                path,
                "holes",
                filled,
                format!("{} {} bytes on disk", a.allocated, b.allocated),
            );
        })
    }

    /// Where the same tree, read at another time, is not exactly what it was: inode numbers,
    /// ctimes and atimes included.
    pub fn changes_since(&self, before: &Tree) -> Vec<Difference> {
        let mut found = before.differences(self);
        found.extend(before.compare(self, |path, a, b, report| {
            if a.own != b.own {
                report(path, "changed", true, format!("{:?} {:?}", a.own, b.own));
            }
        }));
        found
    }

    fn compare(
        &self,
        other: &Tree,
        each: impl Fn(&Path, &Object, &Object, &mut dyn FnMut(&Path, &'static str, bool, String)),
    ) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut report = |path: &Path, what, differs: bool, detail| {
            if differs {
                found.push(Difference {
                    path: path.to_owned(),
                    what,
                    detail,
                });
            }
        };
        for (path, mine) in &self.objects {
            match other.objects.get(path) {
                Some(theirs) => each(path, mine, theirs, &mut report),
                None => report(path, "missing", true, String::new()),
            }
        }
        for path in other.objects.keys() {
            report(
                path,
                "extra",
                !self.objects.contains_key(path),
                String::new(),
            );
        }
        found
    }

    /// Fails the test with the first differences unless the other tree has all that this has.
    #[track_caller]
    pub fn assert_equal(&self, other: &Tree) {
        let found = self.differences(other);
        assert!(
            found.is_empty(),
            "{} and {} differ in {} points:\n{}",
            self.root.display(),
            other.root.display(),
            found.len(),
            list(&found)
        );
    }

    /// Fails the test unless this tree is exactly what it was before.
    #[track_caller]
    pub fn assert_unchanged_since(&self, before: &Tree) {
        let found = self.changes_since(before);
        assert!(
            found.is_empty(),
            "{} is not as it was:\n{}",
            self.root.display(),
            list(&found)
        );
    }
}

/// The first differences, a line each.
pub fn list(differences: &[Difference]) -> String {
    let mut text = String::new();
    for difference in differences.iter().take(25) {
        let detail: String = difference.detail.chars().take(700).collect();
        let _ = writeln!(
            text,
            "  {}: {:?} {detail}",
            difference.what, difference.path
        );
    }
    text
}

fn object(full: &Path, meta: &fs::Metadata) -> io::Result<Object> {
    let directory = meta.is_dir();
    let content = if meta.is_file() {
        digest(full, meta.len())?
    } else if meta.is_symlink() {
        fs::read_link(full)?.into_os_string().into_vec()
    } else {
        Vec::new()
    };
    Ok(Object {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        size: if directory { 0 } else { meta.len() },
        mtime: (meta.mtime(), meta.mtime_nsec()),
        rdev: meta.rdev(),
        content,
        xattrs: xattrs(full)?,
        flags: if directory || meta.is_file() {
            flags(full)
        } else {
            0
        },
        names: BTreeSet::new(),
        nlink: if directory { 0 } else { meta.nlink() },
        allocated: if meta.is_file() {
            meta.blocks() * 512
        } else {
            0
        },
        own: Own {
            ino: meta.ino(),
            ctime: (meta.ctime(), meta.ctime_nsec()),
            atime: (meta.atime(), meta.atime_nsec()),
            nlink: meta.nlink(),
        },
    })
}

fn open(full: &Path) -> io::Result<File> {
    // noatime: reading must leave no trace on the source that is being watched. A FUSE mount
    // may refuse it to us; there it does not matter.
    let quietly = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NOATIME)
        .open(full);
    quietly.or_else(|_| {
        fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(full)
    })
}

fn flags(full: &Path) -> u32 {
    let Ok(file) = open(full) else { return 0 };
    rustix::fs::ioctl_getflags(&file).map_or(0, |flags| flags.bits() & COMPARED_FLAGS)
}

/// Digest of a file's non-zero 512-byte cells with their places: the same for a hole and zeros.
fn digest(full: &Path, size: u64) -> io::Result<Vec<u8>> {
    const CELL: usize = 512;
    let file = open(full)?;
    let mut hash = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        at = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data / CELL as u64 * CELL as u64,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(at))?.max(at + 1);
        while at < end {
            let want = buffer
                .len()
                .min((end - at).next_multiple_of(CELL as u64) as usize);
            let mut got = 0;
            while got < want {
                match file.read_at(&mut buffer[got..want], at + got as u64)? {
                    0 => break,
                    more => got += more,
                }
            }
            if got == 0 {
                return Ok(hash.finalize().as_bytes().to_vec());
            }
            for (index, cell) in buffer[..got].chunks(CELL).enumerate() {
                let used = cell
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .map_or(0, |last| last + 1);
                if used > 0 {
                    hash.update(&(at + (index * CELL) as u64).to_le_bytes());
                    hash.update(&cell[..used]);
                }
            }
            at += got as u64;
        }
    }
    Ok(hash.finalize().as_bytes().to_vec())
}

fn xattrs(full: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut names = vec![0; 65_536];
    let length = match rustix::fs::llistxattr(full, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut found = BTreeMap::new();
    let mut value = vec![0; 65_536];
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if is_shown_twice(name) {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(full, name, &mut value)?;
        found.insert(name.to_owned(), value[..length].to_vec());
    }
    Ok(found)
}

/// xfs shows an ACL a second time, to root, by the name under which it keeps it.
pub fn is_shown_twice(xattr: &[u8]) -> bool {
    xattr.starts_with(b"trusted.SGI_ACL_")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::process::Command;

    use super::*;
    use crate::odd::{Odd, set_mtime};

    fn set_xattr(path: &Path, name: &str, value: &[u8]) {
        rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    }

    /// A way to spoil a copy, and the word for it.
    type Damage = (&'static str, fn(&Path));

    const DAMAGES: &[Damage] = &[
        ("missing", |copy| {
            fs::remove_file(copy.join("sizes/4097")).unwrap()
        }),
        ("extra", |copy| fs::write(copy.join("extra"), b"").unwrap()),
        ("mode", |copy| {
            fs::set_permissions(copy.join("sizes/1"), fs::Permissions::from_mode(0o4755)).unwrap()
        }),
        ("owner", |copy| {
            chown(copy.join("sizes/0"), Some(7), None).unwrap()
        }),
        ("size", |copy| {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(copy.join("sparse/all-hole"))
                .unwrap();
            file.set_len((64 << 20) + 1).unwrap();
        }),
        ("content", |copy| {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(copy.join("sparse/hole-first"))
                .unwrap();
            file.write_at(b"x", 123_456).unwrap();
        }),
        ("mtime", |copy| {
            let path = copy.join("wide");
            let time = fs::metadata(&path).unwrap().modified().unwrap();
            set_mtime(&path, time + std::time::Duration::from_nanos(1));
        }),
        ("xattrs", |copy| {
            set_xattr(&copy.join("symlinks/dangling"), "trusted.more", b"")
        }),
        ("xattrs", |copy| {
            rustix::fs::removexattr(copy.join("acl-parent"), "system.posix_acl_default").unwrap()
        }),
        ("xattrs", |copy| {
            rustix::fs::removexattr(copy.join("xattrs/capable"), "security.capability").unwrap()
        }),
        ("names", |copy| {
            fs::copy(copy.join("links/here/pair1"), copy.join("fresh")).unwrap();
            fs::rename(copy.join("fresh"), copy.join("links/there/pair1")).unwrap();
        }),
        ("holes", |copy| {
            let filled = vec![0; 8 << 20];
            let file = fs::OpenOptions::new()
                .write(true)
                .open(copy.join("sparse/hole-last"))
                .unwrap();
            file.write_all_at(&filled[4096..], 4096).unwrap();
        }),
        ("content", |copy| {
            let path = copy.join("symlinks/absolute");
            fs::remove_file(&path).unwrap();
            symlink("/etc/passwe", path).unwrap();
        }),
    ];

    #[test]
    fn a_good_copy_has_no_difference_and_every_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("original");
        fs::create_dir(&original).unwrap();
        assert_eq!(Odd::small().build(&original, 1), Vec::<String>::new());
        let copied = || {
            let copy = tempfile::tempdir_in(dir.path()).unwrap().keep();
            let status = Command::new("cp")
                .arg("-a")
                .arg(original.join("."))
                .arg(&copy)
                .status();
            assert!(status.unwrap().success());
            // cp -a leaves inode flags behind.
            for (name, flag) in [
                ("nodump", rustix::fs::IFlags::NODUMP),
                ("noatime", rustix::fs::IFlags::NOATIME),
            ] {
                let file = File::open(copy.join("flags").join(name)).unwrap();
                let flags = rustix::fs::ioctl_getflags(&file).unwrap();
                rustix::fs::ioctl_setflags(&file, flags | flag).unwrap();
            }
            copy
        };
        let source = Tree::of(&original);
        source.assert_equal(&Tree::of(&copied()));
        for (word, damage) in DAMAGES {
            let copy = copied();
            damage(&copy);
            let found = source.differences(&Tree::of(&copy));
            assert!(
                found.iter().any(|difference| difference.what == *word),
                "{word}: {found:?}"
            );
            fs::remove_dir_all(copy).unwrap();
        }
    }

    #[test]
    fn a_quiet_view_leaves_a_tree_exactly_as_it_was_and_a_touch_does_not() {
        let lab = crate::lab::Lab::new("quiet");
        let there = lab.dir("there");
        fs::write(there.join("file"), b"1").unwrap();
        let view = lab.quiet_view(&there);
        let before = Tree::of(&view);
        Tree::of(&view).assert_unchanged_since(&before);
        chown(there.join("file"), Some(0), None).unwrap();
        assert_eq!(Tree::of(&view).changes_since(&before).len(), 1);
    }
}
