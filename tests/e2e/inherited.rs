//! What a mount has from the old brick's, and what a daemon does not have from its starter.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::shell;
use hermitfs_tests::wait::until;

const SOON: Duration = Duration::from_secs(20);
const USER: u32 = 1234;

/// A root's program with its set-uid bit, a script, and a device that everybody may read.
fn tempt(directory: &Path) {
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    let all = [("id", 0o4755), ("script", 0o755)];
    fs::copy("/usr/bin/id", directory.join("id")).unwrap();
    fs::write(directory.join("script"), "#!/bin/sh\nexit 0\n").unwrap();
    for (name, mode) in all {
        fs::set_permissions(directory.join(name), Permissions::from_mode(mode)).unwrap();
    }
    shell::run(
        "mknod",
        &["-m", "666", &text(&directory.join("zero")), "c", "1", "5"],
    );
    symlink("script", directory.join("link")).unwrap();
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Who a user is in a program that is root's and set-uid.
fn becomes(directory: &Path) -> String {
    let mut id = Command::new(directory.join("id"));
    shell::text(&shell::run_command(id.arg("-u").uid(USER).gid(USER)))
}

fn runs(program: &Path) -> bool {
    Command::new(program)
        .status()
        .is_ok_and(|status| status.success())
}

fn opens_device(directory: &Path) -> bool {
    let mut head = Command::new("head");
    let out = head
        .args(["-c", "4"])
        .arg(directory.join("zero"))
        .output()
        .unwrap();
    out.status.success()
}

/// What is mounted at a path with, of the words that are about a single mount.
fn mounted(point: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = |line: &&str| line.split(' ').nth(4) == Some(&*text(point));
    // What is on top comes last, but for what went beneath: then there is one line more than needed.
    let line = table.lines().rfind(at).unwrap();
    let options = line.split(' ').nth(5).unwrap();
    options.split(',').map(str::to_owned).collect()
}

fn has(point: &Path, word: &str) -> bool {
    mounted(point).iter().any(|option| option == word)
}

#[test]
fn what_is_dead_on_the_old_brick_is_dead_in_the_mount_and_in_the_new_brick() {
    let lab = Lab::new("inherited");
    fs::set_permissions(lab.path(), Permissions::from_mode(0o755)).unwrap();
    let old = lab.disk_with("old", Format::Ext4, 64, &[], "nosuid,nodev,noatime");
    let new = lab.disk_with("new", Format::Ext4, 64, &[], "noexec");
    tempt(old.path());
    let mut migration = lab.migration(old.path(), new.path());
    migration
        .try_start(&[])
        .refused(exit::OK, &["nosuid,nodev", &text(new.path())]);
    let mount = migration.mount().to_owned();
    for word in ["nosuid", "nodev", "noatime"] {
        assert!(has(&mount, word), "{word}: {:?}", mounted(&mount));
    }
    assert_eq!(becomes(&mount), USER.to_string());
    assert!(!opens_device(&mount) && runs(&mount.join("script")));

    // What is done to the old brick's mount is done to ours.
    let follows = |options: &str, what: &str, done: &dyn Fn() -> bool| {
        shell::run(
            "mount",
            &["-o", &format!("remount,bind,{options}"), &text(old.path())],
        );
        until(SOON, what, || done().then_some(()));
    };
    let link = mount.join("link");
    follows("nosuid,nodev,noexec,nosymfollow", "noexec", &|| {
        !runs(&mount.join("script")) && fs::read(&link).is_err()
    });
    follows("nosuid,nodev,exec,symfollow", "exec", &|| {
        runs(&mount.join("script")) && fs::read(&link).is_ok()
    });
    migration.wait_ready(SOON);
    let done = migration.command("cutover", &[]).expect(exit::OK);
    migration.daemon().wait_end(SOON);
    assert_eq!(
        fs::metadata(&mount).unwrap().dev(),
        fs::metadata(new.path()).unwrap().dev()
    );
    assert_eq!(becomes(&mount), USER.to_string());
    assert!(!opens_device(&mount), "a device of the new brick");
    assert!(
        runs(&mount.join("script")),
        "the new brick's own noexec came along"
    );
    assert!(done.stdout.contains("nosuid,nodev"), "{}", done.stdout);
    for word in ["stays nosuid,nodev", "noexec", &text(new.path())] {
        assert!(
            done.stderr.contains(word),
            "no {word:?} in: {}",
            done.stderr
        );
    }
}

#[test]
fn it_is_so_over_the_old_brick_in_a_plain_mount_and_unless_something_else_is_asked_for() {
    let lab = Lab::new("inherited-over");
    fs::set_permissions(lab.path(), Permissions::from_mode(0o755)).unwrap();
    let old = lab.disk_with("old", Format::Ext4, 64, &[], "nosuid,strictatime");
    let new = lab.disk("new", Format::Ext4, 64);
    // A directory of a larger mount has that one's.
    let (old, new) = (old.join("in"), new.join("in"));
    for directory in [&old, &new] {
        fs::create_dir(directory).unwrap();
    }
    tempt(&old);
    let mut plain = lab.plain_mount(&old);
    assert_eq!(becomes(plain.path()), USER.to_string());
    plain.terminate();
    plain.use_options("suid,nodev");
    plain.start();
    assert_eq!(becomes(plain.path()), "0", "asked for");
    assert!(!opens_device(plain.path()));
    plain.terminate();

    let mut migration = lab.migration_over(&old, &new);
    migration.start();
    assert_eq!(becomes(&old), USER.to_string());
    migration.kill();
    migration.start();
    assert_eq!(becomes(&old), USER.to_string(), "after a kill");
    migration.wait_ready(SOON);
    let done = migration.command("cutover", &[]).expect(exit::OK);
    migration.daemon().wait_end(SOON);
    assert_eq!(becomes(&old), USER.to_string(), "on the new brick");
    assert!(done.stdout.contains("bind,nosuid"), "{}", done.stdout);
    let base = fs::read_dir(migration.state_dir().join("over"))
        .unwrap()
        .next()
        .unwrap();
    shell::run("umount", &["-R", &text(&base.unwrap().path())]);
}

#[test]
fn what_is_mounted_to_leave_no_trace_leaves_no_access_time_on_the_brick() {
    const BIG: usize = 1 << 20;
    let lab = Lab::new("inherited-atime");
    let disk = lab.disk_with("disk", Format::Ext4, 64, &[], "strictatime");
    fs::write(disk.join("file"), vec![7; BIG]).unwrap();
    fs::create_dir(disk.join("dir")).unwrap();
    symlink("file", disk.join("link")).unwrap();
    let times = || {
        ["file", "dir", "link"].map(|name| {
            let meta = fs::symlink_metadata(disk.join(name)).unwrap();
            (meta.atime(), meta.atime_nsec())
        })
    };
    let read = |mount: &Path| {
        assert_eq!(fs::read(mount.join("file")).unwrap().len(), BIG);
        assert_eq!(fs::read_dir(mount.join("dir")).unwrap().count(), 0);
        fs::read_link(mount.join("link")).unwrap();
    };
    let mut mount = lab.plain_mount(disk.path());
    let before = times();
    read(mount.path());
    assert_ne!(times()[0], before[0], "nothing would be seen");
    mount.terminate();
    for options in ["ro", "noatime"] {
        mount.use_options(options);
        mount.start();
        let before = times();
        read(mount.path());
        assert_eq!(times(), before, "{options}");
        let made = fs::write(mount.join("made"), "");
        assert_eq!(made.is_err(), options == "ro", "{options}");
        mount.terminate();
        mount.use_options("rw,atime");
    }
}

/// A control group below a login session's slice; where a machine has several hierarchies, in one of them.
fn session(name: &str) -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of = |kind: &str, option: &str| {
        table
            .lines()
            .filter(|line| line.contains(&format!(" - {kind} ")) && line.ends_with(option))
            .filter_map(|line| line.split(' ').nth(4))
            .map(|point| Path::new(point).join("user.slice").join(name))
            .find(|group| fs::create_dir_all(group).is_ok())
    };
    of("cgroup", ",freezer")
        .or_else(|| of("cgroup2", ""))
        .expect("control groups that can be written")
}

#[test]
fn a_daemon_has_nothing_from_its_starter_that_would_hold_for_those_who_use_the_mount() {
    const SIZE: usize = 3 << 20;
    let lab = Lab::new("inherited-starter");
    let (old, new) = (lab.dir("old"), lab.dir("new"));
    let group = session(&format!("hermitfs-test-{}.scope", std::process::id()));
    let mut migration = lab.migration(&old, &new);
    migration.start_by(&format!(
        "echo $$ > {}/cgroup.procs; cd {}; umask 0777; trap '' HUP USR1; echo 700 > /proc/$$/oom_score_adj; \
         ulimit -S -f 1000; ulimit -S -t 3; ulimit -S -s 200; export NOTIFY_SOCKET=/none SECRET=x; \
         exec nice -n 7 taskset -c 0 chrt --batch 0 \"$0\" \"$@\"",
        group.display(),
        lab.dir("left").display()
    ));
    migration.start();
    let process = PathBuf::from(format!("/proc/{}", migration.daemon().pid()));
    let read = |name: &str| fs::read_to_string(process.join(name)).unwrap();
    let limits = read("limits");
    for limit in ["Max file size", "Max cpu time", "Max address space"] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        assert_eq!(line.split_whitespace().nth(3), Some("unlimited"), "{line}");
    }
    assert!(
        read("limits").contains("Max stack size            8388608"),
        "{limits}"
    );
    let score: i32 = read("oom_score_adj").trim().parse().unwrap();
    assert!(score <= 0, "killed before others: {score}");
    let status = read("status");
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().to_owned()
    };
    let ignored = u64::from_str_radix(&field("SigIgn:"), 16).unwrap();
    assert_eq!(ignored & 0b10_0000_0001, 0, "HUP and USR1: {ignored:x}");
    let starter = fs::read_to_string("/proc/self/status").unwrap();
    let cpus = |text: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with("Cpus_allowed_list:"));
        line.unwrap().to_owned()
    };
    assert_eq!(cpus(&status), cpus(&starter));
    let stat = read("stat");
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    assert_eq!((fields[16], fields[38]), ("0", "0"), "nice, policy");
    assert_eq!(fs::read_link(process.join("cwd")).unwrap(), Path::new("/"));
    let variables = read("environ");
    assert!(
        !variables.contains("SECRET") && !variables.contains("NOTIFY_SOCKET"),
        "{variables}"
    );
    assert!(!read("cgroup").contains("user.slice"), "{}", read("cgroup"));
    fs::remove_dir(&group).unwrap();
    fs::write(migration.mount().join("file"), vec![1; SIZE]).unwrap();
    fs::create_dir(migration.mount().join("dir")).unwrap();
    migration.wait_ready(SOON);
    assert_eq!(fs::metadata(new.join("file")).unwrap().len(), SIZE as u64);
    assert_eq!(fs::metadata(new.join("dir")).unwrap().mode() & 0o700, 0o700);
    migration.terminate();

    // A limit that cannot be lifted would end everybody's mount.
    let mut bound = Mounted::prepare(&lab, "bound");
    bound.use_arguments(
        [
            &[
                "migrate".into(),
                old.into(),
                new.into(),
                bound.path().into(),
            ][..],
            &["--no-wait".into()],
        ]
        .concat(),
    );
    bound.start_by("ulimit -f 1000; exec setpriv --bounding-set=-sys_resource \"$0\" \"$@\"");
    bound
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["ulimit -f", "1024000"]);
}
