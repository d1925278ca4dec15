//! Random operations here and, as plain system calls, on a directory of the same file system.

use hermitfs_api::block_on;
use hermitfs_testkit::Tree;
use hermitfs_testkit::workload::{Disk, Mix, Op, Ops, shrink};

use super::*;

/// The first difference between the leaf and the system calls.
fn differs(at: &Path, ops: &[Op], handles: bool) -> Option<String> {
    let (ours, native) = (at.join("ours"), at.join("native"));
    for dir in [&ours, &native] {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir(dir).unwrap();
    }
    let options = Options {
        handles,
        ..Options::new(&ours)
    };
    let (posix, disk) = (Posix::open(&options).unwrap(), Disk::open(&native).unwrap());
    for (number, op) in ops.iter().enumerate() {
        let looks = [Some(op.path()), op.new_path()].into_iter().flatten();
        let looks = looks.map(|path| Op::Look { path: path.into() });
        for op in [op.clone()].into_iter().chain(looks) {
            let (found, expected) = (block_on(op.on(&posix, &root())), op.on_disk(&disk));
            if found != expected {
                return Some(format!(
                    "operation {number}, {op:?}: {found:?} | {expected:?}"
                ));
            }
        }
    }
    let found = Tree::of(&posix, &[]).unwrap().without_times();
    let expected = Tree::of_dir(&native, &[]).unwrap().without_times();
    let lines = Tree::diff(&found, &expected);
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[test]
fn the_leaf_answers_as_its_file_system_does() {
    for kind in image::Kind::ALL {
        let image = image::Image::new(kind);
        let at = image.path();
        let disk = Disk::open(&at).unwrap();
        let mix = Mix::default().fit_for(|op| op.on_disk(&disk));
        for seed in 0..4 {
            let handles = seed != 3;
            println!("{kind:?}, seed {seed}, handles {handles}");
            let ops: Vec<Op> = Ops::new(seed, mix.clone()).take(1_500).collect();
            if differs(&at, &ops, handles).is_some() {
                let least = shrink(ops, |ops| differs(&at, ops, handles).is_some());
                let why = differs(&at, &least, handles).unwrap_or_default();
                panic!("{kind:?}, seed {seed}, leaf | system calls: {why}\nin {least:#?}");
            }
        }
    }
}
