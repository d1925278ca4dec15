//! What carries calls to another process: HTTP/2 over a connection.
//!
//! Most of what a small call costs is switches between threads. So a connection's own thread does all of
//! it: a request is written whole, its head together with what it says, and who waits is woken once, when the
//! answer is there. (Tonic's channel writes the head first, which wakes the server twice, and wakes the
//! caller for its queue, the answer's head, and the answer.)

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong, Reason, SendStream};
use hermitfs_proto::brick::{MAX_DATA, Pieces};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body::{Body as _, Frame};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::dial::Connection;

/// When a connection counts as dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    /// It is asked for a sign of life so often.
    pub(crate) every: Duration,
    /// It is dead when there is none for so long.
    pub(crate) within: Duration,
}

/// A connection. It ends when the last copy is dropped and the last answer is there.
#[derive(Clone)]
pub(crate) struct Wire {
    requests: SendRequest<Bytes>,
    scheme: Scheme,
    authority: Authority,
    /// Where the connection is driven.
    runtime: Handle,
}

impl Wire {
    /// Over a connection, driven on this runtime.
    pub(crate) async fn over(
        connection: impl Connection,
        scheme: Scheme,
        pulse: Pulse,
    ) -> Result<Wire, h2::Error> {
        let (requests, mut driven) = h2::client::Builder::new()
            .enable_push(false)
            .max_frame_size(MAX_DATA as u32)
            .initial_window_size(2 * MAX_DATA as u32)
            .initial_connection_window_size(2 * MAX_DATA as u32)
            .handshake(connection)
            .await?;
        let pings = driven.ping_pong();
        tokio::spawn(async move {
            // Dropped it is closed, and whoever waits for an answer hears of it.
            tokio::select! {
                ended = driven => {
                    if let Err(error) = ended {
                        tracing::debug!("a connection has ended: {error}");
                    }
                }
                () = silence(pings, pulse) => tracing::debug!("a connection gives no sign of life"),
            }
        });
        Ok(Wire {
            requests,
            scheme,
            authority: Authority::from_static("brick"),
            runtime: Handle::current(),
        })
    }

    /// One call, from its first byte to its last.
    async fn converse(self, request: Request<Body>) -> Result<Response<Pieces>, Status> {
        let (mut head, body) = request.into_parts();
        let mut uri = head.uri.into_parts();
        (uri.scheme, uri.authority) = (Some(self.scheme), Some(self.authority));
        head.uri = Uri::from_parts(uri).map_err(|error| Status::internal(error.to_string()))?;
        let mut requests = self.requests.ready().await.map_err(cut)?;
        let request = Request::from_parts(head, ());
        let (response, stream) = requests.send_request(request, false).map_err(cut)?;
        say(stream, body).await?;
        let (head, mut stream) = response.await.map_err(cut)?.into_parts();
        let mut answer = Pieces::default();
        while let Some(data) = stream.data().await {
            let data = match data {
                Ok(data) => data,
                // It was answered before all was said.
                Err(error) if error.reason() == Some(Reason::NO_ERROR) => break,
                Err(error) => return Err(cut(error)),
            };
            // Room for as much again.
            let _ = stream.flow_control().release_capacity(data.len());
            answer.push(Frame::data(data));
        }
        let trailers = stream.trailers().await.map_err(cut)?;
        trailers
            .map(Frame::trailers)
            .into_iter()
            .for_each(|end| answer.push(end));
        Ok(Response::from_parts(head, answer))
    }
}

/// Says what a request says. The last piece goes out with the word that it is the last.
async fn say(mut stream: SendStream<Bytes>, mut body: Body) -> Result<(), Status> {
    let mut last: Option<Bytes> = None;
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let next = match frame.transpose()?.map(Frame::into_data) {
            Some(Ok(data)) => Some(data),
            // No request ends with trailers.
            Some(Err(_)) => continue,
            None => None,
        };
        let is_over = next.is_none();
        let before = std::mem::replace(&mut last, next);
        if let Some(data) = before.or_else(|| is_over.then(Bytes::new)) {
            stream.send_data(data, is_over).map_err(cut)?;
        }
        if is_over {
            return Ok(());
        }
    }
}

/// Until a connection gives no sign of life.
async fn silence(pings: Option<PingPong>, pulse: Pulse) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        sleep(pulse.every).await;
        let ponged = timeout(pulse.within, pings.ping(Ping::opaque())).await;
        if !matches!(ponged, Ok(Ok(_))) {
            return;
        }
    }
}

/// A call that is under way, driven by the connection's thread; given up when it is dropped.
pub(crate) struct Calling(JoinHandle<Result<Response<Pieces>, Status>>);

impl Future for Calling {
    type Output = Result<Response<Pieces>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(ended.unwrap_or_else(|_| Err(Status::unavailable("the client has ended"))))
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Pieces>;
    type Error = Status;
    type Future = Calling;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Calling {
        Calling(self.runtime.spawn(self.clone().converse(request)))
    }
}

/// Whatever goes wrong here is the line's fault, and says nothing of the operation.
fn cut(error: h2::Error) -> Status {
    let mut status = Status::unavailable(error.to_string());
    status.set_source(Arc::new(error));
    status
}
