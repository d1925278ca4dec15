//! A way in for clients of this process: calls without a connection, worked on by who makes them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use hermitfs_proto::brick::v1;
use hermitfs_proto::brick::v1::brick_server::Brick;
use hermitfs_proto::each_brick_call;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tonic::codegen::BoxFuture;
use tonic::{Request, Response, Status, async_trait};

use crate::call::Answer;
use crate::door::Door;
use crate::server::Shared;

/// What a client in this process talks to instead of a connection. It holds nothing of the server: when that
/// has ended, calls are answered as over a connection that is cut.
///
/// What such a client asks for is not in the server's records: they tell the next process what became of a
/// call, and this client ends with this one.
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

    fn door(&self) -> Result<Door, Status> {
        let shared = self.shared.upgrade().ok_or_else(ended)?;
        Ok(Door { shared, near: true })
    }

    fn calling<T>(&self, call: impl Future<Output = Answer<T>> + Send + 'static) -> Calling<T> {
        Calling {
            state: State::Here(Box::pin(call)),
            runtime: self.runtime.clone(),
        }
    }
}

macro_rules! calls {
    ($($method:ident: $request:ident => $reply:ident;)*) => {
        #[async_trait]
        impl Brick for Near {
            $(async fn $method(&self, request: Request<v1::$request>) -> Answer<v1::$reply> {
                let door = self.door()?;
                self.calling(async move { door.$method(request).await }).await
            })*
        }
    };
}

each_brick_call!(calls);

/// A call that is under way; given up when it is dropped.
struct Calling<T> {
    state: State<T>,
    runtime: Handle,
}

enum State<T> {
    /// On whatever thread polls it.
    Here(BoxFuture<Response<T>, Status>),
    /// On a thread of the server.
    There(JoinHandle<Answer<T>>),
    Ended,
}

impl<T: Send + 'static> Future for Calling<T> {
    type Output = Answer<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer<T>> {
        let this = &mut *self;
        if let State::Here(call) = &mut this.state {
            // A thread of our own has no runtime around it, and may wait for a disk. One that has
            // others' tasks must not.
            if Handle::try_current().is_err() {
                let _inside = this.runtime.enter();
                return call.as_mut().poll(cx);
            }
            if let State::Here(call) = std::mem::replace(&mut this.state, State::Ended) {
                this.state = State::There(this.runtime.spawn(call));
            }
        }
        match &mut this.state {
            State::There(task) => {
                let done = ready!(Pin::new(task).poll(cx));
                Poll::Ready(done.unwrap_or_else(|_| Err(ended())))
            }
            State::Here(_) | State::Ended => Poll::Ready(Err(ended())),
        }
    }
}

impl<T> Drop for Calling<T> {
    fn drop(&mut self) {
        if let State::There(task) = &self.state {
            task.abort();
        }
    }
}

fn ended() -> Status {
    Status::unavailable("the server has ended")
}
