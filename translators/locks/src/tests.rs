use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use hermitfs_api::{LockKind, NameBuf, OpenFlags, block_on, poll_once};
use hermitfs_testkit::Memory;

use super::*;

type Pending<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

fn cx(client: u64) -> Context {
    Context {
        client,
        ..Context::default()
    }
}

/// A volume with one file, opened so many times.
fn files(n: usize) -> (Locks, Vec<Arc<File>>) {
    let locks = Locks::new(Arc::new(Memory::new()), Options::default());
    let name = NameBuf::new(b"f").unwrap();
    let cx = Context::default();
    let files = block_on(async {
        let root = locks.below.root(&cx).await.unwrap().inode;
        let made = locks
            .below
            .create(&cx, &root, &name, OpenFlags::READ_WRITE, 0o644, 0);
        let (entry, first) = made.await.unwrap();
        let mut files = vec![first];
        while files.len() < n {
            let open = locks.below.open(&cx, &entry.inode, OpenFlags::READ_WRITE);
            files.push(open.await.unwrap());
        }
        files
    });
    (locks, files)
}

fn lock(owner: u64, kind: LockKind) -> Lock {
    Lock {
        owner,
        pid: owner as u32,
        kind,
        start: 0,
        end: 9,
        flock: false,
        ofd: false,
    }
}

fn now(
    locks: &Locks,
    client: u64,
    file: &Arc<File>,
    lock: &Lock,
) -> std::result::Result<(), Errno> {
    match poll_once(pin!(Translator::setlk(
        locks,
        &cx(client),
        file,
        lock,
        false
    ))) {
        Poll::Ready(answer) => answer.map_err(|error| error.errno()),
        Poll::Pending => panic!("it waits without being asked to"),
    }
}

#[test]
fn who_waits_is_woken_when_the_lock_is_free() {
    let (locks, files) = files(2);
    let (locks, files) = (Arc::new(locks), Arc::new(files));
    now(&locks, 0, &files[0], &lock(1, LockKind::Exclusive)).unwrap();
    let waiting = {
        let (locks, files) = (locks.clone(), files.clone());
        std::thread::spawn(move || {
            let wanted = lock(2, LockKind::Exclusive);
            block_on(Translator::setlk(&*locks, &cx(0), &files[1], &wanted, true))
        })
    };
    while locks.state.work(|space, _| space.waiters()) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    block_on(Translator::flush(&*locks, &cx(0), &files[0], 1)).unwrap();
    waiting.join().unwrap().unwrap();
    assert_eq!(
        now(&locks, 0, &files[0], &lock(1, LockKind::Shared)),
        Err(Errno::EAGAIN)
    );
}

#[test]
fn a_wait_that_is_dropped_leaves_nothing_behind() {
    let (locks, files) = files(3);
    now(&locks, 0, &files[0], &lock(1, LockKind::Shared)).unwrap();
    let (context, wanted) = (cx(0), lock(2, LockKind::Exclusive));
    let mut writer: Pending = Box::pin(Translator::setlk(
        &locks, &context, &files[1], &wanted, true,
    ));
    assert!(poll_once(writer.as_mut()).is_pending());
    let reader = lock(3, LockKind::Shared);
    let mut behind: Pending = Box::pin(Translator::setlk(
        &locks, &context, &files[2], &reader, true,
    ));
    assert!(poll_once(behind.as_mut()).is_pending());
    drop(writer);
    assert!(
        poll_once(behind.as_mut()).is_ready(),
        "nobody stands in front"
    );
    block_on(Translator::flush(&locks, &cx(0), &files[0], 1)).unwrap();
    block_on(Translator::flush(&locks, &cx(0), &files[0], 3)).unwrap();
    let all = lock(9, LockKind::Exclusive);
    assert_eq!(now(&locks, 0, &files[0], &all), Ok(()));
}

#[test]
fn a_lock_that_was_granted_to_a_dropped_wait_is_given_back() {
    let (locks, files) = files(2);
    now(&locks, 0, &files[0], &lock(1, LockKind::Exclusive)).unwrap();
    let context = cx(0);
    let own = lock(2, LockKind::Shared);
    let before = Lock {
        start: 20,
        end: 29,
        ..own
    };
    now(&locks, 0, &files[1], &before).unwrap();
    let wanted = Lock {
        start: 0,
        end: 29,
        kind: LockKind::Exclusive,
        ..own
    };
    let mut waiting: Pending = Box::pin(Translator::setlk(
        &locks, &context, &files[1], &wanted, true,
    ));
    assert!(poll_once(waiting.as_mut()).is_pending());
    block_on(Translator::flush(&locks, &cx(0), &files[0], 1)).unwrap();
    drop(waiting);
    now(&locks, 0, &files[0], &lock(1, LockKind::Exclusive)).unwrap();
    let shared = Lock {
        start: 20,
        end: 29,
        ..lock(3, LockKind::Shared)
    };
    now(&locks, 0, &files[0], &shared).unwrap();
    let exclusive = Lock {
        kind: LockKind::Exclusive,
        ..shared
    };
    assert_eq!(
        now(&locks, 0, &files[0], &exclusive),
        Err(Errno::EAGAIN),
        "what it had before it has again"
    );
}

#[test]
fn patience_ends_by_itself() {
    let (locks, files) = files(3);
    now(&locks, 0, &files[0], &lock(1, LockKind::Shared)).unwrap();
    let (context, wanted) = (cx(0), lock(2, LockKind::Exclusive));
    let mut writer: Pending = Box::pin(Translator::setlk(
        &locks, &context, &files[1], &wanted, true,
    ));
    assert!(poll_once(writer.as_mut()).is_pending());
    let child = lock(3, LockKind::Shared);
    block_on(Translator::setlk(&locks, &context, &files[2], &child, true)).unwrap();
    assert!(poll_once(writer.as_mut()).is_pending());
}

#[test]
fn another_clients_process_is_not_named() {
    let (locks, files) = files(2);
    now(&locks, 7, &files[0], &lock(1, LockKind::Exclusive)).unwrap();
    let ask = |client| {
        let asked = lock(1000, LockKind::Shared);
        block_on(Translator::getlk(&locks, &cx(client), &files[1], &asked))
    };
    assert_eq!(ask(7).unwrap().unwrap().pid, 1);
    assert_eq!(ask(8).unwrap().unwrap().pid, 0);
    // And is not mistaken for a process of this one with the same owner number.
    assert_eq!(
        now(&locks, 8, &files[1], &lock(1, LockKind::Exclusive)),
        Err(Errno::EAGAIN)
    );
    block_on(Translator::flush(&locks, &cx(8), &files[1], 1)).unwrap();
    assert!(ask(8).unwrap().is_some(), "not theirs to drop");
}

#[test]
fn an_open_file_takes_its_locks_along_and_ends_who_waits_through_it() {
    let (locks, files) = files(3);
    let whole = Lock {
        flock: true,
        ..lock(5, LockKind::Exclusive)
    };
    now(&locks, 0, &files[0], &whole).unwrap();
    now(&locks, 0, &files[0], &lock(6, LockKind::Exclusive)).unwrap();
    let (context, other) = (cx(0), Lock { owner: 8, ..whole });
    let mut waiting: Pending =
        Box::pin(Translator::setlk(&locks, &context, &files[1], &other, true));
    assert!(poll_once(waiting.as_mut()).is_pending());
    block_on(Translator::release(&locks, &cx(0), &files[1])).unwrap();
    let Poll::Ready(Err(error)) = poll_once(waiting.as_mut()) else {
        panic!("it waits on");
    };
    assert_eq!(error.errno(), Errno::EBADF);
    block_on(Translator::release(&locks, &cx(0), &files[0])).unwrap();
    now(&locks, 0, &files[2], &Lock { owner: 9, ..whole }).unwrap();
    now(&locks, 0, &files[2], &lock(9, LockKind::Exclusive)).unwrap();
}

#[test]
fn what_was_closed_keeps_nobody_out_although_its_release_comes_later() {
    let (locks, files) = files(2);
    let mut whole = lock(1, LockKind::Exclusive);
    whole.flock = true;
    let other = Lock { owner: 2, ..whole };
    now(&locks, 1, &files[0], &whole).unwrap();
    assert_eq!(now(&locks, 2, &files[1], &other), Err(Errno::EAGAIN));
    // The last descriptor is closed: flush comes first, whatever the owner.
    block_on(Translator::flush(&locks, &cx(1), &files[0], 7)).unwrap();
    let context = cx(2);
    let mut asked: Pending = Box::pin(Translator::setlk(
        &locks, &context, &files[1], &other, false,
    ));
    assert!(poll_once(asked.as_mut()).is_pending(), "not refused yet");
    block_on(Translator::release(&locks, &cx(1), &files[0])).unwrap();
    block_on(asked).unwrap();
    assert_eq!(locks.state.resting(), 0);
}

#[test]
fn an_open_file_that_lives_on_keeps_its_locks_when_one_descriptor_is_closed() {
    let (locks, files) = files(2);
    let held = Lock {
        ofd: true,
        ..lock(1, LockKind::Exclusive)
    };
    let other = Lock { owner: 2, ..held };
    now(&locks, 1, &files[0], &held).unwrap();
    block_on(Translator::flush(&locks, &cx(1), &files[0], 7)).unwrap();
    let context = cx(2);
    let refused = Translator::setlk(&locks, &context, &files[1], &other, false);
    assert_eq!(block_on(refused).unwrap_err().errno(), Errno::EAGAIN);
    let again = now(&locks, 2, &files[1], &other);
    assert_eq!(again, Err(Errno::EAGAIN), "at once, as the moment is over");
    let asked = Translator::setlk(&locks, &context, &files[1], &other, false);
    block_on(Translator::flush(&locks, &cx(1), &files[0], 7)).unwrap();
    let mut asked = Box::pin(asked);
    assert!(poll_once(asked.as_mut()).is_pending());
    drop(asked);
    assert_eq!(locks.state.resting(), 0, "who goes away leaves nothing");
}
