//! A way in for clients of this process: calls without a connection, worked on by who makes them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};

use crate::server::{Shared, service};

/// What a client in this process talks to instead of a connection. It holds nothing of the server: when that
/// has ended, calls are answered as over a connection that is cut.
#[derive(Clone)]
pub struct Near {
    shared: Weak<Shared>,
    /// Of the server: for its clocks, and for what goes on by itself.
    runtime: Handle,
}

impl Near {
    pub(crate) fn new(shared: &Arc<Shared>, runtime: Handle) -> Near {
        Near {
            shared: Arc::downgrade(shared),
            runtime,
        }
    }
}

impl Service<Request<Body>> for Near {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Calling;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Calling {
        let state = match self.shared.upgrade() {
            Some(shared) => State::Here(service(&shared).call(request)),
            None => State::Ended,
        };
        Calling {
            state,
            runtime: self.runtime.clone(),
        }
    }
}

/// A call that is under way; given up when it is dropped.
#[must_use = "futures do nothing unless polled"]
pub struct Calling {
    state: State,
    runtime: Handle,
}

enum State {
    /// On whatever thread polls it.
    Here(BoxFuture<Response<Body>, Infallible>),
    /// On a thread of the server.
    There(JoinHandle<Result<Response<Body>, Infallible>>),
    Ended,
}

impl Future for Calling {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let State::Here(call) = &mut this.state {
            // A thread of our own has no runtime around it, and may wait for a disk. One that has
            // others' tasks must not.
            if Handle::try_current().is_err() {
                let _inside = this.runtime.enter();
                return call.as_mut().poll(cx).map(|done| Ok(never(done)));
            }
            if let State::Here(call) = std::mem::replace(&mut this.state, State::Ended) {
                this.state = State::There(this.runtime.spawn(call));
            }
        }
        match &mut this.state {
            State::There(task) => Poll::Ready(match ready!(Pin::new(task).poll(cx)) {
                Ok(done) => Ok(never(done)),
                Err(_) => Err(ended()),
            }),
            State::Here(_) | State::Ended => Poll::Ready(Err(ended())),
        }
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        if let State::There(task) = &self.state {
            task.abort();
        }
    }
}

fn never<T>(done: Result<T, Infallible>) -> T {
    match done {
        Ok(done) => done,
        Err(never) => match never {},
    }
}

fn ended() -> Status {
    Status::unavailable("the server has ended")
}
