//! The contract is kept through this filter.

use std::sync::Arc;

use hermitfs_testkit::Memory;
use hermitfs_testkit::conformance::{Fixture, run_all};
use hermitfs_trace::{Options, Trace};

#[test]
fn operations_are_told_and_otherwise_left_alone() {
    run_all(|| {
        let trace = Trace::new("brick", Arc::new(Memory::new()), Options::default());
        Fixture::new(Arc::new(trace))
    });
}
