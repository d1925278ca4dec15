//! A place for one test: a temporary directory, disks, and the promise that nothing stays behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{IFlags, Mode, OFlags};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::disk::{Disk, Format};
use crate::faulty::FaultyDisk;
use crate::migration::Migration;
use crate::mounted::Mounted;

/// Everything that a test has made, taken away when it ends, also by a panic.
pub struct Lab {
    dir: TempDir,
    daemons: Mutex<Vec<Arc<Daemon>>>,
}

impl Lab {
    /// A new place; the name is for people who look on.
    pub fn new(name: &str) -> Lab {
        crate::need::a_machine_for_mounts();
        // Of the whole process, and never set back: tests run side by side.
        rustix::process::umask(Mode::empty());
        let dir = tempfile::Builder::new()
            .prefix(&format!("hermitfs-{name}-"))
            .tempdir()
            .unwrap_or_else(|error| panic!("no temporary directory: {error}"));
        Lab {
            dir,
            daemons: Mutex::default(),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A directory in it.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A text file in it.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A mounted loop device with a new file system of so many MiB.
    pub fn disk(&self, name: &str, format: Format, mib: u64) -> Disk {
        self.disk_with(name, format, mib, &[], "")
    }

    /// The same with options for mkfs and for mount.
    pub fn disk_with(
        &self,
        name: &str,
        format: Format,
        mib: u64,
        mkfs: &[&str],
        mount: &str,
    ) -> Disk {
        Disk::new(self.dir.path(), name, format, mib, mkfs, mount)
    }

    /// A disk that can be made to fail.
    pub fn faulty_disk(&self, name: &str, format: Format, mib: u64) -> FaultyDisk {
        FaultyDisk::new(self.dir.path(), name, format, mib)
    }

    /// A second, read-only way to a directory by which reading leaves no trace, not even an atime.
    pub fn quiet_view(&self, directory: &Path) -> PathBuf {
        static VIEWS: AtomicU32 = AtomicU32::new(0);
        // What is written later (delayed allocation) would look like a change.
        fs::File::open(directory)
            .and_then(|it| Ok(rustix::fs::syncfs(it)?))
            .unwrap();
        let view = self.dir(&format!("view-{}", VIEWS.fetch_add(1, Ordering::Relaxed)));
        let text = |path: &Path| path.to_string_lossy().into_owned();
        crate::shell::run(
            "mount",
            &["--bind", "-o", "ro,noatime", &text(directory), &text(&view)],
        );
        view
    }

    /// A migration between two directories, not started yet.
    pub fn migration<'lab>(&'lab self, old: &Path, new: &Path) -> Migration<'lab> {
        Migration::new(self, old, new, Mounted::prepare(self, "data"))
    }

    /// The same, mounted over the old one itself.
    pub fn migration_over<'lab>(&'lab self, old: &Path, new: &Path) -> Migration<'lab> {
        Migration::new(self, old, new, Mounted::at(self, old))
    }

    /// Mounts a directory through FUSE, with nothing but a brick below.
    pub fn plain_mount(&self, directory: &Path) -> Mounted<'_> {
        let volfile = self.file(
            "plain.vol",
            "[volume.brick]\ntype = \"storage/posix\"\ndirectory = \"${directory}\"\n",
        );
        let set = format!("directory={}", directory.display());
        Mounted::volfile(self, "mnt", &volfile, &[&set])
    }

    /// Remembers a daemon, by the pid that its own status told, to be ended with this lab.
    pub(crate) fn remember_daemon(&self, pid: i32) -> Option<Arc<Daemon>> {
        let daemon = Arc::new(Daemon::of(pid)?);
        self.daemons.lock().unwrap().push(daemon.clone());
        Some(daemon)
    }

    /// The last that all daemons of this place have logged.
    fn logs(&self) -> String {
        let mounts = crate::hermitfs::logs(&self.dir.path().join("state"));
        let here = fs::read_dir(self.dir.path()).into_iter().flatten();
        let served = here
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.with_extension("sock").exists())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .map(|path| crate::hermitfs::last_lines(&path));
        mounts + &served.collect::<String>()
    }

    fn alive(&self) -> Vec<Arc<Daemon>> {
        let all = self
            .daemons
            .lock()
            .map(|daemons| daemons.clone())
            .unwrap_or_default();
        all.into_iter().filter(|daemon| daemon.is_alive()).collect()
    }

    /// What was made here and is still there: mounts, loop devices, daemons.
    pub fn leftovers(&self) -> Vec<String> {
        let here = self.dir.path();
        let mut left: Vec<String> = mounts_below(here)
            .into_iter()
            .map(|path| format!("mount {}", path.display()))
            .collect();
        for entry in fs::read_dir("/sys/block").unwrap().flatten() {
            if let Ok(image) = fs::read_to_string(entry.path().join("loop/backing_file"))
                && image.starts_with(&*here.to_string_lossy())
            {
                left.push(format!(
                    "loop device {} of {}",
                    entry.file_name().display(),
                    image.trim_end()
                ));
            }
        }
        left.extend(
            self.alive()
                .iter()
                .map(|daemon| format!("daemon {}", daemon.pid())),
        );
        left
    }
}

/// Takes away the flag that keeps a directory from being changed and removed.
fn open_again(path: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let Ok(directory) = rustix::fs::open(path, flags, Mode::empty()) else {
        return;
    };
    if let Ok(flags) = rustix::fs::ioctl_getflags(&directory)
        && flags.contains(IFlags::IMMUTABLE)
    {
        let _ = rustix::fs::ioctl_setflags(&directory, flags - IFlags::IMMUTABLE);
    }
}

/// Mount points below a directory, the last mounted first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|escaped| PathBuf::from(escaped.replace("\\040", " ")))
        .filter(|point| point.starts_with(directory))
        .collect();
    points.reverse();
    points
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.alive().iter().for_each(|daemon| daemon.end());
        for point in mounts_below(self.dir.path()) {
            let _ = rustix::mount::unmount(&point, UnmountFlags::DETACH);
        }
        // A migration that a test has left keeps its mount point shut.
        for entry in fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            open_again(&entry.path());
        }
        // A detached loop device goes with its last user: a moment later, or when another test's mount
        // namespace goes, which had a copy of what was mounted.
        for _ in 0..400 {
            if self.leftovers().is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        if !std::thread::panicking() {
            panic!("left behind: {}", self.leftovers().join(", "));
        }
    }
}
