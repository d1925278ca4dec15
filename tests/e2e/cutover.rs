//! The moment in which the new brick takes the mount's place.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::tree::Tree;
use hermitfs_tests::wait::until;

/// Makes, moves, looks at and takes away names by their paths, without a pause, and holds nothing
/// open. How many it has left there.
fn work(base: &Path, stop: &AtomicBool) -> std::io::Result<u64> {
    let mut kept = 0;
    for n in 0.. {
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
        if n % 3 > 0 {
            fs::remove_file(at("kept").join("link"))?;
            fs::remove_dir(at("kept"))?;
        } else {
            kept += 1;
        }
    }
    Ok(kept)
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
        let stop = AtomicBool::new(false);
        let kept: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let (base, stop) = (migration.mount().join(format!("worker-{worker}")), &stop);
                    scope.spawn(move || work(&base, stop))
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
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap().expect("an operation failed"))
                .collect()
        });
        migration.daemon().wait_end(Duration::from_secs(30));
        // What was done until then is on both, what came after on the new one alone; nothing is
        // lost, and nothing that was taken away comes back.
        let (before, after) = (Tree::of(&from), Tree::of(migration.mount()));
        assert!(after.len() > before.len(), "no work after the cut-over");
        for (worker, kept) in kept.into_iter().enumerate() {
            let there = fs::read_dir(to.join(format!("worker-{worker}"))).unwrap();
            assert_eq!(there.count() as u64, kept, "worker {worker}");
        }
        hermitfs_tests::shell::run("umount", &[migration.mount()]);
    }
}
