//! Space that is reserved in a file (fallocate(2)) and not written to: the image has it as well.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hermitfs_api::{Allocate, Errno, Extent, File};

use super::data::Before;
use super::share::MANY;
use super::{HEAL, Healer};
use crate::loss::Class;
use crate::ranges::Ranges;
use crate::trouble::{Blame, Step};

/// Less than this is left where it is reserved on the sink alone: blocks there may be larger.
const LEAST: u64 = 64 << 10;

/// What is to be done to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Reserve(u64, u64),
    Free(u64, u64),
}

impl Healer {
    /// Reserves on the image what the source has reserved in these ranges, also behind its end, and frees
    /// what it has not. Content stays as it is. Whether anything is reserved there.
    pub(super) async fn reserve(
        &self,
        from: &Arc<File>,
        to: &Arc<File>,
        size: u64,
        ranges: &Ranges,
        before: Before,
    ) -> Step<bool> {
        let mut some = false;
        for (mut at, end) in ranges.iter() {
            while at < end && self.source_tells.load(Ordering::Relaxed) {
                let theirs = match self.source.extents(&HEAL, from, at, MANY).await {
                    Err(error) if error.errno() == Errno::EOPNOTSUPP => {
                        self.source_tells.store(false, Ordering::Relaxed);
                        return Ok(false);
                    }
                    told => told.at_source("read extents")?,
                };
                some |= theirs.iter().any(|extent| extent.unwritten);
                let until = seen(&theirs, end);
                self.reserve_as(&theirs, to, size, (at, until), before)
                    .await?;
                at = until.max(at.saturating_add(1));
            }
        }
        if some && !self.sink_reserves.load(Ordering::Relaxed) {
            let what = "space is reserved in it, and none can be there";
            self.note_loss(from.inode(), Class::Reserved, Some(what.into()))
                .await;
        } else if ranges.is_whole() {
            self.has_all(from.inode(), [Class::Reserved]);
        }
        Ok(some)
    }

    async fn reserve_as(
        &self,
        theirs: &[Extent],
        to: &Arc<File>,
        size: u64,
        window: (u64, u64),
        before: Before,
    ) -> Step<()> {
        let ours = match before {
            Before::Empty => Vec::new(),
            _ => self.image_extents(to, window).await?,
        };
        let mut acts = plan(theirs, &ours, window);
        let behind = |act: &Act| matches!(act, Act::Free(_, end) if *end > size);
        if acts.iter().any(behind) {
            // Some file systems punch nothing behind a file's end. This frees all that is there.
            self.resize(to, size).await?;
            let ours = self.image_extents(to, window).await?;
            acts = plan(theirs, &ours, window);
        }
        for act in acts {
            let (how, at, end) = match act {
                Act::Reserve(at, end) if self.sink_reserves.load(Ordering::Relaxed) => {
                    (Allocate::Reserve { keep_size: true }, at, end)
                }
                Act::Free(at, end) if end <= size => (Allocate::Punch, at, end),
                _ => continue,
            };
            match self.sink.fallocate(&HEAL, to, how, at, end - at).await {
                Err(error) if matches!(error.errno(), Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                    if matches!(act, Act::Reserve(..))
                        && self.sink_reserves.swap(false, Ordering::Relaxed)
                    {
                        tracing::warn!(
                            "space cannot be reserved on the new brick: files that have some on the old one \
                             (fallocate) get it there as they are written"
                        );
                    }
                }
                done => done.at_sink("reserve space")?,
            }
        }
        Ok(())
    }

    /// All extents of the image in a window; none where they are not told.
    async fn image_extents(&self, to: &Arc<File>, (mut at, end): (u64, u64)) -> Step<Vec<Extent>> {
        let mut all = Vec::new();
        while at < end {
            let some = match self.sink.extents(&HEAL, to, at, MANY).await {
                Err(error) if error.errno() == Errno::EOPNOTSUPP => return Ok(Vec::new()),
                told => told.at_sink("read extents")?,
            };
            at = seen(&some, end).max(at.saturating_add(1));
            all.extend(some);
        }
        Ok(all)
    }
}

/// How far one answer reaches.
fn seen(told: &[Extent], end: u64) -> u64 {
    match told.last() {
        Some(last) if told.len() >= MANY => last.end().min(end),
        _ => end,
    }
}

/// What is reserved at the source and has no space on the image is reserved; what is reserved on the image
/// alone is freed.
fn plan(source: &[Extent], image: &[Extent], window: (u64, u64)) -> Vec<Act> {
    let reserve = only(source, image, window).map(|(at, end)| Act::Reserve(at, end));
    let free = only(image, source, window)
        .filter(|(at, end)| end - at >= LEAST)
        .map(|(at, end)| Act::Free(at, end));
    reserve.chain(free).collect()
}

/// Parts of the window that `some` have unwritten, and `others` not at all. Both are in order.
fn only<'a>(
    some: &'a [Extent],
    others: &'a [Extent],
    (start, end): (u64, u64),
) -> impl Iterator<Item = (u64, u64)> + 'a {
    let unwritten = some.iter().filter(|extent| extent.unwritten);
    unwritten.flat_map(move |extent| {
        let (mut at, until) = (extent.at.max(start), extent.end().min(end));
        let first = others.partition_point(|other| other.end() <= at);
        let mut left = Vec::new();
        for other in others[first..].iter().take_while(|other| other.at < until) {
            if other.at > at {
                left.push((at, other.at));
            }
            at = at.max(other.end());
        }
        if at < until {
            left.push((at, until));
        }
        left
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: (u64, u64) = (0, u64::MAX);

    fn extent(at: u64, end: u64, unwritten: bool) -> Extent {
        Extent {
            at,
            len: end - at,
            place: None,
            unwritten,
            shared: false,
        }
    }

    #[test]
    fn what_is_reserved_at_the_source_alone_is_reserved() {
        let source = [extent(0, 10, false), extent(10, 100, true)];
        assert_eq!(plan(&source, &[], ALL), [Act::Reserve(10, 100)]);
        let image = [extent(0, 10, false), extent(20, 30, true)];
        let acts = [Act::Reserve(10, 20), Act::Reserve(30, 100)];
        assert_eq!(plan(&source, &image, ALL), acts);
        assert_eq!(plan(&source, &source, ALL), []);
        assert_eq!(plan(&source, &[], (50, 60)), [Act::Reserve(50, 60)]);
    }

    #[test]
    fn what_is_reserved_on_the_image_alone_is_freed_and_data_never() {
        let image = [extent(0, LEAST, false), extent(LEAST, 3 * LEAST, true)];
        let source = [extent(LEAST, 2 * LEAST, false)];
        assert_eq!(
            plan(&source, &image, ALL),
            [Act::Free(2 * LEAST, 3 * LEAST)]
        );
    }

    proptest! {
        #[test]
        fn each_byte_is_reserved_where_the_source_says_so_and_the_image_has_nothing(
            source in prop::collection::vec(0u8..3, 1..40), image in prop::collection::vec(0u8..3, 1..40),
            start in 0u64..20, len in 0u64..40,
        ) {
            let window = (start, start + len);
            let extents = |map: &[u8]| -> Vec<Extent> {
                let some = map.iter().enumerate().filter(|(_, what)| **what > 0);
                some.map(|(at, what)| extent(at as u64, at as u64 + 1, *what == 2)).collect()
            };
            let found = plan(&extents(&source), &extents(&image), window);
            for at in 0..40 {
                let is = |map: &[u8]| map.get(at).copied().unwrap_or(0);
                let at = at as u64;
                let wanted = is(&source) == 2 && is(&image) == 0 && (window.0..window.1).contains(&at);
                let reserved = found.iter().any(|act| matches!(act, Act::Reserve(a, b) if (*a..*b).contains(&at)));
                prop_assert_eq!(wanted, reserved, "byte {}", at);
            }
        }
    }
}
