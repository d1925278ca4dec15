//! `hermitfs check VOLFILE`

use std::path::PathBuf;

use clap::Args;

use crate::cli;
use crate::exit::{Code, Failure, Result};
use crate::order;
use crate::screen;
use crate::volfile::{Source, Variables, load, render};

/// Shows all mistakes at once, as a compiler does. Without `--set`, variables may stay open.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The volfile, TOML or GlusterFS' syntax
    volfile: PathBuf,
    /// A value for `${NAME}`; with any given, all that the file uses must have one
    #[arg(long, value_name = "NAME=VALUE", value_parser = cli::setting)]
    set: Vec<(String, String)>,
}

impl Check {
    pub(crate) fn run(self) -> Result<()> {
        let source = order::read_volfile(&self.volfile)?;
        let loaded = load(&source, &looking(self.set));
        complain_of(&source, &loaded.findings);
        if loaded.errors() > 0 {
            return Err(stop(&source, loaded.errors()));
        }
        let mut good = format!("{}: good\n", source.name);
        if !loaded.open.is_empty() {
            let wanted: Vec<String> = loaded
                .open
                .iter()
                .map(|name| format!("--set {name}=..."))
                .collect();
            good = format!(
                "{}: good, to be mounted with {}\n",
                source.name,
                wanted.join(" ")
            );
        }
        screen::print(&good);
        Ok(())
    }
}

/// Variables for looking at a volfile: with nothing set, they may stay open.
pub(crate) fn looking(set: Vec<(String, String)>) -> Variables {
    Variables {
        allow_open: set.is_empty(),
        ..Variables::with_environment(set.into_iter().collect())
    }
}

/// Shows what was found.
pub(crate) fn complain_of(source: &Source, findings: &[crate::volfile::Finding]) {
    if !findings.is_empty() {
        screen::print_error(&format!(
            "{}\n\n",
            render(source, findings, screen::colour_on_stderr())
        ));
    }
}

/// The last line under a list of mistakes.
pub(crate) fn stop(source: &Source, errors: usize) -> Failure {
    let mistakes = if errors == 1 {
        "1 mistake".into()
    } else {
        format!("{errors} mistakes")
    };
    Failure::new(
        Code::Configuration,
        format!("{mistakes} in {}", source.name),
    )
}
