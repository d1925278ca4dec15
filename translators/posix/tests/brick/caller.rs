use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::{Child, Command};

use hermitfs_api::{Allocate, Kind, Make, OpenFlags, SetAttr};

use super::*;

/// A process of a user with supplementary groups, to be asked about.
struct Process(Child);

impl Process {
    fn of(uid: u32, gid: u32, groups: &str) -> (Process, Context) {
        let child = Command::new("setpriv")
            .args(["--reuid", &uid.to_string(), "--regid", &gid.to_string()])
            .args(["--groups", groups, "sleep", "600"])
            .spawn()
            .expect("setpriv is needed for this test (Debian's package util-linux)");
        let cx = Context {
            uid,
            gid,
            pid: child.id(),
            ..Context::default()
        };
        let status = format!("/proc/{}/status", child.id());
        // It starts as root.
        while !fs::read_to_string(&status)
            .unwrap()
            .contains(&format!("Uid:\t{uid}\t"))
        {
            std::thread::yield_now();
        }
        (Process(child), cx)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_made_belongs_to_who_asked() {
    everywhere(|brick, _| {
        let (top, cx) = (brick.top(), user(1000, 1001));
        fs::set_permissions(&brick.dir, fs::Permissions::from_mode(0o700)).unwrap();
        let flags = OpenFlags::READ_WRITE;
        let made = [
            now(brick.create(&cx, &top, name("file"), flags, 0o666, 0o027))
                .unwrap()
                .0,
            now(brick.mkdir(&cx, &top, name("dir"), 0o777, 0o027)).unwrap(),
            now(brick.symlink(&cx, &top, name("symlink"), b"x")).unwrap(),
            now(brick.mknod(
                &cx,
                &top,
                name("fifo"),
                &Make {
                    kind: Kind::Fifo,
                    mode: 0o666,
                    umask: 0o027,
                    rdev: 0,
                },
            ))
            .unwrap(),
            now(brick.mknod(
                &cx,
                &top,
                name("null"),
                &Make {
                    kind: Kind::CharDevice,
                    mode: 0o666,
                    umask: 0o027,
                    rdev: libc::makedev(1, 3),
                },
            ))
            .unwrap(),
        ];
        for entry in &made {
            assert_eq!(
                (entry.attr.uid, entry.attr.gid),
                (1000, 1001),
                "{:?}",
                entry.inode
            );
        }
        let modes: Vec<_> = made.iter().map(|entry| entry.attr.mode).collect();
        assert_eq!(modes, [0o640, 0o750, 0o777, 0o640, 0o640]);
        // And whoever comes next on this thread is root again.
        let next = now(brick.mkdir(&root(), &top, name("root's"), 0o777, 0)).unwrap();
        assert_eq!(
            (next.attr.uid, next.attr.gid, next.attr.mode),
            (0, 0, 0o777)
        );
        fs::write(brick.dir.join("outside"), "").unwrap();
        let outside = fs::metadata(brick.dir.join("outside")).unwrap();
        assert_eq!((outside.uid(), outside.gid()), (0, 0));
    });
}

#[test]
fn the_umask_of_a_request_stays_with_it() {
    let (_dir, brick) = on_tmp();
    let top = brick.top();
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let (brick, top) = (&brick, &top);
            scope.spawn(move || {
                for n in 0..200 {
                    let umask = (thread * 9 + n) & 0o777;
                    let at = format!("{thread}.{n}");
                    let cx = user(1000 + thread, 2000 + n);
                    let made = now(brick.mkdir(&cx, top, name(&at), 0o777, umask))
                        .unwrap()
                        .attr;
                    assert_eq!(made.mode, 0o777 & !umask);
                    assert_eq!((made.uid, made.gid), (1000 + thread, 2000 + n));
                }
            });
        }
    });
}

#[test]
fn a_setgid_directory_gives_its_group() {
    everywhere(|brick, _| {
        let dir = brick.dir.join("d");
        fs::create_dir(&dir).unwrap();
        chown(&dir, None, Some(3000)).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o2777)).unwrap();
        let (d, cx) = (brick.find("d"), user(1000, 1000));
        let sub = now(brick.mkdir(&cx, &d, name("sub"), 0o755, 0))
            .unwrap()
            .attr;
        assert_eq!((sub.gid, sub.mode), (3000, 0o2755));
        let flags = OpenFlags::WRITE;
        let file = now(brick.create(&cx, &d, name("f"), flags, 0o2775, 0))
            .unwrap()
            .0
            .attr;
        assert_eq!(
            (file.gid, file.mode),
            (3000, 0o775),
            "he is not of the group"
        );
        let (_process, member) = Process::of(1000, 1000, "2000,3000");
        let file = now(brick.create(&member, &d, name("g"), flags, 0o2775, 0))
            .unwrap()
            .0
            .attr;
        assert_eq!((file.gid, file.mode), (3000, 0o2775), "he is of the group");
    });
}

/// A POSIX ACL as an xattr: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

const NOBODY: u32 = u32::MAX;

#[test]
fn a_default_acl_wins_over_the_umask() {
    everywhere(|brick, _| {
        let d = now(brick.mkdir(&root(), &brick.top(), name("d"), 0o777, 0))
            .unwrap()
            .inode;
        let default = acl(&[
            (1, 7, NOBODY),
            (2, 7, 4000),
            (4, 7, NOBODY),
            (0x10, 7, NOBODY),
            (0x20, 0, NOBODY),
        ]);
        let set = now(brick.setxattr(
            &root(),
            &d,
            b"system.posix_acl_default",
            &default,
            Default::default(),
        ));
        set.unwrap();
        let cx = user(1000, 1000);
        let flags = OpenFlags::WRITE;
        let file = now(brick.create(&cx, &d, name("f"), flags, 0o666, 0o077))
            .unwrap()
            .0;
        assert_eq!(file.attr.mode, 0o660);
        let own = now(brick.getxattr(&root(), &file.inode, b"system.posix_acl_access")).unwrap();
        assert_eq!(own.len(), default.len());
        let sub = now(brick.mkdir(&cx, &d, name("sub"), 0o777, 0o077)).unwrap();
        assert_eq!(sub.attr.mode, 0o770);
        let inherited = now(brick.getxattr(&root(), &sub.inode, b"system.posix_acl_default"));
        assert_eq!(inherited.unwrap(), default);
    });
}

#[test]
fn an_acl_set_by_an_owner_takes_the_setgid_bit_of_a_group_not_his() {
    let image = image::Image::new(image::Kind::Ext4);
    let brick = Brick::at(&image.path());
    let access = acl(&[(1, 7, NOBODY), (4, 7, NOBODY), (0x20, 5, NOBODY)]);
    let (_process, member) = Process::of(1000, 1000, "3000");
    for (cx, mode) in [
        (user(1000, 1000), 0o775),
        (member, 0o2775),
        (root(), 0o2775),
    ] {
        let path = brick.dir.join("f");
        fs::write(&path, "x").unwrap();
        chown(&path, Some(1000), Some(3000)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2755)).unwrap();
        let f = brick.find("f");
        now(brick.setxattr(
            &cx,
            &f,
            b"system.posix_acl_access",
            &access,
            Default::default(),
        ))
        .unwrap();
        assert_eq!(
            now(brick.getattr(&root(), &f, None)).unwrap().mode,
            mode,
            "{cx:?}"
        );
        fs::remove_file(path).unwrap();
    }
}

/// `cap_net_raw+ep`: version 2, effective.
const CAPABILITY: [u8; 20] = {
    let mut value = [0; 20];
    value[0] = 1;
    value[3] = 2;
    value[5] = 0x20;
    value
};

#[test]
fn setid_bits_and_capabilities_fall_as_natively() {
    everywhere(|brick, kind| {
        let path = brick.dir.join("f");
        let arm = || {
            fs::write(&path, vec![1; 8192]).unwrap();
            chown(&path, Some(1000), Some(1000)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
            let f = brick.find("f");
            let set = b"security.capability";
            now(brick.setxattr(&root(), &f, set, &CAPABILITY, Default::default())).unwrap();
            f
        };
        let capable =
            |f: &Arc<Inode>| now(brick.getxattr(&root(), f, b"security.capability")).is_ok();
        let mode = |f: &Arc<Inode>| now(brick.getattr(&root(), f, None)).unwrap().mode;
        let open = |f: &Arc<Inode>, flags| now(brick.open(&root(), f, flags)).unwrap();
        let size = |len| SetAttr {
            size: Some(len),
            ..SetAttr::default()
        };

        for (cx, after) in [
            (user(2000, 2000), 0o777),
            (user(1000, 1000), 0o777),
            (root(), 0o6777),
        ] {
            let f = arm();
            assert!(capable(&f));
            now(brick.write(&cx, &open(&f, OpenFlags::WRITE), 0, b"x")).unwrap();
            assert_eq!(mode(&f), after, "write by {}", cx.uid);
            assert!(!capable(&f), "write by {}", cx.uid);

            let f = arm();
            now(brick.setattr(&cx, &f, None, &size(10))).unwrap();
            assert_eq!(mode(&f), after, "truncate by {}", cx.uid);
            assert!(!capable(&f));

            let f = arm();
            now(brick.setattr(&cx, &f, Some(&open(&f, OpenFlags::WRITE)), &size(10))).unwrap();
            assert_eq!(mode(&f), after, "ftruncate by {}", cx.uid);

            let f = arm();
            now(brick.open(&cx, &f, OpenFlags::WRITE.with(libc::O_TRUNC))).unwrap();
            assert_eq!(mode(&f), after, "O_TRUNC by {}", cx.uid);
            assert!(!capable(&f));

            if kind != image::Kind::Ext3 {
                let f = arm();
                let file = open(&f, OpenFlags::WRITE);
                now(brick.fallocate(&cx, &file, Allocate::Punch, 0, 4096)).unwrap();
                assert_eq!(mode(&f), after, "punch by {}", cx.uid);
            }
        }
        let f = arm();
        let group = SetAttr {
            gid: Some(1000),
            ..SetAttr::default()
        };
        let attr = now(brick.setattr(&user(1000, 1000), &f, None, &group)).unwrap();
        assert_eq!(attr.mode, 0o777, "chown");
        assert!(!capable(&f));
        let f = arm();
        let both = SetAttr {
            uid: Some(5),
            mode: Some(0o4755),
            ..SetAttr::default()
        };
        assert_eq!(
            now(brick.setattr(&root(), &f, None, &both)).unwrap().mode,
            0o4755
        );
    });
}

#[test]
fn a_read_only_file_can_be_made_and_written_in_one() {
    let (_dir, brick) = on_tmp();
    let cx = user(1000, 1000);
    let flags = OpenFlags::WRITE;
    let (_, file) = now(brick.create(&cx, &brick.top(), name("f"), flags, 0o400, 0)).unwrap();
    assert_eq!(now(brick.write(&cx, &file, 0, b"x")).unwrap(), 1);
    let taken = now(brick.create(&cx, &brick.top(), name("f"), flags, 0o400, 0));
    assert_eq!(errno(taken.map(drop)), Errno::EEXIST);
}

#[test]
fn the_reserve_is_roots() {
    let image = image::Image::new(image::Kind::Ext4);
    let brick = Brick::at(&image.path());
    let flags = OpenFlags::WRITE;
    let make = |cx: &Context, at: &str| {
        now(brick.create(cx, &brick.top(), name(at), flags, 0o644, 0))
            .unwrap()
            .1
    };
    let fill = |cx: &Context, file| {
        let block = vec![1; 1 << 20];
        let mut at = 0;
        loop {
            match now(brick.write(cx, file, at, &block)) {
                Ok(n) => at += n as u64,
                Err(error) => return assert_eq!(error.errno(), Errno::ENOSPC),
            }
        }
    };
    let cx = user(1000, 1000);
    let files = (make(&cx, "user's"), make(&root(), "root's"));
    fill(&cx, &files.0);
    let left = now(brick.statfs(&root(), &brick.top())).unwrap();
    assert!(left.bfree > 1_000, "{left:?}");
    assert_eq!(
        now(brick.write(&root(), &files.1, 0, &[1; 1 << 20])).unwrap(),
        1 << 20
    );
}
