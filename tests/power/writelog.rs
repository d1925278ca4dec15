//! The log of all writes to a disk, as dm-log-writes and qemu's `blklogwrites` write it.
//!
//! A superblock, then entries: a header of one sector, and the data. All numbers are little-endian.
//! See Linux' `Documentation/admin-guide/device-mapper/log-writes.rst`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x6a_73_66_77_73_68_72;
const VERSION: u64 = 1;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// One thing that was done to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where its header is in the log.
    pub(crate) at: u64,
    /// Where its data is in the log; `None` where the range reads as zeros from then on.
    pub(crate) data: Option<u64>,
    /// Where on the disk, in bytes.
    pub(crate) offset: u64,
    /// How much; 0 for a flush alone.
    pub(crate) length: u64,
    /// All that was written before it is on the disk for good.
    pub(crate) flush: bool,
    /// It is itself on the disk for good.
    pub(crate) fua: bool,
}

/// A log that is complete.
#[derive(Debug)]
pub(crate) struct WriteLog {
    file: File,
    entries: Vec<Entry>,
}

impl WriteLog {
    pub(crate) fn open(path: &Path) -> io::Result<WriteLog> {
        let file = File::open(path)?;
        let entries = entries(&file)?;
        Ok(WriteLog { file, entries })
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many entries had been begun when the log was so long.
    pub(crate) fn begun(&self, length: u64) -> usize {
        self.entries.partition_point(|entry| entry.at < length)
    }

    /// Does to an image what was done to the disk.
    pub(crate) fn apply(&self, entry: &Entry, image: &File) -> io::Result<()> {
        let mut buffer = vec![0; entry.length.min(1 << 20) as usize];
        let mut done = 0;
        while done < entry.length {
            let part = &mut buffer[..(entry.length - done).min(1 << 20) as usize];
            if let Some(data) = entry.data {
                self.file.read_exact_at(part, data + done)?;
            }
            image.write_all_at(part, entry.offset + done)?;
            done += part.len() as u64;
        }
        Ok(())
    }
}

fn entries(file: &File) -> io::Result<Vec<Entry>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let number = |at: u64| -> io::Result<u64> {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_le_bytes(bytes))
    };
    if (number(0)?, number(8)?) != (MAGIC, VERSION) {
        return Err(wrong("this is no log of writes"));
    }
    let mut size = [0; 4];
    file.read_exact_at(&mut size, 24)?;
    let sector = u64::from(u32::from_le_bytes(size));
    if sector < 512 {
        return Err(wrong("the log's sectors have no sensible size"));
    }
    let (end, mut at, mut entries) = (file.metadata()?.len(), sector, Vec::new());
    while at + sector <= end {
        let (start, sectors) = (number(at)?, number(at + 8)?);
        let (flags, extra) = (number(at + 16)?, number(at + 24)?);
        // A mark has a text that is no write; a discard has no data at all.
        let length = sectors * sector;
        let stored = match flags {
            flags if flags & MARK != 0 => extra.next_multiple_of(sector),
            flags if flags & DISCARD != 0 => 0,
            _ => length,
        };
        if flags & MARK == 0 {
            entries.push(Entry {
                at,
                data: (flags & DISCARD == 0).then_some(at + sector),
                offset: start * sector,
                length,
                flush: flags & FLUSH != 0,
                fua: flags & FUA != 0,
            });
        }
        at += sector + stored;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: usize = 512;

    fn log(parts: &[(u64, u64, u64, u64, &[u8])]) -> File {
        let mut all = Vec::new();
        for n in [MAGIC, VERSION, parts.len() as u64, SECTOR as u64] {
            all.extend(n.to_le_bytes());
        }
        all.resize(SECTOR, 0);
        for (start, sectors, flags, extra, data) in parts {
            let at = all.len();
            for n in [start, sectors, flags, extra] {
                all.extend(n.to_le_bytes());
            }
            all.resize(at + SECTOR, 0);
            all.extend(*data);
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&all, 0).unwrap();
        file
    }

    #[test]
    fn a_log_of_every_kind_of_entry_is_read() {
        let one = [7; SECTOR];
        let file = log(&[
            (3, 1, 0, 0, &one),
            (0, 0, FLUSH, 0, &[]),
            (0, 0, MARK, 9, &[b'm'; SECTOR]),
            (5, 2, DISCARD, 0, &[]),
            (1, 1, FUA, 0, &one),
        ]);
        let entries = entries(&file).unwrap();
        let short: Vec<_> = entries
            .iter()
            .map(|e| (e.offset, e.length, e.data.is_some(), e.flush, e.fua))
            .collect();
        let sector = SECTOR as u64;
        assert_eq!(
            short,
            [
                (3 * sector, sector, true, false, false),
                (0, 0, true, true, false),
                (5 * sector, 2 * sector, false, false, false),
                (sector, sector, true, false, true),
            ]
        );
        let (log, image) = (WriteLog { file, entries }, tempfile::tempfile().unwrap());
        image.write_all_at(&[1; 8 * SECTOR], 0).unwrap();
        for entry in log.entries() {
            log.apply(entry, &image).unwrap();
        }
        let mut disk = vec![0; 8 * SECTOR];
        image.read_exact_at(&mut disk, 0).unwrap();
        let sectors: Vec<u8> = disk.chunks(SECTOR).map(|sector| sector[0]).collect();
        assert_eq!(sectors, [1, 7, 1, 7, 1, 0, 0, 1]);
        assert_eq!(log.begun(0), 0);
        assert_eq!(log.begun(sector + 1), 1);
        assert_eq!(log.begun(u64::MAX), 4);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0; SECTOR], 0).unwrap();
        assert!(entries(&file).is_err());
    }
}
