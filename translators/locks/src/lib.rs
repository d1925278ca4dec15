#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::disallowed_methods))]
#![forbid(unsafe_code)]

mod closing;
mod options;
mod queue;
mod space;
mod state;
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use hermitfs_api::{
    Context, Errno, Error, File, Filter, Identity, Lock, OwnedLock, Result, SlotKey, Translator,
};

use closing::MOMENT;
pub use options::Options;
use space::Answer;
use state::State;
use wait::{Moment, Wait};

/// The filter. See the [crate's page](crate).
pub struct Locks {
    below: Arc<dyn Translator>,
    state: Arc<State>,
    /// Numbers of open files that have asked for a lock.
    numbers: SlotKey,
    next: AtomicU64,
}

impl Locks {
    /// Before a child, of whose objects all locks are kept here.
    pub fn new(below: Arc<dyn Translator>, options: Options) -> Locks {
        Locks {
            below,
            state: Arc::new(State::new(options.max_per_file)),
            numbers: SlotKey::new(),
            next: AtomicU64::new(0),
        }
    }

    fn owned(&self, cx: &Context, file: &File, lock: &Lock) -> Result<(Identity, OwnedLock)> {
        let number = || self.next.fetch_add(1, Ordering::Relaxed);
        let number = file.slots().get_or_init(self.numbers, number);
        let mut lock = *lock;
        if lock.flock {
            (lock.start, lock.end) = (0, u64::MAX);
        }
        if lock.start > lock.end {
            return Err(Errno::EINVAL.into());
        }
        let owned = OwnedLock {
            client: cx.client,
            file: *number.ok_or(Error::with_story(Errno::EIO, "a slot of another type"))?,
            lock,
        };
        Ok((file.inode().identity(), owned))
    }
}

impl Locks {
    /// Asks; what is in the way and may be gone already is waited for, a moment in all.
    async fn ask(&self, at: Identity, asked: OwnedLock, wait: bool) -> Answer {
        let mut end = None;
        loop {
            let (answer, moment) = self.state.work(|space, now| {
                let answer = space.ask(at, asked, wait, now);
                let end = *end.get_or_insert(now + MOMENT);
                let mut moment = None;
                if answer == Answer::Busy && now < end {
                    moment = space.may_be_gone(at, &asked, now);
                }
                let released = space.released();
                (answer, moment.map(|until| (until.min(end), released)))
            });
            let Some((until, released)) = moment else {
                return answer;
            };
            Moment::new(&self.state, until, released).await;
        }
    }
}

#[async_trait]
impl Filter for Locks {
    fn below(&self) -> &dyn Translator {
        &*self.below
    }

    async fn getlk(&self, cx: &Context, file: &Arc<File>, lock: &Lock) -> Result<Option<Lock>> {
        let (at, asked) = self.owned(cx, file, lock)?;
        let found = self.state.work(|space, _| space.conflict(at, &asked));
        Ok(found.map(|held| {
            let mut lock = held.lock;
            if held.client != cx.client {
                lock.pid = 0;
            }
            lock
        }))
    }

    async fn setlk(&self, cx: &Context, file: &Arc<File>, lock: &Lock, wait: bool) -> Result<()> {
        if cx.origin.is_internal() {
            // hermitfs itself locks a brick's own file, against those who come to it past us.
            return self.below.setlk(cx, file, lock, wait).await;
        }
        let (at, asked) = self.owned(cx, file, lock)?;
        let answer = self.ask(at, asked, wait).await;
        match answer {
            Answer::Done => Ok(()),
            Answer::Busy => Err(Errno::EAGAIN.into()),
            Answer::Deadlock => Err(Errno::EDEADLK.into()),
            Answer::Full => Err(Error::with_story(
                Errno::ENOLCK,
                "a file has as many locks as `max-per-file` allows",
            )),
            Answer::Waits(ticket) => Wait::new(&self.state, ticket).await,
        }
    }

    async fn flush(&self, cx: &Context, file: &Arc<File>, owner: u64) -> Result<()> {
        let at = file.inode().identity();
        let number = file.slots().get::<u64>(self.numbers);
        self.state.work(|space, now| {
            space.close(at, cx.client, owner);
            if let Some(number) = number {
                space.closes(*number, now);
            }
        });
        self.below.flush(cx, file, owner).await
    }

    async fn release(&self, cx: &Context, file: &Arc<File>) -> Result<()> {
        if let Some(number) = file.slots().get::<u64>(self.numbers) {
            let at = file.inode().identity();
            self.state.work(|space, _| space.release(at, *number));
        }
        self.below.release(cx, file).await
    }
}

#[cfg(test)]
mod tests;
