//! Several processes that work in a mount at once, each in a directory of its own.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::hermitfs::built;
use crate::lab::Lab;
use crate::world::populate;

/// Operations by which each worker's directory is built.
const BUILT: usize = 400;

/// Seeds for some workers: `HERMITFS_SEED` and those after it, or random ones. They are printed.
pub fn seeds(workers: u64) -> Vec<u64> {
    let first = match std::env::var("HERMITFS_SEED") {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("HERMITFS_SEED is no number: {text}")),
        Err(_) => rand::random::<u32>().into(),
    };
    println!("HERMITFS_SEED={first}");
    (first..first + workers).collect()
}

/// `HERMITFS_SOAK=1`: loads run ten times as long.
pub fn soak() -> u64 {
    if std::env::var_os("HERMITFS_SOAK").is_some() {
        10
    } else {
        1
    }
}

/// Builds the workers' directories in the source, before a migration starts.
pub fn build(source: &Path, seeds: &[u64]) {
    for seed in seeds {
        populate(&source.join(directory(*seed)), *seed, BUILT);
    }
}

fn directory(seed: u64) -> String {
    format!("worker-{seed}")
}

/// Processes at work; killed when dropped.
pub struct Crew {
    stop: PathBuf,
    workers: Vec<(Child, File, u64)>,
}

impl Crew {
    /// Starts a process for each seed in directories that [`build`] made. With `survive` they
    /// live through deaths of the mount.
    pub fn start(lab: &Lab, mount: &Path, seeds: &[u64], survive: bool) -> Crew {
        Crew::living_through(
            lab,
            mount,
            seeds,
            if survive { "survive" } else { "strict" },
        )
    }

    /// The same; they live through deaths of servers, of which they notice nothing but that what was
    /// unlinked while it was open is gone.
    pub fn start_served(lab: &Lab, mount: &Path, seeds: &[u64]) -> Crew {
        Crew::living_through(lab, mount, seeds, "served")
    }

    fn living_through(lab: &Lab, mount: &Path, seeds: &[u64], deaths: &str) -> Crew {
        let stop = lab.path().join(format!("stop-{}", seeds[0]));
        let workers = seeds
            .iter()
            .map(|seed| {
                let said = tempfile::tempfile().unwrap();
                let child = Command::new(built("hermitfs-load"))
                    .arg(mount.join(directory(*seed)))
                    .args([seed.to_string(), BUILT.to_string(), u64::MAX.to_string()])
                    .arg(&stop)
                    .arg(deaths)
                    .stdin(Stdio::null())
                    .stdout(said.try_clone().unwrap())
                    .stderr(said.try_clone().unwrap())
                    .spawn()
                    .unwrap();
                (child, said, *seed)
            })
            .collect();
        Crew { stop, workers }
    }

    /// Lets them work, and fails the test as soon as one of them has found something wrong.
    #[track_caller]
    pub fn work_for(&mut self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            for (child, said, seed) in &mut self.workers {
                if let Some(status) = child.try_wait().unwrap() {
                    panic!("worker {seed} ended early ({status}): {}", text(said));
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the work. Each worker compares everything once more; what they did is printed.
    #[track_caller]
    pub fn stop(self) -> u64 {
        self.end(|seed, text| println!("worker {seed}: {text}"))
    }

    /// The same without a word.
    #[track_caller]
    pub fn stop_quietly(self) -> u64 {
        self.end(|_, _| {})
    }

    #[track_caller]
    fn end(mut self, tell: impl Fn(u64, &str)) -> u64 {
        std::fs::write(&self.stop, b"").unwrap();
        let started = Instant::now();
        let mut operations = 0;
        for (child, said, seed) in &mut self.workers {
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                assert!(
                    started.elapsed() < Duration::from_secs(180),
                    "worker {seed} does not end"
                );
                std::thread::sleep(Duration::from_millis(10));
            };
            let text = text(said);
            assert!(status.success(), "worker {seed} ({status}): {text}");
            tell(*seed, text.trim_end());
            operations += text
                .split(' ')
                .next()
                .and_then(|number| number.parse::<u64>().ok())
                .unwrap_or(0);
        }
        operations
    }
}

fn text(said: &mut File) -> String {
    let mut text = String::new();
    said.rewind().unwrap();
    said.read_to_string(&mut text).unwrap();
    text
}

impl Drop for Crew {
    fn drop(&mut self) {
        for (child, _, _) in &mut self.workers {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
