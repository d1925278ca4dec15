//! `hermitfs abort MOUNTPOINT`

use std::path::PathBuf;

use clap::Args;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::abort_reply::Outcome;

use super::cutover::{left, not_done};
use crate::cli::Global;
use crate::client::{Target, refused};
use crate::daemon::afterwards::{self, GivenUp};
use crate::exit::{Failure, Result, need_root};
use crate::screen::{self, human};

/// Gives up: unmounts and forgets. The old brick is complete and was never touched.
///
/// A pair that is served is named by its volfile, and given up when nobody has it mounted.
#[derive(Debug, Args)]
pub(crate) struct Abort {
    /// The mount point, or the volfile of a pair that is served
    mountpoint: PathBuf,
}

impl Abort {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let target = Target::exactly(global, &self.mountpoint)?;
        let (mountpoint, ended) = (&target.mountpoint, &target);
        if !target.is_served() && target.slot.record().is_some() {
            need_root()?;
            if let Some(done) = afterwards::give_up(&target.slot)? {
                screen::print_error(&without_daemon(&done));
                return Ok(());
            }
        }
        let pid = target.slot.record().map(|record| record.pid);
        target.talk(|mut admin| async move {
            let reply = admin
                .abort(proto::AbortRequest {})
                .await
                .map_err(refused)?
                .into_inner();
            match reply.outcome {
                Some(Outcome::Done(done)) => {
                    let mut text = format!(
                        "{} is {}; {} is complete and as its users left it.\n",
                        mountpoint.display(),
                        if done.served {
                            "served no more"
                        } else {
                            "unmounted"
                        },
                        human::name(&done.old)
                    );
                    for partial in &done.partial {
                        let holds = match done.complete {
                            true => "holds all of it, as of this moment, and follows no longer",
                            false => "holds a part of it, which nothing needs any more",
                        };
                        text.push_str(&format!("{} {holds}.\n", human::name(partial)));
                    }
                    text.push_str(&left(&done.left));
                    ended.wait_end(pid).await;
                    screen::print_error(&text);
                    Ok(())
                }
                Some(Outcome::Refused(refused)) => Err(not_done(
                    &refused,
                    "not unmounted; everything goes on as before",
                )),
                None => Err(Failure::other(
                    "the daemon gave no answer that this command knows",
                )),
            }
        })
    }
}

fn without_daemon(done: &GivenUp) -> String {
    let mut bricks = done.record.bricks.iter().map(|(_, at)| at.display());
    let point = done.record.mountpoint.display();
    let old = bricks.next().map(|old| old.to_string()).unwrap_or_default();
    let mut text = format!("{point} is given up; {old} is complete and as its users left it.\n");
    for new in bricks {
        text.push_str(&format!(
            "{new} holds what had come to it by then, which nothing needs any more.\n"
        ));
    }
    text.push_str(&left(&done.left.join(", ")));
    text
}
