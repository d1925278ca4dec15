use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How far [`explore`] goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Ends after this many runs; [`Explored::complete`] is false then.
    pub paths: u64,
    /// How often [`Actors`](crate::Actors) may be taken off although they could go on. Most faults need one
    /// or two. Without a bound the number of orders grows exponentially.
    pub preemptions: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            paths: u64::MAX,
            preemptions: usize::MAX,
        }
    }
}

/// What an exploration came to when nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explored {
    /// Runs.
    pub paths: u64,
    /// Every sequence of choices within the bounds was run.
    pub complete: bool,
    /// Most choices in one run.
    pub deepest: usize,
}

/// Makes the choices of one run. A clone makes them for the same run.
#[derive(Clone, Debug)]
pub struct Chooser(Arc<Mutex<Path>>);

#[derive(Debug, Default)]
struct Path {
    /// (taken, out of how many)
    choices: Vec<(usize, usize)>,
    at: usize,
    /// Of a replay, which does not know yet out of how many these are.
    forced: Vec<usize>,
    random: Option<ChaCha8Rng>,
    telling: bool,
    preemptions: usize,
    seen: HashSet<u64>,
    deepest: usize,
}

impl Chooser {
    fn new(path: Path) -> Chooser {
        Chooser(Arc::new(Mutex::new(path)))
    }

    /// One of 0..n. All of them come in the course of an exploration, 0 first: let 0 be the ordinary
    /// one. No choice is made where n is 1.
    pub fn choose(&self, n: usize) -> usize {
        assert!(n > 0, "a choice out of nothing");
        if n == 1 {
            return 0;
        }
        let mut path = self.0.lock();
        let at = path.at;
        path.at += 1;
        if let Some(&(taken, of)) = path.choices.get(at) {
            assert_eq!(
                of, n,
                "the run is not deterministic: choice {at} was out of {of}, now out of {n}"
            );
            return taken;
        }
        let taken = match (path.forced.get(at).copied(), path.random.as_mut()) {
            (Some(taken), _) => taken,
            (None, Some(random)) => random.random_range(0..n),
            (None, None) => 0,
        };
        assert!(
            taken < n,
            "choice {at} is out of {n}: these choices are of another run"
        );
        path.choices.push((taken, n));
        taken
    }

    /// Whether this state was met before in this exploration, in a run that chose differently.
    /// The run can return then: what follows is known. The state must hold all that the rest
    /// of the run depends on.
    pub fn met_before(&self, state: &impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        let mut path = self.0.lock();
        // On the part that is only walked again, to come to a new choice, everything is known.
        let again = path.at < path.choices.len() || path.telling;
        !path.seen.insert(hasher.finish()) && !again
    }

    /// Says what happens. Shown only when a run that failed is run once more.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_telling() {
            eprintln!("    {}", what());
        }
    }

    fn is_telling(&self) -> bool {
        self.0.lock().telling
    }

    pub(crate) fn preemptions(&self) -> usize {
        self.0.lock().preemptions
    }

    fn taken(&self) -> Vec<usize> {
        self.0
            .lock()
            .choices
            .iter()
            .map(|&(taken, _)| taken)
            .collect()
    }

    /// Sets out for the next run; false when there is none.
    fn next(&self) -> bool {
        let mut path = self.0.lock();
        path.deepest = path.deepest.max(path.choices.len());
        path.at = 0;
        while let Some((taken, of)) = path.choices.pop() {
            if taken + 1 < of {
                path.choices.push((taken + 1, of));
                return true;
            }
        }
        false
    }
}

/// Runs a test once for every sequence of choices that it can make, depth first.
///
/// The run starts from scratch each time and must depend on nothing but its choices. When it panics,
/// the choices are printed, it is run once more with [`Chooser::tell`] speaking, and the panic
/// goes on. [`replay`] runs the printed choices alone.
pub fn explore(bounds: Bounds, mut run: impl FnMut(&Chooser)) -> Explored {
    let chooser = Chooser::new(Path {
        preemptions: bounds.preemptions,
        ..Path::default()
    });
    let mut paths = 0;
    loop {
        attempt(&chooser, &mut run);
        paths += 1;
        let more = chooser.next();
        if !more || paths >= bounds.paths {
            return Explored {
                paths,
                complete: !more,
                deepest: chooser.0.lock().deepest,
            };
        }
    }
}

/// Runs a test with so many random sequences of choices: for what is too large for [`explore`].
pub fn explore_random(seed: u64, paths: u64, mut run: impl FnMut(&Chooser)) -> Explored {
    let mut deepest = 0;
    for number in 0..paths {
        let random = Some(ChaCha8Rng::seed_from_u64(seed.wrapping_add(number)));
        let chooser = Chooser::new(Path {
            random,
            preemptions: usize::MAX,
            ..Path::default()
        });
        attempt(&chooser, &mut run);
        deepest = deepest.max(chooser.0.lock().choices.len());
    }
    Explored {
        paths,
        complete: false,
        deepest,
    }
}

/// Runs one sequence of choices, telling what happens; 0 is chosen after its end. The bounds are
/// those of the exploration that printed it.
pub fn replay(bounds: Bounds, choices: &[usize], run: impl FnOnce(&Chooser)) {
    run(&Chooser::new(Path {
        forced: choices.to_vec(),
        telling: true,
        preemptions: bounds.preemptions,
        ..Path::default()
    }));
}

fn attempt(chooser: &Chooser, run: &mut impl FnMut(&Chooser)) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(chooser))) else {
        return;
    };
    eprintln!(
        "failed with the choices {:?}; once more, step by step:",
        chooser.taken()
    );
    {
        let mut path = chooser.0.lock();
        path.at = 0;
        path.telling = true;
    }
    let _ = catch_unwind(AssertUnwindSafe(|| run(chooser)));
    resume_unwind(panic);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_comes_exactly_once() {
        let mut seen = Vec::new();
        let explored = explore(Bounds::default(), |chooser| {
            let a = chooser.choose(2);
            let b = if a == 1 { chooser.choose(3) } else { 0 };
            seen.push((a, b));
        });
        assert_eq!(seen, [(0, 0), (1, 0), (1, 1), (1, 2)]);
        assert_eq!(
            explored,
            Explored {
                paths: 4,
                complete: true,
                deepest: 2
            }
        );
    }

    #[test]
    fn a_failure_can_be_replayed_by_its_choices() {
        let run = |chooser: &Chooser| {
            let sum = (0..5).map(|_| chooser.choose(2)).sum::<usize>();
            assert_ne!(sum, 3);
        };
        assert!(catch_unwind(|| explore(Bounds::default(), run)).is_err());
        replay(Bounds::default(), &[1, 1], run);
        assert!(catch_unwind(|| replay(Bounds::default(), &[0, 0, 1, 1, 1], run)).is_err());
    }

    #[test]
    fn known_states_are_not_explored_again() {
        let mut ends = 0;
        explore(Bounds::default(), |chooser| {
            let mut sum = 0;
            for step in 0..10 {
                sum += chooser.choose(2);
                if chooser.met_before(&(step, sum)) {
                    return;
                }
            }
            ends += 1;
        });
        assert_eq!(ends, 11, "one end for each sum, not 1024");
    }

    #[test]
    fn a_bound_on_runs_is_said_not_to_be_complete() {
        let bounds = Bounds {
            paths: 3,
            ..Bounds::default()
        };
        let explored = explore(bounds, |chooser| {
            chooser.choose(9);
        });
        assert_eq!((explored.paths, explored.complete), (3, false));
    }
}
