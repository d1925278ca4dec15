//! How a request is worked on: polled where it stands, parked when it has to wait for long, fenced always.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hermitfs_api::{block_on, poll_for, poll_once, try_threads};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::task::block_in_place;

use crate::gate::Gate;
use crate::statistics::{Gauge, Op, Statistics};

/// For so long a request may keep the thread that took it: as long as a server that is near needs for an
/// answer. To be woken where one waits costs less than to be carried elsewhere.
const PATIENCE: Duration = Duration::from_millis(5);

/// Of all mounts together, for requests that wait.
const THREADS: usize = 2;

pub(crate) struct Work {
    pub(crate) gate: Gate,
    pub(crate) statistics: Arc<Statistics>,
}

impl Work {
    /// Runs a request that owns all it needs, its reply included.
    pub(crate) fn run(&self, op: Op, request: impl Future<Output = ()> + Send + 'static) {
        self.statistics.count(op);
        let mut request = Box::pin(Fenced::new(op, self.statistics.clone(), request));
        match self.gate.enter() {
            Some(_pass) => {
                if poll_for(request.as_mut(), PATIENCE).is_pending() {
                    park(request);
                }
            }
            None => self.send_away(request),
        }
    }

    /// Runs `here` on this thread, where it may wait as well; it borrows what the kernel lent.
    /// When this thread must not wait, `elsewhere` says what to run on another.
    pub(crate) fn run_borrowing<T, F>(
        &self,
        op: Op,
        token: T,
        here: impl FnOnce(T),
        elsewhere: impl FnOnce(T) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.statistics.count(op);
        match self.gate.enter() {
            Some(_pass) => {
                let _in_flight = Gauge::up(&self.statistics.in_flight);
                fence(op, &self.statistics, || here(token));
            }
            None => {
                let request = elsewhere(token);
                self.send_away(Box::pin(Fenced::new(op, self.statistics.clone(), request)));
            }
        }
    }

    /// Runs what nobody waits for, on another thread.
    pub(crate) fn aside(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(runtime) = runtime() {
            runtime.spawn_blocking(job);
        }
    }

    fn send_away(&self, mut request: Pin<Box<Fenced>>) {
        self.statistics.overflowed.fetch_add(1, Ordering::Relaxed);
        match runtime() {
            Some(runtime) => drop(runtime.spawn_blocking(move || {
                if poll_once(request.as_mut()).is_pending() {
                    park(request);
                }
            })),
            None => block_on(request),
        }
    }
}

/// Only what waits for something else (a freeze, a network, a lock) comes here. When it goes on
/// it may still meet a slow disk, so each poll leaves the runtime's other threads free.
fn park(mut request: Pin<Box<Fenced>>) {
    let Some(runtime) = runtime() else {
        return block_on(request);
    };
    let statistics = request.statistics.clone();
    runtime.spawn(async move {
        let _parked = Gauge::up(&statistics.parked);
        std::future::poll_fn(|cx| block_in_place(|| request.as_mut().poll(cx))).await;
    });
}

/// One for all mounts of the process, made when something first has to wait. It is never dropped:
/// the last request to end may be running on it.
fn runtime() -> Option<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    if let Some(runtime) = RUNTIME.get() {
        return Some(runtime);
    }
    let _making = MAKING.lock();
    if let Some(runtime) = RUNTIME.get() {
        return Some(runtime);
    }
    let build = || {
        Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("fuse-parked")
            .build()
    };
    // Tried first: where one of its threads is not to be had, building it never comes to an end. The next request
    // may find them.
    match try_threads(THREADS).and_then(|()| build()) {
        Ok(runtime) => Some(RUNTIME.get_or_init(|| runtime)),
        Err(error) => {
            tracing::error!(%error, "no threads for waiting requests");
            None
        }
    }
}

/// Whether there are threads for requests that have to wait.
pub(crate) fn can_park() -> bool {
    runtime().is_some()
}

/// A request whose panics end with it. Dropping its reply unsent answers EIO.
struct Fenced {
    op: Op,
    statistics: Arc<Statistics>,
    request: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Fenced {
    fn new(
        op: Op,
        statistics: Arc<Statistics>,
        request: impl Future<Output = ()> + Send + 'static,
    ) -> Fenced {
        statistics.in_flight.fetch_add(1, Ordering::Relaxed);
        Fenced {
            op,
            statistics,
            request: Some(Box::pin(request)),
        }
    }
}

impl Future for Fenced {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(request) = self.request.as_mut() else {
            return Poll::Ready(());
        };
        let polled = catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(cx)));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => {
                self.request = None;
                Poll::Ready(())
            }
            Err(panic) => {
                caught(self.op, &self.statistics, &*panic);
                self.request = None;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        self.statistics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs it; a panic ends here. What it owned, its reply above all, is dropped by then.
pub(crate) fn fence(op: Op, statistics: &Statistics, run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        caught(op, statistics, &*panic);
    }
}

fn caught(op: Op, statistics: &Statistics, panic: &(dyn Any + Send)) {
    statistics.panics.fetch_add(1, Ordering::Relaxed);
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(%op, panic = text.unwrap_or("?"), "a panic was answered with EIO");
}
