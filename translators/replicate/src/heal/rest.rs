//! Objects and their images while everything stands still.

use std::sync::Arc;

use hermitfs_api::{Attr, Errno, Error, Inode, Result};

use super::staging::stage_name;
use super::{HEAL, Healer, look};
use crate::record::Oid;
use crate::trouble::{Setback, Step};

impl Healer {
    /// The image of a live object. Only while users are held and nothing is pending: then it is at
    /// the object's own path, or known as one with several names.
    pub(crate) async fn image_at_rest(&self, inode: &Arc<Inode>) -> Result<Arc<Inode>> {
        if self.is_source_root(inode) {
            return self.sink_root();
        }
        if let Some(entry) = plain(self.linked_image(Oid::from(inode.identity())).await)? {
            return Ok(entry.inode);
        }
        let location = self.source.locate(&HEAL, inode).await?;
        let (mut here, mut image) = (self.source_root.clone(), self.sink_root()?);
        for name in &location.path {
            let next = look(&*self.source, &here, name).await?;
            let there = look(&*self.sink, &image, name).await?;
            let (Some(next), Some(there)) = (next, there) else {
                return Err(not_found());
            };
            (here, image) = (next.inode, there.inode);
        }
        if here.identity() == inode.identity() && here.kind() == image.kind() {
            Ok(image)
        } else {
            Err(not_found())
        }
    }

    /// Copies a file that has no name any more to the staging space; its number there.
    pub(crate) async fn copy_nameless(
        &self,
        inode: &Arc<Inode>,
        attr: &Attr,
    ) -> Result<(u64, Arc<Inode>)> {
        let number = self.ledger(|ledger| ledger.new_stage());
        let name = stage_name(number)?;
        let (image, body) = plain(self.fresh(inode, attr, &self.staging()?, &name).await)?;
        if let Err(setback) = body {
            self.unname(number).await?;
            return plain(Err(setback));
        }
        Ok((number, image))
    }

    /// Takes a name in the staging space away.
    pub(crate) async fn unname(&self, number: u64) -> Result<()> {
        let name = stage_name(number)?;
        self.sink.unlink(&HEAL, &self.staging()?, &name).await
    }
}

fn not_found() -> Error {
    Error::with_story(Errno::ENOENT, "it is not found on the new brick")
}

/// A setback as an error of one operation.
fn plain<T>(step: Step<T>) -> Result<T> {
    step.map_err(|setback| match setback {
        Setback::Sink(trouble) | Setback::Object(trouble) => {
            Error::with_story(trouble.errno.unwrap_or(Errno::EIO), trouble.reason)
        }
        Setback::Full(_) => Error::new(Errno::ENOSPC),
        Setback::Later(_) | Setback::Behind(..) => Error::new(Errno::EAGAIN),
    })
}
