//! The daemon stops at operation n, for every n of a short script that has every mutating
//! operation in it: at the source, after the source did it, and in the middle of healing.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::tree::Tree;
use hermitfs_tests::world::{Operation, Worker, build};

/// What stands there before: seen by nobody when the script begins.
fn before() -> Vec<Operation> {
    use Operation::*;
    let dir = |path: &str| Mkdir {
        path: path.into(),
        mode: 0o755,
    };
    let file = |path: &str| Create {
        path: path.into(),
        mode: 0o644,
    };
    let fill = |path: &str, len| Write {
        path: path.into(),
        at: 0,
        len,
        fill: len as u64,
    };
    vec![
        dir("a"),
        dir("a/deep"),
        dir("b"),
        file("a/one"),
        fill("a/one", 30_000),
        file("a/deep/two"),
        fill("a/deep/two", 5000),
        file("b/three"),
        fill("b/three", 9000),
        Link {
            from: "b/three".into(),
            to: "a/three-too".into(),
        },
        file("four"),
        fill("four", 12_000),
        Times {
            path: "b".into(),
            seconds: 1_000_000,
            nanoseconds: 3,
        },
    ]
}

/// Every mutating operation, some of them in places that are healed by then and some not.
fn script() -> Vec<Operation> {
    use Operation::*;
    let text = |text: &str| text.to_owned();
    vec![
        Create {
            path: text("new"),
            mode: 0o640,
        },
        Write {
            path: text("new"),
            at: 100,
            len: 20_000,
            fill: 1,
        },
        Append {
            path: text("a/one"),
            len: 700,
            fill: 2,
        },
        Truncate {
            path: text("four"),
            len: 5000,
        },
        Overwrite {
            path: text("b/three"),
            len: 100,
            fill: 3,
        },
        Mkdir {
            path: text("dir"),
            mode: 0o755,
        },
        Symlink {
            path: text("dir/link"),
            target: text("../four"),
        },
        Fifo {
            path: text("dir/fifo"),
            mode: 0o600,
        },
        Link {
            from: text("a/one"),
            to: text("dir/one-too"),
        },
        Rename {
            from: text("a/deep"),
            to: text("dir/deep"),
        },
        Rename {
            from: text("a/three-too"),
            to: text("new"),
        },
        Exchange {
            a: text("a"),
            b: text("dir"),
        },
        RenameNoReplace {
            from: text("four"),
            to: text("a/four"),
        },
        Punch {
            path: text("dir/one"),
            at: 4096,
            len: 8192,
        },
        Zero {
            path: text("dir/one"),
            at: 20_000,
            len: 4096,
        },
        Map {
            path: text("dir/one"),
            at: 100,
            len: 6000,
            fill: 4,
        },
        CopyRange {
            from: text("dir/one"),
            to: text("a/four"),
            at: 0,
            len: 3000,
        },
        Chmod {
            path: text("a/four"),
            mode: 0o604,
        },
        Chown {
            path: text("a/link"),
            uid: 12,
            gid: 34,
        },
        Times {
            path: text("a/fifo"),
            seconds: 77,
            nanoseconds: 99,
        },
        SetXattr {
            path: text("b"),
            name: text("user.x"),
            len: 40,
            fill: 5,
        },
        RemoveXattr {
            path: text("b"),
            name: text("user.x"),
        },
        SetAcl {
            path: text("a/four"),
            user: 99,
            permissions: 6,
            mode: 0o640,
        },
        RemoveAcl {
            path: text("a/four"),
        },
        Unlink {
            path: text("a/one-too"),
        },
        Unlink {
            path: text("b/three"),
        },
        Rmdir { path: text("b") },
        Fsync { path: text("new") },
    ]
}

/// The volfile of a migration with a rule at the source and one at the sink.
fn volfile(lab: &Lab) -> std::path::PathBuf {
    lab.file(
        "stops.vol",
        "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"${old}\"\n\n\
         [volume.source]\ntype = \"debug/fault\"\nsubvolumes = [\"old\"]\nrules = [\"${at-source}\"]\n\n\
         [volume.new]\ntype = \"storage/posix\"\ndirectory = \"${new}\"\n\n\
         [volume.sink]\ntype = \"debug/fault\"\nsubvolumes = [\"new\"]\nrules = [\"${at-sink}\"]\n\n\
         [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"source\"\nsinks = [\"sink\"]\nrest-ms = 20\n",
    )
}

const NEVER: &str = "changes after=1000000000 stop";

/// One run with a stop; whether there was one.
fn one_run(lab: &Lab, disks: &[Disk; 2], volfile: &Path, name: &str, rules: [&str; 2]) -> bool {
    let [old, new] = disks.each_ref().map(|disk| disk.join(name));
    build(&old, &[]);
    build(&old.join("work"), &before());
    std::fs::create_dir(&new).unwrap();
    let set = |rules: [&str; 2]| {
        [
            format!("old={}", old.display()),
            format!("new={}", new.display()),
            format!("at-source={}", rules[0]),
            format!("at-sink={}", rules[1]),
        ]
    };
    let mut mount = Mounted::prepare(lab, &format!("mnt-{name}"));
    let arm = |mount: &mut Mounted<'_>, rules| {
        let set = set(rules);
        mount.use_volfile(volfile, &set.each_ref().map(String::as_str));
    };
    arm(&mut mount, rules);
    let mut stopped = mount.try_start(&[]).code != exit::OK || !mount.is_alive();
    arm(&mut mount, [NEVER, NEVER]);
    if stopped {
        mount.start();
    }
    let base = mount.join("work");
    let report = std::thread::scope(|scope| {
        let work = scope.spawn(|| Worker::scripted(&base, &before()).follow(&script()));
        while !work.is_finished() {
            if !mount.is_alive() {
                stopped = true;
                mount.start();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        work.join().unwrap()
    });
    if let Err(wrong) = report {
        panic!("{name} ({rules:?}): {wrong}");
    }
    // A stop may also come while what is left is healed: then this command is cut off.
    let healed = mount.command("heal", &["--wait"]);
    if healed.code == exit::NO_DAEMON {
        // It answers no more; a moment later it is gone.
        mount.daemon().wait_end(Duration::from_secs(10));
    }
    if !mount.is_alive() {
        stopped = true;
        mount.start();
        mount.command("heal", &["--wait"]).expect(exit::OK);
    } else {
        healed.expect(exit::OK);
    }
    let source = Tree::of(&old);
    let found = source.differences(&Tree::of_sink(&new, &source));
    assert!(
        found.is_empty(),
        "{name} ({rules:?}):\n{}",
        hermitfs_tests::tree::list(&found)
    );
    mount.terminate();
    stopped
}

/// Runs with n = 0, 1, 2 ... until there is no n-th operation any more.
fn at_every_operation(name: &str, rules: impl Fn(u64) -> [String; 2] + Sync) {
    let lab = Lab::new(&format!("stop-{name}"));
    let disks = [
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Btrfs, 1024),
    ];
    let volfile = volfile(&lab);
    let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let stops = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let rules = rules(n);
                    let rules = rules.each_ref().map(String::as_str);
                    match one_run(&lab, &disks, &volfile, &format!("n{n}"), rules) {
                        true => drop(stops.fetch_add(1, Ordering::Relaxed)),
                        false => done.store(true, Ordering::Relaxed),
                    }
                }
            });
        }
    });
    let stops = stops.into_inner();
    println!("{name}: stopped at {stops} operations");
    assert!(
        stops >= 25,
        "only {stops} stops: does the script do what it says?"
    );
}

#[test]
fn a_stop_before_any_operation_of_the_source_loses_nothing() {
    at_every_operation("source", |n| {
        [format!("changes origin=user after={n} stop"), NEVER.into()]
    });
}

#[test]
fn a_stop_after_any_operation_of_the_source_loses_nothing() {
    at_every_operation("source-late", |n| {
        [
            format!("changes origin=user after={n} stop late"),
            NEVER.into(),
        ]
    });
}

#[test]
fn a_stop_at_any_operation_of_the_healer_loses_nothing() {
    at_every_operation("sink", |n| {
        [NEVER.into(), format!("changes origin=heal after={n} stop")]
    });
}
