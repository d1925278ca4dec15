//! A directory: its names, then its own attributes.

use std::collections::HashMap;
use std::sync::Arc;

use hermitfs_api::{Inode, Kind, Name, NameBuf};

use super::meta::Image;
use super::several::{Done, TOGETHER};
use super::slot::Slot;
use super::staging::MARKER_DIR;
use super::{HEAL, Healer, LOST_FOUND, Listed, handle_of, list, look};
use crate::ledger::{Outcome, Walk, Work};
use crate::ranges::Ranges;
use crate::record::{Bytes, Oid, Piece, Trust, name_of};
use crate::tally::{Amount, Pass};
use crate::trouble::{Blame, Setback, Step};

impl Healer {
    /// Heals the open pieces of a directory.
    pub(super) async fn directory(&self, work: &Work) -> Step<()> {
        let Some(dir) = self.find(work.oid, &work.locator).await? else {
            if !self.surely_gone(work.oid) {
                return Err(Setback::Later(20));
            }
            self.not_there(work).await;
            return Ok(());
        };
        self.missed.lock().remove(&work.oid);
        let dir = dir.inode;
        let begun = self.ledger(|ledger| ledger.begun());
        let sink_dir = self.settle_path(&dir).await?;
        let image = Oid::from(sink_dir.identity());
        let entered = self.ledger(|ledger| self.enter(ledger, image, work.oid));
        let Some(_inside) = entered else {
            return Err(Setback::Later(10));
        };
        self.pass(work, &dir, &sink_dir, begun).await
    }

    /// One pass over a directory in whose image nobody else works.
    async fn pass(
        &self,
        work: &Work,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        begun: u64,
    ) -> Step<()> {
        // Before we entered it may have become another's image: then this one is elsewhere now.
        if self.ledger(|ledger| ledger.begun()) != begun
            && self.settle_path(dir).await?.identity() != sink_dir.identity()
        {
            return Err(Setback::Later(5));
        }
        if self.is_source_root(dir) {
            self.may_copy(None, dir).await?;
        }
        self.loosen_inode(sink_dir).await;
        let mut seen = HashMap::new();
        let sure = || self.ledger(|ledger| ledger.body_unmarked(work.oid));
        let mut looked = None;
        if work.tree.is_some_and(|(_, walk)| walk.verify) && sure() {
            let attr = self.source.getattr(&HEAL, dir, None).await;
            let attr = attr.at_source("read attributes")?;
            looked = Some(self.verify(dir, &attr, sink_dir).await?);
        }
        let mut counted = Pass::begin(&self.tally);
        if let Some((_, walk)) = work.tree {
            self.walk(dir, sink_dir, walk, (&mut seen, &mut counted))
                .await?;
        }
        let mut made = self.marked_together(work, dir, sink_dir, &seen).await?;
        let mut named = Vec::new();
        for (bytes, generation) in &work.names {
            let done = match (seen.get(bytes), made.remove(bytes)) {
                (Some(true), _) => Ok(Amount::default()),
                // The walk has told the ledger.
                (Some(false), _) => continue,
                (None, Some(done)) => done,
                (None, None) => {
                    let name = name_of(bytes).at_source("look up")?;
                    self.name(dir, sink_dir, &name, None, false).await
                }
            };
            match done {
                Err(Setback::Sink(trouble)) => return Err(Setback::Sink(trouble)),
                done => {
                    // A walk may have left it to this pass.
                    let done = done.map(|its| counted.saw(its));
                    named.push((bytes, *generation, done));
                }
            }
        }
        // A directory's own times come after its last entry.
        let attr = self
            .source
            .getattr(&HEAL, dir, None)
            .await
            .at_source("read attributes")?;
        let there = self
            .sink
            .getattr(&HEAL, sink_dir, None)
            .await
            .at_sink("read attributes")?;
        let before = if work.tree.is_some() {
            Image::New(&there)
        } else {
            Image::Old(&there)
        };
        if let Some(looked) = looked {
            self.verified(looked, sure()).await;
        }
        let body = match self.meta(dir, &attr, sink_dir, None, before).await {
            Err(setback) => Err(self.weigh(setback).await),
            done => done,
        };
        let (healed, trouble) = match body {
            Ok(()) => (true, None),
            Err(Setback::Object(trouble)) => (true, Some(trouble)),
            Err(setback) => return Err(setback),
        };
        // Only now: a name that is settled promises that the directory's times are right, too.
        for (bytes, generation, done) in named {
            self.finish_name(dir, bytes, generation, done)?;
        }
        let now = self.now();
        if let Some((generation, _)) = work.tree {
            if let Some(trouble) = trouble.clone() {
                let known = self.known(dir).await;
                self.ledger(|ledger| {
                    ledger.mark_body(&known, None, now);
                    if let Some(body) = ledger.body_work(work.oid) {
                        let failed = Outcome::Failed(trouble);
                        ledger.finish(work.oid, &Piece::Body, body.generation, failed, now);
                    }
                });
            }
            let passed = self.ledger(|ledger| {
                ledger.finish(work.oid, &Piece::Tree, generation, Outcome::Equal, now)
            });
            if passed {
                counted.is_done();
            }
        } else {
            counted.is_done();
        }
        if let Some(body) = &work.body
            && healed
        {
            let outcome = trouble.map_or(Outcome::Equal, Outcome::Failed);
            self.ledger(|ledger| {
                ledger.finish(work.oid, &Piece::Body, body.generation, outcome, now)
            });
        }
        Ok(())
    }

    /// Marked names under which the source has files that are new: how those came out that could be
    /// made together.
    async fn marked_together(
        &self,
        work: &Work,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        seen: &HashMap<Bytes, bool>,
    ) -> Step<HashMap<Bytes, Step<Amount>>> {
        let mut names = Vec::new();
        for (bytes, generation) in &work.names {
            if !seen.contains_key(bytes) {
                names.push((name_of(bytes).at_source("look up")?, *generation));
                self.brake.ease();
            }
        }
        let mut made = HashMap::new();
        for (name, done) in self.several_marked(dir, sink_dir, names).await {
            let Done::Made(done) = done else {
                continue;
            };
            let done = match done {
                Err(setback) => Err(self.weigh(setback).await),
                done => done,
            };
            if let Err(Setback::Sink(trouble)) = done {
                return Err(Setback::Sink(trouble));
            }
            made.insert(name.as_bytes().into(), done);
        }
        Ok(made)
    }

    /// Every name on either side.
    async fn walk(
        &self,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        walk: Walk,
        mut to: Told<'_, '_>,
    ) -> Step<()> {
        let at_root = self.is_source_root(dir);
        let mut wanted = list(&*self.source, dir).await.at_source("list")?;
        // In the order of inodes, which is about that of the disk.
        wanted.sort_unstable_by_key(|listed| listed.ino);
        let mut there: HashMap<Bytes, bool> = list(&*self.sink, sink_dir)
            .await
            .at_sink("list")?
            .into_iter()
            .map(|listed| (listed.name, true))
            .collect();
        let wanted: Vec<(Listed, bool)> = wanted
            .into_iter()
            .map(|listed| {
                let absent = there.remove(&listed.name).is_none();
                (listed, absent)
            })
            .collect();
        // First what goes: the room that it takes may be needed.
        for (name, _) in there {
            if at_root && (*name == *MARKER_DIR || *name == *LOST_FOUND) {
                continue;
            }
            self.walked(dir, sink_dir, name, walk, false, &mut to)
                .await?;
        }
        let mut new = Vec::new();
        for (Listed { kind, name, .. }, absent) in wanted {
            if absent && kind == Some(Kind::File) && !walk.verify {
                new.push(name_of(&name).at_source("list")?);
                if new.len() == TOGETHER {
                    let new = std::mem::take(&mut new);
                    self.walked_together(dir, sink_dir, new, walk, &mut to)
                        .await?;
                }
                continue;
            }
            self.walked(dir, sink_dir, name, walk, absent, &mut to)
                .await?;
        }
        self.walked_together(dir, sink_dir, new, walk, &mut to)
            .await
    }

    async fn walked(
        &self,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        bytes: Bytes,
        walk: Walk,
        absent: bool,
        to: &mut Told<'_, '_>,
    ) -> Step<()> {
        if self.stopped() {
            return Err(Setback::Later(0));
        }
        self.brake.ease();
        let name = name_of(&bytes).at_source("list")?;
        let done = self.name(dir, sink_dir, &name, Some(walk), absent).await;
        if matches!(
            done,
            Err(Setback::Later(_) | Setback::Behind(..) | Setback::Object(_) | Setback::Full(_))
        ) {
            self.go_on_below(dir, &name, walk).await;
        }
        self.saw(dir, bytes, done, to).await
    }

    /// A name that a walk could not heal yet becomes a mark, and who heals that knows of no walk. So what was to be
    /// looked at beneath it has marks of its own.
    async fn go_on_below(&self, dir: &Arc<Inode>, name: &Name, walk: Walk) {
        let Ok(Some(entry)) = look(&*self.source, dir, name).await else {
            return;
        };
        let known = self.known(&entry.inode).await;
        let handle = handle_of(&*self.source, dir).await;
        let (at, now) = (Oid::from(dir.identity()), self.now());
        self.ledger(|ledger| {
            if entry.inode.kind() == Kind::Directory {
                ledger.keep(&known, at, handle, &name.as_bytes().into());
                ledger.go_on(&known, walk, now);
            } else if ledger.has_image(known.oid) && !walk.trust.covers(entry.attr.ctime) {
                ledger.mark_body(&known, Some(Ranges::WHOLE), now);
            }
        });
    }

    /// Files that the sink has not got.
    async fn walked_together(
        &self,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        names: Vec<NameBuf>,
        walk: Walk,
        to: &mut Told<'_, '_>,
    ) -> Step<()> {
        names.iter().for_each(|_| self.brake.ease());
        for (name, done) in self.several(dir, sink_dir, names).await {
            let bytes = Bytes::from(name.as_bytes());
            match done {
                Done::Made(Err(setback)) => {
                    let weighed = Err(self.weigh(setback).await);
                    self.saw(dir, bytes, weighed, to).await?;
                }
                Done::Made(done) => self.saw(dir, bytes, done, to).await?,
                Done::Not { absent } => {
                    self.walked(dir, sink_dir, bytes, walk, absent, to).await?;
                }
            }
        }
        Ok(())
    }

    /// How a name came out that a walk has met.
    async fn saw(
        &self,
        dir: &Arc<Inode>,
        bytes: Bytes,
        done: Step<Amount>,
        (seen, counted): &mut Told<'_, '_>,
    ) -> Step<()> {
        let (oid, now) = (Oid::from(dir.identity()), self.now());
        match done {
            Ok(its) => {
                counted.saw(its);
                seen.insert(bytes, true);
            }
            Err(Setback::Sink(trouble)) => return Err(Setback::Sink(trouble)),
            Err(setback) => {
                // The walk goes on; this name has a mark of its own from here.
                let known = self.known(dir).await;
                let generation = self.ledger(|ledger| {
                    ledger.mark_name(&known, &bytes, now);
                    ledger.generation_of(oid, &Piece::Name(bytes.clone()))
                });
                if let Some(generation) = generation {
                    self.finish_name(dir, &bytes, generation, Err(setback))?;
                }
                seen.insert(bytes, false);
            }
        }
        Ok(())
    }

    fn finish_name(
        &self,
        dir: &Arc<Inode>,
        name: &Bytes,
        generation: u64,
        done: Step<()>,
    ) -> Step<()> {
        let (outcome, answer) = Outcome::of(done);
        let (oid, now) = (Oid::from(dir.identity()), self.now());
        self.ledger(|ledger| {
            let equal = ledger.finish(oid, &Piece::Name(name.clone()), generation, outcome, now);
            // From here on the image stands at its own path.
            if equal && let Some(owner) = ledger.claimant(oid, name) {
                ledger.unplace(owner);
            }
        });
        answer
    }

    /// Makes one name of the sink equal: the image of what the source has under it, or nothing.
    /// `under` is the walk that has come to the directory that it is in; `None` for a marked name.
    /// `absent` when the sink is known to have nothing there.
    pub(super) async fn name(
        &self,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        name: &Name,
        under: Option<Walk>,
        absent: bool,
    ) -> Step<Amount> {
        match self.make_name(dir, sink_dir, name, under, absent).await {
            Err(setback) => Err(self.weigh(setback).await),
            done => done,
        }
    }

    async fn make_name(
        &self,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        name: &Name,
        under: Option<Walk>,
        absent: bool,
    ) -> Step<Amount> {
        let slot = Oid::from(dir.identity());
        if self.ledger(|ledger| ledger.name_in_flight(slot, name.as_bytes())) {
            return Err(Setback::Later(10));
        }
        let bytes: Bytes = name.as_bytes().into();
        let seen = self.ledger(|ledger| ledger.name_seen(slot, &bytes));
        let wanted = look(&*self.source, dir, name).await.at_source("look up")?;
        let there = match absent {
            true => None,
            false => look(&*self.sink, sink_dir, name).await.at_sink("look up")?,
        };
        let Some(wanted) = wanted else {
            match there {
                Some(there) => {
                    let verify = under.is_some_and(|walk| walk.verify);
                    if verify && !self.ledger(|ledger| ledger.name_marked(slot, &bytes)) {
                        self.found_name(dir, &bytes, "on the new brick alone").await;
                    }
                    self.take_away(dir, sink_dir, name, &there, None).await?;
                }
                None => self.ledger(|ledger| {
                    if let Some(owner) = ledger.claimant(slot, name.as_bytes()) {
                        ledger.unplace(owner);
                    }
                }),
            }
            return Ok(Amount::default());
        };
        let oid = Oid::from(wanted.inode.identity());
        // A marked name proves nothing, also when it is met by a walk: that goes on below all the same. And one that
        // failed may have kept a walk from seeing what it leads to.
        let again = || {
            self.ledger(|ledger| {
                let failed = ledger.name_failed(slot, &bytes);
                failed.then(|| ledger.ask(Trust::NOTHING))
            })
        };
        let walk = under.or_else(again);
        let under =
            under.filter(|_| !self.ledger(|ledger| ledger.name_dirty(slot, name.as_bytes())));
        // One that was healed, and not synced yet, was not thought to be settled.
        let under = under.map(|mut walk| {
            walk.verify &= !self.ledger(|ledger| ledger.name_marked(slot, &bytes));
            walk
        });
        let at = slot;
        let slot = Slot {
            dir,
            sink_dir,
            name,
            there,
            epoch: seen.0,
            walk,
        };
        let is_dir = wanted.inode.kind() == Kind::Directory;
        // One image is made at a time: two names of one object may be met at once, and a
        // directory under its old name and its new one.
        let (claimed, stands, born) = self.ledger(|ledger| {
            let claimed = match is_dir {
                true => self.claim_place(ledger, oid),
                false => self.claim_object(ledger, oid),
            };
            let stands = ledger.name_stands(at, &bytes, seen);
            (
                claimed,
                stands && !ledger.is_named(oid),
                ledger.is_born(oid),
            )
        });
        let Some(claimed) = claimed else {
            return Err(Setback::Later(10));
        };
        if slot.there.is_none() {
            // Nothing stands here, so nobody's image does, whatever was written down.
            self.ledger(|ledger| {
                if let Some(other) = ledger.claimant(at, &bytes)
                    && other != oid
                {
                    ledger.unplace(other);
                }
            });
        }
        let done = match (stands, is_dir) {
            (false, _) => Err(Setback::Later(1)),
            (true, true) => self.child(&slot, &wanted, under).await,
            (true, false) => self.leaf(&slot, &wanted, under).await,
        };
        // It may have left this name while it was healed: then this is where it stands. And of a
        // marked directory this is so in any case.
        if done.is_ok()
            && (under.is_some() || is_dir)
            && self.ledger(|ledger| ledger.name_dirty(at, &bytes))
        {
            self.note_stand(dir, name, &wanted.inode).await;
        }
        drop(claimed);
        done?;
        if born {
            self.ledger(|ledger| ledger.wake(oid));
        }
        Ok(Amount::name(&wanted.attr))
    }
}

/// How names came out that a walk has met, and how much of the tree they are.
type Told<'a, 'b> = (&'a mut HashMap<Bytes, bool>, &'a mut Pass<'b>);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use hermitfs_api::{Context, Entry, Errno, Filter, Result, Translator, async_trait, block_on};
    use hermitfs_testkit::Memory;

    use super::*;
    use crate::heal::{HEAL, between};
    use crate::ledger::Touch;

    /// A brick in which nothing can be looked up at times.
    struct Bad(Memory, AtomicBool);

    #[async_trait]
    impl Filter for Bad {
        fn below(&self) -> &dyn Translator {
            &self.0
        }

        async fn lookup(&self, cx: &Context, dir: &Arc<Inode>, name: &Name) -> Result<Entry> {
            match self.1.load(Ordering::Relaxed) {
                true => Err(Errno::EIO.into()),
                false => self.0.lookup(cx, dir, name).await,
            }
        }
    }

    /// Two bricks that have a directory, and the directory's image is known to be under its name.
    struct Pair {
        source: Arc<Bad>,
        healer: Healer,
        name: NameBuf,
        dir: Oid,
    }

    impl Pair {
        fn new() -> Pair {
            let source = Arc::new(Bad(Memory::with_dev(1), AtomicBool::new(false)));
            let sink = Arc::new(Memory::with_dev(2));
            let healer = between(source.clone(), sink.clone());
            let name = NameBuf::new(b"dir").unwrap();
            let root = healer.source_root.clone();
            let made = block_on(source.0.mkdir(&HEAL, &root, &name, 0o755, 0)).unwrap();
            let sink_root = healer.sink_root().unwrap();
            block_on(sink.mkdir(&HEAL, &sink_root, &name, 0o755, 0)).unwrap();
            block_on(healer.note_stand(&root, &name, &made.inode));
            let dir = Oid::from(made.inode.identity());
            let known = block_on(healer.known(&root));
            healer.ledger(|ledger| ledger.plant_tree(&known, Trust::NOTHING, 0));
            Pair {
                source,
                healer,
                name,
                dir,
            }
        }

        fn root(&self) -> Oid {
            Oid::from(self.healer.source_root.identity())
        }

        /// Heals what is open of the root.
        fn heal(&self) {
            let work = self.healer.ledger(|ledger| {
                ledger.retry_all(0);
                ledger.claim(self.root());
                ledger.work(self.root(), u64::MAX).unwrap()
            });
            block_on(self.healer.heal(&work)).unwrap();
        }

        fn is_walked(&self) -> bool {
            !self.healer.ledger(|ledger| ledger.tree_dirty(self.root()))
        }

        fn is_to_be_walked_below(&self) -> bool {
            self.healer.ledger(|ledger| ledger.tree_dirty(self.dir))
        }
    }

    #[test]
    fn a_walk_goes_on_below_a_name_that_users_are_changing() {
        let pair = Pair::new();
        let touch = Touch::Name(pair.root(), pair.name.as_bytes().into());
        let ticket = pair
            .healer
            .ledger(|ledger| ledger.begin(&[touch], &[], &[], 0));
        pair.heal();
        assert!(pair.is_walked() && pair.is_to_be_walked_below());
        pair.healer
            .ledger(|ledger| ledger.end(ticket.unwrap(), 0, 0));
    }

    /// As when one user links what another one renames meanwhile, from another host: the name that was marked for
    /// the link is not the one that it has now.
    #[test]
    fn a_file_that_is_getting_another_name_is_made_when_it_has_it() {
        let pair = Pair::new();
        let (root, old, new) = (
            pair.healer.source_root.clone(),
            NameBuf::new(b"old").unwrap(),
            NameBuf::new(b"new").unwrap(),
        );
        let brick = &pair.source.0;
        let file = block_on(brick.symlink(&HEAL, &root, &old, b"target")).unwrap();
        let known = [block_on(pair.healer.known(&file.inode))];
        let name = |name: &NameBuf| Touch::Name(pair.root(), name.as_bytes().into());
        let link = [Touch::Names(known[0].oid), name(&new)];
        let (linked, renamed) = pair.healer.ledger(|ledger| {
            let linked = ledger.begin(&link, &[], &known, 0).unwrap();
            (linked, ledger.begin(&[name(&old)], &[], &[], 0).unwrap())
        });
        pair.healer.ledger(|ledger| ledger.end(renamed, 0, 0));
        let there = |name: &NameBuf| {
            let sink_root = pair.healer.sink_root().unwrap();
            let there = block_on(look(&*pair.healer.sink, &sink_root, name)).unwrap();
            there.map(|there| there.inode.identity())
        };
        pair.heal();
        assert_eq!(there(&old), None);
        block_on(brick.link(&HEAL, &file.inode, &root, &new)).unwrap();
        pair.healer.ledger(|ledger| ledger.end(linked, 0, 0));
        pair.heal();
        assert!(there(&old).is_some());
        assert_eq!(there(&old), there(&new));
    }

    #[test]
    fn what_could_not_be_seen_is_walked_when_it_can_be() {
        let pair = Pair::new();
        pair.source.1.store(true, Ordering::Relaxed);
        pair.heal();
        assert!(pair.is_walked() && !pair.is_to_be_walked_below());
        assert_eq!(pair.healer.ledger(|ledger| ledger.errors()), 1);
        pair.source.1.store(false, Ordering::Relaxed);
        pair.heal();
        assert_eq!(pair.healer.ledger(|ledger| ledger.errors()), 0);
        assert!(pair.is_to_be_walked_below());
    }
}
