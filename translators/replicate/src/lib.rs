//! (in the making)
#![forbid(unsafe_code)]
mod control;
mod options;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hermitfs_api::{Location, Translator};

pub use control::{Goal, NotReady, ObjectError, OpenError, Reached, Status};
pub use options::Options;

/// A source and its sinks.
pub struct Replicate {
    pub(crate) source: Arc<dyn Translator>,
}

impl Replicate {
    /// Opens or goes on with a pair. Blocks on I/O; to be called before the mount is there.
    /// `state_base` is the directory in which each migration has one of its own, by its id.
    pub fn open(
        options: Options,
        source: (String, Arc<dyn Translator>),
        sinks: Vec<(String, Arc<dyn Translator>)>,
        state_base: &Path,
    ) -> Result<Arc<Replicate>, OpenError> {
        let _ = (options, sinks, state_base);
        Ok(Arc::new(Replicate { source: source.1 }))
    }

    /// Starts the healing threads.
    pub fn start(self: &Arc<Self>) {}

    /// Ends healing, syncs, and closes the state cleanly: the volume must not be used after it.
    pub fn stop(&self) {}

    /// Where this migration keeps its state: `<state_base>/<volume-id>`.
    pub fn state_dir(&self) -> &Path {
        Path::new("/")
    }

    /// How far it is. Cheap: numbers that are kept anyway.
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// Each object that could not be healed.
    pub fn errors(&self) -> Vec<ObjectError> {
        Vec::new()
    }

    /// Waives what failed at this path (absolute from the brick's root); the number of errors
    /// that this took away, 0 when there was none.
    pub fn waive(&self, path: &[u8]) -> u64 {
        let _ = path;
        0
    }

    /// Crawls (a part of) the tree now. `full` compares the content of everything again.
    pub fn heal(&self, at: &Location, full: bool) -> hermitfs_api::Result<Goal> {
        let _ = (at, full);
        Ok(Goal(0))
    }

    /// How far a goal is.
    pub fn reached(&self, goal: &Goal) -> Reached {
        let _ = goal;
        Reached::No
    }

    /// Blocks until something that [`Replicate::status`] tells has changed, at most this long.
    pub fn wait_change(&self, at_most: Duration) {
        std::thread::sleep(at_most)
    }

    /// Holds new changes of users, drains what is pending and syncs the sink, within the limit.
    /// On an error everything goes on as before.
    pub fn freeze(&self, limit: Duration) -> Result<(), NotReady> {
        let _ = limit;
        Ok(())
    }

    /// Lets users go on after a freeze.
    pub fn thaw(&self) {}

    /// Forgets this migration: takes everything of ours off the sink, and removes the state
    /// directory. What is held or comes later is answered ESTALE. After a freeze it is the end
    /// of a cut-over; without one it gives up.
    pub fn retire(&self) -> hermitfs_api::Result<()> {
        Ok(())
    }
}
