//! What users do, and what the kernel does above a mount.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::Poll;

use hermitfs_api::*;
use parking_lot::Mutex;

/// What a user does, by paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Create(&'static str),
    Write(&'static str, u64, u8),
    /// By somebody who does not know where the file ends, and says anything.
    Append(&'static str, u8),
    Truncate(&'static str, u64),
    Mkdir(&'static str),
    Unlink(&'static str),
    Rmdir(&'static str),
    Rename(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    Whiteout(&'static str, &'static str),
    Link(&'static str, &'static str),
    Symlink(&'static str),
    Chmod(&'static str, u32),
    Xattr(&'static str, u8),
}

/// What the kernel does above a mount: who changes names in a directory has it for himself, and
/// so has who gives or takes a name the file; one at a time moves things between directories.
#[derive(Default)]
pub(super) struct Kernel(Mutex<HashSet<(u64, u64)>>);

fn numbers(inode: &Arc<Inode>) -> (u64, u64) {
    (inode.identity().dev, inode.identity().ino)
}

struct Locked<'a>(&'a Kernel, Vec<(u64, u64)>);

impl Kernel {
    /// What is no directory under this name.
    async fn lock_named(
        &self,
        volume: &dyn Translator,
        names: &[(&Arc<Inode>, &Name)],
    ) -> Locked<'_> {
        let mut found = Vec::new();
        for (dir, name) in names {
            if let Ok(entry) = volume.lookup(&USER, dir, name).await
                && entry.inode.kind() != Kind::Directory
            {
                found.push(entry.inode);
            }
        }
        self.hold(found.iter().map(numbers).collect()).await
    }

    async fn lock(&self, dirs: &[&Arc<Inode>]) -> Locked<'_> {
        let mut wanted: Vec<_> = dirs.iter().copied().map(numbers).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.len() > 1 {
            wanted.push((0, 0));
        }
        self.hold(wanted).await
    }

    async fn hold(&self, wanted: Vec<(u64, u64)>) -> Locked<'_> {
        std::future::poll_fn(|_| {
            let mut held = self.0.lock();
            if wanted.iter().any(|dir| held.contains(dir)) {
                return Poll::Pending;
            }
            held.extend(wanted.iter().copied());
            Poll::Ready(())
        })
        .await;
        Locked(self, wanted)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let mut held = self.0.0.lock();
        held.retain(|dir| !self.1.contains(dir));
    }
}

pub(super) const USER: Context = Context {
    uid: 0,
    gid: 0,
    pid: 1,
    origin: Origin::User,
    client: 0,
};

async fn walk(volume: &dyn Translator, path: &str) -> Result<(Arc<Inode>, NameBuf)> {
    let mut dir = volume.root(&USER).await?.inode;
    let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
    for name in above.split('/').filter(|name| !name.is_empty()) {
        dir = volume
            .lookup(&USER, &dir, Name::new(name.as_bytes())?)
            .await?
            .inode;
    }
    if dir.kind() != Kind::Directory {
        return Err(Error::new(Errno::ENOTDIR));
    }
    Ok((dir, NameBuf::new(last.as_bytes())?))
}

async fn find(volume: &dyn Translator, path: &str) -> Result<Arc<Inode>> {
    let (dir, name) = walk(volume, path).await?;
    Ok(volume.lookup(&USER, &dir, &name).await?.inode)
}

pub(super) async fn perform(volume: &dyn Translator, kernel: &Kernel, act: Act) -> Result<()> {
    match act {
        Act::Create(path) => {
            let (dir, name) = walk(volume, path).await?;
            let _locked = kernel.lock(&[&dir]).await;
            let flags = OpenFlags::WRITE;
            let (_, file) = volume.create(&USER, &dir, &name, flags, 0o644, 0).await?;
            volume.release(&USER, &file).await
        }
        Act::Write(path, at, byte) => {
            let inode = find(volume, path).await?;
            let file = volume.open(&USER, &inode, OpenFlags::WRITE).await?;
            volume.write(&USER, &file, at, &[byte; 10]).await?;
            volume.release(&USER, &file).await
        }
        Act::Append(path, byte) => {
            let inode = find(volume, path).await?;
            let flags = OpenFlags::WRITE.with(libc::O_APPEND | OpenFlags::SHARED);
            let file = volume.open(&USER, &inode, flags).await?;
            volume.write(&USER, &file, 1, &[byte; 10]).await?;
            volume.release(&USER, &file).await
        }
        Act::Truncate(path, size) => {
            let inode = find(volume, path).await?;
            let set = SetAttr {
                size: Some(size),
                ..SetAttr::default()
            };
            volume.setattr(&USER, &inode, None, &set).await.map(drop)
        }
        Act::Mkdir(path) => {
            let (dir, name) = walk(volume, path).await?;
            let _locked = kernel.lock(&[&dir]).await;
            volume.mkdir(&USER, &dir, &name, 0o755, 0).await.map(drop)
        }
        Act::Unlink(path) => {
            let (dir, name) = walk(volume, path).await?;
            let _locked = kernel.lock(&[&dir]).await;
            let _file = kernel.lock_named(volume, &[(&dir, &name)]).await;
            volume.unlink(&USER, &dir, &name).await
        }
        Act::Rmdir(path) => {
            let (dir, name) = walk(volume, path).await?;
            let _locked = kernel.lock(&[&dir]).await;
            volume.rmdir(&USER, &dir, &name).await
        }
        Act::Rename(from, to) | Act::Exchange(from, to) | Act::Whiteout(from, to) => {
            let flags = match act {
                Act::Exchange(..) => RenameFlags::Exchange,
                Act::Whiteout(..) => RenameFlags::Whiteout,
                _ => RenameFlags::Replace,
            };
            let ((dir, name), (to, new)) = (walk(volume, from).await?, walk(volume, to).await?);
            let _locked = kernel.lock(&[&dir, &to]).await;
            let _files = kernel
                .lock_named(volume, &[(&dir, &name), (&to, &new)])
                .await;
            volume.rename(&USER, &dir, &name, &to, &new, flags).await
        }
        Act::Link(from, to) => {
            let inode = find(volume, from).await?;
            if inode.kind() == Kind::Directory {
                return Err(Error::new(Errno::EPERM));
            }
            let (dir, name) = walk(volume, to).await?;
            let _locked = kernel.lock(&[&dir]).await;
            let _file = kernel.hold(vec![numbers(&inode)]).await;
            volume.link(&USER, &inode, &dir, &name).await.map(drop)
        }
        Act::Symlink(path) => {
            let (dir, name) = walk(volume, path).await?;
            let _locked = kernel.lock(&[&dir]).await;
            volume
                .symlink(&USER, &dir, &name, b"target")
                .await
                .map(drop)
        }
        Act::Chmod(path, mode) => {
            let inode = find(volume, path).await?;
            let set = SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            };
            volume.setattr(&USER, &inode, None, &set).await.map(drop)
        }
        Act::Xattr(path, value) => {
            let inode = find(volume, path).await?;
            volume
                .setxattr(&USER, &inode, b"user.x", &[value], XattrFlags::Any)
                .await
        }
    }
}
