//! Requests: counted by the kernel, whatever mood the machine is in.

use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::requests::{JOBS, of_everyday_jobs};

pub(crate) fn run() {
    let lab = Lab::new("bench-requests");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let (counted, files) = of_everyday_jobs(&lab, migration.mount());
    println!(
        "\nFUSE requests per file through a migration, counted by the kernel ({files} files)\n"
    );
    println!(
        "{:<12} {:>8} {:>8}   most of them",
        "job", "requests", "at most"
    );
    for ((job, bound), requests) in JOBS.iter().zip(&counted) {
        let per_file = |count: u64| count as f64 / files as f64;
        let mut by_count: Vec<_> = requests.iter().collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let most: Vec<_> = by_count
            .iter()
            .take(4)
            .map(|(name, count)| format!("{name} {:.2}", per_file(**count)))
            .collect();
        println!(
            "{job:<12} {:>8.2} {bound:>8.2}   {}",
            per_file(requests.values().sum()),
            most.join(", ")
        );
    }
}
