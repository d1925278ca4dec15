use std::fs;

use hermitfs_api::{Kind, Make, SetAttr, SetTime, Time, XattrFlags};

use super::*;

/// One of each kind.
fn objects(brick: &Brick) -> Vec<Arc<Inode>> {
    let top = brick.top();
    let mut all = vec![
        now(brick.mkdir(&root(), &top, name("dir"), 0o755, 0)).unwrap(),
        now(brick.symlink(&root(), &top, name("symlink"), b"nowhere")).unwrap(),
    ];
    let kinds = [
        Kind::File,
        Kind::Fifo,
        Kind::Socket,
        Kind::CharDevice,
        Kind::BlockDevice,
    ];
    for kind in kinds {
        let rdev = if kind.is_device() {
            libc::makedev(1, 3)
        } else {
            0
        };
        let make = Make {
            kind,
            mode: 0o640,
            umask: 0o022,
            rdev,
        };
        let entry = now(brick.mknod(&root(), &top, name(&format!("{kind:?}")), &make)).unwrap();
        assert_eq!(
            (entry.attr.kind, entry.attr.mode, entry.attr.rdev),
            (kind, 0o640, rdev)
        );
        all.push(entry);
    }
    all.into_iter().map(|entry| entry.inode).collect()
}

#[test]
fn every_kind_takes_owner_mode_times_and_xattrs() {
    everywhere(|brick, fs| {
        for inode in objects(brick) {
            let set = SetAttr {
                mode: (inode.kind() != Kind::Symlink).then_some(0o4751),
                uid: Some(70_000),
                gid: Some(80_000),
                atime: Some(SetTime::At(Time::new(1_000_000_000, 999_999_999))),
                mtime: Some(SetTime::At(Time::new(-100, 1))),
                ..SetAttr::default()
            };
            let attr = now(brick.setattr(&root(), &inode, None, &set)).unwrap();
            assert_eq!((attr.uid, attr.gid), (70_000, 80_000), "{inode:?}");
            assert_eq!(attr.atime, Time::new(1_000_000_000, 999_999_999));
            assert_eq!(attr.mtime, Time::new(-100, 1));
            if let Some(mode) = set.mode {
                assert_eq!(attr.mode, mode, "the mode goes on after the owner");
            }
            assert_eq!(now(brick.getattr(&root(), &inode, None)).unwrap(), attr);

            let ns: &[u8] = b"trusted.name";
            let set = |value: &[u8], flags| now(brick.setxattr(&root(), &inode, ns, value, flags));
            assert_eq!(errno(set(b"1", XattrFlags::Replace)), Errno::ENODATA);
            set(b"1", XattrFlags::Create).unwrap();
            assert_eq!(errno(set(b"1", XattrFlags::Create)), Errno::EEXIST);
            let long = vec![0xff; if fs == image::Kind::Xfs { 60_000 } else { 700 }];
            set(&long, XattrFlags::Any).unwrap();
            assert_eq!(now(brick.getxattr(&root(), &inode, ns)).unwrap(), long);
            let list = now(brick.listxattr(&root(), &inode)).unwrap();
            assert!(list.split(|&b| b == 0).any(|name| name == ns), "{inode:?}");
            now(brick.removexattr(&root(), &inode, ns)).unwrap();
            assert_eq!(
                errno(now(brick.getxattr(&root(), &inode, ns))),
                Errno::ENODATA
            );
            let native = rustix::fs::llistxattr(brick.dir.join("symlink"), &mut [0; 100][..]);
            assert_eq!(native, Ok(0), "a link's target is not touched");
        }
    });
}

#[test]
fn times_stay_or_are_now() {
    let (_dir, brick) = on_tmp();
    fs::write(brick.dir.join("f"), "x").unwrap();
    let f = brick.find("f");
    let old = SetTime::At(Time::new(5, 6));
    let set = |atime, mtime| {
        let set = SetAttr {
            atime,
            mtime,
            ..SetAttr::default()
        };
        now(brick.setattr(&root(), &f, None, &set)).unwrap()
    };
    set(Some(old), Some(old));
    let attr = set(None, Some(SetTime::Now));
    assert_eq!(attr.atime, Time::new(5, 6));
    assert!(attr.mtime.sec > 1_600_000_000);
    assert!(attr.btime.is_none_or(|born| born.sec > 1_600_000_000));
}

#[test]
fn a_size_is_set_on_files_alone() {
    let (_dir, brick) = on_tmp();
    fs::write(brick.dir.join("f"), "0123456789").unwrap();
    let set = SetAttr {
        size: Some(4),
        ..SetAttr::default()
    };
    assert_eq!(
        now(brick.setattr(&root(), &brick.find("f"), None, &set))
            .unwrap()
            .size,
        4
    );
    assert_eq!(
        errno(now(brick.setattr(&root(), &brick.top(), None, &set))),
        Errno::EISDIR
    );
    let mode = SetAttr {
        mode: Some(0o700),
        ..SetAttr::default()
    };
    let link = now(brick.symlink(&root(), &brick.top(), name("s"), b"f"))
        .unwrap()
        .inode;
    assert_eq!(
        errno(now(brick.setattr(&root(), &link, None, &mode))),
        Errno::EOPNOTSUPP
    );
}

#[test]
fn inode_flags_are_read_and_set() {
    const FS_NODUMP_FL: u32 = 0x40;
    everywhere(|brick, _| {
        fs::write(brick.dir.join("f"), "x").unwrap();
        let (f, top) = (brick.find("f"), brick.top());
        for inode in [&f, &top] {
            let before = now(brick.get_flags(&root(), inode)).unwrap();
            assert_eq!(before & FS_NODUMP_FL, 0);
            now(brick.set_flags(&root(), inode, before | FS_NODUMP_FL)).unwrap();
            assert_eq!(
                now(brick.get_flags(&root(), inode)).unwrap(),
                before | FS_NODUMP_FL
            );
        }
        let link = now(brick.symlink(&root(), &top, name("s"), b"f"))
            .unwrap()
            .inode;
        assert_eq!(
            errno(now(brick.get_flags(&root(), &link))),
            Errno::EOPNOTSUPP
        );
    });
}

#[test]
fn space_is_told() {
    let (dir, brick) = on_tmp();
    let told = now(brick.statfs(&root(), &brick.top())).unwrap();
    let native = rustix::fs::statvfs(dir.path()).unwrap();
    assert_eq!((told.blocks, told.files), (native.f_blocks, native.f_files));
    assert_eq!(
        (u64::from(told.frsize), told.namelen),
        (native.f_frsize, 255)
    );
}

#[test]
fn a_long_symbolic_link_comes_whole() {
    let image = image::Image::new(image::Kind::Xfs);
    let brick = Brick::at(&image.path());
    let target = [b'x'; 1_000];
    let link = now(brick.symlink(&root(), &brick.top(), name("s"), &target))
        .unwrap()
        .inode;
    assert_eq!(now(brick.readlink(&root(), &link)).unwrap(), target);
}
