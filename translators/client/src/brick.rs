//! All calls that a server knows.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use hermitfs_proto::brick::v1::brick_client::BrickClient;
use hermitfs_proto::brick::v1::brick_server;
use hermitfs_proto::brick::{CONTENT_TYPE, Heard, MAX_MESSAGE, Pieces, READ, WRITE, v1};
use hermitfs_proto::each_brick_call;
use http::header::{HeaderValue, TE};
use prost::Message;
use tonic::body::Body;
use tonic::{Code, Request, Response, Status};
use tower::Service;

use crate::wire::Wire;

/// A server of this process: it works on a call where the call is waited for. What is said are the same messages
/// as over a connection, but nobody has to write or read them.
pub type Near = Arc<dyn brick_server::Brick>;

/// A server.
#[derive(Clone)]
pub(crate) enum Brick {
    Far(Box<Far>),
    Near(Near),
}

macro_rules! calls {
    ($($method:ident: $request:ident => $reply:ident;)*) => {
        impl Brick {
            $(pub(crate) async fn $method(
                &mut self,
                request: v1::$request,
            ) -> Result<Response<v1::$reply>, Status> {
                match self {
                    // Apart: it is large, and the other is often called.
                    Brick::Far(far) => Box::pin(far.$method(request)).await,
                    Brick::Near(near) => near.$method(Request::new(request)).await,
                }
            })*
        }
    };
}

each_brick_call!(calls);

/// Over a connection. Tonic's client, but for the two calls that carry much content: these say and hear it as it lies.
#[derive(Clone)]
pub(crate) struct Far {
    calls: BrickClient<Wire>,
    wire: Wire,
}

impl Far {
    pub(crate) fn new(wire: Wire) -> Far {
        let calls = BrickClient::new(wire.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Far { calls, wire }
    }

    async fn read(&mut self, request: v1::ReadRequest) -> Result<Response<v1::DataReply>, Status> {
        let said = Pieces::plain(&request);
        self.converse(READ, said).await
    }

    async fn write(
        &mut self,
        request: v1::WriteRequest,
    ) -> Result<Response<v1::CountReply>, Status> {
        let said = Pieces::laden(request);
        self.converse(WRITE, said).await
    }

    async fn converse<M: Message + Default>(
        &mut self,
        path: &'static str,
        said: Pieces,
    ) -> Result<Response<M>, Status> {
        let mut request = http::Request::post(path)
            .body(Body::new(said))
            .map_err(|error| Status::internal(error.to_string()))?;
        let (name, value) = CONTENT_TYPE;
        request.headers_mut().insert(name, value);
        request
            .headers_mut()
            .insert(TE, HeaderValue::from_static("trailers"));
        let (head, answer) = self.wire.call(request).await?.into_parts();
        // An answer that is nothing but an error has it at its beginning.
        if let Some(status) = Status::from_header_map(&head.headers)
            && status.code() != Code::Ok
        {
            return Err(status);
        }
        let heard = Heard::all(answer).await?;
        match heard.status() {
            Some(status) if status.code() != Code::Ok => Err(status),
            Some(_) => heard.message().map(Response::new),
            None => Err(Status::unavailable(format!(
                "an answer without a status (HTTP {})",
                head.status
            ))),
        }
    }
}

impl Deref for Far {
    type Target = BrickClient<Wire>;

    fn deref(&self) -> &BrickClient<Wire> {
        &self.calls
    }
}

impl DerefMut for Far {
    fn deref_mut(&mut self) -> &mut BrickClient<Wire> {
        &mut self.calls
    }
}
