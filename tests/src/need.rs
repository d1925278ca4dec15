//! What a machine has to offer. What is missing fails a test with a sentence; nothing is skipped.

use std::path::{Path, PathBuf};

/// A program, and the Debian package that brings it.
pub struct Program {
    /// Its name in PATH.
    pub name: &'static str,
    /// Debian's package.
    pub package: &'static str,
    /// The one that another release of Debian has it in.
    pub elsewhere: Option<&'static str>,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program {
        name,
        package,
        elsewhere: None,
    }
}

/// In `qemu-system-common` up to Debian 12.
const STORAGE_DAEMON: Program = Program {
    elsewhere: Some("qemu-system-common"),
    ..program("qemu-storage-daemon", "qemu-utils")
};

/// What the demo calls.
pub const FOR_DEMO: &[Program] = &[
    program("mkfs.ext3", "e2fsprogs"),
    program("mkfs.btrfs", "btrfs-progs"),
    program("mount", "mount"),
    program("unshare", "util-linux"),
];

/// What the tests call.
pub const FOR_TESTS: &[Program] = &[
    program("mkfs.ext3", "e2fsprogs"),
    program("debugfs", "e2fsprogs"),
    program("chattr", "e2fsprogs"),
    program("lsattr", "e2fsprogs"),
    program("xfs_io", "xfsprogs"),
    program("btrfs", "btrfs-progs"),
    program("mkfs.btrfs", "btrfs-progs"),
    program("mkfs.xfs", "xfsprogs"),
    program("mount", "mount"),
    program("swapon", "mount"),
    program("mkswap", "util-linux"),
    program("unshare", "util-linux"),
    program("setpriv", "util-linux"),
    STORAGE_DAEMON,
    program("ip", "iproute2"),
    program("systemd-analyze", "systemd"),
    program("setcap", "libcap2-bin"),
    program("tar", "tar"),
    program("git", "git"),
    program("sqlite3", "sqlite3"),
    program("pg_ctl", "postgresql"),
    program("pg_checksums", "postgresql"),
    program("pgbench", "postgresql"),
];

/// What `cargo power` calls.
pub const FOR_POWER: &[Program] = &[
    program("mkfs.ext3", "e2fsprogs"),
    program("mkfs.btrfs", "btrfs-progs"),
    program("mkfs.xfs", "xfsprogs"),
    program("mount", "mount"),
    program("unshare", "util-linux"),
    program("setpriv", "util-linux"),
    STORAGE_DAEMON,
];

/// What the benchmark calls.
pub const FOR_BENCH: &[Program] = &[
    program("mkfs.ext3", "e2fsprogs"),
    program("mkfs.btrfs", "btrfs-progs"),
    program("mount", "mount"),
    program("unshare", "util-linux"),
    program("rsync", "rsync"),
    program("tar", "tar"),
    program("fio", "fio"),
    program("mergerfs", "mergerfs"),
    program("glusterfsd", "glusterfs-server"),
    // For libfuse's own example, which Debian has as source only.
    program("g++", "g++"),
    program("pkg-config", "pkg-config"),
    program("wget", "wget"),
];

/// Where a program is: in PATH, in the directories for root, or in Debian's for PostgreSQL.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    places
        .into_iter()
        .map(|place| place.join(name))
        .find(|file| file.is_file())
}

/// The packages that bring what is missing of a list, each once.
pub fn missing_packages(list: &[Program]) -> Vec<&'static str> {
    packages(list, |program| Some(program.package))
}

/// Those that bring it in another release of Debian.
pub fn missing_elsewhere(list: &[Program]) -> Vec<&'static str> {
    packages(list, |program| program.elsewhere)
}

fn packages(list: &[Program], of: impl Fn(&Program) -> Option<&'static str>) -> Vec<&'static str> {
    let missing = list.iter().filter(|program| find(program.name).is_none());
    let mut packages: Vec<_> = missing.filter_map(of).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// What stops a mount on this machine, as a sentence; `None` when nothing does.
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some(
            "this needs root: mounts and loop devices are made. Run it again as root.".into(),
        );
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse: load the kernel's module (modprobe fuse), or pass the device into this container.".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some(
            "there is no /dev/loop-control: load the kernel's module (modprobe loop).".into(),
        );
    }
    None
}

/// Fails the test, with a plain sentence, on a machine that cannot run it.
pub fn a_machine_for_mounts() {
    if let Some(sentence) = obstacle() {
        panic!("{sentence}");
    }
}

/// Where a program is; fails the test with the package to install.
pub fn program_at(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| {
        let package = FOR_TESTS
            .iter()
            .chain(FOR_BENCH)
            .find(|program| program.name == name)
            .map(|p| p.package);
        match package {
            Some(package) => {
                panic!("{name} is missing: apt-get install {package} (`cargo gate` does it)")
            }
            None => panic!("{name} is missing"),
        }
    })
}

/// A test suite from crates.io that `cargo gate` puts under the target directory.
pub fn suite(name: &str) -> PathBuf {
    let path = crate::hermitfs::target_directory()
        .join("suites/bin")
        .join(name);
    assert!(
        path.is_file(),
        "{name} is missing: cargo install --root {} {name} (`cargo gate` does it)",
        path.ancestors().nth(2).unwrap_or(Path::new("/")).display()
    );
    path
}
