use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use hermitfs_api::{Handle, Identity, RenameFlags};

use super::*;

#[test]
fn handles_lead_back_after_a_restart_and_go_stale_with_the_object() {
    everywhere(|brick, _| {
        fs::create_dir_all(brick.dir.join("d/e")).unwrap();
        fs::write(brick.dir.join("d/f"), "x").unwrap();
        std::os::unix::fs::symlink("f", brick.dir.join("d/s")).unwrap();
        let (mut handles, mut identities) = (Vec::new(), Vec::new());
        for path in ["", "d", "d/e", "d/f", "d/s"] {
            let inode = brick.find(path);
            handles.push(now(brick.handle(&root(), &inode)).unwrap());
            identities.push(inode.identity());
        }
        assert!(handles.iter().all(|handle| handle.as_bytes().len() <= 160));

        fs::rename(brick.dir.join("d"), brick.dir.join("moved")).unwrap();
        let again = Brick::at(&brick.dir);
        for (handle, identity) in handles.iter().zip(&identities) {
            let entry = now(again.resolve(&root(), handle)).unwrap();
            assert_eq!(entry.inode.identity(), *identity);
            assert_eq!(now(again.handle(&root(), &entry.inode)).unwrap(), *handle);
        }
        let e = now(again.resolve(&root(), &handles[2])).unwrap().inode;
        assert_eq!(again.path_of(&e), "/moved/e");
        let f = now(again.resolve(&root(), &handles[3])).unwrap().inode;
        assert_eq!(
            errno(now(again.locate(&root(), &f))),
            Errno::ENOENT,
            "never seen by name"
        );
        drop((e, f));

        fs::remove_dir_all(brick.dir.join("moved")).unwrap();
        for handle in &handles[1..] {
            assert_eq!(errno(now(again.resolve(&root(), handle))), Errno::ESTALE);
        }
    });
}

#[test]
fn bytes_that_are_no_handle_are_stale() {
    let (_dir, brick) = on_tmp();
    let good = now(brick.handle(&root(), &brick.top())).unwrap();
    let mut bytes = good.as_bytes().to_vec();
    for at in 0..bytes.len() {
        bytes[at] ^= 0x55;
        let resolved = now(brick.resolve(&root(), &Handle::new(&bytes)));
        assert_eq!(errno(resolved), Errno::ESTALE, "byte {at}");
        bytes[at] ^= 0x55;
        let cut = now(brick.resolve(&root(), &Handle::new(&bytes[..at])));
        assert_eq!(errno(cut), Errno::ESTALE, "cut at {at}");
    }
}

#[test]
fn a_handle_is_stale_also_while_its_number_is_being_used_again() {
    everywhere(|brick, _| {
        let path = brick.dir.join("f");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::write(&path, "x").unwrap();
                    fs::remove_file(&path).unwrap();
                }
            });
            let name = Name::new(b"f").unwrap();
            let mut unexpected = Vec::new();
            let mut handles = 0;
            while handles < 200 && unexpected.is_empty() {
                let Ok(entry) = now(brick.lookup(&root(), &brick.top(), name)) else {
                    continue;
                };
                let handle = now(brick.handle(&root(), &entry.inode)).unwrap();
                drop(entry);
                handles += 1;
                for _ in 0..100 {
                    match now(brick.resolve(&root(), &handle)) {
                        Err(error) if error.errno() != Errno::ESTALE => unexpected.push(error),
                        _ => {}
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert!(unexpected.is_empty(), "{unexpected:?}");
        });
    });
}

#[test]
fn a_number_used_again_is_another_object() {
    everywhere(|brick, _| {
        let path = brick.dir.join("f");
        let mut seen = std::collections::HashSet::new();
        let mut numbers = std::collections::HashSet::new();
        for _ in 0..50 {
            fs::write(&path, "x").unwrap();
            let identity = brick.find("f").identity();
            numbers.insert(identity.ino);
            assert!(seen.insert(identity));
            fs::remove_file(&path).unwrap();
        }
        println!("{} numbers for 50 files", numbers.len());
    });
}

#[test]
fn one_object_is_one_inode_however_it_is_found() {
    let (_dir, brick) = on_tmp();
    fs::write(brick.dir.join("f"), "x").unwrap();
    fs::hard_link(brick.dir.join("f"), brick.dir.join("g")).unwrap();
    let f = brick.find("f");
    assert!(Arc::ptr_eq(&f, &brick.find("g")));
    let handle = now(brick.handle(&root(), &f)).unwrap();
    assert!(Arc::ptr_eq(
        &f,
        &now(brick.resolve(&healer(), &handle)).unwrap().inode
    ));
    let entries = now(brick.readdir(&root(), &brick.top(), 0, 100, true)).unwrap();
    let found = entries.iter().filter_map(|entry| entry.entry.as_ref());
    assert!(found.clone().count() == 2 && found.clone().all(|at| Arc::ptr_eq(&at.inode, &f)));
}

#[test]
fn places_follow_what_is_done_here() {
    let (_dir, brick) = on_tmp();
    let top = brick.top();
    let d = now(brick.mkdir(&root(), &top, name("d"), 0o755, 0))
        .unwrap()
        .inode;
    let flags = hermitfs_api::OpenFlags::READ_WRITE;
    let (entry, _file) = now(brick.create(&root(), &d, name("f"), flags, 0o644, 0)).unwrap();
    let f = entry.inode;
    assert_eq!(brick.path_of(&f), "/d/f");
    let (dir, at) = brick.whence_of(&f);
    assert!(Arc::ptr_eq(&dir, &d) && *at == *name("f"));
    let (dir, at) = brick.whence_of(&d);
    assert!(Arc::ptr_eq(&dir, &top) && *at == *name("d"));

    let rename = |from: (&Arc<Inode>, &str), to: (&Arc<Inode>, &str), flags| {
        now(brick.rename(&root(), from.0, name(from.1), to.0, name(to.1), flags)).unwrap();
    };
    rename((&d, "f"), (&top, "moved"), RenameFlags::Replace);
    assert_eq!(brick.path_of(&f), "/moved");
    now(brick.link(&root(), &f, &d, name("link"))).unwrap();
    assert_eq!(brick.path_of(&f), "/d/link");
    let g = now(brick.symlink(&root(), &d, name("g"), b"target"))
        .unwrap()
        .inode;
    rename((&d, "g"), (&top, "moved"), RenameFlags::Exchange);
    assert_eq!(brick.path_of(&f), "/d/g");
    assert_eq!(brick.path_of(&g), "/moved");
    rename((&top, "d"), (&top, "D"), RenameFlags::NoReplace);
    assert_eq!(brick.path_of(&d), "/D");
    assert_eq!(brick.path_of(&f), "/D/g");
    assert_eq!(brick.whence_of(&d).1, name("D").to_owned());
    now(brick.unlink(&root(), &d, name("g"))).unwrap();
    assert_eq!(errno(now(brick.whence(&root(), &f))), Errno::ENOENT);
    assert_eq!(errno(now(brick.locate(&root(), &f))), Errno::ENOENT);
    let again = now(brick.lookup(&root(), &d, name("link"))).unwrap();
    assert!(Arc::ptr_eq(&again.inode, &f));
    assert_eq!(brick.path_of(&f), "/D/link");
}

#[test]
fn the_place_of_a_directory_is_known_at_any_depth() {
    let (_dir, brick) = on_tmp();
    let long = "n".repeat(255);
    let mut dir = brick.top();
    for _ in 0..40 {
        dir = now(brick.mkdir(&root(), &dir, name(&long), 0o755, 0))
            .unwrap()
            .inode;
    }
    let place = now(brick.locate(&root(), &dir)).unwrap();
    assert_eq!(place.path.len(), 40);
    assert!(place.path.iter().all(|part| **part == *name(&long)));
    assert_eq!(brick.whence_of(&dir).1, name(&long).to_owned());
    let handle = now(brick.handle(&root(), &dir)).unwrap();
    drop(dir);
    let again = Brick::at(&brick.dir);
    let deep = now(again.resolve(&root(), &handle)).unwrap().inode;
    assert_eq!(now(again.locate(&root(), &deep)).unwrap(), place);
}

#[test]
fn a_name_that_looks_deleted_is_a_name() {
    let (_dir, brick) = on_tmp();
    let odd = "x (deleted)";
    let made = now(brick.mkdir(&root(), &brick.top(), name(odd), 0o755, 0))
        .unwrap()
        .inode;
    assert_eq!(brick.path_of(&made), "/x (deleted)");
    assert_eq!(brick.whence_of(&made).1, name(odd).to_owned());
    let odd = "new\nline\\ \u{1}";
    let made = now(brick.mkdir(&root(), &brick.top(), name(odd), 0o755, 0))
        .unwrap()
        .inode;
    assert_eq!(
        now(brick.locate(&root(), &made)).unwrap().path,
        [name(odd).to_owned()]
    );
}

#[test]
fn identity_and_attributes_are_of_one_object_while_names_change() {
    use hermitfs_api::{Kind, Make};
    let (_dir, brick) = on_tmp();
    let top = brick.top();
    let make = Make {
        kind: Kind::File,
        mode: 0o644,
        umask: 0,
        rdev: 0,
    };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for side in ["a", "b"] {
            let (brick, top, stop) = (&brick, &top, &stop);
            scope.spawn(move || {
                // Whatever these answer: they are in each other's way on purpose.
                for _ in 0..3_000 {
                    let _ = now(brick.mknod(&root(), top, name(side), &make));
                    let _ = now(brick.rename(
                        &root(),
                        top,
                        name(side),
                        top,
                        name("x"),
                        RenameFlags::Replace,
                    ));
                    let _ = now(brick.unlink(&root(), top, name("x")));
                    let _ = now(brick.mkdir(&root(), top, name("x"), 0o755, 0));
                    let _ = now(brick.rmdir(&root(), top, name("x")));
                }
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            });
        }
        for cx in [root(), healer()] {
            let (brick, top, stop) = (&brick, &top, &stop);
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let Ok(entry) = now(brick.lookup(&cx, top, name("x"))) else {
                        continue;
                    };
                    let Identity { dev, ino, .. } = entry.inode.identity();
                    assert_eq!((entry.attr.dev, entry.attr.ino), (dev, ino));
                    assert_eq!(entry.attr.kind, entry.inode.kind());
                    if let Ok(attr) = now(brick.getattr(&cx, &entry.inode, None)) {
                        assert_eq!((attr.kind, attr.ino), (entry.inode.kind(), ino));
                    }
                }
            });
        }
    });
}
