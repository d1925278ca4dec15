use std::collections::BTreeMap;
use std::sync::Arc;

use hermitfs_api::{Errno, Result, Seek};

/// The unit in which holes are kept, in bytes.
pub(super) const BLOCK: u64 = 4096;

/// The bytes of a file: blocks that were written, holes between them, and a size.
///
/// A block keeps only what comes before its trailing zeros (they are implied), but a block that
/// is there is data for SEEK_DATA even if it is all zeros. A clone shares the blocks.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) size: u64,
    blocks: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Content {
    pub(super) fn allocated(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK
    }

    /// How many bytes a write would allocate.
    pub(super) fn growth(&self, at: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let (first, last) = (at / BLOCK, (at + len - 1) / BLOCK);
        (last - first + 1 - self.blocks.range(first..=last).count() as u64) * BLOCK
    }

    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> usize {
        let len = self.size.saturating_sub(at).min(buffer.len() as u64);
        let buffer = &mut buffer[..len as usize];
        buffer.fill(0);
        if len > 0 {
            for (&number, block) in self.blocks.range(at / BLOCK..=(at + len - 1) / BLOCK) {
                let start = number * BLOCK;
                let (from, to) = (at.max(start), (at + len).min(start + block.len() as u64));
                if from < to {
                    let source = &block[(from - start) as usize..(to - start) as usize];
                    buffer[(from - at) as usize..(to - at) as usize].copy_from_slice(source);
                }
            }
        }
        len as usize
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let offset = at + done as u64;
            let within = (offset % BLOCK) as usize;
            let len = (BLOCK as usize - within).min(data.len() - done);
            let block = Arc::make_mut(self.blocks.entry(offset / BLOCK).or_default());
            if block.len() < within + len {
                block.resize(within + len, 0);
            }
            block[within..within + len].copy_from_slice(&data[done..done + len]);
            done += len;
        }
        self.size = self.size.max(at + data.len() as u64);
    }

    pub(super) fn set_size(&mut self, size: u64) {
        if size < self.size {
            self.blocks.split_off(&size.div_ceil(BLOCK));
            self.trim(size);
        }
        self.size = size;
    }

    /// What lies behind `size` in its block reads as zeros when the file grows again.
    fn trim(&mut self, size: u64) {
        if let Some(block) = self.blocks.get_mut(&(size / BLOCK)) {
            Arc::make_mut(block).truncate((size % BLOCK) as usize);
        }
    }

    /// Whole blocks become holes, parts of blocks zeros; the size stays.
    pub(super) fn punch(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len);
        let touched: Vec<u64> = self
            .blocks
            .range(at / BLOCK..end.div_ceil(BLOCK))
            .map(|(&number, _)| number)
            .collect();
        for number in touched {
            let start = number * BLOCK;
            if at <= start && start + BLOCK <= end {
                self.blocks.remove(&number);
            } else if let Some(block) = self.blocks.get_mut(&number) {
                let from = at.saturating_sub(start) as usize;
                let to = (end - start).min(block.len() as u64) as usize;
                if from < to {
                    Arc::make_mut(block)[from..to].fill(0);
                }
            }
        }
    }

    /// Takes `len` bytes out; both are multiples of a block.
    pub(super) fn collapse(&mut self, at: u64, len: u64) {
        let after = self.blocks.split_off(&(at / BLOCK));
        let kept = after
            .into_iter()
            .filter(|(number, _)| *number >= (at + len) / BLOCK);
        self.blocks
            .extend(kept.map(|(number, block)| (number - len / BLOCK, block)));
        self.size -= len;
    }

    /// Puts a hole of `len` bytes in; both are multiples of a block.
    pub(super) fn insert(&mut self, at: u64, len: u64) {
        let after = self.blocks.split_off(&(at / BLOCK));
        self.blocks.extend(
            after
                .into_iter()
                .map(|(number, block)| (number + len / BLOCK, block)),
        );
        self.size += len;
    }

    pub(super) fn seek(&self, at: u64, seek: Seek) -> Result<u64> {
        if at >= self.size {
            return Err(Errno::ENXIO.into());
        }
        match seek {
            Seek::Data => {
                let next = self.blocks.range(at / BLOCK..).next();
                let found = next.map(|(&number, _)| at.max(number * BLOCK));
                found
                    .filter(|&found| found < self.size)
                    .ok_or(Errno::ENXIO.into())
            }
            Seek::Hole => {
                let mut number = at / BLOCK;
                if !self.blocks.contains_key(&number) {
                    return Ok(at);
                }
                while self.blocks.contains_key(&number) {
                    number += 1;
                }
                Ok((number * BLOCK).min(self.size))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: &Content) -> Vec<u8> {
        let mut all = vec![1; content.size as usize + 1];
        let len = content.read(0, &mut all);
        all.truncate(len);
        all
    }

    #[test]
    fn what_was_cut_off_reads_as_zeros_when_the_file_grows_again() {
        let mut content = Content::default();
        content.write(0, b"abcdef");
        content.set_size(2);
        content.set_size(5);
        assert_eq!(bytes(&content), b"ab\0\0\0");
    }

    #[test]
    fn whole_blocks_become_holes_and_parts_become_zeros() {
        let mut content = Content::default();
        content.write(0, &[7; 3 * BLOCK as usize]);
        content.punch(BLOCK - 10, BLOCK + 20);
        assert_eq!(content.seek(0, Seek::Hole).unwrap(), BLOCK);
        assert_eq!(content.seek(BLOCK, Seek::Data).unwrap(), 2 * BLOCK);
        let mut expected = vec![7; 3 * BLOCK as usize];
        expected[BLOCK as usize - 10..2 * BLOCK as usize + 10].fill(0);
        assert_eq!(bytes(&content), expected);
        assert_eq!(content.allocated(), 2 * BLOCK);
    }

    #[test]
    fn collapse_and_insert_are_each_others_inverse() {
        let mut content = Content::default();
        content.write(BLOCK - 3, b"abcdefgh");
        let before = bytes(&content);
        content.insert(BLOCK, 2 * BLOCK);
        assert_eq!(content.size, before.len() as u64 + 2 * BLOCK);
        assert_eq!(content.seek(BLOCK, Seek::Data).unwrap(), 3 * BLOCK);
        content.collapse(BLOCK, 2 * BLOCK);
        assert_eq!(bytes(&content), before);
    }
}
