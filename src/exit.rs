//! How a command ends: exit codes are a contract, after sysexits.h.

use std::fmt;

/// What a command came to, if not to a good end.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Exit codes other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Code {
    /// Anything without a code of its own.
    Other,
    /// The command line is wrong.
    Usage,
    /// Both sides differ: some objects could not be healed.
    Differences,
    /// No daemon serves this mount.
    NoDaemon,
    /// Busy or not ready: the same command may succeed later.
    TryAgain,
    /// Root is needed.
    Permission,
    /// A volfile, a directory or an identity is wrong.
    Configuration,
    /// Ctrl-C, or another signal to end: nothing came of it.
    Interrupted,
}

impl Code {
    pub(crate) fn number(self) -> u8 {
        match self {
            Code::Other => 1,
            Code::Usage => 64,
            Code::Differences => 65,
            Code::NoDaemon => 69,
            Code::TryAgain => 75,
            Code::Permission => 77,
            Code::Configuration => 78,
            // As shells have it of SIGINT.
            Code::Interrupted => 130,
        }
    }
}

/// A code, and a sentence for people: what was wrong, and what to do. Empty when all was said.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Code::Usage, message)
    }

    pub(crate) fn configuration(message: impl Into<String>) -> Failure {
        Failure::new(Code::Configuration, message)
    }

    pub(crate) fn other(message: impl Into<String>) -> Failure {
        Failure::new(Code::Other, message)
    }

    /// For what has been shown already.
    pub(crate) fn silent(code: Code) -> Failure {
        Failure::new(code, "")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Only root may do these things.
pub(crate) fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(
        Code::Permission,
        "this needs root: mounting, and files of every owner",
    ))
}
