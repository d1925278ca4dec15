//! The process that serves a mount: from its order to its clean end.

mod admin;
mod begin;
mod cutover;
mod detach;
mod fstab;
mod log;
mod place;
mod serve;
mod status;
mod swap;

pub(crate) use detach::start;

use crate::exit::{Failure, Result};
use crate::order::Order;

/// Serves in this process; its log goes to the standard error. `ready` is called when the mount
/// answers.
pub(crate) fn foreground(order: Order) -> Result<()> {
    log::start(None).map_err(|error| Failure::other(format!("no log: {error}")))?;
    detach::leave_directory();
    let serving = serve::Serving::begin(order)?;
    serving.run()
}

/// The life of a detached daemon.
pub(crate) fn detached() -> Result<()> {
    crate::sys::close_inherited();
    let order = detach::receive()?;
    detach::leave();
    let begun = place::log(&order).and_then(|file| {
        log::start(Some(&file)).map_err(|error| {
            Failure::other(format!(
                "the log {} cannot be written: {error}",
                file.display()
            ))
        })?;
        serve::Serving::begin(order).map(|serving| (serving, file))
    });
    match begun {
        Ok((serving, file)) => {
            detach::answer(&Ok(()), Some(&file));
            serving.run()
        }
        Err(failure) => {
            tracing::error!("{failure}");
            detach::answer(&Err(failure.clone()), None);
            Err(Failure::silent(failure.code))
        }
    }
}
