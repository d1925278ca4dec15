use std::sync::Arc;

use hermitfs_api::{
    Context, Entry, Errno, File, Inode, Kind, Make, Name, NameBuf, OpenFlags, Result, SetAttr,
    SetTime, Translator,
};

use super::{Answer, Data, Op, UMASK, split};
use crate::tree::walk;

impl Op {
    /// Runs it on a translator.
    pub async fn on(&self, volume: &dyn Translator, cx: &Context) -> Answer {
        match self.run(volume, cx).await {
            Ok(answer) => answer,
            Err(error) => self.refused(error.errno()),
        }
    }

    async fn run(&self, volume: &dyn Translator, cx: &Context) -> Result<Answer> {
        let (path, found) = (self.path(), find(volume, cx, self.path()));
        let set = |set: SetAttr| async move {
            let entry = find(volume, cx, path).await?;
            volume.setattr(cx, &entry.inode, None, &set).await
        };
        match self {
            Op::Create { mode, .. } => {
                let (dir, name) = parent(volume, cx, path).await?;
                let made = volume
                    .create(cx, &dir, &name, OpenFlags::READ_WRITE, *mode, UMASK)
                    .await?;
                volume.release(cx, &made.1).await?;
            }
            Op::Mkdir { mode, .. } => {
                let (dir, name) = parent(volume, cx, path).await?;
                volume.mkdir(cx, &dir, &name, *mode, UMASK).await?;
            }
            Op::Mkfifo { mode, .. } => {
                let (dir, name) = parent(volume, cx, path).await?;
                let make = Make {
                    kind: Kind::Fifo,
                    mode: *mode,
                    umask: UMASK,
                    rdev: 0,
                };
                volume.mknod(cx, &dir, &name, &make).await?;
            }
            Op::Symlink { target, .. } => {
                let (dir, name) = parent(volume, cx, path).await?;
                volume.symlink(cx, &dir, &name, target.as_bytes()).await?;
            }
            Op::Link { new, .. } => {
                let inode = found.await?.inode;
                let (dir, name) = parent(volume, cx, new).await?;
                volume.link(cx, &inode, &dir, &name).await?;
            }
            Op::Unlink { .. } => {
                let (dir, name) = parent(volume, cx, path).await?;
                volume.unlink(cx, &dir, &name).await?;
            }
            Op::Rmdir { .. } => {
                let (dir, name) = parent(volume, cx, path).await?;
                volume.rmdir(cx, &dir, &name).await?;
            }
            Op::Rename { new, flags, .. } => {
                let (dir, name) = parent(volume, cx, path).await?;
                let (new_dir, new_name) = parent(volume, cx, new).await?;
                volume
                    .rename(cx, &dir, &name, &new_dir, &new_name, *flags)
                    .await?;
            }
            Op::Write { at, data, .. } => {
                let file = volume
                    .open(cx, &found.await?.inode, OpenFlags::READ_WRITE)
                    .await?;
                return write(volume, cx, &file, *at, *data).await;
            }
            Op::Append { data, .. } => {
                let file = volume
                    .open(cx, &found.await?.inode, OpenFlags::READ_WRITE)
                    .await?;
                let size = volume.getattr(cx, file.inode(), Some(&file)).await?.size;
                return write(volume, cx, &file, size, *data).await;
            }
            Op::Truncate { size, .. } => {
                set(SetAttr {
                    size: Some(*size),
                    ..SetAttr::default()
                })
                .await?;
            }
            Op::Fallocate { how, at, len, .. } => {
                let file = volume
                    .open(cx, &found.await?.inode, OpenFlags::READ_WRITE)
                    .await?;
                let answer = volume.fallocate(cx, &file, *how, *at, *len).await;
                volume.release(cx, &file).await?;
                answer?;
            }
            Op::Chmod { mode, .. } => {
                set(SetAttr {
                    mode: Some(*mode),
                    ..SetAttr::default()
                })
                .await?;
            }
            Op::Chown { uid, gid, .. } => {
                set(SetAttr {
                    uid: Some(*uid),
                    gid: Some(*gid),
                    ..SetAttr::default()
                })
                .await?;
            }
            Op::Utimes { mtime, .. } => {
                let time = Some(SetTime::At(*mtime));
                set(SetAttr {
                    atime: time,
                    mtime: time,
                    ..SetAttr::default()
                })
                .await?;
            }
            Op::SetXattr {
                name, value, flags, ..
            } => {
                volume
                    .setxattr(cx, &found.await?.inode, name.as_bytes(), value, *flags)
                    .await?;
            }
            Op::RemoveXattr { name, .. } => {
                volume
                    .removexattr(cx, &found.await?.inode, name.as_bytes())
                    .await?;
            }
            Op::Look { .. } => {
                let mut node = walk::node(volume, cx, &found.await?).await?;
                node.mtime = Default::default();
                return Ok(Answer::Seen(Box::new(node)));
            }
            Op::List { .. } => return names(volume, cx, &found.await?.inode).await,
        }
        Ok(Answer::Done)
    }
}

/// What stands at a path; no symbolic link is followed on the way.
async fn find(volume: &dyn Translator, cx: &Context, path: &str) -> Result<Entry> {
    if path.is_empty() {
        return volume.root(cx).await;
    }
    let (dir, name) = parent(volume, cx, path).await?;
    volume.lookup(cx, &dir, &name).await
}

async fn parent(
    volume: &dyn Translator,
    cx: &Context,
    path: &str,
) -> Result<(Arc<Inode>, NameBuf)> {
    let (dirs, name) = split(path);
    let mut dir = volume.root(cx).await?.inode;
    for name in dirs {
        dir = volume
            .lookup(cx, &dir, Name::new(name.as_bytes())?)
            .await?
            .inode;
        if dir.kind() != Kind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
    }
    Ok((dir, NameBuf::new(name.as_bytes())?))
}

async fn write(
    volume: &dyn Translator,
    cx: &Context,
    file: &Arc<File>,
    at: u64,
    data: Data,
) -> Result<Answer> {
    let bytes = data.bytes();
    let mut done = 0;
    while done < bytes.len() {
        match volume
            .write(cx, file, at + done as u64, &bytes[done..])
            .await
        {
            Ok(len) => done += len,
            Err(error) => {
                volume.release(cx, file).await?;
                return Err(error);
            }
        }
    }
    let mut again = vec![0; data.len];
    let len = volume.read(cx, file, at, &mut again).await?;
    volume.flush(cx, file, 0).await?;
    volume.release(cx, file).await?;
    Ok(if len == data.len && again == bytes {
        Answer::Done
    } else {
        Answer::NotReadBack
    })
}

async fn names(volume: &dyn Translator, cx: &Context, dir: &Arc<Inode>) -> Result<Answer> {
    if dir.kind() != Kind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    let mut names = Vec::new();
    let mut from = 0;
    loop {
        // A few at a time, so that the positions are used.
        let some = volume.readdir(cx, dir, from, 3, false).await?;
        let Some(last) = some.last() else { break };
        from = last.next;
        names.extend(
            some.into_iter()
                .filter(|entry| !entry.is_dots())
                .map(|entry| entry.name.to_vec()),
        );
    }
    names.sort();
    Ok(Answer::Names(names))
}
