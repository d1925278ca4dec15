//! Speed, as far as it is a matter of shape: how often everyday jobs have to ask the daemon.

use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::requests::{JOBS, of_everyday_jobs};

#[test]
fn everyday_jobs_ask_the_daemon_no_more_often_than_they_must() {
    let lab = Lab::new("requests");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 256),
        lab.disk("new", Format::Btrfs, 256),
    );
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let (counted, files) = of_everyday_jobs(&lab, migration.mount());
    let mut beyond = Vec::new();
    for ((job, bound), requests) in JOBS.iter().zip(&counted) {
        let per_file = requests.values().sum::<u64>() as f64 / files as f64;
        println!("{job}: {per_file:.2} a file, at most {bound}: {requests:?}");
        if per_file > *bound {
            beyond.push(format!(
                "{job}: {per_file:.2} requests a file, at most {bound}: {requests:?}"
            ));
        }
    }
    assert!(beyond.is_empty(), "{beyond:#?}");
    migration.wait_ready(Duration::from_secs(60));
    migration.assert_bricks_equal();
}
