//! How a call is worked on: polled where it is, as long as there are threads left for the others.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use hermitfs_api::{Errno, Error, Result};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// Threads of the server. An operation on local storage may wait for a disk on the thread that
/// polls it.
pub(crate) const THREADS: usize = 4;

/// How many may wait in place; beyond that a thread's other tasks are given to another thread first, which costs as
/// much as an operation, but leaves nobody waiting behind a slow disk.
const IN_PLACE: usize = THREADS - 2;

#[derive(Default)]
pub(crate) struct Work {
    busy: AtomicUsize,
}

struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Work {
    /// Runs a call to its end. A panic in it is EIO for this call alone. `slow`: it is known to wait for
    /// a disk.
    pub(crate) async fn run<T>(
        &self,
        slow: bool,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut call = pin!(call);
        poll_fn(|cx| {
            let before = self.busy.fetch_add(1, Ordering::Relaxed);
            let _busy = Busy(&self.busy);
            let mut poll = || catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx)));
            let polled = match slow || before >= IN_PLACE {
                true if can_move() => block_in_place(poll),
                _ => poll(),
            };
            polled.unwrap_or_else(|panic| std::task::Poll::Ready(Err(caught(&*panic))))
        })
        .await
    }
}

/// A runtime of one thread has no other to give its tasks to.
fn can_move() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

fn caught(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("?"), "a panic was answered with EIO");
    Error::with_story(Errno::EIO, "a bug in the server ended the operation")
}
