//! What a user waits for while everything is being copied: through the mount of a migration, and on
//! the bare source while `cp -a` runs beside.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::lab::Lab;

use crate::table::{headline, median, rounds, row};

/// Files that are copied meanwhile.
const FILES: usize = 60_000;

pub(crate) fn run() {
    let mut figures: [[Vec<f64>; 3]; 2] = Default::default();
    for _ in 0..rounds() {
        for (way, figures) in [through_the_mount, beside_cp].into_iter().zip(&mut figures) {
            let mut waits = way();
            waits.sort();
            let at = |part: f64| {
                let at = (waits.len() as f64 * part) as usize;
                waits[at.min(waits.len() - 1)].as_secs_f64() * 1e6
            };
            figures[0].push(at(0.5));
            figures[1].push(at(0.99));
            figures[2].push(at(1.0));
        }
    }
    headline(
        "one user's operations while 60,000 files are copied ext3 to btrfs, microseconds",
        "who copies",
        &["median", "p99", "longest"],
    );
    for (name, figures) in ["hermitfs", "cp -a, native work"].into_iter().zip(figures) {
        let figures: Vec<_> = figures
            .into_iter()
            .map(|figures| format!("{:.0}", median(figures)))
            .collect();
        row(name, &figures);
    }
}

fn source(lab: &Lab) -> (Disk, Disk) {
    let old = lab.disk_with("old", Format::Ext3, 2048, &["-N", "100000"], "");
    for index in 0..FILES {
        let directory = old.join(format!("{:03}", index % 600));
        if index < 600 {
            fs::create_dir(&directory).unwrap();
        }
        fs::write(
            directory.join(format!("file-{index}")),
            vec![index as u8; 100 + index * 7919 % 4800],
        )
        .unwrap();
    }
    fs::create_dir(old.join("work")).unwrap();
    (old, lab.disk("new", Format::Btrfs, 3072))
}

fn through_the_mount() -> Vec<Duration> {
    let lab = Lab::new("bench-latency");
    let (old, new) = source(&lab);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let mut last_look = Instant::now();
    work(&migration.mount().join("work"), || {
        // Asked now and then only: a look costs a process.
        if last_look.elapsed() < Duration::from_millis(300) {
            return false;
        }
        last_look = Instant::now();
        migration.status().number("crawl_left") == 0 && migration.status().is("ready")
    })
}

fn beside_cp() -> Vec<Duration> {
    let lab = Lab::new("bench-latency");
    let (old, new) = source(&lab);
    let script = format!(
        "cp -a {}/. {1} && sync -f {1}",
        old.path().display(),
        new.path().display()
    );
    // Names come and go under it: what it complains of is not the matter here.
    let mut copy = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    work(&old.join("work"), || copy.try_wait().unwrap().is_some())
}

/// Small operations without a pause until it is over: what each took.
fn work(place: &Path, mut over: impl FnMut() -> bool) -> Vec<Duration> {
    let mut waits = Vec::new();
    let started = Instant::now();
    for n in 0_u64.. {
        let path = place.join(format!("file-{}", n % 200));
        let mut timed = |operation: &mut dyn FnMut()| {
            let started = Instant::now();
            operation();
            waits.push(started.elapsed());
        };
        timed(&mut || fs::write(&path, [7; 3000]).unwrap());
        timed(&mut || assert!(fs::metadata(&path).unwrap().is_file()));
        timed(&mut || drop(fs::read(&path).unwrap()));
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        timed(&mut || assert_eq!(file.write_at(&[8; 500], 1000).unwrap(), 500));
        drop(file);
        if n % 4 == 0 {
            timed(&mut || fs::rename(&path, place.join("moved")).unwrap());
            timed(&mut || fs::remove_file(place.join("moved")).unwrap());
        }
        // As a busy user, not as a benchmark of the processor.
        std::thread::sleep(Duration::from_micros(500));
        if over() || started.elapsed() > Duration::from_secs(120) {
            break;
        }
    }
    waits
}
