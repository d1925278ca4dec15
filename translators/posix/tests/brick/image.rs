use std::path::{Path, PathBuf};
use std::process::Command;

/// File systems that tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext3,
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Ext3, Kind::Ext4, Kind::Xfs, Kind::Btrfs];

    fn mkfs(self) -> (&'static str, &'static str) {
        match self {
            Kind::Ext3 => ("mkfs.ext3", "e2fsprogs"),
            Kind::Ext4 => ("mkfs.ext4", "e2fsprogs"),
            Kind::Xfs => ("mkfs.xfs", "xfsprogs"),
            Kind::Btrfs => ("mkfs.btrfs", "btrfs-progs"),
        }
    }
}

/// A file system in a file, mounted until it is dropped.
pub(crate) struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    pub(crate) fn new(kind: Kind) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        std::fs::File::create(&file)
            .unwrap()
            .set_len(400 << 20)
            .unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let (mkfs, package) = kind.mkfs();
        // On a disk this small ext would choose blocks of 1 KiB, and limits to match.
        let blocks: &[&str] = match kind {
            Kind::Ext3 | Kind::Ext4 => &["-b", "4096"],
            Kind::Xfs | Kind::Btrfs => &[],
        };
        let mut arguments: Vec<&std::ffi::OsStr> = vec!["-q".as_ref()];
        arguments.extend(blocks.iter().map(|word| std::ffi::OsStr::new(*word)));
        arguments.push(file.as_ref());
        run(mkfs, &arguments, package);
        let image = Image { dir };
        run(
            "mount",
            &[
                "-o".as_ref(),
                "loop".as_ref(),
                file.as_ref(),
                image.path().as_ref(),
            ],
            "mount",
        );
        image
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        umount(&self.path());
    }
}

/// Unmounts when it is dropped.
pub(crate) struct Umount(pub(crate) PathBuf);

impl Drop for Umount {
    fn drop(&mut self) {
        umount(&self.0);
    }
}

/// Lazily: a test that failed may still have something open.
fn umount(at: &Path) {
    let _ = Command::new("umount").arg("-l").arg(at).status();
}

pub(crate) fn run(program: &str, arguments: &[&std::ffi::OsStr], package: &str) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} is needed for this test (Debian's package {package}): {error}")
        });
    assert!(
        output.status.success(),
        "{program} failed; these tests need root and loop devices: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
