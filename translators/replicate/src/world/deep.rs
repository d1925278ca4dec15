//! A row of directories, one in the other: what each costs does not grow with what is above it.

use super::*;

fn paths(levels: usize) -> Vec<&'static str> {
    let path = |level| vec!["d"; level].join("/").leak() as &'static str;
    (1..=levels).map(path).collect()
}

/// How many operations of the bricks healing takes.
fn heal_all(world: &mut World) -> usize {
    let mut steps = 0;
    while world.leg.ledger(|ledger| ledger.pending()) > 0 {
        while world.step_heal(1) {
            steps += 1;
        }
        world.sync(true);
        world.leg.advance(50);
    }
    world.settle();
    assert_eq!(world.check(), [""; 0]);
    steps
}

fn found(levels: usize) -> usize {
    let made: Vec<Act> = paths(levels).into_iter().map(Act::Mkdir).collect();
    heal_all(&mut World::new(&made))
}

/// Made by a user, and taken away again.
fn made_and_removed(levels: usize) -> [usize; 2] {
    let mut world = World::new(&[]);
    world.settle();
    paths(levels)
        .into_iter()
        .for_each(|path| world.act(Act::Mkdir(path)));
    let made = heal_all(&mut world);
    let up = paths(levels).into_iter().rev();
    up.for_each(|path| world.act(Act::Rmdir(path)));
    [made, heal_all(&mut world)]
}

/// Made and healed, and then the topmost one is moved about.
fn moved(levels: usize) -> usize {
    let mut world = World::new(&[]);
    world.settle();
    let paths = paths(levels);
    paths.iter().for_each(|path| world.act(Act::Mkdir(path)));
    heal_all(&mut world);
    world.act(Act::Rename("d", "e"));
    world.act(Act::Rename("e", "d"));
    paths
        .iter()
        .for_each(|path| world.act(Act::Chmod(path, 0o711)));
    heal_all(&mut world)
}

#[test]
fn each_of_a_long_row_costs_the_same() {
    let [few, many] = [60, 240].map(|levels| {
        let [made, removed] = made_and_removed(levels);
        [found(levels), made, removed, moved(levels)]
    });
    println!("{few:?} {many:?}");
    for (few, many) in few.into_iter().zip(many) {
        assert!(
            few > 0 && many < 5 * few,
            "{many} for four times as many as took {few}"
        );
    }
}
