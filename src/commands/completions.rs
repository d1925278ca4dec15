//! `hermitfs completions SHELL`

use clap::Args;
use clap_complete::Shell;

use crate::cli;
use crate::exit::Result;
use crate::screen;

/// Prints a completion script, to be sourced or put where the shell looks for such.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut cli::visible(), "hermitfs", &mut script);
        screen::print(&String::from_utf8_lossy(&script));
        Ok(())
    }
}
