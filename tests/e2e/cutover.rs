//! The moment in which the new brick takes the mount's place.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::wait::until;

/// Names that one worker leaves behind at most: a fast machine must not run out of inodes.
const KEPT: u64 = 400;

/// Makes, moves, looks at and takes away names by their paths, without a pause, and holds nothing
/// open. What it leaves there is spread over the time. How many those are, and how many turns it
/// began when the cut-over was over.
fn work(base: &Path, over: &AtomicBool, stop: &AtomicBool) -> std::io::Result<(u64, u64)> {
    let (mut kept, mut after) = (0, 0);
    for n in 0_u64.. {
        after += u64::from(over.load(Ordering::Relaxed));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let at = |name: &str| base.join(format!("{name}-{n}"));
        fs::create_dir(at("made"))?;
        fs::set_permissions(at("made"), fs::Permissions::from_mode(0o711))?;
        symlink("somewhere", at("made").join("link"))?;
        fs::rename(at("made"), at("kept"))?;
        let meta = fs::metadata(at("kept"))?;
        assert_eq!(meta.permissions().mode() & 0o777, 0o711);
        assert_eq!(
            fs::read_link(at("kept").join("link"))?,
            Path::new("somewhere")
        );
        if n % 16 > 0 || kept >= KEPT {
            fs::remove_file(at("kept").join("link"))?;
            fs::remove_dir(at("kept"))?;
        } else {
            kept += 1;
        }
    }
    Ok((kept, after))
}

#[test]
fn who_holds_nothing_open_notices_nothing_of_a_cut_over() {
    const WORKERS: usize = 3;
    let lab = Lab::new("cutover");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Ext4, 512),
    );
    for round in 0..4 {
        let [from, to] = [&old, &new].map(|disk| disk.join(format!("round-{round}")));
        for worker in 0..WORKERS {
            fs::create_dir_all(from.join(format!("worker-{worker}"))).unwrap();
        }
        fs::create_dir(&to).unwrap();
        let mut migration = lab.migration(&from, &to);
        migration.start();
        migration.wait_ready(Duration::from_secs(60));
        let (over, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let done: Vec<(u64, u64)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let base = migration.mount().join(format!("worker-{worker}"));
                    let (over, stop) = (&over, &stop);
                    scope.spawn(move || work(&base, over, stop))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(300));
            until(Duration::from_secs(60), "a cut-over", || {
                let done = migration.command("cutover", &["--timeout", "10s"]);
                assert!(
                    [exit::OK, exit::TRY_AGAIN].contains(&done.code),
                    "{}",
                    done.stderr
                );
                (done.code == exit::OK).then_some(())
            });
            over.store(true, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap().expect("an operation failed"))
                .collect()
        });
        migration.daemon().wait_end(Duration::from_secs(30));
        // Nothing is lost, and nothing that was taken away comes back.
        for (worker, (kept, after)) in done.into_iter().enumerate() {
            assert!(after > 0, "no work after the cut-over");
            let there = fs::read_dir(to.join(format!("worker-{worker}"))).unwrap();
            assert_eq!(there.count() as u64, kept, "worker {worker}");
        }
        hermitfs_tests::shell::run("umount", &[migration.mount()]);
    }
}
