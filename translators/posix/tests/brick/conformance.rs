//! The suite that every room runs on itself, on each file system.

use std::sync::atomic::{AtomicU32, Ordering};

use hermitfs_testkit::conformance::{Fixture, run_all};

use super::*;

fn conforms(kind: image::Kind, handles: bool) {
    conforms_with(kind, handles, false);
}

fn conforms_with(kind: image::Kind, handles: bool, one_file_system: bool) {
    let image = image::Image::new(kind);
    let number = AtomicU32::new(0);
    run_all(|| {
        // A directory of its own for each check.
        let name = format!("brick-{}", number.fetch_add(1, Ordering::Relaxed));
        let directory = image.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        let options = Options {
            handles,
            one_file_system,
            ..Options::new(&directory)
        };
        let posix = Posix::open(&options).unwrap();
        let fixture = Fixture::new(Arc::new(posix)).can(|can| can.handles = handles);
        fixture.can(|can| match kind {
            image::Kind::Ext4 => {}
            image::Kind::Ext3 => {
                can.fallocate = false;
                can.shift = false;
                can.max_file = 1 << 40;
            }
            image::Kind::Btrfs => can.shift = false,
            image::Kind::Xfs => {
                can.symlink_size = 1023;
                can.times = (-(1 << 31), 16_299_260_424);
            }
        })
    });
}

#[test]
fn a_brick_on_ext3_keeps_the_contract() {
    conforms(image::Kind::Ext3, true);
}

#[test]
fn a_brick_on_ext4_keeps_the_contract_with_handles_and_without() {
    conforms(image::Kind::Ext4, true);
    conforms(image::Kind::Ext4, false);
}

#[test]
fn a_brick_that_leaves_out_other_file_systems_keeps_the_contract() {
    conforms_with(image::Kind::Ext4, true, true);
    conforms_with(image::Kind::Ext4, false, true);
}

#[test]
fn a_brick_on_xfs_keeps_the_contract() {
    conforms(image::Kind::Xfs, true);
}

#[test]
fn a_brick_on_btrfs_keeps_the_contract() {
    conforms(image::Kind::Btrfs, true);
}
