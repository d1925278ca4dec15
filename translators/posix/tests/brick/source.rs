use std::fs;
use std::os::unix::fs::MetadataExt;

use hermitfs_api::{Allocate, Kind, Lend, Make, OpenFlags, Origin, Role, SetAttr};

use super::*;

/// All that could change, and the access times; taken without reading anything.
fn picture(dir: &Path) -> Vec<String> {
    let looked_at = |path: &str| {
        let m = fs::symlink_metadata(dir.join(path)).ok()?;
        let times = (
            m.atime(),
            m.atime_nsec(),
            m.mtime_nsec(),
            m.ctime(),
            m.ctime_nsec(),
        );
        Some(format!("{path:?} {:o} {} {times:?}", m.mode(), m.nlink()))
    };
    ["", "d", "d/e", "f", "s", "x"]
        .into_iter()
        .filter_map(looked_at)
        .collect()
}

/// Everything that can be read, read by us.
fn read_all(brick: &Brick, cx: &Context) {
    let top = now(brick.root(cx)).unwrap().inode;
    for entry in now(brick.readdir(cx, &top, 0, 100, true)).unwrap() {
        let Some(entry) = entry.entry else { continue };
        let inode = entry.inode;
        now(brick.getattr(cx, &inode, None)).unwrap();
        now(brick.listxattr(cx, &inode)).unwrap();
        let handle = now(brick.handle(cx, &inode)).unwrap();
        now(brick.resolve(cx, &handle)).unwrap();
        now(brick.locate(cx, &inode)).unwrap();
        match inode.kind() {
            Kind::File => {
                let file = now(brick.open(cx, &inode, OpenFlags::READ)).unwrap();
                assert_eq!(now(brick.read(cx, &file, 0, &mut [0; 10])).unwrap(), 4);
                now(brick.get_flags(cx, &inode)).unwrap();
                assert!(now(brick.quiet(cx, &inode)).unwrap());
                let lent = now(brick.lend(cx, &inode, Lend::Read)).unwrap().unwrap();
                if cx.origin.is_internal() {
                    rustix::io::pread(&lent, &mut [0; 4], 0).unwrap();
                }
            }
            Kind::Directory => {
                now(brick.readdir(cx, &inode, 0, 100, true)).unwrap();
                now(brick.fsyncdir(cx, &inode, false)).unwrap();
            }
            _ => drop(now(brick.readlink(cx, &inode)).unwrap()),
        }
    }
    now(brick.sync(cx)).unwrap();
}

#[test]
fn our_own_reading_leaves_no_trace_on_a_source() {
    for kind in image::Kind::ALL {
        let image = image::Image::new(kind);
        let at = image.path();
        let remount = ["-o", "remount,strictatime"].map(std::ffi::OsStr::new);
        image::run("mount", &[remount[0], remount[1], at.as_os_str()], "mount");
        let dir = at.join("brick");
        fs::create_dir_all(dir.join("d/e")).unwrap();
        fs::write(dir.join("f"), "text").unwrap();
        std::os::unix::fs::symlink("f", dir.join("s")).unwrap();
        let brick = Brick::at(&dir);
        assert!(brick.abilities().private_view && brick.abilities().handles);
        now(brick.role(Role::Source)).unwrap();
        // Beyond the tick of the clock that times are taken from.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let before = picture(&dir);
        for origin in [Origin::Heal, Origin::Verify, Origin::Admin] {
            read_all(&brick, &Context::internal(origin));
        }
        assert_eq!(picture(&dir), before, "{kind:?}");
        read_all(&brick, &root());
        assert_ne!(picture(&dir), before, "users' reading is as it is natively");
    }
}

#[test]
fn on_a_source_every_change_but_users_is_refused() {
    let (_dir, brick) = on_tmp();
    fs::create_dir(brick.dir.join("d")).unwrap();
    fs::write(brick.dir.join("f"), "text").unwrap();
    now(brick.role(Role::Source)).unwrap();
    let cx = healer();
    let (top, f) = (brick.top(), brick.find("f"));
    let file = now(brick.open(&root(), &f, OpenFlags::READ_WRITE)).unwrap();
    let x = name("x");
    let make = Make {
        kind: Kind::File,
        mode: 0o644,
        umask: 0,
        rdev: 0,
    };
    let mode = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    let truncate = OpenFlags::READ.with(libc::O_TRUNC);
    let before = picture(&brick.dir);
    let refused = [
        now(brick.mknod(&cx, &top, x, &make)).map(drop),
        now(brick.mkdir(&cx, &top, x, 0o755, 0)).map(drop),
        now(brick.symlink(&cx, &top, x, b"t")).map(drop),
        now(brick.link(&cx, &f, &top, x)).map(drop),
        now(brick.create(&cx, &top, x, OpenFlags::READ, 0o644, 0)).map(drop),
        now(brick.unlink(&cx, &top, name("f"))),
        now(brick.rmdir(&cx, &top, name("d"))),
        now(brick.rename(&cx, &top, name("f"), &top, x, Default::default())),
        now(brick.setattr(&cx, &f, None, &mode)).map(drop),
        now(brick.setattr(&cx, &f, Some(&file), &mode)).map(drop),
        now(brick.setxattr(&cx, &f, b"user.x", b"", Default::default())),
        now(brick.removexattr(&cx, &f, b"user.x")),
        now(brick.set_flags(&cx, &f, 0)),
        now(brick.open(&cx, &f, OpenFlags::WRITE)).map(drop),
        now(brick.open(&cx, &f, truncate)).map(drop),
        now(brick.write(&cx, &file, 0, b"x")).map(drop),
        now(brick.fallocate(&cx, &file, Allocate::Punch, 0, 1)),
        now(brick.copy_file_range(&cx, &file, 0, &file, 4, 4)).map(drop),
        now(brick.lend(&cx, &f, Lend::Write)).map(drop),
    ];
    for (n, outcome) in refused.into_iter().enumerate() {
        assert_eq!(errno(outcome), Errno::EROFS, "change number {n}");
    }
    assert_eq!(picture(&brick.dir), before);
    now(brick.mkdir(&user(1, 1), &top, x, 0o755, 0)).unwrap();
    now(brick.write(&user(1, 1), &file, 0, b"x")).unwrap();
}

#[test]
fn a_source_mounted_read_only_serves() {
    let image = image::Image::new(image::Kind::Ext4);
    let at = image.path();
    fs::write(at.join("f"), "text").unwrap();
    let remount = ["-o", "remount,ro"].map(std::ffi::OsStr::new);
    image::run("mount", &[remount[0], remount[1], at.as_os_str()], "mount");
    let brick = Brick::at(&at);
    now(brick.role(Role::Source)).unwrap();
    let f = brick.find("f");
    for cx in [root(), healer()] {
        let file = now(brick.open(&cx, &f, OpenFlags::READ)).unwrap();
        assert_eq!(now(brick.read(&cx, &file, 0, &mut [0; 10])).unwrap(), 4);
    }
    assert_eq!(
        errno(now(brick.open(&root(), &f, OpenFlags::WRITE))),
        Errno::EROFS
    );
    assert_eq!(
        errno(now(brick.mkdir(&root(), &brick.top(), name("d"), 0, 0))),
        Errno::EROFS
    );
}
