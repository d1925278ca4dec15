//! The process that has the pair: its ends of the lines, and its end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};

use hermitfs_api::*;
use hermitfs_client::Client;
use parking_lot::{Mutex, RwLock};
use tokio::runtime;

use super::waits::Waits;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Alive,
    /// Killed: its threads stand where they are.
    Killed,
    /// They may end.
    Gone,
}

pub(crate) struct Process {
    life: RwLock<Life>,
    standing: Mutex<Vec<Waker>>,
    /// Where its lines are kept.
    host: runtime::Handle,
    waits: Arc<Waits>,
}

impl Process {
    pub(crate) fn new(host: runtime::Handle, waits: Arc<Waits>) -> Process {
        Process {
            life: RwLock::new(Life::Alive),
            standing: Mutex::default(),
            host,
            waits,
        }
    }

    /// From now on none of its threads sends or hears anything: as with a kill, whatever they have
    /// written down by then was written down before.
    pub(crate) fn kill(&self) {
        *self.life.write() = Life::Killed;
    }

    /// What is left of it comes to an end: its operations are ENOTCONN.
    pub(crate) fn end(&self) {
        *self.life.write() = Life::Gone;
        let standing = std::mem::take(&mut *self.standing.lock());
        standing.into_iter().for_each(Waker::wake);
    }

    async fn run<T>(&self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        let mut operation = pin!(operation);
        let polled = poll_fn(|cx| {
            let life = self.life.read();
            match *life {
                Life::Alive => {
                    let _clock = self.host.enter();
                    operation.as_mut().poll(cx)
                }
                Life::Killed => {
                    self.standing.lock().push(cx.waker().clone());
                    Poll::Pending
                }
                Life::Gone => Poll::Ready(Err(Errno::ENOTCONN.into())),
            }
        });
        self.waits.count(polled).await
    }
}

/// A client of this process.
pub(crate) struct Linked {
    pub(crate) below: Arc<Client>,
    pub(crate) process: Arc<Process>,
}

macro_rules! linked {
    ($($(#[doc = $doc:literal])* $class:ident $fop:ident: fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        #[async_trait]
        impl Translator for Linked {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                self.process.run(self.below.$name($($arg),*)).await
            })*
        }
    };
}

with_operations!(linked);
