//! The file of records: it has to survive the end of the process, not of the machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::record::{Record, What, framed, read};

/// When the file is written anew with what still matters.
const LONG: u64 = 4 << 20;

pub(crate) struct Journal {
    path: PathBuf,
    boot: String,
    /// `None` while it cannot be written: then there is none on the disk either.
    file: Option<File>,
    len: u64,
    /// How long it was when it was new.
    new: u64,
}

impl Journal {
    /// Opens the file in this directory, and gives its records. Those of another boot do not count: what
    /// was done then may be undone.
    pub(crate) fn open(directory: &Path, boot: &str) -> io::Result<(Journal, Vec<Record>)> {
        let path = directory.join("replies");
        let records = match fs::read(&path) {
            Ok(bytes) => read(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut records = records.into_iter();
        let same = matches!(
            records.next().and_then(|first| first.what),
            Some(What::Boot(of)) if of == boot
        );
        let records = if same { records.collect() } else { Vec::new() };
        let journal = Journal {
            path,
            boot: boot.into(),
            file: None,
            len: 0,
            new: 0,
        };
        Ok((journal, records))
    }

    /// Whether it is time for a new file, or there is none.
    pub(crate) fn wants_renewal(&self) -> bool {
        self.file.is_none() || self.len > LONG.max(4 * self.new)
    }

    /// Starts a new file with these.
    pub(crate) fn renew(&mut self, records: &[Record]) -> io::Result<()> {
        let boot = Record {
            what: Some(What::Boot(self.boot.clone())),
            ..Record::default()
        };
        let mut bytes = framed(&boot);
        records
            .iter()
            .for_each(|record| bytes.extend(framed(record)));
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&bytes)?;
        fs::rename(&new, &self.path)?;
        (self.len, self.new) = (bytes.len() as u64, bytes.len() as u64);
        self.file = Some(file);
        Ok(())
    }

    /// Adds a record; false when it could not be written. Then there is no file any more: one
    /// that lacks records would tell the next server that calls were never begun. An error when
    /// it cannot be taken away either.
    pub(crate) fn add(&mut self, record: &Record) -> io::Result<bool> {
        let Some(file) = &mut self.file else {
            return Ok(false);
        };
        let bytes = framed(record);
        self.len += bytes.len() as u64;
        let Err(error) = file.write_all(&bytes) else {
            return Ok(true);
        };
        tracing::error!("records of calls cannot be written: {error}");
        if fs::remove_file(&self.path).is_err() {
            let emptied = OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&self.path);
            drop(emptied?);
        }
        self.file = None;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64) -> Record {
        Record {
            client: vec![1; 16],
            seq,
            what: Some(What::Known(seq)),
        }
    }

    #[test]
    fn what_was_written_is_there_for_the_next_process_in_this_boot_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, none) = Journal::open(dir.path(), "boot").unwrap();
        assert!(none.is_empty() && journal.wants_renewal());
        journal.renew(&[record(1)]).unwrap();
        assert!(journal.add(&record(2)).unwrap());
        assert!(!journal.wants_renewal());
        let (_, records) = Journal::open(dir.path(), "boot").unwrap();
        assert_eq!(records, [record(1), record(2)]);
        let (_, records) = Journal::open(dir.path(), "another").unwrap();
        assert!(records.is_empty());
    }

    #[test]
    fn a_file_that_could_not_be_written_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), "boot").unwrap();
        journal.renew(&[record(1)]).unwrap();
        journal.file = Some(File::open(dir.path().join("replies")).unwrap());
        assert!(!journal.add(&record(2)).unwrap());
        let (_, records) = Journal::open(dir.path(), "boot").unwrap();
        assert!(records.is_empty());
        assert!(journal.wants_renewal());
        journal.renew(&[record(3)]).unwrap();
        assert!(journal.add(&record(4)).unwrap());
        assert_eq!(
            Journal::open(dir.path(), "boot").unwrap().1,
            [record(3), record(4)]
        );
    }
}
