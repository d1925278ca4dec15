use std::collections::BTreeSet;
use std::fs;

use super::*;

fn list(brick: &Brick, max: usize, plus: bool) -> Vec<hermitfs_api::DirEntry> {
    let (dir, mut from, mut all) = (brick.find("d"), 0, Vec::new());
    loop {
        let some = now(brick.readdir(&root(), &dir, from, max, plus)).unwrap();
        let Some(last) = some.last() else { return all };
        assert!(some.len() <= max);
        assert!(some.iter().all(|entry| entry.next != 0));
        from = last.next;
        all.extend(some);
    }
}

#[test]
fn every_name_comes_once_whatever_the_step() {
    everywhere(|brick, kind| {
        let dir = brick.dir.join("d");
        fs::create_dir(&dir).unwrap();
        let mut names = BTreeSet::from([b".".to_vec(), b"..".to_vec()]);
        for n in 0..3_000 {
            let name = format!("{n}{}", "x".repeat(n % 240));
            fs::write(dir.join(&name), "").unwrap();
            names.insert(name.into_bytes());
        }
        for max in [1, 7, 100, 1_000_000] {
            let got = list(brick, max, false);
            assert_eq!(got.len(), names.len(), "{kind:?}, {max} at once");
            assert_eq!(
                got.iter().map(|e| e.name.to_vec()).collect::<BTreeSet<_>>(),
                names
            );
        }
        let plus = list(brick, 64, true);
        for entry in plus.iter().filter(|entry| !entry.is_dots()) {
            let found = entry.entry.as_ref().unwrap();
            assert_eq!(found.attr.ino, entry.ino);
            assert_eq!(entry.kind.unwrap_or(found.attr.kind), found.attr.kind);
        }
        assert!(
            plus.iter()
                .filter(|entry| entry.is_dots())
                .all(|entry| entry.entry.is_none())
        );
        // From every position, without the stream that stands there.
        let all = list(brick, 1_000_000, false);
        let again = Brick::at(&brick.dir);
        for at in (0..all.len() - 1).step_by(97) {
            let next = now(again.readdir(&root(), &again.find("d"), all[at].next, 1, false));
            assert_eq!(next.unwrap()[0].name, all[at + 1].name);
        }
        assert!(
            now(brick.readdir(&root(), &brick.find("d"), 0, 0, false))
                .unwrap()
                .is_empty()
        );
    });
}

#[test]
fn what_was_made_is_seen_when_a_listing_begins_again() {
    let (_dir, brick) = on_tmp();
    fs::create_dir(brick.dir.join("d")).unwrap();
    assert_eq!(list(&brick, 2, false).len(), 2);
    fs::write(brick.dir.join("d/f"), "").unwrap();
    assert_eq!(list(&brick, 2, false).len(), 3);
}

#[test]
fn readers_do_not_disturb_each_other() {
    let (_dir, brick) = on_tmp();
    let dir = brick.dir.join("d");
    fs::create_dir(&dir).unwrap();
    (0..500).for_each(|n| fs::write(dir.join(n.to_string()), "").unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(list(&brick, 3, false).len(), 502)));
        }
    });
}
