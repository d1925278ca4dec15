//! The classic pair: both bricks behind a server, through a mount that has nothing left to heal. In one
//! process, the same by the server's socket as if it was another one, and GlusterFS', in the configuration
//! that works.

use std::path::Path;

use hermitfs_tests::bricks::{loopback, loopback_by_socket};
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;

use crate::{data, gluster, metadata};

pub(crate) fn run() {
    let lab = Lab::new("bench-loopback");
    metadata::pack(&lab);
    if let Err(why) = gluster::available() {
        println!("\nno GlusterFS: {why}");
        return;
    }
    let disks = ["near", "far", "peer"].map(|name| {
        let old = lab.disk(&format!("{name}-old"), Format::Ext3, 1024);
        let new = lab.disk(&format!("{name}-new"), Format::Btrfs, 2048);
        (old, new)
    });
    let [near, far, peer] = disks.each_ref().map(|(old, new)| (old.path(), new.path()));
    let near = mount(&lab, "near", &loopback(), near);
    let far = mount(&lab, "far", &loopback_by_socket(&lab), far);
    let peer = gluster::pair(&lab, peer.0, peer.1);
    let settle = |mounted: &Mounted<'_>| {
        mounted.command("heal", &["--wait"]).expect(exit::OK);
    };
    metadata::compare(
        &format!(
            "{} files, both bricks behind a server, seconds (ratio to hermitfs)",
            metadata::FILES
        ),
        &[
            ("hermitfs", near.path()),
            ("by a socket", far.path()),
            ("GlusterFS", peer.path()),
        ],
        |nth| match nth {
            0 => settle(&near),
            1 => settle(&far),
            _ => {}
        },
    );
    for (name, ours) in [("one process", &near), ("by a socket", &far)] {
        data::compare(
            &format!(
                "one file of 256 MiB, both bricks behind a server, {name}, MiB/s (ratio to GlusterFS)"
            ),
            [("hermitfs", ours.path()), ("GlusterFS", peer.path())],
            || settle(ours),
        );
    }
}

fn mount<'lab>(
    lab: &'lab Lab,
    name: &str,
    volfile: &Path,
    (old, new): (&Path, &Path),
) -> Mounted<'lab> {
    let socket = lab.path().join(format!("{name}.sock"));
    let set = [("old", old), ("new", new), ("socket", &*socket)]
        .map(|(name, path)| format!("{name}={}", path.display()));
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    Mounted::volfile(lab, name, volfile, &set)
}
