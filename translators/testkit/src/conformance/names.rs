use hermitfs_api::*;
use std::sync::Arc;

use super::hands::{name, refused};

checks! {
    fn the_root_is_a_directory_and_always_the_same_object(h) {
        assert_eq!(h.root.kind(), Kind::Directory);
        let again = block_on(h.volume.root(&h.cx)).unwrap();
        assert!(Arc::ptr_eq(&again.inode, &h.root));
        assert_eq!(again.attr.kind, Kind::Directory);
    }

    fn what_was_made_is_found_and_is_one_inode_while_it_is_held(h) {
        let made = h.file("a");
        let found = h.lookup(&h.root, "a").unwrap();
        assert!(Arc::ptr_eq(&made.inode, &found.inode));
        assert_eq!(made.attr, found.attr);
        assert_eq!(found.inode.identity().ino, found.attr.ino);
        let other = h.file("b");
        assert_ne!(other.inode.identity(), made.inode.identity());
    }

    fn what_is_not_there_is_enoent_and_what_is_no_directory_has_nothing_in_it(h) {
        refused(h.lookup(&h.root, "a"), Errno::ENOENT);
        let file = h.file("a").inode;
        refused(h.lookup(&file, "b"), Errno::ENOTDIR);
        refused(h.create(&file, "b"), Errno::ENOTDIR);
        refused(h.mkdir(&file, "b"), Errno::ENOTDIR);
        refused(h.unlink(&h.root, "none"), Errno::ENOENT);
        refused(h.rmdir(&h.root, "none"), Errno::ENOENT);
    }

    fn names_have_any_byte_and_up_to_255_of_them(h) {
        let mut names: Vec<Vec<u8>> = vec![vec![b'n'; 255], b"...".to_vec(), b" ".to_vec(), b"-rf".to_vec()];
        if h.can.raw_names {
            names.extend((1..=255u8).filter(|&b| b != b'/').map(|b| vec![b'x', b]));
        }
        for bytes in &names {
            let made = block_on(h.volume.mkdir(&h.cx, &h.root, &name(bytes), 0o755, 0));
            made.unwrap_or_else(|error| panic!("{}: {error}", bytes.escape_ascii()));
        }
        let found: Vec<Vec<u8>> = h.list(&h.root, 1000).into_iter().map(|entry| entry.name.into()).collect();
        for bytes in &names {
            assert!(found.contains(bytes), "{} is listed", bytes.escape_ascii());
        }
    }

    fn nothing_is_made_over_a_name(h) {
        let file = h.file("file").inode;
        h.dir("dir");
        h.symlink("link", b"nowhere").unwrap();
        for taken in ["file", "dir", "link"] {
            refused(h.create(&h.root, taken), Errno::EEXIST);
            refused(h.mkdir(&h.root, taken), Errno::EEXIST);
            refused(h.symlink(taken, b"x"), Errno::EEXIST);
            refused(h.link(&file, &h.root, taken), Errno::EEXIST);
            refused(h.mknod(taken, Kind::File, 0), Errno::EEXIST);
        }
    }

    fn every_kind_of_object_can_be_made(h) {
        let file = h.mknod("file", Kind::File, 0).unwrap();
        assert_eq!((file.attr.kind, file.attr.mode, file.attr.size), (Kind::File, 0o640, 0));
        if h.can.special {
            let device = 8 << 8 | 17;
            for (n, kind, rdev) in [
                ("fifo", Kind::Fifo, 0),
                ("socket", Kind::Socket, 0),
                ("char", Kind::CharDevice, device),
                ("block", Kind::BlockDevice, device),
            ] {
                let made = h.mknod(n, kind, rdev).unwrap();
                assert_eq!((made.inode.kind(), made.attr.kind), (kind, kind));
                assert_eq!((made.attr.rdev, made.attr.mode, made.attr.nlink), (rdev, 0o640, 1));
                assert_eq!(h.lookup(&h.root, n).unwrap().attr.rdev, rdev);
                refused(h.open(&made.inode, OpenFlags::READ), Errno::EINVAL);
            }
        }
    }

    fn the_umask_is_taken_off_and_the_rest_of_the_mode_kept(h) {
        let (file, _) = h.create_with(&h.root, "a", 0o4666, 0o027).unwrap();
        assert_eq!(file.attr.mode, 0o4640);
        let dir = h.mkdir_with(&h.root, "d", 0o1777, 0o022).unwrap();
        assert_eq!(dir.attr.mode, 0o1755);
    }

    fn objects_belong_to_who_makes_them(h) {
        if h.can.owners {
            h.chmod(&h.root, 0o777).unwrap();
            let user = h.as_user(1234, 2345);
            let made = user.create(&h.root, "file").unwrap().0;
            assert_eq!((made.attr.uid, made.attr.gid), (1234, 2345));
            let made = user.mkdir(&h.root, "dir").unwrap();
            assert_eq!((made.attr.uid, made.attr.gid), (1234, 2345));
            let made = user.symlink("link", b"x").unwrap();
            assert_eq!((made.attr.uid, made.attr.gid), (1234, 2345));
            let made = user.mknod("node", Kind::Fifo, 0).unwrap();
            assert_eq!((made.attr.uid, made.attr.gid), (1234, 2345));
        }
    }

    fn a_set_group_id_directory_gives_its_group(h) {
        if h.can.owners {
            let dir = h.dir("dir");
            h.setattr(&dir, SetAttr { gid: Some(77), ..SetAttr::default() }).unwrap();
            h.chmod(&dir, 0o2777).unwrap();
            let user = h.as_user(1234, 2345);
            let (file, _) = user.create(&dir, "file").unwrap();
            assert_eq!((file.attr.uid, file.attr.gid, file.attr.mode), (1234, 77, 0o644));
            let sub = user.mkdir(&dir, "sub").unwrap();
            assert_eq!((sub.attr.gid, sub.attr.mode), (77, 0o2755), "and the bit to directories");
        }
    }

    fn symbolic_links_keep_their_target_byte_for_byte(h) {
        let long = vec![b't'; h.can.symlink_size];
        let targets = [&b"x"[..], b"/etc/passwd", b"../\xff\x01/..", &long];
        for (i, target) in targets.into_iter().enumerate() {
            let made = h.symlink(&format!("link{i}"), target).unwrap();
            assert_eq!(h.readlink(&made.inode).unwrap(), target);
            assert_eq!((made.attr.kind, made.attr.size), (Kind::Symlink, target.len() as u64));
        }
        refused(h.symlink("empty", b""), Errno::ENOENT);
        refused(h.symlink("long", &[b't'; 4096]), Errno::ENAMETOOLONG);
        refused(h.readlink(&h.file("file").inode), Errno::EINVAL);
        refused(h.readlink(&h.root), Errno::EINVAL);
    }

    fn hard_links_are_one_object(h) {
        let a = h.file("a").inode;
        let dir = h.dir("dir");
        let b = h.link(&a, &dir, "b").unwrap();
        assert!(Arc::ptr_eq(&a, &b.inode));
        assert_eq!(b.attr.nlink, 2);
        let open = h.open(&a, OpenFlags::WRITE).unwrap();
        h.write(&open, 0, b"shared").unwrap();
        assert_eq!(h.content(&h.lookup(&dir, "b").unwrap().inode), b"shared");
        h.unlink(&h.root, "a").unwrap();
        assert_eq!(h.getattr(&b.inode).nlink, 1);
        assert_eq!(h.content(&b.inode), b"shared");
    }

    fn symbolic_links_and_fifos_have_hard_links_and_directories_have_none(h) {
        let link = h.symlink("link", b"nowhere").unwrap().inode;
        assert_eq!(h.link(&link, &h.root, "link2").unwrap().attr.nlink, 2);
        refused(h.link(&h.dir("dir"), &h.root, "dir2"), Errno::EPERM);
        if h.can.special {
            let fifo = h.mknod("fifo", Kind::Fifo, 0).unwrap().inode;
            assert_eq!(h.link(&fifo, &h.root, "fifo2").unwrap().attr.nlink, 2);
        }
    }

    fn names_are_taken_away_by_the_call_that_is_meant_for_them(h) {
        h.file("file");
        let dir = h.dir("dir");
        refused(h.unlink(&h.root, "dir"), Errno::EISDIR);
        refused(h.rmdir(&h.root, "file"), Errno::ENOTDIR);
        h.create(&dir, "in it").unwrap();
        refused(h.rmdir(&h.root, "dir"), Errno::ENOTEMPTY);
        h.unlink(&dir, "in it").unwrap();
        h.rmdir(&h.root, "dir").unwrap();
        h.unlink(&h.root, "file").unwrap();
        assert!(!h.there("dir") && !h.there("file"));
        h.symlink("link", b"dir").unwrap();
        h.unlink(&h.root, "link").unwrap();
        assert!(!h.there("link"));
    }

    fn a_directory_counts_its_sub_directories_or_nothing(h) {
        let dir = h.dir("dir");
        let empty = h.getattr(&dir).nlink;
        h.mkdir(&dir, "one").unwrap();
        h.mkdir(&dir, "two").unwrap();
        h.create(&dir, "file").unwrap();
        let full = h.getattr(&dir).nlink;
        assert!((empty, full) == (2, 4) || (empty, full) == (1, 1), "{empty}, then {full}");
        h.rmdir(&dir, "one").unwrap();
        assert!([1, 3].contains(&h.getattr(&dir).nlink));
    }

    fn an_unlinked_file_that_is_open_goes_on(h) {
        let file = h.with_content("a", b"before");
        let inode = file.inode().clone();
        h.unlink(&h.root, "a").unwrap();
        assert!(!h.there("a"));
        assert_eq!(h.read(&file, 0, 10).unwrap(), b"before");
        h.write(&file, 6, b", after").unwrap();
        let attr = block_on(h.volume.getattr(&h.cx, &inode, Some(&file))).unwrap();
        assert_eq!((attr.size, attr.nlink), (13, 0));
        let set = SetAttr { size: Some(3), ..SetAttr::default() };
        let attr = block_on(h.volume.setattr(&h.cx, &inode, Some(&file), &set)).unwrap();
        assert_eq!(attr.size, 3);
        h.file("a");
        assert_eq!(h.read(&file, 0, 10).unwrap(), b"bef", "another file of this name is another file");
        h.fsync(&file).unwrap();
        h.release(&file);
    }

    fn nothing_is_made_in_a_removed_directory(h) {
        let dir = h.dir("dir");
        h.rmdir(&h.root, "dir").unwrap();
        for answer in [
            h.create(&dir, "a").map(drop),
            h.mkdir(&dir, "a").map(drop),
            h.link(&h.file("f").inode, &dir, "a").map(drop),
            h.lookup(&dir, "a").map(drop),
        ] {
            let errno = answer.expect_err("it is gone");
            assert!([Errno::ENOENT, Errno::ESTALE].contains(&errno), "{errno}");
        }
    }

    fn making_and_removing_changes_the_times_of_the_directory(h) {
        let dir = h.dir("dir");
        let old = SetAttr { mtime: Some(SetTime::At(Time::new(1000, 0))), ..SetAttr::default() };
        let changed = |what: &str| {
            let attr = h.getattr(&dir);
            assert!(attr.mtime.sec > 1000, "{what} changes the directory's mtime");
            h.setattr(&dir, old).unwrap();
        };
        h.setattr(&dir, old).unwrap();
        let file = h.create(&dir, "a").unwrap().0.inode;
        changed("create");
        h.link(&file, &dir, "b").unwrap();
        changed("link");
        h.rename((&dir, "a"), (&dir, "c"), RenameFlags::Replace).unwrap();
        changed("rename");
        h.unlink(&dir, "b").unwrap();
        changed("unlink");
        h.mkdir(&dir, "d").unwrap();
        changed("mkdir");
        h.rmdir(&dir, "d").unwrap();
        changed("rmdir");
    }
}
