//! The loop: choose, do, compare, read back; and what to do when the mount dies.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::Mode;
use rustix::io::Errno;

use super::act::{Done, act};
use super::choose::{Phase, choose};
use super::held::Held;
use super::model::{Body, Model, describe};
use super::observe::{object, observe};
use super::operation::Operation;

/// How a worker works.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that it owns.
    pub base: PathBuf,
    /// Seed of everything random.
    pub seed: u64,
    /// Operations by which the directory was built before (see [`populate`]).
    pub built: usize,
    /// Ends after so many operations.
    pub operations: u64,
    /// Ends when this file is there.
    pub until: Option<PathBuf>,
    /// What is waited for, and no error.
    pub survives: Deaths,
}

/// Whose deaths a worker lives through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deaths {
    /// Nobody's.
    None,
    /// Of servers of bricks: of these it notices that what was unlinked while it was open is gone
    /// (ESTALE, or EIO when its inode number is another's by now), and nothing else.
    Servers,
    /// Of the mount as well.
    All,
}

/// What a worker did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Operations done.
    pub operations: u64,
    /// How often the mount died under it.
    pub disconnects: u64,
    /// By name.
    pub by_name: BTreeMap<String, u64>,
}

/// A process that works in its directory.
pub struct Worker {
    options: Options,
    model: Model,
    held: Held,
    random: ChaCha8Rng,
    report: Report,
    /// The mount died, and what was under way was found not done.
    undone: bool,
}

const MOST_OBJECTS: usize = 260;

/// Builds a worker's directory, on the source before a migration: `operations` random ones. A
/// worker with the same seed knows what is in there.
pub fn populate(base: &Path, seed: u64, operations: usize) {
    rustix::process::umask(Mode::empty());
    std::fs::create_dir(base).unwrap();
    rustix::fs::chmod(base, Mode::from_raw_mode(0o755)).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut model = Model::default();
    let mut held = Held::default();
    for _ in 0..operations {
        let operation = choose(&model, &mut random, Phase::Build, MOST_OBJECTS);
        let expected = model.apply(&operation);
        let got = act(base, &mut held, &operation).map(drop);
        if let Some(wrong) = disagree(&expected, &got) {
            panic!(
                "building {} with seed {seed}: {operation:?}: {wrong}",
                base.display()
            );
        }
    }
}

/// Builds a directory by a script of operations.
pub fn build(base: &Path, script: &[Operation]) {
    rustix::process::umask(Mode::empty());
    std::fs::create_dir_all(base).unwrap();
    rustix::fs::chmod(base, Mode::from_raw_mode(0o755)).unwrap();
    for operation in script {
        act(base, &mut Held::default(), operation)
            .unwrap_or_else(|error| panic!("{operation:?}: {error}"));
    }
}

fn replay(seed: u64, operations: usize) -> Model {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut model = Model::default();
    for _ in 0..operations {
        let operation = choose(&model, &mut random, Phase::Build, MOST_OBJECTS);
        let _ = model.apply(&operation);
    }
    model
}

/// What says that somebody who is allowed to is gone, and nothing else.
fn is_disconnect(survives: Deaths, error: &io::Error) -> bool {
    match survives {
        Deaths::None => false,
        Deaths::Servers => error.raw_os_error() == Some(libc::ESTALE),
        Deaths::All => is_gone(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    let gone = [
        libc::ENOTCONN,
        libc::ECONNABORTED,
        libc::EIO,
        libc::ESTALE,
        libc::ENODEV,
    ];
    error.raw_os_error().is_some_and(|errno| gone.contains(&errno))
        // madvise says so when a page cannot be read in.
        || error.raw_os_error() == Some(libc::EFAULT)
        || error.raw_os_error() == Some(libc::EHWPOISON)
}

fn disagree(expected: &Result<(), Errno>, got: &io::Result<()>) -> Option<String> {
    match (expected, got) {
        (Ok(()), Ok(())) => None,
        (Err(wanted), Err(error)) if error.raw_os_error() == Some(wanted.raw_os_error()) => None,
        // POSIX allows either for a directory that is not empty; xfs says the other.
        (Err(Errno::NOTEMPTY), Err(error)) if error.raw_os_error() == Some(libc::EEXIST) => None,
        (Ok(()), Err(error)) => Some(format!("failed: {error}")),
        (Err(wanted), Ok(())) => Some(format!("succeeded, expected {wanted}")),
        (Err(wanted), Err(error)) => Some(format!("failed with {error}, expected {wanted}")),
    }
}

impl Worker {
    /// A worker that knows what [`populate`] has built for it.
    pub fn new(options: Options) -> Worker {
        rustix::process::umask(Mode::empty());
        let model = replay(options.seed, options.built);
        let random = ChaCha8Rng::seed_from_u64(options.seed ^ 0x5eed);
        Worker {
            options,
            model,
            held: Held::default(),
            random,
            report: Report::default(),
            undone: false,
        }
    }

    /// A worker that knows what [`build`] has built with this script, and survives kills.
    pub fn scripted(base: &Path, built: &[Operation]) -> Worker {
        let mut worker = Worker::new(Options {
            base: base.to_owned(),
            seed: 0,
            built: 0,
            operations: 0,
            until: None,
            survives: Deaths::All,
        });
        for operation in built {
            let _ = worker.model.apply(operation);
        }
        worker
    }

    /// Does a script and then [`run`](Worker::run)s to the end. What was lost under way when the
    /// mount died is done again.
    pub fn follow(mut self, script: &[Operation]) -> Result<Report, String> {
        for operation in script {
            self.undone = false;
            let tell = |wrong| format!("{operation:?}: {wrong}");
            self.step(operation).map_err(tell)?;
            if self.undone {
                self.step(operation).map_err(tell)?;
            }
        }
        self.run()
    }

    /// Works to the end; then everything must be as the model says. The error is a sentence
    /// with the seed and the operation in it.
    pub fn run(mut self) -> Result<Report, String> {
        while self.report.operations < self.options.operations && !self.told_to_stop() {
            let operation = choose(&self.model, &mut self.random, Phase::Live, MOST_OBJECTS);
            self.step(&operation).map_err(|wrong| {
                format!(
                    "{} with seed {}, operation {}: {operation:?}: {wrong}",
                    self.options.base.display(),
                    self.options.seed,
                    self.report.operations
                )
            })?;
            self.report.operations += 1;
            *self.report.by_name.entry(operation.name()).or_default() += 1;
        }
        self.held.clear();
        self.model.release_all();
        let found = self.patiently(observe)?;
        match self.model.difference(&found) {
            None => Ok(self.report),
            Some(wrong) => Err(format!(
                "{} with seed {}, at the end: {wrong}",
                self.options.base.display(),
                self.options.seed
            )),
        }
    }

    fn told_to_stop(&self) -> bool {
        self.options
            .until
            .as_ref()
            .is_some_and(|file| file.exists())
    }

    fn step(&mut self, operation: &Operation) -> Result<(), String> {
        if self.options.survives == Deaths::All && self.is_another_mount() {
            self.recover(self.model.clone(), None)?;
        }
        let before = (self.options.survives != Deaths::None).then(|| self.model.clone());
        let target = self.target(operation);
        let acted = act(&self.options.base, &mut self.held, operation);
        let got = match acted.map_err(|error| match operation {
            Operation::HeldWrite { slot, .. } | Operation::HeldTruncate { slot, .. } => {
                self.stale(*slot, error)
            }
            _ => error,
        }) {
            Ok(Done::NotSupported) => return Ok(()),
            Ok(Done::Yes) => Ok(()),
            Err(error) if is_disconnect(self.options.survives, &error) => {
                let before = before.unwrap_or_default();
                return self.recover(before, Some((operation, target)));
            }
            Err(error) => Err(error),
        };
        let expected = self.model.apply(operation);
        if let Some(wrong) = disagree(&expected, &got) {
            return Err(wrong);
        }
        match self.read_back(operation) {
            Ok(verdict) => verdict,
            // The operation was acknowledged: after the restart it must be there.
            Err(error) if is_disconnect(self.options.survives, &error) => {
                let now = self.model.clone();
                self.recover(now, None)
            }
            Err(error) => Err(format!("reading back failed: {error}")),
        }
    }

    /// The path whose content an operation changes, for what is done in part.
    fn target(&self, operation: &Operation) -> Option<String> {
        match operation {
            Operation::CopyRange { to, .. } => Some(to.clone()),
            Operation::HeldWrite { slot, .. } => {
                let id = self.model.held.get(slot)?;
                self.model
                    .paths()
                    .into_iter()
                    .find(|(_, other)| other == id)
                    .map(|(path, _)| path)
            }
            other if other.may_be_partial() => other.paths().first().map(|path| (*path).to_owned()),
            _ => None,
        }
    }

    fn read_back(&mut self, operation: &Operation) -> io::Result<Result<(), String>> {
        let mut paths: Vec<String> = operation.paths().into_iter().map(str::to_owned).collect();
        let all = self.model.paths();
        paths.push(all[self.random.random_range(0..all.len())].0.clone());
        for path in paths {
            let full = if path.is_empty() {
                self.options.base.clone()
            } else {
                self.options.base.join(&path)
            };
            match (self.model.find(&path), object(&full)) {
                (Ok(id), Ok(mut found)) => {
                    let expected = self.model.object(id);
                    if let Body::Directory(entries) = &mut found.body {
                        let names = std::fs::read_dir(&full)?.map(|entry| {
                            entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), 0))
                        });
                        *entries = names.collect::<io::Result<_>>()?;
                    }
                    if !expected.looks_like(&found) {
                        let text = format!(
                            "{path:?} is {}, expected {}",
                            describe(&found),
                            describe(expected)
                        );
                        return Ok(Err(text));
                    }
                }
                (Err(_), Ok(found)) => {
                    return Ok(Err(format!(
                        "{path:?} is still there: {}",
                        describe(&found)
                    )));
                }
                (Err(_), Err(error))
                    if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
                (Ok(_), Err(error)) if error.raw_os_error() == Some(libc::ENOENT) => {
                    return Ok(Err(format!("{path:?} is gone")));
                }
                (_, Err(error)) => return Err(error),
            }
        }
        if let Operation::Times {
            path,
            seconds,
            nanoseconds,
        } = operation
            && self.model.find(path).is_ok()
        {
            use std::os::unix::fs::MetadataExt;
            let meta = std::fs::symlink_metadata(self.options.base.join(path))?;
            if (meta.mtime(), meta.mtime_nsec()) != (*seconds, *nanoseconds) {
                return Ok(Err(format!(
                    "mtime is {}.{:09}",
                    meta.mtime(),
                    meta.mtime_nsec()
                )));
            }
        }
        self.read_held()
    }

    /// The kernel fails all on an inode with EIO when another object has its number.
    fn stale(&self, slot: usize, error: io::Error) -> io::Error {
        let paths = self.model.paths();
        let held = self.model.held.get(&slot);
        let is_nameless = held.is_some_and(|id| paths.iter().all(|(_, named)| named != id));
        match error.raw_os_error() {
            Some(libc::EIO) if is_nameless => io::Error::from_raw_os_error(libc::ESTALE),
            _ => error,
        }
    }

    /// What is held is of a mount that has died, and another one has come so soon that nobody was told. It
    /// tells what the kernel had in its cache.
    fn is_another_mount(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(now) = std::fs::metadata(&self.options.base) else {
            return false;
        };
        let slots = self.model.held.keys();
        let held = slots.filter_map(|slot| self.held.file(*slot).ok()?.metadata().ok());
        held.into_iter().any(|held| held.dev() != now.dev())
    }

    fn read_held(&self) -> io::Result<Result<(), String>> {
        use std::os::unix::fs::FileExt;
        for slot in self.model.held.keys() {
            let (Some(expected), Ok(file)) = (self.model.held_file(*slot), self.held.file(*slot))
            else {
                continue;
            };
            let mut found = vec![0; expected.len() + 1];
            let mut length = 0;
            loop {
                let read = file.read_at(&mut found[length..], length as u64);
                match read.map_err(|error| self.stale(*slot, error))? {
                    0 => break,
                    more => length += more,
                }
            }
            if found[..length] != expected[..] {
                if self.options.survives == Deaths::All && self.is_another_mount() {
                    return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
                }
                let at = found[..length]
                    .iter()
                    .zip(expected)
                    .position(|(a, b)| a != b);
                return Ok(Err(format!(
                    "the descriptor in slot {slot} reads {length} bytes of {}, first difference {at:?}",
                    expected.len()
                )));
            }
        }
        Ok(Ok(()))
    }

    /// After the daemon died: what is there now must be `before`, or that with the operation
    /// done, wholly or in part. The model becomes what is there.
    fn recover(
        &mut self,
        mut before: Model,
        doubt: Option<(&Operation, Option<String>)>,
    ) -> Result<(), String> {
        self.report.disconnects += 1;
        self.held.clear();
        let mut after = before.clone();
        if let Some((operation, _)) = &doubt {
            let _ = after.apply(operation);
        }
        before.release_all();
        after.release_all();
        let found = self.patiently(observe)?;
        let Some(wrong) = before.difference(&found) else {
            self.undone = doubt.is_some();
            self.model = before;
            return Ok(());
        };
        if after.difference(&found).is_none() {
            self.model = after;
            return Ok(());
        }
        if let Some((operation, Some(path))) = doubt
            && operation.may_be_partial()
            && let (Ok(old), Ok(new), Ok(seen)) =
                (before.file(&path), after.file(&path), found.file(&path))
            && is_between(old, new, seen)
        {
            let seen = seen.clone();
            before.accept_content(&path, seen);
            if before.difference(&found).is_none() {
                self.model = before;
                return Ok(());
            }
        }
        Err(format!("after a kill: {wrong}"))
    }

    /// Until the directory answers without the mount dying again; two minutes.
    fn patiently<T>(&mut self, mut read: impl FnMut(&Path) -> io::Result<T>) -> Result<T, String> {
        let started = Instant::now();
        loop {
            match read(&self.options.base) {
                Ok(found) => return Ok(found),
                Err(error) if is_disconnect(self.options.survives, &error) => {
                    if started.elapsed() > Duration::from_secs(120) {
                        return Err(format!(
                            "the mount did not come back within two minutes: {error}"
                        ));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(format!("{}: {error}", self.options.base.display())),
            }
        }
    }
}

/// Each byte from before or after (or a zero where the file grew), and no longer than the longer.
fn is_between(old: &[u8], new: &[u8], seen: &[u8]) -> bool {
    seen.len() <= old.len().max(new.len())
        && seen.iter().enumerate().all(|(at, byte)| {
            old.get(at) == Some(byte)
                || new.get(at) == Some(byte)
                || (*byte == 0 && at >= old.len())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_agrees_with_the_file_system_that_it_stands_on() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("work");
        populate(&base, 7, 300);
        let options = Options {
            base,
            seed: 7,
            built: 300,
            operations: 3000,
            until: None,
            survives: Deaths::None,
        };
        let report = Worker::new(options).run().unwrap();
        assert_eq!(report.operations, 3000);
        assert!(report.by_name.len() > 25, "{:?}", report.by_name);
    }

    #[test]
    fn a_lost_write_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("work");
        populate(&base, 8, 300);
        let options = Options {
            base: base.clone(),
            seed: 8,
            built: 300,
            operations: 0,
            until: None,
            survives: Deaths::None,
        };
        let worker = Worker::new(options);
        let (path, _) = worker
            .model
            .paths()
            .into_iter()
            .find(|(_, id)| matches!(&worker.model.object(*id).body, Body::File(data) if data.len() > 10))
            .unwrap();
        std::fs::write(base.join(path), b"other").unwrap();
        assert!(worker.run().unwrap_err().contains("at the end"));
    }

    #[test]
    fn half_a_write_is_neither_before_nor_after_and_yet_accepted() {
        assert!(is_between(b"aaaa", b"bbbb", b"bbaa"));
        assert!(is_between(b"aa", b"aabbbb", b"aab"));
        assert!(!is_between(b"aaaa", b"bbbb", b"bcaa"));
    }
}
