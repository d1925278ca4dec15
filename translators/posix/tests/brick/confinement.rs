use std::os::unix::fs::symlink;

use super::*;

#[test]
fn a_symbolic_link_is_an_object_and_not_a_way() {
    let (_dir, brick) = on_tmp();
    symlink("/", brick.dir.join("out")).unwrap();
    let out = brick.find("out");
    assert_eq!(out.kind(), hermitfs_api::Kind::Symlink);
    assert_eq!(now(brick.readlink(&root(), &out)).unwrap(), b"/");
    assert_eq!(
        errno(now(brick.lookup(&root(), &out, name("etc")))),
        Errno::ENOTDIR
    );
    let readdir = now(brick.readdir(&root(), &out, 0, 10, false));
    assert_eq!(errno(readdir), Errno::ENOTDIR);
    assert_eq!(
        errno(now(brick.mkdir(&root(), &out, name("x"), 0o755, 0))),
        Errno::ENOTDIR
    );
    assert_eq!(
        errno(now(brick.open(
            &root(),
            &out,
            hermitfs_api::OpenFlags::READ
        ))),
        Errno::EINVAL
    );
}

#[test]
fn nothing_but_regular_files_is_ever_opened() {
    let (_dir, brick) = on_tmp();
    let make = hermitfs_api::Make {
        kind: hermitfs_api::Kind::Fifo,
        mode: 0o666,
        umask: 0,
        rdev: 0,
    };
    let fifo = now(brick.mknod(&root(), &brick.top(), name("fifo"), &make))
        .unwrap()
        .inode;
    for inode in [fifo, brick.top()] {
        let open = now(brick.open(&root(), &inode, hermitfs_api::OpenFlags::READ));
        assert_eq!(errno(open), Errno::EINVAL);
        assert!(
            now(brick.lend(&root(), &inode, hermitfs_api::Lend::Read))
                .unwrap()
                .is_none()
        );
    }
}

#[test]
fn another_mount_is_not_entered_nor_removed() {
    let (_dir, brick) = on_tmp();
    let sub = brick.dir.join("sub");
    std::fs::create_dir(&sub).unwrap();
    let mount = ["-t", "tmpfs", "none"].map(std::ffi::OsStr::new);
    let arguments: Vec<_> = mount.into_iter().chain([sub.as_os_str()]).collect();
    image::run("mount", &arguments, "mount");
    let _umount = image::Umount(sub.clone());
    assert_eq!(
        errno(now(brick.lookup(&root(), &brick.top(), name("sub")))),
        Errno::EXDEV
    );
    assert_eq!(
        errno(now(brick.rmdir(&root(), &brick.top(), name("sub")))),
        Errno::EBUSY
    );
    let rename = now(brick.rename(
        &root(),
        &brick.top(),
        name("sub"),
        &brick.top(),
        name("sub2"),
        Default::default(),
    ));
    assert_eq!(errno(rename), Errno::EBUSY);
    let entries = now(brick.readdir(&root(), &brick.top(), 0, 100, true)).unwrap();
    let sub = entries.iter().find(|entry| &*entry.name == b"sub").unwrap();
    assert!(sub.entry.is_none(), "named, but not entered");
}

#[test]
fn what_is_mounted_in_a_brick_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    std::fs::create_dir_all(sub.join("beneath")).unwrap();
    let options = Options {
        one_file_system: true,
        ..Options::new(dir.path())
    };
    let brick = Brick {
        posix: Posix::open(&options).unwrap(),
        dir: dir.path().to_owned(),
    };
    // Also what is mounted later.
    let mount = ["-t", "tmpfs", "none"].map(std::ffi::OsStr::new);
    let arguments: Vec<_> = mount.into_iter().chain([sub.as_os_str()]).collect();
    image::run("mount", &arguments, "mount");
    let _umount = image::Umount(sub.clone());
    std::fs::write(sub.join("other"), "of another file system").unwrap();
    let beneath = brick.find("sub/beneath");
    assert_eq!(brick.path_of(&beneath), "/sub/beneath");
    let found = now(brick.lookup(&root(), &brick.find("sub"), name("other")));
    assert_eq!(errno(found), Errno::ENOENT);
    now(brick.rmdir(&root(), &brick.find("sub"), name("beneath"))).unwrap();
    let handle = now(brick.handle(&root(), &brick.find("sub"))).unwrap();
    let again = now(brick.resolve(&healer(), &handle)).unwrap();
    assert_eq!(brick.path_of(&again.inode), "/sub");
}

#[test]
fn a_directory_moved_out_behind_our_back_is_stale() {
    let outer = tempfile::tempdir().unwrap();
    let (inside, outside) = (outer.path().join("brick"), outer.path().join("elsewhere"));
    std::fs::create_dir_all(inside.join("d/e")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    let brick = Brick::at(&inside);
    let e = brick.find("d/e");
    let handle = now(brick.handle(&root(), &e)).unwrap();
    assert_eq!(brick.path_of(&e), "/d/e");
    std::fs::rename(inside.join("d"), outside.join("d")).unwrap();
    assert_eq!(errno(now(brick.locate(&root(), &e))), Errno::ESTALE);
    assert_eq!(errno(now(brick.resolve(&root(), &handle))), Errno::ESTALE);
}

#[test]
fn the_directory_above_the_root_is_the_root() {
    let (_dir, brick) = on_tmp();
    let entries = now(brick.readdir(&root(), &brick.top(), 0, 100, true)).unwrap();
    let up = entries.iter().find(|entry| &*entry.name == b"..").unwrap();
    assert_eq!(up.ino, brick.top().identity().ino);
    assert_eq!(
        errno(now(brick.whence(&root(), &brick.top()))),
        Errno::ENOENT
    );
    assert_eq!(brick.path_of(&brick.top()), "/");
}

#[test]
fn subvolumes_are_of_the_brick_and_each_has_its_device() {
    let image = image::Image::new(image::Kind::Btrfs);
    let dir = image.path();
    let sub = dir.join("a");
    std::fs::create_dir(dir.join("plain")).unwrap();
    image::run(
        "btrfs",
        &["subvolume".as_ref(), "create".as_ref(), sub.as_os_str()],
        "btrfs-progs",
    );
    std::fs::create_dir(sub.join("d")).unwrap();
    std::fs::write(sub.join("d/f"), "in a subvolume").unwrap();
    let brick = Brick::at(&dir);
    let (top, a, f) = (brick.top(), brick.find("a"), brick.find("a/d/f"));
    assert_ne!(top.identity().dev, a.identity().dev);
    assert_eq!(a.identity().dev, f.identity().dev);
    assert_eq!(
        top.identity().ino,
        a.identity().ino,
        "both are number 256 on their device"
    );
    assert_ne!(top.identity(), a.identity());
    assert_eq!(brick.path_of(&f), "/a/d/f");
    let handle = now(brick.handle(&root(), &f)).unwrap();
    let again = now(brick.resolve(&healer(), &handle)).unwrap();
    assert!(Arc::ptr_eq(&again.inode, &f));
    assert_eq!(brick.whence_of(&a).1, name("a").to_owned());
}

#[test]
fn an_inode_of_another_brick_is_stale() {
    let (_one, one) = on_tmp();
    let (_two, two) = on_tmp();
    std::fs::write(one.dir.join("f"), "").unwrap();
    let f = one.find("f");
    let handle = now(one.handle(&root(), &f)).unwrap();
    assert_eq!(errno(now(two.getattr(&root(), &f, None))), Errno::ESTALE);
    assert_eq!(errno(now(two.resolve(&root(), &handle))), Errno::ESTALE);
}
