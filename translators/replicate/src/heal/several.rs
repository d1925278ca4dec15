//! Small files of a directory that are new to the sink, met by a walk or marked because users made
//! them: many at a time, each read in one go and made in one go. Whatever is out of the ordinary
//! about one of them is left to the way on which every step is taken by itself ([`Healer::name`]),
//! with its errors and exceptions.

use std::sync::Arc;

use hermitfs_api::{Attr, Entry, Inode, Kind, NameBuf, Snapshot, Whole};

use super::claim::Claim;
use super::flags::{CARRIED, COMMON, KNOWN};
use super::hints;
use super::meta::{bent, is_carried};
use super::object::SMALL;
use super::{HEAL, Healer};
use crate::brake::OBJECT;
use crate::ledger::{BodyWork, Moment};
use crate::record::{Bytes, Oid};
use crate::tally::Amount;
use crate::trouble::{Setback, Step};

/// Names that are looked at together. What is read at once is bounded besides, by
/// [`Snapshot::AT_ONCE`].
pub(super) const TOGETHER: usize = 64;

/// How a name came out.
pub(super) enum Done {
    /// Like this.
    Made(Step<Amount>),
    /// It has to go step by step; `absent` when the sink is known to have nothing there.
    Not { absent: bool },
}

type Outcomes = Vec<(NameBuf, Done)>;

/// A name, and the generation of its mark.
type Marked = (NameBuf, Option<u64>);

/// A file of the source, and what its image shall be.
struct Read {
    source: Entry,
    image: Whole,
}

/// One that is ours to make.
struct New<'a> {
    file: Read,
    claim: Claim<'a>,
    /// Of its name's mark.
    generation: Option<u64>,
    /// What of its body's mark the image takes along.
    body: Option<BodyWork>,
}

impl Healer {
    /// Makes files under names that the sink has not got. An outcome for each name, in no order.
    pub(super) async fn several(
        &self,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        names: Vec<NameBuf>,
    ) -> Outcomes {
        let at = Oid::from(dir.identity());
        let mut outcomes = Vec::with_capacity(names.len());
        let mut todo = names;
        while !todo.is_empty() && !self.stopped() {
            // The moment first, then what the source has.
            let (since, plain, marked) = self.ledger(|ledger| {
                let unmarked = |name: &NameBuf| !ledger.name_marked(at, &bytes_of(name));
                let (plain, marked): (Vec<_>, Vec<_>) = todo.into_iter().partition(unmarked);
                (ledger.moment(), plain, marked)
            });
            let plain = plain.into_iter().map(|name| (name, None)).collect();
            let (new, others, rest) = self.read_and_claim(dir, plain, since).await;
            let by_steps = marked.into_iter().chain(others);
            outcomes.extend(by_steps.map(|name| (name, Done::Not { absent: true })));
            self.make_claimed(dir, sink_dir, new, &mut outcomes).await;
            todo = rest.into_iter().map(|(name, _)| name).collect();
        }
        outcomes.extend(
            todo.into_iter()
                .map(|name| (name, Done::Not { absent: true })),
        );
        outcomes
    }

    /// The same for names with marks, each with its generation. The sink is not asked what it has there: what it
    /// has cannot be made, and goes step by step.
    pub(super) async fn several_marked(
        &self,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        names: Vec<(NameBuf, u64)>,
    ) -> Outcomes {
        let mut outcomes = Vec::with_capacity(names.len());
        let names = names.into_iter();
        let mut todo: Vec<Marked> = names.map(|(name, at)| (name, Some(at))).collect();
        while !todo.is_empty() && !self.stopped() {
            let later = todo.split_off(todo.len().min(TOGETHER));
            let since = self.ledger(|ledger| ledger.moment());
            let (new, others, mut rest) = self.read_and_claim(dir, todo, since).await;
            outcomes.extend(others.into_iter().map(by_steps));
            self.make_claimed(dir, sink_dir, new, &mut outcomes).await;
            rest.extend(later);
            todo = rest;
        }
        outcomes.extend(todo.into_iter().map(|(name, _)| by_steps(name)));
        outcomes
    }

    /// Files that are read and claimed, names that are not for this way, and names that are still
    /// to be read.
    async fn read_and_claim(
        &self,
        dir: &Arc<Inode>,
        marked: Vec<Marked>,
        since: Moment,
    ) -> (Vec<New<'_>>, Vec<NameBuf>, Vec<Marked>) {
        if marked.is_empty() {
            return Default::default();
        }
        let names: Vec<NameBuf> = marked.iter().map(|(name, _)| name.clone()).collect();
        if self.is_tight() {
            // For each it is asked whether it fits.
            return (Vec::new(), names, Vec::new());
        }
        let answers = match self.source.snapshot(&HEAL, dir, &names, SMALL).await {
            Ok(answers) if !answers.is_empty() => answers,
            _ => return (Vec::new(), names, Vec::new()),
        };
        let at = Oid::from(dir.identity());
        let (mut new, mut others) = (Vec::new(), Vec::new());
        let mut marked = marked.into_iter();
        self.ledger(|ledger| {
            for (answer, (name, generation)) in answers.into_iter().zip(&mut marked) {
                let slot = (&bytes_of(&name), generation);
                let file = answer.ok().and_then(|snapshot| Read::of(&name, snapshot));
                let claimed = file.and_then(|file| {
                    let (body, claim) = self.claim_new(ledger, at, slot, file.oid(), since)?;
                    Some(New {
                        file,
                        claim,
                        generation,
                        body,
                    })
                });
                match claimed {
                    Some(file) => new.push(file),
                    None => others.push(name),
                }
            }
        });
        (new, others, marked.collect())
    }

    /// Makes what was claimed, and ends the claims.
    async fn make_claimed(
        &self,
        dir: &Arc<Inode>,
        sink_dir: &Arc<Inode>,
        new: Vec<New<'_>>,
        outcomes: &mut Outcomes,
    ) {
        if new.is_empty() {
            return;
        }
        let files = new.into_iter().map(|file| {
            let ours = (file.claim, file.generation, file.body);
            ((file.file.source, ours), file.file.image)
        });
        let (sources, images): (Vec<_>, Vec<Whole>) = files.unzip();
        for image in &images {
            self.brake.pay((image.content.len() as u64).max(OBJECT));
        }
        let mut made = Vec::with_capacity(images.len());
        {
            let _making = self.making.acquire().await;
            while let Some(rest) = images.get(made.len()..).filter(|rest| !rest.is_empty()) {
                match self.sink.make_whole(&HEAL, sink_dir, rest).await {
                    Ok(answers) if !answers.is_empty() => made.extend(answers),
                    _ => break,
                }
            }
        }
        let mut made = made.into_iter();
        for ((source, (claim, generation, body)), image) in sources.into_iter().zip(images) {
            let done = match made.next() {
                Some(Ok(attr)) => Done::Made(self.was_made(&source, &image, &attr, body).await),
                // Nothing of it is there, unless even that went wrong.
                _ => Done::Not { absent: false },
            };
            // It may have left this name while it was made: then this is where it stands.
            let (at, name) = (Oid::from(dir.identity()), &image.name);
            if matches!(done, Done::Made(Ok(_)))
                && generation.is_none()
                && self.ledger(|ledger| ledger.name_dirty(at, name.as_bytes()))
            {
                self.note_stand(dir, name, &source.inode).await;
            }
            drop(claim);
            outcomes.push((image.name, done));
        }
    }

    async fn was_made(
        &self,
        source: &Entry,
        image: &Whole,
        attr: &Attr,
        body: Option<BodyWork>,
    ) -> Step<Amount> {
        self.tally.made();
        self.tally.bytes(image.content.len() as u64);
        let seen = Amount::name(&source.attr);
        let done = match bent(&source.attr, attr) {
            Some(trouble) => Err(Setback::Object(trouble)),
            None => Ok(()),
        };
        self.finish_leaf(&source.inode, body, done).await?;
        Ok(seen)
    }
}

fn by_steps(name: NameBuf) -> (NameBuf, Done) {
    (name, Done::Not { absent: false })
}

fn bytes_of(name: &NameBuf) -> Bytes {
    name.as_bytes().into()
}

impl Read {
    /// A file that was read whole and has this name alone.
    fn of(name: &NameBuf, snapshot: Snapshot) -> Option<Read> {
        let attr = snapshot.entry.attr;
        // One that shrank meanwhile is marked for it.
        let content = snapshot
            .content
            .filter(|all| all.len() as u64 == attr.size)?;
        if attr.kind != Kind::File || attr.nlink != 1 {
            return None;
        }
        let xattrs = snapshot.xattrs.into_iter();
        let flags = snapshot.fsx.flags & KNOWN;
        // Told or asked for one by one, or to be set before there is content.
        if flags & !COMMON != 0 || hints::has_any(&snapshot.fsx) {
            return None;
        }
        let image = Whole {
            name: name.clone(),
            content,
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            atime: attr.atime,
            mtime: attr.mtime,
            xattrs: xattrs.filter(|(name, _)| is_carried(name)).collect(),
            flags,
            // It may be made with some, as its directory has them.
            mask: CARRIED,
            project: snapshot.fsx.project,
        };
        Some(Read {
            source: snapshot.entry,
            image,
        })
    }

    fn oid(&self) -> Oid {
        Oid::from(self.source.inode.identity())
    }
}
