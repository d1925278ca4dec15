//! Modes and access control lists that are changed without a pause over a cut-over: they share bits, and are two calls.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hermitfs_tests::crew::soak;
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::tree::Tree;
use rand::Rng;
use rustix::fs::{XattrFlags, removexattr, setxattr};
use rustix::io::Errno;

const LONG: Duration = Duration::from_secs(120);
const ACL: &str = "system.posix_acl_access";

/// An access control list as setxattr(2) takes it, for one more user.
fn acl(random: &mut impl Rng) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, id) in [
        (1_u16, NOBODY),
        (2, 1234),
        (4, NOBODY),
        (0x10, NOBODY),
        (0x20, NOBODY),
    ] {
        let permissions: u16 = random.random_range(0..8);
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

/// Changes files at random until they are others by their path. What was changed last may have been the new brick's.
fn change(mount: &Path, names: &[PathBuf], device: u64, ended: &AtomicBool) -> PathBuf {
    let mut random = rand::rng();
    loop {
        let name = &names[random.random_range(0..names.len())];
        let path = mount.join(name);
        match random.random_range(0..5) {
            0 => setxattr(&path, ACL, &acl(&mut random), XattrFlags::empty()).unwrap(),
            1 => match removexattr(&path, ACL) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(error) => panic!("{}: {error}", path.display()),
            },
            _ => {
                let modes = [0o755, 0o640, 0o600, 0o4755, 0o2750, 0o1777, 0];
                let mode = modes[random.random_range(0..modes.len())];
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            }
        }
        let is_new = fs::metadata(&path).unwrap().dev() != device;
        if is_new || ended.load(Ordering::SeqCst) {
            return name.clone();
        }
    }
}

#[test]
fn modes_and_lists_that_are_changed_over_a_cut_over_are_the_same_on_both_bricks() {
    let lab = Lab::new("permissions");
    let disks = [
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Xfs, 320),
    ];
    for round in 0..2 * soak() {
        let mut disks = disks.each_ref();
        disks.rotate_left(round as usize % 2);
        let [from, to] = disks.map(|disk| disk.join(format!("round-{round}")));
        let names: Vec<PathBuf> = (0..60).map(|n| format!("{}/{n}", n % 6).into()).collect();
        for name in &names {
            fs::create_dir_all(from.join(name).parent().unwrap()).unwrap();
            fs::write(from.join(name), "x").unwrap();
        }
        fs::create_dir(&to).unwrap();
        let mut migration = lab.migration(&from, &to);
        migration.start();
        let mount = migration.mount();
        let device = fs::metadata(mount).unwrap().dev();
        let ended = AtomicBool::new(false);
        let late: HashSet<PathBuf> = std::thread::scope(|scope| {
            let (names, ended) = (&names, &ended);
            let workers: Vec<_> = (0..6)
                .map(|_| scope.spawn(move || change(mount, names, device, ended)))
                .collect();
            std::thread::sleep(Duration::from_millis(300));
            let done = migration.command("cutover", &["--timeout", "60s"]);
            ended.store(true, Ordering::SeqCst);
            done.expect(exit::OK);
            workers.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let mut found = Tree::of(&from).differences(&Tree::of(&to));
        found.retain(|one| one.what != "mtime" && !late.contains(&one.path));
        assert!(found.is_empty(), "{found:?}");
        migration.daemon().wait_end(LONG);
        hermitfs_tests::shell::run("umount", &[migration.mount()]);
        for brick in [from, to] {
            fs::remove_dir_all(brick).unwrap();
        }
    }
}
