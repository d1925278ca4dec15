use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Polls once where the caller stands. A local stack is `Ready` at once.
pub fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// Runs a future to its end on this thread, sleeping while it waits.
///
/// For threads of our own (the healer's workers), and a door's where it keeps others for who comes next.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    if let Poll::Ready(output) = poll_once(future.as_mut()) {
        return output;
    }
    WAKER.with(|waker| {
        let mut cx = Context::from_waker(waker);
        loop {
            match future.as_mut().poll(&mut cx) {
                Poll::Ready(output) => return output,
                Poll::Pending => thread::park(),
            }
        }
    })
}

/// Runs a future on this thread, sleeping while it waits, for this long at most. What is not ready by then
/// goes on where it is polled next.
pub fn poll_for<F: Future + ?Sized>(mut future: Pin<&mut F>, limit: Duration) -> Poll<F::Output> {
    if let Poll::Ready(output) = poll_once(future.as_mut()) {
        return Poll::Ready(output);
    }
    let end = Instant::now() + limit;
    WAKER.with(|waker| {
        let mut cx = Context::from_waker(waker);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return Poll::Ready(output);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Poll::Pending;
            }
            thread::park_timeout(left);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn what_is_ready_in_time_is_answered_here_and_what_is_not_goes_on_elsewhere() {
        let polls = Arc::new(AtomicU32::new(0));
        let count = polls.clone();
        let mut later = std::pin::pin!(std::future::poll_fn(move |cx| {
            if count.fetch_add(1, Ordering::SeqCst) == 3 {
                return Poll::Ready(7);
            }
            let waker = cx.waker().clone();
            thread::spawn(move || waker.wake());
            Poll::Pending
        }));
        assert_eq!(
            poll_for(later.as_mut(), Duration::from_secs(60)),
            Poll::Ready(7)
        );
        assert_eq!(
            polls.load(Ordering::SeqCst),
            4,
            "woken, not asked again and again"
        );
        let began = Instant::now();
        let mut never = std::pin::pin!(std::future::pending::<()>());
        assert!(poll_for(never.as_mut(), Duration::from_millis(5)).is_pending());
        assert!(began.elapsed() >= Duration::from_millis(5));
    }
}
