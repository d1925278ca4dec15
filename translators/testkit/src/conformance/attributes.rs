use hermitfs_api::*;

use super::hands::{Hands, refused};

/// `FS_NODUMP_FL`, `FS_IMMUTABLE_FL`
const NODUMP: u32 = 0x40;
const IMMUTABLE: u32 = 0x10;

/// A time as this volume can hold it.
fn held(h: &Hands, time: Time) -> Time {
    Time::new(time.sec, time.nsec - time.nsec % h.can.time_granularity)
}

checks! {
    fn all_mode_bits_are_kept(h) {
        let (file, dir) = (h.file("a").inode, h.dir("d"));
        for mode in (0..=0o7777).step_by(0o111).chain([0o7777, 0o4000, 0o2000, 0o1000]) {
            assert_eq!(h.chmod(&file, mode).unwrap().mode, mode);
            assert_eq!(h.chmod(&dir, mode).unwrap().mode, mode);
        }
        assert_eq!(h.getattr(&file).mode, 0o1000);
        refused(h.chmod(&h.symlink("link", b"x").unwrap().inode, 0o600), Errno::EOPNOTSUPP);
    }

    fn owners_are_kept_up_to_the_largest(h) {
        if h.can.owners {
            let link = h.symlink("link", b"x").unwrap().inode;
            for inode in [h.file("a").inode, h.dir("d"), link] {
                for (uid, gid) in [(1, 2), (70_000, 80_000), (u32::MAX - 1, u32::MAX - 1)] {
                    let set = SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
                    let attr = h.setattr(&inode, set).unwrap();
                    assert_eq!((attr.uid, attr.gid), (uid, gid));
                }
                let set = SetAttr { gid: Some(5), ..SetAttr::default() };
                let attr = h.setattr(&inode, set).unwrap();
                assert_eq!((attr.uid, attr.gid), (u32::MAX - 1, 5), "the other stays");
            }
        }
    }

    fn a_mode_set_together_with_an_owner_is_the_mode_afterwards(h) {
        if h.can.owners {
            let file = h.file("a").inode;
            let time = held(h, Time::new(12345, 678_901_234));
            let set = SetAttr {
                mode: Some(0o6755),
                uid: Some(42),
                gid: Some(43),
                size: Some(10),
                atime: Some(SetTime::At(time)),
                mtime: Some(SetTime::At(time)),
            };
            let attr = h.setattr(&file, set).unwrap();
            assert_eq!((attr.mode, attr.uid, attr.gid, attr.size), (0o6755, 42, 43, 10));
            assert_eq!((attr.atime, attr.mtime), (time, time));
            let chown = SetAttr { uid: Some(44), ..SetAttr::default() };
            assert_eq!(h.setattr(&file, chown).unwrap().mode, 0o755, "a new owner alone takes set-id bits");
        }
    }

    fn times_are_kept_to_the_nanosecond_from_the_first_to_the_last(h) {
        let link = h.symlink("link", b"x").unwrap().inode;
        for inode in [h.file("a").inode, h.dir("d"), link] {
            let (first, last) = h.can.times;
            let times = [(first, 0), (last, 0), (-1, 999_999_999), (0, 0), (1, 1), (1_700_000_000, 123_456_789)];
            for (sec, nsec) in times.into_iter().filter(|(sec, _)| (first..=last).contains(sec)) {
                let time = held(h, Time::new(sec, nsec));
                let other = held(h, Time::new(1_000_000, 987_654_321));
                let set = SetAttr {
                    atime: Some(SetTime::At(other)),
                    mtime: Some(SetTime::At(time)),
                    ..SetAttr::default()
                };
                h.setattr(&inode, set).unwrap();
                let attr = h.getattr(&inode);
                assert_eq!((attr.atime, attr.mtime), (other, time));
            }
        }
    }

    fn one_time_is_set_and_the_other_stays(h) {
        let file = h.file("a").inode;
        let (one, two) = (Time::new(1000, 0), Time::new(2000, 0));
        h.setattr(&file, SetAttr { atime: Some(SetTime::At(one)), ..SetAttr::default() }).unwrap();
        h.setattr(&file, SetAttr { mtime: Some(SetTime::At(two)), ..SetAttr::default() }).unwrap();
        let attr = h.getattr(&file);
        assert_eq!((attr.atime, attr.mtime), (one, two));
        let now = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
        let attr = h.setattr(&file, now).unwrap();
        assert!(attr.atime == one && attr.mtime.sec > 1_000_000_000, "{attr:?}");
    }

    fn every_change_of_the_inode_moves_its_ctime(h) {
        let file = h.file("a").inode;
        let mut before = h.getattr(&file).ctime;
        let mut moved = |what: &str| {
            // The clock of a kernel ticks every few milliseconds.
            let after = h.getattr(&file).ctime;
            assert!(after > before, "{what} moves the ctime");
            before = after;
            std::thread::sleep(std::time::Duration::from_millis(12));
        };
        std::thread::sleep(std::time::Duration::from_millis(12));
        h.chmod(&file, 0o600).unwrap();
        moved("chmod");
        h.link(&file, &h.root, "b").unwrap();
        moved("link");
        h.unlink(&h.root, "b").unwrap();
        moved("unlink");
        if h.can.xattrs {
            h.setxattr(&file, "user.x", b"y").unwrap();
            moved("setxattr");
        }
        h.truncate(&file, 5).unwrap();
        moved("truncate");
        h.rename((&h.root, "a"), (&h.root, "c"), RenameFlags::Replace).unwrap();
        moved("rename");
    }

    fn set_id_bits_fall_when_others_than_root_write(h) {
        if h.can.owners {
            for (n, truncate) in [("write", false), ("truncate", true)] {
                let inode = h.with_content(n, b"content").inode().clone();
                h.chmod(&inode, 0o6777).unwrap();
                let file = h.open(&inode, OpenFlags::WRITE).unwrap();
                h.write(&file, 0, b"root").unwrap();
                assert_eq!(h.getattr(&inode).mode, 0o6777, "root's writes leave them");
                let user = h.as_user(1234, 1234);
                if truncate {
                    user.truncate(&inode, 1).unwrap();
                } else {
                    let file = user.open(&inode, OpenFlags::WRITE).unwrap();
                    user.write(&file, 0, b"user").unwrap();
                }
                assert_eq!(h.getattr(&inode).mode, 0o777, "{n}");
            }
            let inode = h.file("mandatory").inode;
            h.chmod(&inode, 0o2666).unwrap();
            let user = h.as_user(1234, 1234);
            let file = user.open(&inode, OpenFlags::WRITE).unwrap();
            user.write(&file, 0, b"x").unwrap();
            let mode = h.getattr(&inode).mode;
            assert!([0o2666, 0o666].contains(&mode), "{mode:o}");
        }
    }

    fn attributes_through_an_open_file_are_the_files(h) {
        let file = h.with_content("a", b"content");
        let through = block_on(h.volume.getattr(&h.cx, file.inode(), Some(&file))).unwrap();
        assert_eq!(through, h.getattr(file.inode()));
        let set = SetAttr { size: Some(3), ..SetAttr::default() };
        block_on(h.volume.setattr(&h.cx, file.inode(), Some(&file), &set)).unwrap();
        assert_eq!(h.content(file.inode()), b"con");
    }

    fn inode_flags_are_kept_and_an_immutable_file_is_left_alone(h) {
        let file = h.with_content("a", b"content");
        let inode = file.inode().clone();
        h.release(&file);
        if !h.can.flags {
            let errno = h.get_flags(&inode).unwrap_err();
            return assert!([Errno::ENOTTY, Errno::EOPNOTSUPP].contains(&errno), "{errno}");
        }
        let before = h.get_flags(&inode).unwrap();
        h.set_flags(&inode, before | NODUMP).unwrap();
        assert_eq!(h.get_flags(&inode).unwrap(), before | NODUMP);
        // Extended flags say the same, and set it.
        let fsx = h.get_fsx(&inode).unwrap();
        assert_eq!((fsx.flags, Fsx::twins_of(fsx.flags)), (before | NODUMP, fsx.xflags & Fsx::TWINNED));
        let without = Fsx { xflags: fsx.xflags & !Fsx::twins_of(NODUMP), ..fsx };
        h.set_fsx(&inode, &without).unwrap();
        assert_eq!(h.get_flags(&inode).unwrap(), before & !NODUMP);
        h.set_flags(&inode, before | IMMUTABLE).unwrap();
        let answers = (
            h.open(&inode, OpenFlags::WRITE).map(drop),
            h.unlink(&h.root, "a"),
            h.chmod(&inode, 0o600).map(drop),
            h.rename((&h.root, "a"), (&h.root, "b"), RenameFlags::Replace),
        );
        h.set_flags(&inode, before).unwrap();
        let refused = Err(Errno::EPERM);
        assert_eq!(answers, (refused, refused, refused, refused));
        h.unlink(&h.root, "a").unwrap();
    }

    fn statfs_tells_of_a_file_system(h) {
        let stat = h.statfs();
        assert!(stat.namelen == 255 && stat.frsize >= 512 && stat.bsize >= 512, "{stat:?}");
        assert!(stat.blocks >= stat.bfree && stat.bfree >= stat.bavail, "{stat:?}");
    }

    fn a_source_is_changed_by_users_alone(h) {
        let file = h.with_content("a", b"content");
        h.role(Role::Source).unwrap();
        h.write(&file, 0, b"user's").unwrap();
        let healer = h.of(Origin::Heal);
        refused(healer.create(&h.root, "b"), Errno::EROFS);
        refused(healer.mkdir(&h.root, "b"), Errno::EROFS);
        refused(healer.unlink(&h.root, "a"), Errno::EROFS);
        refused(healer.chmod(file.inode(), 0o600), Errno::EROFS);
        refused(healer.open(file.inode(), OpenFlags::WRITE), Errno::EROFS);
        refused(healer.setxattr(file.inode(), "user.x", b"y"), Errno::EROFS);
        refused(healer.rename((&h.root, "a"), (&h.root, "b"), RenameFlags::Replace), Errno::EROFS);
        assert_eq!(healer.content(file.inode()), b"user'st");
        assert_eq!(healer.lookup(&h.root, "a").unwrap().attr.size, 7);
        h.unlink(&h.root, "a").unwrap();
    }
}
