//! What is no directory: one object and its image.

use std::sync::Arc;

use hermitfs_api::{Attr, Entry, File, Inode, Kind, Make, Name, OpenFlags, is_small};

use super::data::Before;
use super::full::weight;
use super::meta::{Image, looks_equal};
use super::{HEAL, Healer};
use crate::brake::OBJECT;
use crate::ledger::{BodyWork, Outcome, Work};
use crate::ranges::Ranges;
use crate::record::{Oid, Piece, Trust};
use crate::room::Need;
use crate::trouble::{Blame, Setback, Step};

impl Healer {
    /// Heals the body of a marked object.
    pub(super) async fn object(&self, work: &Work) -> Step<()> {
        let Some(object) = self.find(work.oid, &work.locator).await? else {
            self.findings.was_asked_for(work.oid);
            self.not_there(work).await;
            return Ok(());
        };
        let Some(body) = &work.body else {
            return Ok(());
        };
        let image = self.image_of(&object, &work.locator).await?;
        let looked = match self.findings.is_asked_for(work.oid) {
            true => Some(
                self.verify(&object.inode, &object.attr, &image.inode)
                    .await?,
            ),
            false => None,
        };
        let done = self.change(&object, &image, body).await;
        if let Some(looked) = looked.filter(|_| done.is_ok()) {
            self.findings.was_asked_for(work.oid);
            let now = self.ledger(|ledger| ledger.generation_of(work.oid, &Piece::Body));
            self.verified(looked, now == Some(body.generation)).await;
        }
        self.finish_body(work.oid, Some(body), done).await
    }

    /// Tells the ledger how a body came out; passes on only what concerns more than it.
    pub(super) async fn finish_body(
        &self,
        oid: Oid,
        body: Option<&BodyWork>,
        done: Step<()>,
    ) -> Step<()> {
        let done = match done {
            Err(setback) => Err(self.weigh(setback).await),
            done => done,
        };
        let now = self.now();
        let (outcome, answer) = Outcome::of(done);
        if let Some(body) = body {
            self.ledger(|ledger| ledger.finish(oid, &Piece::Body, body.generation, outcome, now));
        }
        answer
    }

    /// Whether stores may reach the source's file unseen just now.
    pub(super) async fn unseen(&self, inode: &Arc<Inode>, escaped: bool) -> Step<bool> {
        Ok(escaped
            && !self
                .source
                .quiet(&HEAL, inode)
                .await
                .at_source("take a lease")?)
    }

    /// Changes a proven image in place, as far as it is marked. Both were looked at after the body's
    /// generation was read.
    pub(super) async fn change(&self, source: &Entry, image: &Entry, body: &BodyWork) -> Step<()> {
        let (mut attr, there) = (source.attr, image.attr);
        let (source, image) = (&source.inode, &image.inode);
        // First the lease, then the copy, then compare-and-swap.
        if self.unseen(source, body.escaped).await? {
            return Err(Setback::Later(500));
        }
        if body.escaped {
            // Nobody's business until now.
            let now = self.source.getattr(&HEAL, source, None).await;
            attr = now.at_source("read attributes")?;
        }
        if attr.kind == Kind::File && !body.data.is_empty() {
            let before = if body.data.is_whole() {
                Before::Unknown
            } else {
                Before::Stale
            };
            self.grow(source, image, (&attr, &there), &body.data, before)
                .await?;
        } else if attr.kind == Kind::File && there.size != attr.size {
            let all = Ranges::whole();
            self.grow(source, image, (&attr, &there), &all, Before::Unknown)
                .await?;
        }
        if self.unseen(source, body.escaped).await? {
            return Err(Setback::Later(500));
        }
        self.meta(source, &attr, image, None, Image::Old(&there))
            .await
    }

    /// The content of an image, as far as the sink has room for what it grows by.
    async fn grow(
        &self,
        source: &Arc<Inode>,
        image: &Arc<Inode>,
        (attr, there): (&Attr, &Attr),
        ranges: &Ranges,
        before: Before,
    ) -> Step<()> {
        let need = Need::bytes(weight(attr).saturating_sub(weight(there)));
        let content = self.content(source, image, attr, ranges, before);
        self.with_room(Oid::from(source.identity()), (need, need), content)
            .await
    }

    async fn content(
        &self,
        source: &Arc<Inode>,
        image: &Arc<Inode>,
        attr: &Attr,
        ranges: &Ranges,
        before: Before,
    ) -> Step<()> {
        self.loosen_inode(image).await;
        let _underway = self.copies.begin(source);
        if attr.size > SMALL || cfg!(test) {
            self.must_have_a_name(source).await?;
        }
        let from = self
            .source
            .open(&HEAL, source, OpenFlags::READ)
            .await
            .at_source("open")?;
        let to = self
            .sink
            .open(&HEAL, image, OpenFlags::READ_WRITE)
            .await
            .at_sink("open")?;
        let done = self.fill(&from, &to, attr.size, ranges, before).await;
        // Nothing is lost by a close that fails: what was written is synced as a whole.
        drop(self.source.release(&HEAL, &from).await);
        drop(self.sink.release(&HEAL, &to).await);
        done
    }

    async fn fill(
        &self,
        from: &Arc<File>,
        to: &Arc<File>,
        size: u64,
        ranges: &Ranges,
        before: Before,
    ) -> Step<()> {
        let there = self.sink.getattr(&HEAL, to.inode(), Some(to)).await;
        let mut ranges = ranges.clone();
        if there.at_sink("read attributes")?.size != size {
            // It takes what is reserved behind the end as well.
            self.resize(to, size).await?;
            ranges.add(size, u64::MAX);
        }
        self.data(from, to, size, &ranges, before).await?;
        self.reserve(from, to, size, &ranges, before)
            .await
            .map(drop)
    }

    /// Compares an object with what a walk found under its name, as far as there is no trust,
    /// and makes it equal.
    pub(super) async fn compare(
        &self,
        source: &Arc<Inode>,
        attr: &Attr,
        there: &Entry,
        trust: Trust,
    ) -> Step<()> {
        if looks_equal(attr, &there.attr) && trust.covers(attr.ctime) {
            self.tally.looked(weight(attr));
            return self.flags_only(source, &there.inode).await;
        }
        self.tally.looked(0);
        if attr.kind == Kind::File {
            self.grow(
                source,
                &there.inode,
                (attr, &there.attr),
                &Ranges::whole(),
                Before::Unknown,
            )
            .await?;
        }
        self.meta(source, attr, &there.inode, None, Image::Old(&there.attr))
            .await
    }

    /// Makes a new image in a free slot. The object itself, or why it could not be made; and how
    /// its body came out.
    pub(super) async fn fresh(
        &self,
        source: &Arc<Inode>,
        attr: &Attr,
        sink_dir: &Arc<Inode>,
        name: &Name,
    ) -> Step<(Arc<Inode>, Step<()>)> {
        if attr.kind == Kind::File {
            return self.fresh_file(source, attr, sink_dir, name).await;
        }
        let (oid, need) = (Oid::from(source.identity()), Need::object(0));
        let making = self.fresh_other(source, attr, sink_dir, name);
        self.with_room(oid, (need, need), making).await
    }

    async fn fresh_other(
        &self,
        source: &Arc<Inode>,
        attr: &Attr,
        sink_dir: &Arc<Inode>,
        name: &Name,
    ) -> Step<(Arc<Inode>, Step<()>)> {
        self.brake.pay(OBJECT);
        let _making = self.making.acquire().await;
        let image = match attr.kind {
            Kind::Symlink => {
                let target = self
                    .source
                    .readlink(&HEAL, source)
                    .await
                    .at_source("read link")?;
                self.sink
                    .symlink(&HEAL, sink_dir, name, &target)
                    .await
                    .at_sink("make symlink")?
            }
            Kind::Directory => self
                .sink
                .mkdir(&HEAL, sink_dir, name, 0o700, 0)
                .await
                .at_sink("make directory")?,
            kind => {
                let make = Make {
                    kind,
                    mode: 0,
                    umask: 0,
                    rdev: attr.rdev,
                };
                self.sink
                    .mknod(&HEAL, sink_dir, name, &make)
                    .await
                    .at_sink("make node")?
            }
        };
        let body = match attr.kind {
            Kind::Directory => Ok(()),
            _ => {
                self.meta(source, attr, &image.inode, None, Image::New(&image.attr))
                    .await
            }
        };
        self.tally.made();
        Ok((image.inode, body))
    }

    async fn fresh_file(
        &self,
        source: &Arc<Inode>,
        attr: &Attr,
        sink_dir: &Arc<Inode>,
        name: &Name,
    ) -> Step<(Arc<Inode>, Step<()>)> {
        // Opened first: what cannot be read is not made.
        let from = self
            .source
            .open(&HEAL, source, OpenFlags::READ)
            .await
            .at_source("open")?;
        // What it shares with others may be there.
        let shared = match self.is_looked_at(weight(attr)) {
            true => self.shared_bytes(&from).await,
            false => 0,
        };
        let need = Need::object(weight(attr).saturating_sub(shared));
        let needs = (need, Need::object(weight(attr)));
        let making = self.fresh_from(&from, attr, sink_dir, name);
        let made = self
            .with_room(Oid::from(source.identity()), needs, making)
            .await;
        drop(self.source.release(&HEAL, &from).await);
        made
    }

    async fn fresh_from(
        &self,
        from: &Arc<File>,
        attr: &Attr,
        sink_dir: &Arc<Inode>,
        name: &Name,
    ) -> Step<(Arc<Inode>, Step<()>)> {
        let made = if is_small(attr, SMALL) && !self.shares_space(from, attr).await {
            self.small_file(from, attr, sink_dir, name).await
        } else {
            self.big_file(from, attr, sink_dir, name).await
        };
        let (image, body) = made?;
        if let Err(setback @ (Setback::Sink(_) | Setback::Full(_))) = body {
            // Half a file is no image.
            drop(self.sink.unlink(&HEAL, sink_dir, name).await);
            return Err(setback);
        }
        self.tally.made();
        Ok((image, body))
    }

    /// Not worth a look for holes: all is read before anything is made.
    async fn small_file(
        &self,
        from: &Arc<File>,
        attr: &Attr,
        sink_dir: &Arc<Inode>,
        name: &Name,
    ) -> Step<(Arc<Inode>, Step<()>)> {
        self.brake.pay(attr.size.max(OBJECT));
        let content = self.whole(from, attr.size).await?;
        let extra = self.extra(from.inode()).await?;
        let _making = self.making.acquire().await;
        let (entry, to) = self.create(sink_dir, name).await?;
        self.at_first(&extra, &entry.inode).await;
        // It stays open until all is set: an open file is quicker to reach.
        let body = match self.write_all(&to, 0, &content).await {
            Ok(()) => {
                let new = Image::New(&entry.attr);
                self.set_meta(from.inode(), extra, attr, &entry.inode, Some(&to), new)
                    .await
            }
            Err(setback) => Err(setback),
        };
        drop(self.sink.release(&HEAL, &to).await);
        self.tally.bytes(content.len() as u64);
        Ok((entry.inode, body))
    }

    /// A file that has lost its name since it was found is not copied: nobody would end that.
    async fn must_have_a_name(&self, source: &Arc<Inode>) -> Step<()> {
        let now = self.source.getattr(&HEAL, source, None).await;
        match now.at_source("read attributes")?.nlink {
            0 => Err(Setback::Later(0)),
            _ => Ok(()),
        }
    }

    async fn big_file(
        &self,
        from: &Arc<File>,
        attr: &Attr,
        sink_dir: &Arc<Inode>,
        name: &Name,
    ) -> Step<(Arc<Inode>, Step<()>)> {
        let extra = self.extra(from.inode()).await?;
        let _underway = self.copies.begin(from.inode());
        if attr.nlink > 0 {
            self.must_have_a_name(from.inode()).await?;
        }
        let (entry, to) = self.create(sink_dir, name).await?;
        self.at_first(&extra, &entry.inode).await;
        let done = self.fill_new(from, &to, attr).await;
        let body = match done {
            Ok(()) => {
                let new = Image::New(&entry.attr);
                self.meta(from.inode(), attr, &entry.inode, Some(&to), new)
                    .await
            }
            Err(setback) => Err(setback),
        };
        drop(self.sink.release(&HEAL, &to).await);
        Ok((entry.inode, body))
    }

    async fn fill_new(&self, from: &Arc<File>, to: &Arc<File>, attr: &Attr) -> Step<()> {
        let (all, new) = (Ranges::whole(), Before::Empty);
        // Before the content, so that both stand in one piece.
        let reserved = self.reserve(from, to, attr.size, &all, new).await?;
        if reserved || attr.blocks * 512 < attr.size {
            self.resize(to, attr.size).await?;
            if reserved {
                // What is behind the end went with it.
                self.reserve(from, to, attr.size, &all, Before::Stale)
                    .await?;
            }
        }
        self.data(from, to, attr.size, &all, new).await
    }

    /// Reachable for nobody until it is whole.
    async fn create(&self, sink_dir: &Arc<Inode>, name: &Name) -> Step<(Entry, Arc<File>)> {
        self.sink
            .create(&HEAL, sink_dir, name, OpenFlags::READ_WRITE, 0, 0)
            .await
            .at_sink("create")
    }
}

/// Up to this size a file without holes is read in one go.
pub(super) const SMALL: u64 = 128 << 10;
