//! The commands as a contract: exit codes, fields, where messages go.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::{command, exit, hermitfs, run};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::wait::until;

const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_wrong_command_line_is_64() {
    let lab = Lab::new("usage");
    let state = lab.dir("state");
    for arguments in [
        &["frobnicate"][..],
        &["migrate", "/only-one"],
        &["cutover"],
        &["mount", "/mnt"],
    ] {
        hermitfs(&state, arguments).expect(exit::USAGE);
    }
    let help = hermitfs(&state, &["--help"]).expect(exit::OK);
    for name in [
        "mount", "migrate", "status", "heal", "errors", "cutover", "abort", "check", "graph",
    ] {
        assert!(help.stdout.contains(name), "no {name} in the help");
    }
}

#[test]
fn without_a_daemon_it_is_69() {
    let lab = Lab::new("no-daemon");
    let (state, mount) = (lab.dir("state"), lab.dir("nothing"));
    for name in ["status", "heal", "errors", "cutover", "abort"] {
        hermitfs(&state, &[name, &mount.to_string_lossy()]).refused(exit::NO_DAEMON, &["nothing"]);
    }
}

#[test]
fn status_has_every_field_and_never_more_than_all() {
    let lab = Lab::new("status");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    Odd::small().build(old.path(), 41);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    until(LONG, "ready", || {
        let status = migration.status();
        for field in [
            "state",
            "pid",
            "pending",
            "oldest_pending_s",
            "errors",
            "crawl",
            "ready",
            "files",
            "bytes",
            "rate",
            "eta_s",
            "source",
            "sinks",
            "since",
        ] {
            assert!(status.0.get(field).is_some(), "no {field} in {}", status.0);
        }
        for count in ["files", "bytes"] {
            let (done, total) = (&status.0[count]["done"], &status.0[count]["total"]);
            let done = done
                .as_u64()
                .unwrap_or_else(|| panic!("no {count}.done in {}", status.0));
            assert!(
                total.is_null() || total.as_u64().unwrap() >= done,
                "{}",
                status.0
            );
        }
        assert!(status.0["sinks"].is_array());
        status.is("ready").then_some(())
    });
    let status = migration.status();
    let (done, total) = (&status.0["files"]["done"], &status.0["files"]["total"]);
    assert_eq!(done, total, "{}", status.0);
    // A table for people, on stdout, without colour where no terminal is.
    let table = migration.command("status", &[]).expect(exit::OK);
    assert!(
        table.stdout.contains("ready") && !table.stdout.contains('\x1b'),
        "{}",
        table.stdout
    );
}

#[test]
fn migrate_returns_when_it_is_ready_and_the_mount_serves_on() {
    let lab = Lab::new("waits");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 256),
        lab.disk("new", Format::Btrfs, 256),
    );
    Odd::small().build(old.path(), 42);
    let mut migration = lab.migration(old.path(), new.path());
    let mount = migration.mount().to_owned();
    let outcome = run(
        command(migration.state_dir())
            .arg("migrate")
            .args([old.path(), new.path(), &mount]),
        LONG,
    );
    outcome.expect(exit::OK);
    let status = migration.status();
    assert!(status.is("ready"), "{}", status.0);
    // The same command again finds it running, and knows its process.
    migration.start();
    assert_eq!(migration.daemon().pid(), status.pid());
    fs::write(migration.join("more"), b"later").unwrap();
    migration.command("heal", &["--wait"]).expect(exit::OK);
    assert_eq!(fs::read(new.join("more")).unwrap(), b"later");
    migration.cut_over();
}

#[test]
fn a_mount_is_found_by_what_is_in_it_and_by_its_bricks_and_by_its_state_elsewhere() {
    let lab = Lab::new("whereabouts");
    let (old, new) = (lab.dir("old dir"), lab.dir("new"));
    fs::create_dir(old.join("sub")).unwrap();
    fs::write(old.join("sub/file"), b"content").unwrap();
    let mut migration = lab.migration(&old, &new);
    migration.start();
    migration.wait_ready(LONG);
    let state = migration.state_dir().to_owned();
    let inside = migration.join("sub");
    let inside = inside.to_str().unwrap();
    let told = hermitfs(&state, &["status", inside]).expect(exit::OK);
    assert!(told.stdout.contains("ready"), "{}", told.stdout);
    let healed = hermitfs(&state, &["heal", "--full", "--wait", inside]).expect(exit::OK);
    assert!(
        healed.stdout.contains("Compared 2 objects"),
        "all of the mount, not what is below the path: {}",
        healed.stdout
    );
    let point = migration.mount().to_str().unwrap().to_owned();
    for command in ["cutover", "abort"] {
        let instead = format!("`hermitfs {command} {point}`");
        hermitfs(&state, &[command, inside]).refused(exit::NO_DAEMON, &[&instead]);
    }
    let instead = format!("`hermitfs status {point} --json`");
    let arguments = ["status", old.to_str().unwrap(), "--json"];
    hermitfs(&state, &arguments).refused(exit::NO_DAEMON, &["old brick", &instead]);
    let arguments = ["status", new.to_str().unwrap(), "--json"];
    hermitfs(&state, &arguments).refused(exit::NO_DAEMON, &["new brick", &instead]);
    let other = lab.dir("other");
    let instead = format!("`hermitfs status {point} --state-dir {}`", state.display());
    hermitfs(&other, &["status", &point]).refused(exit::NO_DAEMON, &[&instead]);
    migration.cut_over();
}

#[test]
fn a_command_that_is_given_in_the_mount_is_not_in_its_own_way() {
    let lab = Lab::new("own-way");
    let (old, new) = (lab.dir("old"), lab.dir("new"));
    fs::create_dir(old.join("sub")).unwrap();
    let mut migration = lab.migration(&old, &new);
    migration.start();
    migration.wait_ready(LONG);
    let mut abort = command(migration.state_dir());
    abort
        .arg("abort")
        .arg("..")
        .current_dir(migration.join("sub"));
    run(&mut abort, LONG).expect(exit::OK);
}

#[test]
fn what_a_daemon_writes_down_is_for_root_alone() {
    let lab = Lab::new("modes");
    let (old, new) = (lab.dir("old"), lab.dir("new"));
    fs::write(old.join("file"), b"content").unwrap();
    let mut migration = lab.migration(&old, &new);
    migration.start();
    migration.wait_ready(LONG);
    let run = migration.state_dir().join("run");
    let mut seen = 0;
    for entry in fs::read_dir(run).unwrap().flatten() {
        let mode = entry.metadata().unwrap().mode();
        assert_eq!(mode & 0o177, 0, "{:?}: {mode:o}", entry.path());
        seen += 1;
    }
    assert!(seen >= 3, "only {seen} files");
    migration.cut_over();
}

#[test]
fn ctrl_c_stops_the_watching_and_not_the_migration() {
    let lab = Lab::new("ctrl-c");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    for index in 0..3000 {
        fs::write(old.join(format!("file-{index}")), vec![1; 10_000]).unwrap();
    }
    let mut migration = lab.migration(old.path(), new.path());
    let mut watching = command(migration.state_dir())
        .arg("migrate")
        .args([old.path(), new.path(), migration.mount()])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until(LONG, "the mount", || {
        hermitfs_tests::hermitfs::Status::of(migration.state_dir(), migration.mount())
    });
    let pid = rustix::process::Pid::from_child(&watching);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    watching.wait().unwrap();
    migration.start();
    migration.wait_ready(LONG);
    migration.cut_over();
}

#[test]
fn cutover_is_refused_with_a_list_while_something_is_in_use() {
    let lab = Lab::new("busy");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 128),
        lab.disk("new", Format::Btrfs, 256),
    );
    // Large enough to be read past the mount.
    fs::write(old.join("held"), vec![1; 1 << 20]).unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let held = fs::File::open(migration.join("held")).unwrap();
    let pid = std::process::id().to_string();
    let refused = migration
        .command("cutover", &["--timeout", "2s"])
        .refused(exit::TRY_AGAIN, &[]);
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains(&pid) && said.contains("held"), "{said}");
    fs::write(migration.join("still"), b"served").unwrap();
    drop(held);
    migration.wait_ready(LONG);
    let result = migration
        .command("cutover", &["--timeout", "20s"])
        .expect(exit::OK);
    let said = format!("{}{}", result.stdout, result.stderr);
    assert!(
        said.contains(&*migration.mount().to_string_lossy()),
        "no line for fstab in: {said}"
    );
    assert_eq!(fs::read(migration.join("still")).unwrap(), b"served");
    assert_eq!(
        fs::metadata(migration.mount()).unwrap().dev(),
        fs::metadata(new.path()).unwrap().dev()
    );
}

#[test]
fn heal_full_finds_what_others_changed_on_the_sink() {
    let lab = Lab::new("heal-full");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    Odd::small().build(old.path(), 43);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let victim = new.join("sizes/131072");
    let time = fs::metadata(&victim).unwrap().modified().unwrap();
    let mut content = fs::read(&victim).unwrap();
    content[77_777] ^= 1;
    fs::write(&victim, content).unwrap();
    hermitfs_tests::odd::set_mtime(&victim, time);
    fs::remove_file(new.join("sizes/4097")).unwrap();
    migration
        .command("heal", &["--full", "--wait"])
        .expect(exit::DIFFERENCES);
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn every_volfile_that_is_shipped_is_right_and_can_be_drawn() {
    let lab = Lab::new("volfiles");
    let state = lab.dir("state");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../volfiles");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "vol") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text
                .split("${")
                .skip(1)
                .filter_map(|rest| rest.split('}').next());
            let names: std::collections::BTreeSet<_> = names.collect();
            for name in ["check", "graph"] {
                let mut arguments = vec![name.to_owned(), path.to_string_lossy().into_owned()];
                for variable in &names {
                    let value = match *variable {
                        "address" => "10.0.0.1:24007".to_owned(),
                        path => format!("/srv/{path}"),
                    };
                    arguments.extend(["--set".to_owned(), format!("{variable}={value}")]);
                }
                hermitfs(&state, &arguments).expect(exit::OK);
            }
            seen += 1;
        }
    }
    assert!(seen >= 2, "only {seen} volfiles");
}

#[test]
fn a_volfile_written_for_glusterfs_mounts_as_it_is() {
    let lab = Lab::new("gluster");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Btrfs, 256),
    );
    Odd::small().build(old.path(), 44);
    let brick = |name: &str, directory: &std::path::Path| {
        format!(
            "volume {name}\n  type storage/posix\n  option directory {}\nend-volume\n\n",
            directory.display()
        )
    };
    let volfile = lab.file(
        "pair.vol",
        &format!(
            "# as GlusterFS writes it\n{}{}volume pair\n  type cluster/replicate\n  subvolumes old new\nend-volume\n",
            brick("old", old.path()),
            brick("new", new.path())
        ),
    );
    let mount = hermitfs_tests::mounted::Mounted::volfile(&lab, "mnt", &volfile, &[]);
    fs::write(mount.join("more"), b"written").unwrap();
    mount.command("heal", &["--wait"]).expect(exit::OK);
    assert_eq!(fs::read(new.join("more")).unwrap(), b"written");
    assert_eq!(fs::read(old.join("more")).unwrap(), b"written");
    assert!(new.join("links/there/four").exists());
}

#[test]
fn healing_keeps_to_its_limit_until_that_is_changed() {
    const LIMIT: u64 = 4_000_000;
    let lab = Lab::new("throttle");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    for index in 0..60 {
        fs::write(old.join(format!("file-{index}")), vec![index; 1 << 20]).unwrap();
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration
        .try_start(&["--limit", "as slow as you like"])
        .refused(exit::USAGE, &["50MB/s"]);
    let started = Instant::now();
    migration.try_start(&["--limit", "4MB/s"]).expect(exit::OK);
    std::thread::sleep(Duration::from_secs(3));
    let status = migration.status();
    let most = (started.elapsed().as_secs_f64() + 0.1) * LIMIT as f64;
    let done = status.0["bytes"]["done"].as_u64().unwrap();
    // What is being copied is counted when it is done, and each of eight may be at a block of it.
    assert!(done as f64 <= most + 8e6, "{done} bytes of {most}");
    assert_eq!(status.number("limit"), LIMIT);
    assert!(!status.is("ready"), "{}", status.0);
    let told = migration.command("throttle", &[]);
    assert_eq!(told.stdout.trim(), "4 MB/s");
    migration.try_start(&["--limit", "5MB/s"]).expect(exit::OK);
    assert_eq!(migration.status().number("limit"), 5_000_000);
    migration.command("throttle", &["off"]).expect(exit::OK);
    assert!(migration.status().0["limit"].is_null());
    migration.wait_ready(Duration::from_secs(60));
    migration.cut_over();
}
