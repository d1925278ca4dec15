//! Random runs, from a seed.

use hermitfs_testkit::Hints;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

use super::*;

const PATHS: &[&str] = &[
    "a", "b", "d", "e", "d/a", "d/b", "e/a", "e/b", "d/s", "d/s/a", "d/s/t", "e/s", "e/s/a",
    "e/s/t/a", "d/s/t/a", "d/e", "d/e/a", "e/d", "e/d/a",
];

pub(crate) fn act(rng: &mut ChaCha8Rng) -> Act {
    let path = *PATHS.choose(rng).unwrap();
    let other = *PATHS.choose(rng).unwrap();
    match rng.random_range(0..26) {
        0..3 => Act::Create(path),
        3..5 => Act::Write(path, rng.random_range(0..3) * 5000, rng.random()),
        5 => Act::Truncate(path, rng.random_range(0..3) * 4000),
        6..8 => Act::Mkdir(path),
        8..10 => Act::Unlink(path),
        10 => Act::Rmdir(path),
        11..16 => Act::Rename(path, other),
        16..18 => Act::Exchange(path, other),
        18..21 => Act::Link(path, other),
        21 => Act::Symlink(path),
        22 => Act::Chmod(path, 0o600 + rng.random_range(0..8)),
        23 => Act::Append(path, rng.random()),
        24 => Act::Whiteout(path, other),
        _ => Act::Xattr(path, rng.random()),
    }
}

impl World {
    /// A sync that may fail, some time that passes, and now and then a new try of all that failed.
    fn sync_at_random(&mut self, rng: &mut ChaCha8Rng) -> String {
        let good = rng.random_bool(0.8);
        self.sync(good);
        self.leg.advance(rng.random_range(0..300));
        let now = self.leg.now();
        if rng.random_bool(0.3) {
            self.leg.ledger(|ledger| ledger.retry_all(now));
        }
        format!("sync {good}")
    }

    /// Something goes wrong on the sink past everybody, and then somebody wants all to be compared.
    fn rot(&mut self, rng: &mut ChaCha8Rng, paths: &[&'static str]) -> String {
        let path = *paths.choose(rng).unwrap();
        let act = match rng.random_range(0..3) {
            0 => Act::Write(path, 0, rng.random()),
            1 => Act::Truncate(path, 1),
            _ => Act::Chmod(path, 0o666),
        };
        let done = block_on(perform(&*self.sink, &Kernel::default(), act.clone()));
        self.heal_turns.give(Turns::ALL);
        let known = block_on(self.healer.known(&self.healer.source_root));
        self.leg
            .ledger(|ledger| ledger.plant_tree(&known, Trust::NOTHING, 0));
        format!("on the sink: {act:?}: {}", done.is_ok())
    }
}

/// A brick may be wrong about where an object was last seen.
fn hints(seed: u64) -> Hints {
    match seed % 4 {
        1 => Hints::First,
        _ => Hints::Latest,
    }
}

/// Everybody comes to an end; what is wrong then.
fn ended(mut world: World) -> Vec<String> {
    world.finish_users();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.settle()));
    let mut wrong = world.check();
    if let Err(panic) = caught {
        // Of an assertion, of a panic with arguments, or something without words.
        let told = panic.downcast_ref::<&str>().map(|told| (*told).to_owned());
        let told = told.or_else(|| panic.downcast_ref::<String>().cloned());
        wrong.push(told.unwrap_or_default());
    }
    wrong
}

/// One run: the steps that were taken, and what was wrong at the end.
fn run(seed: u64, kills: bool) -> (Vec<String>, Vec<String>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let mut world = World::new(&[]);
    world.source.set(|source| source.hints = hints(seed));
    for _ in 0..rng.random_range(0..15) {
        let act = act(&mut rng);
        steps.extend(world.before(&act));
    }
    if rng.random_bool(0.5) {
        world.settle();
        steps.push("settled".into());
    }
    for _ in 0..rng.random_range(1..25) {
        match rng.random_range(0..if kills { 27 } else { 25 }) {
            0..10 => {
                if world.has_user() {
                    world.step_user(Turns::ALL);
                }
                let act = act(&mut rng);
                steps.push(format!("{act:?}"));
                world.begin(act);
                if rng.random_bool(0.7) {
                    world.step_user(Turns::ALL);
                } else {
                    let turns = rng.random_range(0..12);
                    world.step_user(turns);
                    steps.push(format!("  of it {turns} operations: {}", !world.has_user()));
                }
            }
            10..20 => {
                let turns = rng.random_range(1..40);
                let which = usize::from(rng.random_bool(0.4));
                let any = world.step_healer(which, turns);
                steps.push(format!("healer {which} {turns}: {any}"));
            }
            20..22 => {
                let mut n = 0;
                while n < 20 && world.step_heal(Turns::ALL) {
                    n += 1;
                }
                steps.push(format!("heal {n} objects"));
            }
            22..24 => steps.push(world.sync_at_random(&mut rng)),
            24 => steps.push(world.rot(&mut rng, PATHS)),
            _ => {
                steps.push("kill".into());
                world = world.kill();
            }
        }
    }
    (steps, ended(world))
}

const DEEP: &[&str] = &[
    "d", "e", "d/s", "e/s", "d/s/t", "e/s/t", "d/t", "e/t", "d/a", "e/b", "d/s/a", "e/s/b",
    "d/s/t/a", "e/s/t/b", "d/t/a", "d/e", "e/d", "d/e/s", "e/d/s", "d/e/s/t",
];

/// Trees that are full, directories that move and are exchanged without a pause, and everybody
/// at work at once, an operation or two at a time.
fn storm(seed: u64, kills: bool) -> (Vec<String>, Vec<String>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let mut world = World::new(&[]);
    world.source.set(|source| source.hints = hints(seed));
    for path in DEEP {
        let act = match path.ends_with(['a', 'b']) {
            true => Act::Create(path),
            false => Act::Mkdir(path),
        };
        if rng.random_bool(0.8) {
            steps.extend(world.before(&act));
        }
    }
    if rng.random_bool(0.8) {
        world.settle();
        steps.push("settled".into());
    }
    for _ in 0..rng.random_range(20..200) {
        match rng.random_range(0..if kills { 202 } else { 201 }) {
            0..60 => {
                let who = rng.random_range(0..USERS);
                if world.tasks[who].is_none() {
                    let (path, other) = (
                        *DEEP.choose(&mut rng).unwrap(),
                        *DEEP.choose(&mut rng).unwrap(),
                    );
                    let act = match rng.random_range(0..12) {
                        0..6 => Act::Rename(path, other),
                        6..9 => Act::Exchange(path, other),
                        9 => Act::Link(path, other),
                        10 => Act::Mkdir(path),
                        _ => Act::Create(path),
                    };
                    steps.push(format!("user {who} {act:?}"));
                    world.begin_as(who, act);
                }
                let turns = rng.random_range(1..20);
                if told() {
                    eprintln!("   user {who}: {:?}", steps.last());
                }
                world.step_user_at(who, turns);
                steps.push(format!(
                    "user {who} {turns}: {}",
                    world.tasks[who].is_none()
                ));
            }
            60..195 => {
                let (which, turns) = (rng.random_range(0..HEALERS), rng.random_range(1..8));
                if told() {
                    eprintln!("   healer {which}");
                }
                let any = world.step_healer(which, turns);
                steps.push(format!("healer {which} {turns}: {any}"));
            }
            195..200 => steps.push(world.sync_at_random(&mut rng)),
            200 => steps.push(world.rot(&mut rng, DEEP)),
            _ => {
                steps.push("kill".into());
                world = world.kill();
            }
        }
    }
    (steps, ended(world))
}

fn many(run: fn(u64, bool) -> (Vec<String>, Vec<String>), kills: bool, count: u64) {
    let base: u64 = std::env::var("HERMITFS_SEED").map_or(0, |s| s.parse().unwrap());
    let count = std::env::var("HERMITFS_RUNS").map_or(count, |s| s.parse().unwrap());
    let mut shortest: Option<(u64, Vec<String>, Vec<String>)> = None;
    let mut failed = 0;
    for seed in base..base + count {
        let (steps, wrong) = run(seed, kills);
        if !wrong.is_empty() {
            failed += 1;
            if shortest
                .as_ref()
                .is_none_or(|(_, s, _)| steps.len() < s.len())
            {
                shortest = Some((seed, steps, wrong));
            }
        }
    }
    if let Some((seed, steps, wrong)) = shortest {
        panic!("{failed} of {count} runs failed; seed {seed}:\n{steps:#?}\n{wrong:#?}");
    }
}

#[test]
fn whatever_users_do_while_it_heals_both_trees_are_equal_at_the_end() {
    many(run, false, 20_000);
}

#[test]
fn killed_at_any_moment_nothing_is_lost_and_both_trees_are_equal_at_the_end() {
    many(run, true, 20_000);
}

#[test]
fn directories_moved_and_exchanged_by_several_users_under_several_healers() {
    many(storm, false, 10_000);
}

#[test]
fn the_same_killed_again_and_again() {
    many(storm, true, 10_000);
}
