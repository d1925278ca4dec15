//! Byte ranges of a file, merged.

use serde::{Deserialize, Serialize};

/// More than this many ranges are first rounded to [`GRAIN`], then become the whole file.
const MOST: usize = 4096;

/// What ranges are rounded to when they are written down or become too many: 1 MiB.
pub(crate) const GRAIN: u64 = 1 << 20;

/// A set of bytes as sorted, disjoint, half-open ranges. `u64::MAX` is the end of any file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub(crate) const WHOLE: (u64, u64) = (0, u64::MAX);

    pub(crate) fn whole() -> Ranges {
        Ranges(vec![Ranges::WHOLE])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.0 == [Ranges::WHOLE]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Bytes in all, and whether they go to the end of the file, however far that is: that part is not counted.
    pub(crate) fn len(&self) -> (u64, bool) {
        let (open, ends) = match self.0.split_last() {
            Some((&(from, u64::MAX), before)) => (Some(from), before),
            _ => (None, self.0.as_slice()),
        };
        let bytes = ends.iter().map(|(from, to)| to - from).sum();
        (bytes, open.is_some())
    }

    pub(crate) fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        self.insert(from, to);
        if self.0.len() > MOST {
            let coarse: Vec<_> = self
                .0
                .drain(..)
                .map(|(from, to)| rounded(from, to))
                .collect();
            coarse
                .into_iter()
                .for_each(|(from, to)| self.insert(from, to));
            if self.0.len() > MOST {
                *self = Ranges::whole();
            }
        }
    }

    fn insert(&mut self, mut from: u64, mut to: u64) {
        // Ranges that touch are merged: [a,b) and [b,c) are one.
        let first = self.0.partition_point(|&(_, end)| end < from);
        let last = self.0.partition_point(|&(start, _)| start <= to);
        if first < last {
            from = from.min(self.0[first].0);
            to = to.max(self.0[last - 1].1);
        }
        self.0.splice(first..last, [(from, to)]);
    }

    pub(crate) fn extend(&mut self, other: &Ranges) {
        other.iter().for_each(|(from, to)| self.add(from, to));
    }

    pub(crate) fn contains(&self, from: u64, to: u64) -> bool {
        let at = self.0.partition_point(|&(_, end)| end < to);
        from >= to
            || self
                .0
                .get(at)
                .is_some_and(|&(start, end)| start <= from && to <= end)
    }
}

/// The smallest range of whole grains around this one.
pub(crate) fn rounded(from: u64, to: u64) -> (u64, u64) {
    (
        from / GRAIN * GRAIN,
        to.checked_next_multiple_of(GRAIN).unwrap_or(u64::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn holds_what_was_added_and_nothing_else(adds in prop::collection::vec((0u64..64, 0u64..64), 0..20)) {
            let mut ranges = Ranges::default();
            let mut model = [false; 64];
            for (a, b) in adds {
                ranges.add(a, b);
                (a..b).for_each(|i| model[i as usize] = true);
            }
            for i in 0..64u64 {
                prop_assert_eq!(ranges.contains(i, i + 1), model[i as usize]);
            }
            prop_assert!(ranges.0.windows(2).all(|w| w[0].1 < w[1].0), "sorted, disjoint, merged");
        }
    }

    #[test]
    fn what_goes_to_the_end_of_a_file_is_told_apart() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.len(), (0, false));
        ranges.add(10, 20);
        ranges.add(30, 35);
        assert_eq!(ranges.len(), (15, false));
        ranges.add(100, u64::MAX);
        assert_eq!(ranges.len(), (15, true));
        assert_eq!(Ranges::whole().len(), (0, true));
    }

    #[test]
    fn too_many_become_coarser_but_never_less() {
        let mut ranges = Ranges::default();
        for i in 0..10_000u64 {
            ranges.add(i * 8192, i * 8192 + 1);
        }
        assert!(ranges.0.len() <= MOST);
        assert!((0..10_000u64).all(|i| ranges.contains(i * 8192, i * 8192 + 1)));
        assert!(!ranges.is_whole());
        for i in 0..10_000u64 {
            ranges.add(i << 32, (i << 32) + 1);
        }
        assert!(ranges.is_whole());
    }
}
