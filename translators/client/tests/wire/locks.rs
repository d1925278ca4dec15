//! Locks over the wire, and what becomes of them when a server ends and comes back.

use std::fs;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hermitfs_api::{
    Context, Errno, File, Filter, Lock, LockKind, Name, OpenFlags, Origin, Result, Translator,
    async_trait, block_on, poll_for,
};
use hermitfs_locks::{Locks, Options};
use hermitfs_testkit::Memory;
use hermitfs_testkit::conformance::{Fixture, run_all};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

use crate::common::Wire;

const CX: Context = Context::internal(Origin::User);

#[test]
fn locks_are_kept_as_promised_over_the_wire() {
    run_all(|| {
        let wire = Wire::new(with_locks(&Arc::new(Memory::new())));
        Fixture::new(wire.client.clone())
            .can(|can| can.locks = true)
            .keep(wire)
    });
}

#[test]
fn locks_are_kept_as_promised_to_a_client_of_the_servers_process() {
    run_all(|| {
        let wire = Wire::near(with_locks(&Arc::new(Memory::new())), |_| {});
        Fixture::new(wire.client.clone())
            .can(|can| can.locks = true)
            .keep(wire)
    });
}

pub(crate) fn with_locks(memory: &Arc<Memory>) -> Arc<dyn Translator> {
    Arc::new(Locks::new(memory.clone(), Options::default()))
}

/// Ends the server, and all that it had in memory; starts another one after `meanwhile`.
fn restart(wire: &mut Wire, memory: &Arc<Memory>, meanwhile: impl FnOnce(&mut Wire)) {
    wire.stop();
    wire.volume = with_locks(memory);
    meanwhile(wire);
    wire.start();
}

pub(crate) fn open(volume: &dyn Translator) -> Arc<File> {
    let name = Name::new(b"f").unwrap();
    block_on(async {
        let root = volume.root(&CX).await?.inode;
        let flags = OpenFlags::READ_WRITE;
        let made = volume.create(&CX, &root, name, flags, 0o600, 0).await;
        match made {
            Err(error) if error.errno() == Errno::EEXIST => {
                let found = volume.lookup(&CX, &root, name).await?;
                volume.open(&CX, &found.inode, flags).await
            }
            made => made.map(|(_, file)| file),
        }
    })
    .unwrap()
}

pub(crate) fn lock(kind: LockKind) -> Lock {
    Lock {
        owner: 1,
        pid: 1,
        kind,
        start: 0,
        end: 9,
        flock: false,
        ofd: false,
    }
}

fn set(volume: &dyn Translator, file: &Arc<File>, lock: Lock, wait: bool) -> Result<()> {
    block_on(volume.setlk(&CX, file, &lock, wait))
}

fn errno<T>(result: Result<T>) -> Option<Errno> {
    result.err().map(|error| error.errno())
}

#[test]
fn a_restarted_server_gives_locks_first_to_who_had_them() {
    let memory = Arc::new(Memory::new());
    let mut wire = Wire::new(with_locks(&memory));
    let (one, other) = (wire.client.clone(), wire.another_client());
    let (mine, theirs) = (open(&*one), open(&other));
    let exclusive = lock(LockKind::Exclusive);
    let whole = Lock {
        flock: true,
        ..exclusive
    };
    set(&*one, &mine, exclusive, false).unwrap();
    set(&*one, &mine, whole, false).unwrap();
    let part = Lock {
        start: 3,
        end: 5,
        ..lock(LockKind::Unlock)
    };
    set(&*one, &mine, part, false).unwrap();
    for round in 0..3 {
        restart(&mut wire, &memory, |_| {});
        // It comes first, or it waits; in no order does it get what the other one has.
        let answer = errno(set(&other, &theirs, exclusive, false));
        assert_eq!(answer, Some(Errno::EAGAIN), "round {round}");
        let answer = errno(set(&other, &theirs, whole, false));
        assert_eq!(answer, Some(Errno::EAGAIN), "round {round}");
        let free = Lock {
            start: 3,
            end: 5,
            ..exclusive
        };
        set(&other, &theirs, free, false).unwrap();
        set(&other, &theirs, lock(LockKind::Unlock), false).unwrap();
    }
    let waiting = thread::spawn(move || set(&other, &theirs, exclusive, true));
    thread::sleep(Duration::from_millis(200));
    restart(&mut wire, &memory, |_| {});
    thread::sleep(Duration::from_millis(500));
    assert!(!waiting.is_finished(), "it waits at the new server");
    block_on(one.flush(&CX, &mine, 1)).unwrap();
    waiting.join().unwrap().unwrap();
}

/// Has locks at once, and says so late.
struct Late(Arc<dyn Translator>);

#[async_trait]
impl Filter for Late {
    fn below(&self) -> &dyn Translator {
        &*self.0
    }

    async fn setlk(&self, cx: &Context, file: &Arc<File>, lock: &Lock, wait: bool) -> Result<()> {
        self.0.setlk(cx, file, lock, wait).await?;
        if lock.kind != LockKind::Unlock {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// Tells the others, also when this one has failed.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One owner's threads: some wait and are interrupted, while another one takes a lock in the same range, and
/// drops it.
#[test]
fn what_is_given_back_for_a_dropped_wait_takes_nothing_from_another_thread() {
    let wire = Wire::new(Arc::new(Late(with_locks(&Arc::new(Memory::new())))));
    let (one, other) = (wire.client.clone(), wire.another_client());
    let (mine, theirs) = (open(&*one), open(&other));
    let at = |owner, kind, (start, end)| Lock {
        owner,
        kind,
        start,
        end,
        ..lock(kind)
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let interrupted = || {
            let mut lots = ChaCha8Rng::seed_from_u64(7);
            while !over.load(Ordering::Relaxed) {
                let all = at(1, LockKind::Exclusive, (0, 9));
                let mut waiting = pin!(one.setlk(&CX, &mine, &all, true));
                let time = Duration::from_micros(lots.random_range(0..2_000));
                if poll_for(waiting.as_mut(), time).is_ready() {
                    let end = at(1, LockKind::Unlock, (7, 9));
                    set(&*one, &mine, end, false).unwrap();
                }
            }
        };
        scope.spawn(interrupted);
        scope.spawn(interrupted);
        let in_the_way = || {
            while !over.load(Ordering::Relaxed) {
                let end = |kind| at(2, kind, (9, 9));
                drop(set(&other, &theirs, end(LockKind::Exclusive), false));
                thread::sleep(Duration::from_micros(300));
                set(&other, &theirs, end(LockKind::Unlock), false).unwrap();
            }
        };
        scope.spawn(in_the_way);
        let _end = End(&over);
        let begun = Instant::now();
        let mut wrong = 0;
        for wait in [false, true].into_iter().cycle() {
            if begun.elapsed() > Duration::from_secs(2) {
                break;
            }
            let part = |owner, kind| at(owner, kind, (5, 6));
            set(&*one, &mine, part(1, LockKind::Unlock), false).unwrap();
            set(&*one, &mine, part(1, LockKind::Exclusive), wait).unwrap();
            // Whatever the others give back, this is had.
            let tried = set(&other, &theirs, part(3, LockKind::Exclusive), false);
            wrong += u32::from(errno(tried) != Some(Errno::EAGAIN));
            drop(set(&other, &theirs, part(3, LockKind::Unlock), false));
        }
        assert_eq!(wrong, 0);
    });
    // What nobody waits for any more is nobody's.
    let all = at(1, LockKind::Unlock, (0, 9));
    set(&*one, &mine, all, false).unwrap();
    set(&other, &theirs, at(3, LockKind::Exclusive, (0, 9)), false).unwrap();
}

#[test]
fn who_does_not_come_back_for_his_locks_loses_them() {
    let memory = Arc::new(Memory::new());
    let mut wire = Wire::new(with_locks(&memory));
    let gone = wire.another_client();
    let file = open(&gone);
    set(&gone, &file, lock(LockKind::Exclusive), false).unwrap();
    wire.grace = Some(1);
    restart(&mut wire, &memory, |_| drop((file, gone)));
    let mine = open(&*wire.client);
    set(&*wire.client, &mine, lock(LockKind::Exclusive), false).unwrap();
}

#[test]
fn a_lock_that_cannot_be_had_again_is_told() {
    let memory = Arc::new(Memory::new());
    let mut wire = Wire::new(with_locks(&memory));
    let one = wire.client.clone();
    let (locked, free) = (open(&*one), open(&*one));
    set(&*one, &locked, lock(LockKind::Exclusive), false).unwrap();
    restart(&mut wire, &memory, |wire| {
        // As after a time that was too long: the server expects nobody.
        let kept = fs::read_dir(wire.place.path().join("state")).unwrap();
        let is_of_lockers = |path: &PathBuf| path.to_string_lossy().contains("/lockers");
        let lockers = kept
            .map(|entry| entry.unwrap().path())
            .filter(is_of_lockers);
        lockers.for_each(|path| fs::remove_file(path).unwrap());
    });
    let written = block_on(one.write(&CX, &locked, 0, b"as if nothing had been"));
    assert_eq!(errno(written), Some(Errno::EIO));
    assert_eq!(
        errno(block_on(one.flush(&CX, &locked, 1))),
        Some(Errno::EIO)
    );
    // Who had none has lost none.
    block_on(one.write(&CX, &free, 0, b"x")).unwrap();
    let again = open(&*one);
    set(&*one, &again, lock(LockKind::Exclusive), false).unwrap();
}

#[test]
fn the_locks_of_a_client_that_ends_are_free() {
    let wire = Wire::new(with_locks(&Arc::new(Memory::new())));
    let other = wire.another_client();
    let file = open(&other);
    set(&other, &file, lock(LockKind::Exclusive), false).unwrap();
    let mine = open(&*wire.client);
    let exclusive = lock(LockKind::Exclusive);
    let client = wire.client.clone();
    let waiting = thread::spawn(move || set(&*client, &mine, exclusive, true));
    thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished());
    drop((file, other));
    waiting.join().unwrap().unwrap();
}
