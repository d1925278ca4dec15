use std::collections::BTreeMap;

use serde::Deserialize;

use crate::brake::Rate;

/// What a volfile can say of a `cluster/replicate`.
///
/// `source` and `sinks` name volumes; the program gives the volumes themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// The authoritative brick. In the classic syntax: the first subvolume, if not said.
    pub source: Option<String>,
    /// The bricks to be made equal. In the classic syntax: all other subvolumes.
    pub sinks: Vec<String>,
    /// Healing threads for each sink, 1..=64.
    pub workers: usize,
    /// How many bytes a second healing may copy (`50MB/s`), over all sinks; an object counts as
    /// at least 4 KiB. Without it, as fast as it can.
    pub limit: Option<Rate>,
    /// Heals slower, down to an eighth, while users wait for the source several times as long as
    /// they do without healing.
    pub backoff: bool,
    /// How long a touched object rests before it is healed, in milliseconds.
    pub rest_ms: u64,
    /// Takes a sink that is not empty and compares everything in it.
    pub adopt: bool,
    /// Not for volfiles: what is adopted may lose most of what is in it, or what is newer than the
    /// source's. That is said once, by a person.
    #[serde(skip)]
    pub delete_from_sink: bool,
    /// Not for volfiles: the last run at this place had the very same bricks, so that a sink that is not there is one
    /// that has failed. Users are served without it.
    #[serde(skip)]
    pub resumed: bool,
    /// Not for volfiles: what people call each brick, its directory as a rule, by the name of its
    /// volume.
    #[serde(skip)]
    pub places: BTreeMap<String, String>,
    /// Crawls by itself from the start. With `crawl = false` a directory is healed when somebody
    /// looks at it (`ls -alR`), and the rest from the first `hermitfs heal` on.
    pub crawl: bool,
    /// Not for volfiles: the mount of the last run is still there, dead, so that nobody can have
    /// reached the source by it meanwhile. Without that everything is compared.
    #[serde(skip)]
    pub continuous: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            source: None,
            sinks: Vec::new(),
            workers: 8,
            limit: None,
            backoff: true,
            rest_ms: 500,
            adopt: false,
            delete_from_sink: false,
            resumed: false,
            places: BTreeMap::new(),
            crawl: true,
            continuous: false,
        }
    }
}

impl Options {
    /// What people call a brick.
    pub(crate) fn place<'a>(&'a self, name: &'a str) -> &'a str {
        self.places.get(name).map_or(name, String::as_str)
    }
}
