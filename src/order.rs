//! What a command tells the daemon that it starts.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::{Failure, Result};
use crate::shell;
use crate::volfile::{Graph, Source, Variables, load, render};

/// Serve this volume there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The volfile's name, for messages, and its text.
    pub(crate) volfile: (String, String),
    pub(crate) set: BTreeMap<String, String>,
    /// What the command's environment says for the variables that `set` has not.
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    /// Absolute, without symbolic links. Of a daemon that only serves bricks: its volfile, by which
    /// it is known.
    pub(crate) mountpoint: PathBuf,
    /// Only the servers of the volfile; nothing is mounted.
    #[serde(default)]
    pub(crate) serve: bool,
    /// Options of the mount: `ro,threads=16`.
    pub(crate) options: Vec<String>,
    /// Absolute.
    pub(crate) state_dir: PathBuf,
    pub(crate) adopt: bool,
    /// Also where most of what is in NEW would be removed, or what is newer.
    pub(crate) delete_from_new: bool,
    /// Leave out what is mounted in the bricks, whatever the volfile says.
    pub(crate) one_file_system: bool,
    /// The command that was given, as it can be given again.
    #[serde(default)]
    pub(crate) command: String,
    /// Bytes a second that healing may copy, instead of what the volfile says.
    pub(crate) limit: Option<u64>,
    pub(crate) foreground: bool,
    /// A file to be made when a migration was cut over or given up.
    pub(crate) ended: Option<PathBuf>,
}

impl Order {
    /// The volume's graph. Mistakes come as a compiler shows them.
    pub(crate) fn graph(&self) -> Result<Graph> {
        let source = Source {
            name: self.volfile.0.clone(),
            text: self.volfile.1.clone(),
        };
        let variables = Variables {
            set: self.set.clone(),
            environment: self.environment.clone(),
            allow_open: false,
        };
        let loaded = load(&source, &variables);
        match loaded.graph {
            Some(graph) => Ok(graph),
            None => Err(Failure::configuration(render(
                &source,
                &loaded.findings,
                false,
            ))),
        }
    }
}

/// The command that gives the same order once more, from any directory. `rest` comes after the volfile and its values.
pub(crate) fn again(
    command: &str,
    volfile: &Path,
    set: &[(String, String)],
    rest: Vec<OsString>,
    state_dir: Option<&Path>,
) -> String {
    let mut words: Vec<OsString> = vec![command.into(), "-f".into(), volfile.into()];
    for (name, value) in set {
        words.extend(["--set".into(), format!("{name}={value}").into()]);
    }
    words.extend(rest);
    if let Some(dir) = state_dir {
        words.extend(["--state-dir".into(), dir.into()]);
    }
    let words: Vec<&dyn AsRef<OsStr>> = words.iter().map(|word| word as _).collect();
    shell::hermitfs(&words)
}

/// Reads a volfile.
pub(crate) fn read_volfile(path: &Path) -> Result<Source> {
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::configuration(format!(
            "the volfile {} cannot be read: {error}",
            path.display()
        ))
    })?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::configuration(format!("the volfile {} is not UTF-8 text", path.display()))
    })?;
    Ok(Source {
        name: path.display().to_string(),
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_goes_on_has_all_that_was_said() {
        let set = [("old".to_owned(), "/srv/my data".to_owned())];
        let rest = vec!["-o".into(), "ro".into(), "/data".into()];
        assert_eq!(
            again(
                "mount",
                Path::new("/a.vol"),
                &set,
                rest,
                Some(Path::new("/s"))
            ),
            "hermitfs mount -f /a.vol --set 'old=/srv/my data' -o ro /data --state-dir /s"
        );
    }
}
