//! What the contract promises, as a list of checks that every room runs on itself.
//!
//! ```
//! use std::sync::Arc;
//! use hermitfs_testkit::{Memory, conformance::{self, Fixture}};
//!
//! conformance::run_all(|| Fixture::new(Arc::new(Memory::new())));
//! ```

/// Collects the checks of a file.
macro_rules! checks {
    ($($(#[$meta:meta])* fn $name:ident($hands:ident) $body:block)*) => {
        pub(super) const CHECKS: &[super::Check] = &[$(super::Check { name: stringify!($name), run: $name }),*];
        $($(#[$meta])* fn $name($hands: &super::hands::Hands) $body)*
    };
}

mod attributes;
mod compounds;
mod data;
mod handles;
mod hands;
mod listing;
mod locks;
mod names;
mod rename;
mod xattrs;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hands::Hands;
use hermitfs_api::Translator;

/// An empty volume to check, and what it can.
pub struct Fixture {
    volume: Arc<dyn Translator>,
    can: Can,
    keep: Option<Box<dyn Any>>,
}

impl Fixture {
    /// A volume of which everything is expected.
    pub fn new(volume: Arc<dyn Translator>) -> Fixture {
        Fixture {
            volume,
            can: Can::default(),
            keep: None,
        }
    }

    /// Changes what is expected of it.
    pub fn can(mut self, change: impl FnOnce(&mut Can)) -> Fixture {
        change(&mut self.can);
        self
    }

    /// Keeps something (a temporary directory) until the check is over.
    pub fn keep(mut self, something: impl Any) -> Fixture {
        self.keep = Some(Box::new(something));
        self
    }
}

/// What a volume can; everything but locks unless said otherwise. What it cannot, it must refuse as the
/// contract says, where that is checked at all.
#[derive(Clone, Debug)]
pub struct Can {
    /// Reserving, punching and zeroing by fallocate(2).
    pub fallocate: bool,
    /// Collapsing and inserting by fallocate(2).
    pub shift: bool,
    /// SEEK_DATA and SEEK_HOLE tell holes of 64 KiB; else everything is data.
    pub holes: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// `trusted.` and `security.` ones too (as root).
    pub trusted: bool,
    /// POSIX ACLs.
    pub acls: bool,
    /// Inode flags.
    pub flags: bool,
    /// Handles that outlive the inode.
    pub handles: bool,
    /// Devices, fifos and sockets.
    pub special: bool,
    /// `RENAME_EXCHANGE` and `RENAME_NOREPLACE`.
    pub rename_flags: bool,
    /// Changes owners, makes objects as other users, and lets their set-id bits fall.
    pub owners: bool,
    /// Names of any bytes (else UTF-8).
    pub raw_names: bool,
    /// Multiples of this, in nanoseconds, can be times.
    pub time_granularity: u32,
    /// Earliest and latest second of a time.
    pub times: (i64, i64),
    /// Bytes that one extended attribute can have.
    pub xattr_size: usize,
    /// Bytes of a symbolic link's target (1,023 on xfs).
    pub symlink_size: usize,
    /// Largest file.
    pub max_file: u64,
    /// Locks, which leaves leave to a layer above; not expected unless said so.
    pub locks: bool,
}

impl Default for Can {
    fn default() -> Can {
        Can {
            fallocate: true,
            shift: true,
            holes: true,
            xattrs: true,
            trusted: true,
            acls: true,
            flags: true,
            handles: true,
            special: true,
            rename_flags: true,
            owners: true,
            raw_names: true,
            time_granularity: 1,
            // What ext4 with 256-byte inodes holds, the narrowest of the good ones.
            times: (-(1 << 31), (1 << 34) - (1 << 31) - 1),
            xattr_size: 1000,
            symlink_size: 4095,
            max_file: 1 << 43,
            locks: false,
        }
    }
}

/// One promise.
pub struct Check {
    /// What is promised.
    pub name: &'static str,
    run: fn(&Hands),
}

impl Check {
    /// Panics with what differed when the promise is not kept.
    pub fn run(&self, fixture: &Fixture) {
        (self.run)(&Hands::new(fixture));
    }
}

/// All checks.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    let all = [
        names::CHECKS,
        rename::CHECKS,
        data::CHECKS,
        attributes::CHECKS,
        xattrs::CHECKS,
        listing::CHECKS,
        handles::CHECKS,
        compounds::CHECKS,
        locks::CHECKS,
    ];
    all.into_iter().flatten()
}

/// Runs every check on a volume of its own, and panics with the names of all that failed; what differed is
/// said before.
pub fn run_all(make: impl Fn() -> Fixture) {
    let mut failed = Vec::new();
    for check in checks() {
        let fixture = make();
        if catch_unwind(AssertUnwindSafe(|| check.run(&fixture))).is_err() {
            eprintln!("^ this was the check {}\n", check.name);
            failed.push(check.name);
        }
    }
    assert!(
        failed.is_empty(),
        "{} promises are not kept:\n  {}",
        failed.len(),
        failed.join("\n  ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    #[test]
    fn memory_keeps_every_promise() {
        run_all(|| Fixture::new(Arc::new(Memory::new())));
    }

    #[test]
    fn compounds_taken_apart_keep_every_promise() {
        run_all(|| Fixture::new(Arc::new(crate::BySteps(Arc::new(Memory::new())))));
    }

    #[test]
    fn an_open_gate_keeps_every_promise() {
        crate::explore(crate::Bounds::default(), |chooser| {
            let stepper = crate::Stepper::new(chooser);
            run_all(|| Fixture::new(stepper.gate("brick", Arc::new(Memory::new()))));
        });
    }

    #[test]
    fn memory_with_little_refuses_as_promised() {
        run_all(|| {
            let memory = Memory::new();
            memory.set(|settings| {
                settings.fallocate = false;
                settings.xattrs = false;
                settings.flags = 0;
                settings.handles = false;
                settings.time_granularity = 1_000_000_000;
            });
            Fixture::new(Arc::new(memory)).can(|can| {
                can.fallocate = false;
                can.shift = false;
                can.xattrs = false;
                can.trusted = false;
                can.acls = false;
                can.flags = false;
                can.handles = false;
                can.time_granularity = 1_000_000_000;
            })
        });
    }

    #[test]
    fn a_broken_promise_is_named() {
        let caught = catch_unwind(|| {
            run_all(|| {
                let memory = Memory::new();
                memory.set(|settings| settings.max_links = 2);
                Fixture::new(Arc::new(memory))
            });
        });
        let message = caught.unwrap_err().downcast::<String>().unwrap();
        assert!(
            message.contains("a_directory_counts_its_sub_directories_or_nothing"),
            "{message}"
        );
    }
}
