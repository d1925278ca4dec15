//! The course of one run: a pair is mounted, worked in, looked at, killed, and in the end made ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hermitfs_api::{Location, Translator};
use hermitfs_replicate::{OpenError, Options, Replicate};
use parking_lot::Mutex;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::crew::Crew;
use super::judge::{says_ready, unlike};
use super::place::{BRICKS, Place, copy};
use super::process::{Linked, Process};
use super::storm::Sky;
use super::{Harshness, WRONG};
use crate::network::SERVER_GRACE;

/// What a run has to be ready in, when all is well.
const READY_WITHIN: Duration = Duration::from_secs(600);

pub(crate) struct Course {
    pub(crate) place: Arc<Place>,
    pub(crate) sky: Arc<Sky>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) harshness: Harshness,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) wrong: Arc<Mutex<Vec<String>>>,
    /// Things that each user does at a time.
    pub(crate) things: usize,
}

/// A pair, and who has it.
struct Mounted {
    pair: Arc<Replicate>,
    process: Arc<Process>,
    state: TempDir,
}

impl Course {
    pub(crate) fn run(mut self) {
        let state = tempfile::tempdir().unwrap();
        let mut mounted = self.mount(state, false);
        self.sky.storm();
        for part in 0..2 {
            self.come(&mounted);
            let end = self.crew.calls() + self.rng.random_range(10..60);
            let dies = self.harshness == Harshness::Mounts;
            while self.crew.is_there() && !(dies && self.crew.calls() >= end) {
                self.look(&mounted);
            }
            if dies {
                mounted = self.replace(mounted);
            } else if part == 0 {
                self.crew.join();
            }
        }
        // Somebody at work, with open files, who has to wait while all is looked at.
        self.come(&mounted);
        self.look(&mounted);
        self.crew.rest();
        self.sky.calm();
        self.becomes_ready("in a lull", &mounted);
        self.crew.go_on();
        self.sky.storm();
        self.crew.join();
        self.sky.calm();
        if self.rng.random() {
            let heals = mounted.pair.heal(&Location { path: Vec::new() }, false);
            if let Err(error) = heals {
                self.tell(format!("healing was not begun: {error}"));
            }
        }
        self.becomes_ready("at the end", &mounted);
        self.leave(mounted);
        self.sky.end();
    }

    fn tell(&self, what: String) {
        self.place.tell(format!("{WRONG}{what}"));
        self.wrong.lock().push(what);
    }

    fn come(&mut self, mounted: &Mounted) {
        let pair: Arc<dyn Translator> = mounted.pair.clone();
        self.crew
            .come(&self.place, &pair, &mut self.rng, self.things);
    }

    /// Until the pair is there, however long that takes. `continuous`: nothing can have reached the bricks
    /// but the one before.
    fn mount(&mut self, state: TempDir, continuous: bool) -> Mounted {
        let host = self.place.boot();
        let waits = self.place.waits.clone();
        let process = Arc::new(Process::new(host.clone(), waits));
        let lines = [0, 1].map(|n| {
            let linked: Arc<dyn Translator> = Arc::new(Linked {
                below: self.place.connect(&host, n),
                process: process.clone(),
            });
            (BRICKS[n].to_owned(), linked)
        });
        let options = Options {
            workers: 2,
            rest_ms: *[0, 20, 100].choose(&mut self.rng).unwrap(),
            backoff: self.rng.random(),
            continuous,
            ..Options::default()
        };
        let [source, sink] = lines;
        let pair = loop {
            let (source, sink) = (source.clone(), vec![sink.clone()]);
            match Replicate::open(options.clone(), source, sink, state.path()) {
                Ok(pair) => break pair,
                // Another one's, for the grace; or the line is down.
                Err(OpenError::Busy(why) | OpenError::Io(why)) => {
                    self.place.tell(format!("not mounted: {why}"))
                }
                Err(error) => {
                    self.tell(format!("it cannot be mounted: {error}"));
                    // Nobody can go on: the run ends by its limit.
                }
            }
            self.place.sleep(500);
        };
        self.place.tell("mounted".into());
        pair.start(|| {});
        Mounted {
            pair,
            process,
            state,
        }
    }

    /// Kills the pair's process, sometimes with both servers (as when they are one), and mounts again.
    fn replace(&mut self, mounted: Mounted) -> Mounted {
        let Mounted {
            pair,
            process,
            state,
        } = mounted;
        process.kill();
        self.place.crash();
        let with_servers = self.rng.random();
        if with_servers {
            (0..BRICKS.len()).for_each(|n| self.place.kill(n));
        }
        let what = if with_servers {
            ", and both servers"
        } else {
            ""
        };
        self.place.tell(format!("the mount is killed{what}"));
        let left = tempfile::tempdir().unwrap();
        copy(state.path(), left.path());
        // What is left of it here.
        self.crew.stop();
        process.end();
        self.crew.join();
        pair.stop();
        drop((pair, state));
        if with_servers {
            (0..BRICKS.len()).for_each(|n| self.place.serve(n));
        }
        self.mount(left, with_servers)
    }

    /// While everybody is at work: whenever it says that it is ready, it is.
    fn look(&mut self, mounted: &Mounted) {
        std::thread::sleep(Duration::from_millis(self.rng.random_range(5..60)));
        match self.rng.random_range(0..3) {
            0 => {
                let limit = Duration::from_millis(500);
                if mounted.pair.freeze(limit).is_ok() {
                    self.compare("and frozen");
                    mounted.pair.thaw();
                }
            }
            1 => {
                self.crew.rest();
                let end = Instant::now() + Duration::from_millis(self.rng.random_range(0..400));
                while Instant::now() < end && !self.is_ready(mounted) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if self.is_ready(mounted) {
                    self.compare("in the middle");
                }
                self.crew.go_on();
            }
            _ => {}
        }
    }

    fn is_ready(&self, mounted: &Mounted) -> bool {
        says_ready(&mounted.pair.status())
    }

    fn compare(&self, when: &str) {
        self.place.tell(format!("compared {when}"));
        let unlike = unlike(when, &self.place.trees());
        unlike.into_iter().for_each(|words| self.tell(words));
    }

    /// All is well, and nobody is at work: now it has to come to its end.
    fn becomes_ready(&self, when: &str, mounted: &Mounted) {
        let end = Instant::now() + READY_WITHIN;
        while !self.is_ready(mounted) {
            if Instant::now() > end {
                let (status, errors) = (mounted.pair.status(), mounted.pair.errors());
                return self.tell(format!("not ready {when}: {status:#?} {errors:#?}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.compare(when);
    }

    /// The end of the pair, after which nothing is open.
    fn leave(&self, mounted: Mounted) {
        mounted.pair.stop();
        drop(mounted);
        // Those of the dead are closed by then, too.
        self.place.sleep(1_000 * SERVER_GRACE + 5_000);
        for (brick, name) in self.place.bricks.iter().zip(BRICKS) {
            let open = brick.log.open();
            if open != 0 {
                self.tell(format!(
                    "{name}: {open} files are open that nobody has open"
                ));
            }
        }
    }
}
