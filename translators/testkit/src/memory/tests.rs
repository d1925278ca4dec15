use hermitfs_api::*;

use super::*;
use crate::NOT_OF_THE_TREE;

fn name(text: &str) -> &Name {
    Name::new(text.as_bytes()).unwrap()
}

fn run<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    block_on(future)
}

const CX: Context = Context::internal(Origin::User);

fn file(memory: &Memory, path: &str, content: &[u8]) -> Entry {
    let root = run(memory.root(&CX)).unwrap().inode;
    let (entry, file) =
        run(memory.create(&CX, &root, name(path), OpenFlags::READ_WRITE, 0o644, 0)).unwrap();
    run(memory.write(&CX, &file, 0, content)).unwrap();
    entry
}

#[test]
fn a_fork_and_its_origin_do_not_see_each_others_changes() {
    let memory = Memory::new();
    let entry = file(&memory, "a", b"one");
    let fork = memory.fork();
    assert_eq!(fork.tree(), memory.tree());
    file(&fork, "b", b"two");
    let open = run(memory.open(&CX, &entry.inode, OpenFlags::WRITE)).unwrap();
    run(memory.write(&CX, &open, 0, b"uno")).unwrap();
    let diff = Tree::diff(&memory.tree(), &fork.tree());
    assert!(
        diff.iter()
            .any(|line| line == "/a: content differs in the block at 0"),
        "{diff:?}"
    );
    assert!(
        diff.iter()
            .any(|line| line == "/b: File only in the second"),
        "{diff:?}"
    );
    let held = run(fork.getattr(&CX, &entry.inode, None)).unwrap_err();
    assert_eq!(
        held.errno(),
        Errno::ESTALE,
        "nobody holds anything of a fork yet"
    );
}

#[test]
fn an_object_lives_while_it_is_held_and_its_handle_is_stale_afterwards() {
    let memory = Memory::new();
    let entry = file(&memory, "a", b"one");
    let root = run(memory.root(&CX)).unwrap().inode;
    let handle = run(memory.handle(&CX, &entry.inode)).unwrap();
    run(memory.unlink(&CX, &root, name("a"))).unwrap();
    assert!(Arc::ptr_eq(
        &run(memory.resolve(&CX, &handle)).unwrap().inode,
        &entry.inode
    ));
    let number = entry.attr.ino;
    drop(entry);
    assert_eq!(
        run(memory.resolve(&CX, &handle)).unwrap_err().errno(),
        Errno::ESTALE
    );
    let again = file(&memory, "b", b"");
    assert_eq!(again.attr.ino, number, "the number is used again");
    assert_eq!(
        run(memory.resolve(&CX, &handle)).unwrap_err().errno(),
        Errno::ESTALE
    );
}

#[test]
fn a_source_is_changed_by_users_only() {
    let memory = Memory::new();
    run(memory.role(Role::Source)).unwrap();
    let entry = file(&memory, "a", b"one");
    let heal = Context::internal(Origin::Heal);
    let set = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    let refused = run(memory.setattr(&heal, &entry.inode, None, &set)).unwrap_err();
    assert_eq!(refused.errno(), Errno::EROFS);
    assert!(run(memory.open(&heal, &entry.inode, OpenFlags::WRITE)).is_err());
    assert!(run(memory.open(&heal, &entry.inode, OpenFlags::READ)).is_ok());
}

#[test]
fn a_power_cut_leaves_what_was_synced() {
    let memory = Memory::new();
    file(&memory, "a", b"");
    run(memory.sync(&CX)).unwrap();
    file(&memory, "b", b"");
    let after = memory.fork_synced().tree();
    assert!(after.0.contains_key(&b"/a"[..]) && !after.0.contains_key(&b"/b"[..]));
}

#[test]
fn every_change_has_a_time_of_its_own() {
    let memory = Memory::new();
    let a = file(&memory, "a", b"");
    let b = file(&memory, "b", b"");
    assert!(a.attr.ctime < b.attr.ctime);
    assert_ne!(a.attr.mtime.nsec, 0);
    let old = Time::new(-5, 123_456_789);
    let set = SetAttr {
        mtime: Some(SetTime::At(old)),
        ..SetAttr::default()
    };
    assert_eq!(
        run(memory.setattr(&CX, &a.inode, None, &set))
            .unwrap()
            .mtime,
        old
    );
}

#[test]
fn a_tree_in_memory_and_on_disk_are_compared_alike() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path();
    std::fs::create_dir(disk.join("sub")).unwrap();
    std::fs::write(disk.join("sub/a"), b"hello").unwrap();
    std::fs::hard_link(disk.join("sub/a"), disk.join("b")).unwrap();
    std::os::unix::fs::symlink("nowhere", disk.join("link")).unwrap();
    std::fs::create_dir(disk.join("lost+found")).unwrap();
    let on_disk = Tree::of_dir(disk, NOT_OF_THE_TREE).unwrap();

    let memory = Memory::new();
    let root = run(memory.root(&CX)).unwrap().inode;
    let sub = run(memory.mkdir(&CX, &root, name("sub"), 0o755, 0))
        .unwrap()
        .inode;
    let (a, open) = run(memory.create(&CX, &sub, name("a"), OpenFlags::WRITE, 0o644, 0)).unwrap();
    run(memory.write(&CX, &open, 0, b"hello")).unwrap();
    run(memory.link(&CX, &a.inode, &root, name("b"))).unwrap();
    run(memory.symlink(&CX, &root, name("link"), b"nowhere")).unwrap();
    let in_memory = memory.tree();
    let mut diff = Tree::diff(&on_disk, &in_memory);
    diff.retain(|line| !line.contains("mtime") && !line.starts_with("/: mode"));
    assert_eq!(diff, [""; 0]);
    assert_eq!(
        in_memory.0[&b"/sub/a"[..]].same_as.as_deref(),
        Some(&b"/b"[..])
    );
}
