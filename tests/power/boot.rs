//! Another boot, as far as programs can tell: in a mount namespace of our own, a file of ours stands
//! where the kernel tells the id of the boot.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use hermitfs_tests::need::program_at;
use tempfile::TempDir;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Set to the number of the process that has a mount namespace of its own.
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
        let me = std::process::id().to_string();
        if std::env::var(INSIDE).ok() != Some(me.clone()) {
            let error = Command::new(program_at("unshare"))
                .args(["--mount", "--propagation", "private", "--"])
                .arg(std::env::current_exe().unwrap())
                .args(std::env::args_os().skip(1))
                .env(INSIDE, me)
                .exec();
            panic!("this program cannot be started again: {error}");
        }
        let_go_of_others();
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

/// The namespace began with all mounts that there were, also those that other tests have made and
/// are about to take away: here they would stay.
fn let_go_of_others() {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    for point in points.collect::<Vec<_>>().into_iter().rev() {
        let below = PathBuf::from(point.replace("\\040", " "));
        let theirs = [std::env::temp_dir(), PathBuf::from("/run/hermitfs")];
        if theirs
            .iter()
            .any(|dir| below.starts_with(dir) && below != *dir)
        {
            // It may go at the same moment by itself.
            let _ = rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn uuid() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    assert!(id.len() > 30, "no uuid: {id}");
    id
}
