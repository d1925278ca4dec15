//! Content that the source's files share on its disk is shared on the sink as well.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hermitfs_api::{Attr, Errno, Extent, File, Handle, OpenFlags};

use super::data::Before;
use super::object::SMALL;
use super::{HEAL, Healer, handle_of};
use crate::loss::Class;
use crate::shares::{Donor, Next};
use crate::trouble::{Blame, Setback, Step};

/// Extents that are asked for at a time.
pub(super) const MANY: usize = 256;

/// The larger of the blocks that file systems have by default.
const BLOCK: u64 = 4096;

/// A part of a file's space, as it was asked for.
#[derive(Default)]
pub(super) struct Map {
    extents: Vec<Extent>,
    /// It is of these bytes.
    from: u64,
    until: u64,
    /// That it shares its space, and cannot on the sink, was noted.
    noted: bool,
}

impl Map {
    fn covers(&self, at: u64) -> bool {
        (self.from..self.until).contains(&at)
    }
}

impl Healer {
    /// A run of data, by what is known of its space:
    ///
    /// - What is known to stand on the sink already is taken over from there, and then compared: the clone
    ///   is made of a guess, and what it may be wrong in is written.
    /// - What is reserved and only seems to be data, as somebody has read it, is compared: it is
    ///   reserved there as well, and not to be written.
    pub(super) async fn run(
        &self,
        from: &Arc<File>,
        to: &Arc<File>,
        (mut at, end): (u64, u64),
        map: &mut Map,
        before: Before,
    ) -> Step<()> {
        // What reads equal there may not be on its disk: then all is written.
        let suspect = self.suspect.load(Ordering::Relaxed);
        while at < end && !suspect && self.look(from, at, map).await {
            let first = map.extents.partition_point(|extent| extent.end() <= at);
            for extent in &map.extents[first..] {
                let (start, stop) = (extent.at.max(at), extent.end().min(end));
                if start >= stop {
                    break;
                }
                let place = self.shareable(extent, stop - start);
                if place.is_some() && !self.may_share() && !map.noted {
                    map.noted = true;
                    let what = "its space is shared with other files; each has its own there";
                    self.note_loss(from.inode(), Class::Shared, Some(what.into()))
                        .await;
                }
                if let Some(place) = place.filter(|_| self.may_share()) {
                    self.copy(from, to, at, start, before).await?;
                    let place = place + (start - extent.at);
                    self.shared(from, to, (start, stop), place, before).await?;
                    at = stop;
                } else if extent.unwritten {
                    self.copy(from, to, at, start, before).await?;
                    self.copy(from, to, start, stop, Before::Unknown).await?;
                    at = stop;
                }
            }
            let seen = map.until.min(end);
            self.copy(from, to, at, seen, before).await?;
            at = at.max(seen);
        }
        self.copy(from, to, at, end, before).await.map(drop)
    }

    /// Has the map tell of the byte at `at`.
    async fn look(&self, from: &Arc<File>, at: u64, map: &mut Map) -> bool {
        if map.covers(at) {
            return true;
        }
        if !self.source_tells.load(Ordering::Relaxed) {
            return false;
        }
        match self.source.extents(&HEAL, from, at, MANY).await {
            Ok(extents) => {
                let until = match extents.last() {
                    Some(last) if extents.len() >= MANY => last.end(),
                    _ => u64::MAX,
                };
                *map = Map {
                    extents,
                    from: at,
                    until,
                    noted: map.noted,
                };
                map.covers(at)
            }
            Err(error) => {
                if error.errno() == Errno::EOPNOTSUPP {
                    self.source_tells.store(false, Ordering::Relaxed);
                }
                false
            }
        }
    }

    /// The place of an extent of which `len` bytes are shared, where that is worth it.
    fn shareable(&self, extent: &Extent, len: u64) -> Option<u64> {
        let place = extent
            .place
            .filter(|_| extent.shared && !extent.unwritten)?;
        place.checked_add(extent.len)?;
        self.shares.worth(len).then_some(place)
    }

    fn may_share(&self) -> bool {
        self.sink_shares.load(Ordering::Relaxed)
    }

    /// Whether a file that is small enough to be read in one go shares its space with others.
    pub(super) async fn shares_space(&self, from: &Arc<File>, attr: &Attr) -> bool {
        if attr.size > SMALL || !self.shares.worth(attr.size) || !self.may_share() {
            return false;
        }
        let mut map = Map::default();
        self.look(from, 0, &mut map).await
            && map
                .extents
                .iter()
                .any(|extent| self.shareable(extent, extent.len).is_some())
    }

    /// How much of a file's space is shared with others and may be on the sink as well.
    pub(super) async fn shared_bytes(&self, from: &Arc<File>) -> u64 {
        let (mut map, mut at, mut all) = (Map::default(), 0, 0u64);
        while self.may_share() && self.look(from, at, &mut map).await {
            for extent in &map.extents {
                if self.shareable(extent, extent.len).is_some() {
                    all = all.saturating_add(extent.len);
                }
            }
            if map.until == u64::MAX || map.until <= at {
                break;
            }
            at = map.until;
        }
        all
    }

    async fn shared(
        &self,
        from: &Arc<File>,
        to: &Arc<File>,
        (mut at, end): (u64, u64),
        mut place: u64,
        before: Before,
    ) -> Step<()> {
        let Some(handle) = handle_of(&*self.sink, to.inode()).await else {
            return self.copy(from, to, at, end, before).await.map(drop);
        };
        let here = |at| Donor {
            handle: handle.clone(),
            at,
        };
        while at < end {
            let len = match self.shares.next(place, end - at, || {
                self.stopped() || self.copies.is_vain(from.inode())
            }) {
                Next::Stopped => return Err(Setback::Later(0)),
                Next::First(claim, len) => {
                    self.copy(from, to, at, at + len, before).await?;
                    claim.landed(here(at));
                    len
                }
                Next::Brought(donor, len) => {
                    if !self
                        .take_over(from, to, (at, at + len), &donor, before)
                        .await?
                    {
                        self.shares.instead(place, len, here(at));
                    }
                    len
                }
            };
            at += len;
            place += len;
        }
        Ok(())
    }

    /// Makes a range equal by way of a donor; whether that had it.
    async fn take_over(
        &self,
        from: &Arc<File>,
        to: &Arc<File>,
        (start, end): (u64, u64),
        donor: &Donor,
        before: Before,
    ) -> Step<bool> {
        let mut at = start;
        if before == Before::Unknown {
            at = self.equal_until(from, to, start, end).await?;
            if at == end {
                return Ok(true);
            }
        }
        let donor = Donor {
            handle: donor.handle.clone(),
            at: donor.at + (at - start),
        };
        let Some((first, last)) = self.clone_from(&donor, to, at, end).await? else {
            self.copy(from, to, at, end, before).await?;
            return Ok(false);
        };
        self.copy(from, to, at, first, before).await?;
        let written = self.copy(from, to, first, last, Before::Unknown).await?;
        self.copy(from, to, last, end, before).await?;
        Ok(written == 0)
    }

    /// Whole blocks of the range, cloned from the donor; `None` when it has not come off.
    async fn clone_from(
        &self,
        donor: &Donor,
        to: &Arc<File>,
        at: u64,
        end: u64,
    ) -> Step<Option<(u64, u64)>> {
        let Some((first, last)) = whole_blocks(donor.at, at, end) else {
            return Ok(None);
        };
        let Ok(image) = self.sink.resolve(&HEAL, &Handle::new(&donor.handle)).await else {
            return Ok(None);
        };
        let Ok(open) = self.sink.open(&HEAL, &image.inode, OpenFlags::READ).await else {
            return Ok(None);
        };
        let donor_at = donor.at + (first - at);
        let cloned = self
            .sink
            .clone_range(&HEAL, &open, donor_at, to, first, last - first)
            .await;
        drop(self.sink.release(&HEAL, &open).await);
        match cloned {
            Ok(()) => Ok(Some((first, last))),
            Err(error) => match error.errno() {
                Errno::EOPNOTSUPP | Errno::EXDEV => {
                    if self.sink_shares.swap(false, Ordering::Relaxed) {
                        tracing::warn!(
                            "files cannot share space on the new brick: what clones and snapshots have in common \
                             is there once for each of them"
                        );
                    }
                    Ok(None)
                }
                Errno::ENOSPC | Errno::EDQUOT => Err(error).at_sink("share"),
                // These two do not fit: what it is of, copying will tell.
                _ => Ok(None),
            },
        }
    }
}

/// The part of a range that is whole blocks, in the donor as well.
fn whole_blocks(donor_at: u64, at: u64, end: u64) -> Option<(u64, u64)> {
    let (first, last) = (at.next_multiple_of(BLOCK), end / BLOCK * BLOCK);
    (donor_at % BLOCK == at % BLOCK && first < last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_on_both_sides_or_none() {
        assert_eq!(whole_blocks(0, 0, 10_000), Some((0, 8192)));
        assert_eq!(whole_blocks(8192 + 100, 100, 10_000), Some((4096, 8192)));
        assert_eq!(whole_blocks(1024, 0, 10_000), None, "they do not fit");
        assert_eq!(whole_blocks(4096, 4096, 8191), None, "less than a block");
    }
}
