//! `hermitfs serve -f VOLFILE`

use std::path::PathBuf;

use clap::Args;

use super::check::{complain_of, stop};
use crate::cli::{self, Global};
use crate::daemon;
use crate::exit::{Failure, Result, need_root};
use crate::order::{self, Order};
use crate::paths;
use crate::volfile::{Variables, load};

/// Builds the graph of a volfile whose tops are `protocol/server`; returns when clients can come.
///
/// `hermitfs stop VOLFILE`, or SIGTERM, ends the daemon.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The volfile, TOML or GlusterFS' syntax
    #[arg(short = 'f', long = "volfile", value_name = "VOLFILE")]
    volfile: PathBuf,
    /// A value for `${NAME}` in the volfile
    #[arg(long, value_name = "NAME=VALUE", value_parser = cli::setting)]
    set: Vec<(String, String)>,
    /// Where the volfile says `adopt`: also when that removes most of what is in the new brick, or
    /// replaces what is newer there
    #[arg(long)]
    delete_from_new: bool,
    /// Serve in this process, its log on the standard error
    #[arg(long)]
    foreground: bool,
}

impl Serve {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let source = order::read_volfile(&self.volfile)?;
        let variables = Variables::with_environment(self.set.iter().cloned().collect());
        let loaded = load(&source, &variables);
        complain_of(&source, &loaded.findings);
        let Some(graph) = loaded.graph.as_ref().filter(|_| loaded.errors() == 0) else {
            return Err(stop(&source, loaded.errors()));
        };
        if graph.root.is_some() {
            return Err(Failure::configuration(
                "this volfile has a volume to be mounted: use `hermitfs mount -f VOLFILE MOUNTPOINT`, \
                 which serves its servers as well",
            ));
        }
        need_root()?;
        let known_by = self.volfile.canonicalize().map_err(|error| {
            Failure::configuration(format!("{}: {error}", self.volfile.display()))
        })?;
        let flags = [
            ("--delete-from-new", self.delete_from_new),
            ("--foreground", self.foreground),
        ];
        let flags = flags.iter().filter(|(_, is_given)| *is_given);
        let flags = flags.map(|(flag, _)| flag.into()).collect();
        let state_dir = paths::future(&global.state_dir)?;
        let unusual = global.unusual(&state_dir);
        let command = order::again("serve", &known_by, &self.set, flags, unusual);
        let order = Order {
            volfile: (source.name, source.text),
            set: self.set.into_iter().collect(),
            environment: variables.environment,
            mountpoint: known_by,
            serve: true,
            options: Vec::new(),
            state_dir,
            adopt: false,
            delete_from_new: self.delete_from_new,
            command,
            one_file_system: false,
            limit: None,
            foreground: self.foreground,
            ended: None,
        };
        if order.foreground {
            daemon::foreground(order)
        } else {
            daemon::start(&order)
        }
    }
}
