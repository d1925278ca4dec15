//! The staging space: where images wait that must leave their slot and have no other yet.

use std::sync::Arc;

use hermitfs_api::{Entry, Errno, Inode, Kind, Name, NameBuf, RenameFlags};

use super::{HEAL, Healer, Listed, list, look};
use crate::record::{Oid, Place, name_of};
use crate::trouble::{Blame, Setback, Step};

/// Our directory in the root of a sink.
pub(crate) const MARKER_DIR: &[u8] = b".hermitfs";

/// The staging space in it.
pub(crate) const STAGING: &[u8] = b"staging";

pub(super) fn stage_name(number: u64) -> hermitfs_api::Result<NameBuf> {
    Ok(NameBuf::new(number.to_string().as_bytes())?)
}

impl Healer {
    /// Empties a slot of the sink, so that the wanted object's image can come (or nothing). The
    /// image of another object that lives on goes to the staging space.
    pub(super) async fn take_away(
        &self,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        name: &Name,
        there: &Entry,
        wanted: Option<Oid>,
    ) -> Step<()> {
        let _moving = self.moves.lock().await;
        // Once more, right before: by look-up, as nothing else proves it.
        let now = look(&*self.source, dir, name).await.at_source("look up")?;
        if now.map(|entry| Oid::from(entry.inode.identity())) != wanted {
            return Err(Setback::Later(5));
        }
        // And here: before we had the lock, another may have brought what stood here to where it
        // belongs, and all that is in it is wanted there.
        let still = look(&*self.sink, sink_dir, name).await.at_sink("look up")?;
        if still.is_none_or(|entry| entry.inode.identity() != there.inode.identity()) {
            return Err(Setback::Later(5));
        }
        let slot = Oid::from(dir.identity());
        let claimant = self.ledger(|ledger| ledger.claimant(slot, name.as_bytes()));
        // What has another name on the sink is not lost with this one.
        let linked = there.inode.kind() != Kind::Directory
            && there.attr.nlink > 1
            && claimant.is_some_and(|owner| self.ledger(|l| l.image(owner)).is_some());
        if let Some(owner) = claimant.filter(|owner| Some(*owner) != wanted && !linked) {
            // Written down before: a kill in between loses the hint, and costs a copy.
            let number = self.ledger(|ledger| {
                let number = ledger.new_stage();
                let handle = ledger.placed_handle(owner);
                ledger.set_place(owner, handle, Place::Staged(number));
                number
            });
            let staged = stage_name(number).at_sink("stage")?;
            let staging = self.staging().at_sink("stage")?;
            self.loosen(there).await;
            return self
                .sink
                .rename(
                    &HEAL,
                    sink_dir,
                    name,
                    &staging,
                    &staged,
                    RenameFlags::NoReplace,
                )
                .await
                .at_sink("stage");
        }
        if let Some(owner) = claimant {
            self.ledger(|ledger| ledger.unplace(owner));
        }
        self.remove(sink_dir, name, there).await
    }

    /// Removes from the sink, whatever it is, and however deep.
    pub(super) async fn remove(&self, dir: &Arc<Inode>, name: &Name, there: &Entry) -> Step<()> {
        let mut row = vec![
            self.removal(dir.clone(), name.to_owned(), there.clone())
                .await?,
        ];
        while let Some(last) = row.last_mut() {
            let Some(child) = last.below.pop() else {
                self.remove_one(&last.dir, &last.name, &last.entry).await?;
                row.pop();
                continue;
            };
            let dir = last.entry.inode.clone();
            let entry = look(&*self.sink, &dir, &child).await;
            if let Some(entry) = entry.at_sink("look up")? {
                let next = self.removal(dir, child, entry).await?;
                row.push(next);
            }
        }
        Ok(())
    }

    /// One that is to be removed, and what has to go before it.
    async fn removal(&self, dir: Arc<Inode>, name: NameBuf, entry: Entry) -> Step<Removal> {
        self.tally.made();
        let mut below = Vec::new();
        if entry.inode.kind() == Kind::Directory {
            self.loosen(&entry).await;
            for child in list(&*self.sink, &entry.inode).await.at_sink("list")? {
                below.push(name_of(&child.name).at_sink("list")?);
            }
        }
        Ok(Removal {
            dir,
            name,
            entry,
            below,
        })
    }

    /// What has nothing in it any more.
    async fn remove_one(&self, dir: &Arc<Inode>, name: &Name, there: &Entry) -> Step<()> {
        if there.inode.kind() == Kind::Directory {
            return gone(self.sink.rmdir(&HEAL, dir, name).await).at_sink("remove");
        }
        match gone(self.sink.unlink(&HEAL, dir, name).await) {
            Err(error) if error.errno() == Errno::EPERM => {
                self.loosen(there).await;
                gone(self.sink.unlink(&HEAL, dir, name).await).at_sink("remove")?;
            }
            done => done.at_sink("remove")?,
        }
        // That was perhaps its last name. Asked afterwards: another worker may just have given it
        // one more, and then its image must not be forgotten.
        let sink = Oid::from(there.inode.identity());
        if there.attr.nlink <= 1
            && let Some(owner) = self.ledger(|ledger| ledger.image_owner(sink))
        {
            self.linked_image(owner).await?;
        }
        Ok(())
    }

    /// Takes flags off that forbid changes (immutable, append-only).
    pub(super) async fn loosen(&self, there: &Entry) {
        self.loosen_inode(&there.inode).await;
    }

    pub(super) async fn loosen_inode(&self, inode: &Arc<Inode>) {
        if matches!(inode.kind(), Kind::File | Kind::Directory)
            && let Ok(flags) = self.sink.get_flags(&HEAL, inode).await
            && flags & super::flags::FORBIDDING != 0
            && let Err(error) = self
                .sink
                .set_flags(&HEAL, inode, flags & !super::flags::FORBIDDING)
                .await
        {
            tracing::debug!(%error, "cannot take flags off {inode:?}");
        }
    }

    /// Deletes what stands in the staging space and is nobody's image any more. When all is settled nothing is:
    /// every image stands where it belongs.
    pub(crate) async fn sweep(&self) -> Step<()> {
        let staging = self.staging().at_sink("sweep")?;
        loop {
            let mut swept = false;
            for (number, owner) in self.ledger(|ledger| ledger.stages()) {
                let _moving = self.moves.lock().await;
                let (handle, still, settled) = self.ledger(|ledger| {
                    let still = ledger.place_of(owner) == Some(&Place::Staged(number));
                    (ledger.placed_handle(owner), still, ledger.is_settled())
                });
                if !still
                    || !settled && (self.lives(owner, handle).await? || self.needed(owner).await?)
                {
                    continue;
                }
                let name = stage_name(number).at_sink("sweep")?;
                if let Some(entry) = look(&*self.sink, &staging, &name).await.at_sink("sweep")? {
                    self.remove(&staging, &name, &entry).await?;
                }
                self.ledger(|ledger| ledger.unplace(owner));
                swept = true;
            }
            if !swept {
                return Ok(());
            }
        }
    }

    /// Deletes what the ledger does not know of: left by a kill.
    pub(crate) async fn sweep_unknown(&self) -> Step<()> {
        let known: Vec<u64> = self
            .ledger(|ledger| ledger.stages())
            .into_iter()
            .map(|(number, _)| number)
            .collect();
        let staging = self.staging().at_sink("sweep")?;
        for Listed { name: bytes, .. } in list(&*self.sink, &staging).await.at_sink("sweep")? {
            let number = std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| text.parse().ok());
            if number.is_some_and(|number| known.contains(&number)) {
                continue;
            }
            let name = name_of(&bytes).at_sink("sweep")?;
            if let Some(entry) = look(&*self.sink, &staging, &name).await.at_sink("sweep")? {
                self.remove(&staging, &name, &entry).await?;
            }
        }
        Ok(())
    }

    async fn lives(&self, oid: Oid, handle: Option<crate::record::Bytes>) -> Step<bool> {
        let locator = crate::record::Locator {
            handle,
            whence: None,
        };
        Ok(self.find(oid, &locator).await?.is_some())
    }

    /// Whether the image of something alive stands below a dead directory's image. Forgets the
    /// dead ones on the way, from below.
    async fn needed(&self, dir: Oid) -> Step<bool> {
        let claims = |dir| self.ledger(|ledger| ledger.claims_in(dir).collect::<Vec<Oid>>());
        let mut row = vec![(dir, claims(dir), false)];
        while let Some((oid, below, needed)) = row.last_mut() {
            if let Some(next) = below.pop() {
                let handle = self.ledger(|ledger| ledger.placed_handle(next));
                match self.lives(next, handle).await? {
                    true => *needed = true,
                    false => row.push((next, claims(next), false)),
                }
                continue;
            }
            let (oid, its) = (*oid, *needed);
            row.pop();
            match row.last_mut() {
                None => return Ok(its),
                Some((.., above)) if its => *above = true,
                Some(_) => self.ledger(|ledger| ledger.unplace(oid)),
            }
        }
        Ok(false)
    }
}

/// What is being removed.
struct Removal {
    dir: Arc<Inode>,
    name: NameBuf,
    entry: Entry,
    /// Names in it that are still to go.
    below: Vec<NameBuf>,
}

/// That it is gone already is as good.
fn gone(done: hermitfs_api::Result<()>) -> hermitfs_api::Result<()> {
    match done {
        Err(error) if error.errno() == Errno::ENOENT => Ok(()),
        done => done,
    }
}
