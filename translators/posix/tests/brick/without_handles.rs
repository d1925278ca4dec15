use std::fs;

use hermitfs_api::{OpenFlags, Role, SetAttr};

use super::*;

fn without(dir: &Path) -> Brick {
    let options = Options {
        handles: false,
        ..Options::new(dir)
    };
    let posix = Posix::open(&options).unwrap();
    assert!(!posix.abilities().handles);
    Brick {
        posix,
        dir: dir.to_owned(),
    }
}

#[test]
fn a_file_system_without_handles_is_served_as_well() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("d/e")).unwrap();
    fs::write(dir.path().join("d/f"), "text").unwrap();
    let brick = without(dir.path());
    now(brick.role(Role::Source)).unwrap();
    let (d, e, f) = (brick.find("d"), brick.find("d/e"), brick.find("d/f"));
    assert!(Arc::ptr_eq(&f, &brick.find("d/f")));
    assert_eq!(brick.path_of(&e), "/d/e");
    assert_eq!(brick.path_of(&f), "/d/f");
    assert_eq!(brick.whence_of(&e).1, name("e").to_owned());
    for cx in [root(), healer()] {
        let file = now(brick.open(&cx, &f, OpenFlags::READ)).unwrap();
        assert_eq!(now(brick.read(&cx, &file, 0, &mut [0; 10])).unwrap(), 4);
        assert_eq!(now(brick.readdir(&cx, &d, 0, 100, true)).unwrap().len(), 4);
        now(brick.listxattr(&cx, &f)).unwrap();
    }
    let cx = user(1000, 1000);
    let flags = OpenFlags::READ_WRITE;
    let (made, file) = now(brick.create(&cx, &d, name("new"), flags, 0o644, 0)).unwrap();
    now(brick.write(&cx, &file, 0, b"new")).unwrap();
    drop(file);
    assert!(
        now(brick.quiet(&root(), &made.inode)).unwrap(),
        "what is held is not open"
    );
    let file = now(brick.open(&cx, &made.inode, OpenFlags::WRITE)).unwrap();
    now(brick.unlink(&root(), &d, name("new"))).unwrap();
    let size = SetAttr {
        size: Some(1),
        ..SetAttr::default()
    };
    assert_eq!(
        now(brick.setattr(&cx, &made.inode, None, &size))
            .unwrap()
            .size,
        1
    );
    drop(file);
    assert_eq!(now(brick.getattr(&cx, &made.inode, None)).unwrap().nlink, 0);
    let set = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    assert_eq!(
        errno(now(brick.setattr(&healer(), &f, None, &set))),
        Errno::EROFS
    );
}

#[test]
fn what_nobody_could_find_again_has_no_handle_but_the_root_has_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "text").unwrap();
    let brick = without(dir.path());
    let f = brick.find("f");
    assert_eq!(errno(now(brick.handle(&root(), &f))), Errno::EOPNOTSUPP);
    let top = now(brick.handle(&root(), &brick.top())).unwrap();
    let again = without(dir.path());
    assert!(
        now(again.resolve(&root(), &top)).is_ok(),
        "the root is always there"
    );
}

#[test]
fn the_root_that_is_none_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for path in ["file", "missing"] {
        let path = dir.path().join(path);
        let error = Posix::open(&Options::new(&path)).err().unwrap().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_file_system_that_has_neither_handles_nor_xattrs_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let mount = ["-t", "ramfs", "none"].map(std::ffi::OsStr::new);
    let arguments: Vec<_> = mount.into_iter().chain([dir.path().as_os_str()]).collect();
    image::run("mount", &arguments, "mount");
    let _umount = image::Umount(dir.path().to_owned());
    let brick = Brick::at(dir.path());
    assert!(!brick.abilities().handles);
    let cx = user(1000, 1000);
    let flags = OpenFlags::READ_WRITE;
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let (made, file) =
        now(brick.create(&cx, &brick.top(), name("f"), flags, 0o666, 0o022)).unwrap();
    assert_eq!((made.attr.uid, made.attr.mode), (1000, 0o644));
    now(brick.write(&cx, &file, 0, b"text")).unwrap();
    let f = brick.find("f");
    assert!(Arc::ptr_eq(&f, &made.inode));
    assert_eq!(now(brick.listxattr(&root(), &f)).unwrap(), b"");
    assert_eq!(
        errno(now(brick.getxattr(&root(), &f, b"user.x"))),
        Errno::EOPNOTSUPP
    );
    let set = now(brick.setxattr(&root(), &f, b"user.x", b"", Default::default()));
    assert_eq!(errno(set), Errno::EOPNOTSUPP);
    now(brick.unlink(&root(), &brick.top(), name("f"))).unwrap();
    assert_eq!(now(brick.getattr(&root(), &f, None)).unwrap().size, 4);
}
