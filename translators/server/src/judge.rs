//! What stood where a call was about to change something, and what that says later about whether
//! it was done.
//!
//! Nobody else changes the same name or attribute, or appends to the same file, between the two looks:
//! calls are held apart from the first look to the answer ([`crate::turns`]), and after a restart everything is
//! judged before anybody is let in.

use bytes::Bytes;
use hermitfs_api::{Context, Errno, Inode, Name, OpenFlags, Result};
use hermitfs_proto::brick::v1;
use std::sync::Arc;

use crate::export::Export;
use crate::record::{Became, Before, Intent, Kind, Verdict};
use crate::turns::Place;

/// What a hash of what is appended has of blake3's.
const HASH: usize = 16;

impl Intent {
    pub(crate) fn new(kind: Kind) -> Intent {
        Intent {
            kind: kind.into(),
            ..Intent::default()
        }
    }

    /// Where it changes something, for calls to be held apart.
    pub(crate) fn places(&self) -> Vec<Place> {
        let place = |object: &[u8], name: &[u8]| Place {
            object: object.to_vec(),
            name: name.to_vec(),
        };
        match self.kind() {
            Kind::Blind => Vec::new(),
            Kind::Make | Kind::Link | Kind::Remove => vec![place(&self.dir, &self.name)],
            Kind::Rename | Kind::Exchange | Kind::Whiteout => vec![
                place(&self.dir, &self.name),
                place(&self.new_dir, &self.new_name),
            ],
            Kind::Append => vec![place(&self.object, b"")],
            Kind::SetXattr | Kind::RemoveXattr => vec![place(&self.object, &self.name)],
        }
    }

    /// Of an append.
    pub(crate) fn append(object: &[u8], data: &[u8]) -> Intent {
        Intent {
            object: object.to_vec(),
            len: data.len() as u64,
            hash: hash(data),
            ..Intent::new(Kind::Append)
        }
    }
}

fn hash(data: &[u8]) -> Vec<u8> {
    blake3::hash(data).as_bytes()[..HASH].to_vec()
}

/// One look at the places of a call.
struct Looker<'a> {
    export: &'a Export,
    cx: &'a Context,
}

impl Looker<'_> {
    async fn object(&self, sealed: &[u8]) -> Result<Arc<Inode>> {
        let sealed = Bytes::copy_from_slice(sealed);
        self.export.object(self.cx, &sealed).await
    }

    /// What has this name: its identity, and what it is called on the wire.
    async fn stands(&self, dir: &[u8], name: &[u8]) -> Result<Option<(v1::Identity, Bytes)>> {
        let dir = self.object(dir).await?;
        let standing = self.export.stands(self.cx, &dir, Name::new(name)?).await?;
        Ok(standing.map(|standing| (standing.identity, standing.sealed)))
    }

    async fn identity(&self, dir: &[u8], name: &[u8]) -> Result<Option<v1::Identity>> {
        Ok(self.stands(dir, name).await?.map(|(identity, _)| identity))
    }

    async fn size(&self, object: &[u8]) -> Result<u64> {
        let inode = self.object(object).await?;
        Ok(self
            .export
            .volume
            .getattr(self.cx, &inode, None)
            .await?
            .size)
    }

    async fn has(&self, object: &[u8], name: &[u8]) -> Result<bool> {
        let inode = self.object(object).await?;
        match self.export.volume.getxattr(self.cx, &inode, name).await {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Errno::ENODATA => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the file's end is what was to be appended.
    async fn ends_with(&self, object: &[u8], at: u64, intent: &Intent) -> Result<bool> {
        let volume = &self.export.volume;
        let inode = self.object(object).await?;
        let file = volume.open(self.cx, &inode, OpenFlags::READ).await?;
        let mut data = vec![0; usize::try_from(intent.len).unwrap_or(0)];
        let read = volume.read(self.cx, &file, at, &mut data).await;
        volume.release(self.cx, &file).await?;
        Ok(read? == data.len() && hash(&data) == intent.hash)
    }
}

/// The look before.
pub(crate) async fn look(export: &Export, cx: &Context, intent: &Intent) -> Result<Before> {
    let look = Looker { export, cx };
    let mut before = Before::default();
    match intent.kind() {
        Kind::Blind => {}
        Kind::Make | Kind::Link | Kind::Remove => {
            before.at_name = look.identity(&intent.dir, &intent.name).await?;
        }
        Kind::Rename | Kind::Exchange | Kind::Whiteout => {
            before.at_name = look.identity(&intent.dir, &intent.name).await?;
            before.at_new_name = look.identity(&intent.new_dir, &intent.new_name).await?;
        }
        Kind::Append => before.size = look.size(&intent.object).await?,
        Kind::SetXattr | Kind::RemoveXattr => {
            before.has = look.has(&intent.object, &intent.name).await?;
        }
    }
    Ok(before)
}

/// The look afterwards: what became of it.
pub(crate) async fn judge(export: Option<&Export>, cx: &Context, intent: &Intent) -> Verdict {
    let judged = match (export, &intent.before) {
        (Some(export), Some(before)) => became(&Looker { export, cx }, intent, before).await,
        // Nothing to judge it by.
        _ => Ok((Became::Unknown, Bytes::new())),
    };
    let (became, made) = judged.unwrap_or((Became::Unknown, Bytes::new()));
    Verdict {
        became: became.into(),
        made: made.to_vec(),
        intent: Some(intent.clone()),
    }
}

async fn became(look: &Looker<'_>, intent: &Intent, before: &Before) -> Result<(Became, Bytes)> {
    let none = Bytes::new();
    let kind = intent.kind();
    let verdict = match kind {
        Kind::Blind => Became::Unknown,
        Kind::Make | Kind::Link => {
            let now = look.stands(&intent.dir, &intent.name).await?;
            match (&before.at_name, now) {
                (None, None) => Became::Untouched,
                (None, Some((_, made))) if kind == Kind::Make || made == intent.object => {
                    return Ok((Became::Done, made));
                }
                (Some(was), Some((is, _))) if *was == is => Became::Untouched,
                _ => Became::Unknown,
            }
        }
        Kind::Remove => match (
            &before.at_name,
            look.identity(&intent.dir, &intent.name).await?,
        ) {
            (Some(_), None) => Became::Done,
            (was, is) if *was == is => Became::Untouched,
            _ => Became::Unknown,
        },
        Kind::Rename | Kind::Exchange | Kind::Whiteout => {
            let now = look.identity(&intent.dir, &intent.name).await?;
            let new = look.identity(&intent.new_dir, &intent.new_name).await?;
            let (was, other) = (&before.at_name, &before.at_new_name);
            let left = match kind {
                Kind::Exchange => now == *other,
                // What it is was not known before.
                Kind::Whiteout => now.is_some() && now != *was,
                _ => now.is_none(),
            };
            if (was, other) == (&now, &new) {
                Became::Untouched
            } else if was.is_some() && left && *was == new {
                Became::Done
            } else {
                Became::Unknown
            }
        }
        Kind::Append => {
            let size = look.size(&intent.object).await?;
            if size == before.size {
                Became::Untouched
            } else if size == before.size + intent.len
                && look.ends_with(&intent.object, before.size, intent).await?
            {
                Became::Done
            } else {
                Became::Unknown
            }
        }
        Kind::SetXattr | Kind::RemoveXattr => {
            let has = look.has(&intent.object, &intent.name).await?;
            match (kind, before.has, has) {
                // Set over what was there: once more is as good.
                (Kind::SetXattr, true, true) => Became::Untouched,
                (_, was, is) if was == is => Became::Untouched,
                (Kind::SetXattr, false, true) | (Kind::RemoveXattr, true, false) => Became::Done,
                _ => Became::Unknown,
            }
        }
    };
    Ok((verdict, none))
}
