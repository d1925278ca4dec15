//! One direction of a connection.

use std::collections::VecDeque;
use std::task::Waker;

/// What may be on its way at once, in bytes.
const WINDOW: usize = 64 << 10;

#[derive(Debug)]
pub(super) enum Piece {
    Data(Vec<u8>),
    /// The sender has closed it.
    End,
    /// It is no more.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Closed,
    Reset,
}

#[derive(Default)]
pub(super) struct Pipe {
    /// When each piece is due.
    flying: VecDeque<(u64, Piece)>,
    pub(super) here: VecDeque<u8>,
    pub(super) ended: Option<Ended>,
    unread: usize,
    pub(super) sent: u64,
    /// After so many bytes something happens.
    pub(super) limit: Option<u64>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Pipe {
    /// Bytes that may be sent now.
    pub(super) fn room(&self) -> usize {
        WINDOW - self.unread
    }

    /// Arrives when it is due, and not before what was sent before.
    pub(super) fn send(&mut self, due: u64, piece: Piece) {
        if let Piece::Data(data) = &piece {
            self.unread += data.len();
            self.sent += data.len() as u64;
        }
        let due = self.flying.back().map_or(due, |(last, _)| due.max(*last));
        self.flying.push_back((due, piece));
    }

    /// When the next piece is due.
    pub(super) fn first_due(&self) -> u64 {
        self.flying.front().map_or(u64::MAX, |(due, _)| *due)
    }

    /// Lets what is due be read; whether that is anything.
    pub(super) fn arrive(&mut self, now: u64) -> bool {
        let mut any = false;
        while self.first_due() <= now {
            match self.flying.pop_front() {
                Some((_, Piece::Data(data))) => self.here.extend(data),
                Some((_, Piece::End)) => self.ended = self.ended.or(Some(Ended::Closed)),
                Some((_, Piece::Reset)) => {
                    self.ended = Some(Ended::Reset);
                    self.here.clear();
                }
                None => break,
            }
            any = true;
        }
        if any {
            self.reader.take().into_iter().for_each(Waker::wake);
            self.writer.take().into_iter().for_each(Waker::wake);
        }
        any
    }

    /// At most so many bytes of what is there.
    pub(super) fn take(&mut self, most: usize) -> Vec<u8> {
        let len = most.min(self.here.len());
        self.unread -= len;
        self.writer.take().into_iter().for_each(Waker::wake);
        self.here.drain(..len).collect()
    }
}
