//! The contract is kept through this filter, and with it there are locks.

use std::sync::Arc;

use hermitfs_locks::{Locks, Options};
use hermitfs_testkit::Memory;
use hermitfs_testkit::conformance::{Fixture, run_all};

#[test]
fn every_promise_is_kept_and_locks_are_among_them() {
    run_all(|| {
        let locks = Locks::new(Arc::new(Memory::new()), Options::default());
        Fixture::new(Arc::new(locks)).can(|can| can.locks = true)
    });
}
