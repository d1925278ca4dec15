//! One of those who work: it does one thing after the other, and tells what came of it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;
use rand::rngs::ThreadRng;
use rand::seq::IndexedRandom;
use rustix::fs::FlockOperation;

use super::{Deed, record};
use crate::sys::{RangeLock, range_lock, range_lock_wait};

/// Files of lines: each with its own way to lock and to find its end.
const FILES: usize = 6;
const COUNTERS: usize = 3;

/// One who works below a directory of a mount, while others do so elsewhere.
pub struct Hand {
    base: PathBuf,
    name: String,
    report: File,
    random: ThreadRng,
    next: u64,
    /// The highest number seen of each counter.
    seen: HashMap<usize, u64>,
    last_claim: u128,
    /// How often the mount or the server was away.
    away: u64,
}

/// Why a thing was not done.
enum Trouble {
    /// The mount or the server is away; whatever was under way may have happened.
    Away,
    /// Something is wrong.
    Wrong(String),
}

type Result<T> = std::result::Result<T, Trouble>;

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        let away = [
            libc::ENOTCONN,
            libc::ECONNABORTED,
            libc::EIO,
            libc::ESTALE,
            libc::ENODEV,
        ];
        match error.raw_os_error() {
            Some(errno) if away.contains(&errno) => Trouble::Away,
            _ => Trouble::Wrong(error.to_string()),
        }
    }
}

/// The ways to exclude others.
#[derive(Clone, Copy)]
enum Family {
    Record,
    OpenFile,
    Flock,
}

impl Family {
    fn of(number: usize) -> Family {
        [Family::Record, Family::OpenFile, Family::Flock][number % 3]
    }

    fn lock(self, file: &File) -> io::Result<()> {
        match self {
            Family::Record => range_lock_wait(file, RangeLock::Process, libc::F_WRLCK, 0, 0),
            Family::OpenFile => range_lock_wait(file, RangeLock::OpenFile, libc::F_WRLCK, 0, 0),
            Family::Flock => Ok(rustix::fs::flock(file, FlockOperation::LockExclusive)?),
        }
    }

    fn unlock(self, file: &File) -> io::Result<()> {
        match self {
            Family::Record => range_lock(file, RangeLock::Process, libc::F_UNLCK, 0, 0),
            Family::OpenFile => range_lock(file, RangeLock::OpenFile, libc::F_UNLCK, 0, 0),
            Family::Flock => Ok(rustix::fs::flock(file, FlockOperation::Unlock)?),
        }
    }
}

fn in_one(written: io::Result<usize>, wanted: usize) -> Result<()> {
    match written? {
        len if len == wanted => Ok(()),
        len => Err(Trouble::Wrong(format!(
            "{len} bytes of {wanted} were written"
        ))),
    }
}

impl Hand {
    /// One of this name, no two of which are at work.
    pub fn new(base: &Path, name: &str, report: &Path) -> io::Result<Hand> {
        Ok(Hand {
            base: base.to_owned(),
            name: name.into(),
            report: OpenOptions::new().append(true).create(true).open(report)?,
            random: rand::rng(),
            next: 0,
            seen: HashMap::new(),
            last_claim: 0,
            away: 0,
        })
    }

    /// Works until a file is there. Says how often it was cut off, or what is wrong.
    pub fn work_until(mut self, stop: &Path) -> std::result::Result<u64, String> {
        while !stop.exists() {
            match self.turn() {
                Ok(()) => {}
                Err(Trouble::Away) => {
                    self.away += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(Trouble::Wrong(sentence)) => {
                    return Err(format!("{}: {sentence}", self.name));
                }
            }
        }
        Ok(self.away)
    }

    fn turn(&mut self) -> Result<()> {
        let (what, turn): (&str, fn(&mut Hand) -> Result<()>) =
            match self.random.random_range(0..10) {
                0..4 => ("a line", Hand::append),
                4..6 => ("a counter", Hand::count),
                6 => ("a claim", Hand::claim),
                7..9 => ("putting", Hand::put),
                _ => ("taking", Hand::take),
            };
        turn(self).map_err(|trouble| match trouble {
            Trouble::Wrong(sentence) => Trouble::Wrong(format!("{what}: {sentence}")),
            away => away,
        })
    }

    fn another_name(&mut self) -> String {
        self.next += 1;
        format!("{}-{}", self.name, self.next)
    }

    fn tell(&mut self, outcome: &str, deed: &Deed) -> Result<()> {
        let line = format!("{outcome} {}\n", deed.text());
        let told = self.report.write_all(line.as_bytes());
        told.map_err(|error| Trouble::Wrong(format!("the report: {error}")))
    }

    /// Does what cannot be undone, and tells what is known of it.
    fn doing(&mut self, deed: Deed, what: impl FnOnce() -> Result<()>) -> Result<()> {
        let outcome = what();
        match &outcome {
            Ok(()) => self.tell("done", &deed)?,
            Err(Trouble::Away) => self.tell("unknown", &deed)?,
            Err(Trouble::Wrong(_)) => {}
        }
        outcome
    }

    /// Sometimes a lock goes with the file.
    fn let_go(&mut self, family: Family, file: &File) -> Result<()> {
        if self.random.random() {
            family.unlock(file)?;
        }
        Ok(())
    }

    fn append(&mut self) -> Result<()> {
        let number = self.random.random_range(0..FILES);
        let (family, appends) = (Family::of(number), number >= 3);
        let place = format!("file-{number}");
        let mut options = OpenOptions::new();
        options.read(true).create(true).append(appends).write(true);
        let mut file = options.open(self.base.join("lines").join(&place))?;
        family.lock(&file)?;
        let end = file.metadata()?.len();
        let name = self.another_name();
        let text = record(&name);
        self.doing(Deed::Line(place, name), || {
            match appends {
                true => in_one(file.write(text.as_bytes()), text.len()),
                // A kernel that does not have the page where the file ends writes the rest of that
                // page by itself: the mount may be gone before what is left.
                false => Ok(file.write_all_at(text.as_bytes(), end)?),
            }
        })?;
        if self.random.random_ratio(1, 20) {
            file.sync_data()?;
        }
        self.let_go(family, &file)
    }

    fn count(&mut self) -> Result<()> {
        let number = self.random.random_range(0..COUNTERS);
        let family = Family::of(number);
        let place = format!("count-{number}");
        let mut options = OpenOptions::new();
        options.read(true).create(true).write(true).truncate(false);
        let file = options.open(self.base.join("counts").join(&place))?;
        family.lock(&file)?;
        let mut text = [0; 20];
        let len = file.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..len]).into_owned();
        let before: u64 = match text.as_str() {
            "" => 0,
            text => text.parse().map_err(|_| {
                Trouble::Wrong(format!("{place} was read as {text:?}, which is no number"))
            })?,
        };
        let seen = self.seen.entry(number).or_default();
        if before < *seen {
            let story = format!("{place} was {seen} and is {before}");
            return Err(Trouble::Wrong(story));
        }
        *seen = before;
        self.doing(Deed::Count(place, before + 1), || {
            let text = format!("{:020}", before + 1);
            in_one(file.write_at(text.as_bytes(), 0), text.len())
        })?;
        self.seen.insert(number, before + 1);
        self.let_go(family, &file)
    }

    fn claim(&mut self) -> Result<()> {
        // All who have the same clock want the same one.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let claim = now.map_or(0, |now| now.as_millis() / 50);
        if claim == self.last_claim {
            return Ok(());
        }
        self.last_claim = claim;
        let name = claim.to_string();
        let path = self.base.join("claims").join(&name);
        match File::create_new(path) {
            Ok(_) => self.tell("done", &Deed::Claim(name)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => {
                let trouble = Trouble::from(error);
                if matches!(trouble, Trouble::Away) {
                    self.tell("unknown", &Deed::Claim(name))?;
                }
                Err(trouble)
            }
        }
    }

    fn put(&mut self) -> Result<()> {
        let name = self.another_name();
        let made = self.base.join("new").join(&name);
        fs::write(&made, record(&name))?;
        let there = self.base.join("spool").join(&name);
        self.doing(Deed::Put(name), || Ok(fs::rename(made, there)?))
    }

    fn take(&mut self) -> Result<()> {
        let spool = self.base.join("spool");
        let mut names = Vec::new();
        for entry in fs::read_dir(&spool)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        // The oldest are wanted by all.
        names.sort_unstable();
        names.truncate(2);
        let Some(name) = names.choose(&mut self.random).cloned() else {
            return Ok(());
        };
        let mine = format!("{}~{name}", self.name);
        let there = self.base.join("taken").join(&mine);
        let deed = Deed::Take(name.clone(), self.name.clone());
        match fs::rename(spool.join(&name), &there) {
            Ok(()) => self.tell("done", &deed)?,
            // Somebody else has it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                let trouble = Trouble::from(error);
                if matches!(trouble, Trouble::Away) {
                    self.tell("unknown", &deed)?;
                }
                return Err(trouble);
            }
        }
        let text = fs::read(&there)?;
        match text == record(&name).as_bytes() {
            true => Ok(()),
            false => {
                let story = format!("{name} is not what was written and closed before");
                Err(Trouble::Wrong(story))
            }
        }
    }
}
