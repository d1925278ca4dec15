//! Programs that people depend on, working all through a migration; their own checks judge both
//! bricks at the end.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::need::program_at;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::shell::{run_command, text};
use hermitfs_tests::wait::until;
use rustix::process::{Pid, Signal};

const LONG: Duration = Duration::from_secs(180);

/// A child that does not outlive its test.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        Running(
            command
                .stdin(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }

    #[track_caller]
    pub(crate) fn succeeded(mut self) {
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn sqlite_is_whole_on_both_bricks_after_working_through_a_migration() {
    let lab = Lab::new("sqlite");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    Odd::small().build(old.path(), 61);
    let sqlite = program_at("sqlite3");
    let databases = [("delete.db", "DELETE"), ("wal.db", "WAL")];
    for (name, mode) in databases {
        let table = format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, who, data);"
        );
        run_command(Command::new(&sqlite).arg(old.join(name)).arg(table));
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let mut script = String::from(".timeout 60000\n");
    for round in 0..150 {
        script.push_str("BEGIN IMMEDIATE;\n");
        for row in 0..10 {
            script.push_str(&format!(
                "INSERT INTO t(who,data) VALUES({round},randomblob({}));\n",
                100 + row * 300
            ));
        }
        script.push_str("UPDATE t SET data=randomblob(500) WHERE id % 17 = 3 AND id > (SELECT max(id) FROM t) - 300;\n");
        script.push_str("DELETE FROM t WHERE id % 23 = 5 AND id < 400;\nCOMMIT;\n");
    }
    let script = lab.file("work.sql", &script);
    let writers: Vec<_> = databases
        .iter()
        .flat_map(|(name, _)| [name, name])
        .map(|name| {
            let input = format!(".read {}", script.display());
            Running::start(
                Command::new(&sqlite)
                    .arg("-bail")
                    .arg(migration.join(name))
                    .arg(input),
            )
        })
        .collect();
    writers.into_iter().for_each(Running::succeeded);
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    let check = |place: &Path| -> Vec<String> {
        let question = "PRAGMA integrity_check; SELECT count(*), sum(length(data)) FROM t;";
        databases
            .iter()
            .map(|(name, _)| {
                text(&run_command(
                    Command::new(&sqlite).arg(place.join(name)).arg(question),
                ))
            })
            .collect()
    };
    let through = check(migration.mount());
    assert!(
        through.iter().all(|said| said.starts_with("ok")),
        "{through:?}"
    );
    migration.cut_over();
    assert_eq!(check(new.path()), through);
    assert_eq!(check(old.path()), through);
}

#[test]
fn git_is_whole_on_both_bricks_after_working_through_a_migration() {
    let lab = Lab::new("git");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 512),
        lab.disk("new", Format::Xfs, 512),
    );
    let git = |place: &Path, arguments: &[&str]| {
        let mut command = Command::new(program_at("git"));
        command
            .current_dir(place)
            .args([
                "-c",
                "user.name=hermit",
                "-c",
                "user.email=hermit@example.invalid",
                "-c",
                "gc.auto=0",
            ])
            .args(["-c", "safe.directory=*"])
            .args(arguments)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", lab.path());
        text(&run_command(&mut command))
    };
    let commit = |place: &Path, round: usize| {
        for index in 0..150 {
            let directory = place.join(format!("src/{:02}", (index + round) % 30));
            fs::create_dir_all(&directory).unwrap();
            fs::write(
                directory.join(format!("file-{index}.txt")),
                format!("{round} {index}\n").repeat(index),
            )
            .unwrap();
        }
        git(place, &["add", "-A"]);
        git(place, &["commit", "-q", "-m", &format!("round {round}")]);
    };
    let origin = old.join("origin");
    fs::create_dir(&origin).unwrap();
    git(&origin, &["init", "-q"]);
    for round in 0..6 {
        commit(&origin, round);
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    git(
        migration.mount(),
        &["clone", "-q", "--no-local", "origin", "clone"],
    );
    let clone = migration.join("clone");
    for round in 6..10 {
        commit(&clone, round);
        git(&clone, &["checkout", "-q", "HEAD~2"]);
        git(&clone, &["checkout", "-q", "-"]);
    }
    git(&clone, &["gc", "-q"]);
    git(&clone, &["fsck", "--full", "--strict"]);
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    let head = git(&clone, &["rev-parse", "HEAD"]);
    migration.cut_over();
    for brick in [old.path(), new.path()] {
        for repository in ["origin", "clone"] {
            git(&brick.join(repository), &["fsck", "--full", "--strict"]);
            assert_eq!(git(&brick.join(repository), &["status", "--porcelain"]), "");
        }
        assert_eq!(git(&brick.join("clone"), &["rev-parse", "HEAD"]), head);
    }
}

/// Whether all that was booked adds up.
const BALANCE: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history), \
    (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers)";

/// A PostgreSQL cluster on some path, as the user `postgres`.
struct Cluster {
    data: PathBuf,
    sockets: PathBuf,
    server: Option<Running>,
    /// Its System V segment, by which it knows whether a predecessor lives.
    memory: String,
}

impl Cluster {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--init-groups",
            ])
            .arg(program_at(program))
            .env("PGHOST", &self.sockets)
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .env("LC_ALL", "C")
            .current_dir("/");
        command
    }

    fn initialise(&self) {
        run_command(
            self.command("initdb")
                .args(["-k", "-A", "trust", "--no-sync", "-D"])
                .arg(&self.data),
        );
    }

    fn start(&mut self, log: &Path) {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .unwrap();
        let server = self
            .command("postgres")
            .arg("-D")
            .arg(&self.data)
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "shared_buffers=16MB",
                "-c",
                "max_wal_size=64MB",
                "-k",
            ])
            .arg(&self.sockets)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(Running(server));
        until(LONG, "PostgreSQL to answer", || {
            let ready = self
                .command("pg_isready")
                .stdout(Stdio::null())
                .status()
                .unwrap();
            ready.success().then_some(())
        });
        let lock = fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        let segment = lock.lines().nth(6).unwrap_or_default();
        self.memory = segment
            .split_whitespace()
            .nth(1)
            .unwrap_or("none")
            .to_owned();
    }

    /// SIGKILL to the postmaster and to its children, as a crash.
    fn kill(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        let pid = server.0.id();
        let children =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        drop(server);
        for child in children
            .split_whitespace()
            .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        until(LONG, "PostgreSQL's processes to be gone", || {
            let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
            let used = segments.lines().any(|line| {
                let fields: Vec<_> = line.split_whitespace().collect();
                fields.get(1) == Some(&self.memory.as_str()) && fields.get(6) != Some(&"0")
            });
            (!used).then_some(())
        });
    }

    fn stop(&mut self) {
        run_command(
            self.command("pg_ctl")
                .args(["stop", "-w", "-m", "fast", "-D"])
                .arg(&self.data),
        );
        drop(self.server.take());
    }

    fn sql(&self, question: &str) -> String {
        text(&run_command(
            self.command("psql").args(["-X", "-At", "-c", question]),
        ))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.is_some() {
            let _ = self
                .command("pg_ctl")
                .args(["stop", "-m", "immediate", "-D"])
                .arg(&self.data)
                .output();
        }
    }
}

#[test]
fn postgresql_is_whole_on_both_bricks_though_killed_in_a_migration() {
    let lab = Lab::new("postgres");
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (old, new) = (
        lab.disk("old", Format::Ext3, 1024),
        lab.disk("new", Format::Btrfs, 1024),
    );
    for place in [old.join("db"), lab.dir("sockets")] {
        fs::create_dir_all(&place).unwrap();
        run_command(Command::new("chown").arg("postgres:postgres").arg(&place));
    }
    let at = |root: &Path| Cluster {
        data: root.join("db/data"),
        sockets: lab.dir("sockets"),
        server: None,
        memory: String::new(),
    };
    at(old.path()).initialise();
    Odd::small().build(&lab_dir(&old.join("odd")), 62);

    let log = lab.path().join("postgres.log");
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let mut cluster = at(migration.mount());
    cluster.start(&log);
    run_command(cluster.command("pgbench").args(["-i", "-q", "-s", "4"]));
    let bench = |cluster: &Cluster, seconds: &str| {
        let mut command = cluster.command("pgbench");
        command
            .args(["-n", "-c", "4", "-T", seconds])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    // Killed under load, and recovered.
    let load = Running::start(&mut bench(&cluster, "30"));
    std::thread::sleep(Duration::from_secs(4));
    cluster.kill();
    drop(load);
    cluster.start(&log);
    assert!(bench(&cluster, "4").status().unwrap().success());
    // The same with the file system dying under it.
    let load = Running::start(&mut bench(&cluster, "30"));
    std::thread::sleep(Duration::from_secs(3));
    migration.kill();
    cluster.kill();
    drop(load);
    migration.start();
    let mut cluster = at(migration.mount());
    cluster.start(&log);
    assert!(bench(&cluster, "4").status().unwrap().success());

    assert_eq!(cluster.sql(BALANCE), "t|t");
    let rows = cluster.sql("SELECT count(*) FROM pgbench_history");
    cluster.stop();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
    for brick in [old.path(), new.path()] {
        let mut copy = at(brick);
        run_command(
            copy.command("pg_checksums")
                .args(["--check", "-D"])
                .arg(&copy.data),
        );
        copy.start(&log);
        assert_eq!(copy.sql(BALANCE), "t|t");
        assert_eq!(copy.sql("SELECT count(*) FROM pgbench_history"), rows);
        copy.stop();
    }
}

#[test]
fn postgresql_works_on_over_a_cut_over() {
    let lab = Lab::new("postgres-over");
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    for place in [old.join("db"), lab.dir("sockets")] {
        fs::create_dir_all(&place).unwrap();
        run_command(Command::new("chown").arg("postgres:postgres").arg(&place));
    }
    let at = |root: &Path| Cluster {
        data: root.join("db/data"),
        sockets: lab.dir("sockets"),
        server: None,
        memory: String::new(),
    };
    at(old.path()).initialise();
    let log = lab.path().join("postgres.log");
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let mut cluster = at(migration.mount());
    cluster.start(&log);
    run_command(cluster.command("pgbench").args(["-i", "-q", "-s", "2"]));
    migration.wait_ready(LONG);
    let mut load = cluster.command("pgbench");
    load.args(["-n", "-c", "4", "-R", "100", "-t", "150"]);
    let mut load = Running::start(load.stdout(Stdio::null()).stderr(Stdio::null()));
    let rows = |cluster: &Cluster| {
        let rows = cluster.sql("SELECT count(*) FROM pgbench_history");
        rows.parse::<u32>().unwrap()
    };
    let more = |than: u32| {
        until(LONG, "transactions", || {
            (rows(&cluster) > than).then_some(())
        })
    };
    more(50);
    // It works in its data directory.
    migration
        .command("cutover", &["--timeout", "200ms"])
        .refused(exit::TRY_AGAIN, &["postgres", "--stay-inside"]);
    migration
        .command("cutover", &["--stay-inside"])
        .expect(exit::OK);
    let before = rows(&cluster);
    more(before);
    assert!(
        load.0.wait().unwrap().success(),
        "a transaction failed over the cut-over"
    );
    assert_eq!(rows(&cluster), 600);
    // What connects now, and what is made now, is of the same database.
    cluster.sql("CREATE TABLE later AS SELECT generate_series(1, 1000) AS n; CHECKPOINT");
    assert!(migration.is_alive());
    cluster.stop();
    migration.daemon().wait_end(LONG);

    let mut there = at(migration.mount());
    assert_eq!(
        fs::metadata(&there.data).unwrap().dev(),
        fs::metadata(new.path()).unwrap().dev()
    );
    run_command(
        there
            .command("pg_checksums")
            .args(["--check", "-D"])
            .arg(&there.data),
    );
    there.start(&log);
    assert_eq!(there.sql(BALANCE), "t|t");
    assert_eq!(rows(&there), 600);
    assert_eq!(there.sql("SELECT count(*) FROM later"), "1000");
    there.stop();
}

fn lab_dir(path: &Path) -> PathBuf {
    fs::create_dir_all(path).unwrap();
    path.to_owned()
}
