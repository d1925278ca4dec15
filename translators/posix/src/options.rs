use std::io;
use std::path::PathBuf;

use serde::Deserialize;

/// Options of `storage/posix` in a volfile.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// The directory that is the brick. A symbolic link here is followed: it is the
    /// administrator's, not a user's.
    pub directory: PathBuf,
    /// Whether to use the file system's handles where it has them. `false` works as if it had
    /// none: one descriptor for each object that anybody holds, and nothing survives a restart.
    #[serde(default = "yes")]
    pub handles: bool,
    /// Whether to leave out what other file systems are mounted in the directory: where they are
    /// stands the directory that lies beneath. Otherwise what is mounted there is EXDEV.
    #[serde(default)]
    pub one_file_system: bool,
    /// Work through a mount of the brick of our own, which no path leads to; not for volfiles.
    #[serde(skip)]
    pub own_mount: Option<OwnMount>,
}

/// How a mount of our own differs from the one that the brick's directory is found on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnMount {
    /// Whether it is read-only; `None` where it is what the other one is. What is read-only is also
    /// kept free of access times.
    pub read_only: Option<bool>,
    /// Reading sets no access times, whatever the other one says.
    pub no_atime: bool,
}

fn yes() -> bool {
    true
}

impl Options {
    /// A brick on `directory`, all else as it is by default.
    pub fn new(directory: impl Into<PathBuf>) -> Options {
        Options {
            directory: directory.into(),
            handles: true,
            one_file_system: false,
            own_mount: None,
        }
    }
}

/// Why a brick could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there, is no directory, or may not be read.
    #[error("the brick {} cannot be opened: {source}", path.display())]
    Directory {
        /// As the option says.
        path: PathBuf,
        /// What open(2) said.
        source: io::Error,
    },
    /// Its file system does not even tell what statx(2) has to.
    #[error("the file system of the brick {} does not answer {call}: {source}", path.display())]
    FileSystem {
        /// As the option says.
        path: PathBuf,
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_required_and_unknown_keys_are_refused() {
        let options: Options = toml::from_str("directory = '/srv/old'").unwrap();
        assert_eq!(options, Options::new("/srv/old"));
        assert!(toml::from_str::<Options>("").is_err());
        assert!(toml::from_str::<Options>("directory = '/a'\ndirectroy = '/b'").is_err());
    }
}
