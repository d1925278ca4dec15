//! All calls that a server knows.

use std::ops::{Deref, DerefMut};

use hermitfs_proto::brick::v1::brick_client::BrickClient;
use hermitfs_proto::brick::{CONTENT_TYPE, Heard, MAX_MESSAGE, Pieces, READ, WRITE, v1};
use http::header::{HeaderValue, TE};
use prost::Message;
use tonic::body::Body;
use tonic::{Code, Response, Status};
use tower::Service;

use crate::wire::Wire;

/// Tonic's client, but for the two calls that carry much content: these say and hear it as it lies.
#[derive(Clone)]
pub(crate) struct Brick {
    calls: BrickClient<Wire>,
    wire: Wire,
}

impl Brick {
    pub(crate) fn new(wire: Wire) -> Brick {
        let calls = BrickClient::new(wire.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Brick { calls, wire }
    }

    pub(crate) async fn read(
        &mut self,
        request: v1::ReadRequest,
    ) -> Result<Response<v1::DataReply>, Status> {
        let said = Pieces::plain(&request);
        self.converse(READ, said).await
    }

    pub(crate) async fn write(
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

impl Deref for Brick {
    type Target = BrickClient<Wire>;

    fn deref(&self) -> &BrickClient<Wire> {
        &self.calls
    }
}

impl DerefMut for Brick {
    fn deref_mut(&mut self) -> &mut BrickClient<Wire> {
        &mut self.calls
    }
}
