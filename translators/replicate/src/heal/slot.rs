//! One name of a directory of the sink: it gets the image of what the source has there.

use std::sync::Arc;

use hermitfs_api::{Attr, Entry, Errno, Fsx, Inode, Kind, Name, RenameFlags};

use super::flags::CASEFOLD;
use super::meta::Image;
use super::{HEAL, Healer, handle_of, look};
use crate::ledger::{BodyWork, Known, Walk};
use crate::record::{Bytes, Oid, Place, Trust};
use crate::trouble::{Blame, Setback, Side, Step, Trouble};

/// A name of a directory, on both sides, and what the sink has there.
pub(super) struct Slot<'a> {
    pub(super) dir: &'a Arc<Inode>,
    pub(super) sink_dir: &'a Arc<Inode>,
    pub(super) name: &'a Name,
    pub(super) there: Option<Entry>,
    /// The ledger's epoch before the source was looked at.
    pub(super) epoch: u64,
    /// The walk that has come here, by whatever name; `None` where there is only a mark.
    pub(super) walk: Option<Walk>,
}

impl Slot<'_> {
    /// Whether what is found here, of which nobody knows that it differs, is to be told.
    fn verifies(&self, under: Option<Walk>) -> bool {
        under.is_some_and(|walk| walk.verify)
    }
}

impl Healer {
    /// Writes down that an object's image stands under this name, where nothing else tells.
    pub(super) async fn note_stand(&self, dir: &Arc<Inode>, name: &Name, object: &Arc<Inode>) {
        let oid = Oid::from(object.identity());
        let handle = handle_of(&*self.source, object).await;
        let place = Place::At {
            dir: Oid::from(dir.identity()),
            handle: handle_of(&*self.source, dir).await,
            name: name.as_bytes().into(),
        };
        self.ledger(|ledger| {
            if ledger.place_of(oid).is_none() && ledger.image(oid).is_none() {
                ledger.set_place(oid, handle, place);
            }
        });
    }

    pub(super) async fn child(
        &self,
        slot: &Slot<'_>,
        wanted: &Entry,
        under: Option<Walk>,
    ) -> Step<()> {
        let oid = Oid::from(wanted.inode.identity());
        let at = Oid::from(slot.dir.identity());
        let (claimant, place) = self.ledger(|ledger| {
            (
                ledger.claimant(at, slot.name.as_bytes()),
                ledger.place_of(oid).cloned(),
            )
        });
        let known = self.known(&wanted.inode).await;
        let mut there = slot.there.clone();
        if let Some(entry) = &there {
            let is_dir = entry.inode.kind() == Kind::Directory;
            if is_dir {
                self.must_be_one_with_the_root(entry)?;
            }
            if is_dir && under.is_some() {
                self.tally.looked(0);
            }
            if is_dir && claimant == Some(oid) {
                self.go_on(&known, slot.walk);
                return Ok(());
            }
            if is_dir && claimant.is_none() && place.is_none() {
                let stands = Oid::from(entry.inode.identity());
                if self.ledger(|ledger| ledger.in_use_by_other(stands, oid)) {
                    return Err(Setback::Later(10));
                }
                self.may_copy(Some(slot.dir), &wanted.inode).await?;
                // A directory has no content of its own: what stands there will do, when all in
                // it is looked at. Under an unseen one we made it ourselves, or adopt it.
                let now = self.now();
                self.ledger(|ledger| ledger.adopt(&known, stands, under, now));
                return Ok(());
            }
            if slot.verifies(under) && claimant.is_none() && place.is_none() {
                self.found_name(
                    slot.dir,
                    slot.name.as_bytes(),
                    "another object stands there",
                )
                .await;
            }
            self.take_away(slot.dir, slot.sink_dir, slot.name, entry, Some(oid))
                .await?;
            there = None;
        } else if slot.verifies(under) && place.is_none() {
            self.found_name(slot.dir, slot.name.as_bytes(), "missing")
                .await;
        }
        debug_assert!(there.is_none());
        if self.bring(slot, wanted).await? {
            self.go_on(&known, slot.walk);
            return Ok(());
        }
        let kept = self.may_copy(Some(slot.dir), &wanted.inode).await?;
        // Its other attributes come at the end of its own walk.
        let (image, body) = self
            .fresh(&wanted.inode, &wanted.attr, slot.sink_dir, slot.name)
            .await?;
        body?;
        let folded = Fsx {
            flags: kept.flags & CASEFOLD,
            ..Fsx::default()
        };
        self.first_flags(&folded, &image).await;
        let born = self.ledger(|ledger| ledger.take_born(oid));
        // What was brought into it may have to be compared all the same.
        let trusted = slot.walk.is_none_or(|walk| walk.trust == Trust::ALL);
        if born && trusted && self.new_directory(wanted, &image).await.is_ok() {
            return Ok(());
        }
        let now = self.now();
        self.ledger(|ledger| ledger.plant_new(&known, slot.walk, now));
        Ok(())
    }

    /// Nothing can be moved or linked from a subvolume to another, as it can be on the source: one
    /// that somebody has made on the sink cannot stand for a directory.
    fn must_be_one_with_the_root(&self, there: &Entry) -> Step<()> {
        let root = self.sink_root().at_sink("look up")?;
        if there.inode.identity().dev == root.identity().dev {
            return Ok(());
        }
        Err(Setback::Object(Trouble::told(
            Side::Sink,
            "adopt",
            Some(Errno::EXDEV),
            "a subvolume of its own, from which nothing can be moved: delete it there".to_owned(),
        )))
    }

    /// The attributes of an image that needs no walk.
    async fn new_directory(&self, wanted: &Entry, image: &Arc<Inode>) -> Step<()> {
        let first = self.sink.getattr(&HEAL, image, None).await;
        let first = first.at_sink("read attributes")?;
        let new = Image::New(&first);
        self.meta(&wanted.inode, &wanted.attr, image, None, new)
            .await
    }

    fn go_on(&self, known: &Known, walk: Option<Walk>) {
        let now = self.now();
        if let Some(walk) = walk {
            self.ledger(|ledger| ledger.go_on_in_known(known, walk, now));
        }
    }

    /// Brings an image that stands elsewhere into this free slot. `false` when there is none, and none is known.
    async fn bring(&self, slot: &Slot<'_>, wanted: &Entry) -> Step<bool> {
        let oid = Oid::from(wanted.inode.identity());
        let is_dir = wanted.inode.kind() == Kind::Directory;
        let here = || async {
            Place::At {
                dir: Oid::from(slot.dir.identity()),
                handle: handle_of(&*self.source, slot.dir).await,
                name: slot.name.as_bytes().into(),
            }
        };
        let handle = handle_of(&*self.source, &wanted.inode).await;
        if !is_dir && let Some(image) = self.linked_image(oid).await? {
            match self
                .sink
                .link(&HEAL, &image.inode, slot.sink_dir, slot.name)
                .await
            {
                Ok(_) => {
                    self.tally.made();
                    self.leave_place(oid).await?;
                    return Ok(true);
                }
                // Flags forbid it, or it is being removed: by way of its place, or a copy.
                Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ESTALE) => {}
                Err(error) if error.errno() == Errno::EPERM => {
                    self.loosen(&image).await;
                    let linked = self
                        .sink
                        .link(&HEAL, &image.inode, slot.sink_dir, slot.name)
                        .await;
                    linked.at_sink("link")?;
                    self.leave_place(oid).await?;
                    self.mark_attributes(&wanted.inode).await;
                    return Ok(true);
                }
                Err(error) => return Err(error).at_sink("link"),
            }
        }
        let _moving = self.moves.lock().await;
        // Asked for only now: it may have been staged, or lost, since this name was looked at.
        let Some(place) = self.ledger(|ledger| ledger.place_of(oid).cloned()) else {
            return Ok(false);
        };
        let found = self.stand(&place, 0).await?;
        let Some(found) = found.filter(|f| f.entry.inode.kind() == wanted.inode.kind()) else {
            // While nobody can stage it: whatever is there still is nobody's image from now on.
            self.ledger(|ledger| ledger.unplace(oid));
            return Ok(false);
        };
        let staged = matches!(place, Place::Staged(_));
        if !is_dir && !staged {
            // The other name stays until it is looked at: it may still be wanted.
            let linked = self
                .sink
                .link(&HEAL, &found.entry.inode, slot.sink_dir, slot.name)
                .await;
            match linked {
                Err(error) if error.errno() == Errno::EPERM => {
                    self.loosen(&found.entry).await;
                    let again = self
                        .sink
                        .link(&HEAL, &found.entry.inode, slot.sink_dir, slot.name)
                        .await;
                    again.at_sink("link")?;
                    self.mark_attributes(&wanted.inode).await;
                }
                linked => drop(linked.at_sink("link")?),
            }
        } else {
            let mut left = None;
            if let Place::At { dir, handle, name } = &place {
                // An image is moved only while both names are marked; and after it the directory that it left
                // is, as its times have to be set again.
                left = Some((
                    Known {
                        oid: *dir,
                        kind: Kind::Directory,
                        locator: crate::record::Locator {
                            handle: handle.clone(),
                            whence: None,
                        },
                        dir: None,
                    },
                    name.clone(),
                ));
            }
            self.mark_left(&left);
            let flags = self.loosened(&found.entry).await;
            let moved = self
                .sink
                .rename(
                    &HEAL,
                    &found.dir,
                    &found.name,
                    slot.sink_dir,
                    slot.name,
                    RenameFlags::NoReplace,
                )
                .await;
            match moved {
                Err(error) if error.errno() == Errno::EINVAL => return Err(Setback::Later(50)),
                moved => moved.at_sink("move")?,
            }
            if let Some((dir, _)) = &left {
                let now = self.now();
                self.ledger(|ledger| ledger.mark_body(dir, None, now));
            }
            if flags {
                self.mark_attributes(&wanted.inode).await;
            }
        }
        let here = here().await;
        self.ledger(|ledger| ledger.set_place(oid, handle, here));
        Ok(true)
    }

    fn mark_left(&self, left: &Option<(Known, Bytes)>) {
        if let Some((dir, name)) = left {
            let now = self.now();
            self.ledger(|ledger| ledger.mark_name(dir, name, now));
        }
    }

    /// An image that has got its name by a link needs no other place.
    async fn leave_place(&self, oid: Oid) -> Step<()> {
        let _moving = self.moves.lock().await;
        let place = self.ledger(|ledger| ledger.place_of(oid).cloned());
        if let Some(place @ Place::Staged(_)) = &place
            && let Some(found) = self.stand(place, 0).await?
        {
            self.remove(&found.dir, &found.name, &found.entry).await?;
        }
        self.ledger(|ledger| ledger.unplace(oid));
        Ok(())
    }

    async fn loosened(&self, there: &Entry) -> bool {
        let before = self.sink.get_flags(&HEAL, &there.inode).await.unwrap_or(0);
        self.loosen(there).await;
        before & super::flags::FORBIDDING != 0
    }

    async fn mark_attributes(&self, inode: &Arc<Inode>) {
        let known = self.known(inode).await;
        let now = self.now();
        self.ledger(|ledger| ledger.mark_body(&known, None, now));
    }

    /// A name of what is no directory.
    pub(super) async fn leaf(
        &self,
        slot: &Slot<'_>,
        wanted: &Entry,
        under: Option<Walk>,
    ) -> Step<()> {
        let oid = Oid::from(wanted.inode.identity());
        let at = Oid::from(slot.dir.identity());
        let source = &wanted.inode;
        // The generation first, then what it stands for.
        let (untouched, body, escaped, claimant, image, place) = self.ledger(|ledger| {
            (
                ledger.untouched(oid, slot.epoch),
                ledger.body_work(oid),
                ledger.body_escaped(oid),
                ledger.claimant(at, slot.name.as_bytes()),
                ledger.image(oid),
                ledger.place_of(oid).cloned(),
            )
        });
        // What the look-up told still holds, unless somebody may have changed it since.
        let attr = match untouched {
            true => wanted.attr,
            false => {
                let now = self.source.getattr(&HEAL, source, None).await;
                now.at_source("read attributes")?
            }
        };
        let object = Entry {
            inode: source.clone(),
            attr,
        };
        if let Some(there) = &slot.there {
            let stands = Oid::from(there.inode.identity());
            let same_kind = there.inode.kind() == attr.kind;
            let by_link = image.as_ref().map(|(sink, _)| *sink == stands);
            let proven = same_kind && (by_link == Some(true) || claimant == Some(oid));
            // Under an unseen directory nothing was changed here since we made it, or else it is
            // adopted: then it must not be another's, nor have names that ours has not.
            let unclaimed = by_link.is_none()
                && claimant.is_none()
                && place.is_none()
                && self.ledger(|ledger| ledger.image_owner(stands)).is_none()
                && (there.attr.nlink == 1 || attr.nlink > 1);
            let adopted = same_kind
                && unclaimed
                && under.is_some()
                && self.adoptable(source, &attr, there).await?;
            if proven || adopted {
                if adopted {
                    self.may_copy(Some(slot.dir), source).await?;
                }
                let mut done = Ok(());
                if let Some(walk) = slot.walk {
                    let sure = || self.ledger(|ledger| ledger.body_unmarked(oid));
                    let looked = match under.is_some_and(|walk| walk.verify) && sure() {
                        true => Some(self.verify(source, &attr, &there.inode).await?),
                        false => None,
                    };
                    done = self.compare(source, &attr, there, walk.trust).await;
                    if let Some(looked) = looked {
                        self.verified(looked, done.is_ok() && sure()).await;
                    }
                }
                if let (Ok(()), Some(body)) = (&done, &body) {
                    let mut there = there.clone();
                    // As the comparison has left it; and before the object was claimed another may have
                    // worked on it, since the name was looked up.
                    let now = self.sink.getattr(&HEAL, &there.inode, None).await;
                    there.attr = now.at_sink("read attributes")?;
                    done = self.change(&object, &there, body).await;
                }
                self.note_image(oid, &attr, &there.inode).await;
                if matches!(place, Some(Place::Staged(_))) {
                    // It had been taken away from another slot, and stands here as well.
                    self.leave_place(oid).await?;
                }
                return self.finish_leaf(source, body, done).await;
            }
            if slot.verifies(under) && place.is_none() && claimant.is_none() {
                self.found_name(
                    slot.dir,
                    slot.name.as_bytes(),
                    "another object stands there",
                )
                .await;
            }
            self.take_away(slot.dir, slot.sink_dir, slot.name, there, Some(oid))
                .await?;
        } else if slot.verifies(under) && place.is_none() {
            self.found_name(slot.dir, slot.name.as_bytes(), "missing")
                .await;
        }
        if self.bring(slot, wanted).await? {
            let there = look(&*self.sink, slot.sink_dir, slot.name)
                .await
                .at_sink("look up")?;
            let mut there = there.ok_or(Setback::Later(10))?;
            self.note_image(oid, &attr, &there.inode).await;
            let mut done = Ok(());
            if let Some(walk) = slot.walk {
                done = self.compare(source, &attr, &there, walk.trust).await;
                let now = self.sink.getattr(&HEAL, &there.inode, None).await;
                there.attr = now.at_sink("read attributes")?;
            }
            if let (Ok(()), Some(body)) = (&done, &body) {
                done = self.change(&object, &there, body).await;
            }
            return self.finish_leaf(source, body, done).await;
        }
        if self.unseen(source, escaped).await? {
            return Err(Setback::Later(500));
        }
        self.may_copy(Some(slot.dir), source).await?;
        let (image, mut done) = self.fresh(source, &attr, slot.sink_dir, slot.name).await?;
        if self.unseen(source, escaped).await? {
            done = Err(Setback::Later(500));
        }
        self.note_image(oid, &attr, &image).await;
        self.finish_leaf(source, body, done).await
    }

    /// Whether what a walk found can be changed into the image: a symlink or device cannot.
    async fn adoptable(&self, source: &Arc<Inode>, attr: &Attr, there: &Entry) -> Step<bool> {
        Ok(match attr.kind {
            Kind::CharDevice | Kind::BlockDevice => attr.rdev == there.attr.rdev,
            Kind::Symlink => {
                let wanted = self
                    .source
                    .readlink(&HEAL, source)
                    .await
                    .at_source("read link")?;
                let got = self
                    .sink
                    .readlink(&HEAL, &there.inode)
                    .await
                    .at_sink("read link")?;
                wanted == got
            }
            _ => true,
        })
    }

    /// The name is right; what the body lacks becomes a mark of its own.
    pub(super) async fn finish_leaf(
        &self,
        source: &Arc<Inode>,
        body: Option<BodyWork>,
        done: Step<()>,
    ) -> Step<()> {
        let oid = Oid::from(source.identity());
        if done.is_ok() || body.is_some() {
            return self.finish_body(oid, body.as_ref(), done).await;
        }
        let known = self.known(source).await;
        let now = self.now();
        let body = self.ledger(|ledger| {
            ledger.mark_body(&known, Some(crate::ranges::Ranges::WHOLE), now);
            ledger.body_work(oid)
        });
        self.finish_body(oid, body.as_ref(), done).await
    }

    async fn note_image(&self, oid: Oid, attr: &Attr, image: &Arc<Inode>) {
        if attr.nlink > 1
            && let Some(handle) = handle_of(&*self.sink, image).await
        {
            self.ledger(|ledger| ledger.set_image(oid, Oid::from(image.identity()), handle));
        }
    }
}

#[cfg(test)]
mod tests {
    use hermitfs_api::{
        Context, Filter, OpenFlags, Result, SetAttr, Translator, async_trait, block_on,
    };
    use hermitfs_testkit::Memory;

    use super::*;
    use crate::heal::between;

    /// A brick whose look-ups tell of the mode that files had when they were made.
    struct Slow(Memory);

    const FIRST: u32 = 0o755;

    #[async_trait]
    impl Filter for Slow {
        fn below(&self) -> &dyn Translator {
            &self.0
        }

        async fn lookup(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<Entry> {
            let mut entry = self.0.lookup(cx, dir, name).await?;
            entry.attr.mode = FIRST;
            Ok(entry)
        }
    }

    #[test]
    fn what_another_healer_made_of_an_image_before_it_was_claimed_is_seen() {
        let source: Arc<dyn Translator> = Arc::new(Memory::with_dev(1));
        let sink: Arc<dyn Translator> = Arc::new(Slow(Memory::with_dev(2)));
        let healer = between(source.clone(), sink.clone());
        let name = Name::new(b"file").unwrap();
        let make = |brick: &dyn Translator, root: &Arc<Inode>| {
            let made = brick.create(&HEAL, root, name, OpenFlags::WRITE, FIRST, 0);
            let (entry, file) = block_on(made).unwrap();
            block_on(brick.release(&HEAL, &file)).unwrap();
            entry.inode
        };
        let root = healer.source_root.clone();
        let file = make(&*source, &root);
        let image = make(&*sink, &healer.sink_root().unwrap());
        // A user has changed the mode to and fro, and a healer has seen one half of that.
        let between = SetAttr {
            mode: Some(0o700),
            ..SetAttr::default()
        };
        block_on(sink.setattr(&HEAL, &image, None, &between)).unwrap();
        let (dir, known) = (block_on(healer.known(&root)), block_on(healer.known(&file)));
        block_on(healer.note_stand(&root, name, &file));
        healer.ledger(|ledger| {
            ledger.mark_body(&known, None, 0);
            ledger.mark_name(&dir, &name.as_bytes().into(), 0);
        });
        let work = healer.ledger(|ledger| ledger.claim_next(0, true)).unwrap();
        block_on(healer.heal(&work)).unwrap();
        let attr = block_on(sink.getattr(&HEAL, &image, None)).unwrap();
        assert_eq!(attr.mode, FIRST);
        let open = healer.ledger(|ledger| ledger.claim_next(0, true).is_ok());
        assert!(!open, "the name takes the body along");
    }
}
