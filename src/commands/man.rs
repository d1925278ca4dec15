//! `hermitfs man`

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use clap_mangen::Man as Page;

use crate::cli;
use crate::exit::{Failure, Result};
use crate::screen;

/// Prints the manual page.
///
/// `hermitfs man | man -l -` reads it.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The page of one command
    #[arg(value_hint = ValueHint::Other, conflicts_with = "into")]
    command: Option<String>,
    /// Write all pages into this directory, as /usr/local/share/man/man8
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    into: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> Result<()> {
        let mut whole = cli::visible().disable_help_subcommand(true);
        whole.build();
        if let Some(dir) = self.into {
            for command in std::iter::once(&whole).chain(whole.get_subcommands()) {
                let path = dir.join(format!("{}.8", name(command)));
                std::fs::write(&path, page(command, &whole)?).map_err(|error| {
                    Failure::other(format!(
                        "{}: the page cannot be written: {error}",
                        path.display()
                    ))
                })?;
            }
            return Ok(());
        }
        let command = match &self.command {
            None => &whole,
            Some(wanted) => whole
                .find_subcommand(wanted)
                .ok_or_else(|| Failure::usage(format!("there is no command `{wanted}`")))?,
        };
        screen::print(&page(command, &whole)?);
        Ok(())
    }
}

/// `hermitfs-migrate`
fn name(command: &clap::Command) -> String {
    let name = command.get_display_name().unwrap_or(command.get_name());
    name.replace(' ', "-")
}

/// One page, as man-pages(7) orders the sections.
fn page(command: &clap::Command, whole: &clap::Command) -> Result<String> {
    let is_whole = command.get_name() == whole.get_name();
    let man = Page::new(command.clone().after_help("").after_long_help("")).section("8");
    let mut page = Vec::new();
    let rendered = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page))
        .and_then(|()| match is_whole {
            true => man.render_subcommands_section(&mut page),
            false => Ok(()),
        });
    rendered.map_err(|error| Failure::other(format!("the page could not be made: {error}")))?;
    let mut page = String::from_utf8_lossy(&page).into_owned();
    if is_whole {
        page.push_str(COMMON);
    } else {
        page.push_str(".SH \"EXIT STATUS\"\nAs in hermitfs(8).\n");
    }
    page.push_str(".SH \"SEE ALSO\"\n");
    if is_whole {
        for other in whole.get_subcommands() {
            let _ = writeln!(page, ".BR {} (8),", name(other).replace('-', "\\-"));
        }
        page.push_str(".BR mount (8),\n.BR fuse (4),\n.BR systemd.unit (5)\n");
    } else {
        page.push_str(".BR hermitfs (8)\n");
    }
    Ok(page)
}

/// What holds for all commands.
const COMMON: &str = r#".SH "EXIT STATUS"
.TP
.B 0
Done.
.TP
.B 64
The command line is wrong.
.TP
.B 65
Both sides differ: objects could not be healed, or differed.
.TP
.B 69
No daemon serves this mount.
.TP
.B 75
Busy or not ready: the same command may succeed later.
.TP
.B 77
Root is needed.
.TP
.B 78
A volfile, a directory or an identity is wrong.
.TP
.B 130
Cancelled by a signal: a cut\-over that was waited for did not come.
.TP
.B 1
All else.
.SH ENVIRONMENT
.TP
.B HERMITFS_STATE_DIR
The state directory, where \-\-state\-dir does not say it. sudo(8) drops it unless told otherwise.
.TP
.B HERMITFS_LOG
What goes to the log: \fBerror\fR, \fBwarn\fR, \fBinfo\fR (as without it), \fBdebug\fR or \fBtrace\fR; or by
part, as \fBinfo,hermitfs_replicate=debug\fR.
.TP
.B NO_COLOR
Set to anything, nothing is coloured.
.SH FILES
.TP
.I /var/lib/hermitfs
The state directory: a folder for each volume, \fIlog\fR with the daemons' logs, \fIrun\fR with their sockets.
It is needed until a migration is over.
.TP
.I NEW/.hermitfs
The marker of a brick that is being filled. It goes with the cut\-over, or when the migration is given up.
.SH EXAMPLES
Move /srv/old to /srv/new while it is in use at /data:
.PP
.nf
.RS
hermitfs migrate /srv/old /srv/new /data
hermitfs status /data \-\-watch
hermitfs errors /data
hermitfs cutover /data
.RE
.fi
.PP
Give up; the old brick is complete:
.PP
.nf
.RS
hermitfs abort /data
.RE
.fi
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_has_its_sections_and_no_page_is_referred_to_that_there_is_not() {
        let mut whole = cli::visible().disable_help_subcommand(true);
        whole.build();
        let text = page(&whole, &whole).unwrap();
        let sections = ["NAME", "SYNOPSIS", "ENVIRONMENT", "FILES", "EXAMPLES"];
        for section in sections {
            assert!(text.contains(&format!(".SH {section}\n")), "no {section}");
        }
        assert!(!text.contains(".SH EXTRA") && !text.contains("daemon(8)"));
        let dir = tempfile::tempdir().unwrap();
        let into = Some(dir.path().to_owned());
        Man {
            command: None,
            into,
        }
        .run()
        .unwrap();
        let mut referred = 0;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let page = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let plain = page.replace("\\-", "-").replace("\\fR", "");
            for word in plain.split([' ', '\n', ',']) {
                let Some(name) = word.strip_suffix("(8)") else {
                    continue;
                };
                if name.starts_with("hermitfs") {
                    referred += 1;
                    assert!(dir.path().join(format!("{name}.8")).is_file(), "{name}");
                }
            }
        }
        assert!(referred > 10, "only {referred}");
    }
}
