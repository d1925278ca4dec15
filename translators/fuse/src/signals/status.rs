//! What `/proc/TID/status` and `/proc/TID/syscall` say of a thread that waits.

/// One thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) thread: u32,
    pub(crate) process: u32,
    threads: u32,
    /// `S`, `D`, `Z` ...
    state: char,
    /// Signals sent to it, to its process, and those that it blocks; bit n-1 is signal n.
    own: u64,
    shared: u64,
    blocked: u64,
}

/// Whether a thread has a signal to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    None,
    /// Its process has, and another thread may be the one that takes it.
    Maybe,
    Signal,
    /// Nothing is known.
    Unseen,
}

impl Status {
    pub(crate) fn parse(text: &str) -> Option<Status> {
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        let number = |name| field(name)?.parse().ok();
        let mask = |name| u64::from_str_radix(field(name)?, 16).ok();
        Some(Status {
            thread: number("Pid")?,
            process: number("Tgid")?,
            threads: number("Threads")?,
            state: field("State")?.chars().next()?,
            own: mask("SigPnd")?,
            shared: mask("ShdPnd")?,
            blocked: mask("SigBlk")?,
        })
    }

    /// A signal to the process is given to one of its threads alone, and no file says to which.
    /// The kernel asks the first thread first, and who is asleep takes it at once; so it is this
    /// one's if it is the first, or if no other can be the one that has not taken it yet.
    pub(crate) fn judge(&self, siblings: impl FnOnce() -> Vec<Status>) -> Verdict {
        if self.own & !self.blocked != 0 {
            return Verdict::Signal;
        }
        let shared = self.shared & !self.blocked;
        if shared == 0 {
            return Verdict::None;
        }
        if self.threads == 1 || self.thread == self.process {
            return Verdict::Signal;
        }
        let siblings = siblings();
        let takers = siblings
            .iter()
            .filter(|other| !matches!(other.state, 'Z' | 'X') && shared & !other.blocked != 0);
        let (mut any, mut stuck) = (false, false);
        for other in takers {
            any = true;
            stuck |= other.thread == other.process || matches!(other.state, 'D' | 'T' | 't');
        }
        match (any, stuck) {
            (false, _) => Verdict::Signal,
            (true, false) => Verdict::Maybe,
            (true, true) => Verdict::None,
        }
    }
}

/// The second argument of the system call that a thread is in; `None` while it runs.
pub(crate) fn command_of_fcntl(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace();
    words.next()?.parse::<u64>().ok()?;
    let argument = words.nth(1)?;
    u64::from_str_radix(argument.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Name:\tcat: 7\nState:\tD (disk sleep)\nTgid:\t10\nNgid:\t0\nPid:\t12\n\
        Threads:\t3\nSigQ:\t1/31000\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000002000\n\
        SigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\n";
    const ALARM: u64 = 1 << (libc::SIGALRM - 1);

    fn thread(thread: u32, state: char, blocked: u64) -> Status {
        Status {
            thread,
            process: 10,
            threads: 3,
            state,
            own: 0,
            shared: ALARM,
            blocked,
        }
    }

    #[test]
    fn a_status_is_read() {
        let status = Status::parse(TEXT).unwrap();
        assert_eq!(status, thread(12, 'D', 0));
        assert_eq!(Status::parse("Name:\tcat\n"), None);
    }

    #[test]
    fn a_signal_counts_only_if_this_thread_takes_it() {
        let alone = |status: Status| status.judge(Vec::new);
        let one = Status {
            threads: 1,
            ..thread(10, 'D', 0)
        };
        assert_eq!(alone(one), Verdict::Signal);
        assert_eq!(
            alone(Status {
                blocked: ALARM,
                ..one
            }),
            Verdict::None
        );
        let own = Status {
            own: 1 << 8,
            shared: 0,
            ..thread(12, 'D', 0)
        };
        assert_eq!(alone(own), Verdict::Signal);
        // The first of many is asked first.
        assert_eq!(alone(thread(10, 'D', 0)), Verdict::Signal);
    }

    #[test]
    fn a_signal_that_another_thread_may_take_is_doubted() {
        let me = thread(12, 'D', 0);
        let judge = |others: &[Status]| me.judge(|| others.to_vec());
        let first = |state, blocked| thread(10, state, blocked);
        assert_eq!(judge(&[first('S', 0)]), Verdict::None, "the first one's");
        assert_eq!(judge(&[first('S', ALARM)]), Verdict::Signal);
        assert_eq!(judge(&[first('Z', 0)]), Verdict::Signal, "it is dead");
        assert_eq!(
            judge(&[first('S', ALARM), thread(11, 'S', 0)]),
            Verdict::Maybe,
            "who sleeps would have taken it by now"
        );
        assert_eq!(
            judge(&[first('S', ALARM), thread(11, 'D', 0)]),
            Verdict::None,
            "it may be the other's who waits like us"
        );
    }

    #[test]
    fn the_command_is_the_second_argument() {
        assert_eq!(
            command_of_fcntl("72 0x3 0x26 0x7ffd 0x0 0x0 0x0 0x7ffd 0x7f\n"),
            Some(38)
        );
        assert_eq!(command_of_fcntl("running\n"), None);
        assert_eq!(command_of_fcntl("-1 0x7ffd 0x7f00\n"), None);
    }
}
