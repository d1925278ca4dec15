use serde::Deserialize;

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
    /// Healing threads for each sink, 1..=64; without a number twice as many as processors, of
    /// 4 to 16. More hide a slow disk's latency, fewer get into each other's way on a quick one.
    pub workers: usize,
    /// How long a touched object rests before it is healed, in milliseconds.
    pub rest_ms: u64,
    /// Takes a sink that is not empty and compares everything in it.
    pub adopt: bool,
    /// Heals by itself from the start (`crawl = true`), or only what look-ups and `hermitfs
    /// heal` ask for.
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
            workers: std::thread::available_parallelism()
                .map_or(4, |processors| processors.get() * 2)
                .clamp(4, 16),
            rest_ms: 500,
            adopt: false,
            crawl: true,
            continuous: false,
        }
    }
}
