//! What was below before an exchange, for those who were on their way by a path at that moment:
//! the kernel had looked up a directory for them, which nobody holds, and asks for a name in it
//! when the other volume is there already. A second or two later nobody is on his way any more.
//!
//! Where they stand is found on the new volume by the path that it had on the old one, which
//! nobody changes any more.

use std::sync::Arc;
use std::time::Duration;

use hermitfs_api::{Context, Errno, Error, Inode, Kind, Origin, Result, Translator};

use crate::door::Door;
use crate::nodes::{FormerNodes, known};
use crate::numbers::ROOT;
use crate::straggler::{Verdict, verdict};

/// How long somebody may be on his way between two requests. He runs, or waits for the lock of a
/// directory in which others make something.
pub(crate) const STRAGGLERS: Duration = Duration::from_secs(2);

pub(crate) struct Former {
    pub(crate) volume: Arc<dyn Translator>,
    pub(crate) nodes: FormerNodes,
}

impl Door {
    /// The directory in which a look-up is to be done.
    pub(crate) async fn directory(&self, cx: &Context, id: u64, name: &[u8]) -> Result<Arc<Inode>> {
        let former = self.former.read().clone();
        let Some(former) = former else {
            return self.node(id);
        };
        // A directory that is known here already was found from one that somebody holds, or by who is
        // on his way. So whoever asks for something in it may have no other way.
        let was = match self.nodes.get(id) {
            Some(_) => None,
            None => self.nodes.was(id, &former.nodes),
        };
        let held = self.nodes.is_held(id) || id != ROOT && was.is_none();
        let called = match &was {
            Some(was) => former.volume.whence(&internal(), was).await.ok(),
            None => None,
        };
        let called = called.as_ref().map(|(_, name)| name.as_bytes());
        if verdict(cx.pid, held, called, name) == Verdict::Return {
            return Err(Errno::ESTALE.into());
        }
        if let Some(was) = was {
            // Whatever keeps him from going on here: he shall look anew.
            let successor = successor(self, &former, &was).await;
            let successor = successor.map_err(|_| Error::new(Errno::ESTALE))?;
            known(self.nodes.adopt(id, successor, &former.nodes))?;
        }
        self.node(id)
    }

    /// Whether who asks for this came by a path that leads elsewhere since an exchange: nobody has come to it
    /// from what is held.
    pub(crate) fn is_former(&self, id: u64) -> bool {
        let known = || id != ROOT && self.nodes.get(id).is_some();
        self.former.read().is_some() && !self.nodes.is_held(id) && !known()
    }
}

async fn successor(door: &Door, former: &Former, was: &Arc<Inode>) -> Result<Arc<Inode>> {
    let location = former.volume.locate(&internal(), was).await?;
    let volume = door.volume();
    let mut at = volume.root(&internal()).await?.inode;
    for name in &location.path {
        at = volume.lookup(&internal(), &at, name).await?.inode;
    }
    match at.kind() {
        Kind::Directory => Ok(at),
        _ => Err(Errno::ESTALE.into()),
    }
}

fn internal() -> Context {
    Context::internal(Origin::Admin)
}
