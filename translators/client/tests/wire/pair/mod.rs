//! `cluster/replicate` over two clients, each brick behind a door and lines of its own, on a network from a
//! seed: users and healer are threads as in the program, the lines, the doors and their clocks are those
//! of [`network`](crate::network).
//!
//! The network's time stands while a thread that it has woken has something to do. What the pair does by
//! the clock (rests, syncs, tries again) takes real time; so a seed (`HERMITFS_SEED=7 HERMITFS_RUNS=1`)
//! gives the same troubles to the same users, and threads meet as they like.

mod course;
mod crew;
mod judge;
mod place;
mod process;
mod storm;
mod waits;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

use course::Course;
use place::{Place, SINK, SOURCE};
use storm::{Sky, Storm};

use crate::network::judge::judge;

/// What the network and the machines may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harshness {
    /// Everything, but to the sink alone.
    Sink,
    /// Lines are cut, for less than anybody waits.
    Lines,
    /// Also servers are killed, for less than anybody waits.
    Servers,
    /// For longer, too.
    Long,
    /// And the pair's own process is killed.
    Mounts,
}

impl Harshness {
    /// Users have nothing to be in doubt about.
    fn is_sure(self) -> bool {
        matches!(self, Harshness::Sink | Harshness::Lines)
    }
}

/// A run that takes longer hangs, however busy the machine is.
const LONGEST: Duration = Duration::from_secs(900);

/// So much of the story is told of a run that failed, up to where that was seen.
const TOLD: usize = 800;

/// How the place in the story begins where something was seen that is wrong.
const WRONG: &str = "wrong: ";

/// Runs side by side: they wait for the pair's clock most of the time.
const AT_ONCE: usize = 8;

/// One run: the story, and what is wrong.
fn run(seed: u64, harshness: Harshness) -> (Vec<String>, Vec<String>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let place = Arc::new(Place::new(seed));
    let (sky, crew) = (Arc::new(Sky::default()), Arc::default());
    let wrong: Arc<Mutex<Vec<String>>> = Arc::default();
    let course = Course {
        place: place.clone(),
        sky: sky.clone(),
        crew: Arc::clone(&crew),
        harshness,
        rng: ChaCha8Rng::seed_from_u64(rng.random()),
        wrong: wrong.clone(),
        things: 15,
    };
    let course = std::thread::spawn(move || course.run());
    let deadline = Instant::now() + LONGEST;
    let mut storm = Storm {
        place: place.clone(),
        sky: sky.clone(),
        crew: Arc::clone(&crew),
        harshness,
        rng,
        deadline,
        next: None,
    };
    let storm = std::thread::spawn(move || while !storm.pass() {});
    let mut all = Vec::new();
    while !storm.is_finished() {
        if Instant::now() > deadline {
            all.push("it comes to no end".into());
            break;
        }
        // Whoever panics ends it all.
        if course.is_finished() {
            sky.end();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for thread in [course, storm] {
        if thread.is_finished()
            && let Err(panic) = thread.join()
        {
            let text = panic.downcast_ref::<String>().cloned();
            all.push(text.unwrap_or_else(|| "it panicked".into()));
        }
    }
    all.append(&mut wrong.lock());
    all.append(&mut crew.wrong.lock());
    let [source, sink] = [SOURCE, SINK].map(|n| place.bricks[n].log.events.lock().clone());
    all.extend(judge(&source, harshness.is_sure()));
    all.extend(judge::strangers(&source, &sink));
    (place.story(), all)
}

fn many(harshness: Harshness, count: u64) {
    let number = |name: &str| std::env::var(name).ok().map(|s| s.parse::<u64>().unwrap());
    let base = number("HERMITFS_SEED").unwrap_or(0);
    let count = number("HERMITFS_RUNS").unwrap_or(count);
    let next = AtomicU64::new(base);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while failed.lock().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= base + count {
                        return;
                    }
                    let (story, wrong) = run(seed, harshness);
                    let seen = story.iter().position(|line| line.contains(WRONG));
                    let end = seen.map_or(story.len(), |at| at + 1);
                    let story = &story[end.saturating_sub(TOLD)..end];
                    if !wrong.is_empty() {
                        let words = format!("{harshness:?}, seed {seed}:\n{story:#?}\n{wrong:#?}");
                        failed.lock().get_or_insert(words);
                    }
                }
            });
        }
    });
    if let Some(words) = failed.into_inner() {
        panic!("{words}");
    }
}

#[test]
fn a_sink_in_trouble_is_not_noticed() {
    many(Harshness::Sink, 25);
}

#[test]
fn a_pair_on_lines_that_are_cut_is_not_noticed() {
    many(Harshness::Lines, 15);
}

#[test]
fn a_pair_becomes_equal_though_servers_are_killed() {
    many(Harshness::Servers, 20);
}

#[test]
fn a_pair_becomes_equal_though_nobody_waits_any_longer() {
    many(Harshness::Long, 20);
}

#[test]
fn a_pair_that_is_killed_is_taken_over_and_becomes_equal() {
    many(Harshness::Mounts, 20);
}
