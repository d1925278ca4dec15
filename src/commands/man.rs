//! `hermitfs man`

use clap::{Args, CommandFactory};

use crate::cli::Cli;
use crate::exit::{Failure, Result};
use crate::screen;

/// Prints the manual page; `hermitfs man | man -l -` reads it.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The page of one command
    command: Option<String>,
}

impl Man {
    pub(crate) fn run(self) -> Result<()> {
        let mut command = Cli::command();
        command.build();
        if let Some(name) = self.command {
            let found = command.find_subcommand(&name).cloned();
            command =
                found.ok_or_else(|| Failure::usage(format!("there is no command `{name}`")))?;
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| Failure::other(format!("the page could not be made: {error}")))?;
        screen::print(&String::from_utf8_lossy(&page));
        Ok(())
    }
}
