//! Numbers of changing calls.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// Counts changing calls, and knows which of them are not answered yet.
#[derive(Default)]
pub(crate) struct Sequence(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    last: u64,
    open: BTreeSet<u64>,
    /// Those of them that nobody waits for any more, although they may be done still.
    given_up: BTreeSet<u64>,
    /// How many there were so far.
    times: u64,
}

/// The number of one call, the same however often it is sent. When this is dropped the call is answered, or,
/// if it was sent and no answer was heard, given up: its number stays open until a server has said
/// that it will not be done any more.
pub(crate) struct Ticket<'a> {
    pub(crate) number: u64,
    sequence: &'a Sequence,
    is_out: bool,
}

impl Ticket<'_> {
    /// It is sent.
    pub(crate) fn sent(&mut self) {
        self.is_out = true;
    }

    /// The server has answered it.
    pub(crate) fn heard(&mut self) {
        self.is_out = false;
    }
}

/// What was given up by a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) numbers: Vec<u64>,
    /// How often anything was, so far.
    pub(crate) times: u64,
}

impl Sequence {
    /// The next call's.
    pub(crate) fn ticket(&self) -> Ticket<'_> {
        let mut inner = self.0.lock();
        inner.last += 1;
        let number = inner.last;
        inner.open.insert(number);
        Ticket {
            number,
            sequence: self,
            is_out: false,
        }
    }

    /// The number that the next call will have.
    pub(crate) fn next(&self) -> u64 {
        self.0.lock().last + 1
    }

    /// Lowest number that is not answered: nobody asks for an answer below it any more.
    pub(crate) fn lowest_open(&self) -> u64 {
        let inner = self.0.lock();
        inner.open.first().copied().unwrap_or(inner.last + 1)
    }

    /// What is given up.
    pub(crate) fn given_up(&self) -> GivenUp {
        let inner = self.0.lock();
        GivenUp {
            numbers: inner.given_up.iter().copied().collect(),
            times: inner.times,
        }
    }

    /// How often anything was given up so far.
    pub(crate) fn times(&self) -> u64 {
        self.0.lock().times
    }

    /// None of these will be done any more.
    pub(crate) fn settled(&self, numbers: &[u64]) {
        let mut inner = self.0.lock();
        for number in numbers {
            inner.given_up.remove(number);
            inner.open.remove(number);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut inner = self.sequence.0.lock();
        if self.is_out {
            inner.given_up.insert(self.number);
            inner.times += 1;
        } else {
            inner.open.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_open_number_waits_for_the_slowest() {
        let sequence = Sequence::default();
        assert_eq!(sequence.lowest_open(), 1);
        let (a, b) = (sequence.ticket(), sequence.ticket());
        assert_eq!((a.number, b.number, sequence.lowest_open()), (1, 2, 1));
        drop(b);
        assert_eq!(sequence.lowest_open(), 1);
        drop(a);
        assert_eq!(sequence.lowest_open(), 3);
    }

    #[test]
    fn what_was_sent_and_not_heard_of_stays_open_until_a_server_has_settled_it() {
        let sequence = Sequence::default();
        let (mut a, mut b, mut c) = (sequence.ticket(), sequence.ticket(), sequence.ticket());
        [&mut a, &mut b].into_iter().for_each(Ticket::sent);
        a.heard();
        drop(a);
        assert_eq!(sequence.given_up(), GivenUp::default(), "it was answered");
        drop(b);
        let given_up = sequence.given_up();
        assert_eq!((&given_up.numbers[..], given_up.times), (&[2][..], 1));
        assert_eq!(sequence.lowest_open(), 2);
        c.sent();
        drop(c);
        // Said before the third was given up.
        sequence.settled(&given_up.numbers);
        assert_eq!(sequence.given_up().numbers, [3]);
        assert_eq!((sequence.lowest_open(), sequence.times()), (3, 2));
        sequence.settled(&[3]);
        assert_eq!(sequence.lowest_open(), 4);
        drop(sequence.ticket());
        assert_eq!(sequence.times(), 2, "never sent");
    }
}
