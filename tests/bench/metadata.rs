//! Everyday jobs through a mount that has nothing left to heal, beside other FUSE file systems, the
//! clients and the daemons of all on one processor: what wakes up where is not measured.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::peers::{build_passthrough_hp, mergerfs, passthrough_hp, sh};
use crate::table::{headline, median_of, rounds, row, with_ratio};

/// As many as a system's headers.
pub(crate) const FILES: usize = 8_000;

const JOBS: [(&str, &str); 5] = [
    ("untar", "tar -xf ../tree.tar"),
    ("find, warm", "find tree -printf '%s %T@ %m\\n' > /dev/null"),
    ("tar, warm", "tar -cf - tree | cat > /dev/null"),
    ("chmod -R", "chmod -R g+w tree"),
    ("rm -rf", "rm -rf tree"),
];

pub(crate) fn run() {
    let lab = Lab::new("bench-metadata");
    pack(&lab);
    let everywhere = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one).unwrap();
    jobs(&lab);
    sched_setaffinity(None, &everywhere).unwrap();
}

/// Makes the archive that the jobs begin with.
pub(crate) fn pack(lab: &Lab) {
    let original = lab.dir("original");
    for index in 0..FILES {
        let directory = original.join(format!("tree/{:03}", index % 400));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join(format!("header-{index}.h")),
            vec![b'x'; 200 + index * 7919 % 12_000],
        )
        .unwrap();
    }
    sh(&original, "tar -cf ../tree.tar tree");
}

fn jobs(lab: &Lab) {
    let (old, new) = (
        lab.disk("old", Format::Ext3, 1024),
        lab.disk("new", Format::Btrfs, 2048),
    );
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let peer = lab.disk("peer", Format::Ext3, 1024);
    let native = lab.disk("native", Format::Ext3, 1024);
    let merger = mergerfs(lab, peer.path());
    let high = build_passthrough_hp(lab).map(|program| passthrough_hp(lab, &program, peer.path()));
    let mut places: Vec<(&str, &Path)> = vec![
        ("hermitfs", migration.mount()),
        ("mergerfs", merger.path()),
        ("native ext3", native.path()),
    ];
    match &high {
        Ok(high) => places.insert(1, ("passthrough_hp", high.path())),
        Err(why) => println!("\nno passthrough_hp: {why}"),
    }
    compare(
        &format!("{FILES} files, client and daemon on one processor, seconds (ratio to hermitfs)"),
        &places,
        |nth| {
            if nth == 0 {
                migration.command("heal", &["--wait"]).expect(exit::OK);
            }
        },
    );
}

/// Does the jobs at each of the places, after `settle` for it, and shows what they took.
pub(crate) fn compare(title: &str, places: &[(&str, &Path)], settle: impl Fn(usize)) {
    let mut times: Vec<Vec<Vec<Duration>>> = vec![vec![Vec::new(); JOBS.len()]; places.len()];
    for _ in 0..rounds() {
        for (nth, ((_, place), times)) in places.iter().zip(&mut times).enumerate() {
            sh(place, "sync -f . ; true");
            for ((_, script), times) in JOBS.iter().zip(times.iter_mut()) {
                settle(nth);
                let started = Instant::now();
                sh(place, script);
                times.push(started.elapsed());
            }
        }
    }
    let names: Vec<_> = places.iter().map(|(name, _)| *name).collect();
    headline(title, "job", &names);
    for (at, (job, _)) in JOBS.iter().enumerate() {
        let medians: Vec<f64> = times.iter().map(|all| median_of(all[at].clone())).collect();
        let figures: Vec<_> = medians
            .iter()
            .map(|&median| with_ratio(median, medians[0]))
            .collect();
        row(job, &figures);
    }
}
