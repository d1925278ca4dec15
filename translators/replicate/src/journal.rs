//! The journal: records of one ledger in a file, appended, each frame with its length and
//! checksum.
//!
//! A write(2) that has returned survives a killed process. Power cuts are another matter: what
//! they leave is compared, whatever the journal says, so nothing here waits for a disk; but for the
//! header's word that all is calm.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::record::Record;

/// The header's size; written in full from the start, so that to change it needs no space.
const HEADER: usize = 4096;

/// A frame's length and checksum.
const FRAME: usize = 8;

/// What the journal says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Of the format.
    pub(crate) version: u32,
    /// `/proc/sys/kernel/random/boot_id` when it was last in use.
    pub(crate) boot: String,
    /// It was closed in good order.
    pub(crate) clean: bool,
    /// When this was written, and ever since: nothing is marked, and all that was settled is on the
    /// disks. On the disk it is false before anything changes.
    #[serde(default)]
    pub(crate) calm: bool,
    /// Seconds since 1970 when we last served.
    pub(crate) served: i64,
    /// Seconds since the boot at that time.
    #[serde(default)]
    pub(crate) uptime: i64,
    /// Records could not be written: everything counts as dirty.
    pub(crate) all_dirty: bool,
    /// A sync of the sink failed in this boot: what it reads may not be what its disk has.
    #[serde(default)]
    pub(crate) suspect: bool,
    /// Files healed so far, for those who watch.
    #[serde(default)]
    pub(crate) files: u64,
    /// And their bytes.
    #[serde(default)]
    pub(crate) bytes: u64,
}

/// The format that this program writes.
pub(crate) const VERSION: u32 = 1;

/// An open journal, to append to.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    end: u64,
    /// Size after the last compaction.
    base: u64,
    header: Header,
    scratch: Vec<u8>,
}

/// What a journal held.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) header: Header,
    pub(crate) records: Vec<Record>,
    /// It ended in something that is no frame.
    pub(crate) torn: bool,
}

impl Journal {
    /// Reads what is there; `None` when there is no journal.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Found>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut found = Found::default();
        let (header, mut rest) = bytes.split_at_checked(HEADER).unwrap_or((&[], &[]));
        let text = header.split(|&b| b == b'\n').next().unwrap_or(&[]);
        match serde_json::from_slice::<Header>(text) {
            Ok(header) if header.version == VERSION => found.header = header,
            _ => {
                found.torn = true;
                return Ok(Some(found));
            }
        }
        while !rest.is_empty() {
            match frame(rest) {
                Some((records, length)) => {
                    found.records.extend(records);
                    rest = rest.get(length..).unwrap_or(&[]);
                }
                None => {
                    found.torn = true;
                    break;
                }
            }
        }
        Ok(Some(found))
    }

    /// Begins a journal that holds these records, in place of what was there.
    pub(crate) fn create(path: &Path, header: Header, records: &[Record]) -> io::Result<Journal> {
        let fresh = path.with_extension("new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&fresh)?;
        let mut journal = Journal {
            path: path.to_owned(),
            file,
            end: HEADER as u64,
            base: 0,
            header,
            scratch: Vec::new(),
        };
        journal.write_header()?;
        for chunk in records.chunks(1024) {
            journal.append(chunk)?;
        }
        journal.file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        journal.base = journal.end;
        Ok(journal)
    }

    /// Takes the journal that is there, where there is no room for another one, and has it say that nothing in it is to be
    /// believed: that needs no room. To be written anew when there is.
    pub(crate) fn take_over(path: &Path, header: Header) -> io::Result<Journal> {
        drop(std::fs::remove_file(path.with_extension("new")));
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let end = file.metadata()?.len();
        let mut journal = Journal {
            path: path.to_owned(),
            file,
            end,
            base: end,
            header: Header {
                all_dirty: true,
                ..header
            },
            scratch: Vec::new(),
        };
        journal.write_header()?;
        journal.file.sync_all()?;
        Ok(journal)
    }

    /// Writes records, all of them or none.
    pub(crate) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let scratch = std::mem::take(&mut self.scratch);
        let mut frame = scratch;
        frame.clear();
        frame.resize(FRAME, 0);
        let mut frame = postcard::to_extend(records, frame).map_err(io::Error::other)?;
        let body = frame.split_off(FRAME);
        frame[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
        frame[4..].copy_from_slice(&crc32fast::hash(&body).to_le_bytes());
        frame.extend_from_slice(&body);
        let written = self.file.write_all_at(&frame, self.end);
        if written.is_ok() {
            self.end += frame.len() as u64;
        }
        self.scratch = frame;
        written
    }

    /// Whether it has grown enough to be worth writing anew.
    pub(crate) fn is_long(&self) -> bool {
        self.end > (4 * self.base).max(4 << 20)
    }

    /// Writes it anew with these records alone.
    pub(crate) fn compact(&mut self, records: &[Record]) -> io::Result<()> {
        let header = Header {
            all_dirty: false,
            calm: false,
            ..self.header.clone()
        };
        *self = Journal::create(&self.path, header, records)?;
        Ok(())
    }

    /// What it says of itself.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Changes that; needs no space on the disk.
    pub(crate) fn set_header(&mut self, header: Header) -> io::Result<()> {
        self.header = header;
        self.write_header()
    }

    fn write_header(&mut self) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(&self.header)?;
        bytes.push(b'\n');
        bytes.resize(HEADER, b' ');
        self.file.write_all_at(&bytes, 0)
    }

    /// Nothing can be written to it from now on, until it is written anew.
    #[cfg(test)]
    pub(crate) fn fail(&mut self) {
        self.file = File::open(&self.path).unwrap();
    }

    /// Puts it on stable storage.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn frame(bytes: &[u8]) -> Option<(Vec<Record>, usize)> {
    let (head, rest) = bytes.split_at_checked(FRAME)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let sum = u32::from_le_bytes(head[4..].try_into().ok()?);
    let body = rest.get(..length)?;
    if length == 0 || crc32fast::hash(body) != sum {
        return None;
    }
    Some((postcard::from_bytes(body).ok()?, FRAME + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_is_taken_over_says_that_nothing_in_it_is_to_be_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.0");
        let header = Header {
            version: VERSION,
            clean: true,
            ..Header::default()
        };
        drop(Journal::create(&path, header.clone(), &[]).unwrap());
        std::fs::write(path.with_extension("new"), "of a start that had no room").unwrap();
        let mut journal = Journal::take_over(&path, header.clone()).unwrap();
        assert!(Journal::read(&path).unwrap().unwrap().header.all_dirty);
        assert!(!path.with_extension("new").exists());
        // Written anew it is as any other.
        journal.compact(&[]).unwrap();
        assert_eq!(Journal::read(&path).unwrap().unwrap().header, header);
        std::fs::remove_file(&path).unwrap();
        assert!(Journal::take_over(&path, header).is_err());
    }
    use crate::record::{Oid, Piece};

    fn record(n: u64) -> Record {
        Record::Settled {
            oid: Oid(n, n),
            piece: Piece::Name(vec![b'x'; n as usize].into()),
        }
    }

    #[test]
    fn what_was_appended_is_read_and_a_torn_tail_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let header = Header {
            version: VERSION,
            boot: "b".into(),
            ..Header::default()
        };
        let mut journal = Journal::create(&path, header.clone(), &[record(1)]).unwrap();
        journal.append(&[record(2), record(3)]).unwrap();
        journal.append(&[record(4)]).unwrap();
        let found = Journal::read(&path).unwrap().unwrap();
        assert_eq!(found.header, header);
        assert_eq!(found.records, [1, 2, 3, 4].map(record));
        assert!(!found.torn);
        let whole = std::fs::read(&path).unwrap();
        for cut in HEADER..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let found = Journal::read(&path).unwrap().unwrap();
            let mut full = vec![record(1), record(2), record(3), record(4)];
            full.truncate(found.records.len());
            assert_eq!(found.records, full, "a prefix of whole frames");
        }
        let mut broken = whole.clone();
        *broken.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &broken).unwrap();
        assert!(Journal::read(&path).unwrap().unwrap().torn);
        std::fs::write(&path, &whole[..100]).unwrap();
        assert!(Journal::read(&path).unwrap().unwrap().torn, "half a header");
    }
}
