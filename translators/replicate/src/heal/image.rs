//! Where the image of an object is: by proof, never by a name alone.

use std::pin::Pin;
use std::sync::Arc;

use hermitfs_api::{Entry, Errno, Handle, Inode, Kind, Name, NameBuf};

use super::staging::stage_name;
use super::{HEAL, Healer, look};
use crate::ledger::Ledger;
use crate::record::{Bytes, Locator, Oid, Piece, Place, Trust, name_of};
use crate::trouble::{Blame, Setback, Step};

/// How often one place may lead to another before it counts as lost.
const DEPTH: u32 = 64;

/// So many levels at most are healed on the way to one directory. Whoever has more above it waits for those, which have
/// marks of their own: else each of a long row would climb all of it, in vain but for one.
const ON_THE_WAY: u32 = 32;

/// An image, and the slot of the sink that it stands in.
pub(super) struct Found {
    pub(super) dir: Arc<Inode>,
    pub(super) name: NameBuf,
    pub(super) entry: Entry,
}

impl Healer {
    /// The image of a live directory, at its own path, where all above is as in the source.
    /// What is not yet so is healed on the way, from the top.
    pub(super) async fn settle_path(&self, dir: &Arc<Inode>) -> Step<Arc<Inode>> {
        if self.is_source_root(dir) {
            return self.sink_root().at_sink("find");
        }
        // Up, to the first that is known to be so.
        let (mut here, mut below, mut open) = (dir.clone(), Vec::new(), 0);
        let mut image = loop {
            if let Some(image) = self.settled(Oid::from(here.identity())) {
                break image;
            }
            if self.is_source_root(&here) {
                break self.sink_root().at_sink("find")?;
            }
            let (above, name) = self.source.whence(&HEAL, &here).await.at_source("locate")?;
            let (at, oid) = (Oid::from(above.identity()), Oid::from(here.identity()));
            open += u32::from(self.ledger(|ledger| {
                ledger.tree_dirty(at) || !ledger.is_settled_at(at, name.as_bytes(), oid)
            }));
            if open > ON_THE_WAY {
                return Err(Setback::Later(50));
            }
            below.push((here, name));
            here = above;
        };
        // And down again.
        while let Some((next, name)) = below.pop() {
            let down = match self.down(&here, &image, &name).await? {
                Ok(down) => down,
                Err(next) => {
                    let opened = self.open(&here, &image, &name, next).await;
                    opened.map_err(|setback| self.told_above(&here, &name, setback))?;
                    let down = self.down(&here, &image, &name).await?;
                    down.map_err(|_| Setback::Later(5))?
                }
            };
            if down.0.identity() != next.identity() {
                return Err(Setback::Later(5));
            }
            (here, image) = down;
        }
        // At one moment, too.
        match self.settled(Oid::from(dir.identity())) {
            Some(settled) if settled.identity() == image.identity() => Ok(image),
            _ => Err(Setback::Later(5)),
        }
    }

    /// One name down on both sides, from a directory and its image; or whom the name leads to when it is not
    /// settled. What was looked at one after the other held at one moment: users and other
    /// healers go on all the while.
    async fn down(
        &self,
        here: &Arc<Inode>,
        image: &Arc<Inode>,
        name: &Name,
    ) -> Step<std::result::Result<(Arc<Inode>, Arc<Inode>), Oid>> {
        let (above, from) = (Oid::from(here.identity()), Oid::from(image.identity()));
        let bytes = Bytes::from(name.as_bytes());
        let seen = self.ledger(|ledger| ledger.name_seen(above, &bytes));
        let next = look(&*self.source, here, name).await;
        let next = next
            .at_source("look up")?
            .filter(|entry| entry.inode.kind() == Kind::Directory)
            .ok_or(Setback::Later(5))?
            .inode;
        let oid = Oid::from(next.identity());
        let (open, unseen, place) = self.ledger(|ledger| {
            let open = !ledger.is_settled_at(above, &bytes, oid);
            let place = ledger.place_of(oid).cloned();
            (open, ledger.tree_dirty(above), place)
        });
        if unseen {
            // What lies below comes after it; and as this is wanted now, it comes next.
            return Err(self.ledger(|ledger| {
                ledger.urge(above);
                ledger.wait_for(above, Piece::Tree, 5)
            }));
        }
        if open {
            return Ok(Err(oid));
        }
        let there = look(&*self.sink, image, name).await.at_sink("look up")?;
        let stands = |ledger: &Ledger| {
            ledger.name_stands(above, &bytes, seen)
                && ledger.place_of(oid) == place.as_ref()
                && !ledger.tree_dirty(above)
        };
        match there {
            Some(entry) if entry.inode.kind() == Kind::Directory => {
                let to = (oid, entry.inode.clone());
                match self.note_way((above, from), &bytes, to, stands) {
                    true => Ok(Ok((next, entry.inode))),
                    false => Err(Setback::Later(5)),
                }
            }
            _ if !self.ledger(|ledger| stands(ledger)) => Err(Setback::Later(5)),
            _ => {
                // Settled, and yet not there: somebody was at the sink. Heal it again.
                let known = self.known(here).await;
                let now = self.now();
                self.ledger(|ledger| ledger.mark_name(&known, &bytes, now));
                Err(Setback::Later(20))
            }
        }
    }

    /// Heals a name on the way, as in a pass over its directory: nobody else does that or works
    /// in its image, and its image it still is.
    async fn open(
        &self,
        here: &Arc<Inode>,
        image: &Arc<Inode>,
        name: &Name,
        next: Oid,
    ) -> Step<()> {
        let above = Oid::from(here.identity());
        let claimed = self.ledger(|ledger| self.claim_object(ledger, above));
        let Some(_above) = claimed else {
            return Err(Setback::Later(10));
        };
        // What is changed in a directory of the sink has a mark there.
        let known = self.known(here).await;
        let now = self.now();
        let stands = Oid::from(image.identity());
        let entered = self.ledger(|ledger| {
            if !ledger.name_dirty(above, name.as_bytes()) {
                // Without one somebody has healed it meanwhile; a mark would take away that it is known to stand here.
                ledger.place_of(next)?;
                ledger.mark_name(&known, &name.as_bytes().into(), now);
            }
            self.enter(ledger, stands, above)
        });
        match entered {
            None => Err(Setback::Later(5)),
            Some(_inside) => self.open_name(here, image, name).await,
        }
    }

    /// What keeps a name from being healed that is an error already is not one more of what lies below.
    fn told_above(&self, dir: &Arc<Inode>, name: &Name, setback: Setback) -> Setback {
        let (above, bytes) = (Oid::from(dir.identity()), Bytes::from(name.as_bytes()));
        match setback {
            Setback::Object(_) if self.ledger(|ledger| ledger.name_failed(above, &bytes)) => {
                Setback::Behind(above, Piece::Name(bytes))
            }
            setback => setback,
        }
    }

    /// Heals one name on the way to another directory.
    async fn open_name(&self, dir: &Arc<Inode>, image: &Arc<Inode>, name: &Name) -> Step<()> {
        if Box::pin(self.settle_path(dir)).await?.identity() != image.identity() {
            return Err(Setback::Later(5));
        }
        let made = Box::pin(self.name(dir, image, name, None, false)).await;
        made.map(drop)
    }

    /// The image of a directory wherever it stands, dead or alive; `None` where there is no proof.
    fn image_of_dir(
        &self,
        oid: Oid,
        handle: Option<Bytes>,
        depth: u32,
    ) -> Pin<Box<dyn Future<Output = Step<Option<Arc<Inode>>>> + Send + '_>> {
        Box::pin(async move {
            if depth > DEPTH {
                return Ok(None);
            }
            let place = self.ledger(|ledger| ledger.place_of(oid).cloned());
            if let Some(place) = place {
                let found = self.stand(&place, depth).await?;
                return Ok(found.map(|found| found.entry.inode));
            }
            let Some(dir) = self
                .find(
                    oid,
                    &Locator {
                        handle,
                        whence: None,
                    },
                )
                .await?
            else {
                return Ok(None);
            };
            // Up, to the first whose image is known, or has a place of its own: what is above it tells
            // nothing more. A sink that is let go proves nothing.
            let root = self.sink_root().at_sink("find")?;
            let (mut here, mut below) = (dir.inode, Vec::new());
            let mut image = loop {
                let oid = Oid::from(here.identity());
                if let Some(image) = self.settled(oid) {
                    break image;
                }
                if self.is_source_root(&here) {
                    break root;
                }
                let Ok((above, name)) = self.source.whence(&HEAL, &here).await else {
                    return Ok(None);
                };
                let at = Oid::from(above.identity());
                let (dirty, place) = self.ledger(|ledger| {
                    let dirty = ledger.is_lost(at) || ledger.name_dirty(at, name.as_bytes());
                    (dirty, ledger.place_of(oid).cloned())
                });
                if let Some(place) = place {
                    match self.stand(&place, depth).await? {
                        Some(found) => break found.entry.inode,
                        None => return Ok(None),
                    }
                }
                if dirty {
                    return Ok(None);
                }
                below.push(name);
                here = above;
            };
            while let Some(name) = below.pop() {
                let there = look(&*self.sink, &image, &name).await;
                match there.at_sink("look up")? {
                    Some(entry) => image = entry.inode,
                    None => return Ok(None),
                }
            }
            Ok(Some(image).filter(|image| image.kind() == Kind::Directory))
        })
    }

    /// What stands at a place of the sink.
    pub(super) async fn stand(&self, place: &Place, depth: u32) -> Step<Option<Found>> {
        let (dir, name) = match place {
            Place::Staged(number) => (
                self.staging().at_sink("look up")?,
                stage_name(*number).at_sink("look up")?,
            ),
            Place::At { dir, handle, name } => {
                let Some(image) = self.image_of_dir(*dir, handle.clone(), depth + 1).await? else {
                    return Ok(None);
                };
                (image, name_of(name).at_sink("look up")?)
            }
        };
        let entry = look(&*self.sink, &dir, &name).await.at_sink("look up")?;
        Ok(entry.map(|entry| Found { dir, name, entry }))
    }

    /// The image of an object with several names, if it is known and still there.
    pub(super) async fn linked_image(&self, oid: Oid) -> Step<Option<Entry>> {
        let Some((sink, handle)) = self.ledger(|ledger| ledger.image(oid)) else {
            return Ok(None);
        };
        match self.sink.resolve(&HEAL, &Handle::new(&handle)).await {
            Ok(entry) if Oid::from(entry.inode.identity()) == sink && entry.attr.nlink > 0 => {
                Ok(Some(entry))
            }
            Ok(_) => {
                self.ledger(|ledger| ledger.drop_image(oid));
                Ok(None)
            }
            Err(error) if matches!(error.errno(), Errno::ESTALE | Errno::ENOENT) => {
                self.ledger(|ledger| ledger.drop_image(oid));
                Ok(None)
            }
            Err(error) => Err(error).at_sink("find"),
        }
    }

    /// The image of what is no directory, for healing its body.
    pub(super) async fn image_of(&self, object: &Entry, locator: &Locator) -> Step<Entry> {
        let oid = Oid::from(object.inode.identity());
        if let Some(entry) = self.linked_image(oid).await? {
            return Ok(entry);
        }
        if let Some(found) = self.placed(oid).await?
            && found.entry.inode.kind() == object.inode.kind()
        {
            return Ok(found.entry);
        }
        let mut names = Vec::new();
        if let Ok((dir, name)) = self.source.whence(&HEAL, &object.inode).await {
            names.push((dir, name));
        }
        if let Some((dir, name)) = &locator.whence
            && let Ok(dir) = self.source.resolve(&HEAL, &Handle::new(dir)).await
        {
            names.push((dir.inode, name_of(name).at_source("find")?));
        }
        for (dir, name) in names {
            let at = (Oid::from(dir.identity()), Bytes::from(name.as_bytes()));
            let seen = self.ledger(|ledger| ledger.name_seen(at.0, &at.1));
            if !self.has_name(object, &dir, &name).await {
                continue;
            }
            let image = self.image_at(object, &dir, &name).await?;
            // All that was looked at one after the other must have been so at one moment: while
            // users and other healers go on, a slot may hold another's image for a while.
            let stands = self.ledger(|ledger| {
                ledger.name_stands(at.0, &at.1, seen) && ledger.place_of(oid).is_none()
            });
            if !stands || !self.has_name(object, &dir, &name).await {
                return Err(Setback::Later(5));
            }
            let again = self.image_at(object, &dir, &name).await?;
            let same = again.inode.identity() == image.inode.identity();
            return same.then_some(again).ok_or(Setback::Later(5));
        }
        self.not_found(oid).await
    }

    /// What stands at an object's place, while nothing is moved on the sink.
    async fn placed(&self, oid: Oid) -> Step<Option<Found>> {
        let _moving = self.moves.lock().await;
        match self.ledger(|ledger| ledger.place_of(oid).cloned()) {
            Some(place) => self.stand(&place, 0).await,
            None => Ok(None),
        }
    }

    async fn has_name(&self, object: &Entry, dir: &Arc<Inode>, name: &Name) -> bool {
        let there = look(&*self.source, dir, name).await;
        there.is_ok_and(|entry| {
            entry.is_some_and(|entry| entry.inode.identity() == object.inode.identity())
        })
    }

    async fn image_at(&self, object: &Entry, dir: &Arc<Inode>, name: &Name) -> Step<Entry> {
        let image = self.settle_path(dir).await?;
        let slot = Oid::from(dir.identity());
        // The name comes first, and takes the body along.
        let pending = self.ledger(|ledger| {
            let unseen = ledger.tree_dirty(slot).then_some(Piece::Tree);
            let named = ledger.name_dirty(slot, name.as_bytes());
            let piece = unseen.or_else(|| named.then(|| Piece::Name(name.as_bytes().into())));
            piece.map(|piece| ledger.wait_for(slot, piece, 20))
        });
        if let Some(setback) = pending {
            return Err(setback);
        }
        let there = look(&*self.sink, &image, name).await.at_sink("look up")?;
        if let Some(there) = there.filter(|there| there.inode.kind() == object.inode.kind()) {
            return Ok(there);
        }
        if self
            .findings
            .is_asked_for(Oid::from(object.inode.identity()))
        {
            self.found_name(dir, name.as_bytes(), "missing").await;
        }
        let known = self.known(dir).await;
        let now = self.now();
        self.ledger(|ledger| ledger.mark_name(&known, &name.as_bytes().into(), now));
        Err(Setback::Later(20))
    }

    /// A mark whose object has no name that we know of. One of the open names may be it; when
    /// none is open any more the whole tree is compared.
    async fn not_found(&self, oid: Oid) -> Step<Entry> {
        let (lost, wait) =
            self.ledger(|ledger| (ledger.only_bodies_open(), ledger.wait_for_a_name(100)));
        if lost {
            tracing::warn!(
                ?oid,
                "a marked object cannot be located: comparing the whole tree"
            );
            let root = self.known(&self.source_root).await;
            let now = self.now();
            self.ledger(|ledger| ledger.plant_tree(&root, Trust::NOTHING, now));
        }
        Err(wait)
    }
}

#[cfg(test)]
mod tests {
    use hermitfs_api::{Translator, block_on};
    use hermitfs_testkit::Memory;

    use super::*;
    use crate::heal::between;

    #[test]
    fn a_name_that_another_has_healed_meanwhile_gets_no_mark() {
        let source: Arc<dyn Translator> = Arc::new(Memory::with_dev(1));
        let sink: Arc<dyn Translator> = Arc::new(Memory::with_dev(2));
        let healer = between(source.clone(), sink);
        let (root, image) = (healer.source_root.clone(), healer.sink_root().unwrap());
        let name = Name::new(b"dir").unwrap();
        let next = block_on(source.mkdir(&HEAL, &root, name, 0o755, 0)).unwrap();
        let next = Oid::from(next.inode.identity());
        let opened = block_on(healer.open(&root, &image, name, next));
        assert!(matches!(opened, Err(Setback::Later(_))), "{opened:?}");
        let above = Oid::from(root.identity());
        assert!(!healer.ledger(|ledger| ledger.name_dirty(above, name.as_bytes())));
    }

    /// Else what is known of it would be forgotten, and all of it copied once more.
    #[test]
    fn where_an_image_is_cannot_be_told_while_the_sink_is_let_go() {
        let source = Arc::new(Memory::with_dev(1));
        let healer = between(source.clone(), Arc::new(Memory::with_dev(2)));
        let root = healer.source_root.clone();
        let name = Name::new(b"dir").unwrap();
        let dir = block_on(source.mkdir(&HEAL, &root, name, 0o755, 0)).unwrap();
        let handle = block_on(crate::heal::handle_of(&*source, &dir.inode));
        let oid = Oid::from(dir.inode.identity());
        let image = || block_on(healer.image_of_dir(oid, handle.clone(), 0));
        assert!(matches!(image(), Ok(None)), "it has none");
        healer.stand_on(None);
        assert!(image().is_err());
    }
}
