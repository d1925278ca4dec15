use std::collections::BTreeSet;
use std::sync::Arc;

use hermitfs_api::*;

use super::hands::refused;

fn names(entries: &[DirEntry]) -> Vec<String> {
    let mut names: Vec<String> = entries
        .iter()
        .filter(|entry| !entry.is_dots())
        .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
        .collect();
    names.sort();
    names
}

checks! {
    fn a_directory_lists_itself_its_parent_and_what_is_in_it(h) {
        let dir = h.dir("dir");
        let dots = |entries: &[DirEntry]| entries.iter().filter(|entry| entry.is_dots()).count();
        let empty = h.list(&dir, 100);
        assert_eq!((dots(&empty), names(&empty)), (2, vec![]));
        let sub = h.mkdir(&dir, "sub").unwrap();
        let file = h.create(&dir, "file").unwrap().0;
        let full = h.list(&dir, 100);
        assert_eq!((dots(&full), names(&full)), (2, vec!["file".into(), "sub".into()]));
        for entry in full {
            let (ino, kind) = match &*entry.name {
                b"." => (h.getattr(&dir).ino, Kind::Directory),
                b".." => (h.getattr(&h.root).ino, Kind::Directory),
                b"sub" => (sub.attr.ino, Kind::Directory),
                _ => (file.attr.ino, Kind::File),
            };
            assert_eq!(entry.ino, ino, "{}", entry.name.escape_ascii());
            assert!(entry.kind.is_none_or(|found| found == kind));
            assert!(entry.next != 0 && entry.entry.is_none());
        }
        refused(h.readdir(&file.inode, 0, 10, false), Errno::ENOTDIR);
    }

    fn a_list_can_be_read_in_any_portions_and_every_name_comes_once(h) {
        let dir = h.dir("dir");
        let mut expected = BTreeSet::new();
        for i in 0..1500 {
            let name = format!("a rather long name, so that it takes several portions {i}");
            h.create(&dir, &name).unwrap();
            expected.insert(name);
        }
        for max in [1, 7, 100, 5000] {
            let found = names(&h.list(&dir, max));
            assert_eq!(found.len(), expected.len(), "{max} at a time");
            assert!(found.iter().all(|name| expected.contains(name)));
        }
    }

    fn a_position_stays_good_while_names_come_and_go(h) {
        let dir = h.dir("dir");
        for i in 0..200 {
            h.create(&dir, &format!("{i}")).unwrap();
        }
        let mut found = h.readdir(&dir, 0, 50, false).unwrap();
        // What was read is removed, the last of it too, and something new comes.
        for entry in found.iter().filter(|entry| !entry.is_dots()) {
            h.unlink(&dir, std::str::from_utf8(&entry.name).unwrap()).unwrap();
        }
        h.create(&dir, "new").unwrap();
        loop {
            let some = h.readdir(&dir, found.last().unwrap().next, 50, false).unwrap();
            if some.is_empty() {
                break;
            }
            found.extend(some);
        }
        let mut found = names(&found);
        found.retain(|name| name != "new");
        let count = found.len();
        found.dedup();
        assert_eq!((count, found.len()), (200, 200), "each of the old ones once");
    }

    fn a_list_with_objects_gives_the_objects(h) {
        let dir = h.dir("dir");
        let file = h.create(&dir, "file").unwrap().0;
        let sub = h.mkdir(&dir, "sub").unwrap();
        let entries = h.readdir(&dir, 0, 100, true).unwrap();
        assert_eq!(entries.len(), 4);
        for entry in entries {
            match &*entry.name {
                b"." | b".." => assert!(entry.entry.is_none()),
                name => {
                    let made = if name == b"file" { &file } else { &sub };
                    let found = entry.entry.expect("the object");
                    assert!(Arc::ptr_eq(&found.inode, &made.inode));
                    assert_eq!(found.attr, h.getattr(&made.inode));
                }
            }
        }
    }
}
