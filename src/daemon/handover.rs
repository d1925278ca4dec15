//! The end of a migration to a brick of another machine or process: that cannot be put in the mount's
//! place, so it is left as a plain directory where it is.
//!
//! | state | the mount | bricks |
//! |---|---|---|
//! | serving | answers | NEW follows |
//! | frozen | answers; changes wait | equal, and on the disk |
//! | parted | is gone | equal; NEW is still marked as a sink |
//! | over | is gone | nothing of hermitfs is on either |
//!
//! Until the mount is gone every failure leads back to serving. It goes only when nobody is in it, so from then
//! on nobody can come to OLD by it. A kill while they are parted is as any other kill: the next start goes on with the
//! migration, and nobody has been told that it is over.

use std::time::{Duration, Instant};

use hermitfs_fuse::MountError;
use hermitfs_replicate::Replicate;

use super::cutover::{busy, not_now};
use super::serve::{Daemon, in_use};
use super::swap::{Refusal, Swapped, not_ready};

/// One attempt: from serving to parted, or back.
pub(super) fn hand_over(
    daemon: &Daemon,
    pair: &Replicate,
    limit: Duration,
) -> Result<Swapped, Refusal> {
    // Seen while users still work.
    let users = in_use(daemon);
    if !users.is_empty() {
        return Err(Refusal::Now(busy(daemon, &users)));
    }
    let began = Instant::now();
    pair.freeze(limit).map_err(not_ready)?;
    if let Err(error) = daemon.mount.detach() {
        pair.thaw();
        return Err(Refusal::Now(match error {
            MountError::Busy(_) => busy(daemon, &in_use(daemon)),
            error => not_now(format!("the mount cannot be taken away: {error}")),
        }));
    }
    daemon.give_back();
    Ok(Swapped {
        held: began.elapsed(),
        open: 0,
        root: None,
    })
}
