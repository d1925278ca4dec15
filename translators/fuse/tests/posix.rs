//! File operations through the mount, over a leaf in memory that has them all.
// A test that gets no thread has failed.
#![allow(clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use common::{Hook, Mounted, errno, hooked};
use hermitfs_api::Errno;
use hermitfs_testkit::Memory;
use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, XattrFlags};

fn mounted() -> Mounted {
    Mounted::new(Memory::new())
}

#[test]
fn files_are_what_was_written() {
    let m = mounted();
    for size in [0, 1, 4095, 4096, 4097, 131_072, 3_000_001] {
        let content: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
        fs::write(m.at("file"), &content).unwrap();
        assert!(fs::read(m.at("file")).unwrap() == content, "{size} bytes");
        assert_eq!(fs::metadata(m.at("file")).unwrap().len(), size as u64);
    }
}

#[test]
fn every_byte_may_be_in_a_name() {
    let m = mounted();
    for byte in (1..=255u8).filter(|byte| *byte != b'/') {
        let name = [b'n', byte];
        let path = m.at("").join(OsStr::from_bytes(&name));
        fs::write(&path, [byte]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [byte]);
    }
    assert_eq!(fs::read_dir(m.at("")).unwrap().count(), 254);
    let long = "l".repeat(255);
    fs::write(m.at(&long), "").unwrap();
    assert_eq!(
        errno(fs::write(m.at(&format!("{long}x")), "")),
        Errno::ENAMETOOLONG
    );
}

#[test]
fn long_directories_are_listed_once_each_also_while_they_shrink() {
    let m = mounted();
    let names: BTreeSet<String> = (0..3000).map(|n| format!("entry-number-{n}")).collect();
    for name in &names {
        fs::write(m.at(name), "").unwrap();
    }
    let list = || -> Vec<String> {
        let entries = fs::read_dir(m.at("")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    for _ in 0..2 {
        let listed = list();
        assert_eq!(listed.len(), 3000);
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
    }
    for entry in fs::read_dir(m.at("")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(list().len(), 0);
}

#[test]
fn the_kernel_forgets_what_is_gone() {
    let m = mounted();
    for n in 0..500 {
        fs::write(m.at(&format!("f{n}")), "").unwrap();
    }
    assert!(
        fs::read_dir(m.at(""))
            .unwrap()
            .all(|entry| entry.unwrap().metadata().is_ok())
    );
    assert_eq!(m.mount.statistics().nodes, 500);
    for n in 0..500 {
        fs::remove_file(m.at(&format!("f{n}"))).unwrap();
    }
    for _ in 0..500 {
        if m.mount.statistics().nodes == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let now = m.mount.statistics();
    assert_eq!(
        (now.nodes, now.files),
        (0, 0),
        "look-ups and forgets balance"
    );
}

#[test]
fn every_kind_of_object_can_be_made() {
    let m = mounted();
    symlink("a/target", m.at("link")).unwrap();
    assert_eq!(fs::read_link(m.at("link")).unwrap().as_os_str(), "a/target");
    fs::create_dir(m.at("dir")).unwrap();
    let device = rustix::fs::makedev(259, 70_000);
    for (name, kind, dev) in [
        ("fifo", rustix::fs::FileType::Fifo, 0),
        ("socket", rustix::fs::FileType::Socket, 0),
        ("char", rustix::fs::FileType::CharacterDevice, device),
        ("block", rustix::fs::FileType::BlockDevice, device),
        ("file", rustix::fs::FileType::RegularFile, 0),
    ] {
        rustix::fs::mknodat(CWD, m.at(name), kind, 0o640.into(), dev).unwrap();
        let meta = fs::symlink_metadata(m.at(name)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.rdev()), (0o640, dev), "{name}");
    }
    assert!(fs::metadata(m.at("fifo")).unwrap().file_type().is_fifo());
    assert!(
        fs::metadata(m.at("block"))
            .unwrap()
            .file_type()
            .is_block_device()
    );
    fs::remove_dir(m.at("dir")).unwrap();
}

#[test]
fn names_of_one_file_share_its_inode() {
    let m = mounted();
    fs::write(m.at("a"), "shared").unwrap();
    fs::hard_link(m.at("a"), m.at("b")).unwrap();
    let (a, b) = (
        fs::metadata(m.at("a")).unwrap(),
        fs::metadata(m.at("b")).unwrap(),
    );
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    fs::remove_file(m.at("a")).unwrap();
    assert_eq!(fs::metadata(m.at("b")).unwrap().nlink(), 1);
    assert_eq!(fs::read(m.at("b")).unwrap(), b"shared");
}

#[test]
fn renames_keep_their_flags() {
    let m = mounted();
    fs::write(m.at("a"), "A").unwrap();
    fs::write(m.at("b"), "B").unwrap();
    let rename = |flags| rustix::fs::renameat_with(CWD, m.at("a"), CWD, m.at("b"), flags);
    assert_eq!(
        rename(RenameFlags::NOREPLACE),
        Err(rustix::io::Errno::EXIST)
    );
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(m.at("a")).unwrap(), b"B");
    rename(RenameFlags::empty()).unwrap();
    assert_eq!(fs::read(m.at("b")).unwrap(), b"B");
    assert!(!m.at("a").exists());
}

#[test]
fn times_of_any_age_survive() {
    let m = mounted();
    fs::write(m.at("f"), "").unwrap();
    for (sec, nsec) in [
        (-2, 800_000_000),
        (-1, 1),
        (0, 0),
        (1 << 34, 999_999_999),
        (i64::MIN, 0),
    ] {
        let time = Timespec {
            tv_sec: sec,
            tv_nsec: nsec,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, m.at("f"), &times, AtFlags::empty()).unwrap();
        let meta = fs::metadata(m.at("f")).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (sec, nsec));
        assert_eq!((meta.atime(), meta.atime_nsec()), (sec, nsec));
    }
    assert_eq!(m.mount.panics(), 0);
    for _ in 0..50 {
        fs::write(m.at("g"), "no thread was lost").unwrap();
    }
}

#[test]
fn extended_attributes_fit_or_are_refused() {
    let m = mounted();
    let file = m.at("f");
    fs::write(&file, "").unwrap();
    rustix::fs::setxattr(&file, "user.one", b"value", XattrFlags::CREATE).unwrap();
    let again = rustix::fs::setxattr(&file, "user.one", b"x", XattrFlags::CREATE);
    assert_eq!(again, Err(rustix::io::Errno::EXIST));
    let mut small = [0u8; 2];
    let mut large = [0u8; 100];
    let short = rustix::fs::getxattr(&file, "user.one", &mut small);
    assert_eq!(short, Err(rustix::io::Errno::RANGE));
    assert_eq!(rustix::fs::getxattr(&file, "user.one", &mut large), Ok(5));
    let absent = rustix::fs::getxattr(&file, "user.two", &mut large);
    assert_eq!(absent, Err(rustix::io::Errno::NODATA));
    assert_eq!(rustix::fs::listxattr(&file, &mut large), Ok(9));
    assert_eq!(&large[..9], b"user.one\0");
    rustix::fs::removexattr(&file, "user.one").unwrap();
    assert_eq!(rustix::fs::listxattr(&file, &mut large), Ok(0));
}

/// Counts how often the volume is asked for an extended attribute.
struct Asked(Arc<AtomicUsize>);

#[async_trait]
impl Hook for Asked {
    async fn before(&self, operation: &'static str) -> hermitfs_api::Result<()> {
        if operation == "getxattr" {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

#[test]
fn a_volume_that_lends_nothing_is_asked_once_whether_a_file_has_capabilities() {
    let asked = Arc::new(AtomicUsize::new(0));
    let m = Mounted::new(hooked(Asked(asked.clone())));
    let times = || asked.swap(0, Ordering::SeqCst);
    // CAP_NET_RAW, permitted and effective: revision 2 of vfs_cap_data (capabilities(7)).
    let mut value = [0; 20];
    (value[0], value[3], value[5]) = (1, 2, 0x20);
    let (name, mut found) = ("security.capability", [0; 20]);
    let none = Err(rustix::io::Errno::NODATA);
    fs::write(m.at("old"), "shows that nothing is lent").unwrap();
    times();
    fs::write(m.at("new"), "made before our eyes").unwrap();
    let mut ask = |file: &str| {
        let got = rustix::fs::getxattr(m.at(file), name, &mut found);
        (got, found)
    };
    assert_eq!(ask("new").0, none);
    assert_eq!(times(), 0);
    rustix::fs::setxattr(m.at("new"), name, &value, XattrFlags::empty()).unwrap();
    assert_eq!(ask("new"), (Ok(20), value));
    times();
    assert_eq!((ask("old").0, ask("old").0), (none, none));
    assert_eq!(
        times(),
        1,
        "it may have got some since; then it is known again"
    );
}

#[test]
fn holes_can_be_punched_and_found() {
    let m = mounted();
    let file = fs::File::options();
    let file = { file }
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(m.at("f"))
        .unwrap();
    file.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, &[1; 65536], 1 << 30).unwrap();
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert_eq!(data, 1 << 30);
    let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).unwrap();
    assert_eq!(hole, (1 << 30) + 65536);
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 1 << 30, 65536).unwrap();
    let none = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0));
    assert_eq!(none, Err(rustix::io::Errno::NXIO));
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
}

#[test]
fn what_is_unlinked_lives_until_it_is_closed() {
    let m = mounted();
    let file = fs::File::options();
    let mut file = { file }
        .read(true)
        .write(true)
        .create_new(true)
        .open(m.at("f"))
        .unwrap();
    fs::remove_file(m.at("f")).unwrap();
    std::io::Write::write_all(&mut file, b"still").unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600))
        .unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(
        (meta.len(), meta.nlink(), meta.mode() & 0o777),
        (5, 0, 0o600)
    );
}

#[test]
fn an_exclusive_create_is_exclusive() {
    let m = mounted();
    let create = || {
        fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(m.at("f"))
    };
    create().unwrap();
    assert_eq!(errno(create()), Errno::EEXIST);
    assert_eq!(fs::metadata(m.at("f")).unwrap().mode() & 0o777, 0o640);
    // Without O_EXCL, by many at once: all of them get the one file.
    std::thread::scope(|scope| {
        for n in 0..8 {
            let path = m.at("shared");
            scope.spawn(move || {
                let options = fs::File::options();
                let file = { options }.append(true).create(true).open(path).unwrap();
                std::os::unix::fs::FileExt::write_at(&file, &[n], 0).unwrap();
            });
        }
    });
    assert_eq!(fs::metadata(m.at("shared")).unwrap().nlink(), 1);
}

#[test]
fn inode_flags_are_reached_by_ioctl() {
    let m = mounted();
    fs::write(m.at("f"), "").unwrap();
    let file = fs::File::open(m.at("f")).unwrap();
    let flags = rustix::fs::IFlags::NOATIME;
    rustix::fs::ioctl_setflags(&file, flags).unwrap();
    assert!(rustix::fs::ioctl_getflags(&file).unwrap().contains(flags));
    let dir = fs::File::open(m.at("")).unwrap();
    rustix::fs::ioctl_getflags(&dir).unwrap();
}

#[test]
fn space_is_told() {
    let m = mounted();
    let space = rustix::fs::statvfs(m.at("")).unwrap();
    assert!(space.f_namemax == 255 && space.f_bsize > 0);
    fs::File::open(m.at("")).unwrap().sync_all().unwrap();
}
