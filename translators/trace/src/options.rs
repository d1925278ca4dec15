use serde::Deserialize;

/// What a volfile can say of a `debug/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// At which level operations are told.
    pub log: Log,
    /// Tells only operations that took longer than this, in milliseconds.
    pub slower_than_ms: u64,
    /// Tells only operations that failed.
    pub errors_only: bool,
    /// Counts and times operations.
    pub counts: bool,
}

/// A level of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Log {
    /// Nothing is told.
    Off,
    /// At DEBUG.
    Debug,
    /// At TRACE.
    Trace,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            log: Log::Debug,
            slower_than_ms: 0,
            errors_only: false,
            counts: true,
        }
    }
}
