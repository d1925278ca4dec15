//! The process that serves a mount: from its order to its clean end.

mod admin;
pub(crate) mod afterwards;
mod asker;
mod attributes;
mod begin;
mod beside;
mod bricks;
mod copying;
mod cutover;
mod descriptors;
mod detach;
mod environment;
mod errors;
mod fstab;
pub(crate) mod guard;
mod handover;
mod log;
mod lookout;
mod overlays;
mod place;
mod serve;
mod sight;
mod status;
mod swap;
mod watched;

pub(crate) use detach::{leave_directory, start};

use crate::exit::{Failure, Result};
use crate::order::Order;

/// Serves in this process; its log goes to the standard error. `ready` is called when the mount
/// answers.
pub(crate) fn foreground(order: Order) -> Result<()> {
    environment::unbind()?;
    crate::sys::keep_freed();
    log::start(None).map_err(|error| Failure::other(format!("no log: {error}")))?;
    detach::leave_directory();
    tell(&environment::told(&status()));
    begin(order)?.run()
}

/// What a daemon does once it is ready.
enum Ready {
    Mount(Box<serve::Serving>),
    Bricks(Box<bricks::Bricks>),
}

fn begin(order: Order) -> Result<Ready> {
    descriptors::raise();
    Ok(match order.serve {
        true => Ready::Bricks(Box::new(bricks::Bricks::begin(&order)?)),
        false => Ready::Mount(Box::new(serve::Serving::begin(order)?)),
    })
}

/// What the kernel says of this process.
fn status() -> String {
    std::fs::read_to_string("/proc/self/status").unwrap_or_default()
}

/// What keeps a thread from being had, in words.
fn no_thread(error: &std::io::Error) -> String {
    format!(
        "no thread can be had ({error}): raise the limit of processes (pids, TasksMax=), or end others"
    )
}

fn tell(notes: &[String]) {
    for note in notes {
        tracing::warn!("{note}");
    }
}

impl Ready {
    /// What the starter should know.
    fn notes(&self) -> Vec<String> {
        match self {
            Ready::Mount(serving) => serving.notes.clone(),
            Ready::Bricks(_) => Vec::new(),
        }
    }

    fn run(self) -> Result<()> {
        match self {
            Ready::Mount(serving) => serving.run(),
            Ready::Bricks(bricks) => bricks.run(),
        }
    }
}

/// The life of a detached daemon.
pub(crate) fn detached() -> Result<()> {
    crate::sys::close_inherited();
    let unbound = environment::unbind();
    crate::sys::keep_freed();
    let order = detach::receive()?;
    detach::leave();
    let mut notes = environment::leave();
    notes.extend(environment::told(&status()));
    let begun = unbound.and_then(|()| place::log(&order)).and_then(|file| {
        log::start(Some(&file)).map_err(|error| {
            Failure::other(format!(
                "the log {} cannot be written: {error}",
                file.display()
            ))
        })?;
        tell(&notes);
        begin(order).map(|ready| (ready, file))
    });
    match begun {
        Ok((ready, file)) => {
            notes.extend(ready.notes());
            detach::answer(&Ok(notes), Some(&file));
            ready.run()
        }
        Err(failure) => {
            tracing::error!("{failure}");
            detach::answer(&Err(failure.clone()), None);
            Err(Failure::silent(failure.code))
        }
    }
}
