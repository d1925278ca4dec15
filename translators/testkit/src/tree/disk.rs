use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use hermitfs_api::{Kind, Time};
use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;

use super::{BLOCK, Blocks, Node, OWNERS_FLAGS, Tree, is_storage};

impl Tree {
    /// The tree of a directory on disk, without some names at its root. As root, and while
    /// nobody changes it. Depth is bounded by descriptors, not by the length of a path.
    pub fn of_dir(path: impl AsRef<Path>, without: &[&str]) -> io::Result<Tree> {
        let path = path.as_ref();
        let mut walk = Walk {
            tree: Tree::default(),
            links: BTreeMap::new(),
            without,
        };
        let here = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        walk.visit(here.as_fd(), c".", b"/".to_vec())
            .map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("reading the tree {}: {error}", path.display()),
                )
            })?;
        let Walk {
            mut tree, links, ..
        } = walk;
        tree.link(links);
        Ok(tree)
    }
}

struct Walk<'a> {
    tree: Tree,
    links: BTreeMap<(u64, u64, u64), Vec<Vec<u8>>>,
    without: &'a [&'a str],
}

impl Walk<'_> {
    fn visit(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: Vec<u8>) -> io::Result<()> {
        let fail = |error: Errno| {
            io::Error::new(
                io::Error::from(error).kind(),
                format!("{}: {error}", path.escape_ascii()),
            )
        };
        let found = Found::at(dir, name).map_err(fail)?;
        if let Some(object) = found.linked {
            self.links.entry(object).or_default().push(path.clone());
        }
        if let Some(here) = &found.directory {
            for name in names(here).map_err(fail)? {
                let at_root = path.len() == 1;
                if at_root && self.without.iter().any(|w| w.as_bytes() == name.as_bytes()) {
                    continue;
                }
                let slash = if at_root { &b""[..] } else { b"/" };
                self.visit(
                    here.as_fd(),
                    &name,
                    [&path, slash, name.to_bytes()].concat(),
                )?;
            }
        }
        self.tree.0.insert(path, found.node);
        Ok(())
    }
}

/// What stands under a name.
pub(crate) struct Found {
    pub(crate) node: Node,
    /// Which object it is, when it has several names.
    linked: Option<(u64, u64, u64)>,
    /// Open, if it is a directory.
    directory: Option<OwnedFd>,
}

impl Found {
    pub(crate) fn at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Found, Errno> {
        let wanted = StatxFlags::BASIC_STATS;
        let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        let kind = Kind::from_mode(u32::from(stat.stx_mode)).unwrap_or(Kind::File);
        let open = |flags: OFlags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            let quiet = rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty());
            quiet.or_else(|_| rustix::fs::openat(dir, name, flags, Mode::empty()))
        };
        let mut node = Node {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: if kind == Kind::File { stat.stx_size } else { 0 },
            content: Blocks::default(),
            mtime: Time::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            xattrs: xattrs(dir, name)?,
            target: None,
            rdev: match kind.is_device() {
                true => rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
                false => 0,
            },
            flags: 0,
            same_as: None,
        };
        let mut directory = None;
        match kind {
            Kind::Symlink => {
                node.target = Some(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes());
            }
            Kind::File => {
                let file = open(OFlags::empty())?;
                node.flags = flags(file.as_fd());
                node.content = content(file.as_fd(), stat.stx_size)?;
            }
            Kind::Directory => {
                let here = open(OFlags::DIRECTORY)?;
                node.flags = flags(here.as_fd());
                directory = Some(here);
            }
            _ => {}
        }
        let dev = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        let several = kind != Kind::Directory && stat.stx_nlink > 1;
        Ok(Found {
            node,
            linked: several.then_some((dev, stat.stx_ino, 0)),
            directory,
        })
    }
}

fn names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut all = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            all.push(entry.file_name().to_owned());
        }
    }
    Ok(all)
}

fn flags(fd: BorrowedFd<'_>) -> u32 {
    rustix::fs::ioctl_getflags(fd).map_or(0, |flags| flags.bits() & OWNERS_FLAGS)
}

/// The links of /proc lead to any name, of a symbolic link too, without its path.
fn xattrs(dir: BorrowedFd<'_>, name: &CStr) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    let prefix = format!("/proc/self/fd/{}/", dir.as_raw_fd());
    let path =
        CString::new([prefix.as_bytes(), name.to_bytes()].concat()).map_err(|_| Errno::INVAL)?;
    let names = whole(|buffer| rustix::fs::llistxattr(&path, buffer));
    let names = match names {
        Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        names => names?,
    };
    let mut all = BTreeMap::new();
    for name in names
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty() && !is_storage(name))
    {
        all.insert(
            name.to_vec(),
            whole(|buffer| rustix::fs::lgetxattr(&path, name, buffer))?,
        );
    }
    Ok(all)
}

/// Reads what tells its size first.
fn whole(read: impl Fn(&mut Vec<u8>) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 64 << 10];
    let len = read(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

fn content(file: BorrowedFd<'_>, size: u64) -> Result<Blocks, Errno> {
    let mut blocks = Blocks::default();
    let mut buffer = vec![0; (256 * BLOCK).min(size as usize + 1)];
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data - data % BLOCK as u64,
            Err(Errno::NXIO) => return Ok(blocks),
            Err(Errno::INVAL) => at,
            Err(error) => return Err(error),
        };
        let mut len = 0;
        while len < buffer.len() {
            match rustix::io::pread(file, &mut buffer[len..], at + len as u64)? {
                0 => break,
                read => len += read,
            }
        }
        if len == 0 {
            return Ok(blocks);
        }
        blocks.add(at, &buffer[..len]);
        at = (at + len as u64).next_multiple_of(BLOCK as u64);
    }
}
