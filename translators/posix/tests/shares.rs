//! What a process with few descriptors still can when its users hold all that they may. Alone in its process,
//! as the limit is that of the process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;

use hermitfs_api::{
    Context, Errno, File, Inode, Name, OpenFlags, Origin, RenameFlags, Translator, block_on,
};
use hermitfs_posix::{Options, Posix};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const LIMIT: u64 = 1000;

fn user(uid: u32) -> Context {
    Context {
        uid,
        gid: uid,
        ..Context::default()
    }
}

fn name(text: &str) -> &Name {
    Name::new(text.as_bytes()).unwrap()
}

struct Hog<'a> {
    brick: &'a Posix,
    root: Arc<Inode>,
    cx: Context,
    files: Vec<Arc<File>>,
}

impl Hog<'_> {
    fn create(&mut self, text: &str) -> Result<(), Errno> {
        let made = self.brick.create(
            &self.cx,
            &self.root,
            name(text),
            OpenFlags::READ_WRITE,
            0o600,
            0,
        );
        let (_, file) = block_on(made).map_err(|error| error.errno())?;
        self.files.push(file);
        Ok(())
    }

    /// Makes and opens files until it is refused.
    fn take_all(&mut self, tag: &str) -> usize {
        for n in 0.. {
            let text = format!("{tag} {n}");
            if let Err(refused) = self.create(&text) {
                assert_eq!(refused, Errno::ENFILE);
                let there = block_on(self.brick.lookup(&self.cx, &self.root, name(&text)));
                assert_eq!(
                    there.unwrap_err().errno(),
                    Errno::ENOENT,
                    "made all the same"
                );
                return n;
            }
        }
        0
    }
}

#[test]
fn no_user_takes_everybody_s_descriptors() {
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: Some(LIMIT),
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.path(), mode).unwrap();
    let brick = Posix::open(&Options::new(dir.path())).unwrap();
    let root = block_on(brick.root(&user(0))).unwrap().inode;
    let hog = |uid| Hog {
        brick: &brick,
        root: root.clone(),
        cx: user(uid),
        files: Vec::new(),
    };
    let (mut first, mut second, mut third) = (hog(1001), hog(1002), hog(1003));
    let (one, two) = (first.take_all("one"), second.take_all("two"));
    assert!(one > 400 && two > 80, "{one}, {two}");
    assert!(
        third.create("a third").is_ok(),
        "there is some for who comes next"
    );

    // Who holds all that he may can remove and replace, which is how he gets out of it; and what is open goes on,
    // though none of it gets another descriptor.
    let unlink = |cx: &Context, text: &str| block_on(brick.unlink(cx, &root, name(text)));
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for n in 0..one - 1 {
        unlink(&first.cx, &format!("one {n}")).unwrap();
    }
    let last = format!("one {}", one - 1);
    let [from, to] = [name("two 0"), name(&last)];
    block_on(brick.rename(&first.cx, &root, from, &root, to, RenameFlags::Replace)).unwrap();
    let after = descriptors();
    assert!(after <= before + 150, "{before} descriptors became {after}");
    for file in &first.files {
        let by_file = block_on(brick.getattr(&first.cx, file.inode(), Some(file))).unwrap();
        let by_name = block_on(brick.getattr(&first.cx, file.inode(), None)).unwrap();
        assert_eq!((by_file.nlink, by_name.ino), (0, by_file.ino));
        let written = block_on(brick.write(&first.cx, file, 0, b"goes on")).unwrap();
        assert_eq!(written, 7);
    }

    // Root, and what hermitfs does for itself.
    let mut admin = hog(0);
    for n in 0..50 {
        admin.create(&format!("root {n}")).unwrap();
    }
    assert!(
        block_on(brick.readdir(&user(0), &root, 0, 10_000, true))
            .unwrap()
            .len()
            > 100
    );
    unlink(&user(0), "root 7").unwrap();
    let healer = Context::internal(Origin::Heal);
    let held: Vec<_> = (0..150)
        .map(|n| {
            let found =
                block_on(brick.lookup(&healer, &root, name(&format!("two {}", 1 + n % (two - 1)))));
            block_on(brick.open(&healer, &found.unwrap().inode, OpenFlags::READ)).unwrap()
        })
        .collect();
    assert_eq!(held.len(), 150);

    // Given back, they can be had again.
    drop(first);
    let mut again = hog(1001);
    assert!(again.take_all("again") > one / 2);
}
