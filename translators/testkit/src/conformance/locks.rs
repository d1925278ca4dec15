use std::pin::pin;
use std::task::Poll;

use hermitfs_api::*;

use super::hands::Hands;

const ALL: (u64, u64) = (0, u64::MAX);

fn lock(owner: u64, kind: LockKind, (start, end): (u64, u64)) -> Lock {
    Lock {
        owner,
        pid: 1000 + owner as u32,
        kind,
        start,
        end,
        flock: false,
        ofd: false,
    }
}

fn flock(owner: u64, kind: LockKind) -> Lock {
    Lock {
        flock: true,
        ..lock(owner, kind, ALL)
    }
}

fn is_free(hands: &Hands, file: &std::sync::Arc<File>, asked: &Lock) -> bool {
    let found = block_on(hands.volume.getlk(&hands.cx, file, asked)).expect("getlk");
    let mut taken = *asked;
    taken.kind = LockKind::Unlock;
    match hands.setlk(file, asked) {
        Ok(()) => {
            assert_eq!(found, None, "nobody is in the way of what can be had");
            hands.setlk(file, &taken).expect("unlocking");
            true
        }
        Err(Errno::EAGAIN) => {
            assert!(found.is_some(), "somebody is in the way");
            false
        }
        Err(other) => panic!("setlk: {other}"),
    }
}

/// Whether who asks has it. (After a close F_GETLK may name for a moment what is about to go.)
fn is_had(hands: &Hands, file: &std::sync::Arc<File>, asked: &Lock) -> bool {
    let mut taken = *asked;
    taken.kind = LockKind::Unlock;
    let had = hands.setlk(file, asked).is_ok();
    if had {
        hands.setlk(file, &taken).expect("unlocking");
    }
    had
}

checks! {
    fn a_record_lock_keeps_others_out_of_its_bytes(hands) {
        if !hands.can.locks {
            return;
        }
        let file = hands.with_content("f", b"x");
        let other = hands.open(file.inode(), OpenFlags::READ_WRITE).expect("open");
        hands.setlk(&file, &lock(1, LockKind::Exclusive, (10, 19))).expect("a lock");
        assert!(!is_free(hands, &other, &lock(2, LockKind::Shared, (19, 30))));
        assert!(is_free(hands, &other, &lock(2, LockKind::Exclusive, (20, 30))));
        assert!(is_free(hands, &other, &lock(2, LockKind::Exclusive, (0, 9))));
        let asked = lock(2, LockKind::Shared, ALL);
        let found = block_on(hands.volume.getlk(&hands.cx, &other, &asked)).expect("getlk").expect("a holder");
        assert_eq!(
            (found.kind, found.start, found.end, found.pid),
            (LockKind::Exclusive, 10, 19, 1001)
        );
        // One owner is never in its own way, whichever open file it asks through.
        hands.setlk(&other, &lock(1, LockKind::Shared, (15, 15))).expect("its own");
        assert!(is_free(hands, &other, &lock(2, LockKind::Shared, (15, 15))));
        assert!(!is_free(hands, &other, &lock(2, LockKind::Shared, (16, 16))));
        hands.release(&file);
        hands.release(&other);
    }

    fn a_close_drops_the_record_locks_of_who_closes_and_no_others(hands) {
        if !hands.can.locks {
            return;
        }
        let file = hands.with_content("f", b"x");
        let other = hands.open(file.inode(), OpenFlags::READ_WRITE).expect("open");
        hands.setlk(&file, &lock(1, LockKind::Exclusive, (0, 9))).expect("a lock");
        hands.setlk(&file, &lock(2, LockKind::Exclusive, (20, 29))).expect("a lock");
        hands.setlk(&file, &flock(3, LockKind::Exclusive)).expect("a lock");
        // Through another open file of the same inode: POSIX will have it so.
        block_on(hands.volume.flush(&hands.cx, &other, 1)).expect("flush");
        assert!(is_free(hands, &other, &lock(4, LockKind::Exclusive, (0, 9))));
        assert!(!is_free(hands, &other, &lock(4, LockKind::Exclusive, (20, 29))));
        assert!(!is_free(hands, &other, &flock(4, LockKind::Shared)));
        hands.release(&file);
        assert!(is_had(hands, &other, &flock(4, LockKind::Exclusive)));
        let all = lock(4, LockKind::Exclusive, ALL);
        assert!(is_had(hands, &other, &all), "it went with its open file");
        hands.release(&other);
    }

    fn flock_is_of_the_open_file_and_never_meets_record_locks(hands) {
        if !hands.can.locks {
            return;
        }
        let file = hands.with_content("f", b"x");
        let other = hands.open(file.inode(), OpenFlags::READ).expect("open");
        hands.setlk(&file, &flock(1, LockKind::Shared)).expect("a lock");
        assert!(is_free(hands, &other, &flock(2, LockKind::Shared)));
        assert!(!is_free(hands, &other, &flock(2, LockKind::Exclusive)));
        assert!(is_free(hands, &other, &lock(2, LockKind::Exclusive, ALL)));
        hands.setlk(&file, &flock(1, LockKind::Exclusive)).expect("an upgrade");
        assert!(!is_free(hands, &other, &flock(2, LockKind::Shared)));
        hands.setlk(&file, &flock(1, LockKind::Unlock)).expect("unlock");
        assert!(is_free(hands, &other, &flock(2, LockKind::Exclusive)));
        hands.release(&file);
        hands.release(&other);
    }

    fn who_waits_gets_the_lock_and_who_cannot_get_it_is_told(hands) {
        if !hands.can.locks {
            return;
        }
        let file = hands.with_content("f", b"x");
        let other = hands.open(file.inode(), OpenFlags::READ_WRITE).expect("open");
        hands.setlk(&file, &lock(1, LockKind::Exclusive, (0, 0))).expect("a lock");
        hands.setlk(&other, &lock(2, LockKind::Exclusive, (1, 1))).expect("a lock");
        // Each waits for the other. Who came last is told and gives way; the other one goes on.
        let wants = |file: &std::sync::Arc<File>, owner, of_other, own| {
            let wanted = lock(owner, LockKind::Exclusive, (of_other, of_other));
            let answer = block_on(hands.volume.setlk(&hands.cx, file, &wanted, true));
            if answer.is_err() {
                hands.setlk(file, &lock(owner, LockKind::Unlock, (own, own))).expect("unlock");
            }
            answer.map_err(|error| error.errno())
        };
        let (first, second) = std::thread::scope(|scope| {
            #[allow(clippy::disallowed_methods, reason = "a check that gets no thread has failed")]
            let waiting = scope.spawn(|| wants(&other, 2, 0, 1));
            let second = wants(&file, 1, 1, 0);
            (waiting.join().expect("no panic"), second)
        });
        let (holder, place) = match (first, second) {
            (Ok(()), Err(Errno::EDEADLK)) => (2, 0),
            (Err(Errno::EDEADLK), Ok(())) => (1, 1),
            neither => panic!("one of them is told: {neither:?}"),
        };
        let third = lock(3, LockKind::Shared, (place, place));
        assert!(!is_free(hands, &file, &third), "{holder} has it");
        hands.release(&file);
        hands.release(&other);
    }

    fn a_wait_that_was_granted_and_dropped_before_anybody_heard_of_it_leaves_what_was(hands) {
        if !hands.can.locks {
            return;
        }
        let file = hands.with_content("f", b"x");
        let other = hands.open(file.inode(), OpenFlags::READ_WRITE).expect("open");
        hands.setlk(&file, &lock(1, LockKind::Shared, (0, 9))).expect("a lock");
        hands.setlk(&other, &lock(2, LockKind::Shared, (4, 5))).expect("a lock");
        let wanted = lock(2, LockKind::Exclusive, (0, 9));
        {
            let mut waiting = pin!(hands.volume.setlk(&hands.cx, &other, &wanted, true));
            assert!(matches!(poll_once(waiting.as_mut()), Poll::Pending));
            // Over a wire it takes its time.
            std::thread::sleep(std::time::Duration::from_millis(50));
            hands.setlk(&file, &lock(1, LockKind::Unlock, (0, 9))).expect("unlock");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let third = hands.open(file.inode(), OpenFlags::READ_WRITE).expect("open");
        for (wanted, range) in [(LockKind::Exclusive, (0, 3)), (LockKind::Exclusive, (6, 9)), (LockKind::Shared, (4, 5))] {
            assert!((0..1000).any(|_| is_had(hands, &third, &lock(3, wanted, range)) || {
                std::thread::sleep(std::time::Duration::from_millis(10));
                false
            }), "{wanted:?} {range:?}");
        }
        assert!(!is_free(hands, &third, &lock(3, LockKind::Exclusive, (4, 5))), "kept, as it was");
        for file in [&file, &other, &third] {
            hands.release(file);
        }
    }

    fn a_dropped_wait_takes_no_lock(hands) {
        if !hands.can.locks {
            return;
        }
        let file = hands.with_content("f", b"x");
        let other = hands.open(file.inode(), OpenFlags::READ_WRITE).expect("open");
        hands.setlk(&file, &flock(1, LockKind::Exclusive)).expect("a lock");
        let wanted = flock(2, LockKind::Exclusive);
        {
            let mut waiting = pin!(hands.volume.setlk(&hands.cx, &other, &wanted, true));
            assert!(matches!(poll_once(waiting.as_mut()), Poll::Pending));
        }
        hands.setlk(&file, &flock(1, LockKind::Unlock)).expect("unlock");
        let third = hands.open(file.inode(), OpenFlags::READ_WRITE).expect("open");
        // Over a wire the news of it takes its time.
        assert!((0..1000).any(|_| is_had(hands, &third, &flock(3, LockKind::Exclusive)) || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            false
        }));
        for file in [&file, &other, &third] {
            hands.release(file);
        }
    }
}
