//! The least that tonic can do: bytes come in, bytes go out, with the settings that our wire has.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hermitfs_proto::brick::MAX_MESSAGE;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc as Answering, NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

const MIB: usize = 1 << 20;
const FRAME: u32 = 1 << 20;

/// A server in a thread, and who asks it.
pub(crate) struct Echo {
    asking: Runtime,
    channel: Channel,
    _answering: Runtime,
    payload: Bytes,
}

impl Echo {
    /// Asks in the connection's own thread, which leaves one alone in the world; or from another thread
    /// than that, as whoever has several who ask must.
    pub(crate) fn new(socket: &Path, own_thread: bool) -> Echo {
        let answering = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let inside = answering.enter();
        let listener = UnixListener::bind(socket).unwrap();
        drop(inside);
        answering.spawn(
            Server::builder()
                .max_frame_size(FRAME)
                .add_service(Answer(Bytes::from(vec![5; MIB])))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        let asking = match own_thread {
            true => Builder::new_current_thread().enable_all().build(),
            false => Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build(),
        };
        let asking = asking.unwrap();
        let socket = socket.to_owned();
        let dial = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://echo").max_frame_size(FRAME);
        let channel = asking
            .block_on(endpoint.connect_with_connector(dial))
            .unwrap();
        Echo {
            asking,
            channel,
            _answering: answering,
            payload: Bytes::from(vec![6; MIB]),
        }
    }

    /// So many bytes out, and the same back.
    pub(crate) fn call(&self, size: usize) {
        assert_eq!(self.ask(self.payload.slice(..size)), size);
    }

    /// One byte out, a MiB back.
    pub(crate) fn read(&self) {
        assert_eq!(self.ask(self.payload.slice(..1)), MIB);
    }

    /// A MiB out, nothing back.
    pub(crate) fn write(&self) {
        assert_eq!(self.ask(self.payload.clone()), 0);
    }

    fn ask(&self, payload: Bytes) -> usize {
        let mut ask = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let path = PathAndQuery::from_static("/echo.Echo/Call");
        let codec = ProstCodec::<Bytes, Bytes>::default();
        let answer = self.asking.block_on(async {
            ask.ready().await.unwrap();
            ask.unary(Request::new(payload), path, codec).await
        });
        answer.unwrap().into_inner().len()
    }
}

/// The service: a single byte is answered with a MiB, a MiB with nothing, all else with itself.
#[derive(Clone)]
struct Answer(Bytes);

type Soon<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl NamedService for Answer {
    const NAME: &'static str = "echo.Echo";
}

impl UnaryService<Bytes> for Answer {
    type Response = Bytes;
    type Future = Soon<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let asked = request.into_inner();
        let answer = match asked.len() {
            1 => self.0.clone(),
            MIB => Bytes::new(),
            _ => asked,
        };
        Box::pin(async { Ok(Response::new(answer)) })
    }
}

impl Service<http::Request<Body>> for Answer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Soon<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<Bytes, Bytes>::default();
            let mut answering = Answering::new(codec).max_decoding_message_size(MAX_MESSAGE);
            Ok(answering.unary(answer, request).await)
        })
    }
}
