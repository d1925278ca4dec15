//! What was done to OLD past us, before a cut-over makes it past.

use std::time::{Duration, Instant};

use hermitfs_api::Location;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_replicate::{Reached, Replicate};

use super::asker::{Asker, gone};
use super::cutover::{not_now, usage, within};
use super::swap::Refusal;
use crate::over::{Beside, Open, Veil};

/// How often it is looked whether all was compared.
const PAUSE: Duration = Duration::from_millis(200);

/// Shuts OLD, and compares both bricks by attributes once more, unless nobody can have changed OLD past us.
/// Users work meanwhile, and nothing comes of it when nobody waits for it any more. What comes back is to be kept until the new brick has taken its place.
pub(super) fn settle<'a>(
    asker: &Asker<'_>,
    beside: Option<&'a Beside>,
    pair: &Replicate,
    limit: Duration,
) -> Result<Option<Veil<'a>>, proto::Refused> {
    let Some(beside) = beside.filter(|beside| !beside.is_guarded()) else {
        return Ok(None);
    };
    let veil = within(asker, limit, || beside.close().map_err(refused))?;
    tracing::info!(
        "compared once more before the cut-over: the old brick could be changed past the mount"
    );
    let goal = pair
        .heal(&Location { path: Vec::new() }, false)
        .map_err(|error| not_now(format!("the bricks cannot be compared once more: {error}")))?;
    while pair.reached(&goal) == Reached::No {
        if !asker.is_there() {
            return Err(gone());
        }
        if let Some(reason) = pair.status().reason {
            return Err(not_now(format!(
                "the bricks are compared once more, which waits: {reason}"
            )));
        }
        pair.wait_change(PAUSE);
    }
    // Directories that users moved out of the walk's way have walks of their own, made later.
    let late = Instant::now() + limit;
    while pair.status().crawl_left > 0 && Instant::now() < late {
        pair.wait_change(PAUSE);
    }
    beside.compared();
    Ok(Some(veil))
}

fn refused(open: Open) -> Refusal {
    Refusal::Now(match open {
        Open::Failed(why) => not_now(why),
        Open::Writers(writers) => proto::Refused {
            reasons: vec![
                "the old brick is open for writing past the mount, and what is written there would be lost: end these \
                 first"
                    .into(),
            ],
            users: writers.iter().map(usage).collect(),
            ..proto::Refused::default()
        },
    })
}
