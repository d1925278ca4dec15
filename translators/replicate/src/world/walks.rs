//! What users do while a walk is under way, and what makes none.

use std::collections::BTreeSet;

use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

use super::*;

/// Every name of five levels, two in each directory.
fn names() -> Vec<&'static str> {
    let mut names: Vec<String> = vec!["a".to_owned(), "b".to_owned()];
    let mut all = names.clone();
    for _ in 0..4 {
        let below = |above: &String| [format!("{above}/a"), format!("{above}/b")];
        names = names.iter().flat_map(below).collect();
        all.extend(names.clone());
    }
    // Once a process, and acts want names that stay.
    all.into_iter().map(|name| &*name.leak()).collect()
}

fn has(tree: &hermitfs_testkit::Tree, path: &str) -> bool {
    tree.0.contains_key(format!("/{path}").as_bytes())
}

impl World {
    /// Some directory is moved to a name that is free.
    fn move_any(&mut self, rng: &mut ChaCha8Rng, names: &[&'static str]) {
        let tree = self.source.tree();
        let (here, free): (Vec<&str>, Vec<&str>) = names.iter().partition(|path| has(&tree, path));
        if let (Some(from), Some(to)) = (here.choose(rng), free.choose(rng)) {
            self.act(Act::Rename(from, to));
        }
    }

    /// Which objects the sink has.
    fn images(&self) -> BTreeSet<u64> {
        let (mut images, mut dirs) = (BTreeSet::new(), vec![self.healer.sink_root().unwrap()]);
        while let Some(dir) = dirs.pop() {
            let entries = block_on(self.sink.readdir(&ROOT, &dir, 0, 1024, true)).unwrap();
            for entry in entries.into_iter().filter(|entry| !entry.is_dots()) {
                let entry = block_on(self.sink.lookup(
                    &ROOT,
                    &dir,
                    Name::new(&entry.name).unwrap(),
                ))
                .unwrap();
                images.insert(entry.inode.identity().ino);
                if entry.inode.kind() == Kind::Directory {
                    dirs.push(entry.inode);
                }
            }
        }
        images
    }
}

/// A user moves four directories for each object that is healed, from when a walk is asked for until it is over.
fn run(seed: u64, names: &[&'static str]) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut world = World::new(&[]);
    for path in names {
        if rng.random_bool(0.8) {
            world.before(&Act::Mkdir(path));
        }
    }
    world.settle();
    let images = world.images();
    let known = block_on(world.healer.known(&world.healer.source_root));
    world
        .leg
        .ledger(|ledger| ledger.plant_tree(&known, Trust::NOTHING, 0));
    let mut heals = 0;
    while world.leg.ledger(|ledger| ledger.trees()) > 0 {
        (0..4).for_each(|_| world.move_any(&mut rng, names));
        world.step_heal(Turns::ALL);
        heals += 1;
        assert!(heals < 40 * images.len(), "seed {seed}: it goes on and on");
        if heals % 20 == 0 {
            world.sync(true);
            world.leg.advance(50);
        }
    }
    world.settle();
    assert_eq!(world.check(), Vec::<String>::new(), "seed {seed}");
    assert_eq!(world.images(), images, "seed {seed}: something was copied");
}

#[test]
fn what_is_moved_under_a_walk_keeps_its_image_and_the_walk_ends() {
    let names = names();
    (0..40).for_each(|seed| run(seed, &names));
}

#[test]
fn what_cannot_be_removed_or_replaced_costs_no_walk() {
    let made = ["d", "d/s", "e"].map(Act::Mkdir);
    let mut world = World::new(&made);
    world.settle();
    for refused in [Act::Rmdir("d"), Act::Rename("e", "d")] {
        world.act(refused.clone());
        while world.step_heal(Turns::ALL) {
            let trees = world.leg.ledger(|ledger| ledger.trees());
            assert_eq!(trees, 0, "{refused:?}");
        }
        world.settle();
        assert_eq!(world.check(), Vec::<String>::new(), "{refused:?}");
    }
}
