use std::sync::Arc;

use hermitfs_api::*;

use super::hands::{Answer, Hands, refused};

/// What can stand at a name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stands {
    Nothing,
    File,
    Symlink,
    Empty,
    Full,
}

use Stands::{Empty, File as AFile, Full, Nothing, Symlink};

impl Stands {
    fn is_dir(self) -> bool {
        matches!(self, Empty | Full)
    }

    fn put(self, h: &Hands, n: &str) {
        match self {
            Nothing => {}
            AFile => drop(h.file(n)),
            Symlink => drop(h.symlink(n, b"nowhere").unwrap()),
            Empty => drop(h.dir(n)),
            Full => drop(h.mkdir(&h.dir(n), "in it").unwrap()),
        }
    }

    /// What Linux says; ENOTEMPTY stands for EEXIST too.
    fn expect(self, target: Stands, flags: RenameFlags) -> Answer<()> {
        match (self, target, flags) {
            (Nothing, ..) => Err(Errno::ENOENT),
            (_, Nothing, RenameFlags::Exchange) => Err(Errno::ENOENT),
            (_, Nothing, _) | (_, _, RenameFlags::Exchange) => Ok(()),
            (_, _, flags) if !flags.replaces() => Err(Errno::EEXIST),
            (from, to, _) if from.is_dir() && !to.is_dir() => Err(Errno::ENOTDIR),
            (from, to, _) if !from.is_dir() && to.is_dir() => Err(Errno::EISDIR),
            (_, Full, _) => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }
}

fn identity(h: &Hands, n: &str) -> Option<Identity> {
    h.lookup(&h.root, n)
        .ok()
        .map(|entry| entry.inode.identity())
}

checks! {
    fn rename_does_with_every_pair_what_linux_does(h) {
        let mut flags = vec![RenameFlags::Replace];
        if h.can.rename_flags {
            flags.extend([RenameFlags::NoReplace, RenameFlags::Exchange]);
        }
        if h.can.rename_flags && h.can.special {
            flags.extend([RenameFlags::Whiteout, RenameFlags::WhiteoutNoReplace]);
        }
        let all = [Nothing, AFile, Symlink, Empty, Full];
        let mut number = 0;
        for flags in flags {
            for (from, to) in all.into_iter().flat_map(|from| all.map(|to| (from, to))) {
                number += 1;
                let (a, b) = (format!("a{number}"), format!("b{number}"));
                from.put(h, &a);
                to.put(h, &b);
                let before = (identity(h, &a), identity(h, &b));
                let mut answer = h.rename((&h.root, &a), (&h.root, &b), flags);
                if to == Full && answer == Err(Errno::EEXIST) && flags.replaces() {
                    answer = Err(Errno::ENOTEMPTY);
                }
                assert_eq!(answer, from.expect(to, flags), "{from:?} to {to:?} by {flags:?}");
                let left = identity(h, &a);
                if answer.is_ok() && flags.leaves_whiteout() {
                    let whiteout = h.lookup(&h.root, &a).unwrap().attr;
                    let stands = (whiteout.kind, whiteout.rdev, whiteout.mode, whiteout.nlink);
                    assert_eq!(stands, (Kind::CharDevice, 0, 0, 1), "{from:?} by {flags:?}");
                    assert!(left != before.0 && left != before.1);
                }
                let left = left.filter(|_| answer.is_err() || !flags.leaves_whiteout());
                let after = (left, identity(h, &b));
                let expected = match (answer.is_ok(), flags) {
                    (false, _) => before,
                    (true, RenameFlags::Exchange) => (before.1, before.0),
                    (true, _) => (None, before.0),
                };
                assert_eq!(after, expected, "{from:?} to {to:?} by {flags:?}: what stands where");
            }
        }
    }

    fn a_moved_object_is_the_same_object(h) {
        let file = h.with_content("a", b"content");
        let (from, to) = (h.dir("from"), h.dir("to"));
        h.rename((&h.root, "a"), (&from, "b"), RenameFlags::Replace).unwrap();
        h.rename((&from, "b"), (&to, "c"), RenameFlags::Replace).unwrap();
        let found = h.lookup(&to, "c").unwrap();
        assert!(Arc::ptr_eq(&found.inode, file.inode()));
        h.write(&file, 0, b"CON").unwrap();
        assert_eq!(h.content(&found.inode), b"CONtent");
        refused(h.lookup(&from, "b"), Errno::ENOENT);
    }

    fn a_moved_directory_takes_what_is_in_it_along(h) {
        let (from, to) = (h.dir("from"), h.dir("to"));
        let sub = h.mkdir(&from, "sub").unwrap().inode;
        h.create(&sub, "file").unwrap();
        h.rename((&from, "sub"), (&to, "moved"), RenameFlags::Replace).unwrap();
        let found = h.lookup(&to, "moved").unwrap().inode;
        assert!(Arc::ptr_eq(&found, &sub));
        h.lookup(&found, "file").unwrap();
        assert_eq!(h.locate(&sub).unwrap(), "/to/moved");
        let up = h.list(&sub, 100).into_iter().find(|entry| *entry.name == *b"..").unwrap();
        assert_eq!(up.ino, h.getattr(&to).ino, "its .. is the new parent");
    }

    fn a_rename_of_a_name_to_another_of_the_same_object_does_nothing(h) {
        let file = h.file("a").inode;
        h.link(&file, &h.root, "b").unwrap();
        h.rename((&h.root, "a"), (&h.root, "b"), RenameFlags::Replace).unwrap();
        assert!(h.there("a") && h.there("b"));
        assert_eq!(h.getattr(&file).nlink, 2);
        h.rename((&h.root, "a"), (&h.root, "a"), RenameFlags::Replace).unwrap();
        assert!(h.there("a"));
    }

    fn a_directory_is_not_moved_into_itself_nor_over_what_it_is_in(h) {
        let a = h.dir("a");
        let b = h.mkdir(&a, "b").unwrap().inode;
        refused(h.rename((&h.root, "a"), (&a, "x"), RenameFlags::Replace), Errno::EINVAL);
        refused(h.rename((&h.root, "a"), (&b, "x"), RenameFlags::Replace), Errno::EINVAL);
        h.create(&b, "c").unwrap();
        let over = h.rename((&b, "c"), (&h.root, "a"), RenameFlags::Replace).unwrap_err();
        assert!([Errno::ENOTEMPTY, Errno::EEXIST, Errno::EISDIR].contains(&over), "{over}");
        if h.can.rename_flags {
            refused(h.rename((&h.root, "a"), (&b, "c"), RenameFlags::Exchange), Errno::EINVAL);
        }
    }

    fn what_is_replaced_goes_on_while_it_is_open(h) {
        let old = h.with_content("old", b"old");
        h.with_content("new", b"new");
        h.rename((&h.root, "new"), (&h.root, "old"), RenameFlags::Replace).unwrap();
        assert_eq!(h.read(&old, 0, 9).unwrap(), b"old");
        assert_eq!(h.content(&h.lookup(&h.root, "old").unwrap().inode), b"new");
        assert_eq!(block_on(h.volume.getattr(&h.cx, old.inode(), Some(&old))).unwrap().nlink, 0);
    }

    fn an_exchange_between_directories_moves_both(h) {
        if h.can.rename_flags {
            let (left, right) = (h.dir("left"), h.dir("right"));
            let file = h.create(&left, "file").unwrap().0.inode;
            let sub = h.mkdir(&right, "sub").unwrap().inode;
            h.rename((&left, "file"), (&right, "sub"), RenameFlags::Exchange).unwrap();
            assert!(Arc::ptr_eq(&h.lookup(&left, "file").unwrap().inode, &sub));
            assert!(Arc::ptr_eq(&h.lookup(&right, "sub").unwrap().inode, &file));
            assert_eq!(h.locate(&sub).unwrap(), "/left/file");
        }
    }
}
