use serde::Deserialize;

use crate::Rule;

/// What a volfile can say of a `debug/fault`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// What is to happen to which operations. None: everything passes.
    pub rules: Vec<Rule>,
}

impl Options {
    /// With these rules.
    pub fn with(rules: impl IntoIterator<Item = Rule>) -> Options {
        Options {
            rules: rules.into_iter().collect(),
        }
    }
}
