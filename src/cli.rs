//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};

use crate::commands;
use crate::exit::Result;

const AFTER: &str = "\
Exit codes: 0 done; 64 usage; 65 differences; 69 no daemon; 75 try again (busy, not ready);
77 permission; 78 configuration or identity; 130 cancelled; 1 the rest.";

/// Moves a file system that is in use onto new storage, then takes itself out of the picture.
#[derive(Debug, Parser)]
#[command(name = "hermitfs", version, after_help = AFTER, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Where the state of migrations and the daemons' sockets and logs live. If not given, what
    /// the variable HERMITFS_STATE_DIR says
    // Read here and not by clap, which would count a variable that is set as an argument that was
    // given, and show it in the usage of every mistake.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        default_value_os_t = state_dir()
    )]
    pub(crate) state_dir: PathBuf,
}

/// The state directory of a command that is not told another one.
fn state_dir() -> PathBuf {
    let said = std::env::var_os(STATE_DIR).filter(|dir| !dir.is_empty());
    said.map_or_else(|| USUAL.into(), PathBuf::from)
}

impl Global {
    /// What a command has to be told to find the same state in any environment; `None` where it finds it anyway.
    pub(crate) fn unusual<'a>(&self, absolute: &'a Path) -> Option<&'a Path> {
        unusual(&self.state_dir).and(Some(absolute))
    }
}

/// A state directory that a command has to be told.
pub(crate) fn unusual(state_dir: &Path) -> Option<&Path> {
    Some(state_dir).filter(|dir| *dir != Path::new(USUAL))
}

/// Where state is if nothing is said.
const USUAL: &str = "/var/lib/hermitfs";

/// The variable that names the state directory.
pub(crate) const STATE_DIR: &str = "HERMITFS_STATE_DIR";

/// The command line as people are to see it: without what is no command of theirs.
pub(crate) fn visible() -> clap::Command {
    let whole = Cli::command();
    let shown: Vec<clap::Command> = whole
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .cloned()
        .collect();
    let mut visible = clap::Command::new("hermitfs")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(AFTER)
        .args(whole.get_arguments().cloned())
        .subcommands(shown);
    if let Some(about) = whole.get_about() {
        visible = visible.about(about.clone());
    }
    visible
}

#[derive(Debug, Subcommand)]
// A doc comment here would take the place of the command's own, and with it of its long help.
pub(crate) enum Command {
    #[command(about = "Mount a volfile; a daemon goes on serving it")]
    Mount(commands::mount::Mount),
    #[command(about = "Serve the bricks of a volfile to other hermitfs; a daemon goes on")]
    Serve(commands::serve::Serve),
    #[command(about = "Move OLD to NEW while it is in use at MOUNTPOINT")]
    Migrate(commands::migrate::Migrate),
    #[command(about = "How far it is")]
    Status(commands::status::Status),
    #[command(about = "Crawl (a part of) the tree now")]
    Heal(commands::heal::Heal),
    // Without words of its own: they would hide the list of classes.
    Errors(commands::errors::Errors),
    #[command(about = "Show or change how fast healing may copy")]
    Throttle(commands::throttle::Throttle),
    #[command(about = "Put the new brick in the mount's place and leave")]
    Cutover(commands::cutover::Cutover),
    #[command(about = "Give up: unmount and forget; OLD is complete")]
    Abort(commands::abort::Abort),
    #[command(
        about = "End a daemon in good order; the command that started it goes on where it was"
    )]
    Stop(commands::stop::Stop),
    #[command(about = "Show all mistakes of a volfile at once")]
    Check(commands::check::Check),
    #[command(about = "Draw the stack of a volfile")]
    Graph(commands::graph::Graph),
    #[command(about = "Print a completion script for a shell")]
    Completions(commands::completions::Completions),
    #[command(about = "Print the manual page")]
    Man(commands::man::Man),
    #[command(about = "The process that serves a mount (started by `mount` and `migrate`)")]
    #[command(hide = true)]
    Daemon(commands::daemon::Daemon),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        match self {
            Command::Mount(command) => command.run(global),
            Command::Serve(command) => command.run(global),
            Command::Migrate(command) => command.run(global),
            Command::Status(command) => command.run(global),
            Command::Heal(command) => command.run(global),
            Command::Errors(command) => command.run(global),
            Command::Throttle(command) => command.run(global),
            Command::Cutover(command) => command.run(global),
            Command::Abort(command) => command.run(global),
            Command::Stop(command) => command.run(global),
            Command::Check(command) => command.run(),
            Command::Graph(command) => command.run(),
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
            Command::Daemon(command) => command.run(),
        }
    }
}

/// `NAME=VALUE`
pub(crate) fn setting(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

/// `5s`, `500ms`, `2min`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> std::result::Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        visible().debug_assert();
    }

    #[test]
    fn people_are_offered_every_command_but_the_hidden_ones() {
        let names = |command: clap::Command| -> Vec<String> {
            let names = command.get_subcommands();
            names.map(|command| command.get_name().to_owned()).collect()
        };
        let (all, shown) = (names(Cli::command()), names(visible()));
        assert!(!shown.contains(&"daemon".to_owned()));
        assert_eq!(shown.len() + 1, all.len());
    }

    #[test]
    fn the_long_help_has_what_messages_refer_to() {
        let long = |name: &str| {
            let all = visible();
            let command = all.find_subcommand(name).unwrap();
            command.get_long_about().unwrap().to_string()
        };
        assert!(long("errors").contains("encryption"));
        assert!(long("cutover").contains("Ctrl-C"));
        assert!(long("stop").contains("umount(8)"));
    }

    #[test]
    fn times_are_taken_as_people_write_them() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert!(duration("soon").is_err());
        assert!(duration("-1").is_err());
    }

    #[test]
    fn a_setting_has_a_name() {
        assert_eq!(setting("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(setting("=b").is_err() && setting("a").is_err());
    }
}
