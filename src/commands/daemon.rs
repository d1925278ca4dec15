//! `hermitfs daemon`: the process that `mount` and `migrate` start, never a person.

use std::path::PathBuf;

use clap::Args;

use crate::daemon;
use crate::exit::Result;

/// Takes its order from its standard input.
#[derive(Debug, Args)]
pub(crate) struct Daemon {
    /// What it serves: for people who look at the list of processes
    mountpoint: PathBuf,
}

impl Daemon {
    pub(crate) fn run(self) -> Result<()> {
        daemon::detached()
    }
}
