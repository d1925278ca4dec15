//! Fair to users: they get what the old brick gives them, errors included, and healing steps back
//! when they would wait for it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::shell::run;
use hermitfs_tests::wait::until;

const LONG: Duration = Duration::from_secs(120);

/// A migration by a volfile, with a rule at the source and options of the pair.
fn with_rule<'lab>(
    lab: &'lab Lab,
    old: &Path,
    new: &Path,
    rule: &str,
    pair: &str,
) -> Mounted<'lab> {
    let volfile = lab.file(
        "fair.vol",
        &format!(
            "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"{}\"\n\n\
             [volume.source]\ntype = \"debug/fault\"\nsubvolumes = [\"old\"]\nrules = [\"{rule}\"]\n\n\
             [volume.new]\ntype = \"storage/posix\"\ndirectory = \"{}\"\n\n\
             [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"source\"\nsinks = [\"new\"]\n{pair}\n",
            old.display(),
            new.display()
        ),
    );
    Mounted::volfile(lab, "data", &volfile, &[])
}

#[test]
fn a_quota_of_the_source_holds_for_users_and_stops_no_healing() {
    let lab = Lab::new("quota");
    let (old, new) = (
        lab.disk("old", Format::Btrfs, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    fs::write(old.join("before"), vec![1; 1 << 20]).unwrap();
    let path = old.path().to_string_lossy().into_owned();
    run("btrfs", &["quota", "enable", &path]);
    run("btrfs", &["quota", "rescan", "-w", &path]);
    run("btrfs", &["qgroup", "limit", "24M", &path]);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let filler = migration.mount().join("filler");
    let fill = || -> std::io::Result<()> {
        let mut file = fs::File::create(&filler)?;
        for _ in 0..64 {
            file.write_all(&[2; 1 << 20])?;
        }
        file.sync_all()
    };
    let error = fill().expect_err("more than the quota");
    assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{error}");
    // What fitted is there, and arrives.
    let written = fs::metadata(&filler).unwrap().len();
    assert!(written > 1 << 20, "{written}");
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    fs::remove_file(&filler).unwrap();
    migration.cut_over();
}

#[test]
fn a_user_who_waits_for_a_slow_read_keeps_nobody_else_waiting() {
    const SLOW: Duration = Duration::from_secs(5);
    let lab = Lab::new("slow-user");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 64),
        lab.disk("new", Format::Ext4, 64),
    );
    fs::write(old.join("slow"), "slow").unwrap();
    let rule = "read name=slow origin=user delay=5000";
    let mount = with_rule(&lab, old.path(), new.path(), rule, "");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let begun = Instant::now();
            let content = fs::read(mount.join("slow")).unwrap();
            (content, begun.elapsed())
        });
        let mut late = 0;
        for index in 0..200 {
            let begun = Instant::now();
            let path = mount.join(format!("made-{index}"));
            fs::write(&path, "made").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"made");
            late += u32::from(begun.elapsed() >= SLOW - Duration::from_secs(1));
        }
        assert_eq!(late, 0, "others waited as well");
        let (content, took) = slow.join().unwrap();
        assert_eq!(content, b"slow");
        assert!(took >= SLOW, "{took:?}: this says nothing");
    });
    mount.command("heal", &["--wait"]).expect(exit::OK);
}

/// Users who ask for something that no cache of the kernel's has, until they are told to stop.
fn ask_while<T>(path: &Path, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    rustix::fs::listxattr(path, &mut [0; 1024]).unwrap();
                }
            });
        }
        // Also when the work fails.
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        work.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn healing_slows_down_while_users_wait_longer_than_without_it() {
    let lab = Lab::new("backoff");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    fs::create_dir_all(old.join("bulk/inside")).unwrap();
    for index in 0..60 {
        fs::write(
            old.join(format!("bulk/inside/{index}")),
            vec![index; 1 << 20],
        )
        .unwrap();
    }
    for name in ["fast", "slow"] {
        fs::write(old.join(name), name).unwrap();
    }
    let rule = "listxattr name=slow origin=user delay=10";
    let pair = "crawl = false\nlimit = \"1MB/s\"";
    let mount = with_rule(&lab, old.path(), new.path(), rule, pair);
    let pace = || mount.status().0["pace"].as_f64();
    // Nothing is healed yet: this is how fast it is without.
    ask_while(&mount.join("fast"), || {
        std::thread::sleep(Duration::from_secs(2));
    });
    assert_eq!(pace(), None);
    mount.command("heal", &[]).expect(exit::OK);
    ask_while(&mount.join("slow"), || {
        let slowed = until(LONG, "a slower pace", pace);
        assert!((0.125..1.0).contains(&slowed), "{slowed}");
    });
    until(LONG, "full speed without users", || {
        pace().is_none().then_some(())
    });
    mount.command("throttle", &["off"]).expect(exit::OK);
    mount.command("heal", &["--wait"]).expect(exit::OK);
    assert_eq!(fs::read(new.join("bulk/inside/59")).unwrap(), [59; 1 << 20]);
}
