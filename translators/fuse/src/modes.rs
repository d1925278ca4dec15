//! In which mode a file is opened: a decision without I/O.
//!
//! The kernel has rules of its own, and answers an open that breaks them with EIO: while one open
//! of an inode bypasses the door (passthrough), every other must carry the same backing; while
//! one goes through the page cache, none may bypass. Replies to two opens may reach the kernel in
//! another order than they were decided in, so any two modes that are open together have to be
//! good in either order. A release reaches the kernel first, then us: what is counted here is
//! never less than what the kernel counts.

/// What an open may do with the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Read,
    /// Cannot be mapped at all, so every store arrives as a write.
    Write,
    /// Can be mapped shared and writable.
    Both,
}

/// How the kernel treats one open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// Through the kernel's page cache; what is not there comes from us, and every store,
    /// mapped ones too, arrives as a write with its exact range.
    Cached {
        /// Whether pages that the kernel has from before are still good.
        keep: bool,
    },
    /// Reads and mappings go to the brick and do not reach us.
    Passthrough,
    /// Reads and writes come to us, mappings go to the brick.
    Interposed,
    /// Reads and writes come to us, past the kernel's pages, which a write takes out. It cannot be
    /// mapped shared, and it goes with cached opens.
    Direct,
}

impl Mode {
    /// Carries the inode's backing.
    pub(crate) fn is_backed(self) -> bool {
        matches!(self, Mode::Passthrough | Mode::Interposed)
    }
}

/// What the driver has found out for this open so far; `None` is what it did not ask yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Passthrough is switched on, and the kernel has it.
    pub(crate) passthrough: bool,
    /// One read brings the whole file: the kernel's pages cost less than a way past the door.
    pub(crate) small: Option<bool>,
    /// A backing could be had for this inode.
    pub(crate) backing: Option<bool>,
    /// The volume knows that the whole file may change unseen.
    pub(crate) marked: Option<bool>,
    /// Nobody can write to the brick's file unseen.
    pub(crate) quiet: Option<bool>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Open it so; it is counted.
    Open(Mode),
    /// Find out [`Facts::small`], and ask again.
    AskSize,
    /// Find out [`Facts::backing`], and ask again.
    AskBacking,
    /// Find out [`Facts::marked`], and ask again.
    AskMark,
    /// Find out [`Facts::quiet`], and ask again.
    AskQuiet,
    /// There is no mode that is both possible and safe.
    Refuse,
}

/// So many bytes written through the kernel's pages make it worth while to drop these when the file
/// is closed: 0.2 ms of work, which the next open would have to wait for.
const SURPLUS: u64 = 1 << 20;

/// The opens of one inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Modes {
    passthrough: u32,
    interposed: u32,
    cached: u32,
    direct: u32,
    /// A writable mapping may have been made that bypasses us, and it may outlive its open.
    escaped: bool,
    /// How many were.
    escapes: u32,
    /// The kernel's pages may be older than the brick's content.
    stale: bool,
    /// Bytes that cached opens wrote since the kernel's pages were dropped.
    written: u64,
}

impl Modes {
    /// Decides on one more open, and counts it when the answer is [`Step::Open`].
    pub(crate) fn open(&mut self, access: Access, facts: Facts) -> Step {
        let step = self.decide(access, facts);
        match step {
            Step::Open(Mode::Cached { .. }) => {
                self.cached += 1;
                self.stale = false;
            }
            Step::Open(Mode::Passthrough) => {
                self.passthrough += 1;
                self.written = 0;
            }
            Step::Open(Mode::Interposed) => {
                self.interposed += 1;
                if access == Access::Both {
                    self.escaped = true;
                    self.escapes = self.escapes.wrapping_add(1);
                }
                self.written = 0;
            }
            Step::Open(Mode::Direct) => self.direct += 1,
            _ => {}
        }
        step
    }

    fn decide(&mut self, access: Access, facts: Facts) -> Step {
        if self.cached > 0 {
            return Step::Open(Mode::Cached { keep: true });
        }
        if self.direct > 0 {
            return Step::Open(match access {
                Access::Write => Mode::Direct,
                Access::Read | Access::Both => Mode::Cached { keep: !self.stale },
            });
        }
        if self.escaped && !self.is_backed() {
            match facts.quiet {
                None => return Step::AskQuiet,
                Some(true) => (self.escaped, self.stale) = (false, true),
                Some(false) => {}
            }
        }
        // The first opener decides, and one that can both read and write wants exact ranges.
        let bypass = self.is_backed() || self.escaped || access != Access::Both;
        if !bypass || (!facts.passthrough && !self.is_backed() && !self.escaped) {
            return Step::Open(Mode::Cached { keep: !self.stale });
        }
        if !self.is_backed() {
            if access == Access::Write && !self.escaped {
                return Step::Open(Mode::Direct);
            }
            if access == Access::Read && !self.escaped {
                match facts.small {
                    None => return Step::AskSize,
                    Some(true) => return Step::Open(Mode::Cached { keep: !self.stale }),
                    Some(false) => {}
                }
            }
            match facts.backing {
                None => return Step::AskBacking,
                // Mapped stores that still go to the brick may be seen late in this mode; but a
                // file that cannot be opened is worse.
                Some(false) => return Step::Open(Mode::Cached { keep: false }),
                Some(true) => {}
            }
        }
        match (access, facts.marked) {
            (Access::Read, _) => Step::Open(Mode::Passthrough),
            (Access::Write, _) | (Access::Both, Some(true)) => Step::Open(Mode::Interposed),
            (Access::Both, None) => Step::AskMark,
            (Access::Both, Some(false)) => Step::Refuse,
        }
    }

    /// One open of this mode is gone, through which so many bytes were written. Whether the kernel's
    /// pages are surplus now: nobody has the file open, the brick's file system has the same content
    /// in its own pages, and who opens the file to read or to write alone gets it from there.
    pub(crate) fn release(&mut self, mode: Mode, written: u64) -> bool {
        if matches!(mode, Mode::Cached { .. }) {
            self.written = self.written.saturating_add(written);
        }
        let count = match mode {
            Mode::Cached { .. } => &mut self.cached,
            Mode::Passthrough => &mut self.passthrough,
            Mode::Interposed => &mut self.interposed,
            Mode::Direct => &mut self.direct,
        };
        *count = count.saturating_sub(1);
        let surplus = self.is_closed() && self.written >= SURPLUS;
        if surplus {
            self.written = 0;
        }
        surplus
    }

    /// Whether content and times may change without a word to us.
    pub(crate) fn changes_unseen(&self) -> bool {
        self.escaped
    }

    /// How many mappings may have escaped, for a look at the brick that is to follow. `None` while such a
    /// look tells nothing: somebody has the file open, or none has escaped.
    pub(crate) fn escapes(&self) -> Option<u32> {
        (self.escaped && self.is_closed()).then_some(self.escapes)
    }

    /// The brick was quiet, with so many escapes before the look.
    pub(crate) fn calm(&mut self, escapes: u32) {
        if self.escapes() == Some(escapes) {
            (self.escaped, self.stale) = (false, true);
        }
    }

    /// An open bypasses us: the inode's backing has to live on.
    pub(crate) fn is_backed(&self) -> bool {
        self.passthrough + self.interposed > 0
    }

    /// Somebody has it open through the kernel's pages.
    pub(crate) fn is_cached(&self) -> bool {
        self.cached > 0
    }

    /// Nothing is open, and nothing has to be remembered.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_closed() && !self.escaped && !self.stale
    }

    /// Nothing is open.
    pub(crate) fn is_closed(&self) -> bool {
        !self.is_backed() && self.cached == 0 && self.direct == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENDING: Facts = Facts {
        passthrough: true,
        small: Some(false),
        backing: Some(true),
        marked: Some(true),
        quiet: Some(true),
    };

    fn opened(modes: &mut Modes, access: Access) -> Mode {
        match modes.open(access, LENDING) {
            Step::Open(mode) => mode,
            step => panic!("{access:?}: {step:?}"),
        }
    }

    #[test]
    fn the_first_opener_decides() {
        let mut read = Modes::default();
        assert_eq!(opened(&mut read, Access::Read), Mode::Passthrough);
        assert_eq!(opened(&mut read, Access::Write), Mode::Interposed);
        assert_eq!(opened(&mut read, Access::Both), Mode::Interposed);

        let mut write = Modes::default();
        assert_eq!(opened(&mut write, Access::Write), Mode::Direct);
        assert_eq!(opened(&mut write, Access::Write), Mode::Direct);
        assert_eq!(
            opened(&mut write, Access::Read),
            Mode::Cached { keep: true }
        );
        assert_eq!(
            opened(&mut write, Access::Both),
            Mode::Cached { keep: true }
        );

        let mut both = Modes::default();
        for access in [Access::Both, Access::Read, Access::Write] {
            assert_eq!(opened(&mut both, access), Mode::Cached { keep: true });
        }
    }

    #[test]
    fn a_small_file_is_cached_for_its_first_reader() {
        let small = Facts {
            small: Some(true),
            ..LENDING
        };
        let unasked = Facts {
            small: None,
            ..LENDING
        };
        let mut modes = Modes::default();
        assert_eq!(modes.open(Access::Read, unasked), Step::AskSize);
        for access in [Access::Read, Access::Write, Access::Both] {
            assert_eq!(
                modes.open(access, small),
                Step::Open(Mode::Cached { keep: true })
            );
        }
        // What bypasses us already decides, and who only writes wants his ranges exact.
        let mut modes = Modes::default();
        opened(&mut modes, Access::Read);
        assert_eq!(
            modes.open(Access::Write, small),
            Step::Open(Mode::Interposed)
        );
        assert_eq!(
            modes.open(Access::Read, unasked),
            Step::Open(Mode::Passthrough)
        );
    }

    #[test]
    fn who_writes_alone_keeps_nobody_past_the_door() {
        let mut modes = Modes::default();
        let log = opened(&mut modes, Access::Write);
        // Whatever its size: nothing is asked for.
        let follower = opened(&mut modes, Access::Read);
        assert_eq!(follower, Mode::Cached { keep: true });
        assert!(!modes.is_backed());
        modes.release(log, 0);
        assert!(!modes.is_closed(), "it is followed");
        modes.release(follower, 0);
        assert!(modes.is_idle());
        assert_eq!(opened(&mut modes, Access::Read), Mode::Passthrough);
    }

    #[test]
    fn a_mapping_that_may_bypass_is_marked_before_it_can_be_made() {
        let mut modes = Modes::default();
        opened(&mut modes, Access::Read);
        let unasked = Facts {
            marked: None,
            ..LENDING
        };
        assert_eq!(modes.open(Access::Both, unasked), Step::AskMark);
        assert_eq!(
            modes.open(
                Access::Both,
                Facts {
                    marked: Some(false),
                    ..LENDING
                }
            ),
            Step::Refuse
        );
        assert_eq!(
            modes.open(Access::Both, LENDING),
            Step::Open(Mode::Interposed)
        );
    }

    #[test]
    fn after_an_escape_pages_are_cached_only_when_the_brick_is_quiet() {
        let mut modes = Modes::default();
        let read = opened(&mut modes, Access::Read);
        let both = opened(&mut modes, Access::Both);
        modes.release(read, 0);
        modes.release(both, 0);
        assert!(modes.is_closed() && !modes.is_idle());

        let ask = Facts {
            quiet: None,
            ..LENDING
        };
        assert_eq!(modes.open(Access::Both, ask), Step::AskQuiet);
        let noisy = Facts {
            quiet: Some(false),
            ..LENDING
        };
        assert_eq!(
            modes.open(Access::Both, noisy),
            Step::Open(Mode::Interposed)
        );
        modes.release(Mode::Interposed, 0);
        assert_eq!(
            modes.open(Access::Both, LENDING),
            Step::Open(Mode::Cached { keep: false })
        );
        modes.release(Mode::Cached { keep: false }, 0);
        assert!(modes.is_idle());
    }

    #[test]
    fn pages_of_a_large_write_are_surplus_when_the_last_one_closes() {
        let cached = Mode::Cached { keep: true };
        let mut modes = Modes::default();
        for _ in 0..3 {
            assert_eq!(opened(&mut modes, Access::Both), cached);
        }
        assert!(!modes.release(cached, SURPLUS - 1));
        assert!(!modes.release(cached, 1), "one has it open");
        assert!(modes.release(cached, 0));
        // Said once.
        opened(&mut modes, Access::Both);
        assert!(!modes.release(cached, SURPLUS - 1));
        // Who opens it past the pages drops them.
        opened(&mut modes, Access::Read);
        assert!(!modes.release(Mode::Passthrough, 0));
        opened(&mut modes, Access::Both);
        assert!(!modes.release(cached, 1));
        // What never was in the pages does not count.
        opened(&mut modes, Access::Write);
        assert!(!modes.release(Mode::Direct, SURPLUS));
    }

    #[test]
    fn without_a_backing_everything_is_cached() {
        let mut modes = Modes::default();
        let none = Facts {
            backing: Some(false),
            ..LENDING
        };
        for access in [Access::Read, Access::Write, Access::Both] {
            assert!(matches!(
                modes.open(access, none),
                Step::Open(Mode::Cached { .. })
            ));
        }
        let off = Facts {
            passthrough: false,
            ..Facts::default()
        };
        assert!(matches!(
            Modes::default().open(Access::Read, off),
            Step::Open(Mode::Cached { .. })
        ));
    }

    /// The kernel's own accounting (fs/fuse/iomode.c), as far as it can refuse an open.
    #[derive(Default)]
    struct KernelInode {
        cached: u32,
        backed: u32,
    }

    impl KernelInode {
        fn open(&mut self, mode: Mode) -> bool {
            match mode {
                Mode::Cached { .. } | Mode::Direct if self.backed > 0 => return false,
                Mode::Cached { .. } => self.cached += 1,
                // No mode of its inode at all.
                Mode::Direct => {}
                _ if self.cached > 0 => return false,
                _ => self.backed += 1,
            }
            true
        }

        fn release(&mut self, mode: Mode) {
            match mode {
                Mode::Cached { .. } => self.cached -= 1,
                Mode::Direct => {}
                _ => self.backed -= 1,
            }
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// An open is decided upon; the kernel has not seen the answer yet.
        Decide(Access, Facts),
        /// The kernel takes one of the answers that are under way.
        Arrive(usize),
        /// A process closes one of its files: the kernel counts it out at once.
        Close(usize),
        /// We are told of one of those.
        Release(usize),
    }

    fn access() -> impl Strategy<Value = Access> {
        prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Both)]
    }

    fn event() -> impl Strategy<Value = Event> {
        let facts =
            any::<[bool; 5]>().prop_map(|[passthrough, small, backing, marked, quiet]| Facts {
                passthrough,
                small: Some(small),
                backing: Some(backing),
                marked: Some(marked),
                quiet: Some(quiet),
            });
        prop_oneof![
            3 => (access(), facts).prop_map(|(access, facts)| Event::Decide(access, facts)),
            3 => any::<usize>().prop_map(Event::Arrive),
            2 => any::<usize>().prop_map(Event::Close),
            2 => any::<usize>().prop_map(Event::Release),
        ]
    }

    fn take<T>(from: &mut Vec<T>, at: usize) -> Option<T> {
        (!from.is_empty()).then(|| from.swap_remove(at % from.len()))
    }

    proptest! {
        #[test]
        fn the_kernel_never_refuses_what_was_decided(events in prop::collection::vec(event(), 1..80)) {
            let (mut modes, mut kernel) = (Modes::default(), KernelInode::default());
            let (mut under_way, mut open, mut closed) = (vec![], vec![], vec![]);
            for event in events {
                match event {
                    Event::Decide(access, facts) => match modes.open(access, facts) {
                        Step::Open(mode) => under_way.push((access, mode, facts)),
                        Step::Refuse => prop_assert_eq!(access, Access::Both),
                        step => prop_assert!(false, "everything was known: {:?}", step),
                    },
                    Event::Arrive(at) => if let Some((access, mode, facts)) = take(&mut under_way, at) {
                        prop_assert!(kernel.open(mode), "EIO for {:?} as {:?}", access, mode);
                        // No store reaches the brick unseen unless the volume was told.
                        if access == Access::Both && mode.is_backed() {
                            prop_assert_eq!(facts.marked, Some(true));
                        }
                        if access == Access::Write {
                            prop_assert_ne!(mode, Mode::Passthrough);
                        } else {
                            prop_assert_ne!(mode, Mode::Direct, "it may be mapped");
                        }
                        open.push(mode);
                    },
                    Event::Close(at) => if let Some(mode) = take(&mut open, at) {
                        kernel.release(mode);
                        closed.push(mode);
                    },
                    Event::Release(at) => if let Some(mode) = take(&mut closed, at) {
                        modes.release(mode, 0);
                    },
                }
            }
            for mode in open.into_iter().chain(closed).chain(under_way.into_iter().map(|(_, m, _)| m)) {
                modes.release(mode, 0);
            }
            prop_assert!(modes.is_closed());
        }
    }
}
