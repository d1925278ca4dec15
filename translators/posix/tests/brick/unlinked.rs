use std::fs;

use hermitfs_api::{OpenFlags, RenameFlags, SetAttr};

use super::*;

#[test]
fn a_file_lives_on_without_a_name_while_it_is_held() {
    everywhere(|brick, _| {
        let top = brick.top();
        let (entry, file) =
            now(brick.create(&root(), &top, name("f"), OpenFlags::READ_WRITE, 0o644, 0)).unwrap();
        now(brick.write(&root(), &file, 0, b"still here")).unwrap();
        now(brick.unlink(&root(), &top, name("f"))).unwrap();
        let f = entry.inode;
        assert_eq!(now(brick.getattr(&root(), &f, None)).unwrap().nlink, 0);
        assert_eq!(
            now(brick.getattr(&root(), &f, Some(&file))).unwrap().size,
            10
        );
        let set = SetAttr {
            mode: Some(0o600),
            size: Some(5),
            ..SetAttr::default()
        };
        let attr = now(brick.setattr(&root(), &f, None, &set)).unwrap();
        assert_eq!((attr.mode, attr.size), (0o600, 5));
        let value = now(brick.setxattr(&root(), &f, b"user.x", b"1", Default::default()))
            .and_then(|()| now(brick.getxattr(&root(), &f, b"user.x")));
        assert_eq!(value.unwrap(), b"1");
        // Without any descriptor of a user's left.
        drop(file);
        let file = now(brick.open(&root(), &f, OpenFlags::READ)).unwrap();
        let mut buffer = [0; 20];
        assert_eq!(now(brick.read(&root(), &file, 0, &mut buffer)).unwrap(), 5);
        let handle = now(brick.handle(&root(), &f)).unwrap();
        assert_eq!(errno(now(brick.resolve(&root(), &handle))), Errno::ESTALE);
        assert_eq!(
            errno(now(brick.link(&root(), &f, &top, name("back")))),
            Errno::ENOENT
        );
    });
}

#[test]
fn what_a_rename_replaces_lives_on() {
    everywhere(|brick, _| {
        fs::write(brick.dir.join("old"), "old").unwrap();
        fs::write(brick.dir.join("new"), "new").unwrap();
        let (old, new, top) = (brick.find("old"), brick.find("new"), brick.top());
        let replace = RenameFlags::Replace;
        now(brick.rename(&root(), &top, name("new"), &top, name("old"), replace)).unwrap();
        assert_eq!(now(brick.getattr(&root(), &old, None)).unwrap().nlink, 0);
        assert_eq!(now(brick.getattr(&root(), &new, None)).unwrap().nlink, 1);
        assert_eq!(brick.path_of(&new), "/old");
        assert!(Arc::ptr_eq(&brick.find("old"), &new));
        let file = now(brick.open(&root(), &old, OpenFlags::READ)).unwrap();
        let mut buffer = [0; 3];
        now(brick.read(&root(), &file, 0, &mut buffer)).unwrap();
        assert_eq!(&buffer, b"old");
    });
}

#[test]
fn a_removed_directory_can_still_be_looked_at() {
    everywhere(|brick, _| {
        let top = brick.top();
        let d = now(brick.mkdir(&root(), &top, name("d"), 0o755, 0))
            .unwrap()
            .inode;
        now(brick.rmdir(&root(), &top, name("d"))).unwrap();
        assert_eq!(now(brick.getattr(&root(), &d, None)).unwrap().nlink, 0);
        assert_eq!(
            errno(now(brick.lookup(&root(), &d, name("x")))),
            Errno::ENOENT
        );
        assert_eq!(
            errno(now(brick.mkdir(&root(), &d, name("x"), 0o755, 0))),
            Errno::ENOENT
        );
        assert_eq!(errno(now(brick.locate(&root(), &d))), Errno::ESTALE);
        assert_eq!(errno(now(brick.whence(&root(), &d))), Errno::ENOENT);
        let listed = now(brick.readdir(&root(), &d, 0, 10, false));
        assert!(listed.is_err() || listed.is_ok_and(|list| list.iter().all(|e| e.is_dots())));
    });
}

#[test]
fn removal_says_what_it_says_natively() {
    let (_dir, brick) = on_tmp();
    fs::create_dir_all(brick.dir.join("d/e")).unwrap();
    fs::write(brick.dir.join("f"), "").unwrap();
    let top = brick.top();
    assert_eq!(
        errno(now(brick.unlink(&root(), &top, name("d")))),
        Errno::EISDIR
    );
    assert_eq!(
        errno(now(brick.rmdir(&root(), &top, name("f")))),
        Errno::ENOTDIR
    );
    assert_eq!(
        errno(now(brick.rmdir(&root(), &top, name("d")))),
        Errno::ENOTEMPTY
    );
    assert_eq!(
        errno(now(brick.unlink(&root(), &top, name("x")))),
        Errno::ENOENT
    );
    let taken = RenameFlags::NoReplace;
    let rename = now(brick.rename(&root(), &top, name("f"), &top, name("d"), taken));
    assert_eq!(errno(rename), Errno::EEXIST);
    let (d, e) = (brick.find("d"), brick.find("d/e"));
    let rename = now(brick.rename(&root(), &top, name("d"), &e, name("x"), Default::default()));
    assert_eq!(errno(rename), Errno::EINVAL);
    assert_eq!(brick.path_of(&e), "/d/e");
    drop(d);
}

#[test]
fn descriptors_are_not_held_for_what_is_cached() {
    let (_dir, brick) = on_tmp();
    let top = brick.top();
    let held: Vec<_> = (0..3_000)
        .map(|n| {
            now(brick.mkdir(&root(), &top, name(&n.to_string()), 0o755, 0))
                .unwrap()
                .inode
        })
        .collect();
    let open = || {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter(|fd| {
                let to = fd
                    .as_ref()
                    .ok()
                    .and_then(|fd| fs::read_link(fd.path()).ok());
                to.is_some_and(|to| to.starts_with(&brick.dir))
            })
            .count()
    };
    assert!(open() <= 1_024 + 8, "{} descriptors", open());
    drop(held);
    assert!(open() <= 8, "{} descriptors are left", open());
}
