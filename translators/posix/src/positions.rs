//! Positions in directories as programs of 32 bits can have them.
//!
//! ext4 gives to a process of 64 bits a position of 63: 31 bits of a name's hash, and 32 of another one. A
//! program of 32 bits that reads such a directory by a mount of ours has no room for it (EOVERFLOW at the
//! first name); natively it would get the upper 31 bits alone. Who asks cannot be told apart here, and the kernel
//! keeps one listing for all. So everybody gets the upper bits, wherever they lead to the same
//! name. Where the name before has the same ones they would not: there the position stays whole, which is
//! the rule for one pair in two thousand million. Nothing is kept in memory for it, and
//! positions from before are understood: they are as good after a restart as the brick's own.

/// How a directory's own positions are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Small numbers, or such that nothing is known of.
    Plain,
    /// ext4's: `hash >> 1 << 32 | other hash`, in this order.
    Hashed,
}

/// ext4's position behind the last name (`EXT4_HTREE_EOF_64BIT`). No name's hash has these upper bits.
const END: u64 = i64::MAX as u64;

/// Upper bits that fit.
const FIT: u64 = 1 << 31;

/// Positions with other upper bits than zero. One of a name that has zeros there, and is not the first, is
/// halved into `FIT..WHOLE`.
const WHOLE: u64 = 1 << 32;

/// Of what the kernel told: the position behind a directory's first name.
pub(crate) fn order(behind_first: u64) -> Order {
    match behind_first >= WHOLE {
        true => Order::Hashed,
        false => Order::Plain,
    }
}

impl Order {
    /// What callers get for the position of a name, when the name before it stands at `before`.
    pub(crate) fn shown(self, before: u64, at: u64) -> u64 {
        if self == Order::Plain {
            return at;
        }
        match at >> 32 {
            _ if at >= END => FIT - 1,
            0 => FIT | at >> 1,
            upper if upper == before >> 32 => at,
            upper => upper,
        }
    }

    /// Where the kernel is to go on for what a caller gives.
    pub(crate) fn at(self, shown: u64) -> u64 {
        if self == Order::Plain {
            return shown;
        }
        match shown {
            _ if shown == FIT - 1 => END,
            _ if shown < FIT => shown << 32,
            _ if shown < WHOLE => (shown & (FIT - 1)) << 1,
            _ => shown,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the kernel goes on: with the first name that does not stand before the position.
    fn seek(names: &[u64], at: u64) -> usize {
        names.partition_point(|name| *name < at)
    }

    fn behind(names: &[u64], index: usize) -> u64 {
        names.get(index + 1).copied().unwrap_or(END)
    }

    /// Hashes that are often alike.
    fn name() -> impl Strategy<Value = u64> {
        let upper = prop_oneof![0..4u64, 0..FIT - 1, Just(FIT - 2)];
        let lower = prop_oneof![0..4u64, 0..WHOLE, Just(WHOLE - 1)];
        (upper, lower).prop_map(|(upper, lower)| upper << 32 | lower)
    }

    proptest! {
        /// Two names of equal upper bits at the very start are left out: of the first one nobody knows where
        /// it stands.
        #[test]
        fn whoever_goes_on_at_a_position_goes_on_with_the_same_name(
            names in prop::collection::btree_set(name(), 2..40),
        ) {
            let names: Vec<u64> = [0].into_iter().chain(names).map(|name| name & !1).collect();
            let names: Vec<u64> = std::collections::BTreeSet::from_iter(names).into_iter().collect();
            for index in 0..names.len() {
                let next = behind(&names, index);
                let shown = Order::Hashed.shown(names[index], next);
                prop_assert_ne!(shown, 0);
                prop_assert_eq!(seek(&names, Order::Hashed.at(shown)), index + 1);
                let alike = next >> 32 == names[index] >> 32;
                prop_assert!(alike || next >> 32 == 0 || shown < FIT, "{next:#x}: {shown:#x}");
                // As one piece ends and another begins: from where it was to go on.
                let from = Order::Hashed.at(shown);
                if index + 1 < names.len() {
                    let after = behind(&names, index + 1);
                    prop_assert_eq!(
                        Order::Hashed.shown(from, after),
                        Order::Hashed.shown(next, after)
                    );
                }
            }
        }

        #[test]
        fn positions_that_were_given_whole_are_understood(at in WHOLE..END) {
            prop_assert_eq!(Order::Hashed.at(at), at);
        }

        #[test]
        fn other_file_systems_positions_are_their_own(at in 0..u64::MAX) {
            prop_assert_eq!(Order::Plain.shown(at, at), at);
            prop_assert_eq!(Order::Plain.at(at), at);
        }
    }

    #[test]
    fn the_end_is_the_end() {
        let end = Order::Hashed.shown(5 << 32, END);
        assert_eq!(end, 0x7fff_ffff);
        assert_eq!(Order::Hashed.at(end), END);
        assert_eq!(order(12), Order::Plain);
        assert_eq!(order(1 << 32), Order::Hashed);
        assert_eq!(order(END), Order::Hashed);
    }
}
