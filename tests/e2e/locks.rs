//! Locks that the volume keeps, between processes: as on a native file system, where the same is
//! tried first.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::locker::Locker;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::need::program_at;
use hermitfs_tests::shell::{run_command, text};
use hermitfs_tests::wait::until;
use rustix::process::Signal;

use crate::applications::Running;
use crate::wire::locks::mount_locked;

const AGAIN: i32 = libc::EAGAIN;

/// How long a thing has to last to be called waiting.
const A_WHILE: Duration = Duration::from_millis(300);

/// A file as each of two processes sees it.
struct Place<'a> {
    what: &'a str,
    one: PathBuf,
    other: PathBuf,
}

impl Place<'_> {
    /// Two processes, each with the file open as `f`.
    fn two(&self) -> (Locker, Locker) {
        (Locker::on(&self.one), Locker::on(&self.other))
    }

    fn open(&self) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(&self.one).unwrap()
    }
}

fn with_locks<'lab>(lab: &'lab Lab, brick: &Path) -> Mounted<'lab> {
    let volfile = lab.file(
        "locks.vol",
        "[volume.brick]\ntype = \"storage/posix\"\ndirectory = \"${directory}\"\n\
         [volume.locked]\ntype = \"features/locks\"\nsubvolume = \"brick\"\n",
    );
    let mut mounted = Mounted::prepare(lab, "mnt");
    let set = format!("directory={}", brick.display());
    mounted.use_volfile(&volfile, &[&set]);
    mounted.try_start(&["-o", "locks"]).expect(exit::OK);
    mounted
}

const TWO_MOUNTS: &str = "two mounts";

/// Tries it on ext4, then on a mount whose volume keeps the locks, and then on two mounts of a
/// volume that is served.
fn natively_and_mounted(name: &str, scenario: fn(&Place<'_>)) {
    let lab = Lab::new(name);
    let disk = lab.disk("disk", Format::Ext4, 128);
    let brick = disk.path().join("brick");
    fs::create_dir(&brick).unwrap();
    fs::write(disk.path().join("native"), "x").unwrap();
    fs::write(brick.join("file"), "x").unwrap();
    let native = disk.path().join("native");
    scenario(&Place {
        what: "ext4",
        one: native.clone(),
        other: native,
    });
    let mounted = with_locks(&lab, &brick);
    scenario(&Place {
        what: "one mount",
        one: mounted.join("file"),
        other: mounted.join("file"),
    });
    mounted.terminate();
    let served = Bricks::serve_locked(&lab, "bricks", &brick, 60);
    let [one, other] = ["one", "other"].map(|name| mount_locked(&lab, name, &served));
    scenario(&Place {
        what: TWO_MOUNTS,
        one: one.join("file"),
        other: other.join("file"),
    });
}

#[test]
fn record_locks_of_processes_exclude_each_other() {
    natively_and_mounted("locks-record", |place| {
        let (mut a, mut b) = place.two();
        a.done("lock f record exclusive 10 10 try");
        b.fails("lock f record shared 19 5 try", AGAIN);
        b.done("lock f record exclusive 20 5 try");
        let told = b.ask("holder f record shared 0 0");
        // A process behind another mount has no number here.
        let holder = match place.what {
            TWO_MOUNTS => 0,
            _ => a.pid(),
        };
        assert_eq!(told, format!("exclusive 10 10 {holder}"), "{}", place.what);
        assert_eq!(b.ask("holder f record shared 0 10"), "free");
        // Split, change of kind, to the end of the file and beyond.
        a.done("lock f record shared 12 2 try");
        b.done("lock f record shared 12 2 try");
        b.fails("lock f record exclusive 12 2 try", AGAIN);
        a.done("lock f record unlock 0 0 try");
        b.done("lock f record exclusive 0 0 try");
        a.fails("lock f record shared 1000000000000 1 try", AGAIN);
        b.done("lock f record unlock 0 0 try");
        // Nobody is in his own way, by whatever descriptor.
        a.done(&format!("open g {}", place.one.display()));
        a.done("lock f record exclusive 0 10 try");
        a.done("lock g record exclusive 5 10 try");
        b.fails("lock f record shared 14 1 try", AGAIN);
        // POSIX will have it so: any close of the file by the process drops them all.
        a.done("close g");
        b.done("lock f record exclusive 0 0 try");
    });
}

#[test]
fn locks_of_open_files_go_with_their_last_descriptor() {
    natively_and_mounted("locks-ofd", |place| {
        let (mut a, mut b) = place.two();
        a.done("lock f ofd exclusive 0 10 try");
        b.fails("lock f ofd shared 9 1 try", AGAIN);
        b.fails("lock f record shared 9 1 try", AGAIN);
        a.fails("lock f record exclusive 0 1 try", AGAIN);
        // Another close in the process means nothing to them.
        a.done(&format!("open g {}", place.one.display()));
        a.done("close g");
        b.fails("lock f ofd shared 9 1 try", AGAIN);
        a.done("dup f copy");
        a.done("close f");
        b.fails("lock f ofd shared 9 1 try", AGAIN);
        a.done("close copy");
        b.done("lock f ofd exclusive 0 10 try");
    });
}

#[test]
fn flock_is_shared_by_all_who_inherit_the_open_file() {
    natively_and_mounted("locks-flock", |place| {
        let file = place.open();
        let mut b = Locker::on(&place.other);
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        b.fails("lock f flock shared try", AGAIN);
        // A record lock on the whole file is something else.
        b.done("lock f record exclusive 0 0 try");
        b.done("lock f record unlock 0 0 try");
        let mut heir = Locker::heir(file.try_clone().unwrap());
        heir.done("adopt h");
        heir.done("lock h flock exclusive try");
        drop(file);
        b.fails("lock f flock shared try", AGAIN);
        heir.done("lock h flock shared try");
        b.done("lock f flock shared try");
        heir.fails("lock h flock exclusive try", AGAIN);
        // What failed has lost what it had.
        b.done("lock f flock exclusive try");
        b.done("lock f flock unlock try");
        heir.done("lock h flock exclusive try");
        b.fails("lock f flock shared try", AGAIN);
        heir.signal(Signal::KILL);
        assert!(heir.ends());
        b.done("lock f flock exclusive try");
    });
}

#[test]
fn a_lock_of_a_closed_file_is_free_at_once() {
    natively_and_mounted("locks-closed", |place| {
        for _ in 0..300 {
            let (first, second) = (place.open(), place.open());
            let now = rustix::fs::FlockOperation::NonBlockingLockExclusive;
            rustix::fs::flock(&first, now).unwrap();
            drop(first);
            rustix::fs::flock(&second, now)
                .unwrap_or_else(|error| panic!("{}: {error}", place.what));
        }
    });
}

#[test]
fn who_waits_gets_the_lock_and_a_circle_is_refused() {
    natively_and_mounted("locks-wait", |place| {
        let (mut a, mut b) = place.two();
        for family in ["record", "ofd"] {
            let lock =
                |kind: &str, at: u32, how: &str| format!("lock f {family} {kind} {at} 1 {how}");
            a.done(&lock("exclusive", 0, "wait"));
            b.begin(&lock("exclusive", 0, "wait"));
            assert!(b.waits_for(A_WHILE));
            a.done(&lock("unlock", 0, "try"));
            assert_eq!(b.end(), "ok");
            a.fails(&lock("shared", 0, "try"), AGAIN);
            b.done(&lock("unlock", 0, "try"));
        }
        a.done("lock f flock exclusive wait");
        b.begin("lock f flock shared wait");
        assert!(b.waits_for(A_WHILE));
        a.done("close f");
        assert_eq!(b.end(), "ok");
        b.done("lock f flock unlock try");
        a.done(&format!("open f {}", place.one.display()));

        a.done("lock f record exclusive 0 1 wait");
        b.done("lock f record exclusive 1 1 wait");
        a.begin("lock f record shared 1 1 wait");
        b.begin("lock f record shared 0 1 wait");
        // Whoever came second is told; he gives up what he has, and the other goes on.
        let deadlock = format!("errno {}", libc::EDEADLK);
        let (told, waits) = until(Duration::from_secs(60), "EDEADLK", || {
            let answers = [&mut a, &mut b].map(|one| one.answer_within(A_WHILE));
            match answers {
                [Some(told), None] => Some((told, 1)),
                [None, Some(told)] => Some((told, 0)),
                [None, None] => None,
                both => panic!("{both:?}"),
            }
        });
        assert_eq!(told, deadlock, "{}", place.what);
        let (loser, winner) = match waits {
            1 => (&mut a, &mut b),
            _ => (&mut b, &mut a),
        };
        loser.done("lock f record unlock 0 0 try");
        assert_eq!(winner.end(), "ok");
    });
}

#[test]
fn two_open_files_that_wait_for_each_other_are_no_deadlock() {
    natively_and_mounted("locks-ofd-circle", |place| {
        let (mut a, mut b) = place.two();
        a.done("lock f ofd exclusive 0 1 wait");
        b.done("lock f ofd exclusive 1 1 wait");
        a.begin("lock f ofd exclusive 1 1 wait");
        assert!(a.waits_for(A_WHILE));
        // Whoever has the open file can drop its lock while another waits through it.
        b.begin("lock f ofd exclusive 0 1 wait");
        assert!(
            b.waits_for(A_WHILE) && a.waits_for(A_WHILE),
            "{}",
            place.what
        );
        a.signal(Signal::KILL);
        assert!(a.ends());
        assert_eq!(b.end(), "ok");
    });
}

/// Sends alarms until the order has come to its end. One that comes before the process waits is
/// for nothing.
fn alarm_until_answered(waiter: &mut Locker) -> String {
    let started = Instant::now();
    loop {
        waiter.signal(Signal::ALARM);
        if let Some(answer) = waiter.answer_within(Duration::from_millis(500)) {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it is deaf");
    }
}

#[test]
fn a_signal_reaches_who_waits() {
    natively_and_mounted("locks-signals", |place| {
        for lock in [
            "lock f record exclusive 0 10",
            "lock f ofd exclusive 0 10",
            "lock f flock exclusive",
        ] {
            let (mut a, mut b) = place.two();
            let mut c = Locker::on(&place.other);
            a.done(&format!("{lock} wait"));
            b.done("alarms end");
            b.begin(&format!("{lock} wait"));
            assert!(b.waits_for(A_WHILE));
            let answer = alarm_until_answered(&mut b);
            assert_eq!(answer, format!("errno {}", libc::EINTR), "{}", place.what);
            // With SA_RESTART the handler runs, and the waiting goes on.
            b.done("alarms restart");
            b.begin(&format!("{lock} wait"));
            for _ in 0..3 {
                assert!(b.waits_for(A_WHILE), "{} {lock}", place.what);
                b.signal(Signal::ALARM);
            }
            // A stopped process waits, too.
            b.signal(Signal::STOP);
            assert!(b.waits_for(A_WHILE));
            b.signal(Signal::CONT);
            assert!(b.waits_for(A_WHILE));
            c.begin(&format!("{lock} wait"));
            assert!(c.waits_for(A_WHILE));
            b.signal(Signal::KILL);
            assert!(b.ends());
            a.done("close f");
            assert_eq!(c.end(), "ok", "nobody is left in front of it");
        }
    });
}

#[test]
fn sqlite_in_two_processes_is_whole_with_locks_of_the_volume() {
    let lab = Lab::new("locks-sqlite");
    let disk = lab.disk("disk", Format::Ext4, 512);
    let mounted = with_locks(&lab, disk.path());
    let sqlite = program_at("sqlite3");
    let mut script = String::from(".timeout 60000\n");
    for round in 0..60 {
        script.push_str("BEGIN IMMEDIATE;\n");
        for _ in 0..5 {
            script.push_str(&format!(
                "INSERT INTO t(who,data) VALUES({round},randomblob(700));\n"
            ));
        }
        script.push_str("UPDATE n SET n = n + 1;\nCOMMIT;\n");
    }
    let script = lab.file("work.sql", &script);
    let databases = [("delete.db", "DELETE"), ("wal.db", "WAL")];
    for (name, mode) in databases {
        let table = format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, who, data); \
             CREATE TABLE n(n); INSERT INTO n VALUES(0);"
        );
        run_command(Command::new(&sqlite).arg(mounted.join(name)).arg(table));
    }
    let writers: Vec<_> = databases
        .iter()
        .flat_map(|(name, _)| [name, name])
        .map(|name| {
            let input = format!(".read {}", script.display());
            let mut command = Command::new(&sqlite);
            Running::start(command.arg("-bail").arg(mounted.join(name)).arg(input))
        })
        .collect();
    writers.into_iter().for_each(Running::succeeded);
    for (name, _) in databases {
        let question = "PRAGMA integrity_check; SELECT count(*) FROM t; SELECT n FROM n;";
        let asked = run_command(Command::new(&sqlite).arg(mounted.join(name)).arg(question));
        assert_eq!(text(&asked).trim(), "ok\n600\n120", "{name}");
    }
}

#[test]
fn locks_that_nobody_keeps_are_refused() {
    let lab = Lab::new("locks-none");
    let disk = lab.disk("disk", Format::Ext4, 128);
    fs::write(disk.path().join("file"), "x").unwrap();
    let volfile = lab.file(
        "plain.vol",
        "[volume.brick]\ntype = \"storage/posix\"\ndirectory = \"${directory}\"\n",
    );
    let mut mounted = Mounted::prepare(&lab, "mnt");
    let set = format!("directory={}", disk.path().display());
    mounted.use_volfile(&volfile, &[&set]);
    mounted.try_start(&["-o", "locks"]).expect(exit::OK);
    let mut a = Locker::on(&mounted.join("file"));
    for order in [
        "lock f record exclusive 0 1 try",
        "lock f ofd exclusive 0 1 wait",
        "lock f flock exclusive wait",
        "holder f record exclusive 0 1",
    ] {
        a.fails(order, libc::ENOLCK);
    }
}
