//! A client and its server in one process, without a connection.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use hermitfs_api::*;
use hermitfs_testkit::Memory;
use parking_lot::Mutex;

use crate::common::Wire;
use crate::locks::{lock, open, with_locks};

/// Which threads the brick is worked on by.
struct Threads {
    below: Memory,
    seen: Mutex<Vec<ThreadId>>,
}

#[async_trait]
impl Filter for Threads {
    fn below(&self) -> &dyn Translator {
        &self.below
    }

    async fn getattr(&self, cx: &Context, inode: &Arc<Inode>, file: Option<&File>) -> Result<Attr> {
        self.seen.lock().push(thread::current().id());
        self.below.getattr(cx, inode, file).await
    }
}

fn brick() -> Arc<Threads> {
    Arc::new(Threads {
        below: Memory::new(),
        seen: Mutex::default(),
    })
}

#[test]
fn who_calls_does_the_work_unless_he_has_the_tasks_of_others() {
    let brick = brick();
    let wire = Wire::near(brick.clone(), |_| {});
    let cx = Context::internal(Origin::User);
    let root = block_on(wire.client.root(&cx)).unwrap().inode;
    brick.seen.lock().clear();
    block_on(wire.client.getattr(&cx, &root, None)).unwrap();
    assert_eq!(*brick.seen.lock(), [thread::current().id()]);
    brick.seen.lock().clear();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(wire.client.getattr(&cx, &root, None))
        .unwrap();
    let seen = brick.seen.lock();
    assert!(seen.len() == 1 && seen[0] != thread::current().id());
}

#[test]
fn by_the_address_another_thread_does_the_work() {
    let brick = brick();
    let wire = Wire::new(brick.clone());
    let cx = Context::internal(Origin::User);
    let root = block_on(wire.client.root(&cx)).unwrap().inode;
    brick.seen.lock().clear();
    block_on(wire.client.getattr(&cx, &root, None)).unwrap();
    assert!(!brick.seen.lock().contains(&thread::current().id()));
}

#[test]
fn a_server_that_has_ended_is_waited_for_and_then_it_is_eio() {
    let brick = brick();
    let mut wire = Wire::near(brick.clone(), |options| options.grace = 1);
    let cx = Context::internal(Origin::User);
    let root = block_on(wire.client.root(&cx)).unwrap().inode;
    wire.stop();
    let held = Arc::strong_count(&brick);
    assert_eq!(
        held, 2,
        "the test's own and the fixture's: the server's is gone"
    );
    let begun = Instant::now();
    let error = block_on(wire.client.getattr(&cx, &root, None)).unwrap_err();
    assert_eq!(error.errno(), Errno::EIO);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn locks_of_who_ended_with_the_server_are_not_waited_for() {
    let memory = Arc::new(Memory::new());
    let mut wire = Wire::near(with_locks(&memory), |options| options.grace = 1);
    let cx = Context::internal(Origin::User);
    let file = open(&*wire.client);
    block_on(
        wire.client
            .setlk(&cx, &file, &lock(LockKind::Exclusive), false),
    )
    .unwrap();
    // What it had went with its process, and so did the lock.
    wire.stop();
    wire.volume = with_locks(&memory);
    wire.start();
    let next = wire.another_client();
    let file = open(&next);
    let lock = lock(LockKind::Exclusive);
    let mut asked = pin!(next.setlk(&cx, &file, &lock, true));
    let had = poll_for(asked.as_mut(), Duration::from_secs(10));
    assert!(matches!(had, Poll::Ready(Ok(()))), "the grace is a minute");
}
