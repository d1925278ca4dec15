use hermitfs_api::*;

use super::hands::{Hands, name, refused};

/// Larger than the block of any file system.
const BIG: usize = 64 << 10;
const ACL: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// user::rw-,user:1000:r--,group::r--,mask::r--,other::---
const NAMED: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255,
    255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// VFS_CAP_REVISION_2 with cap_net_raw, permitted and effective.
const CAPABILITY: &[u8] = &[
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

const NODUMP: u32 = 0x40;
const IMMUTABLE: u32 = 0x10;

/// A file with nothing special, root's own.
fn plain(n: &str, content: &[u8]) -> Whole {
    Whole {
        name: name(n),
        content: content.to_vec(),
        mode: 0o640,
        uid: 0,
        gid: 0,
        atime: Time::new(1_000_000_000, 0),
        mtime: Time::new(1_000_000_001, 0),
        xattrs: Xattrs::new(),
        flags: 0,
        project: 0,
        mask: 0,
    }
}

fn xattr(name: &str, value: &[u8]) -> (Box<[u8]>, Vec<u8>) {
    (name.as_bytes().into(), value.to_vec())
}

/// The healer's: who makes a file whole is root, and no user.
fn healer(h: &Hands) -> Hands {
    h.of(Origin::Heal)
}

fn is_as(h: &Hands, wanted: &Whole) {
    let entry = h
        .lookup(&h.root, &String::from_utf8_lossy(wanted.name.as_bytes()))
        .unwrap();
    let Attr {
        mode,
        uid,
        gid,
        size,
        atime,
        mtime,
        nlink,
        ..
    } = entry.attr;
    assert_eq!((mode, uid, gid), (wanted.mode, wanted.uid, wanted.gid));
    assert_eq!((size, nlink), (wanted.content.len() as u64, 1));
    assert_eq!((atime, mtime), (wanted.atime, wanted.mtime));
    for (name, value) in &wanted.xattrs {
        let name = String::from_utf8_lossy(name);
        assert_eq!(h.getxattr(&entry.inode, &name).unwrap(), *value, "{name}");
    }
    assert!(h.content(&entry.inode) == wanted.content);
}

/// As told and as looked up later: reading has changed the access time since, flags the change time, and
/// blocks are counted when they are on the disk.
fn same(told: Attr, there: Attr) {
    let Attr {
        atime,
        ctime,
        blocks,
        ..
    } = there;
    assert_eq!(
        Attr {
            atime,
            ctime,
            blocks,
            ..told
        },
        there
    );
}

checks! {
    fn a_snapshot_has_everything_of_a_file(h) {
        let file = h.with_content("a", b"content").inode().clone();
        h.chmod(&file, 0o604).unwrap();
        if h.can.xattrs {
            h.setxattr(&file, "user.x", b"value").unwrap();
            h.setxattr(&file, "user.empty", b"").unwrap();
        }
        if h.can.acls {
            h.setxattr(&file, ACL, NAMED).unwrap();
        }
        let flags = if h.can.flags { h.get_flags(&file).unwrap() | NODUMP } else { 0 };
        if h.can.flags {
            h.set_flags(&file, flags).unwrap();
        }
        let told = h.snapshot(&["a"], 100).remove(0).unwrap();
        assert_eq!(told.entry.inode.identity(), file.identity());
        same(told.entry.attr, h.getattr(&file));
        assert_eq!(told.content.as_deref(), Some(&b"content"[..]));
        assert_eq!(told.fsx.flags, flags);
        let mut xattrs: Vec<_> = told.xattrs.iter().filter(|(name, _)| !name.starts_with(b"security.")).collect();
        xattrs.sort();
        let mut wanted = Vec::new();
        if h.can.acls {
            wanted.push(xattr(ACL, NAMED));
        }
        if h.can.xattrs {
            wanted.extend([xattr("user.empty", b""), xattr("user.x", b"value")]);
        }
        assert_eq!(xattrs, wanted.iter().collect::<Vec<_>>());
    }

    fn a_snapshot_answers_for_each_name(h) {
        h.with_content("a", b"one");
        h.with_content("empty", b"");
        h.dir("d");
        h.symlink("link", b"nowhere").unwrap();
        let all = h.snapshot(&["a", "missing", "empty", "d", "link"], 100);
        let content: Vec<_> = all.iter().map(|one| one.as_ref().map(|told| told.content.as_deref()).map_err(|e| *e)).collect();
        let wanted: [std::result::Result<Option<&[u8]>, Errno>; 5] =
            [Ok(Some(b"one")), Err(Errno::ENOENT), Ok(Some(b"")), Ok(None), Ok(Some(b"nowhere"))];
        assert_eq!(content, wanted);
        let kinds: Vec<_> = all.iter().flatten().map(|told| told.entry.attr.kind).collect();
        assert_eq!(kinds, [Kind::File, Kind::File, Kind::Directory, Kind::Symlink]);
    }

    fn a_snapshot_leaves_out_what_is_large_or_has_holes(h) {
        h.with_content("large", &[1; 101]);
        h.with_content("just", &[1; 100]);
        let sparse = h.file("sparse").inode;
        h.truncate(&sparse, 8 * BIG as u64).unwrap();
        let all = h.snapshot(&["large", "just"], 100);
        let got: Vec<_> = all.iter().map(|told| told.as_ref().unwrap().content.is_some()).collect();
        assert_eq!(got, [false, true]);
        if h.can.holes {
            let told = h.snapshot(&["sparse"], u64::MAX).remove(0).unwrap();
            assert_eq!((told.content, told.entry.attr.size), (None, 8 * BIG as u64));
        }
    }

    fn a_snapshot_ends_when_it_is_enough(h) {
        let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        for n in &names {
            h.with_content(n, &vec![7; BIG]);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (mut from, mut answers) = (0, 0);
        while from < names.len() {
            let some = h.snapshot(&names[from..], BIG as u64);
            assert!(!some.is_empty() && some.iter().all(|told| told.as_ref().unwrap().bytes() >= BIG));
            from += some.len();
            answers += 1;
        }
        assert_eq!(from, names.len());
        assert!(answers > 1, "all of it came at once");
    }

    fn a_snapshot_is_of_a_directorys_names(h) {
        let file = h.file("a").inode;
        refused(h.snapshot_in(&file, &["b"], 1), Errno::ENOTDIR);
    }

    fn a_file_is_made_whole(h) {
        let h = &healer(h);
        let mut file = plain("a", b"content");
        if h.can.owners {
            (file.uid, file.gid) = (12, 34);
        }
        if h.can.xattrs {
            file.xattrs.extend([xattr("user.x", b"value"), xattr("user.empty", b"")]);
        }
        if h.can.acls {
            file.xattrs.push(xattr(ACL, NAMED));
        }
        let attr = h.make_whole(std::slice::from_ref(&file)).remove(0).unwrap();
        is_as(h, &file);
        same(attr, h.lookup(&h.root, "a").unwrap().attr);
    }

    fn files_are_made_each_for_itself(h) {
        let h = &healer(h);
        h.with_content("taken", b"before");
        let large: Vec<u8> = (0..2 * BIG as u32).map(|i| (i % 251) as u8).collect();
        let files = [plain("empty", b""), plain("taken", b"new"), plain("large", &large)];
        let made = h.make_whole(&files);
        assert_eq!(made.iter().map(|made| made.as_ref().err().copied()).collect::<Vec<_>>(), [None, Some(Errno::EEXIST), None]);
        is_as(h, &files[0]);
        is_as(h, &files[2]);
        assert_eq!(h.content(&h.lookup(&h.root, "taken").unwrap().inode), b"before");
    }

    fn set_id_bits_and_capabilities_of_others_are_made_too(h) {
        if h.can.owners && h.can.trusted {
            let h = &healer(h);
            let mut file = plain("a", b"content");
            (file.uid, file.gid, file.mode) = (1000, 1000, 0o6755);
            file.xattrs.push(xattr("security.capability", CAPABILITY));
            h.make_whole(std::slice::from_ref(&file)).remove(0).unwrap();
            is_as(h, &file);
        }
    }

    fn what_a_directory_gives_to_new_files_is_not_kept(h) {
        if h.can.owners && h.can.acls {
            let h = &healer(h);
            h.setxattr(&h.root, DEFAULT, NAMED).unwrap();
            h.setattr(&h.root, SetAttr { gid: Some(77), mode: Some(0o2755), ..SetAttr::default() }).unwrap();
            let file = plain("a", b"content");
            h.make_whole(std::slice::from_ref(&file)).remove(0).unwrap();
            is_as(h, &file);
            refused(h.getxattr(&h.lookup(&h.root, "a").unwrap().inode, ACL), Errno::ENODATA);
        }
    }

    fn inode_flags_come_last(h) {
        if h.can.flags {
            let h = &healer(h);
            let file = Whole { flags: IMMUTABLE | NODUMP, mask: IMMUTABLE | NODUMP, ..plain("a", b"content") };
            h.make_whole(std::slice::from_ref(&file)).remove(0).unwrap();
            is_as(h, &file);
            let inode = h.lookup(&h.root, "a").unwrap().inode;
            let flags = h.get_flags(&inode).unwrap();
            assert_eq!(flags & (IMMUTABLE | NODUMP), IMMUTABLE | NODUMP);
            h.set_flags(&inode, flags & !IMMUTABLE).unwrap();
        }
    }

    fn what_cannot_be_made_whole_is_not_there(h) {
        let h = &healer(h);
        let odd = Whole { xattrs: vec![xattr("nonsense.x", b"v")], ..plain("odd", b"content") };
        let made = h.make_whole(&[odd, plain("good", b"content")]);
        assert!(made[0].is_err() && made[1].is_ok(), "{made:?}");
        refused(h.lookup(&h.root, "odd"), Errno::ENOENT);
        is_as(h, &plain("good", b"content"));
    }

    fn a_user_makes_whole_what_he_could_make(h) {
        if h.can.owners {
            h.chmod(&h.root, 0o777).unwrap();
            let user = h.as_user(1000, 1000);
            let own = Whole { uid: 1000, gid: 1000, ..plain("own", b"content") };
            user.make_whole(std::slice::from_ref(&own)).remove(0).unwrap();
            is_as(h, &own);
        }
    }
}
