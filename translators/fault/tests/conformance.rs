//! The contract is kept through this filter.

use std::sync::Arc;

use hermitfs_fault::{Fault, Options};
use hermitfs_testkit::Memory;
use hermitfs_testkit::conformance::{Fixture, run_all};

#[test]
fn rules_that_match_nothing_change_nothing() {
    run_all(|| {
        let fault = Fault::new(
            Arc::new(Memory::new()),
            Options::with(["all name=*.hit-me EIO".parse().unwrap()]),
        );
        Fixture::new(Arc::new(fault))
    });
}
