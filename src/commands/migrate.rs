//! `hermitfs migrate OLD NEW MOUNTPOINT`

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_replicate::Rate;

use super::errors;
use crate::bricks::{Brick, Bricks, Stand};
use crate::cli::Global;
use crate::client::{Admin, Target, refused};
use crate::daemon;
use crate::exit::{Code, Failure, Result, need_root};
use crate::fit;
use crate::mounts::{Mount, Mounts};
use crate::order::Order;
use crate::past::{End, How};
use crate::paths;
use crate::run::Record;
use crate::screen::progress::Progress;
use crate::screen::{self, Paint, human, paint};
use crate::shell;

/// The volume of every migration; `volfiles/migrate.vol` is the same file, to be changed.
const VOLFILE: &str = include_str!("../../volfiles/migrate.vol");
const NAME: &str = "(built in)";

/// Moves OLD to NEW while it is in use at MOUNTPOINT; returns when the cut-over may come.
///
/// The same command after a crash or an unmount goes on where it was.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// The directory to be moved
    old: PathBuf,
    /// The directory to move it to: empty, on the new storage
    new: PathBuf,
    /// Where users work meanwhile and afterwards: an empty directory, or OLD itself
    mountpoint: PathBuf,
    /// Return once it is mounted
    #[arg(long)]
    no_wait: bool,
    /// Take NEW though it is not empty (filled by rsync or a backup, say): all in it is compared,
    /// and what OLD does not have is removed
    #[arg(long)]
    adopt: bool,
    /// With --adopt: also when that removes most of what is in NEW, or replaces what is newer there
    #[arg(long, requires = "adopt")]
    delete_from_new: bool,
    /// Leave out what other file systems are mounted in OLD and NEW: where they are, there will be
    /// an empty directory
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Begin though NEW has not enough room: what fits is moved, and the rest when there is room
    #[arg(long)]
    undersized: bool,
    /// Copy no more than so much a second, as 50MB/s; `hermitfs throttle` changes it
    #[arg(long, value_name = "RATE")]
    limit: Option<Rate>,
}

impl Migrate {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        need_root()?;
        let target = Target::new(global, &self.mountpoint)?;
        let (old, new) = (real(&self.old)?, real(&self.new)?);
        daemon::leave_directory();
        if running(&target, &old, &new)? {
            seen(&target)?;
            if let Some(limit) = self.limit {
                target.talk(|admin| set_limit(admin, limit))?;
            }
        } else {
            self.look(&old, &new)?;
            let set = [
                ("old".to_owned(), paths::text(&old)?),
                ("new".to_owned(), paths::text(&new)?),
            ];
            daemon::start(&Order {
                volfile: (NAME.into(), VOLFILE.into()),
                // A dollar sign in a path is no variable: values are taken as they are.
                set: set.into_iter().collect(),
                environment: BTreeMap::new(),
                mountpoint: target.mountpoint.clone(),
                serve: false,
                options: Vec::new(),
                state_dir: target.state_dir.clone(),
                adopt: self.adopt,
                delete_from_new: self.delete_from_new,
                command: again(&old, &new, &target, global),
                one_file_system: self.one_file_system,
                limit: self.limit.map(Rate::bytes_a_second),
                foreground: false,
                ended: None,
            })
            .map_err(|failure| with_past(failure, &target, &[&old, &new]))?;
        }
        if self.no_wait {
            return Ok(());
        }
        target.talk(|admin| watch(admin, &target.mountpoint, &old, &new))
    }
}

/// Who begins again what is over is told so.
fn with_past(failure: Failure, target: &Target, bricks: &[&Path]) -> Failure {
    let end = End::last(&target.state_dir, &target.mountpoint);
    match end.filter(|end| end.is_of(bricks) && end.how() == How::CutOver) {
        Some(end) => Failure::new(failure.code, format!("{failure}. This is over: {end}")),
        None => failure,
    }
}

/// The same once more, from any directory.
fn again(old: &Path, new: &Path, target: &Target, global: &Global) -> String {
    let mut words: Vec<&dyn AsRef<OsStr>> = vec![&"migrate", &old, &new, &target.mountpoint];
    let state_dir = global.unusual(&target.state_dir);
    if let Some(dir) = &state_dir {
        words.extend([&"--state-dir" as &dyn AsRef<OsStr>, dir]);
    }
    shell::hermitfs(&words)
}

/// Refuses to go on with a migration that nobody comes to from here.
fn seen(target: &Target) -> Result<()> {
    target.talk(|mut admin| async move {
        let request = proto::StatusRequest { follow: false };
        let mut stream = admin.status(request).await.map_err(refused)?.into_inner();
        let status = stream.message().await.map_err(refused)?;
        match status.and_then(|status| status.astray) {
            Some(why) => Err(astray(&why, &target.mountpoint)),
            None => Ok(()),
        }
    })?;
    // The daemon's mount namespace may be another one than ours.
    let here = Mounts::read().unwrap_or_default();
    match here.at(&target.mountpoint).is_some_and(Mount::is_ours) {
        true => Ok(()),
        false => {
            let point = target.mountpoint.display();
            let why = format!("nothing is mounted at {point} here");
            Err(astray(&why, &target.mountpoint))
        }
    }
}

/// A daemon lives, and its mount cannot be seen.
fn astray(why: &str, point: &Path) -> Failure {
    Failure::new(
        Code::TryAgain,
        format!(
            "{why}, though hermitfs still serves those who came before, or who live in another mount namespace: \
             `{}` lists them. When they have gone, the same command goes on",
            shell::hermitfs(&[&"abort", &point])
        ),
    )
}

impl Migrate {
    /// Refuses what cannot fit, and says what else is worth a thought.
    fn look(&self, old: &Path, new: &Path) -> Result<()> {
        let brick = |name: &str, directory: &Path| Brick {
            name: name.into(),
            stand: Stand::Directory(directory.to_owned()),
            one_file_system: self.one_file_system,
        };
        let verdict = fit::look(
            &Bricks::pair(brick("old", old), vec![brick("new", new)]),
            self.adopt,
        );
        verdict.words.iter().for_each(|word| screen::warn(word));
        match verdict.refusal {
            Some(sentence) if self.undersized => screen::warn(&sentence),
            Some(sentence) => {
                return Err(Failure::configuration(format!(
                    "{sentence}. Make room, or say --undersized to begin all the same: what fits is moved, and the rest \
                     when there is room"
                )));
            }
            None => {}
        }
        Ok(())
    }
}

/// Slows down (or lets go) a migration that is at work already.
async fn set_limit(mut admin: Admin, limit: Rate) -> Result<()> {
    let request = proto::ThrottleRequest {
        limit: Some(limit.bytes_a_second()),
    };
    admin.throttle(request).await.map_err(refused).map(drop)
}

/// A brick's path without links, where it can be had: the daemon says what is wrong with it.
fn real(path: &Path) -> Result<PathBuf> {
    paths::future(path)
}

/// Whether the daemon of just this migration is at work. Another one there is refused.
fn running(target: &Target, old: &Path, new: &Path) -> Result<bool> {
    if !target.is_served() {
        return Ok(false);
    }
    let Some(record) = target.slot.record() else {
        return Ok(false);
    };
    let Record {
        pid,
        bricks,
        mountpoint,
        ..
    } = record;
    let directories: Vec<&Path> = bricks
        .iter()
        .map(|(_, directory)| directory.as_path())
        .collect();
    if directories == [old, new] {
        return Ok(true);
    }
    let served: Vec<String> = directories
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    Err(Failure::configuration(format!(
        "the mount point {} is in use: hermitfs (process {pid}) serves {} there",
        mountpoint.display(),
        served.join(", ")
    )))
}

/// Shows how it goes until it is ready, or nothing is left but errors.
async fn watch(mut admin: Admin, mountpoint: &Path, old: &Path, new: &Path) -> Result<()> {
    let point = mountpoint.display();
    screen::print_error(&format!(
        "{} {} -> {}, in use at {point}\n",
        paint("Migrating", Paint::Bold, screen::colour_on_stderr()),
        old.display(),
        new.display()
    ));
    let request = proto::StatusRequest { follow: true };
    let mut stream = admin.status(request).await.map_err(refused)?.into_inner();
    let mut progress = Progress::new();
    let mut stalled = Stall::default();
    loop {
        let status = tokio::select! {
            status = stream.message() => status.map_err(refused)?,
            _ = tokio::signal::ctrl_c() => {
                progress.stop();
                return Err(left(mountpoint));
            }
        };
        let Some(status) = status else {
            return Err(Failure::new(
                Code::NoDaemon,
                "the daemon has ended meanwhile",
            ));
        };
        if let Some(why) = &status.astray {
            progress.stop();
            return Err(astray(why, mountpoint));
        }
        if status.ready {
            progress.finish(&status);
            screen::print_error(&format!(
                "{} Work goes on in {point}; `{}` ends the migration.\n",
                paint("Ready.", Paint::Good, screen::colour_on_stderr()),
                shell::hermitfs(&[&"cutover", &mountpoint])
            ));
            return Ok(());
        }
        if stalled.look(&status) {
            progress.finish(&status);
            let reply = admin
                .errors(proto::ErrorsRequest {})
                .await
                .map_err(refused)?;
            let mut left = reply.into_inner().errors;
            left.retain(|error| !error.waived);
            screen::print_error(&errors::list(&left, screen::colour_on_stderr()));
            return Err(Failure::new(
                Code::Differences,
                format!(
                    "{} objects could not be healed, all else is; put it right, or say that it does not matter: \
                     `{} --waive PATH` (see its --help for classes)",
                    human::count(status.errors),
                    shell::hermitfs(&[&"errors", &mountpoint])
                ),
            ));
        }
        progress.show(&status);
    }
}

/// Tells when everything has been seen and done but what failed.
#[derive(Default)]
struct Stall {
    /// What was pending, with how many errors, how much was done, and since when that has been so.
    last: Option<([u64; 4], Instant)>,
}

impl Stall {
    /// Objects that wait for one that failed are pending as well: when nothing has moved for so
    /// long, nothing will.
    const PATIENCE: Duration = Duration::from_secs(15);

    fn look(&mut self, status: &proto::StatusReply) -> bool {
        let done = |progress: Option<proto::Progress>| progress.map_or(0, |progress| progress.done);
        let seen = [
            status.pending,
            status.errors,
            done(status.files),
            done(status.bytes),
        ];
        let since = match self.last {
            Some((last, since)) if last == seen => since,
            _ => Instant::now(),
        };
        self.last = Some((seen, since));
        // What lies below an object that failed is never crawled.
        let all_failed = status.crawl_left == 0 && status.pending <= status.errors;
        status.errors > 0
            && !status.unverified
            && status.reason.is_none()
            && (all_failed || since.elapsed() >= Stall::PATIENCE)
    }
}

fn left(mountpoint: &Path) -> Failure {
    screen::print_error(&format!(
        "No longer watching; the migration goes on. `{}` looks again.\n",
        shell::hermitfs(&[&"status", &mountpoint, &"--watch"])
    ));
    Failure::silent(Code::TryAgain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volfile::{Source, Variables, load};

    #[test]
    fn the_built_in_volfile_is_good() {
        let source = Source {
            name: NAME.into(),
            text: VOLFILE.into(),
        };
        let set = [("old", "/srv/$old"), ("new", "/srv/${new}")];
        let variables = Variables {
            set: set
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Variables::default()
        };
        let loaded = load(&source, &variables);
        assert!(loaded.findings.is_empty());
        let bricks = Bricks::of(&loaded.graph.unwrap());
        let directories: Vec<_> = bricks
            .all()
            .map(|brick| brick.called().display().to_string())
            .collect();
        assert_eq!(directories, ["/srv/$old", "/srv/${new}"]);
    }

    #[test]
    fn nothing_left_but_errors_is_told_from_healing() {
        let errors = proto::StatusReply {
            errors: 2,
            pending: 2,
            ..proto::StatusReply::default()
        };
        let look = |status| Stall::default().look(&status);
        assert!(look(errors.clone()));
        assert!(!look(proto::StatusReply {
            pending: 3,
            ..errors.clone()
        }));
        assert!(!look(proto::StatusReply {
            crawl_left: 1,
            ..errors.clone()
        }));
        assert!(!look(proto::StatusReply {
            reason: Some("full".into()),
            ..errors.clone()
        }));
        let behind = proto::StatusReply {
            pending: 3,
            ..errors
        };
        let long_ago = Instant::now().checked_sub(Stall::PATIENCE);
        let mut stall = Stall {
            last: long_ago.map(|since| ([3, 2, 0, 0], since)),
        };
        assert!(stall.look(&behind), "what waits for an error is no healing");
    }
}
