//! The classic pair: both bricks behind a server, through a mount that has nothing left to heal. The
//! same with GlusterFS', in the configuration that works.

use std::path::Path;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;

use crate::{data, gluster, metadata};

pub(crate) fn run() {
    let lab = Lab::new("bench-loopback");
    metadata::pack(&lab);
    let (old, new) = (
        lab.disk("old", Format::Ext3, 1024),
        lab.disk("new", Format::Btrfs, 2048),
    );
    let (peer_old, peer_new) = (
        lab.disk("peer-old", Format::Ext3, 1024),
        lab.disk("peer-new", Format::Btrfs, 2048),
    );
    if let Err(why) = gluster::available() {
        println!("\nno GlusterFS: {why}");
        return;
    }
    let mounted = mount(&lab, old.path(), new.path());
    let pair = gluster::pair(&lab, peer_old.path(), peer_new.path());
    let settle = || drop(mounted.command("heal", &["--wait"]).expect(exit::OK));
    metadata::compare(
        &format!(
            "{} files, both bricks behind a server, seconds (ratio to hermitfs)",
            metadata::FILES
        ),
        &[("hermitfs", mounted.path()), ("GlusterFS", pair.path())],
        settle,
    );
    data::compare(
        "one file of 256 MiB, both bricks behind a server, MiB/s (ratio to GlusterFS)",
        [("hermitfs", mounted.path()), ("GlusterFS", pair.path())],
        settle,
    );
}

/// The worked example, mounted.
fn mount<'lab>(lab: &'lab Lab, old: &Path, new: &Path) -> Mounted<'lab> {
    let volfile = lab.file(
        "loopback.vol",
        include_str!("../../volfiles/migrate-loopback.vol"),
    );
    let socket = lab.path().join("bricks.sock");
    let set = [("old", old), ("new", new), ("socket", &*socket)]
        .map(|(name, path)| format!("{name}={}", path.display()));
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    Mounted::volfile(lab, "loopback", &volfile, &set)
}
