//! Processes that are where they should not be.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::lab::Lab;
use crate::wait::until;

/// A process that is in somebody's way; ended when dropped.
pub struct Guest(Child);

impl Guest {
    /// Starts it.
    pub fn new(command: &mut Command) -> Guest {
        Guest(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    /// What sleeps, for as long as any test takes.
    pub fn sleeping() -> Command {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
    }

    /// Its number.
    pub fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process in a mount namespace of its own, of all disks of tests with this one alone.
/// Only where no other test is: a copy of its mounts would keep them busy for a moment.
pub fn in_a_namespace(lab: &Lab, propagation: &str, disk: &Path) -> Guest {
    let there = lab.path().join(format!("there-{propagation}"));
    let script = format!(
        "set -e; for point in $(cut -d' ' -f5 /proc/self/mountinfo); do \
         case $point in {}) ;; /tmp/*) umount -l $point || true ;; esac; done; \
         touch {}; exec sleep 1000",
        disk.display(),
        there.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", propagation, "sh", "-c", &script]);
    let guest = Guest::new(&mut command);
    until(Duration::from_secs(60), "a namespace", || {
        there.exists().then_some(())
    });
    guest
}
