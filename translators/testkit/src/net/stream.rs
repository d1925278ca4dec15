use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Inner;
use super::pipe::{Ended, Piece};

/// One end of a connection.
pub struct Stream {
    net: Arc<Mutex<Inner>>,
    wire: u64,
    /// 0 is the one who connected.
    end: usize,
}

impl Stream {
    pub(super) fn new(net: Arc<Mutex<Inner>>, wire: u64, end: usize) -> Stream {
        Stream { net, wire, end }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut net = self.net.lock();
        let Some(wire) = net.wires.get_mut(&self.wire) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let pipe = &mut wire.pipes[1 - self.end];
        if !pipe.here.is_empty() {
            let data = pipe.take(buffer.remaining());
            buffer.put_slice(&data);
            return Poll::Ready(Ok(()));
        }
        match pipe.ended {
            Some(Ended::Closed) => Poll::Ready(Ok(())),
            Some(Ended::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => {
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut net = self.net.lock();
        let (due, how) = (net.due(), net.rng.random_range(0..5));
        let Some(wire) = net.wires.get_mut(&self.wire) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if wire.pipes[1 - self.end].ended.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let pipe = &mut wire.pipes[self.end];
        let len = data.len().min(pipe.room());
        if len == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let left = pipe.limit.map_or(u64::MAX, |limit| limit - pipe.sent);
        let through = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        pipe.send(due, Piece::Data(data[..through].to_vec()));
        if through < len {
            pipe.limit = None;
            wire.end(self.end, how, due);
        }
        // Whoever sends does not know what comes through.
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut net = self.net.lock();
        let due = net.due();
        if let Some(wire) = net.wires.get_mut(&self.wire) {
            wire.pipes[self.end].send(due, Piece::End);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut net = self.net.lock();
        let due = net.due();
        if let Some(wire) = net.wires.get_mut(&self.wire) {
            wire.pipes[self.end].send(due, Piece::End);
            wire.dropped[self.end] = true;
        }
    }
}
