//! A disk as a power cut leaves it: all that was flushed, and some of what was not.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rand::Rng;

use crate::writelog::WriteLog;

/// What becomes of writes that no flush has followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unflushed {
    /// None is kept.
    Lost,
    /// Each by the toss of a coin.
    Half,
    /// All are kept.
    Kept,
}

/// An image that follows a disk's log, from flush to flush.
pub(crate) struct Platter {
    image: PathBuf,
    log: WriteLog,
    /// Entries that are on the image.
    applied: usize,
}

impl Platter {
    /// `image` is the disk before the first write of the log.
    pub(crate) fn new(image: PathBuf, log: WriteLog) -> Platter {
        Platter {
            image,
            log,
            applied: 0,
        }
    }

    /// Writes that no flush had followed when the log was so long.
    pub(crate) fn unflushed(&self, length: u64) -> usize {
        let begun = &self.log.entries()[..self.log.begun(length)];
        begun.iter().rev().take_while(|entry| !entry.flush).count()
    }

    /// Writes to `to` what is left after a cut at this length of the log. Cuts come in the order
    /// of time. Returns how many writes had not been flushed, and how many of those are kept.
    pub(crate) fn cut(
        &mut self,
        length: u64,
        unflushed: Unflushed,
        chance: &mut impl Rng,
        to: &Path,
    ) -> (usize, usize) {
        let entries = self.log.entries();
        let end = self.log.begun(length);
        let flushed = entries[..end]
            .iter()
            .rposition(|entry| entry.flush)
            .unwrap_or(0)
            .max(self.applied);
        let image = open(&self.image);
        for entry in &entries[self.applied..flushed] {
            self.log.apply(entry, &image).unwrap();
        }
        self.applied = flushed;
        let (from, to_text) = (self.image.to_string_lossy(), to.to_string_lossy());
        hermitfs_tests::shell::run("cp", &["--sparse=auto", &from, &to_text]);
        let (image, mut open_writes, mut kept) = (open(to), 0, 0);
        for entry in entries[flushed..end.max(flushed)]
            .iter()
            .filter(|entry| entry.length > 0)
        {
            open_writes += 1;
            let lucky = match unflushed {
                Unflushed::Lost => false,
                Unflushed::Half => chance.random(),
                Unflushed::Kept => true,
            };
            if lucky || entry.fua {
                self.log.apply(entry, &image).unwrap();
                kept += 1;
            }
        }
        (open_writes, kept)
    }
}

fn open(image: &Path) -> File {
    OpenOptions::new().write(true).open(image).unwrap()
}
