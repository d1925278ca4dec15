//! `hermitfs stop MOUNTPOINT|VOLFILE`

use std::path::PathBuf;

use clap::Args;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::stop_reply::Outcome;

use super::cutover::not_done;
use crate::cli::Global;
use crate::client::{Target, refused};
use crate::exit::{Failure, Result};
use crate::run::Record;
use crate::screen;

/// Ends a daemon in good order; the command that started it goes on where it was.
///
/// A mount is unmounted, as by umount(8). Bricks that are served are named by their volfile.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The mount point, or the volfile of bricks that are served
    mountpoint: PathBuf,
    /// Of bricks that are served: also while others have them mounted, who then wait for them for their `grace`
    #[arg(long)]
    anyway: bool,
}

impl Stop {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let target = Target::exactly(global, &self.mountpoint)?;
        let (record, ended) = (target.slot.record(), &target);
        let point = target.mountpoint.display();
        target.talk(|mut admin| async move {
            let anyway = self.anyway;
            let reply = admin.stop(proto::StopRequest { anyway });
            match reply.await.map_err(refused)?.into_inner().outcome {
                Some(Outcome::Done(done)) => {
                    ended
                        .wait_end(record.as_ref().map(|record| record.pid))
                        .await;
                    let what = match done.served {
                        true => "served no more",
                        false => "unmounted",
                    };
                    let goes_on = record.map(|record| goes_on(&record)).unwrap_or_default();
                    screen::print_error(&format!("{point} is {what}{goes_on}.\n"));
                    Ok(())
                }
                Some(Outcome::Refused(refused)) => Err(not_done(
                    &refused,
                    "not ended; everything goes on as before",
                )),
                None => Err(Failure::other(
                    "the daemon gave no answer that this command knows",
                )),
            }
        })
    }
}

fn goes_on(record: &Record) -> String {
    match (&*record.command, &*record.volume_id) {
        ("", _) => String::new(),
        // There is no migration.
        (command, "") => format!("; `{command}` brings it back"),
        (command, _) => format!("; `{command}` goes on where it was"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_brings_it_back_is_told() {
        let of = |volume_id: &str| Record {
            pid: 1,
            mountpoint: "/data".into(),
            volfile: String::new(),
            bricks: Vec::new(),
            volume_id: volume_id.into(),
            log: None,
            command: "hermitfs it".into(),
            ended: None,
        };
        assert_eq!(goes_on(&of("id")), "; `hermitfs it` goes on where it was");
        assert_eq!(goes_on(&of("")), "; `hermitfs it` brings it back");
    }
}
