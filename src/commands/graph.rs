//! `hermitfs graph VOLFILE`

use std::path::PathBuf;

use clap::Args;

use super::check::{complain_of, looking, stop};
use crate::cli;
use crate::exit::Result;
use crate::order;
use crate::screen;
use crate::volfile::{draw, load_to_look};

/// Draws the stack as text. Without `--set`, variables may stay open.
#[derive(Debug, Args)]
pub(crate) struct Graph {
    /// The volfile, TOML or GlusterFS' syntax
    volfile: PathBuf,
    /// A value for `${NAME}`; with any given, all that the file uses must have one
    #[arg(long, value_name = "NAME=VALUE", value_parser = cli::setting)]
    set: Vec<(String, String)>,
}

impl Graph {
    pub(crate) fn run(self) -> Result<()> {
        let source = order::read_volfile(&self.volfile)?;
        let (loaded, stand_ins) = load_to_look(&source, &looking(self.set));
        match &loaded.graph {
            Some(graph) => {
                complain_of(&source, &loaded.findings);
                screen::print(&stand_ins.put_back(&draw(graph, None)));
                Ok(())
            }
            None => {
                complain_of(&source, &loaded.findings);
                Err(stop(&source, loaded.errors()))
            }
        }
    }
}
