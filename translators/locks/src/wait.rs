use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hermitfs_api::{Errno, Result};

use crate::queue::Ticket;
use crate::space::Outcome;
use crate::state::State;

/// A request that stands in a queue. Dropped before its end, it leaves all as if it had never
/// been made.
pub(crate) struct Wait {
    state: Arc<State>,
    ticket: Option<Ticket>,
}

impl Wait {
    pub(crate) fn new(state: &Arc<State>, ticket: Ticket) -> Wait {
        Wait {
            state: state.clone(),
            ticket: Some(ticket),
        }
    }
}

impl Future for Wait {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(ticket) = self.ticket else {
            return Poll::Ready(Err(Errno::EIO.into()));
        };
        let Poll::Ready(outcome) = self.state.poll(ticket, cx.waker()) else {
            return Poll::Pending;
        };
        self.ticket = None;
        Poll::Ready(match outcome {
            Outcome::Granted => Ok(()),
            Outcome::Deadlock => Err(Errno::EDEADLK.into()),
            Outcome::Closed => Err(Errno::EBADF.into()),
        })
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.state.leave(ticket);
        }
    }
}

/// Until an open file is gone, and not for longer than that may be on its way.
pub(crate) struct Moment {
    state: Arc<State>,
    limits: (Duration, u64),
    number: Option<u64>,
}

impl Moment {
    /// Until then, unless an open file more than so many is gone before.
    pub(crate) fn new(state: &Arc<State>, until: Duration, released: u64) -> Moment {
        Moment {
            state: state.clone(),
            limits: (until, released),
            number: None,
        }
    }
}

impl Future for Moment {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (state, limits) = (self.state.clone(), self.limits);
        state.rest(&mut self.number, limits, cx.waker())
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.state.rise(number);
        }
    }
}
