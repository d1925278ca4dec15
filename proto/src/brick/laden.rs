//! Messages with much content, said and heard as it lies in memory.
//!
//! On the wire they are what every gRPC message is (five bytes of frame, then Protocol Buffers; see
//! "PROTOCOL-HTTP2" of gRPC). Tonic builds a message in one piece, into which content is copied, and puts
//! what it hears together in another. Here content is the message's last field, in a piece of its own; and it
//! is taken out of the piece in which it came.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body, Frame};
use prost::Message;
use tonic::Status;

use super::{MAX_MESSAGE, v1};

/// A message that carries content.
pub trait Laden: Message + Default {
    /// The number of the field that holds it.
    const FIELD: u8;

    /// That field.
    fn content(&mut self) -> &mut Bytes;
}

impl Laden for v1::DataReply {
    const FIELD: u8 = 1;

    fn content(&mut self) -> &mut Bytes {
        &mut self.data
    }
}

impl Laden for v1::WriteRequest {
    const FIELD: u8 = 4;

    fn content(&mut self) -> &mut Bytes {
        &mut self.data
    }
}

/// How the call to read is called in HTTP.
pub const READ: &str = "/hermitfs.brick.v1.Brick/Read";

/// How the call to write is.
pub const WRITE: &str = "/hermitfs.brick.v1.Brick/Write";

/// Whether it is compressed (never), and its length.
const FRAME: usize = 5;

/// What is shorter goes along in the first piece.
const SHORT: usize = 4 << 10;

/// Wire type 2 of Protocol Buffers: a length, and so many bytes.
const LENGTH_DELIMITED: u8 = 2;

/// The body of a request or an answer, piece by piece.
#[derive(Debug, Default)]
pub struct Pieces(VecDeque<Frame<Bytes>>);

impl Pieces {
    /// A message without content, framed.
    pub fn plain(message: &impl Message) -> Pieces {
        let mut pieces = Pieces::default();
        pieces.push(Frame::data(framed(message, 0).freeze()));
        pieces
    }

    /// A message whose content is a piece by itself.
    pub fn laden<M: Laden>(mut message: M) -> Pieces {
        let content = std::mem::take(message.content());
        let mut pieces = Pieces::default();
        if content.is_empty() {
            return Pieces::plain(&message);
        }
        let mut key = vec![M::FIELD << 3 | LENGTH_DELIMITED];
        // A vector takes whatever is put into it.
        let _ = prost::encode_length_delimiter(content.len(), &mut key);
        let mut first = framed(&message, key.len() + content.len());
        first.extend_from_slice(&key);
        if content.len() < SHORT {
            first.extend_from_slice(&content);
            pieces.push(Frame::data(first.freeze()));
        } else {
            pieces.push(Frame::data(first.freeze()));
            pieces.push(Frame::data(content));
        }
        pieces
    }

    /// An answer's end: all went well.
    #[must_use]
    pub fn and_ok(mut self) -> Pieces {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        self.push(Frame::trailers(trailers));
        self
    }

    /// One more.
    pub fn push(&mut self, piece: Frame<Bytes>) {
        self.0.push_back(piece);
    }
}

/// The frame and the message, with so many bytes to come.
fn framed(message: &impl Message, more: usize) -> BytesMut {
    let message = message.encode_to_vec();
    let len = message.len() + more;
    let mut first = BytesMut::with_capacity(FRAME + message.len() + more.min(SHORT + 16));
    first.put_u8(0);
    first.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    first.extend_from_slice(&message);
    first
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// A message on its way in.
#[derive(Debug, Default)]
pub struct Heard {
    pieces: VecDeque<Bytes>,
    remaining: usize,
    trailers: Option<HeaderMap>,
}

impl Heard {
    /// All of a body; or why it broke off.
    pub async fn all<B>(mut body: B) -> Result<Heard, Status>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
    {
        let mut heard = Heard::default();
        while let Some(piece) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            heard.push(piece.map_err(|error| Status::from_error(error.into()))?)?;
        }
        Ok(heard)
    }

    /// One more piece. OUT_OF_RANGE when there are more than a message may have.
    pub fn push(&mut self, piece: Frame<Bytes>) -> Result<(), Status> {
        match piece.into_data() {
            Ok(data) => {
                self.remaining += data.len();
                if self.remaining > FRAME + MAX_MESSAGE {
                    return Err(too_large(self.remaining - FRAME));
                }
                if !data.is_empty() {
                    self.pieces.push_back(data);
                }
            }
            Err(piece) => self.trailers = piece.into_trailers().ok(),
        }
        Ok(())
    }

    /// The status with which an answer has ended.
    pub fn status(&self) -> Option<Status> {
        self.trailers.as_ref().and_then(Status::from_header_map)
    }

    /// The one message that was said.
    pub fn message<M: Message + Default>(mut self) -> Result<M, Status> {
        if self.remaining < FRAME {
            return Err(Status::internal("a message that is missing or cut short"));
        }
        if self.get_u8() != 0 {
            return Err(Status::unimplemented(
                "a compressed message: say it as it is",
            ));
        }
        let len = self.get_u32() as usize;
        if len > MAX_MESSAGE {
            return Err(too_large(len));
        }
        if len != self.remaining {
            return Err(Status::internal(format!(
                "a message of {len} bytes of which {} were said",
                self.remaining
            )));
        }
        M::decode(self).map_err(|error| Status::internal(format!("not a message: {error}")))
    }
}

fn too_large(len: usize) -> Status {
    Status::out_of_range(format!(
        "a message of {len} bytes where {MAX_MESSAGE} are the most"
    ))
}

impl Buf for Heard {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "beyond the end");
        self.remaining -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                return piece.advance(count);
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }

    /// Without a copy where it lies in one piece.
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        if let Some(piece) = self.pieces.front()
            && len <= piece.len()
        {
            let taken = piece.slice(..len);
            self.advance(len);
            return taken;
        }
        let mut copied = BytesMut::with_capacity(len);
        copied.put(self.take(len));
        copied.freeze()
    }
}

/// What says that a request or an answer is gRPC.
pub const CONTENT_TYPE: (header::HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/grpc"),
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(pieces: Pieces) -> Vec<Bytes> {
        let data = |piece: Frame<Bytes>| piece.into_data().ok();
        pieces.0.into_iter().filter_map(data).collect()
    }

    /// As it comes in when the line cuts it at these places.
    fn cut(mut said: Bytes, places: &[usize]) -> Heard {
        let mut heard = Heard::default();
        for place in places {
            let piece = said.split_to(place % (said.len() + 1));
            heard.push(Frame::data(piece)).unwrap();
        }
        heard.push(Frame::data(said)).unwrap();
        heard
    }

    fn write(session: u64, at: u64, len: usize) -> v1::WriteRequest {
        v1::WriteRequest {
            head: Some(v1::Head {
                session,
                uid: 7,
                ..Default::default()
            }),
            file: 3,
            at,
            data: (0..len).map(|n| (n * 31 % 251) as u8).collect(),
        }
    }

    proptest! {
        #[test]
        fn what_is_said_is_what_prost_says_and_hears(
            session: u64, at: u64, len in prop_oneof![0usize..10, 4090usize..4100, Just(70_000)],
            places in prop::collection::vec(any::<usize>(), 0..6),
        ) {
            let message = write(session, at, len);
            let said = data(Pieces::laden(message.clone())).concat();
            // As any other gRPC: no, that long, Protocol Buffers.
            prop_assert_eq!(said[0], 0);
            prop_assert_eq!(u32::from_be_bytes(said[1..5].try_into().unwrap()) as usize, said.len() - 5);
            prop_assert_eq!(&v1::WriteRequest::decode(&said[5..]).unwrap(), &message);
            let theirs = [&said[..1], &(message.encoded_len() as u32).to_be_bytes(), &message.encode_to_vec()].concat();
            for said in [said, theirs] {
                let heard = cut(said.into(), &places);
                prop_assert_eq!(&heard.message::<v1::WriteRequest>().unwrap(), &message);
            }
            let reply = v1::DataReply { data: message.data };
            let said = data(Pieces::laden(reply.clone()).and_ok()).concat();
            prop_assert_eq!(cut(said.into(), &places).message::<v1::DataReply>().unwrap(), reply);
        }

        #[test]
        fn what_is_no_message_is_refused(said: Vec<u8>, places in prop::collection::vec(any::<usize>(), 0..4)) {
            let is_framed = said.len() >= 5
                && said[0] == 0
                && said[1..5] == ((said.len() - 5) as u32).to_be_bytes();
            let heard = cut(said.into(), &places).message::<v1::WriteRequest>();
            prop_assert!(is_framed || heard.is_err());
        }
    }

    #[test]
    fn content_is_neither_copied_when_it_is_said_nor_when_it_is_heard() {
        let message = write(1, 2, 1 << 20);
        let lies = message.data.as_ptr();
        let pieces = data(Pieces::laden(message));
        assert_eq!(pieces.last().unwrap().as_ptr(), lies);
        let mut heard = Heard::default();
        for piece in pieces {
            heard.push(Frame::data(piece)).unwrap();
        }
        let message: v1::WriteRequest = heard.message().unwrap();
        assert_eq!((message.data.as_ptr(), message.data.len()), (lies, 1 << 20));
    }

    #[test]
    fn each_fault_of_a_frame_has_its_status() {
        let code = |said: &[u8]| {
            let heard = cut(Bytes::copy_from_slice(said), &[]);
            heard.message::<v1::DataReply>().unwrap_err().code()
        };
        use tonic::Code;
        assert_eq!(code(b""), Code::Internal);
        assert_eq!(code(&[0, 0, 0, 0]), Code::Internal);
        assert_eq!(code(&[1, 0, 0, 0, 0]), Code::Unimplemented);
        assert_eq!(code(&[0, 0, 0, 0, 1]), Code::Internal);
        assert_eq!(code(&[0, 0, 0, 0, 0, 0]), Code::Internal);
        assert_eq!(code(&[0, 0, 0, 0, 1, 255]), Code::Internal);
        assert_eq!(code(&[0, 255, 0, 0, 0]), Code::OutOfRange);
        let mut heard = Heard::default();
        let piece = || Frame::data(Bytes::from(vec![0; MAX_MESSAGE]));
        heard.push(piece()).unwrap();
        assert_eq!(heard.push(piece()).unwrap_err().code(), Code::OutOfRange);
    }

    #[test]
    fn an_answer_ends_with_its_status() {
        let pieces = Pieces::laden(v1::DataReply::default()).and_ok();
        let mut heard = Heard::default();
        assert!(heard.status().is_none());
        for piece in pieces.0 {
            heard.push(piece).unwrap();
        }
        assert_eq!(heard.status().unwrap().code(), tonic::Code::Ok);
        assert!(heard.message::<v1::DataReply>().unwrap().data.is_empty());
    }
}
