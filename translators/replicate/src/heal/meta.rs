//! Attributes: owner, mode, extended attributes, flags, times; and what the sink bends of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use hermitfs_api::{Attr, Errno, File, Fsx, Inode, Kind, SetAttr, SetTime, XattrFlags};

use super::flags::COMPRESSED;
use super::{HEAL, Healer};
use crate::loss::Class;
use crate::trouble::{Blame, Setback, Side, Step, Trouble};

/// Attributes that say how a file is stored there, not what it is.
const NOT_CARRIED: &[&[u8]] = &[b"btrfs."];

/// The one of these that another btrfs can have.
const COMPRESSION: &[u8] = b"btrfs.compression";

/// What stat(2) does not tell, as far as it could be read.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Extended attributes.
    xattrs: Xattrs,
    /// Those that could not be read.
    unread: Vec<Box<[u8]>>,
    /// Not even their names could be read.
    unlisted: bool,
    /// Inode flags, hints and project.
    fsx: Option<Fsx>,
    /// How btrfs compresses it.
    compression: Option<Vec<u8>>,
    /// Why not.
    troubles: Vec<Trouble>,
}

pub(super) type Xattrs = BTreeMap<Box<[u8]>, Vec<u8>>;

impl Extra {
    /// How it is kept, as far as that is known.
    pub(super) fn fsx(&self) -> Fsx {
        self.fsx.unwrap_or_default()
    }
}

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
        match self.source_fsx(source).await {
            Ok(fsx) => extra.fsx = Some(fsx),
            failed => keep(failed.map(drop), b"flags", &mut extra.troubles)?,
        }
        // Whoever has it says so by a flag, too.
        if extra.fsx().flags & COMPRESSED != 0
            && let Ok(how) = self.source.getxattr(&HEAL, source, COMPRESSION).await
        {
            extra.compression = Some(how);
        }
        Ok(extra)
    }

    /// Gives a new image, with nothing in it yet, what it can get only now.
    pub(super) async fn at_first(&self, extra: &Extra, image: &Arc<Inode>) {
        self.first_flags(&extra.fsx(), image).await;
        // What does not come off is found when all is set.
        self.compress(extra, image).await;
    }

    /// Has the sink compress an image as the source does. Whether it does.
    async fn compress(&self, extra: &Extra, image: &Arc<Inode>) -> bool {
        let Some(wanted) = &extra.compression else {
            return true;
        };
        let there = self.sink.getxattr(&HEAL, image, COMPRESSION).await;
        if there.is_ok_and(|there| there == *wanted) {
            return true;
        }
        let any = XattrFlags::Any;
        let set = self.sink.setxattr(&HEAL, image, COMPRESSION, wanted, any);
        set.await.is_ok()
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
        let mut extra = extra;
        let mut held_back = std::mem::take(&mut extra.troubles);
        let mut wanted = std::mem::take(&mut extra.xattrs);
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
        self.compress(&extra, image).await;
        if let Some(fsx) = &extra.fsx {
            self.flags(source, fsx, image, &mut held_back).await?;
            // Flags that are set anew take it back to what is usual.
            if let Some(how) = &extra.compression
                && !self.compress(&extra, image).await
            {
                let how = format!("compressed with {}", how.escape_ascii());
                self.note_loss(source, Class::Compression, Some(how)).await;
            }
        }
        if let Some(bent) = bent(attr, &after) {
            // What was read piece by piece may not have been so at one moment: an ACL and the mode
            // share bits. Whoever changed it meanwhile has marked it.
            let now = self.source.getattr(&HEAL, source, None).await;
            if changed(attr, &now.at_source("read attributes")?) {
                return Err(Setback::Later(20));
            }
            held_back.push(bent);
        }
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
        let wanted = self.source_fsx(source).await?;
        self.flags(source, &wanted, image, &mut held_back).await?;
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

/// Whether somebody has changed an object's attributes between two looks.
fn changed(before: &Attr, now: &Attr) -> bool {
    let told = |attr: &Attr| (attr.ctime, attr.mtime, attr.mode, attr.uid, attr.gid);
    told(before) != told(now)
}

/// What the sink made of the attributes that it was given.
pub(super) fn bent(wanted: &Attr, got: &Attr) -> Option<Trouble> {
    // Twice, as the source may have been changed, and back again, within one tick of its clock.
    let told = |operation, reason| {
        let told = Trouble::told(Side::Sink, operation, None, reason);
        Some(told.when_met(2))
    };
    if got.mtime != wanted.mtime {
        return told(
            "set time",
            format!(
                "the new brick cannot hold the time {}.{:09}: it made {}.{:09} of it",
                wanted.mtime.sec, wanted.mtime.nsec, got.mtime.sec, got.mtime.nsec
            ),
        );
    }
    if (got.uid, got.gid) != (wanted.uid, wanted.gid) {
        return told(
            "set owner",
            format!(
                "the new brick made {}:{} of the owner {}:{}",
                got.uid, got.gid, wanted.uid, wanted.gid
            ),
        );
    }
    if got.kind != Kind::Symlink && got.mode != wanted.mode {
        return told(
            "set mode",
            format!(
                "the new brick made {:04o} of the mode {:04o}",
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

#[cfg(test)]
mod tests {
    use hermitfs_api::{
        Context, Entry, Filter, Name, OpenFlags, Result, Translator, async_trait, block_on,
    };
    use hermitfs_testkit::Memory;

    use super::*;
    use crate::heal::between;

    /// A source of which somebody changes the mode whenever its attributes are read.
    struct Busy(Memory, bool);

    /// A sink that makes another mode of each.
    struct Bends(Memory);

    #[async_trait]
    impl Filter for Busy {
        fn below(&self) -> &dyn Translator {
            &self.0
        }

        async fn listxattr(&self, cx: &Context, inode: &Arc<Inode>) -> Result<Vec<u8>> {
            let mode = SetAttr {
                mode: Some(0o640),
                ..SetAttr::default()
            };
            if self.1 {
                self.0.setattr(cx, inode, None, &mode).await?;
            }
            self.0.listxattr(cx, inode).await
        }
    }

    #[async_trait]
    impl Filter for Bends {
        fn below(&self) -> &dyn Translator {
            &self.0
        }

        async fn setattr(
            &self,
            cx: &Context,
            inode: &Arc<Inode>,
            file: Option<&File>,
            set: &SetAttr,
        ) -> Result<Attr> {
            let attr = self.0.setattr(cx, inode, file, set).await?;
            Ok(Attr {
                mode: 0o755,
                ..attr
            })
        }
    }

    fn healed(busy: bool) -> Step<()> {
        let source: Arc<dyn Translator> = Arc::new(Busy(Memory::with_dev(1), busy));
        let sink: Arc<dyn Translator> = Arc::new(Bends(Memory::with_dev(2)));
        let healer = between(source.clone(), sink.clone());
        let name = Name::new(b"file").unwrap();
        let make = |brick: &dyn Translator, root: &Arc<Inode>| -> Entry {
            let made = brick.create(&HEAL, root, name, OpenFlags::WRITE, 0o600, 0);
            let (entry, file) = block_on(made).unwrap();
            block_on(brick.release(&HEAL, &file)).unwrap();
            entry
        };
        let file = make(&*source, &healer.source_root);
        let image = make(&*sink, &healer.sink_root().unwrap());
        let before = Image::Old(&image.attr);
        block_on(healer.meta(&file.inode, &file.attr, &image.inode, None, before))
    }

    #[test]
    fn what_users_change_meanwhile_is_no_fault_of_the_sink() {
        assert!(matches!(healed(true), Err(Setback::Later(_))));
        let Err(Setback::Object(trouble)) = healed(false) else {
            panic!("the mode is another one");
        };
        assert!(trouble.reason.contains("0755"), "{}", trouble.reason);
    }
}
