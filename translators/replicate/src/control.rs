//! What the program sees of a pair: numbers, errors, and the way out.

use std::time::{Duration, SystemTime};

use crate::heal::Compared;
use crate::loss::Class;

/// How far a pair is. Totals are `None` until the crawl has seen everything once.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// One word: `healing`, `ready`, `waiting` (backing off, see `reason`), `frozen`, `retired`.
    pub state: String,
    /// Why healing waits, for people; `None` while it does not.
    pub reason: Option<String>,
    /// Names, and objects without such a name, that are to be looked at (dirty, or copied and not yet synced).
    pub pending: u64,
    /// Bytes of content that are to be copied.
    pub pending_bytes: u64,
    /// How long it would take to drain what is pending, as estimated from what was measured.
    pub drain: Option<Duration>,
    /// Age of the oldest pending mark.
    pub oldest_pending: Option<Duration>,
    /// Objects that could not be healed (waived ones are not counted).
    pub errors: u64,
    /// Objects whose difference was waived by name.
    pub waived: u64,
    /// Losses that stop nothing, an object and a class at a time; those that are listed.
    pub losses: u64,
    /// Directories that no crawl has finished yet; 0 when the crawl is complete.
    pub crawl_left: u64,
    /// Something still has to be compared because others may have changed it meanwhile.
    pub unverified: bool,
    /// Crawl complete, nothing unverified, no errors, and what is pending would drain in time.
    pub ready: bool,
    /// Names of the tree that are equal, and in all: while it is walked, those that the walk has come to.
    pub files_done: u64,
    /// See `files_done`.
    pub files_total: Option<u64>,
    /// Bytes of file content under these.
    pub bytes_done: u64,
    /// See `bytes_done`.
    pub bytes_total: Option<u64>,
    /// Bytes a second, over the last seconds.
    pub bytes_rate: f64,
    /// Objects a second, over the last seconds.
    pub files_rate: f64,
    /// Bytes a second that healing may copy; `None` without a limit.
    pub limit: Option<u64>,
    /// The part of its speed that healing takes for users' sake, 1.0 when they do not mind.
    pub pace: f64,
    /// Time left at this rate; `None` while unknown.
    pub eta: Option<Duration>,
    /// Name of the source's volume.
    pub source: String,
    /// Each sink, as the pair counts them: its volume's name, and `healthy` or what is wrong.
    pub sinks: Vec<(String, String)>,
    /// When this migration began.
    pub since: Option<SystemTime>,
    /// Identity of this migration.
    pub volume_id: String,
}

impl Status {
    /// `healthy`, or what is wrong with a sink.
    pub fn health(&self, sink: SinkNumber) -> &str {
        self.sinks
            .get(sink.0)
            .map_or("unknown", |(_, health)| health)
    }
}

/// A sink, as its pair counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkNumber(pub(crate) usize);

/// What a volume is to the pair above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Users work on it.
    Source,
    /// It is made equal.
    Sink(SinkNumber),
}

impl Leg {
    /// In the order in which a pair is given its volumes: the source, then the sinks.
    pub fn all() -> impl Iterator<Item = Leg> {
        let sinks = (0..).map(|number| Leg::Sink(SinkNumber(number)));
        std::iter::once(Leg::Source).chain(sinks)
    }
}

/// One way in which one object could not be made equal.
#[derive(Clone, Debug)]
pub struct ObjectError {
    /// What of it.
    pub class: Class,
    /// Path from the root of the brick, with a leading slash; bytes, as names are.
    pub path: Vec<u8>,
    /// `source` or the sink's volume name.
    pub side: String,
    /// What people call that brick.
    pub place: String,
    /// What was being done: `read`, `set time` ...
    pub operation: String,
    /// The errno's name (`ENOSPC`), where there is one.
    pub errno: Option<String>,
    /// For people.
    pub reason: String,
    /// How often it was tried.
    pub count: u64,
    /// When it failed first.
    pub since: SystemTime,
    /// Said by an administrator not to matter.
    pub waived: bool,
}

/// Something that the sink does not get of an object, and that stops nothing: stated, or agreed to.
#[derive(Clone, Debug)]
pub struct ObjectLoss {
    /// Path from the root of the brick, with a leading slash; bytes, as names are.
    pub path: Vec<u8>,
    /// What of it.
    pub class: Class,
    /// For people: what it had, and what becomes of it.
    pub what: String,
    /// An administrator has agreed to it.
    pub agreed: bool,
}

/// All that is told of losses.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// Those that are known by name.
    pub listed: Vec<ObjectLoss>,
    /// Classes of which more objects have a loss than are listed.
    pub more: Vec<Class>,
    /// Classes that an administrator has agreed to lose wherever they are.
    pub agreed: Vec<Class>,
}

/// What [`heal`](crate::Replicate::heal) was asked for, to be asked about with
/// [`reached`](crate::Replicate::reached).
#[derive(Clone, Debug, Default)]
pub struct Goal {
    /// The last mark of each sink that was there.
    pub(crate) marks: Vec<u64>,
    /// What verifications had compared with each.
    pub(crate) before: Vec<Compared>,
}

/// What a verification came to.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Objects that were thought equal, and were compared.
    pub objects: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// How many of them differed. All were made equal, or are among the errors.
    pub different: u64,
    /// The first of these.
    pub differences: Vec<Difference>,
}

/// An object that was thought equal, and was not.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Path from the root of the brick, with a leading slash; bytes, as names are.
    pub path: Vec<u8>,
    /// The sink's volume name.
    pub sink: String,
    /// For people.
    pub what: String,
}

/// How far a [`Goal`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Not yet.
    No,
    /// All that was pending at the call, and everything unseen, is healed and on disk.
    Yes,
    /// Nothing is left but this many errors.
    Failed(u64),
}

/// Why a pair could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A brick is not the one that it should be, or the recorded direction says otherwise
    /// (exit code 78).
    #[error("{0}")]
    Identity(String),
    /// Something must be put right first: the sink is not empty, the state cannot be written ... (exit 78).
    #[error("{0}")]
    Refused(String),
    /// Somebody else has a brick, for now (exit 75).
    #[error("{0}")]
    Busy(String),
    /// A brick or the state directory failed.
    #[error("{0}")]
    Io(String),
}

/// Why a freeze did not come about; everything goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// Crawl, errors or unverified parts are in the way: the sentences say which.
    #[error("not ready: {}", .0.join("; "))]
    NotReady(Vec<String>),
    /// What is pending would take longer than the limit: nobody was held.
    #[error("{0}")]
    TooMuch(String),
    /// It turned out to: users were held for a part of the limit, no longer.
    #[error("{0}")]
    TooSlow(String),
    /// What was pending did not drain within the limit.
    #[error("{pending} objects were still pending after {limit:?}")]
    Timeout {
        /// Marks left.
        pending: u64,
        /// The limit that was given.
        limit: Duration,
    },
    /// The sink could not be synced.
    #[error("the new brick could not be synced: {0}")]
    Sync(String),
    /// It was not wanted any more.
    #[error("cancelled: who asked for it does not wait for it any more")]
    GivenUp,
}
