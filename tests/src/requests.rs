//! FUSE requests, counted by the kernel itself (tracepoint `fuse_request_send`): what a mount
//! costs its users, whatever mood the machine is in.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags};

use crate::lab::Lab;
use crate::shell::run_command;

/// Counts the requests of one mount.
pub struct Counter {
    tracing: PathBuf,
    instance: PathBuf,
    connection: u32,
}

/// Requests by their name.
pub type Requests = BTreeMap<String, u64>;

impl Counter {
    /// For the FUSE mount at a path.
    pub fn new(lab: &Lab, mount: &Path) -> Counter {
        let tracing = lab.dir("tracing");
        rustix::mount::mount(c"none", &tracing, c"tracefs", MountFlags::empty(), None)
            .unwrap_or_else(|error| {
                panic!("no tracefs in this kernel ({error}): requests cannot be counted")
            });
        let instance = tracing
            .join("instances")
            .join(lab.path().file_name().unwrap_or_default());
        fs::create_dir(&instance).unwrap();
        let connection = rustix::fs::minor(fs::metadata(mount).unwrap().dev());
        let counter = Counter {
            tracing,
            instance,
            connection,
        };
        counter.set("buffer_size_kb", "40000");
        counter.set(
            "events/fuse/fuse_request_send/filter",
            &format!("connection == {connection}"),
        );
        counter
    }

    fn set(&self, file: &str, value: &str) {
        let path = self.instance.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// What a piece of work asks for.
    pub fn of(&self, work: impl FnOnce()) -> Requests {
        self.set("trace", "");
        self.set("events/fuse/fuse_request_send/enable", "1");
        work();
        self.set("events/fuse/fuse_request_send/enable", "0");
        let mut requests = Requests::new();
        for line in fs::read_to_string(self.instance.join("trace"))
            .unwrap()
            .lines()
        {
            let Some((_, event)) = line.split_once("fuse_request_send: ") else {
                continue;
            };
            assert!(
                event.starts_with(&format!("connection {} ", self.connection)),
                "{event}"
            );
            let name = event.split(['(', ')']).nth(1).unwrap_or("unknown");
            *requests
                .entry(name.trim_start_matches("FUSE_").to_owned())
                .or_default() += 1;
        }
        requests
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = fs::write(
            self.instance.join("events/fuse/fuse_request_send/enable"),
            "0",
        );
        let _ = fs::remove_dir(&self.instance);
        let _ = rustix::mount::unmount(&self.tracing, UnmountFlags::DETACH);
    }
}

/// Five jobs of every day on one tree, and what each may ask for, per file.
pub const JOBS: [(&str, f64); 5] = [
    ("untar", 10.0),
    ("find, warm", 0.05),
    ("tar, warm", 2.5),
    ("chmod -R", 1.1),
    ("rm -rf", 2.1),
];

/// Sizes as the kernel's headers have them: 300 bytes to 19 kB, as many between 1 and 2 kB as between
/// 8 and 16.
fn header_size(index: usize) -> usize {
    let least = 300 << (index * 7919 % 6);
    least + index * 104_729 % least
}

/// Does the jobs in a mount: requests by job, and the number of files.
pub fn of_everyday_jobs(lab: &Lab, mount: &Path) -> (Vec<Requests>, usize) {
    const FILES: usize = 800;
    let original = lab.dir("original");
    for index in 0..FILES {
        let directory = original.join(format!("tree/{:02}", index % 30));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join(format!("header-{index}.h")),
            vec![b'x'; header_size(index)],
        )
        .unwrap();
    }
    let archive = lab.path().join("tree.tar");
    let sh = |script: &str| {
        run_command(Command::new("sh").args(["-ec", script]).current_dir(mount));
    };
    run_command(
        Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&original)
            .arg("tree"),
    );
    let counter = Counter::new(lab, mount);
    let mut all = vec![counter.of(|| sh(&format!("tar -xf {}", archive.display())))];
    sh("find tree -printf '%s %T@ %m\\n' > /dev/null; tar -cf - tree | cat > /dev/null");
    for script in [
        "find tree -printf '%s %T@ %m\\n' > /dev/null",
        "tar -cf - tree | cat > /dev/null",
        "chmod -R g+w tree",
        "rm -rf tree",
    ] {
        all.push(counter.of(|| sh(script)));
    }
    (all, FILES)
}
