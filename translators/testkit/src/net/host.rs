use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// A machine of a [`Net`](super::Net): one thread with a clock that stands still until time is let pass. Dropped, it
/// is as if it was killed: everything on it ends where it stands.
pub struct Host(Runtime);

impl Default for Host {
    fn default() -> Host {
        Host::new()
    }
}

impl Host {
    /// With nothing on it.
    pub fn new() -> Host {
        let mut builder = Builder::new_current_thread();
        Host(builder.enable_time().start_paused(true).build().unwrap())
    }

    /// Begins something on it, which goes on as time passes.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.0.spawn(task)
    }

    /// By which another thread can begin something on it, and have its clock.
    pub fn handle(&self) -> Handle {
        self.0.handle().clone()
    }

    /// Whoever sleeps wakes up in the order of time: it takes no longer than what is to be done.
    pub(super) fn pass(&self, time: Duration) {
        self.0.block_on(async { tokio::time::sleep(time).await });
    }
}
