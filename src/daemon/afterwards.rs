//! Giving up a migration whose daemon is gone: killed, or ended in good order and not started again.
//!
//! First everything is looked at. Then the dead mount goes and OLD is given back, and only after
//! that what knows of the migration: a kill in between leaves one that can be given up, or gone on
//! with, by the same command.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use hermitfs_api::{Role, Translator, block_on};
use hermitfs_posix::Posix;
use rustix::mount::{UnmountFlags, unmount};

use super::{guard, place, serve};
use crate::exit::{Code, Failure, Result};
use crate::mounts::Mount;
use crate::over::{Over, give_back_dead};
use crate::past::{self, End, How};
use crate::run::{Record, Slot};
use crate::shell;

/// What became of it.
pub(crate) struct GivenUp {
    pub(crate) record: Record,
    /// What is left of hermitfs, and why.
    pub(crate) left: Vec<String>,
}

/// Gives up what this place knows of; `None` where it knows of nothing, or somebody serves it.
pub(crate) fn give_up(slot: &Slot) -> Result<Option<GivenUp>> {
    if slot.record().is_none() {
        return Ok(None);
    }
    let lock = slot
        .lock()
        .map_err(|error| Failure::other(format!("the lock cannot be taken: {error}")))?;
    // Once more, while nobody else changes it.
    let (Some(_lock), Some(record)) = (lock, slot.record()) else {
        return Ok(None);
    };
    let (ours, mut left) = look_at_sinks(&record)?;
    take_away(&record.mountpoint)?;
    let old = record.bricks.first().map(|(_, directory)| directory);
    match old.filter(|old| **old != record.mountpoint && old.is_absolute()) {
        Some(old) => {
            if let Err(error) = give_back_dead(slot, old) {
                let old = old.display();
                left.push(format!(
                    "{old} is read-only ({error}): `mount -o remount,rw {old}`"
                ));
            }
        }
        None => Over::end_dead(slot, slot.state_dir(), &record.mountpoint),
    }
    for (directory, sink) in ours {
        if let Err(error) = hermitfs_replicate::unmark(&*sink) {
            left.push(format!("the directory {directory}/.hermitfs ({error})"));
        }
    }
    if let Err(error) = guard::open_again(slot) {
        let point = record.mountpoint.display();
        left.push(format!(
            "the flag of the directory {point} ({error}): `chattr -i {}`",
            shell::word(&record.mountpoint)
        ));
    }
    if hermitfs_replicate::is_id(&record.volume_id) {
        let state = slot.state_dir().join(&record.volume_id);
        match fs::remove_dir_all(&state) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                left.push(format!("{} ({error})", state.display()));
            }
            _ => {}
        }
    }
    End::of(&record, How::GivenUp, past::person(None)).remember(slot.state_dir());
    if let Some(file) = &record.ended
        && let Err(error) = serve::note_end(file, serve::End::Aborted)
    {
        left.push(format!(
            "the service: disable it ({}: {error})",
            file.display()
        ));
    }
    slot.clear();
    Ok(Some(GivenUp { record, left }))
}

/// The sinks of this machine that still are this migration's, and what is said of the others.
type Sinks = (Vec<(String, Arc<dyn Translator>)>, Vec<String>);

fn look_at_sinks(record: &Record) -> Result<Sinks> {
    let (mut ours, mut left) = (Vec::new(), Vec::new());
    for (_, directory) in record.bricks.iter().skip(1) {
        let path = directory.display().to_string();
        let later = |why: &str| format!("the directory {path}/.hermitfs, if there is one ({why})");
        if !directory.is_absolute() {
            left.push(later("another process or machine serves it"));
            continue;
        }
        let options = hermitfs_posix::Options::new(directory);
        let Ok(sink) = Posix::open(&options) else {
            left.push(later("it cannot be reached"));
            continue;
        };
        let sink: Arc<dyn Translator> = Arc::new(sink);
        drop(block_on(sink.role(Role::Sink)));
        match hermitfs_replicate::is_of(&*sink, &record.volume_id) {
            Ok(true) => ours.push((path, sink)),
            Ok(false) => left.push(later("it is not mounted at its place")),
            Err(error) => return Err(Failure::configuration(format!("{path}: {error}"))),
        }
    }
    Ok((ours, left))
}

/// Takes away what dead daemons have left at the mount point.
fn take_away(point: &Path) -> Result<()> {
    let is_ours = || -> Result<bool> {
        let mounts = place::mounts()?;
        Ok(mounts.at(point).is_some_and(Mount::is_ours))
    };
    while is_ours()? {
        if !hermitfs_fuse::is_dead(point) {
            return Err(Failure::new(
                Code::TryAgain,
                format!(
                    "{} is a mount of another hermitfs, which answers",
                    point.display()
                ),
            ));
        }
        unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(|error| {
            let point = point.display();
            Failure::other(format!(
                "the dead mount at {point} cannot be taken away: {error}"
            ))
        })?;
    }
    Ok(())
}
