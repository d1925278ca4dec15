//! Who waits for the network: so that its clocks stand still while a thread has something to do.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// So long a thread is given to go on that was woken, and time stands when nobody waits.
const MOMENT: Duration = Duration::from_micros(500);

#[derive(Default)]
pub(crate) struct Waits {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    /// Things that threads wait for.
    under_way: usize,
    /// Those of them whose threads were woken, and have not looked yet.
    woken: usize,
}

/// One thing that a thread waits for.
struct Wait {
    waits: Arc<Waits>,
    state: Mutex<(bool, Option<Waker>)>,
}

impl Wait {
    /// The thread looks.
    fn look(&self, waker: &Waker) {
        let mut state = self.state.lock();
        state.1 = Some(waker.clone());
        if std::mem::take(&mut state.0) {
            self.waits.change(|counts| counts.woken -= 1);
        }
    }
}

impl Wake for Wait {
    fn wake(self: Arc<Self>) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.0, true) {
            self.waits.change(|counts| counts.woken += 1);
        }
        let waker = state.1.clone();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Ends a wait, also one that is given up. What wakes it later changes nothing.
struct Ended(Arc<Wait>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        let was_woken = std::mem::replace(&mut state.0, true);
        self.0.waits.change(|counts| {
            counts.under_way -= 1;
            counts.woken -= usize::from(was_woken);
        });
    }
}

impl Waits {
    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock());
        self.changed.notify_all();
    }

    /// The same, counted while it is under way.
    pub(crate) async fn count<T>(self: &Arc<Self>, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        self.change(|counts| counts.under_way += 1);
        let wait = Arc::new(Wait {
            waits: self.clone(),
            state: Mutex::default(),
        });
        let ended = Ended(wait.clone());
        let waker = Waker::from(wait);
        poll_fn(|cx| {
            ended.0.look(cx.waker());
            what.as_mut().poll(&mut Context::from_waker(&waker))
        })
        .await
    }

    /// Returns when time may pass: threads that can go on have gone on, and somebody waits, or nobody
    /// does for a moment.
    pub(crate) fn settle(&self) {
        let end = Instant::now() + MOMENT;
        let mut counts = self.counts.lock();
        while (counts.woken > 0 || counts.under_way == 0)
            && !self.changed.wait_until(&mut counts, end).timed_out()
        {}
    }
}
