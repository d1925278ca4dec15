use hermitfs_api::*;

use super::hands::refused;

/// user::rw-,user:1000:rw-,group::r--,mask::rw-,other::r--
const NAMED: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255,
    255, 255, 16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];
/// user::rwx,group::r-x,other::---
const PLAIN: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255,
    255, 255, 255,
];
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

checks! {
    fn without_extended_attributes_they_are_refused(h) {
        if !h.can.xattrs {
            let file = h.file("a").inode;
            refused(h.setxattr(&file, "user.x", b"y"), Errno::EOPNOTSUPP);
            refused(h.getxattr(&file, "user.x"), Errno::EOPNOTSUPP);
            assert_eq!(h.user_xattrs(&file), [""; 0]);
        }
    }

    fn an_extended_attribute_is_kept_byte_for_byte(h) {
        if h.can.xattrs {
            let large: Vec<u8> = (0..h.can.xattr_size).map(|i| i as u8).collect();
            for inode in [h.file("a").inode, h.dir("d")] {
                for value in [&b""[..], b"v", b"\0\xff\0", &large] {
                    h.setxattr(&inode, "user.x", value).unwrap();
                    assert_eq!(h.getxattr(&inode, "user.x").unwrap(), value);
                }
            }
        }
    }

    fn extended_attributes_are_listed_and_removed(h) {
        if h.can.xattrs {
            let file = h.file("a").inode;
            assert_eq!(h.user_xattrs(&file), [""; 0]);
            for name in ["user.a", "user.b", "user.c"] {
                h.setxattr(&file, name, b"v").unwrap();
            }
            assert_eq!(h.user_xattrs(&file), ["user.a", "user.b", "user.c"]);
            h.removexattr(&file, "user.b").unwrap();
            assert_eq!(h.user_xattrs(&file), ["user.a", "user.c"]);
            refused(h.getxattr(&file, "user.b"), Errno::ENODATA);
            refused(h.removexattr(&file, "user.b"), Errno::ENODATA);
        }
    }

    fn create_and_replace_mean_what_they_say(h) {
        if h.can.xattrs {
            let file = h.file("a").inode;
            let set = |value: &[u8], flags| h.setxattr_with(&file, "user.x", value, flags);
            refused(set(b"1", XattrFlags::Replace), Errno::ENODATA);
            set(b"2", XattrFlags::Create).unwrap();
            refused(set(b"3", XattrFlags::Create), Errno::EEXIST);
            set(b"4", XattrFlags::Replace).unwrap();
            assert_eq!(h.getxattr(&file, "user.x").unwrap(), b"4");
        }
    }

    fn names_of_extended_attributes_are_checked(h) {
        if h.can.xattrs {
            let file = h.file("a").inode;
            refused(h.setxattr(&file, "nonsense.x", b"v"), Errno::EOPNOTSUPP);
            refused(h.setxattr(&file, "user.", b"v"), Errno::EINVAL);
            refused(h.setxattr(&file, &format!("user.{}", "x".repeat(251)), b"v"), Errno::ERANGE);
            let longest = format!("user.{}", "x".repeat(250));
            h.setxattr(&file, &longest, b"v").unwrap();
            assert_eq!(h.getxattr(&file, &longest).unwrap(), b"v");
            refused(h.setxattr(&file, "user.x", &vec![0; 65_537]), Errno::E2BIG);
        }
    }

    fn only_files_and_directories_have_users_attributes(h) {
        if h.can.xattrs {
            let link = h.symlink("link", b"nowhere").unwrap().inode;
            refused(h.setxattr(&link, "user.x", b"v"), Errno::EPERM);
            if h.can.trusted {
                h.setxattr(&link, "trusted.x", b"v").unwrap();
                assert_eq!(h.getxattr(&link, "trusted.x").unwrap(), b"v");
            }
            if h.can.trusted && h.can.special {
                let fifo = h.mknod("fifo", Kind::Fifo, 0).unwrap().inode;
                refused(h.setxattr(&fifo, "user.x", b"v"), Errno::EPERM);
                h.setxattr(&fifo, "trusted.x", b"v").unwrap();
            }
        }
    }

    fn a_capability_falls_with_a_write_and_a_new_owner(h) {
        if h.can.trusted {
            // VFS_CAP_REVISION_2 with cap_net_raw, permitted and effective.
            let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let file = h.with_content("a", b"content");
            let name = "security.capability";
            h.setxattr(file.inode(), name, &capability).unwrap();
            assert_eq!(h.getxattr(file.inode(), name).unwrap(), capability);
            h.write(&file, 0, b"x").unwrap();
            refused(h.getxattr(file.inode(), name), Errno::ENODATA);
            h.setxattr(file.inode(), name, &capability).unwrap();
            h.setattr(file.inode(), SetAttr { uid: Some(7), ..SetAttr::default() }).unwrap();
            refused(h.getxattr(file.inode(), name), Errno::ENODATA);
        }
    }

    fn an_access_acl_and_the_mode_go_together(h) {
        if h.can.acls {
            let file = h.file("a").inode;
            h.setxattr(&file, ACCESS, NAMED).unwrap();
            assert_eq!(h.getattr(&file).mode, 0o664, "the mask is the group's part");
            assert_eq!(h.getxattr(&file, ACCESS).unwrap(), NAMED);
            h.chmod(&file, 0o600).unwrap();
            let narrowed = h.getxattr(&file, ACCESS).unwrap();
            assert_eq!((narrowed[30], narrowed[38]), (0, 0), "mask and others follow the mode");
            h.setxattr(&file, ACCESS, PLAIN).unwrap();
            assert_eq!(h.getattr(&file).mode, 0o750);
            refused(h.getxattr(&file, ACCESS), Errno::ENODATA);
            h.setxattr(&file, ACCESS, NAMED).unwrap();
            h.removexattr(&file, ACCESS).unwrap();
            refused(h.getxattr(&file, ACCESS), Errno::ENODATA);
            refused(h.setxattr(&file, ACCESS, &NAMED[..20]), Errno::EINVAL);
            refused(h.setxattr(&file, DEFAULT, NAMED), Errno::EACCES);
        }
    }

    fn a_default_acl_is_inherited_and_wins_over_the_umask(h) {
        if h.can.acls {
            let dir = h.dir("dir");
            h.setxattr(&dir, DEFAULT, NAMED).unwrap();
            let (file, _) = h.create_with(&dir, "file", 0o666, 0o077).unwrap();
            assert_eq!(file.attr.mode, 0o664);
            assert_eq!(h.getxattr(&file.inode, ACCESS).unwrap(), NAMED);
            refused(h.getxattr(&file.inode, DEFAULT), Errno::ENODATA);
            let sub = h.mkdir_with(&dir, "sub", 0o700, 0).unwrap();
            assert_eq!(sub.attr.mode, 0o600, "what the caller did not ask for is not given");
            assert_eq!(h.getxattr(&sub.inode, DEFAULT).unwrap(), NAMED);
            let make = Make { kind: Kind::File, mode: 0o640, umask: 0o777, rdev: 0 };
            let node = block_on(h.volume.mknod(&h.cx, &dir, &super::hands::name("node"), &make));
            assert_eq!(node.unwrap().attr.mode, 0o640);
        }
    }
}
