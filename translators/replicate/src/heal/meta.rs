//! Attributes: owner, mode, extended attributes, flags, times; and what the sink bends of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use hermitfs_api::{Attr, Errno, File, Inode, Kind, SetAttr, SetTime, XattrFlags};

use super::{HEAL, Healer};
use crate::trouble::{Blame, Setback, Side, Step, Trouble};

/// Attributes that say how a file is stored there, not what it is.
const NOT_CARRIED: &[&[u8]] = &[b"btrfs."];

/// What stat(2) does not tell, as far as it could be read.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Extended attributes.
    xattrs: Xattrs,
    /// Those that could not be read.
    unread: Vec<Box<[u8]>>,
    /// Not even their names could be read.
    unlisted: bool,
    /// Inode flags.
    pub(super) flags: Option<u32>,
    /// Why not.
    troubles: Vec<Trouble>,
}

pub(super) type Xattrs = BTreeMap<Box<[u8]>, Vec<u8>>;

/// Of a file that is new to the sink, or was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Image<'a> {
    /// Made by this pass, with these attributes at first.
    New(&'a Attr),
    /// Was there, with these attributes.
    Old(&'a Attr),
}

/// Set-uid and set-gid.
const SET_ID: u32 = 0o6000;

const CAPABILITY: &[u8] = b"security.capability";

impl Healer {
    /// Makes all attributes of the image equal; `atime` only when the image is new, as later
    /// reading of the source makes no difference. Sets what can be set before it tells what
    /// cannot. Times come last (but for flags, which would forbid them): an object whose times
    /// are right is complete.
    pub(super) async fn meta(
        &self,
        source: &Arc<Inode>,
        attr: &Attr,
        image: &Arc<Inode>,
        open: Option<&File>,
        before: Image<'_>,
    ) -> Step<()> {
        let extra = self.extra(source).await?;
        self.set_meta(source, extra, attr, image, open, before)
            .await
    }

    /// What the source has that stat(2) does not tell. What cannot be read of it keeps nothing else from being copied.
    pub(super) async fn extra(&self, source: &Arc<Inode>) -> Step<Extra> {
        let mut extra = Extra::default();
        let read = self.read_xattrs(source, &mut extra).await;
        keep(read, b"attributes", &mut extra.troubles)?;
        match self.source_flags(source).await {
            Ok(flags) => extra.flags = Some(flags),
            failed => keep(failed.map(drop), b"flags", &mut extra.troubles)?,
        }
        Ok(extra)
    }

    async fn read_xattrs(&self, source: &Arc<Inode>, extra: &mut Extra) -> Step<()> {
        let list = match names_of(&*self.source, source).await {
            Ok(list) => list,
            Err(error) => {
                extra.unlisted = true;
                let reason = match error.errno() {
                    Errno::E2BIG => {
                        "its names are longer than the 64 KiB that Linux lists: none can be copied (E2BIG)".to_owned()
                    }
                    _ => return Err(error).at_source("read xattrs"),
                };
                let told = Trouble::told(Side::Source, "read xattrs", Some(Errno::E2BIG), reason);
                return Err(Setback::Object(told));
            }
        };
        for name in list {
            match self.source.getxattr(&HEAL, source, &name).await {
                Ok(value) => drop(extra.xattrs.insert(name, value)),
                Err(error) if is_absent(&error) => {}
                Err(error) => {
                    let failed = Err(error).at_source("read xattrs");
                    keep(failed, &name, &mut extra.troubles)?;
                    extra.unread.push(name);
                }
            }
        }
        Ok(())
    }

    /// Sets what has been read.
    pub(super) async fn set_meta(
        &self,
        source: &Arc<Inode>,
        extra: Extra,
        attr: &Attr,
        image: &Arc<Inode>,
        open: Option<&File>,
        before: Image<'_>,
    ) -> Step<()> {
        let mut held_back = extra.troubles;
        let mut wanted = extra.xattrs;
        let (new, first) = match before {
            Image::New(first) => (true, first),
            Image::Old(first) => (false, first),
        };
        if !new {
            self.loosen_inode(image).await;
        }
        let there = read_xattrs(&*self.sink, image)
            .await
            .at_sink("read xattrs")?;
        // What is not known of the source stays as it is.
        for (name, value) in &there {
            if extra.unlisted || extra.unread.contains(name) {
                wanted.insert(name.clone(), value.clone());
            }
        }
        // chown takes capabilities away, so it is left out where the owner is right.
        let owner = (first.uid, first.gid) != (attr.uid, attr.gid);
        // It takes set-id bits as well; and an ACL shares bits with the mode.
        let same = wanted == there;
        let right = first.mode == attr.mode && same && !(owner && attr.mode & SET_ID != 0);
        let owned = SetAttr {
            mode: (attr.kind != Kind::Symlink && !right).then_some(attr.mode),
            uid: owner.then_some(attr.uid),
            gid: owner.then_some(attr.gid),
            ..SetAttr::default()
        };
        let timed = SetAttr {
            atime: new.then_some(SetTime::At(attr.atime)),
            mtime: Some(SetTime::At(attr.mtime)),
            ..SetAttr::default()
        };
        let both = SetAttr {
            atime: timed.atime,
            mtime: timed.mtime,
            ..owned
        };
        let after = if same && !(owner && wanted.contains_key(CAPABILITY)) {
            self.sink
                .setattr(&HEAL, image, open, &both)
                .await
                .at_sink("set attributes")?
        } else {
            self.sink
                .setattr(&HEAL, image, open, &owned)
                .await
                .at_sink("set attributes")?;
            self.xattrs(image, &wanted, &there, owner, &mut held_back)
                .await?;
            self.sink
                .setattr(&HEAL, image, open, &timed)
                .await
                .at_sink("set attributes")?
        };
        if let Some(flags) = extra.flags {
            self.flags(source, flags, image, &mut held_back).await?;
        }
        held_back.extend(bent(attr, &after));
        all_of(held_back)
    }

    async fn xattrs(
        &self,
        image: &Arc<Inode>,
        wanted: &Xattrs,
        there: &Xattrs,
        chowned: bool,
        held_back: &mut Vec<Trouble>,
    ) -> Step<()> {
        for name in there.keys().filter(|name| !wanted.contains_key(*name)) {
            match self.sink.removexattr(&HEAL, image, name).await {
                Err(error) if error.errno() == Errno::ENODATA => {}
                // The sink's own security module puts it on everything.
                Err(_) if **name == *b"security.selinux" => {}
                done => keep(done.at_sink("remove xattr"), name, held_back)?,
            }
        }
        for (name, value) in wanted {
            let dropped = chowned && **name == *CAPABILITY;
            if there.get(name) != Some(value) || dropped {
                let set = self
                    .sink
                    .setxattr(&HEAL, image, name, value, XattrFlags::Any)
                    .await;
                keep(set.at_sink("set xattr"), name, held_back)?;
            }
        }
        Ok(())
    }

    /// Flags alone, of what is equal otherwise.
    pub(super) async fn flags_only(&self, source: &Arc<Inode>, image: &Arc<Inode>) -> Step<()> {
        let mut held_back = Vec::new();
        let wanted = self.source_flags(source).await?;
        self.flags(source, wanted, image, &mut held_back).await?;
        all_of(held_back)
    }
}

fn all_of(held_back: Vec<Trouble>) -> Step<()> {
    Trouble::all(held_back).map_or(Ok(()), |trouble| Err(Setback::Object(trouble)))
}

/// A trouble with one attribute does not keep the others from being set.
pub(super) fn keep(done: Step<()>, what: &[u8], held_back: &mut Vec<Trouble>) -> Step<()> {
    match done {
        Err(Setback::Object(mut trouble)) => {
            trouble.reason = format!("{}: {}", what.escape_ascii(), trouble.reason);
            held_back.push(trouble);
            Ok(())
        }
        done => done,
    }
}

/// Whether an extended attribute of this name is carried over.
pub(super) fn is_carried(name: &[u8]) -> bool {
    !NOT_CARRIED.iter().any(|prefix| name.starts_with(prefix))
}

/// The names of all extended attributes that are carried over. A file system without any has none.
async fn names_of(
    brick: &dyn hermitfs_api::Translator,
    inode: &Arc<Inode>,
) -> hermitfs_api::Result<Vec<Box<[u8]>>> {
    let list = match brick.listxattr(&HEAL, inode).await {
        Ok(list) => list,
        Err(error) if matches!(error.errno(), Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let names = list.split(|&byte| byte == 0);
    let names = names.filter(|name| !name.is_empty() && is_carried(name));
    Ok(names.map(Into::into).collect())
}

/// Taken away since the list was read, or listed but not kept.
fn is_absent(error: &hermitfs_api::Error) -> bool {
    matches!(error.errno(), Errno::ENODATA | Errno::EOPNOTSUPP)
}

/// All extended attributes that are carried over.
pub(super) async fn read_xattrs(
    brick: &dyn hermitfs_api::Translator,
    inode: &Arc<Inode>,
) -> hermitfs_api::Result<Xattrs> {
    let mut all = Xattrs::new();
    for name in names_of(brick, inode).await? {
        match brick.getxattr(&HEAL, inode, &name).await {
            Ok(value) => drop(all.insert(name, value)),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// What the sink made of the attributes that it was given.
pub(super) fn bent(wanted: &Attr, got: &Attr) -> Option<Trouble> {
    // Twice, as what was read of the source piece by piece may not have been so at one moment: an ACL and
    // the mode share bits.
    let told = |operation, reason| {
        let told = Trouble::told(Side::Sink, operation, None, reason);
        Some(told.when_met(2))
    };
    if got.mtime != wanted.mtime {
        return told(
            "set time",
            format!(
                "the sink cannot hold the time {}.{:09}: it made {}.{:09} of it",
                wanted.mtime.sec, wanted.mtime.nsec, got.mtime.sec, got.mtime.nsec
            ),
        );
    }
    if (got.uid, got.gid) != (wanted.uid, wanted.gid) {
        return told(
            "set owner",
            format!(
                "the sink made {}:{} of the owner {}:{}",
                got.uid, got.gid, wanted.uid, wanted.gid
            ),
        );
    }
    if got.kind != Kind::Symlink && got.mode != wanted.mode {
        return told(
            "set mode",
            format!(
                "the sink made {:04o} of the mode {:04o}",
                got.mode, wanted.mode
            ),
        );
    }
    None
}

/// Whether two objects are equal as far as attributes tell: kind, size, mode, owner, time.
pub(super) fn looks_equal(source: &Attr, sink: &Attr) -> bool {
    source.kind == sink.kind
        && (source.kind != Kind::File || source.size == sink.size)
        && (source.kind == Kind::Symlink || source.mode == sink.mode)
        && (source.uid, source.gid) == (sink.uid, sink.gid)
        && source.mtime == sink.mtime
        && source.rdev == sink.rdev
}
