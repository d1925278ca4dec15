//! POSIX as others test it: pjdfstest, fsx, and the bits that must fall.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::need;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::shell::{run, run_command, text};

/// What pjdfstest is told: what Linux has, and two users that Debian has.
const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
stat_st_birthtime = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Tests that failed, and how many passed.
fn pjdfstest(lab: &Lab, place: &Path) -> (BTreeSet<String>, usize) {
    let configuration = lab.file("pjdfstest.toml", PJDFSTEST);
    let output = Command::new(need::suite("pjdfstest"))
        .arg("-c")
        .arg(configuration)
        .arg("-p")
        .arg(place)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&output);
    let verdict = |word: &str| {
        said.lines()
            .filter(|line| !line.starts_with('\t') && line.ends_with(word))
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    let (failed, passed) = (verdict("FAILED"), verdict(" ok"));
    assert!(
        passed.len() + failed.len() > 350,
        "pjdfstest ran hardly anything: {said}"
    );
    for test in &failed {
        let reason = said
            .lines()
            .skip_while(|line| !line.starts_with(test.as_str()))
            .nth(1)
            .unwrap_or_default();
        println!("{} {test}: {}", place.display(), reason.trim());
    }
    (failed, passed.len())
}

/// Fails the test when something fails in this mount that ext4 passes and that is not listed.
pub(crate) fn assert_pjdfstest_as_on_ext4(lab: &Lab, mount: &Path) {
    // Users without rights walk down here.
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let native = lab.disk("native", Format::Ext4, 512);
    let (natively, _) = pjdfstest(lab, native.path());
    let (failed, passed) = pjdfstest(lab, mount);
    let listed: BTreeSet<String> = include_str!("pjdfstest-expected.txt")
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    println!(
        "pjdfstest: {passed} passed, {} failed; ext4 itself failed {}",
        failed.len(),
        natively.len()
    );
    let surprises: Vec<_> = failed
        .difference(&natively)
        .filter(|test| !listed.contains(*test))
        .collect();
    assert!(
        surprises.is_empty(),
        "ext4 passes these, the mount does not: {surprises:#?}"
    );
    let outdated: Vec<_> = listed.difference(&failed).collect();
    assert!(
        outdated.is_empty(),
        "these pass by now and need not be listed: {outdated:?}"
    );
}

#[test]
fn pjdfstest_fails_nothing_that_ext4_passes_but_what_is_listed() {
    let lab = Lab::new("pjdfstest");
    let disk = lab.disk("disk", Format::Ext4, 512);
    let mount = lab.plain_mount(disk.path());
    assert_pjdfstest_as_on_ext4(&lab, mount.path());
}

/// One run of fsx, with what it says. Killed when dropped.
pub(crate) struct Fsx {
    child: Child,
    said: PathBuf,
}

/// Three of them in one place, with mappings, holes and copies; so many operations each.
pub(crate) fn fsx(lab: &Lab, place: &Path, operations: u64) -> Vec<Fsx> {
    // With msync after each mapped store it is mostly the disk that is tested: for one of the three.
    let configuration = [true, true, false].map(|without_msync| {
        lab.file(
            &format!("fsx-{without_msync}.toml"),
            &format!(
                "flen = 262144\nnomsyncafterwrite = {without_msync}\n[opsize]\nmin = 1\nmax = 65536\n[weights]\n\
                 close_open = 1\ninvalidate = 0.2\nmapread = 10\nmapwrite = 10\nread = 10\nwrite = 10\n\
                 truncate = 10\nfsync = 0.1\nfdatasync = 0.1\nposix_fallocate = 2\npunch_hole = 5\nsendfile = 2\n\
                 posix_fadvise = 1\ncopy_file_range = 2\n"
            ),
        )
    });
    hermitfs_tests::crew::seeds(3)
        .iter()
        .zip(&configuration)
        .map(|(seed, configuration)| {
            let said = lab.path().join(format!("fsx-{seed}.log"));
            let log = fs::File::create(&said).unwrap();
            let child = Command::new(need::suite("fsx"))
                .args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-f"])
                .arg(configuration)
                .arg("-P")
                .arg(lab.path())
                .arg(place.join(format!("fsx-{seed}")))
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            Fsx { child, said }
        })
        .collect()
}

impl Fsx {
    /// Whether it is at work still.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; fails the test, with its last words, when it has found something.
    #[track_caller]
    pub(crate) fn succeeded(mut self) {
        let status = self.child.wait().unwrap();
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        let tail: Vec<_> = said.lines().rev().take(30).collect();
        assert!(status.success(), "{status}: {tail:#?}");
    }
}

impl Drop for Fsx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn fsx_with_mappings_and_holes_agrees_while_a_heal_runs() {
    let lab = Lab::new("fsx");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 1024),
        lab.disk("new", Format::Btrfs, 1024),
    );
    Odd::default().build(old.path(), 51);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    for fsx in fsx(&lab, migration.mount(), 100_000) {
        fsx.succeeded();
    }
    migration.wait_ready(Duration::from_secs(180));
    migration.assert_bricks_equal();
    migration.cut_over();
}

/// A set-id program with a capability, touched in one way by one user: its bits afterwards.
fn bits_after(place: &Path, mode: u32, who: &str, how: &str) -> String {
    let file = place.join("program");
    let _ = fs::remove_file(&file);
    fs::write(&file, b"#!/bin/true\n").unwrap();
    std::os::unix::fs::chown(&file, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    run("setcap", &["cap_net_raw+ep", &file.to_string_lossy()]);
    let script = format!("cd {}; {how}", place.display());
    run_command(Command::new("setpriv").args([
        "--reuid",
        who,
        "--regid",
        who,
        "--clear-groups",
        "sh",
        "-c",
        &script,
    ]));
    let capability = run_command(Command::new(need::program_at("getcap")).arg(&file));
    let capability = if text(&capability).is_empty() {
        "no capability"
    } else {
        "a capability"
    };
    format!(
        "{:o}, {capability}",
        fs::metadata(&file).unwrap().permissions().mode() & 0o7777
    )
}

#[test]
fn set_id_bits_and_capabilities_fall_as_they_do_natively() {
    let lab = Lab::new("set-id");
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let disk = lab.disk("disk", Format::Ext4, 64);
    let native = lab.disk("native", Format::Ext4, 64);
    let mount = lab.plain_mount(disk.path());
    for place in [native.path(), mount.path()] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let ways = [
        "printf x >> program",
        "printf x 1<> program",
        ": > program",
        "truncate -s 5 program",
        "truncate -s 100 program",
        "fallocate -l 100000 program",
        "dd if=/dev/zero of=program bs=10 count=1 conv=notrunc status=none",
        "cat program > /dev/null",
    ];
    let mut wrong = Vec::new();
    for mode in [0o4777, 0o6777, 0o2777, 0o2767, 0o777] {
        for who in ["0", "1000", "1234"] {
            for how in ways {
                let natively = bits_after(native.path(), mode, who, how);
                let through = bits_after(mount.path(), mode, who, how);
                if natively != through {
                    wrong.push(format!(
                        "{mode:o}, user {who}: {how}: {through}, natively {natively}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_belongs_to_root_alone_stays_so_when_a_disk_is_full() {
    let lab = Lab::new("reserve");
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let disk = lab.disk_with("disk", Format::Ext4, 64, &["-m", "20"], "");
    let mount = lab.plain_mount(disk.path());
    fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let script = format!("cat /dev/zero > {}/filler", mount.path().display());
    let _ = Command::new("setpriv")
        .args([
            "--reuid",
            "1234",
            "--regid",
            "1234",
            "--clear-groups",
            "sh",
            "-c",
            &script,
        ])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let left = rustix::fs::statvfs(disk.path()).unwrap();
    let reserve = left.f_bfree * left.f_frsize;
    assert!(
        reserve > 8 << 20,
        "a user wrote into what is kept for root: {reserve} bytes are left"
    );
}
