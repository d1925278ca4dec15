//! Inode numbers as users see them.
//!
//! On the file system of the volume's root they are the brick's own. Where another device shows
//! through (a btrfs subvolume has one of its own) the same numbers come again; programs that look
//! for hard links would take two files for one, so these are shifted out of the way.

use parking_lot::RwLock;

/// Number of the root in the protocol, whatever its own is.
pub(crate) const ROOT: u64 = 1;

pub(crate) struct Numbers {
    root: u64,
    others: RwLock<Vec<u64>>,
}

impl Numbers {
    /// `root` is the device of the volume's root.
    pub(crate) fn new(root: u64) -> Numbers {
        Numbers {
            root,
            others: RwLock::default(),
        }
    }

    /// The number to show for inode `ino` of device `dev`: never 0, never [`ROOT`]. The same
    /// again for the same object as long as the mount lives.
    pub(crate) fn shown(&self, dev: u64, ino: u64) -> u64 {
        let shown = if dev == self.root {
            ino
        } else {
            shifted(self.place(dev), ino)
        };
        if shown <= ROOT { again(shown) } else { shown }
    }

    fn place(&self, dev: u64) -> u64 {
        let find = |others: &Vec<u64>| others.iter().position(|other| *other == dev);
        if let Some(at) = find(&self.others.read()) {
            return at as u64;
        }
        let mut others = self.others.write();
        let at = find(&others).unwrap_or_else(|| {
            others.push(dev);
            others.len() - 1
        });
        at as u64
    }
}

fn shifted(place: u64, ino: u64) -> u64 {
    if ino >> 40 == 0 && place < 1 << 23 {
        return (place + 1) << 40 | ino;
    }
    again(ino.wrapping_add(place + 1))
}

/// Another number, for one that is taken.
pub(crate) fn again(number: u64) -> u64 {
    let mixed = (number ^ number >> 32)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29) | 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brick_s_own_numbers_are_shown() {
        let numbers = Numbers::new(7);
        assert_eq!(numbers.shown(7, 4711), 4711);
        assert_eq!(numbers.shown(7, u64::MAX), u64::MAX);
    }

    #[test]
    fn the_root_s_number_is_kept_free() {
        let numbers = Numbers::new(7);
        for ino in [0, 1] {
            assert!(numbers.shown(7, ino) > ROOT);
        }
    }

    #[test]
    fn subvolumes_do_not_share_numbers() {
        let numbers = Numbers::new(7);
        let shown: Vec<_> = [7, 8, 9]
            .iter()
            .map(|dev| numbers.shown(*dev, 257))
            .collect();
        assert!(shown[0] != shown[1] && shown[1] != shown[2] && shown[0] != shown[2]);
        assert_eq!(numbers.shown(8, 257), shown[1], "stable");
        let big: Vec<_> = [8, 9]
            .iter()
            .map(|dev| numbers.shown(*dev, 1 << 60))
            .collect();
        assert_ne!(big[0], big[1]);
    }
}
