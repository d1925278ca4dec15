//! `hermitfs mount -f VOLFILE MOUNTPOINT`

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::check::{complain_of, stop};
use crate::bricks::Bricks;
use crate::cli::{self, Global};
use crate::client::Target;
use crate::daemon;
use crate::exit::{Result, need_root};
use crate::fit;
use crate::order::{self, Order};
use crate::paths;
use crate::screen;
use crate::volfile::{Variables, load};

/// Builds the graph of a volfile and mounts it; returns when the mount answers.
#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// The volfile, TOML or GlusterFS' syntax
    #[arg(short = 'f', long = "volfile", value_name = "VOLFILE")]
    volfile: PathBuf,
    /// A value for `${NAME}` in the volfile
    #[arg(long, value_name = "NAME=VALUE", value_parser = cli::setting)]
    set: Vec<(String, String)>,
    /// Options of the mount, as mount(8) takes them: ro,noatime,threads=16
    ///
    /// ro, nosuid, nodev, noexec, nosymfollow, noatime, nodiratime, relatime, strictatime (and their
    /// opposites): as in mount(8); what is not said is taken from the source's own mount.
    /// threads=N: that take requests from the kernel, 2 to 256 (8).
    /// passthrough=no: nothing bypasses the daemon.
    /// shared: others work in the volume by other mounts; nothing is believed for longer than a second.
    /// locks=yes|no|auto: the volume keeps locks, not the kernel (auto: where `shared` is on).
    /// flush: hear of each close(2), where a brick reports errors only then (NFS).
    /// entry-lifetime=SECONDS, attr-lifetime=SECONDS: how long the kernel may believe names and attributes.
    /// max-background=N: read-ahead and write-back requests under way, 1 to 65535 (64).
    /// clone-fd: a queue of its own at the device for each thread.
    #[arg(short = 'o', value_name = "OPTIONS", verbatim_doc_comment)]
    options: Vec<String>,
    /// Where the volfile says `adopt`: also when that removes most of what is in the new brick, or
    /// replaces what is newer there
    #[arg(long)]
    delete_from_new: bool,
    /// Serve in this process, its log on the standard error
    #[arg(long)]
    foreground: bool,
    /// Make this file when the migration was cut over or given up: a service that finds it does
    /// not start it again
    #[arg(long, value_name = "FILE")]
    ended: Option<PathBuf>,
    /// Where to mount: an empty directory, or the old brick itself
    mountpoint: PathBuf,
}

impl Mount {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let source = order::read_volfile(&self.volfile)?;
        let variables = Variables::with_environment(self.set.iter().cloned().collect());
        let loaded = load(&source, &variables);
        complain_of(&source, &loaded.findings);
        if loaded.errors() > 0 {
            return Err(stop(&source, loaded.errors()));
        }
        need_root()?;
        let target = Target::new(global, &self.mountpoint)?;
        // Only for the wait: whoever serves here is refused by the daemon itself.
        target.is_served();
        if let Some(graph) = &loaded.graph {
            let verdict = fit::look(&Bricks::of(graph), false);
            let words = verdict.words.iter().chain(&verdict.refusal);
            words.for_each(|word| screen::warn(word));
        }
        let command = self.again(&target, global)?;
        let order = Order {
            volfile: (source.name, source.text),
            set: self.set.into_iter().collect(),
            environment: variables.environment,
            mountpoint: target.mountpoint,
            serve: false,
            options: self.options,
            state_dir: target.state_dir,
            adopt: false,
            delete_from_new: self.delete_from_new,
            command,
            one_file_system: false,
            limit: None,
            foreground: self.foreground,
            ended: self.ended.as_deref().map(paths::absolute).transpose()?,
        };
        if order.foreground {
            daemon::foreground(order)
        } else {
            daemon::start(&order)
        }
    }

    fn again(&self, target: &Target, global: &Global) -> Result<String> {
        let mut rest = Vec::<OsString>::new();
        for list in &self.options {
            rest.extend(["-o".into(), list.into()]);
        }
        let flags = [
            ("--delete-from-new", self.delete_from_new),
            ("--foreground", self.foreground),
        ];
        let flags = flags.iter().filter(|(_, is_given)| *is_given);
        rest.extend(flags.map(|(flag, _)| flag.into()));
        if let Some(file) = &self.ended {
            rest.extend(["--ended".into(), paths::absolute(file)?.into()]);
        }
        rest.push((&target.mountpoint).into());
        let (volfile, state_dir) = (paths::absolute(&self.volfile)?, &target.state_dir);
        let state_dir = global.unusual(state_dir);
        Ok(order::again("mount", &volfile, &self.set, rest, state_dir))
    }
}
