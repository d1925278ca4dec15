//! Every pair of operations, and every moment between them.

use super::*;

/// Small, but with all that is hard: a file with two names, a directory in a directory.
const BEFORE: &[Act] = &[
    Act::Create("a"),
    Act::Write("a", 0, 1),
    Act::Link("a", "b"),
    Act::Mkdir("d"),
    Act::Create("d/c"),
    Act::Write("d/c", 0, 2),
    Act::Mkdir("d/s"),
    Act::Create("d/s/f"),
    Act::Write("d/s/f", 0, 3),
    Act::Mkdir("e"),
];

const ACTS: &[Act] = &[
    Act::Write("a", 5, 9),
    Act::Append("d/c", 8),
    Act::Truncate("d/c", 3),
    Act::Chmod("d/s", 0o711),
    Act::Create("e/n"),
    Act::Unlink("a"),
    Act::Unlink("d/c"),
    Act::Link("d/c", "e/l"),
    Act::Link("b", "d/l"),
    Act::Rename("a", "d/c"),
    Act::Rename("d/c", "e/c"),
    Act::Rename("d/s", "e/s"),
    Act::Rename("d/s", "s"),
    Act::Rename("d", "e/d"),
    Act::Rename("d", "e"),
    Act::Rename("e", "d/s/e"),
    Act::Rename("s", "d/s"),
    Act::Rename("e/d/s", "d"),
    Act::Rename("e/s/f", "f"),
    Act::Exchange("d", "e"),
    Act::Exchange("d/s", "e"),
    Act::Exchange("a", "d/c"),
    Act::Exchange("d/s/f", "e"),
    Act::Whiteout("d/s", "e/w"),
    Act::Rmdir("e"),
    Act::Mkdir("d/c"),
];

/// The healer's operations that one healing of everything open takes.
fn lengths(world: &mut World) -> usize {
    let mut length = 0;
    while world.step_heal(1) {
        length += 1;
        assert!(length < 10_000);
    }
    length
}

fn settled() -> World {
    let mut world = World::new(BEFORE);
    world.settle();
    world
}

/// Every two acts, with the second after every operation of healing the first.
#[test]
fn any_two_operations_with_the_second_at_every_step_of_healing_the_first() {
    let mut runs = 0;
    for first in ACTS {
        let mut world = settled();
        world.act(first.clone());
        let length = lengths(&mut world);
        for second in ACTS {
            for at in 0..=length {
                let mut world = settled();
                world.act(first.clone());
                (0..at).for_each(|_| {
                    world.step_heal(1);
                });
                world.act(second.clone());
                world.settle();
                let wrong = world.check();
                assert!(
                    wrong.is_empty(),
                    "{first:?}, {at} steps, {second:?}: {wrong:#?}"
                );
                runs += 1;
            }
        }
    }
    println!("{runs} runs");
}

/// Every two acts, and a kill after every operation of healing both.
#[test]
fn any_two_operations_and_a_kill_at_every_step_of_healing_them() {
    let mut runs = 0;
    for first in ACTS {
        for second in ACTS {
            let mut world = settled();
            world.act(first.clone());
            world.act(second.clone());
            for at in 0..=lengths(&mut world) {
                let mut world = settled();
                world.act(first.clone());
                world.act(second.clone());
                (0..at).for_each(|_| {
                    world.step_heal(1);
                });
                let mut world = world.kill();
                world.settle();
                let wrong = world.check();
                assert!(
                    wrong.is_empty(),
                    "{first:?}, {second:?}, kill at {at}: {wrong:#?}"
                );
                runs += 1;
            }
        }
    }
    println!("{runs} runs");
}

/// Every act, killed at each of its own operations, and again at each step of the healing.
#[test]
fn any_operation_killed_half_way_and_the_healing_killed_at_every_step() {
    let mut runs = 0;
    for act in ACTS {
        for half in 0..20 {
            let begun = || {
                let mut world = settled();
                world.begin(act.clone());
                world.step_user(half);
                let over = !world.has_user();
                (world.kill(), over)
            };
            let (mut world, over) = begun();
            for at in 0..=lengths(&mut world) {
                let mut world = begun().0;
                (0..at).for_each(|_| {
                    world.step_heal(1);
                });
                let mut world = world.kill();
                world.settle();
                let wrong = world.check();
                assert!(
                    wrong.is_empty(),
                    "{act:?} cut at {half}, kill at {at}: {wrong:#?}"
                );
                runs += 1;
            }
            if over {
                break;
            }
        }
    }
    println!("{runs} runs");
}

/// Somebody appends, and at each of his operations another one makes the file shorter, or longer, and all that
/// can be healed is healed.
#[test]
fn an_append_is_healed_where_it_came_to_stand_whatever_others_do_meanwhile() {
    for other in [
        Act::Truncate("d/c", 3),
        Act::Truncate("d/c", 50),
        Act::Append("d/c", 9),
    ] {
        for half in 0..20 {
            let mut world = settled();
            world.begin(Act::Append("d/c", 8));
            world.step_user(half);
            let over = !world.has_user();
            world.begin_as(1, other.clone());
            world.step_user_at(1, Turns::ALL);
            for _ in 0..50 {
                world.step_heal(Turns::ALL);
                world.sync(true);
                world.leg.advance(50);
            }
            world.finish_users();
            world.settle();
            let wrong = world.check();
            assert!(wrong.is_empty(), "{other:?} at {half}: {wrong:#?}");
            if over {
                break;
            }
        }
    }
}

/// The first crawl, with an act at each of its steps, and a kill some steps later.
#[test]
fn any_operation_at_every_step_of_the_first_crawl() {
    let length = lengths(&mut World::new(BEFORE));
    let mut runs = 0;
    for act in ACTS {
        for at in 0..=length {
            for kill in [None, Some(3), Some(17)] {
                let mut world = World::new(BEFORE);
                (0..at).for_each(|_| {
                    world.step_heal(1);
                });
                world.act(act.clone());
                if let Some(steps) = kill {
                    (0..steps).for_each(|_| {
                        world.step_heal(1);
                    });
                    world = world.kill();
                }
                world.settle();
                let wrong = world.check();
                assert!(
                    wrong.is_empty(),
                    "{act:?} at {at}, kill {kill:?}: {wrong:#?}"
                );
                runs += 1;
            }
        }
    }
    println!("{runs} runs, {length} steps");
}
