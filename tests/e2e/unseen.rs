//! What programs see of a mount without a request that would tell: access times of what the kernel answers by
//! itself, times of what a mapping changes, positions in directories, whiteouts under an overlay.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use hermitfs_tests::bricks;
use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::shell::{run, run_command};
use hermitfs_tests::sys::{Mapping, as_user};
use rustix::fs::{
    CWD, RawDir, RenameFlags, SeekFrom, Timespec, Timestamps, UTIME_OMIT, renameat_with,
};
use rustix::io::Errno;

const LONG: Duration = Duration::from_secs(120);
const DAYS: i64 = 3 * 24 * 3600;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs() as i64
}

/// Sets a time of what stands at a path, not of what it leads to; `None` leaves it.
fn set_times(path: &Path, atime: Option<i64>, mtime: Option<i64>) {
    let time = |seconds: Option<i64>| Timespec {
        tv_sec: seconds.unwrap_or(0),
        tv_nsec: if seconds.is_some() { 7 } else { UTIME_OMIT },
    };
    let times = Timestamps {
        last_access: time(atime),
        last_modification: time(mtime),
    };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn atime(path: &Path) -> i64 {
    fs::symlink_metadata(path).unwrap().atime()
}

/// Something that is read, and how.
type Reading = (&'static str, fn(&Path));

const READINGS: &[Reading] = &[
    ("file", |path| drop(fs::read(path).unwrap())),
    ("large", |path| drop(fs::read(path).unwrap())),
    ("directory", |path| {
        assert_eq!(fs::read_dir(path).unwrap().count(), 1);
    }),
    ("link", |path| {
        fs::metadata(path).unwrap();
    }),
    ("program", |path| drop(run_command(&mut Command::new(path)))),
];

fn things_to_read(place: &Path) {
    fs::write(place.join("file"), vec![1; 50_000]).unwrap();
    fs::write(place.join("large"), vec![1; 500_000]).unwrap();
    fs::create_dir(place.join("directory")).unwrap();
    fs::write(place.join("directory/name"), "").unwrap();
    std::os::unix::fs::symlink("file", place.join("link")).unwrap();
    fs::copy("/bin/true", place.join("program")).unwrap();
}

/// Reads everything again and again, as of the first time in three days.
fn assert_reading_is_seen(mount: &Path, brick: &Path) {
    for (name, read) in READINGS {
        let path = mount.join(name);
        for round in 0..3 {
            let old = now() - DAYS - round;
            set_times(&path, Some(old), None);
            assert_eq!(atime(&path), old, "{name}: set");
            read(&path);
            assert!(atime(&path) > old, "{name}, round {round}: the mount's");
            assert!(atime(&brick.join(name)) > old, "{name}: the brick's");
        }
    }
    // Not by who asked for that.
    let (path, old) = (mount.join("file"), now() - DAYS);
    set_times(&path, Some(old), None);
    let mut quiet = OpenOptions::new();
    quiet.read(true).custom_flags(libc::O_NOATIME);
    std::io::read_to_string(quiet.open(&path).unwrap()).ok();
    assert_eq!(atime(&path), old);
}

/// What a mapping that bypasses the door stores, while a reader has the file open, and afterwards.
fn assert_stores_are_seen(mount: &Path) {
    let path = mount.join("mapped");
    fs::write(&path, vec![0; 400_000]).unwrap();
    let mtime = || fs::metadata(&path).unwrap().modified().unwrap();
    let reader = File::open(&path).unwrap();
    let mut both = OpenOptions::new();
    let file = both.read(true).write(true).open(&path).unwrap();
    let mut mapping = Mapping::new(&file, 400_000, false).unwrap();
    let before = mtime();
    std::thread::sleep(Duration::from_millis(30));
    mapping.store(1000, b"new");
    assert!(mtime() > before, "after a store");
    // What is clean again faults at the next store, which moves the time once more.
    mapping.sync().unwrap();
    drop((file, reader));
    let (ctime, before) = (fs::metadata(&path).unwrap().ctime_nsec(), mtime());
    std::thread::sleep(Duration::from_millis(30));
    mapping.store(200_000, b"after it was closed");
    assert!(
        mtime() > before,
        "after a store through a mapping that outlives its descriptor"
    );
    assert_ne!(fs::metadata(&path).unwrap().ctime_nsec(), ctime);
    drop(mapping);
    // Quiet again: what is asked now is as it stays.
    let before = mtime();
    assert_eq!(mtime(), before);
}

/// A time that is set after a store stays, whenever the store comes to the brick.
fn assert_a_time_that_is_set_stays(mount: &Path, brick: &Path) {
    let path = mount.join("dated");
    fs::write(&path, vec![0; 8192]).unwrap();
    let mut both = OpenOptions::new();
    let file = both.read(true).write(true).open(&path).unwrap();
    let mut mapping = Mapping::new(&file, 8192, false).unwrap();
    mapping.store(10, b"stored");
    set_times(&path, None, Some(1_000_000));
    drop(mapping);
    drop(file);
    assert_eq!(fs::metadata(&path).unwrap().mtime(), 1_000_000);
    assert_eq!(
        fs::metadata(brick.join("dated")).unwrap().mtime(),
        1_000_000
    );
    assert_eq!(&fs::read(&path).unwrap()[10..16], b"stored");
}

/// Names, each with the position behind it.
fn listing(dir: &File) -> Vec<(Vec<u8>, u64)> {
    let mut buffer = Vec::with_capacity(8192);
    let mut raw = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry.unwrap();
        names.push((
            entry.file_name().to_bytes().to_vec(),
            entry.next_entry_cookie(),
        ));
    }
    names
}

/// The name at a position; `None` at the end.
fn name_at(dir: &File, at: u64) -> Option<Vec<u8>> {
    rustix::fs::seek(dir, SeekFrom::Start(at)).unwrap();
    listing(dir).into_iter().next().map(|(name, _)| name)
}

fn assert_positions_lead_back(dir: &Path, names: &[(Vec<u8>, u64)]) {
    let dir = File::open(dir).unwrap();
    for (index, (name, behind)) in names.iter().enumerate().step_by(97) {
        let next = names.get(index + 1).map(|(name, _)| name.clone());
        let name = String::from_utf8_lossy(name);
        assert_eq!(
            name_at(&dir, *behind),
            next,
            "behind {name}, at {behind:#x}"
        );
    }
    let end = names.last().unwrap().1;
    assert_eq!(name_at(&dir, end), None, "the end, at {end:#x}");
}

#[test]
fn what_the_kernel_answers_by_itself_has_the_times_and_positions_of_the_brick() {
    let lab = Lab::new("unseen-times");
    let disk = lab.disk("disk", Format::Ext4, 256);
    things_to_read(disk.path());
    let (small, large) = (disk.join("few"), disk.join("many"));
    for (dir, count) in [(&small, 30), (&large, 3000)] {
        fs::create_dir(dir).unwrap();
        (0..count).for_each(|n| fs::write(dir.join(format!("name {n}")), "").unwrap());
    }
    let mut mount = lab.plain_mount(disk.path());
    assert_reading_is_seen(mount.path(), disk.path());
    assert_stores_are_seen(mount.path());
    assert_a_time_that_is_set_stays(mount.path(), disk.path());

    let mut read = Vec::new();
    for (dir, count) in [("few", 30), ("many", 3000)] {
        let path = mount.join(dir);
        let names = listing(&File::open(&path).unwrap());
        assert_eq!(names.len(), count + 2);
        // Two names that are alike in what fits are one pair in two thousand million.
        let wide = names.iter().filter(|(_, at)| *at > i32::MAX as u64).count();
        assert!(
            wide < 3,
            "{wide} of {count} positions have no room in 32 bits"
        );
        assert_positions_lead_back(&path, &names);
        read.push((dir, names));
    }
    mount.kill();
    mount.start();
    for (dir, names) in read {
        assert_positions_lead_back(&mount.join(dir), &names);
    }
}

#[test]
fn reading_is_seen_over_the_wire_and_not_where_the_brick_has_no_access_times() {
    let lab = Lab::new("unseen-wire");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    things_to_read(old.path());
    let mut migration = lab.migration(old.path(), new.path());
    let set = [
        format!("old={}", old.path().display()),
        format!("new={}", new.path().display()),
        format!("socket={}", lab.path().join("bricks.sock").display()),
    ];
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    migration.use_volfile(&bricks::loopback(), &set);
    migration.start();
    assert_reading_is_seen(migration.mount(), old.path());

    let disk = lab.disk_with("disk", Format::Ext4, 128, &[], "nodiratime");
    things_to_read(disk.path());
    let mount = lab.plain_mount(disk.path());
    let (dir, before) = (mount.join("directory"), now() - DAYS);
    set_times(&dir, Some(before), None);
    for _ in 0..4 {
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert_eq!(atime(&dir), before, "nodiratime");
    }
}

/// A whiteout, and who owns it.
fn assert_whiteout(path: &Path, owner: u32) {
    let found = fs::symlink_metadata(path).unwrap();
    assert!(found.file_type().is_char_device(), "{}", path.display());
    assert_eq!(
        (found.rdev(), found.uid(), found.mode() & 0o7777),
        (0, owner, 0)
    );
}

#[test]
fn overlays_of_containers_stand_in_a_mount_and_all_of_them_is_carried_over() {
    let lab = Lab::new("unseen-overlay");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Btrfs, 256),
    );
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let dir = |name: &str| {
        let path = migration.join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(dir);
    fs::create_dir(lower.join("sub")).unwrap();
    for name in ["gone", "moved", "changed", "sub/below"] {
        fs::write(lower.join(name), name).unwrap();
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (l, u, w) = (text(&lower), text(&upper), text(&work));
    let options = format!("lowerdir={l},upperdir={u},workdir={w}");
    run(
        "mount",
        &["-t", "overlay", "container", "-o", &options, &text(&merged)],
    );
    fs::remove_file(merged.join("gone")).unwrap();
    fs::rename(merged.join("moved"), merged.join("elsewhere")).unwrap();
    fs::write(merged.join("changed"), "otherwise").unwrap();
    fs::remove_dir_all(merged.join("sub")).unwrap();
    fs::create_dir(merged.join("sub")).unwrap();
    assert_eq!(
        fs::read_to_string(merged.join("elsewhere")).unwrap(),
        "moved"
    );
    assert_eq!(fs::read_dir(&merged).unwrap().count(), 3);
    run("umount", &[&merged]);
    assert_whiteout(&upper.join("gone"), 0);
    assert_whiteout(&upper.join("moved"), 0);

    // By a user, over another file, with and without leave to replace it.
    let own = dir("own");
    fs::write(own.join("a"), "a").unwrap();
    fs::write(own.join("b"), "b").unwrap();
    std::os::unix::fs::chown(&own, Some(1234), Some(1234)).unwrap();
    let (from, to) = (own.join("a"), own.join("b"));
    let rename = |flags| as_user(1234, || renameat_with(CWD, &from, CWD, &to, flags));
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let whiteout = RenameFlags::WHITEOUT;
    assert_eq!(rename(whiteout | RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(rename(whiteout | RenameFlags::EXCHANGE), Err(Errno::INVAL));
    assert_eq!(rename(whiteout), Ok(()));
    assert_whiteout(&own.join("a"), 1234);
    assert_eq!(fs::read_to_string(own.join("b")).unwrap(), "a");

    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
    run(
        "mount",
        &["-t", "overlay", "container", "-o", &options, &text(&merged)],
    );
    assert_eq!(fs::read_dir(&merged).unwrap().count(), 3);
    run("umount", &[&merged]);
}
