//! The two calls that carry much content, whose requests are heard and answers are said without copying it.
//! All others are tonic's.

use std::convert::Infallible;
use std::task::{Context, Poll};

use hermitfs_proto::brick::v1::brick_server::{Brick, BrickServer};
use hermitfs_proto::brick::{CONTENT_TYPE, Heard, Pieces, READ, WRITE};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::{Request as Asked, Status};

use crate::call::Answer;
use crate::door::Door;

/// What answers.
#[derive(Clone)]
pub(crate) struct Answering {
    door: Door,
    rest: BrickServer<Door>,
}

impl Answering {
    pub(crate) fn new(door: Door, rest: BrickServer<Door>) -> Answering {
        Answering { door, rest }
    }
}

impl NamedService for Answering {
    const NAME: &'static str = <BrickServer<Door> as NamedService>::NAME;
}

impl Service<Request<Body>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.rest, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let door = self.door.clone();
        match request.uri().path() {
            READ => Box::pin(async move {
                Ok(match heard(request.into_body()).await {
                    Ok(asked) => told(door.read(Asked::new(asked)).await, Pieces::laden),
                    Err(status) => status.into_http(),
                })
            }),
            WRITE => Box::pin(async move {
                Ok(match heard(request.into_body()).await {
                    Ok(asked) => told(door.write(Asked::new(asked)).await, |count| {
                        Pieces::plain(&count)
                    }),
                    Err(status) => status.into_http(),
                })
            }),
            _ => self.rest.call(request),
        }
    }
}

async fn heard<M: Message + Default>(body: Body) -> Result<M, Status> {
    Heard::all(body).await?.message()
}

fn told<T>(answer: Answer<T>, say: impl FnOnce(T) -> Pieces) -> Response<Body> {
    match answer {
        Ok(answer) => {
            let pieces = say(answer.into_inner()).and_ok();
            let mut response = Response::new(Body::new(pieces));
            let (name, value) = CONTENT_TYPE;
            response.headers_mut().insert(name, value);
            response
        }
        Err(status) => status.into_http(),
    }
}
