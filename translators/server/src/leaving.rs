//! What loses its last name while a client has it in use without having it open: a working directory,
//! an `O_PATH` descriptor. A server knows of neither, so it holds each such object for the client that took the
//! name away, until that says that it is not in use, which most are not. Another client's are ESTALE.

use std::sync::Arc;

use bytes::Bytes;
use hermitfs_api::{Inode, Kind, Name, Result};
use hermitfs_proto::brick::v1;

use crate::call::Call;

/// What is about to lose a name.
pub(crate) struct Leaving {
    pub(crate) identity: v1::Identity,
    sealed: Bytes,
    /// Held over its going where the client may have it in use, so that a last name takes nothing with it.
    inode: Option<Arc<Inode>>,
    names: u32,
}

/// Takes what is about to lose a name out of the way of its going.
pub(crate) async fn leaving(call: &Call, dir: &Arc<Inode>, name: &Name) -> Result<Option<Leaving>> {
    let stands = call.export().stands(&call.cx, dir, name).await?;
    Ok(stands.map(|standing| {
        call.export().objects.forget(&standing.sealed);
        Leaving {
            identity: standing.identity,
            sealed: standing.sealed,
            inode: call.holds_removed().then_some(standing.inode),
            names: standing.names,
        }
    }))
}

/// It has lost that name. The number under which it is held when it was the last one.
pub(crate) async fn left(call: &Call, leaving: Leaving) -> u64 {
    call.export().objects.forget(&leaving.sealed);
    let Some(inode) = leaving.inode else {
        return 0;
    };
    let was_last = match inode.kind() {
        Kind::Directory => true,
        _ if leaving.names <= 1 => true,
        // Its other names may have gone at the same moment.
        _ => {
            let attr = call.volume().getattr(&call.cx, &inode, None).await;
            attr.is_ok_and(|attr| attr.nlink == 0)
        }
    };
    match was_last {
        true => call.hold(inode).await,
        false => 0,
    }
}
