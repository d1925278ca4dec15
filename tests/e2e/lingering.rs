//! Whoever has something open when the new brick takes the mount's place goes on with it.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::hermitfs::{built, exit};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::need::program_at;
use hermitfs_tests::shell::{run_command, text};
use hermitfs_tests::sys::{Mapping, RangeLock, range_lock};
use hermitfs_tests::tree::Tree;
use hermitfs_tests::wait::until;
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom as Seeking, XattrFlags};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(120);

/// Everything is settled, the work begins, and at the end the daemon is gone by itself.
fn over_a_cut_over(
    name: &str,
    formats: [Format; 2],
    prepare: impl FnOnce(&Disk),
    work: impl FnOnce(&Migration<'_>, &Disk, &Disk),
) {
    let lab = Lab::new(name);
    let (old, new) = (
        lab.disk("old", formats[0], 256),
        lab.disk("new", formats[1], 512),
    );
    prepare(&old);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    work(&migration, &old, &new);
    migration.daemon().wait_end(LONG);
}

/// Cuts over; the daemon lives on for what is open.
#[track_caller]
fn cut_over(migration: &Migration<'_>, new: &Disk, arguments: &[&str]) {
    migration
        .command("cutover", &[&["--timeout", "60s"], arguments].concat())
        .expect(exit::OK);
    assert_eq!(
        fs::metadata(migration.mount()).unwrap().dev(),
        fs::metadata(new.path()).unwrap().dev(),
        "the mount point is not the new brick"
    );
    assert!(migration.is_alive(), "nobody serves what is open");
    assert!(!new.join(".hermitfs").exists(), "our directory is left");
    let fds = fs::read_dir(format!("/proc/{}/fd", migration.daemon().pid())).unwrap();
    let device = fs::metadata(migration.old()).unwrap().dev();
    until(LONG, "the old brick to be let go", || {
        let mut devices = fs::read_dir(format!("/proc/{}/fd", migration.daemon().pid()))
            .unwrap()
            .flatten()
            .filter_map(|fd| fs::metadata(fd.path()).ok());
        devices.all(|meta| meta.dev() != device).then_some(())
    });
    drop(fds);
}

fn both(path: impl AsRef<Path>) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options.open(path).unwrap()
}

#[test]
fn files_that_are_open_go_on_and_what_they_write_is_on_the_new_brick() {
    over_a_cut_over(
        "linger-files",
        [Format::Ext4, Format::Btrfs],
        |old| {
            fs::write(old.join("database"), vec![7; 300_000]).unwrap();
            fs::write(old.join("log"), "one\n").unwrap();
            fs::hard_link(old.join("database"), old.join("another name")).unwrap();
        },
        |migration, old, new| {
            let mut database = both(migration.join("database"));
            let other = both(migration.join("another name"));
            let mut log = OpenOptions::new()
                .append(true)
                .open(migration.join("log"))
                .unwrap();
            // Made as any program makes a file, and not closed yet.
            let mut fresh = File::create(migration.join("fresh")).unwrap();
            fresh.write_all(b"half ").unwrap();
            database.write_all(&[1; 5000]).unwrap();
            let number = database.metadata().unwrap().ino();
            cut_over(migration, new, &[]);
            let before = Tree::of(old.path());

            assert_eq!(database.metadata().unwrap().ino(), number);
            database.write_all(&[2; 5000]).unwrap();
            database.sync_all().unwrap();
            other.write_all_at(&[3; 5000], 100_000).unwrap();
            database.seek(SeekFrom::End(0)).unwrap();
            database.write_all(b"the end").unwrap();
            let mut expected = vec![7; 300_000];
            expected[..5000].fill(1);
            expected[5000..10_000].fill(2);
            expected[100_000..105_000].fill(3);
            expected.extend(b"the end");
            let mut seen = Vec::new();
            database.rewind().unwrap();
            database.read_to_end(&mut seen).unwrap();
            assert!(seen == expected, "read through the descriptor");
            assert!(fs::read(new.join("database")).unwrap() == expected);

            database
                .set_permissions(fs::Permissions::from_mode(0o640))
                .unwrap();
            let value = b"value";
            rustix::fs::fsetxattr(&database, "user.name", value, XattrFlags::empty()).unwrap();
            database.set_len(200_000).unwrap();
            rustix::fs::fallocate(
                &database,
                rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
                65_536,
                65_536,
            )
            .unwrap();
            let hole = rustix::fs::seek(&database, Seeking::Hole(0)).unwrap();
            let data = rustix::fs::seek(&database, Seeking::Data(hole)).unwrap();
            assert_eq!((hole, data), (65_536, 131_072));
            database.sync_data().unwrap();
            let meta = fs::metadata(new.join("database")).unwrap();
            assert_eq!((meta.mode() & 0o777, meta.len()), (0o640, 200_000));
            let mut room = [0; 16];
            let len = rustix::fs::getxattr(new.join("database"), "user.name", &mut room[..]);
            assert_eq!(&room[..len.unwrap()], value);

            // Who comes by the path is seen, and nobody writes over the other.
            for n in 0..20 {
                writeln!(log, "held {n}").unwrap();
                let mut by_path = OpenOptions::new()
                    .append(true)
                    .open(migration.join("log"))
                    .unwrap();
                writeln!(by_path, "path {n}").unwrap();
            }
            let lines: String = (0..20).map(|n| format!("held {n}\npath {n}\n")).collect();
            assert_eq!(
                fs::read_to_string(new.join("log")).unwrap(),
                format!("one\n{lines}")
            );
            fs::OpenOptions::new()
                .write(true)
                .open(migration.join("database"))
                .unwrap()
                .write_all_at(b"by the path", 5)
                .unwrap();
            until(LONG, "a change by path to be seen", || {
                let mut seen = [0; 11];
                database.read_exact_at(&mut seen, 5).unwrap();
                (&seen == b"by the path").then_some(())
            });
            fresh.write_all(b"and half").unwrap();
            drop(fresh);
            assert_eq!(fs::read(new.join("fresh")).unwrap(), b"half and half");
            fs::rename(migration.join("log"), migration.join("log.1")).unwrap();
            writeln!(log, "after the rotation").unwrap();
            assert!(
                fs::read_to_string(new.join("log.1"))
                    .unwrap()
                    .ends_with("after the rotation\n")
            );
            assert!(migration.is_alive());
            drop((database, other, log));
            migration.daemon().wait_end(LONG);
            before.assert_equal(&Tree::of(old.path()));
        },
    );
}

#[test]
fn what_was_unlinked_goes_on_until_it_is_closed() {
    over_a_cut_over(
        "linger-unlinked",
        [Format::Ext4, Format::Ext4],
        |old| fs::write(old.join("gone"), vec![5; 3 << 20]).unwrap(),
        |migration, old, new| {
            let mut gone = both(migration.join("gone"));
            let mut made = both(migration.join("made"));
            made.write_all(b"and gone").unwrap();
            gone.write_all_at(b"changed", 2 << 20).unwrap();
            let again = File::open(migration.join("gone")).unwrap();
            for name in ["gone", "made"] {
                fs::remove_file(migration.join(name)).unwrap();
            }
            migration.wait_ready(LONG);
            cut_over(migration, new, &[]);
            gone.seek(SeekFrom::End(0)).unwrap();
            gone.write_all(b"longer").unwrap();
            gone.sync_all().unwrap();
            let mut expected = vec![5; 3 << 20];
            expected[2 << 20..(2 << 20) + 7].copy_from_slice(b"changed");
            expected.extend(b"longer");
            let mut seen = vec![0; expected.len()];
            again.read_exact_at(&mut seen, 0).unwrap();
            assert!(seen == expected, "both descriptors are of one file");
            assert_eq!(gone.metadata().unwrap().nlink(), 0);
            let mut text = String::new();
            made.rewind().unwrap();
            made.read_to_string(&mut text).unwrap();
            assert_eq!(text, "and gone");
            for brick in [old, new] {
                let names = fs::read_dir(brick.path()).unwrap().flatten();
                let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
                assert!(names.iter().all(|name| name == "lost+found"), "{names:?}");
            }
        },
    );
}

/// Some entries of an open directory, as many as there is room for.
fn some_names(dir: &impl AsFd, room: usize) -> Vec<String> {
    let mut buffer = vec![MaybeUninit::uninit(); room];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        names.push(entry.file_name().to_string_lossy().into_owned());
        if entries.is_buffer_empty() {
            break;
        }
    }
    names
}

#[test]
fn a_directory_that_is_being_read_is_read_to_its_end() {
    let names: BTreeSet<String> = (0..3000).map(|n| format!("name-{n}")).collect();
    over_a_cut_over(
        "linger-directory",
        [Format::Ext4, Format::Btrfs],
        |old| {
            fs::create_dir_all(old.join("above/many")).unwrap();
            for name in &names {
                fs::write(old.join("above/many").join(name), name).unwrap();
            }
        },
        |migration, _, new| {
            let place = migration.join("above/many");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let dir = rustix::fs::open(&place, flags, Mode::empty()).unwrap();
            let mut seen = some_names(&dir, 2048);
            assert!(!seen.is_empty() && seen.len() < 1000);
            cut_over(migration, new, &[]);
            loop {
                let more = some_names(&dir, 2048);
                if more.is_empty() {
                    break;
                }
                seen.extend(more);
            }
            let found: BTreeSet<String> = seen
                .iter()
                .filter(|name| !name.starts_with('.'))
                .cloned()
                .collect();
            assert_eq!(found.len(), names.len());
            assert!(found == names);
            assert_eq!(seen.len(), names.len() + 2, "nothing twice");
            // By the directory's descriptor all goes on as well, and it sees what others do.
            let open = |name: &str, flags| {
                rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o644)).map(File::from)
            };
            let mut text = String::new();
            let mut old_name = open("name-7", OFlags::RDONLY).unwrap();
            old_name.read_to_string(&mut text).unwrap();
            assert_eq!(text, "name-7");
            let mut made = open("made", OFlags::WRONLY | OFlags::CREATE).unwrap();
            made.write_all(b"by descriptor").unwrap();
            rustix::fs::unlinkat(&dir, "name-8", rustix::fs::AtFlags::empty()).unwrap();
            rustix::fs::renameat(&dir, "name-9", &dir, "moved").unwrap();
            fs::remove_file(place.join("name-10")).unwrap();
            fs::write(place.join("by path"), "x").unwrap();
            assert_eq!(fs::read(place.join("made")).unwrap(), b"by descriptor");
            assert_eq!(fs::read(place.join("moved")).unwrap(), b"name-9");
            assert!(!new.join("above/many/name-8").exists());
            assert!(open("name-10", OFlags::RDONLY).is_err());
            open("by path", OFlags::RDONLY).unwrap();
            rustix::fs::seek(&dir, Seeking::Start(0)).unwrap();
            let mut again = BTreeSet::new();
            loop {
                let more = some_names(&dir, 1 << 15);
                if more.is_empty() {
                    break;
                }
                again.extend(more);
            }
            let now: BTreeSet<String> = fs::read_dir(new.join("above/many"))
                .unwrap()
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            again.retain(|name| !matches!(name.as_str(), "." | ".."));
            assert!(again == now);
        },
    );
}

/// What refuses a cut-over: its reason, while it lasts.
type Obstacle = (&'static str, Box<dyn FnOnce(&Path) -> Box<dyn Any>>);

/// A process that is ended with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn obstacles() -> Vec<Obstacle> {
    fn obstacle<T: 'static>(
        reason: &'static str,
        make: impl FnOnce(&Path) -> T + 'static,
    ) -> Obstacle {
        (reason, Box::new(|mount| Box::new(make(mount))))
    }
    vec![
        obstacle("open to read past the mount", |mount| {
            File::open(mount.join("big")).unwrap()
        }),
        obstacle("mapping past the mount", |mount| {
            // The descriptor goes, the mapping stays.
            Mapping::new(&File::open(mount.join("big")).unwrap(), 4096, true).unwrap()
        }),
        obstacle("shared mapping", |mount| {
            Mapping::new(&both(mount.join("table")), 4096, false).unwrap()
        }),
        obstacle("working directory", |mount| {
            let mut sleep = Command::new("sleep");
            Running(sleep.arg("600").current_dir(mount).spawn().unwrap())
        }),
        obstacle("running program", |mount| {
            let mut program = Command::new(mount.join("program"));
            Running(program.arg("600").spawn().unwrap())
        }),
        obstacle("open fifo", |mount| {
            let path = mount.join("fifo");
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                Mode::from_raw_mode(0o600),
                0,
            )
            .unwrap();
            let fifo = both(&path);
            fs::remove_file(path).unwrap();
            fifo
        }),
        obstacle("bound socket", |mount| {
            UnixListener::bind(mount.join("socket")).unwrap()
        }),
    ]
}

#[test]
fn what_cannot_be_moved_is_named_and_waited_for_within_the_limit() {
    let lab = Lab::new("linger-stuck");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 512),
    );
    fs::write(old.join("big"), vec![1; 1 << 20]).unwrap();
    fs::write(old.join("table"), vec![2; 8192]).unwrap();
    fs::copy("/bin/sleep", old.join("program")).unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let me = std::process::id().to_string();
    for (reason, make) in obstacles() {
        let held = make(migration.mount());
        migration.wait_ready(LONG);
        let refused = migration
            .command("cutover", &["--timeout", "300ms"])
            .refused(exit::TRY_AGAIN, &[reason]);
        let said = &refused.stderr;
        assert!(
            said.contains(&*migration.mount().to_string_lossy())
                && (said.contains(&me) || said.contains("sleep") || said.contains("program")),
            "{reason}: who, and where? {said}"
        );
        // Everything goes on as before.
        fs::write(migration.join("still"), reason).unwrap();
        assert_eq!(fs::read_to_string(old.join("still")).unwrap(), reason);
        drop(held);
    }
    // It goes while the cut-over waits for it.
    let held = File::open(migration.join("big")).unwrap();
    migration.wait_ready(LONG);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| migration.command("cutover", &["--timeout", "60s"]));
        std::thread::sleep(Duration::from_millis(300));
        let first = asked.is_finished();
        drop(held);
        assert!(!first, "did not wait");
        asked.join().unwrap().expect(exit::OK);
    });
    migration.daemon().wait_end(LONG);
    assert_eq!(
        fs::metadata(migration.mount()).unwrap().dev(),
        fs::metadata(new.path()).unwrap().dev()
    );
}

#[test]
fn a_sqlite_database_under_load_is_named_and_works_on() {
    let lab = Lab::new("linger-sqlite");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Btrfs, 512),
    );
    let sqlite = program_at("sqlite3");
    let table = "CREATE TABLE t(id INTEGER PRIMARY KEY, data);";
    run_command(Command::new(&sqlite).arg(old.join("db")).arg(table));
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let mut shell = Running(
        Command::new(&sqlite)
            .args(["-bail", "-batch"])
            .arg(migration.join("db"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut input = shell.0.stdin.take().unwrap();
    let mut output = BufReader::new(shell.0.stdout.take().unwrap());
    let stop = AtomicBool::new(false);
    let rows = std::thread::scope(|scope| {
        let stop = &stop;
        let load = scope.spawn(move || {
            let mut rows = 0;
            while rows < 20 || !stop.load(Ordering::Relaxed) {
                let row = "INSERT INTO t(data) VALUES(randomblob(900)); SELECT count(*) FROM t;\n";
                input.write_all(row.as_bytes()).unwrap();
                let mut line = String::new();
                output.read_line(&mut line).unwrap();
                rows += 1;
                assert_eq!(line.trim_end(), rows.to_string());
            }
            rows
        });
        let refused = migration.command("cutover", &["--timeout", "500ms"]);
        stop.store(true, Ordering::Relaxed);
        let rows = load.join().unwrap();
        let refused = refused.refused(exit::TRY_AGAIN, &["sqlite3", "open SQLite database"]);
        assert!(refused.stderr.contains("/db"), "{}", refused.stderr);
        rows
    });
    // Its input ended, and so did it.
    assert!(shell.0.wait().unwrap().success());
    migration.cut_over();
    let question = "PRAGMA integrity_check; SELECT count(*) FROM t;";
    let said = run_command(Command::new(&sqlite).arg(new.join("db")).arg(question));
    assert_eq!(text(&said), format!("ok\n{rows}"));
}

/// A shell that works somewhere, asked line by line.
struct Shell {
    process: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn at(place: &Path) -> Shell {
        let mut command = Command::new("sh");
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = pipes.current_dir(place).spawn().unwrap();
        Shell {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process: Running(process),
        }
    }

    /// What a command prints, with its errors, and its exit code at the end.
    fn says(&mut self, command: &str) -> String {
        writeln!(self.input, "{{ {command}; }} 2>&1; echo \" $?\"; echo .").unwrap();
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "{said}");
            if line == ".\n" {
                return said.trim_end().replace('\n', "");
            }
            said.push_str(&line);
        }
    }
}

#[test]
fn who_works_in_a_directory_can_stay_in_it() {
    over_a_cut_over(
        "linger-inside",
        [Format::Ext4, Format::Btrfs],
        |old| {
            fs::create_dir_all(old.join("above/here")).unwrap();
            for (name, text) in [("above/here/file", "one"), ("above/other", "two")] {
                fs::write(old.join(name), text).unwrap();
            }
        },
        |migration, old, new| {
            let place = migration.join("above/here");
            let mut shell = Shell::at(&place);
            let (held, dir) = (both(place.join("file")), File::open(&place).unwrap());
            assert_eq!(shell.says("cat file ../other"), "onetwo 0");
            // What is open, and to be written only, is found by its name as well.
            let mut log = File::create(place.join("log")).unwrap();
            migration.wait_ready(LONG);
            migration
                .command("cutover", &["--timeout", "300ms"])
                .refused(exit::TRY_AGAIN, &["working directory", "--stay-inside"]);
            cut_over(migration, new, &["--stay-inside"]);
            let before = Tree::of(old.path());

            // One file by both of them: no page of one is older than what the other wrote.
            for n in 0..50 {
                let text = format!("{n:03}-");
                held.write_all_at(text.as_bytes(), 0).unwrap();
                assert_eq!(shell.says("cat file"), format!("{text} 0"));
                assert_eq!(shell.says(&format!("printf {n:03}+ 1<>file")), " 0");
                let mut seen = [0; 4];
                held.read_exact_at(&mut seen, 0).unwrap();
                assert_eq!(&seen, format!("{n:03}+").as_bytes());
            }
            let open = OFlags::RDWR | OFlags::CLOEXEC;
            let again = rustix::fs::openat(&dir, "file", open, Mode::empty()).unwrap();
            let again = File::from(again);
            for n in 0..200 {
                let (text, mut seen) = (format!("{n:03}="), [0; 4]);
                let pair = [&held, &again];
                let (writer, reader) = (pair[n % 2], pair[(n + 1) % 2]);
                writer.write_all_at(text.as_bytes(), 0).unwrap();
                reader.read_exact_at(&mut seen, 0).unwrap();
                assert_eq!(&seen, text.as_bytes());
            }
            drop(again);
            let number = held.metadata().unwrap().ino();
            assert_eq!(shell.says("stat -c %i file"), format!("{number} 0"));
            log.write_all(b"line").unwrap();
            assert_eq!(shell.says("cat log"), "line 0");
            assert_eq!(fs::read(new.join("above/here/file")).unwrap(), b"199=");
            assert_eq!(
                shell.says("cat ../other; cat ../../above/other"),
                "twotwo 0"
            );
            assert_eq!(shell.says("echo made >made; mkdir d; mv made d/"), " 0");
            assert_eq!(fs::read(place.join("d/made")).unwrap(), b"made\n");
            fs::write(place.join("by path"), "seen").unwrap();
            assert_eq!(shell.says("cat 'by path' d/made"), "seenmade 0");
            assert_eq!(shell.says("rm 'by path'; ls"), "dfilelog 0");
            // Neither would see the other's locks.
            let lock = built("hermitfs-lock");
            let by_path = both(migration.join("above/other"));
            range_lock(&by_path, RangeLock::OpenFile, libc::F_WRLCK, 0, 5).unwrap();
            let said = shell.says(&format!("{} ../other 0 5", lock.display()));
            assert!(
                said.ends_with(" 1") && said.contains("os error 11"),
                "{said}"
            );
            drop(by_path);
            assert_eq!(
                shell.says(&format!("{} ../other 0 5", lock.display())),
                " 0"
            );
            assert_eq!(shell.says("exec 9<>../other"), " 0");
            assert!(!can_lock(&migration.join("above/other")));
            assert_eq!(shell.says("exec 9>&-"), " 0");
            until(LONG, "the lock to go", || {
                can_lock(&migration.join("above/other")).then_some(())
            });

            drop((held, dir, log));
            assert_eq!(shell.says("cat d/made"), "made 0");
            assert!(migration.is_alive());
            // A shell goes by the path that it remembers, and so leaves.
            assert_eq!(shell.says("cd d; cat made"), "made 0");
            migration.daemon().wait_end(LONG);
            assert_eq!(
                shell.says("pwd; cat made"),
                format!("{}made 0", place.join("d").display())
            );
            drop(shell.process);
            before.assert_equal(&Tree::of(old.path()));
        },
    );
}

/// Whether another process gets a lock on the file.
fn can_lock(path: &Path) -> bool {
    let mut command = Command::new(built("hermitfs-lock"));
    match command.arg(path).args(["0", "10"]).status().unwrap().code() {
        Some(0) => true,
        Some(75) => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn locks_keep_others_out_until_the_file_is_closed() {
    over_a_cut_over(
        "linger-locks",
        [Format::Ext4, Format::Btrfs],
        |old| {
            for name in ["locked", "table", "log"] {
                fs::write(old.join(name), "content of a file").unwrap();
            }
        },
        |migration, _, new| {
            let locked = File::open(migration.join("locked")).unwrap();
            rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive).unwrap();
            range_lock(&locked, RangeLock::OpenFile, libc::F_RDLCK, 0, 5).unwrap();
            let table = both(migration.join("table"));
            let again = both(migration.join("table"));
            let log = OpenOptions::new().append(true).open(migration.join("log"));
            assert!(can_lock(&migration.join("table")));
            cut_over(migration, new, &[]);
            let by_path = |name: &str| both(migration.join(name));
            assert!(!can_lock(&migration.join("locked")));
            let other = rustix::fs::FlockOperation::NonBlockingLockShared;
            assert!(rustix::fs::flock(by_path("locked"), other).is_err());
            assert!(!can_lock(&migration.join("table")));
            assert!(
                can_lock(&migration.join("log")),
                "nobody agrees on anything there"
            );
            // Among those who hold it they are what they were.
            range_lock(&table, RangeLock::OpenFile, libc::F_WRLCK, 0, 5).unwrap();
            range_lock(&again, RangeLock::OpenFile, libc::F_WRLCK, 0, 5).unwrap_err();
            drop(table);
            range_lock(&again, RangeLock::OpenFile, libc::F_WRLCK, 0, 5).unwrap();
            assert!(!can_lock(&migration.join("table")), "it is still open");
            drop((again, locked));
            for name in ["table", "locked"] {
                until(LONG, name, || can_lock(&migration.join(name)).then_some(()));
            }
            rustix::fs::flock(by_path("locked"), other).unwrap();
            assert!(migration.is_alive());
            drop(log);
        },
    );
}

#[test]
fn a_kill_after_the_cut_over_ends_only_what_was_open() {
    over_a_cut_over(
        "linger-killed",
        [Format::Ext4, Format::Ext4],
        |old| fs::write(old.join("file"), "before").unwrap(),
        |migration, _, new| {
            let held = both(migration.join("file"));
            cut_over(migration, new, &[]);
            held.write_all_at(b"after!", 0).unwrap();
            migration.daemon().signal(Signal::KILL);
            migration.daemon().wait_end(LONG);
            let lost = held.write_all_at(b"never", 0).unwrap_err();
            let not_connected = [libc::ENOTCONN, libc::ECONNABORTED, libc::EIO];
            assert!(
                not_connected.contains(&lost.raw_os_error().unwrap()),
                "{lost}"
            );
            assert_eq!(fs::read(migration.join("file")).unwrap(), b"after!");
            fs::write(migration.join("file"), "goes on").unwrap();
            assert_eq!(fs::read(new.join("file")).unwrap(), b"goes on");
        },
    );
}
