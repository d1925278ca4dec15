//! Loop devices with file systems on them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::UnmountFlags;

use crate::need::program_at;
use crate::shell::{run, run_command};

/// A file system that Debian can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ext3, with 256-byte inodes unless mkfs is told otherwise.
    Ext3,
    /// ext4
    Ext4,
    /// xfs
    Xfs,
    /// btrfs
    Btrfs,
}

impl Format {
    /// As mount(8) names it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Ext3 => "ext3",
            Format::Ext4 => "ext4",
            Format::Xfs => "xfs",
            Format::Btrfs => "btrfs",
        }
    }

    /// Makes such a file system on an image, with further options of its mkfs.
    pub fn make(self, image: &Path, options: &[&str]) {
        let always: &[&str] = match self {
            Format::Btrfs => &["-f", "-q"],
            Format::Xfs => &["-q"],
            // Small images get smaller blocks, in which a symbolic link of 4,000 bytes has no room.
            Format::Ext3 | Format::Ext4 => &["-q", "-b", "4096"],
        };
        run_command(
            Command::new(program_at("unshare"))
                .args(["--mount", "sh", "-c", WITHOUT_MOUNTS, "sh"])
                .arg(program_at(&format!("mkfs.{}", self.name())))
                .args(always)
                .args(options)
                .arg(image),
        );
    }
}

/// Runs a program that finds an empty mount table. mkfs.btrfs stats what each mount is a mount of,
/// and fails when that cannot be: when another test has just killed what it stands on.
const WITHOUT_MOUNTS: &str = r#"mount --bind /dev/null /proc/$$/mounts && exec "$@""#;

/// A mounted image; unmounted when dropped.
pub struct Disk {
    image: PathBuf,
    path: PathBuf,
    format: Format,
}

impl Disk {
    pub(crate) fn new(
        base: &Path,
        name: &str,
        format: Format,
        mib: u64,
        mkfs: &[&str],
        options: &str,
    ) -> Disk {
        let image = base.join(format!("{name}.img"));
        File::create(&image)
            .and_then(|file| file.set_len(mib << 20))
            .unwrap();
        Disk::over(&image, &base.join(name), format, mkfs, options)
    }

    /// A new file system on an image that is there already.
    pub(crate) fn over(
        image: &Path,
        path: &Path,
        format: Format,
        mkfs: &[&str],
        options: &str,
    ) -> Disk {
        std::fs::create_dir(path).unwrap();
        format.make(image, mkfs);
        let disk = Disk {
            image: image.to_owned(),
            path: path.to_owned(),
            format,
        };
        disk.mount(options);
        disk
    }

    /// Mounts the image again, after [`Disk::unmount`], with options of mount(8).
    pub fn mount(&self, options: &str) {
        let options = if options.is_empty() {
            "loop".to_owned()
        } else {
            format!("loop,{options}")
        };
        let (image, path) = (self.image.to_string_lossy(), self.path.to_string_lossy());
        run(
            "mount",
            &["-t", self.format.name(), "-o", &options, &image, &path],
        );
    }

    /// Changes options of the mount, such as `ro`.
    pub fn remount(&self, options: &str) {
        run(
            "mount",
            &[
                "-o",
                &format!("remount,{options}"),
                &self.path.to_string_lossy(),
            ],
        );
    }

    /// Remounts it read-only as soon as nobody has a file open for writing.
    pub fn turn_read_only(&self) {
        crate::wait::until(
            std::time::Duration::from_secs(20),
            "a moment without writers",
            || {
                let flags = rustix::mount::MountFlags::RDONLY;
                rustix::mount::mount_remount(&self.path, flags, c"").ok()
            },
        );
    }

    /// Unmounts it; the image stays.
    pub fn unmount(&self) {
        run("umount", &[&*self.path.to_string_lossy()]);
    }

    /// The same, until nothing of it is in the kernel any more: somebody else's mount namespace may have had a copy.
    pub fn unmount_for_all(&self) {
        assert!(is_attached(&self.image), "{}", self.image.display());
        self.unmount();
        let what = format!("the last user of {}", self.image.display());
        crate::wait::until(std::time::Duration::from_secs(60), &what, || {
            (!is_attached(&self.image)).then_some(())
        });
    }

    /// The same as soon as nobody uses it.
    pub fn unmount_when_free(&self) {
        let what = format!("an unmount of {}", self.path.display());
        crate::wait::until(std::time::Duration::from_secs(60), &what, || {
            rustix::mount::unmount(&self.path, UnmountFlags::empty()).ok()
        });
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// What is on it.
    pub fn format(&self) -> Format {
        self.format
    }

    /// A path on it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }
}

/// Whether a loop device has an image.
fn is_attached(image: &Path) -> bool {
    let devices = std::fs::read_dir("/sys/block").unwrap();
    let mut behind = devices
        .flatten()
        .filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    behind.any(|behind| Path::new(behind.trim_end()) == image)
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a failing test may have a daemon in here that the lab is about to end.
        while rustix::mount::unmount(&self.path, UnmountFlags::DETACH).is_ok() {}
        let _ = std::fs::remove_file(&self.image);
    }
}
