//! `hermitfs cutover MOUNTPOINT`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::cutover_reply::{Done, Outcome};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{self, Global};
use crate::client::{Admin, Target, refused};
use crate::exit::{Code, Failure, Result};
use crate::screen::{self, Paint, human, paint};
use crate::shell;

/// Puts the new brick in the mount's place: a plain directory on a plain file system.
///
/// Who works in it goes on: by its path on the new brick at once, and with what is open until that
/// is closed. Refuses with exit code 75 when something is not healed, or cannot be moved and does
/// not go within the time limit; then everything goes on as before. Shows what it waits for, and
/// gives up when it is ended (Ctrl-C) before the new brick is put in place.
///
/// A new brick of another machine cannot be put there: when nobody is in the mount any more, that is taken away, and
/// the new brick is a plain directory over there. So is the new brick of a pair that is served, when nobody has it mounted
/// any more: such a pair is named by its volfile.
#[derive(Debug, Args)]
pub(crate) struct Cutover {
    /// The mount point, or the volfile of a pair that is served
    mountpoint: PathBuf,
    /// How long to wait for what cannot be moved; users are not held longer than this, either
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = cli::duration)]
    timeout: Duration,
    /// Which new brick, where there are several: its name in the volfile, which `status` shows
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// Go on although processes have their working or root directory in the mount
    ///
    /// What they reach from there is served from the new brick until they end, and hermitfs stays
    /// as long: right for a server that works in its data directory, as databases do. For them
    /// getcwd(3) fails from now on, `..` ends at the mount's root, and their locks on what they open
    /// keep out, or are kept out by, those who come by the path only for files that are opened to
    /// read and write.
    #[arg(long)]
    stay_inside: bool,
}

impl Cutover {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let target = Target::exactly(global, &self.mountpoint)?;
        let (mountpoint, ended) = (&target.mountpoint, &target);
        target.talk(|mut admin| async move {
            let request = proto::CutoverRequest {
                timeout_s: self.timeout.as_secs_f64(),
                to: self.to,
                stay_inside: self.stay_inside,
            };
            let mut signals = Signals::hear()?;
            let mut replies = admin.cutover(request).await.map_err(refused)?.into_inner();
            let outcome = loop {
                let reply = tokio::select! {
                    reply = replies.message() => reply.map_err(refused)?,
                    () = signals.next() => {
                        // That alone cancels it.
                        drop(replies);
                        return Err(cancelled(&mut admin, mountpoint).await);
                    }
                };
                match reply.and_then(|reply| reply.outcome) {
                    Some(Outcome::Waits(waits)) => {
                        let text = explain(&waits, screen::colour_on_stderr());
                        screen::print_error(&format!(
                            "Waiting (Ctrl-C gives up, and everything goes on as before):\n{text}"
                        ));
                    }
                    outcome => break outcome,
                }
            };
            match outcome {
                Some(Outcome::Done(done)) => {
                    ended.wait_end(None).await;
                    report(mountpoint, &done);
                    Ok(())
                }
                Some(Outcome::Refused(refused)) => {
                    let last = "no cut-over; everything goes on as before";
                    let failure = not_done(&refused, last);
                    if only_inside(&refused) {
                        screen::print_error(STAY);
                    }
                    Err(failure)
                }
                Some(Outcome::Waits(_)) | None => Err(Failure::other(
                    "the daemon gave no answer that this command knows",
                )),
            }
        })
    }
}

/// What ends a command.
struct Signals([Signal; 3]);

impl Signals {
    fn hear() -> Result<Signals> {
        let hear =
            |kind| signal(kind).map_err(|error| Failure::other(format!("no signals: {error}")));
        Ok(Signals([
            hear(SignalKind::interrupt())?,
            hear(SignalKind::terminate())?,
            hear(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [int, term, hangup] = &mut self.0;
        tokio::select! { _ = int.recv() => (), _ = term.recv() => (), _ = hangup.recv() => () }
    }
}

/// How it stands with what was cancelled: it may have been too late.
async fn cancelled(admin: &mut Admin, mountpoint: &Path) -> Failure {
    let late = Failure::new(
        Code::Interrupted,
        format!(
            "too late: the new brick was being put in place; look at `{}`",
            shell::hermitfs(&[&"status", &mountpoint])
        ),
    );
    for _ in 0..100 {
        let request = proto::StatusRequest { follow: false };
        let status = match admin.status(request).await {
            Ok(replies) => replies.into_inner().message().await,
            Err(error) => Err(error),
        };
        match status {
            Ok(Some(status)) if status.cutover.is_none() && status.state != "retired" => {
                return Failure::new(
                    Code::Interrupted,
                    "cancelled: no cut-over; everything goes on as before",
                );
            }
            Ok(Some(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            // It has ended, which is what a cut-over comes to.
            Ok(None) | Err(_) => return late,
        }
    }
    late
}

const STAY: &str =
    "With --stay-inside they go on in their directories, on the new brick (see --help).\n";

/// Whether nothing is in the way but working and root directories.
fn only_inside(refused: &proto::Refused) -> bool {
    let inside = |how: &str| matches!(how, "working directory" | "root directory");
    !refused.elsewhere
        && !refused.users.is_empty()
        && refused.users.iter().all(|usage| inside(&usage.how))
}

fn report(mountpoint: &Path, done: &Done) {
    let colour = screen::colour_on_stderr();
    if done.far || done.served {
        let text = handed_over(mountpoint, done);
        return screen::print_error(&format!("{} {text}", paint("Done.", Paint::Good, colour)));
    }
    let new = human::name(&done.new);
    let mut text = format!(
        "{} {} is now {new} itself; changes were held for {:.2} s.\n",
        paint("Done.", Paint::Good, colour),
        mountpoint.display(),
        done.held_s
    );
    if done.open > 0 {
        text.push_str(&format!(
            "{} open files and directories go on, on the new brick; the daemon ends when the last of them is closed.\n",
            done.open
        ));
    }
    text.push_str(&waived(done));
    for note in &done.notes {
        text.push_str(&format!("{note}\n"));
    }
    text.push_str(&aftermath(mountpoint, done));
    text.push_str(&left(&done.left));
    screen::print_error(&text);
    screen::print(&format!("{}\n", done.fstab.join("\n")));
}

/// What the new brick has not got: each loss that somebody has agreed to, and how many there are of the others.
fn waived(done: &Done) -> String {
    let agreed = done.lost.iter().filter(|loss| loss.agreed);
    let mut text: String = agreed
        .map(|loss| {
            let path = human::name(&loss.path);
            format!(
                "Waived, and different: {path}: {}: {}\n",
                loss.class, loss.what
            )
        })
        .collect();
    let mut stated = BTreeMap::<&str, u64>::new();
    for loss in done.lost.iter().filter(|loss| !loss.agreed) {
        *stated.entry(&loss.class).or_default() += 1;
    }
    for (class, objects) in stated {
        let more = if done.more.iter().any(|name| name == class) {
            "more than "
        } else {
            ""
        };
        text.push_str(&format!(
            "Not on the new brick: {class} of {more}{} objects\n",
            human::count(objects)
        ));
    }
    text
}

/// What an end could not take away.
pub(crate) fn left(what: &str) -> String {
    match what {
        "" => String::new(),
        _ => format!(
            "Of hermitfs there is left, and to be removed before anything is begun there again: {what}\n"
        ),
    }
}

/// Of a new brick that is another machine's.
fn handed_over(mountpoint: &Path, done: &Done) -> String {
    let (old, new, point) = (
        human::name(&done.old),
        human::name(&done.new),
        mountpoint.display(),
    );
    let now = match mountpoint == Path::new(&*old) {
        _ if done.served => "Nothing is served any more".to_owned(),
        true => format!("{point} is the old brick itself again"),
        false => format!("{point} is unmounted"),
    };
    format!(
        "{new} is complete: use it from here on, where it is. {now}.\n\
         {old} is complete as of this moment: see to it that nobody works in it any more, and keep it as long as you \
         like.\n{}{}",
        waived(done),
        left(&done.left)
    )
}

/// Where the old brick is, and what is left to be done.
fn aftermath(mountpoint: &Path, done: &Done) -> String {
    let (old, point) = (human::name(&done.old), mountpoint.display());
    if !done.over {
        return format!(
            "{old} is complete as of this moment and will not change any more: keep it as long as you like.\n\
             To find {point} like this after a reboot, put this line into /etc/fstab:\n"
        );
    }
    let base = old.rsplit_once('/').map_or(&*old, |(base, _)| base);
    format!(
        "What was there before is complete as of this moment, and read-only: at {old}, until \
         `umount -R {}`, and out of sight below {point}, both until the next reboot at the latest.\n\
         To find {point} like this after it, put this line into /etc/fstab, in the place of the one \
         that is there for it now:\n",
        shell::word(base)
    )
}

/// Shows why not, and who is in the way.
pub(crate) fn not_done(refused: &proto::Refused, last: &str) -> Failure {
    screen::print_error(&explain(refused, screen::colour_on_stderr()));
    let code = if refused.permanent {
        Code::Configuration
    } else if refused.differs {
        Code::Differences
    } else {
        Code::TryAgain
    };
    Failure::new(code, last)
}

fn explain(refused: &proto::Refused, colour: bool) -> String {
    let mut out = String::new();
    for reason in &refused.reasons {
        out.push_str(&format!("{} {reason}\n", paint("-", Paint::Bad, colour)));
    }
    let process = |pid, process: &str| match pid {
        0 => process.to_owned(),
        pid => format!("{process} ({pid})"),
    };
    let users = refused.users.iter().map(|usage| {
        let path = human::name(&usage.path);
        [process(usage.pid, &usage.process), usage.how.clone(), path]
    });
    out.push_str(&table(&users.collect::<Vec<_>>()));
    if !refused.watchers.is_empty() {
        out.push_str(WATCHING);
        let watchers = refused.watchers.iter().map(|watcher| {
            let old = match watcher.below {
                0 => String::new(),
                below => format!("and {below} of the old brick itself"),
            };
            let who = process(watcher.pid, &human::name(watcher.process.as_bytes()));
            [who, format!("watches {}", watcher.watches), old]
        });
        out.push_str(&table(&watchers.collect::<Vec<_>>()));
    }
    out
}

/// Before those who watch.
const WATCHING: &str = "Not in the way, but they watch (inotify, fanotify), and hear nothing of the new brick: start them anew afterwards\n";

/// Three columns, as wide as they have to be.
fn table(rows: &[[String; 3]]) -> String {
    let wide = |n: usize| {
        let widths = rows.iter().map(|row| row[n].chars().count());
        widths.max().unwrap_or(0)
    };
    let (first, second) = (wide(0), wide(1));
    let line = |[who, how, what]: &[String; 3]| {
        let line = format!("    {who:first$}  {how:second$}  {what}");
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_where_the_old_brick_is() {
        let done = |old: &str, over| Done {
            old: old.into(),
            over,
            ..Done::default()
        };
        let beside = aftermath(Path::new("/data"), &done("/srv/old", false));
        assert!(beside.starts_with("/srv/old is complete"), "{beside}");
        let kept = "/var/lib/hermitfs/over/data/old";
        let over = aftermath(Path::new("/data"), &done(kept, true));
        assert!(
            over.contains(kept) && over.contains("in the place of"),
            "{over}"
        );
        assert!(
            over.contains("`umount -R /var/lib/hermitfs/over/data`"),
            "{over}"
        );
    }

    #[test]
    fn a_refusal_lists_who_uses_what() {
        let usage = |pid, process: &str, how: &str, path: &str| proto::Usage {
            pid,
            process: process.into(),
            how: how.into(),
            path: path.into(),
        };
        let watcher = |pid, process: &str, watches, below| proto::Watcher {
            pid,
            process: process.into(),
            watches,
            below,
        };
        let refused = proto::Refused {
            reasons: vec!["/data is in use".into()],
            users: vec![
                usage(12, "vim", "open file", "/data/a"),
                usage(4711, "bash", "working directory", "/data"),
                usage(0, "the kernel", "swap", "/data/swap"),
            ],
            watchers: vec![watcher(7, "tail", 2, 0), watcher(4712, "syncthing", 0, 12)],
            ..proto::Refused::default()
        };
        assert_eq!(
            explain(&refused, false),
            "\
- /data is in use
    vim (12)     open file          /data/a
    bash (4711)  working directory  /data
    the kernel   swap               /data/swap
Not in the way, but they watch (inotify, fanotify), and hear nothing of the new brick: start them anew afterwards
    tail (7)          watches 2
    syncthing (4712)  watches 0  and 12 of the old brick itself
"
        );
    }
}
