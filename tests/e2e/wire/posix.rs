//! POSIX as others test it, with both bricks behind a server.

use std::time::Duration;

use hermitfs_tests::crew;
use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::odd::Odd;

use super::{By, loopback};
use crate::posix::{assert_pjdfstest_as_on_ext4, fsx};

#[test]
fn pjdfstest_fails_nothing_through_a_loopback_pair_that_ext4_passes_but_what_is_listed() {
    let lab = Lab::new("wire-pjdfstest");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Ext4, 512),
    );
    let mut migration = loopback(&lab, &old, &new, By::Socket);
    migration.start();
    assert_pjdfstest_as_on_ext4(&lab, migration.mount());
    migration.wait_ready(Duration::from_secs(120));
    migration.assert_bricks_equal();
}

#[test]
fn fsx_agrees_through_a_loopback_pair_while_a_heal_runs() {
    let lab = Lab::new("wire-fsx");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Btrfs, 1024),
    );
    Odd::small().build(old.path(), 63);
    let mut migration = loopback(&lab, &old, &new, By::Calls);
    migration.start();
    for fsx in fsx(&lab, migration.mount(), 4_000 * crew::soak()) {
        fsx.succeeded();
    }
    migration.wait_ready(Duration::from_secs(180));
    migration.assert_bricks_equal();
    migration.cut_over();
}
