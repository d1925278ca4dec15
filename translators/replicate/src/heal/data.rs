//! Content: ranges of one file made equal in another, holes included.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hermitfs_api::{Allocate, Errno, File, Seek, SetAttr, block_on};

use super::share::Map;
use super::{HEAL, Healer};
use crate::loss::Class;
use crate::ranges::Ranges;
use crate::record::Oid;
use crate::trouble::{Blame, Setback, Step};

/// Bytes moved at a time.
const BLOCK: usize = 512 << 10;

/// A file with more to compare than this is compared by several threads, in pieces of this size.
/// One thread copies: writers to one file wait for each other, and a disk reads best in order.
const PIECE: u64 = 32 << 20;

/// What is known of the image's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// It is new and empty: holes need no work.
    Empty,
    /// It differs in these ranges.
    Stale,
    /// It may be equal: read both, write what differs.
    Unknown,
}

impl Healer {
    /// Makes `to` equal to `from` within the ranges; `to` has the size of `from`, `size`, before
    /// and after.
    pub(super) async fn data(
        &self,
        from: &Arc<File>,
        to: &Arc<File>,
        size: u64,
        ranges: &Ranges,
        before: Before,
    ) -> Step<()> {
        if ranges.is_whole() {
            self.has_all(from.inode(), [Class::Shared]);
        }
        let before = match before {
            Before::Unknown if self.suspect.load(Ordering::Relaxed) => Before::Stale,
            before => before,
        };
        let mut pieces = Vec::new();
        for (start, end) in ranges.iter() {
            let end = end.min(size);
            let mut at = start;
            while at < end {
                let next = end.min((at / PIECE + 1) * PIECE);
                // Of a hole of many pieces one is enough.
                let next = match self.source.lseek(&HEAL, from, at, Seek::Data).await {
                    Ok(data) if data > next => data.min(end),
                    Err(error) if error.errno() == Errno::ENXIO => end,
                    _ => next,
                };
                pieces.push((at, next));
                at = next;
            }
        }
        let lanes = match before {
            Before::Unknown => self.lanes,
            Before::Empty | Before::Stale => 1,
        };
        if pieces.len() < 3 || lanes < 2 {
            for (start, end) in pieces {
                self.stretch(from, to, start, end, before).await?;
            }
            return Ok(());
        }
        let next = AtomicUsize::new(0);
        let lane = || -> Step<()> {
            while let Some(&(start, end)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                block_on(self.stretch(from, to, start, end, before))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            // Where no thread is to be had, by as many as there are.
            let other = |_| std::thread::Builder::new().spawn_scoped(scope, lane).ok();
            let others: Vec<_> = (1..lanes).map_while(other).collect();
            let mut done = lane();
            for other in others {
                let its = other.join().unwrap_or(Err(Setback::Later(1000)));
                done = done.and(its);
            }
            done
        })
    }

    /// One stretch: data is copied, holes are made.
    async fn stretch(
        &self,
        from: &Arc<File>,
        to: &Arc<File>,
        mut at: u64,
        end: u64,
        before: Before,
    ) -> Step<()> {
        let mut map = Map::default();
        while at < end {
            if self.stopped() || self.copies.is_vain(from.inode()) {
                return Err(Setback::Later(0));
            }
            let data = match self.source.lseek(&HEAL, from, at, Seek::Data).await {
                Ok(data) => data.min(end),
                Err(error) if error.errno() == Errno::ENXIO => end,
                // No such thing here: all is data.
                Err(_) => at,
            };
            if data > at && before != Before::Empty && self.hollow(to, at, data).await? {
                self.findings
                    .differs(Oid::from(from.inode().identity()), at);
            }
            if data >= end {
                return Ok(());
            }
            let hole = match self.source.lseek(&HEAL, from, data, Seek::Hole).await {
                Ok(hole) if hole > data => hole.min(end),
                // It was punched just now, or there is no such thing here.
                _ => end,
            };
            self.run(from, to, (data, hole), &mut map, before).await?;
            at = hole;
        }
        Ok(())
    }

    /// How many bytes had to be written.
    pub(super) async fn copy(
        &self,
        from: &Arc<File>,
        to: &Arc<File>,
        mut at: u64,
        end: u64,
        before: Before,
    ) -> Step<u64> {
        if at >= end {
            return Ok(0);
        }
        let mut written = 0;
        let mut buffer = vec![0; BLOCK.min((end - at) as usize)];
        let mut other = vec![
            0;
            if before == Before::Unknown {
                buffer.len()
            } else {
                0
            }
        ];
        while at < end {
            let want = buffer.len().min((end - at) as usize);
            let vain = || self.copies.is_vain(from.inode());
            self.brake.pay_unless(want as u64, vain);
            if vain() {
                return Err(Setback::Later(0));
            }
            let got = self
                .source
                .read(&HEAL, from, at, &mut buffer[..want])
                .await
                .at_source("read")?;
            if got == 0 {
                // It shrank meanwhile, and is marked for it.
                return Ok(written);
            }
            let block = &buffer[..got];
            let equal = before == Before::Unknown && {
                let there = self
                    .sink
                    .read(&HEAL, to, at, &mut other[..got])
                    .await
                    .at_sink("read")?;
                other.get(..there) == Some(block)
            };
            if !equal && before == Before::Unknown {
                let there = other.iter().zip(block).position(|(a, b)| a != b);
                let first = at + there.unwrap_or_default() as u64;
                self.findings
                    .differs(Oid::from(from.inode().identity()), first);
            }
            if !equal {
                self.write_all(to, at, block).await?;
                written += got as u64;
            }
            self.tally.moved(from.inode(), got as u64, equal);
            at += got as u64;
        }
        Ok(written)
    }

    /// Where the first block begins that differs; `end` when all is equal.
    pub(super) async fn equal_until(
        &self,
        from: &Arc<File>,
        to: &Arc<File>,
        mut at: u64,
        end: u64,
    ) -> Step<u64> {
        let (mut theirs, mut ours) = (vec![0; BLOCK], vec![0; BLOCK]);
        while at < end {
            let want = BLOCK.min((end - at) as usize);
            let vain = || self.copies.is_vain(from.inode());
            self.brake.pay_unless(want as u64, vain);
            if vain() {
                return Err(Setback::Later(0));
            }
            let (theirs, ours) = (&mut theirs[..want], &mut ours[..want]);
            let read = self.source.read(&HEAL, from, at, theirs).await;
            let got = read.at_source("read")?;
            let there = self.sink.read(&HEAL, to, at, ours).await.at_sink("read")?;
            if got == 0 || theirs.get(..got) != ours.get(..there.min(got)) {
                return Ok(at);
            }
            self.tally.bytes(got as u64);
            at += got as u64;
        }
        Ok(end)
    }

    /// A whole small file, or what is left of it.
    pub(super) async fn whole(&self, from: &Arc<File>, size: u64) -> Step<Vec<u8>> {
        let (mut content, mut got) = (vec![0; size as usize], 0);
        while got < content.len() {
            let read = self
                .source
                .read(&HEAL, from, got as u64, &mut content[got..])
                .await
                .at_source("read")?;
            if read == 0 {
                break;
            }
            got += read;
        }
        // It shrank meanwhile, and is marked for it.
        content.truncate(got);
        Ok(content)
    }

    pub(super) async fn write_all(&self, to: &Arc<File>, at: u64, block: &[u8]) -> Step<()> {
        let mut done = 0;
        while done < block.len() {
            let n = self
                .sink
                .write(&HEAL, to, at + done as u64, &block[done..])
                .await
                .at_sink("write")?;
            if n == 0 {
                return Err(hermitfs_api::Error::new(Errno::ENOSPC)).at_sink("write");
            }
            done += n;
        }
        Ok(())
    }

    /// Makes a hole where the image has data; zeros where its file system cannot. Whether there was any.
    async fn hollow(&self, to: &Arc<File>, mut at: u64, end: u64) -> Step<bool> {
        let mut filled = false;
        while at < end {
            let data = match self.sink.lseek(&HEAL, to, at, Seek::Data).await {
                Ok(data) => data,
                Err(error) if error.errno() == Errno::ENXIO => return Ok(filled),
                Err(_) => at,
            };
            if data >= end {
                return Ok(filled);
            }
            let hole = match self.sink.lseek(&HEAL, to, data, Seek::Hole).await {
                Ok(hole) if hole > data => hole.min(end),
                _ => end,
            };
            filled = true;
            match self
                .sink
                .fallocate(&HEAL, to, Allocate::Punch, data, hole - data)
                .await
            {
                Err(error) if matches!(error.errno(), Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                    self.zero(to, data, hole).await?;
                }
                done => done.at_sink("punch a hole")?,
            }
            at = hole;
        }
        Ok(filled)
    }

    async fn zero(&self, to: &Arc<File>, mut at: u64, end: u64) -> Step<()> {
        let zeros = vec![0; BLOCK.min((end - at) as usize)];
        while at < end {
            let n = zeros.len().min((end - at) as usize);
            at += self
                .sink
                .write(&HEAL, to, at, &zeros[..n])
                .await
                .at_sink("write")? as u64;
        }
        Ok(())
    }

    /// Sets the image's size.
    pub(super) async fn resize(&self, to: &Arc<File>, size: u64) -> Step<()> {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        self.sink
            .setattr(&HEAL, to.inode(), Some(to), &set)
            .await
            .at_sink("set size")
            .map(drop)
    }
}
