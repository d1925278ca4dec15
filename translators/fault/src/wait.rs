use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// Waits without holding the thread that polls. It costs a thread of its own, which for a drill is
/// cheap enough, and needs no runtime.
pub(crate) async fn delay(time: Duration) {
    let state = Arc::new(Mutex::new((false, None::<Waker>)));
    let sleeper = state.clone();
    let started = thread::Builder::new()
        .name("fault-delay".into())
        .spawn(move || {
            thread::sleep(time);
            let mut state = sleeper.lock();
            state.0 = true;
            if let Some(waker) = state.1.take() {
                waker.wake();
            }
        });
    if started.is_err() {
        // No thread to be had: then the delay holds the caller's.
        return thread::sleep(time);
    }
    Delay(state).await;
}

struct Delay(Arc<Mutex<(bool, Option<Waker>)>>);

impl Future for Delay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Ends this process as `kill -9` would: nothing is flushed, no destructor runs.
pub(crate) fn kill_ourselves() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// What was stopped is never answered.
pub(crate) async fn never() {
    pending().await
}
