//! The arithmetic of record locks against one byte after the other.

use std::collections::BTreeMap;

use hermitfs_api::{Lock, LockKind, LockSet, OwnedLock};
use proptest::prelude::*;

const BYTES: u64 = 12;

/// Who holds each byte: (client, owner) -> kind and open file.
type Byte = BTreeMap<(u64, u64), (bool, u64)>;

fn kind() -> impl Strategy<Value = LockKind> {
    prop_oneof![
        Just(LockKind::Shared),
        Just(LockKind::Exclusive),
        Just(LockKind::Unlock)
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Set(OwnedLock),
    DropOwner(u64, u64),
    DropFile(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let set = (
        0..2u64,
        0..2u64,
        0..3u64,
        kind(),
        0..BYTES,
        0..BYTES,
        0..8u8,
    )
        .prop_map(|(client, owner, file, kind, a, b, tail)| {
            Step::Set(OwnedLock {
                client,
                file,
                lock: Lock {
                    owner,
                    pid: 1,
                    kind,
                    start: a.min(b),
                    end: if tail == 0 { u64::MAX } else { a.max(b) },
                    flock: false,
                    ofd: false,
                },
            })
        });
    prop_oneof![
        8 => set,
        1 => (0..2u64, 0..2u64).prop_map(|(client, owner)| Step::DropOwner(client, owner)),
        1 => (0..3u64).prop_map(Step::DropFile),
    ]
}

proptest! {
    #[test]
    fn a_lock_set_is_as_good_as_a_note_on_every_byte(steps in prop::collection::vec(step(), 1..40)) {
        // The last byte stands for all that follow.
        let mut bytes = vec![Byte::new(); BYTES as usize + 1];
        let mut set = LockSet::default();
        for step in steps {
            match step {
                Step::Set(asked) => {
                    let free = set.conflict(&asked).is_none();
                    let covered = |at: usize| {
                        asked.lock.start <= at as u64
                            && (at as u64 <= asked.lock.end)
                    };
                    let me = (asked.client, asked.lock.owner);
                    let exclusive = asked.lock.kind == LockKind::Exclusive;
                    let expected = asked.lock.kind == LockKind::Unlock
                        || bytes.iter().enumerate().filter(|(at, _)| covered(*at)).all(|(_, byte)| {
                            byte.iter().all(|(owner, (theirs, _))| *owner == me || !(exclusive || *theirs))
                        });
                    prop_assert_eq!(free, expected, "{:?} on {:?}", asked, set);
                    if free {
                        set.set(asked);
                        for at in (0..bytes.len()).filter(|at| covered(*at)) {
                            match asked.lock.kind {
                                LockKind::Unlock => { bytes[at].remove(&me); }
                                _ => { bytes[at].insert(me, (exclusive, asked.file)); }
                            }
                        }
                    }
                }
                Step::DropOwner(client, owner) => {
                    set.drop_owner(client, owner);
                    bytes.iter_mut().for_each(|byte| { byte.remove(&(client, owner)); });
                }
                Step::DropFile(file) => {
                    set.drop_file(file);
                    bytes.iter_mut().for_each(|byte| byte.retain(|_, held| held.1 != file));
                }
            }
            for (at, byte) in bytes.iter().enumerate() {
                let here = set.iter().filter(|held| held.lock.start <= at as u64 && at as u64 <= held.lock.end);
                let mut seen = Byte::new();
                for held in here {
                    let me = (held.client, held.lock.owner);
                    let before = seen.insert(me, (held.lock.kind == LockKind::Exclusive, held.file));
                    prop_assert_eq!(before, None, "an owner holds byte {} twice", at);
                }
                prop_assert_eq!(&seen, byte, "byte {}", at);
            }
            // What could be one range is one range.
            for a in set.iter() {
                prop_assert!(!set.iter().any(|b| a.is_same_owner(b)
                    && (a.file, a.lock.kind) == (b.file, b.lock.kind)
                    && a.lock.end.checked_add(1) == Some(b.lock.start)));
            }
        }
    }
}
