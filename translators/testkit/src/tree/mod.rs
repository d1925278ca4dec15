pub(crate) mod disk;
pub(crate) mod walk;

use std::collections::BTreeMap;

use hermitfs_api::{Kind, Time};

/// The names of our own and of mkfs that are no part of a brick's tree, at its root.
pub const NOT_OF_THE_TREE: &[&str] = &[".hermitfs", "lost+found"];

/// Inode flags that an owner sets: secure deletion, compression, sync, immutable, append-only, nodump, noatime, dirsync,
/// topdir, no copy-on-write and the like. All others say how a file system stores an object.
const OWNERS_FLAGS: u32 = 0x0083_80ff;

/// Whether an extended attribute is how a file system stores something else that is compared:
/// xfs shows root its ACLs a second time.
fn is_storage(xattr: &[u8]) -> bool {
    matches!(xattr, b"trusted.SGI_ACL_FILE" | b"trusted.SGI_ACL_DEFAULT")
}

/// All that has to be equal of two trees: each path with its [`Node`].
///
/// Equality is equality of what DESIGN asks for: names, kinds, modes, owners, sizes, content, mtimes with
/// nanoseconds, extended attributes with ACLs, targets, device numbers, inode flags, and which
/// names are hard links of one object. Not: atimes, ctimes, inode numbers, where holes are.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tree(pub BTreeMap<Vec<u8>, Node>);

/// One path of a [`Tree`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of a file in bytes, else 0.
    pub size: u64,
    /// Content of a file.
    pub content: Blocks,
    /// Last change of the content.
    pub mtime: Time,
    /// Extended attributes, ACLs among them.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// Number of a device.
    pub rdev: u64,
    /// Inode flags that mean something to users; 0 where the file system has none.
    pub flags: u32,
    /// The first (in byte order) of this object's names in the tree, when it has several.
    pub same_as: Option<Vec<u8>>,
}

/// Content in blocks of 4 KiB without those that are all zeros: a block's bytes up to its
/// trailing zeros, or their hash when there are more than 32.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blocks(BTreeMap<u64, Box<[u8]>>);

const BLOCK: usize = 4096;

impl Blocks {
    /// Adds what stands at an offset, which is a multiple of a block, as is the length unless it
    /// is the end.
    fn add(&mut self, at: u64, data: &[u8]) {
        for (i, block) in data.chunks(BLOCK).enumerate() {
            let len = block
                .iter()
                .rposition(|&b| b != 0)
                .map_or(0, |last| last + 1);
            if len > 0 {
                let known = if len <= 32 {
                    block[..len].into()
                } else {
                    blake3::hash(block[..len].as_ref()).as_bytes()[..].into()
                };
                self.0.insert(at / BLOCK as u64 + i as u64, known);
            }
        }
    }

    fn first_difference(&self, other: &Blocks) -> Option<u64> {
        let numbers = self.0.keys().chain(other.0.keys());
        numbers
            .filter(|n| self.0.get(n) != other.0.get(n))
            .min()
            .map(|n| n * BLOCK as u64)
    }
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let blocks = self
            .0
            .iter()
            .map(|(n, bytes)| (n, bytes.escape_ascii().to_string()));
        f.debug_map().entries(blocks).finish()
    }
}

impl Tree {
    /// What differs, a line each, for people: empty when the trees are equal.
    pub fn diff(a: &Tree, b: &Tree) -> Vec<String> {
        let mut lines = Vec::new();
        let mut paths: Vec<&Vec<u8>> = a.0.keys().chain(b.0.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let shown = path.escape_ascii();
            match (a.0.get(path), b.0.get(path)) {
                (Some(a), Some(b)) => {
                    lines.extend(a.diff(b).into_iter().map(|line| format!("{shown}: {line}")));
                }
                (Some(a), None) => lines.push(format!("{shown}: {:?} only in the first", a.kind)),
                (None, Some(b)) => lines.push(format!("{shown}: {:?} only in the second", b.kind)),
                (None, None) => {}
            }
        }
        lines
    }

    /// The same with all mtimes alike, to compare trees that were made at different times.
    pub fn without_times(mut self) -> Tree {
        self.0
            .values_mut()
            .for_each(|node| node.mtime = Time::default());
        self
    }

    /// Panics with every difference when there is one.
    #[track_caller]
    pub fn assert_same(a: &Tree, b: &Tree) {
        let lines = Tree::diff(a, b);
        assert!(
            lines.is_empty(),
            "the trees differ:\n  {}",
            lines.join("\n  ")
        );
    }

    /// Fills in `same_as` from (path, whose object) of everything that could have several names.
    fn link(&mut self, names: BTreeMap<(u64, u64, u64), Vec<Vec<u8>>>) {
        for paths in names.into_values().filter(|paths| paths.len() > 1) {
            let first = paths.iter().min().cloned();
            for path in paths {
                if let Some(node) = self.0.get_mut(&path) {
                    node.same_as = first.clone();
                }
            }
        }
    }
}

impl Node {
    pub(crate) fn diff(&self, other: &Node) -> Vec<String> {
        let mut lines = Vec::new();
        let mut differ = |what: &str, a: String, b: String| {
            if a != b {
                lines.push(format!("{what} {a} | {b}"));
            }
        };
        differ(
            "kind",
            format!("{:?}", self.kind),
            format!("{:?}", other.kind),
        );
        differ(
            "mode",
            format!("{:o}", self.mode),
            format!("{:o}", other.mode),
        );
        differ("uid", self.uid.to_string(), other.uid.to_string());
        differ("gid", self.gid.to_string(), other.gid.to_string());
        differ("size", self.size.to_string(), other.size.to_string());
        let time = |t: Time| format!("{}.{:09}", t.sec, t.nsec);
        differ("mtime", time(self.mtime), time(other.mtime));
        let bytes = |b: &Option<Vec<u8>>| {
            b.as_ref()
                .map_or("-".into(), |b| b.escape_ascii().to_string())
        };
        differ("target", bytes(&self.target), bytes(&other.target));
        differ(
            "rdev",
            format!("{:x}", self.rdev),
            format!("{:x}", other.rdev),
        );
        differ(
            "flags",
            format!("{:x}", self.flags),
            format!("{:x}", other.flags),
        );
        differ("hard link of", bytes(&self.same_as), bytes(&other.same_as));
        let names: std::collections::BTreeSet<_> =
            self.xattrs.keys().chain(other.xattrs.keys()).collect();
        for name in names {
            let value = |node: &Node| bytes(&node.xattrs.get(name).cloned());
            differ(
                &format!("xattr {}", name.escape_ascii()),
                value(self),
                value(other),
            );
        }
        if let Some(at) = self.content.first_difference(&other.content) {
            lines.push(format!("content differs in the block at {at}"));
        }
        lines
    }
}
