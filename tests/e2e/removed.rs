//! What users remove gives its space back at once, also while it is being copied.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::wait::until;

const MIB: usize = 1 << 20;

/// Writes so much that it has room only where something else has gone.
fn write(path: &Path, mib: usize) {
    let mut file = File::create(path).unwrap();
    for _ in 0..mib {
        file.write_all(&[7; MIB])
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// What a process has open that has no name any more.
fn nameless(pid: i32) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let paths = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
    paths
        .map(|path| path.display().to_string())
        .filter(|path| path.ends_with(" (deleted)"))
        .collect()
}

#[test]
fn the_space_of_what_is_removed_or_replaced_while_it_is_copied_is_there_for_the_next_write() {
    let lab = Lab::new("removed");
    let mkfs = ["-m", "0", "-O", "^has_journal"];
    let old = lab.disk_with("old", Format::Ext4, 160, &mkfs, "");
    let new = lab.disk("new", Format::Ext4, 256);
    for name in ["removed", "replaced", "settled"] {
        write(&old.join(name), 40);
    }
    let mut ballast = File::create(old.join("ballast")).unwrap();
    while ballast.write_all(&[1; MIB]).is_ok() {}
    drop(ballast);

    let mut migration = lab.migration(old.path(), new.path());
    migration.try_start(&["--limit", "2MB/s"]).expect(0);
    let pid = migration.status().pid();
    for (n, name) in ["removed", "replaced"].into_iter().enumerate() {
        // Looked at, it comes next; both are copied at a time, where there are threads enough.
        let image = new.join(name);
        until(Duration::from_secs(30), "a part of it on the sink", || {
            fs::metadata(&image).ok().filter(|image| image.len() > 0)
        });
        let path = migration.join(name);
        match n {
            0 => fs::remove_file(&path).unwrap(),
            _ => {
                let other = migration.join("other");
                File::create(&other).unwrap();
                fs::rename(&other, &path).unwrap();
            }
        }
        write(&migration.join(format!("{name}-next")), 39);
        until(Duration::from_secs(5), "the daemon to let it go", || {
            nameless(pid).is_empty().then_some(())
        });
    }
    migration.command("throttle", &["off"]).expect(0);
    migration.wait_ready(Duration::from_secs(60));
    // The kernel tells that a file is forgotten only after it was removed, with nobody copying it as well.
    fs::remove_file(migration.join("settled")).unwrap();
    write(&migration.join("settled-next"), 39);
    migration.wait_ready(Duration::from_secs(60));
    migration.assert_bricks_equal();
}
