//! The moment in which the new brick takes the mount's place.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hermitfs_tests::crew::soak;
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::{built, exit};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::wait::until;
use rustix::fs::{
    CWD, FileType, Mode, inotify, link, mkdir, mknodat, rename, rmdir, symlink, unlink,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(120);

/// A process at work without a pause.
struct Steady(Child);

impl Steady {
    fn start(directory: &Path) -> Steady {
        let child = Command::new(built("hermitfs-steady"))
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Steady(child.unwrap())
    }

    /// Fails the test with its words when it found something wrong.
    #[track_caller]
    fn check(&mut self) {
        if self.0.try_wait().unwrap().is_some() {
            panic!("{}", self.said().1);
        }
    }

    /// Ends it: turns, and the longest of them in milliseconds.
    #[track_caller]
    fn stop(mut self) -> (u64, u64) {
        drop(self.0.stdin.take());
        let status = self.0.wait().unwrap();
        let (out, err) = self.said();
        assert!(status.success(), "{err}");
        let (turns, longest) = out.trim_end().split_once(' ').unwrap();
        (turns.parse().unwrap(), longest.parse().unwrap())
    }

    fn said(&mut self) -> (String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        let (stdout, stderr) = (self.0.stdout.take(), self.0.stderr.take());
        stdout.unwrap().read_to_string(&mut out).unwrap();
        stderr.unwrap().read_to_string(&mut err).unwrap();
        (out, err)
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn whoever_works_without_a_pause_notices_nothing_of_ten_cut_overs() {
    const WORKERS: usize = 3;
    let lab = Lab::new("cutover");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Btrfs, 1024),
    );
    let mut gaps = Vec::new();
    for round in 0..10 * soak() {
        // There and back again.
        let mut disks = [&old, &new];
        disks.rotate_left(round as usize % 2);
        let [from, to] = disks.map(|disk| disk.join(format!("round-{round}")));
        let name = |worker| format!("worker-{worker}");
        for worker in 0..WORKERS {
            fs::create_dir_all(from.join(name(worker))).unwrap();
        }
        fs::create_dir(&to).unwrap();
        let mut migration = lab.migration(&from, &to);
        migration.start();
        migration.wait_ready(LONG);
        let mut workers: Vec<Steady> = (0..WORKERS)
            .map(|worker| Steady::start(&migration.join(name(worker))))
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        let done = migration.command("cutover", &["--timeout", "100s"]);
        workers.iter_mut().for_each(Steady::check);
        done.expect(exit::OK);
        std::thread::sleep(Duration::from_millis(200));
        assert!(migration.is_alive(), "what is open is served by nobody");
        for worker in workers {
            gaps.push(worker.stop().1);
        }
        migration.daemon().wait_end(LONG);
        for worker in 0..WORKERS {
            let names = fs::read_dir(to.join(name(worker))).unwrap();
            assert_eq!(names.count(), 4, "current, held, log, table");
        }
        hermitfs_tests::shell::run("umount", &[migration.mount()]);
        for brick in [from, to] {
            fs::remove_dir_all(brick).unwrap();
        }
    }
    gaps.sort_unstable();
    println!(
        "the longest turn over a cut-over: median {} ms, at most {} ms",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    );
}

/// Calls of one worker that did not come out as they do natively.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn expect(&mut self, what: &str, wanted: Option<Errno>, got: rustix::io::Result<()>) {
        if got.err() != wanted {
            self.0.push(format!("{what}: {got:?}"));
        }
    }
}

/// Everything that names a path, in directories that no one holds and in the root; also what the
/// kernel refuses by itself, so that its callers wait in look-ups alone.
fn name_things(mount: &Path, who: usize, ended: &AtomicBool) -> Vec<String> {
    let mut wrong = Wrong::default();
    let at = |path: String| mount.join(path);
    for turn in 0u64.. {
        if ended.load(Ordering::SeqCst) {
            break;
        }
        let directory = ["d/", "q/", ""][turn as usize % 3];
        let name = |kind: &str| at(format!("{directory}{who}-{turn}{kind}"));
        let fifo = FileType::Fifo;
        for (what, wanted, done) in [
            ("mkdir", None, mkdir(name("d"), Mode::RWXU)),
            ("mknod", None, mknodat(CWD, name("p"), fifo, Mode::RUSR, 0)),
            ("symlink", None, symlink("x", name("s"))),
            ("link", None, link(at(format!("d/own-{who}")), name("l"))),
            ("rename", None, rename(name("l"), at(format!("q/{who}")))),
            ("unlink", None, unlink(at(format!("q/{who}")))),
            ("rmdir", None, rmdir(name("d"))),
            ("unlink", None, unlink(name("p"))),
            ("unlink", None, unlink(name("s"))),
        ] {
            wrong.expect(what, wanted, done);
        }
        for _ in 0..20 {
            let [dir, file, there] = ["d/dir", "d/file", "q/file"].map(|path| mount.join(path));
            let notdir = Some(Errno::NOTDIR);
            wrong.expect("rename onto a file", notdir, rename(&dir, &file));
            wrong.expect("rename onto another", notdir, rename(&dir, &there));
            let exists = Some(Errno::EXIST);
            wrong.expect("link onto a file", exists, link(&file, &there));
            wrong.expect("mkdir of what is there", exists, mkdir(&dir, Mode::RWXU));
        }
    }
    wrong.0
}

/// Opens the log to read again and again.
fn read_by_path(log: &Path, ended: &AtomicBool) -> Vec<String> {
    let mut wrong = Vec::new();
    while !ended.load(Ordering::SeqCst) {
        match fs::read(log) {
            Ok(text) if text.len() >= 300_000 => {}
            Ok(text) => wrong.push(format!("{} bytes of the log", text.len())),
            Err(error) => wrong.push(format!("read: {error}")),
        }
    }
    wrong
}

#[test]
fn no_call_fails_of_those_that_the_kernel_does_not_repeat_nor_beside_a_log_that_is_followed() {
    const WORKERS: usize = 12;
    let lab = Lab::new("cutover-calls");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Btrfs, 512),
    );
    for round in 0..2 * soak() {
        let mut disks = [&old, &new];
        disks.rotate_left(round as usize % 2);
        let [from, to] = disks.map(|disk| disk.join(format!("round-{round}")));
        for directory in ["d/dir", "q"] {
            fs::create_dir_all(from.join(directory)).unwrap();
        }
        let own = (0..WORKERS).map(|who| format!("d/own-{who}"));
        for file in ["d/file", "q/file"]
            .map(String::from)
            .into_iter()
            .chain(own)
        {
            fs::write(from.join(file), "x").unwrap();
        }
        fs::create_dir(&to).unwrap();
        let mut migration = lab.migration(&from, &to);
        migration.start();
        migration.wait_ready(LONG);
        // As a server's: held to write alone, and so large that a reader would pass us by.
        let path = migration.join("log");
        let mut log = File::options()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap();
        log.write_all(&vec![b'.'; 300_000]).unwrap();
        let mut follower = File::open(&path).unwrap();
        let mut seen = Vec::new();
        follower.read_to_end(&mut seen).unwrap();
        let (mount, ended) = (migration.mount(), AtomicBool::new(false));
        let wrong: Vec<String> = std::thread::scope(|scope| {
            let (path, ended) = (&path, &ended);
            let reader = scope.spawn(move || read_by_path(path, ended));
            let workers: Vec<_> = (0..WORKERS)
                .map(|who| scope.spawn(move || name_things(mount, who, ended)))
                .collect();
            std::thread::sleep(Duration::from_millis(300));
            let done = migration.command("cutover", &["--timeout", "60s"]);
            std::thread::sleep(Duration::from_millis(200));
            ended.store(true, Ordering::SeqCst);
            done.expect(exit::OK);
            let workers = workers.into_iter().chain([reader]);
            workers.flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // What is written through the descriptor is on the new brick, and is heard of there.
        log.write_all(b"a line\n").unwrap();
        let mut more = String::new();
        follower.read_to_string(&mut more).unwrap();
        assert_eq!(more, "a line\n");
        assert!(fs::read(&path).unwrap().ends_with(b".a line\n"));
        drop((log, follower));
        migration.daemon().wait_end(LONG);
        hermitfs_tests::shell::run("umount", &[migration.mount()]);
        for brick in [from, to] {
            fs::remove_dir_all(brick).unwrap();
        }
    }
}

/// What stands at a path; nothing where a dead mount does.
fn device(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// A cut-over that waits for what is in the way.
fn waiting(migration: &Migration) -> Child {
    let mut command = Command::new(built("hermitfs"));
    command
        .args(["cutover", "--timeout", "100s"])
        .arg(migration.mount())
        .env("HERMITFS_STATE_DIR", migration.state_dir())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    until(LONG, "the cut-over to wait", || {
        let under_way = &migration.status().0["cutover"];
        let waits = under_way["phase"] == "waiting" && under_way["in_the_way"] == 1;
        (waits && under_way["pid"] == child.id()).then_some(())
    });
    child
}

#[test]
fn a_cut_over_is_its_caller_s_and_nothing_comes_of_it_when_he_leaves() {
    let lab = Lab::new("cutover-cancelled");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    for signal in [Signal::INT, Signal::HUP, Signal::KILL] {
        let mut stays = Command::new("sleep")
            .arg("100")
            .current_dir(migration.mount())
            .spawn()
            .unwrap();
        let child = waiting(&migration);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let who = format!("sleep ({})", stays.id());
        assert!(
            said.contains(&who) && said.contains("working directory"),
            "{said}"
        );
        if signal != Signal::KILL {
            assert_eq!(ended.status.code(), Some(130), "{said}");
            assert!(said.contains("cancelled: no cut-over"), "{said}");
        }
        until(LONG, "the cut-over to be given up", || {
            migration.status().0["cutover"].is_null().then_some(())
        });
        // What was in the way goes, and nothing strikes.
        stays.kill().unwrap();
        stays.wait().unwrap();
        std::thread::sleep(Duration::from_millis(400));
        assert_ne!(device(migration.mount()), device(new.path()), "{signal:?}");
        fs::write(migration.join("file"), "of users").unwrap();
    }
    // A container's image in the mount: the kernel has it, and no process.
    let (stack, other) = (lab.dir("stack"), lab.dir("other"));
    fs::create_dir(migration.join("image")).unwrap();
    let layers = format!(
        "lowerdir={}:{}",
        migration.join("image").display(),
        other.display()
    );
    let stack = stack.to_string_lossy().into_owned();
    hermitfs_tests::shell::run("mount", &["-t", "overlay", "none", "-o", &layers, &stack]);
    migration.wait_ready(LONG);
    migration
        .command("cutover", &["--timeout", "100ms"])
        .refused(exit::TRY_AGAIN, &["overlay"]);
    hermitfs_tests::shell::run("umount", &[&stack]);
    // Who watches is in nobody's way, and is told of: here it is this process.
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    let kind = inotify::WatchFlags::CREATE;
    inotify::add_watch(&watch, migration.mount(), kind).unwrap();
    let done = migration.command("cutover", &["--timeout", "20s"]);
    let done = done.expect(exit::OK);
    let told = format!("(process {}) watches 1 of its", std::process::id());
    assert!(done.stderr.contains(&told), "{}", done.stderr);
    drop(watch);
    migration.daemon().wait_end(LONG);
    hermitfs_tests::shell::run("umount", &[migration.mount()]);
}

/// As a cut-over leaves it that is killed when NEW is beneath the mount, and that is still there.
fn kill_between_the_last_two_steps(migration: &mut Migration, new: &Path) {
    migration.start();
    migration.wait_ready(LONG);
    migration.kill();
    let marker = new.join(".hermitfs/volume.json");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace("\"sink\"", "\"successor\"")).unwrap();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, new, flags).unwrap();
    // MOVE_MOUNT_BENEATH
    let beneath = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::from_bits_retain(0x200);
    move_mount(&tree, c"", CWD, migration.mount(), beneath).unwrap();
    assert_eq!(device(migration.mount()), None, "the dead mount is on top");
}

#[test]
fn a_cut_over_that_is_killed_between_its_last_two_steps_is_brought_to_its_end() {
    for over in [false, true] {
        let lab = Lab::new("cutover-last-step");
        let (old, new) = (
            lab.disk("old", Format::Ext4, 128),
            lab.disk("new", Format::Ext4, 128),
        );
        fs::write(old.join("file"), "content").unwrap();
        let mut migration = match over {
            true => lab.migration_over(old.path(), new.path()),
            false => lab.migration(old.path(), new.path()),
        };
        kill_between_the_last_two_steps(&mut migration, new.path());
        // One that was taken back is no successor, and the old brick may be newer.
        let marker = new.join(".hermitfs/volume.json");
        let marked = fs::read_to_string(&marker).unwrap();
        fs::write(&marker, marked.replace("\"successor\"", "\"sink\"")).unwrap();
        let outcome = migration.try_start(&[]);
        assert!(
            !outcome.stderr.contains("in its last moment"),
            "{}",
            outcome.stderr
        );
        if outcome.code == exit::OK {
            migration.kill();
        }
        fs::write(&marker, marked).unwrap();
        let outcome = migration.try_start(&[]);
        outcome.refused(exit::CONFIGURATION, &["in its last moment"]);
        for _ in 0..2 {
            assert_eq!(device(migration.mount()), device(new.path()));
            assert_eq!(fs::read(migration.join("file")).unwrap(), b"content");
            migration.try_start(&[]).expect(exit::CONFIGURATION);
        }
        hermitfs_tests::shell::run("umount", &[migration.mount()]);
        if !over {
            assert!(fs::read_dir(migration.mount()).unwrap().next().is_none());
        }
    }
}

#[test]
fn a_kill_at_any_moment_of_a_cut_over_leaves_one_brick_that_is_right() {
    let lab = Lab::new("cutover-killed");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    let (mut before, mut after) = (0, 0);
    for round in 0..12_u64 {
        let [from, to] = [&old, &new].map(|disk| disk.join(format!("round-{round}")));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::write(from.join("deep/er/file"), "content").unwrap();
        fs::create_dir(&to).unwrap();
        let mut migration = lab.migration(&from, &to);
        migration.start();
        migration.wait_ready(LONG);
        let held = File::create(migration.join("held")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| migration.command("cutover", &["--timeout", "60s"]));
            std::thread::sleep(Duration::from_millis(10 * round));
            migration.kill();
        });
        drop(held);
        let at = migration.mount().to_owned();
        let is_over = || device(&at) == device(&to);
        // When the new brick lies beneath the dead mount already, the next start brings it to its end.
        let started = (!is_over()).then(|| migration.try_start(&[]));
        if is_over() {
            if let Some(refused) = started {
                refused.refused(exit::CONFIGURATION, &["in its last moment"]);
            }
            // Users may have been there by now: it is no sink any more, whatever is left of us.
            after += 1;
            fs::write(migration.join("newer"), "than the old brick").unwrap();
            hermitfs_tests::shell::run("umount", &[migration.mount()]);
            migration.try_start(&[]).refused(exit::CONFIGURATION, &[]);
            assert_eq!(fs::read(to.join("newer")).unwrap(), b"than the old brick");
        } else {
            before += 1;
            started.unwrap().expect(exit::OK);
            migration.wait_ready(LONG);
            let done = migration.command("cutover", &["--timeout", "60s"]);
            done.expect(exit::OK);
            migration.daemon().wait_end(LONG);
            assert!(!to.join(".hermitfs").exists());
            hermitfs_tests::shell::run("umount", &[migration.mount()]);
        }
        assert_ne!(
            device(migration.mount()),
            device(&to),
            "nothing of it is left"
        );
        assert_eq!(fs::read(to.join("deep/er/file")).unwrap(), b"content");
        assert_eq!(fs::read(from.join("deep/er/file")).unwrap(), b"content");
    }
    println!("killed {before} times before the new brick was there, {after} times after it");
}

#[test]
fn a_brick_that_users_may_have_seen_is_never_a_sink_again() {
    let lab = Lab::new("successor");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    fs::write(old.join("file"), "old").unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    migration.kill();
    // As a cut-over leaves it that is killed when the new brick was just there.
    hermitfs_tests::shell::run("umount", &[migration.mount()]);
    let marker = new.join(".hermitfs/volume.json");
    let text = fs::read_to_string(&marker).unwrap();
    assert!(text.contains("\"sink\""), "{text}");
    fs::write(&marker, text.replace("\"sink\"", "\"successor\"")).unwrap();
    fs::write(new.join("file"), "newer").unwrap();
    migration
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["taken the old brick's place"]);
    assert_eq!(fs::read(new.join("file")).unwrap(), b"newer");
    assert_eq!(fs::read(old.join("file")).unwrap(), b"old");
}

/// A bug in the very step before the new brick is put in place: the next try is as the first one.
#[test]
fn a_cut_over_that_panics_leaves_all_as_it_was_and_can_be_tried_again() {
    let lab = Lab::new("cutover-panic");
    for marked in 1..6 {
        let disks = [format!("old-{marked}"), format!("new-{marked}")];
        let [old, new] = disks.map(|name| lab.disk(&name, Format::Ext4, 64));
        fs::write(old.join("file"), "content").unwrap();
        // Only the marker of a sink is made durable by its directory.
        let volfile = lab.file(
            &format!("panic-{marked}.vol"),
            &format!(
                "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"{}\"\n\n\
                 [volume.new]\ntype = \"storage/posix\"\ndirectory = \"{}\"\n\n\
                 [volume.sink]\ntype = \"debug/fault\"\nsubvolumes = [\"new\"]\n\
                 rules = [\"fsyncdir after={marked} times=1 panic\"]\n\n\
                 [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"old\"\nsinks = [\"sink\"]\n",
                old.path().display(),
                new.path().display()
            ),
        );
        let mut mount = Mounted::prepare(&lab, &format!("mnt-{marked}"));
        mount.use_volfile(&volfile, &[]);
        if mount.try_start(&[]).code != exit::OK {
            continue;
        }
        until(LONG, "the pair to be ready", || {
            mount.status().is("ready").then_some(())
        });
        let first = mount.command("cutover", &["--timeout", "60s"]);
        if first.code == exit::OK {
            continue;
        }
        assert!(first.stderr.contains("gave no answer"), "{}", first.stderr);
        let marker = fs::read_to_string(new.join(".hermitfs/volume.json")).unwrap();
        assert!(marker.contains("\"sink\""), "{marker}");
        fs::write(mount.join("later"), "more").unwrap();
        mount
            .command("cutover", &["--timeout", "60s"])
            .expect(exit::OK);
        assert_eq!(device(mount.path()), device(new.path()));
        assert_eq!(fs::read(new.join("later")).unwrap(), b"more");
        return;
    }
    panic!("none of these was the step before");
}
