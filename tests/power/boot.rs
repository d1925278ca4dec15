//! Another boot, as far as programs can tell: in a mount namespace of our own, a file of ours stands
//! where the kernel tells the id of the boot.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use hermitfs_tests::need::program_at;
use tempfile::TempDir;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Set in the process that has a mount namespace of its own.
const INSIDE: &str = "HERMITFS_POWER_INSIDE";

/// The id of this boot, to be changed.
pub(crate) struct Boot {
    file: PathBuf,
    _dir: TempDir,
}

impl Boot {
    /// Starts this program again in a mount namespace of its own, unless it is in one already.
    /// All mounts that it makes go with the last process in there.
    pub(crate) fn begin() -> Boot {
        if std::env::var_os(INSIDE).is_none() {
            let error = Command::new(program_at("unshare"))
                .args(["--mount", "--propagation", "private", "--"])
                .arg(std::env::current_exe().unwrap())
                .args(std::env::args_os().skip(1))
                .env(INSIDE, "1")
                .exec();
            panic!("this program cannot be started again: {error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("boot_id");
        fs::write(&file, "").unwrap();
        let text = file.to_string_lossy();
        hermitfs_tests::shell::run("mount", &["--bind", &text, BOOT_ID]);
        let boot = Boot { file, _dir: dir };
        boot.new_boot();
        boot
    }

    /// From here on it is another boot.
    pub(crate) fn new_boot(&self) {
        let id = uuid();
        fs::write(&self.file, &id).unwrap();
        assert_eq!(fs::read_to_string(BOOT_ID).unwrap(), id);
    }
}

fn uuid() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    assert!(id.len() > 30, "no uuid: {id}");
    id
}
