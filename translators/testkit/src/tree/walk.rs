use std::collections::BTreeMap;
use std::sync::Arc;

use hermitfs_api::{
    Context, Entry, Errno, Identity, Inode, Kind, NameBuf, OpenFlags, Origin, Result, Seek,
    Translator, block_on,
};

use super::{BLOCK, Blocks, Node, OWNERS_FLAGS, Tree, is_storage};

impl Tree {
    /// The tree that a translator shows, without some names at its root. Waits for the
    /// operations on this thread; they run with origin Verify.
    pub fn of(volume: &dyn Translator, without: &[&str]) -> Result<Tree> {
        block_on(Tree::walk(volume, without))
    }

    /// The same, for callers that are async themselves.
    pub async fn walk(volume: &dyn Translator, without: &[&str]) -> Result<Tree> {
        let cx = Context::internal(Origin::Verify);
        let mut tree = Tree::default();
        let mut links: BTreeMap<_, Vec<Vec<u8>>> = BTreeMap::new();
        let mut todo = vec![(b"/".to_vec(), volume.root(&cx).await?)];
        while let Some((path, entry)) = todo.pop() {
            if entry.inode.kind() == Kind::Directory {
                for (name, entry) in list(volume, &cx, &entry.inode).await? {
                    let at_root = path.len() == 1;
                    if at_root && without.iter().any(|w| w.as_bytes() == name.as_bytes()) {
                        continue;
                    }
                    let slash = if at_root { &b""[..] } else { b"/" };
                    todo.push(([&path, slash, name.as_bytes()].concat(), entry));
                }
            } else if entry.attr.nlink > 1 {
                let Identity {
                    dev,
                    ino,
                    generation,
                } = entry.inode.identity();
                links
                    .entry((dev, ino, generation))
                    .or_default()
                    .push(path.clone());
            }
            let node = node(volume, &cx, &entry).await?;
            tree.0.insert(path, node);
        }
        tree.link(links);
        Ok(tree)
    }
}

/// All names of a directory with what stands there; what vanishes meanwhile is left out.
async fn list(
    volume: &dyn Translator,
    cx: &Context,
    dir: &Arc<Inode>,
) -> Result<Vec<(NameBuf, Entry)>> {
    let mut all = Vec::new();
    let mut from = 0;
    loop {
        let some = volume.readdir(cx, dir, from, 1024, false).await?;
        let Some(last) = some.last() else {
            return Ok(all);
        };
        from = last.next;
        for found in some {
            let Ok(name) = NameBuf::new(&found.name) else {
                continue;
            };
            match volume.lookup(cx, dir, &name).await {
                Ok(entry) => all.push((name, entry)),
                Err(error) if error.errno() == Errno::ENOENT => {}
                Err(error) => return Err(error),
            }
        }
    }
}

pub(crate) async fn node(volume: &dyn Translator, cx: &Context, entry: &Entry) -> Result<Node> {
    let Entry { inode, attr } = entry;
    let kind = inode.kind();
    let flags = match volume.get_flags(cx, inode).await {
        Ok(flags) => flags & OWNERS_FLAGS,
        Err(error) if matches!(error.errno(), Errno::ENOTTY | Errno::EOPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    Ok(Node {
        kind,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        size: if kind == Kind::File { attr.size } else { 0 },
        content: if kind == Kind::File {
            content(volume, cx, inode, attr.size).await?
        } else {
            Blocks::default()
        },
        mtime: attr.mtime,
        xattrs: xattrs(volume, cx, inode).await?,
        target: if kind == Kind::Symlink {
            Some(volume.readlink(cx, inode).await?)
        } else {
            None
        },
        rdev: attr.rdev,
        flags,
        same_as: None,
    })
}

async fn xattrs(
    volume: &dyn Translator,
    cx: &Context,
    inode: &Arc<Inode>,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let names = match volume.listxattr(cx, inode).await {
        Ok(names) => names,
        Err(error) if error.errno() == Errno::EOPNOTSUPP => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut all = BTreeMap::new();
    for name in names
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty() && !is_storage(name))
    {
        all.insert(name.to_vec(), volume.getxattr(cx, inode, name).await?);
    }
    Ok(all)
}

async fn content(
    volume: &dyn Translator,
    cx: &Context,
    inode: &Arc<Inode>,
    size: u64,
) -> Result<Blocks> {
    let file = volume.open(cx, inode, OpenFlags::READ).await?;
    let mut blocks = Blocks::default();
    let mut buffer = Vec::new();
    let mut at = 0;
    loop {
        at = match volume.lseek(cx, &file, at, Seek::Data).await {
            Ok(data) => data - data % BLOCK as u64,
            Err(error) if error.errno() == Errno::ENXIO => break,
            // Without SEEK_DATA everything is data.
            Err(error) if matches!(error.errno(), Errno::EINVAL | Errno::EOPNOTSUPP) => at,
            Err(error) => return Err(error),
        };
        // One more than there should be, so that an end behind the size is noticed.
        let left = size.saturating_sub(at).saturating_add(1);
        buffer.resize(left.min(256 * BLOCK as u64) as usize, 0);
        let len = volume.read(cx, &file, at, &mut buffer).await?;
        if len == 0 {
            break;
        }
        blocks.add(at, &buffer[..len]);
        at += len as u64;
        at = at.next_multiple_of(BLOCK as u64);
    }
    volume.release(cx, &file).await?;
    Ok(blocks)
}
