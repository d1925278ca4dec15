//! A healer that panics, at every operation that it does: nothing is kept from being healed by that.

use super::*;

/// A tree that is new to the sink.
const NEW: &[Act] = &[
    Act::Mkdir("d"),
    Act::Create("d/a"),
    Act::Write("d/a", 0, 1),
    Act::Xattr("d/a", 7),
    Act::Link("d/a", "other"),
    Act::Create("d/b"),
    Act::Mkdir("d/e"),
    Act::Symlink("d/e/s"),
    Act::Mkdir("f"),
];

/// What users do to it when it is healed.
const CHANGES: &[Act] = &[
    Act::Write("d/a", 5, 9),
    Act::Truncate("d/b", 3),
    Act::Unlink("other"),
    // Each goes where the other one was, by way of the staging space.
    Act::Exchange("d/e", "f"),
    Act::Rename("d/b", "f/b"),
    Act::Mkdir("f/new"),
    Act::Create("f/new/file"),
    // What is in it is healed on the way through it.
    Act::Rename("d", "g"),
    Act::Chmod("g/a", 0o600),
];

fn healed(acts: &[Act]) -> World {
    let mut world = World::new(NEW);
    if !acts.is_empty() {
        world.settle();
        acts.iter().cloned().for_each(|act| world.act(act));
    }
    world
}

/// How many operations it takes to heal this, and each of them panicked once.
fn each_panics_once(acts: &[Act], when: When) -> u32 {
    for at in 0.. {
        let mut world = healed(acts);
        *world.bug.0.lock().unwrap() = Some((at, when));
        world.settle();
        let wrong = world.check();
        assert!(wrong.is_empty(), "{when:?} operation {at}: {wrong:#?}");
        if world.bug.0.lock().unwrap().is_some() {
            return at;
        }
    }
    unreachable!("a heal comes to its end");
}

#[test]
fn what_panicked_while_it_was_made_is_made_all_the_same() {
    for when in [When::Before, When::After] {
        assert!(each_panics_once(&[], when) > 50);
    }
}

#[test]
fn what_panicked_while_it_was_changed_is_changed_all_the_same() {
    for when in [When::Before, When::After] {
        assert!(each_panics_once(CHANGES, when) > 100);
    }
}
