//! The contract is kept over the wire.

use std::sync::Arc;

use hermitfs_posix::Posix;
use hermitfs_testkit::Memory;
use hermitfs_testkit::conformance::{Fixture, run_all};

use crate::common::Wire;

#[test]
fn a_brick_in_memory_keeps_every_promise_over_the_wire() {
    run_all(|| {
        let wire = Wire::new(Arc::new(Memory::new()));
        Fixture::new(wire.client.clone()).keep(wire)
    });
}

#[test]
fn a_brick_on_disk_keeps_every_promise_over_the_wire() {
    run_all(|| {
        let dir = tempfile::tempdir().unwrap();
        let brick = Posix::open(&hermitfs_posix::Options::new(dir.path())).unwrap();
        let wire = Wire::new(Arc::new(brick));
        Fixture::new(wire.client.clone()).keep((wire, dir))
    });
}

#[test]
fn a_brick_in_memory_keeps_every_promise_to_a_client_of_its_process() {
    run_all(|| {
        let wire = Wire::near(Arc::new(Memory::new()), |_| {});
        Fixture::new(wire.client.clone()).keep(wire)
    });
}

#[test]
fn a_brick_on_disk_keeps_every_promise_to_a_client_of_its_process() {
    run_all(|| {
        let dir = tempfile::tempdir().unwrap();
        let brick = Posix::open(&hermitfs_posix::Options::new(dir.path())).unwrap();
        let wire = Wire::near(Arc::new(brick), |_| {});
        Fixture::new(wire.client.clone()).keep((wire, dir))
    });
}
