//! Locks over the wire, and what becomes of them when a server ends and comes back.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hermitfs_api::{
    Context, Errno, File, Lock, LockKind, Name, OpenFlags, Origin, Result, Translator, block_on,
};
use hermitfs_locks::{Locks, Options};
use hermitfs_testkit::Memory;
use hermitfs_testkit::conformance::{Fixture, run_all};

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

fn with_locks(memory: &Arc<Memory>) -> Arc<dyn Translator> {
    Arc::new(Locks::new(memory.clone(), Options::default()))
}

/// Ends the server, and all that it had in memory; starts another one after `meanwhile`.
fn restart(wire: &mut Wire, memory: &Arc<Memory>, meanwhile: impl FnOnce(&mut Wire)) {
    wire.stop();
    wire.volume = with_locks(memory);
    meanwhile(wire);
    wire.start();
}

fn open(volume: &dyn Translator) -> Arc<File> {
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

fn lock(kind: LockKind) -> Lock {
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
        fs::remove_file(wire.place.path().join("state/lockers")).unwrap();
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
