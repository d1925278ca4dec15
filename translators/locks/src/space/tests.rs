use std::collections::{BTreeMap, BTreeSet};

use hermitfs_api::Lock;
use proptest::prelude::*;

use super::*;

fn object(ino: u64) -> Identity {
    Identity {
        dev: 1,
        ino,
        generation: 0,
    }
}

fn record(owner: u64, kind: LockKind, start: u64, end: u64) -> OwnedLock {
    OwnedLock {
        client: 0,
        file: owner,
        lock: Lock {
            owner,
            pid: 1,
            kind,
            start,
            end,
            flock: false,
            ofd: false,
        },
    }
}

fn flock(file: u64, kind: LockKind) -> OwnedLock {
    let mut lock = record(file, kind, 0, u64::MAX);
    lock.lock.flock = true;
    lock
}

const NOW: Duration = Duration::from_secs(100);
use LockKind::{Exclusive, Shared, Unlock};

fn space() -> Space {
    Space::new(1000)
}

fn waits(answer: Answer) -> Ticket {
    match answer {
        Answer::Waits(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

/// Tickets that were granted.
fn granted(space: &mut Space) -> Vec<Ticket> {
    let done = space.take_done().into_iter();
    done.map(|(ticket, outcome)| match outcome {
        Outcome::Granted => ticket,
        other => panic!("{other:?}"),
    })
    .collect()
}

#[test]
fn readers_do_not_pass_a_writer_that_waits() {
    let (mut space, at) = (space(), object(1));
    let reader = |n| record(n, Shared, 0, 9);
    assert_eq!(space.ask(at, reader(1), true, NOW), Answer::Done);
    let writer = waits(space.ask(at, record(2, Exclusive, 5, 5), true, NOW));
    let late = waits(space.ask(at, reader(3), true, NOW));
    // Elsewhere in the file nobody is in the way.
    assert_eq!(
        space.ask(at, record(4, Shared, 6, 9), true, NOW),
        Answer::Done
    );
    // Who does not wait asks what is held, as on any Linux file system.
    assert_eq!(space.ask(at, reader(5), false, NOW), Answer::Done);
    space.close(at, 0, 5);
    assert!(granted(&mut space).is_empty());
    space.close(at, 0, 1);
    assert_eq!(granted(&mut space), [writer]);
    space.close(at, 0, 2);
    assert_eq!(granted(&mut space), [late]);
}

#[test]
fn nobody_stands_behind_others_for_ever() {
    let (mut space, at) = (space(), object(1));
    // A parent with a shared lock, whose child wants it too before the parent goes on.
    space.ask(at, flock(1, Shared), true, NOW);
    let writer = waits(space.ask(at, flock(2, Exclusive), true, NOW));
    let child = waits(space.ask(at, flock(3, Shared), true, NOW));
    let ripe = space.next_ripe().unwrap();
    assert_eq!(ripe, NOW + Duration::from_secs(1));
    space.ripen(ripe - Duration::from_nanos(1));
    assert!(granted(&mut space).is_empty());
    space.ripen(ripe);
    assert_eq!(granted(&mut space), [child]);
    // The longer the writer has waited, the longer he is left alone; but never for ever.
    let later = NOW + Duration::from_secs(4);
    let next = waits(space.ask(at, flock(4, Shared), true, later));
    assert_eq!(space.next_ripe(), Some(later + Duration::from_secs(4)));
    let much_later = NOW + Duration::from_secs(4000);
    space.ripen(much_later);
    assert_eq!(granted(&mut space), [next]);
    waits(space.ask(at, flock(5, Shared), true, much_later));
    assert_eq!(
        space.next_ripe(),
        Some(much_later + Duration::from_secs(10))
    );
    for file in [1, 3, 4] {
        space.release(at, file);
    }
    assert_eq!(granted(&mut space), [writer]);
}

#[test]
fn who_holds_a_lock_does_not_stand_behind_those_who_wait_for_it() {
    let (mut space, at) = (space(), object(1));
    let ofd = |owner, kind| {
        let mut lock = record(owner, kind, 0, 9);
        lock.lock.ofd = true;
        lock
    };
    space.ask(at, ofd(1, Shared), true, NOW);
    waits(space.ask(at, ofd(2, Exclusive), true, NOW));
    assert_eq!(space.ask(at, ofd(1, Exclusive), true, NOW), Answer::Done);
}

#[test]
fn a_circle_of_owners_is_a_deadlock_however_long() {
    let mut space = space();
    for n in 0..5 {
        let mine = record(n, Exclusive, 0, 0);
        assert_eq!(space.ask(object(n), mine, true, NOW), Answer::Done);
    }
    for n in 0..4 {
        waits(space.ask(object(n + 1), record(n, Shared, 0, 0), true, NOW));
    }
    let last = record(4, Shared, 0, 0);
    assert_eq!(space.ask(object(0), last, true, NOW), Answer::Deadlock);
    // It does not hold for open files, whose lock another thread can drop.
    let mut ofd = last;
    ofd.lock.ofd = true;
    waits(space.ask(object(0), ofd, true, NOW));
}

#[test]
fn two_that_both_want_more_of_one_lock_are_a_deadlock() {
    let (mut space, at) = (space(), object(1));
    space.ask(at, record(1, Shared, 0, 9), true, NOW);
    space.ask(at, record(2, Shared, 0, 9), true, NOW);
    let first = waits(space.ask(at, record(1, Exclusive, 0, 9), true, NOW));
    assert_eq!(
        space.ask(at, record(2, Exclusive, 0, 9), true, NOW),
        Answer::Deadlock
    );
    space.close(at, 0, 2);
    assert_eq!(granted(&mut space), [first]);
}

#[test]
fn a_circle_that_closes_while_one_waits_is_found_as_well() {
    let mut space = space();
    let (a, b) = (object(1), object(2));
    space.ask(a, record(1, Exclusive, 0, 0), true, NOW);
    space.ask(b, record(9, Shared, 0, 0), true, NOW);
    // 1 waits for 9; a thread of 2 waits for 1; another one gets what 1 waits for.
    let one = waits(space.ask(b, record(1, Exclusive, 0, 0), true, NOW));
    waits(space.ask(a, record(2, Shared, 0, 0), true, NOW));
    assert_eq!(
        space.ask(b, record(2, Shared, 0, 0), false, NOW),
        Answer::Done
    );
    assert_eq!(space.take_done(), [(one, Outcome::Deadlock)]);
}

#[test]
fn flock_gives_up_what_it_has_before_it_asks_for_another_kind() {
    let (mut space, at) = (space(), object(1));
    space.ask(at, flock(1, Shared), true, NOW);
    space.ask(at, flock(2, Shared), true, NOW);
    assert_eq!(space.ask(at, flock(1, Exclusive), false, NOW), Answer::Busy);
    assert_eq!(
        space.ask(at, flock(2, Exclusive), false, NOW),
        Answer::Done,
        "the first has lost its own"
    );
    assert_eq!(space.ask(at, flock(2, Shared), true, NOW), Answer::Done);
}

#[test]
fn what_nobody_wants_any_more_leaves_all_as_it_was() {
    let (mut space, at) = (space(), object(1));
    let (mine, theirs) = (record(1, Shared, 0, 9), record(2, Shared, 5, 20));
    space.ask(at, mine, true, NOW);
    space.ask(at, theirs, true, NOW);
    let more = record(1, Exclusive, 5, 30);
    let ticket = waits(space.ask(at, more, true, NOW));
    let third = waits(space.ask(at, record(3, Shared, 30, 30), true, NOW));
    space.cancel(ticket);
    assert_eq!(granted(&mut space), [third], "nobody stands in front now");
    space.close(at, 0, 3);
    // The same when it had been granted already.
    let ticket = waits(space.ask(at, more, true, NOW));
    space.close(at, 0, 2);
    assert_eq!(granted(&mut space), [ticket]);
    space.undo(ticket);
    assert_eq!(space.conflict(at, &record(2, Exclusive, 10, 99)), None);
    let held = space.conflict(at, &record(2, Exclusive, 0, 9)).unwrap();
    assert_eq!((held.lock.start, held.lock.end), (0, 9));
}

#[test]
fn what_was_asked_for_again_or_closed_since_is_not_undone() {
    let at = object(1);
    let granted_unheard = || {
        let mut space = space();
        space.ask(at, record(1, Shared, 0, 9), true, NOW);
        space.ask(at, record(2, Exclusive, 20, 29), true, NOW);
        let all = record(1, Exclusive, 0, 29);
        let ticket = waits(space.ask(at, all, true, NOW));
        space.close(at, 0, 2);
        assert_eq!(granted(&mut space), [ticket]);
        (space, ticket, all)
    };
    // The line was cut, and the client asked again by another: it was told that it has the lock.
    let (mut space, ticket, all) = granted_unheard();
    assert_eq!(space.ask(at, all, true, NOW), Answer::Done);
    space.undo(ticket);
    assert!(space.conflict(at, &record(3, Shared, 25, 25)).is_some());
    // What its owner had before does not come back from a close.
    let (mut space, ticket, _) = granted_unheard();
    space.close(at, 0, 1);
    space.undo(ticket);
    assert_eq!(space.conflict(at, &record(3, Exclusive, 0, 99)), None);
    let (mut space, ticket, _) = granted_unheard();
    space.release(at, 1);
    space.undo(ticket);
    assert_eq!(space.conflict(at, &record(3, Exclusive, 0, 99)), None);
    assert!(space.objects.is_empty() && space.unheard.is_empty());
}

#[test]
fn too_many_locks_on_a_file_are_refused() {
    let mut space = Space::new(2);
    let at = object(1);
    for byte in [0, 2] {
        let one = record(1, Shared, byte, byte);
        assert_eq!(space.ask(at, one, false, NOW), Answer::Done);
    }
    let third = record(1, Shared, 4, 4);
    assert_eq!(space.ask(at, third, false, NOW), Answer::Full);
    assert_eq!(
        space.ask(at, record(1, Unlock, 0, 9), false, NOW),
        Answer::Done
    );
    assert_eq!(space.ask(at, third, false, NOW), Answer::Done);
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u64, OwnedLock, bool),
    Cancel(usize),
    Close(u64, u64),
    Release(u64),
    Ripen,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![3 => Just(Shared), 3 => Just(Exclusive), 2 => Just(Unlock)];
    let ask = (
        1..3u64,
        0..4u64,
        0..2u64,
        kind,
        0..6u64,
        0..6u64,
        any::<bool>(),
        0..6u8,
    );
    let ask = ask.prop_map(|(ino, owner, via, kind, a, b, waits, family)| {
        let mut lock = record(owner, kind, a.min(b), a.max(b));
        // Two open files of each owner.
        lock.file = owner * 2 + via;
        lock.lock.flock = family == 0;
        if lock.lock.flock {
            (lock.lock.start, lock.lock.end) = (0, u64::MAX);
        }
        lock.lock.ofd = family == 1;
        if lock.lock.ofd {
            // An open file, never a process.
            lock.lock.owner = 10 + lock.file;
        }
        Step::Ask(ino, lock, waits)
    });
    prop_oneof![
        10 => ask,
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (1..3u64, 0..4u64).prop_map(|(ino, owner)| Step::Close(ino, owner)),
        1 => (0..8u64).prop_map(Step::Release),
        1 => Just(Step::Ripen),
    ]
}

/// What is known from the answers alone.
#[derive(Default)]
struct Model {
    held: BTreeMap<u64, LockSetOfBytes>,
    /// In the order of arrival.
    waiting: Vec<(Ticket, u64, OwnedLock)>,
}

/// Each owner's kind on each byte (the last stands for all that follow), and flocks by file.
#[derive(Clone, Debug, Default, PartialEq)]
struct LockSetOfBytes {
    bytes: BTreeMap<(usize, u64), (LockKindOrd, u64)>,
    flocks: BTreeMap<u64, LockKindOrd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LockKindOrd {
    Shared,
    Exclusive,
}

fn ord(kind: LockKind) -> Option<LockKindOrd> {
    match kind {
        Shared => Some(LockKindOrd::Shared),
        Exclusive => Some(LockKindOrd::Exclusive),
        Unlock => None,
    }
}

impl LockSetOfBytes {
    fn set(&mut self, new: &OwnedLock) {
        let kind = ord(new.lock.kind);
        if new.lock.flock {
            self.flocks.remove(&new.file);
            self.flocks.extend(kind.map(|kind| (new.file, kind)));
            return;
        }
        for byte in new.lock.start..=new.lock.end {
            self.bytes.remove(&(byte as usize, new.lock.owner));
            let noted = kind.map(|kind| ((byte as usize, new.lock.owner), (kind, new.file)));
            self.bytes.extend(noted);
        }
    }

    /// Owners (or, of flocks, open files) that are in the way.
    fn in_the_way(&self, asked: &OwnedLock) -> BTreeSet<u64> {
        let Some(kind) = ord(asked.lock.kind) else {
            return BTreeSet::new();
        };
        let meets = |other: LockKindOrd| kind.max(other) == LockKindOrd::Exclusive;
        if asked.lock.flock {
            let flocks = self.flocks.iter();
            return flocks
                .filter(|(file, other)| **file != asked.file && meets(**other))
                .map(|(file, _)| *file)
                .collect();
        }
        let bytes = self.bytes.iter();
        bytes
            .filter(|((byte, owner), (other, _))| {
                (asked.lock.start..=asked.lock.end).contains(&(*byte as u64))
                    && *owner != asked.lock.owner
                    && meets(*other)
            })
            .map(|((_, owner), _)| *owner)
            .collect()
    }
}

impl Model {
    fn blockers(&self, ino: u64, asked: &OwnedLock) -> BTreeSet<u64> {
        let held = self.held.get(&ino);
        held.map(|held| held.in_the_way(asked)).unwrap_or_default()
    }

    /// Whether waiting for this would close a circle of owners, found by walking all ways.
    fn closes_a_circle(&self, ino: u64, asked: &OwnedLock) -> bool {
        if asked.lock.flock || asked.lock.ofd {
            return false;
        }
        let mut reached = self.blockers(ino, asked);
        loop {
            let before = reached.len();
            for (_, ino, waiter) in &self.waiting {
                if !waiter.lock.flock && !waiter.lock.ofd && reached.contains(&waiter.lock.owner) {
                    reached.extend(self.blockers(*ino, waiter));
                }
            }
            if reached.len() == before {
                return reached.contains(&asked.lock.owner);
            }
        }
    }

    /// Follows what the space says was done.
    fn follow(&mut self, space: &mut Space) -> Result<(), TestCaseError> {
        for (ticket, outcome) in space.take_done() {
            let at = self.waiting.iter().position(|(other, ..)| *other == ticket);
            let (_, ino, asked) = self.waiting.remove(at.expect("it waits"));
            if outcome == Outcome::Granted {
                space.heard(ticket);
                prop_assert!(
                    self.blockers(ino, &asked).is_empty(),
                    "{asked:?} was granted"
                );
                self.held.entry(ino).or_default().set(&asked);
            }
        }
        Ok(())
    }

    fn check(&self, space: &Space, all_ripe: bool) -> Result<(), TestCaseError> {
        for (at, (ticket, ino, asked)) in self.waiting.iter().enumerate() {
            prop_assert!(
                !self.closes_a_circle(*ino, asked),
                "{asked:?} waits for itself"
            );
            let ahead = self.waiting[..at]
                .iter()
                .any(|(_, other, waiter)| other == ino && waiter.conflicts(asked));
            let free = self.blockers(*ino, asked).is_empty();
            prop_assert!(
                !free || (ahead && !all_ripe),
                "{ticket:?} {asked:?} waits for nobody"
            );
        }
        for (ino, held) in &self.held {
            let mut seen = LockSetOfBytes::default();
            if let Some(object) = space.objects.get(&object(*ino)) {
                object.held.iter().for_each(|lock| seen.set(lock));
            }
            prop_assert_eq!(&seen, held);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn nobody_is_served_wrongly_or_forgotten(steps in prop::collection::vec(step(), 1..40)) {
        let (mut space, mut model) = (space(), Model::default());
        let mut now = NOW;
        for step in steps {
            now += Duration::from_millis(300);
            let mut all_ripe = false;
            match step {
                Step::Ask(ino, asked, waits) => {
                    let held = model.held.entry(ino).or_default();
                    if asked.lock.flock && asked.lock.kind != Unlock
                        && held.flocks.get(&asked.file).copied() != ord(asked.lock.kind)
                    {
                        held.flocks.remove(&asked.file);
                    }
                    let free = model.blockers(ino, &asked).is_empty();
                    let circle = model.closes_a_circle(ino, &asked);
                    match space.ask(object(ino), asked, waits, now) {
                        Answer::Done => {
                            prop_assert!(free);
                            model.held.entry(ino).or_default().set(&asked);
                        }
                        Answer::Busy => prop_assert!(!free && !waits),
                        Answer::Deadlock => prop_assert!(!free && waits && circle),
                        Answer::Waits(ticket) => {
                            prop_assert!(waits && !circle);
                            model.waiting.push((ticket, ino, asked));
                        }
                        Answer::Full => prop_assert!(false, "there is room"),
                    }
                }
                Step::Cancel(which) => {
                    if !model.waiting.is_empty() {
                        let (ticket, ..) = model.waiting.remove(which % model.waiting.len());
                        space.cancel(ticket);
                    }
                }
                Step::Close(ino, owner) => {
                    space.close(object(ino), 0, owner);
                    if let Some(held) = model.held.get_mut(&ino) {
                        held.bytes.retain(|(_, other), _| *other != owner);
                    }
                }
                Step::Release(file) => {
                    for ino in 1..3 {
                        space.release(object(ino), file);
                        if let Some(held) = model.held.get_mut(&ino) {
                            held.bytes.retain(|_, (_, via)| *via != file);
                            held.flocks.remove(&file);
                        }
                    }
                }
                Step::Ripen => {
                    now += Duration::from_secs(3600);
                    space.ripen(now);
                    all_ripe = true;
                }
            }
            model.follow(&mut space)?;
            model.check(&space, all_ripe)?;
        }
        for ino in 1..3 {
            (0..8).for_each(|file| space.release(object(ino), file));
        }
        space.take_done();
        prop_assert!(space.objects.is_empty() && space.places.is_empty() && space.waiting.is_empty());
    }
}
