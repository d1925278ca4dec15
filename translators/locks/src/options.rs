use serde::Deserialize;

/// What a volfile can say of a `features/locks`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// Ranges and waiters on one file, beyond which a lock is ENOLCK.
    pub max_per_file: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_per_file: 65_536,
        }
    }
}
