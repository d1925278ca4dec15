use std::sync::Arc;
use std::time::{Duration, Instant};

use hermitfs_api::*;

use super::hands::{name, refused};

checks! {
    fn a_handle_is_good_while_its_object_is_held_or_there_is_none(h) {
        let file = h.file("a").inode;
        match h.handle(&file) {
            Ok(handle) => assert!(Arc::ptr_eq(&h.resolve(&handle).unwrap().inode, &file)),
            Err(errno) => assert!(errno == Errno::EOPNOTSUPP && !h.can.handles, "{errno}"),
        }
    }

    fn a_handle_leads_back_to_its_object(h) {
        if h.can.handles {
            let link = h.symlink("link", b"nowhere").unwrap().inode;
            for inode in [h.root.clone(), h.dir("dir"), h.file("file").inode, link] {
                let handle = h.handle(&inode).unwrap();
                assert!(handle.as_bytes().len() <= 160);
                assert!(Arc::ptr_eq(&h.resolve(&handle).unwrap().inode, &inode));
                assert_eq!(h.handle(&inode).unwrap(), handle, "and is always the same");
            }
        }
    }

    fn a_handle_outlives_the_inode_and_a_rename(h) {
        if h.can.handles {
            let (handle, identity) = {
                let file = h.with_content("a", b"content");
                (h.handle(file.inode()).unwrap(), file.inode().identity())
            };
            let dir = h.dir("dir");
            h.rename((&h.root, "a"), (&dir, "b"), RenameFlags::Replace).unwrap();
            let found = h.resolve(&handle).unwrap();
            assert_eq!(found.inode.identity(), identity);
            assert_eq!(h.content(&found.inode), b"content");
            h.chmod(&found.inode, 0o600).unwrap();
            let looked_up = h.lookup(&dir, "b").unwrap();
            assert!(Arc::ptr_eq(&looked_up.inode, &found.inode));
            assert_eq!(looked_up.attr.mode, 0o600);
        }
    }

    fn the_handle_of_what_was_deleted_is_stale_for_ever(h) {
        if h.can.handles {
            let handles: Vec<Handle> = ["a", "b", "c"].map(|n| h.handle(&h.file(n).inode).unwrap()).into();
            let of_dir = h.handle(&h.dir("dir")).unwrap();
            for n in ["a", "b", "c"] {
                h.unlink(&h.root, n).unwrap();
            }
            h.rmdir(&h.root, "dir").unwrap();
            // These may well get the same numbers.
            let again: Vec<Entry> = ["d", "e", "f"].map(|n| h.file(n)).into();
            // Where the brick is far, it hears a moment later that nobody has them in use.
            let moment = Instant::now() + Duration::from_secs(5);
            for handle in handles.iter().chain([&of_dir]) {
                while h.resolve(handle).is_ok_and(|it| it.attr.nlink == 0) && Instant::now() < moment {
                    std::thread::sleep(Duration::from_millis(1));
                }
                refused(h.resolve(handle), Errno::ESTALE);
            }
            for entry in again {
                let handle = h.handle(&entry.inode).unwrap();
                assert!(!handles.contains(&handle));
            }
        }
    }

    fn what_is_no_handle_is_stale(h) {
        for bytes in [&b""[..], b"x", &[0xff; 20], &[0; 128]] {
            refused(h.resolve(&Handle::new(bytes)), Errno::ESTALE);
        }
        if h.can.handles {
            let handle = h.handle(&h.file("a").inode).unwrap();
            let mut bytes = handle.as_bytes().to_vec();
            bytes.pop();
            refused(h.resolve(&Handle::new(&bytes)), Errno::ESTALE);
        }
    }

    fn the_place_of_a_directory_is_a_fact(h) {
        assert_eq!(h.locate(&h.root).unwrap(), "/");
        let a = h.dir("a");
        let b = h.mkdir(&a, "b").unwrap().inode;
        assert_eq!(h.locate(&b).unwrap(), "/a/b");
        let above = |dir: &Arc<Inode>| h.whence(dir).map(|(at, n)| (at.identity(), n));
        assert_eq!(above(&a).unwrap(), (h.root.identity(), name("a")));
        h.rename((&h.root, "a"), (&h.root, "c"), RenameFlags::Replace).unwrap();
        assert_eq!(h.locate(&b).unwrap(), "/c/b");
        assert_eq!(above(&a).unwrap(), (h.root.identity(), name("c")));
        assert_eq!(above(&b).unwrap(), (a.identity(), name("b")));
        h.rename((&a, "b"), (&h.root, "d"), RenameFlags::Replace).unwrap();
        assert_eq!(above(&b).unwrap(), (h.root.identity(), name("d")));
        h.rmdir(&h.root, "d").unwrap();
        refused(h.locate(&b), Errno::ESTALE);
        refused(h.whence(&b), Errno::ENOENT);
    }

    fn the_place_of_a_file_is_where_it_was_last_seen(h) {
        let dir = h.dir("dir");
        let file = h.create(&dir, "file").unwrap().0.inode;
        assert_eq!(h.locate(&file).unwrap(), "/dir/file");
        let (at, n) = h.whence(&file).unwrap();
        assert!(Arc::ptr_eq(&at, &dir) && n == name("file"));
        h.rename((&dir, "file"), (&h.root, "moved"), RenameFlags::Replace).unwrap();
        assert_eq!(h.locate(&file).unwrap(), "/moved");
        let (at, n) = h.whence(&file).unwrap();
        assert!(Arc::ptr_eq(&at, &h.root) && n == name("moved"));
        refused(h.whence(&h.root), Errno::ENOENT);
    }
}
