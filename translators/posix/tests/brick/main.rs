//! What is promised of a brick, on the file systems that people have.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod away;
mod caller;
mod confinement;
mod conformance;
mod data;
mod handles;
mod image;
mod listing;
mod meta;
mod source;
mod unlinked;
mod without_handles;
mod workload;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use hermitfs_api::{Context, Errno, Inode, Name, NameBuf, Origin, Result, Translator, poll_once};
use hermitfs_posix::{Options, Posix};

/// The answer, which has to be there at the first poll.
fn now<F: Future>(future: F) -> F::Output {
    match poll_once(pin!(future)) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("an operation of the leaf has to answer at its first poll"),
    }
}

fn root() -> Context {
    Context::default()
}

fn user(uid: u32, gid: u32) -> Context {
    Context {
        uid,
        gid,
        ..Context::default()
    }
}

fn healer() -> Context {
    Context::internal(Origin::Heal)
}

fn name(text: &str) -> &Name {
    Name::new(text.as_bytes()).unwrap()
}

fn errno<T>(result: Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("this has to fail"),
        Err(error) => error.errno(),
    }
}

/// A brick in a directory, which is looked at from both sides.
struct Brick {
    posix: Posix,
    dir: PathBuf,
}

impl std::ops::Deref for Brick {
    type Target = Posix;
    fn deref(&self) -> &Posix {
        &self.posix
    }
}

impl Brick {
    fn at(dir: &Path) -> Brick {
        let posix = Posix::open(&Options::new(dir)).unwrap();
        Brick {
            posix,
            dir: dir.to_owned(),
        }
    }

    fn top(&self) -> Arc<Inode> {
        now(self.root(&root())).unwrap().inode
    }

    /// By a path from the root.
    fn find(&self, path: &str) -> Arc<Inode> {
        let mut inode = self.top();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            inode = now(self.lookup(&root(), &inode, name(part))).unwrap().inode;
        }
        inode
    }

    fn whence_of(&self, inode: &Arc<Inode>) -> (Arc<Inode>, NameBuf) {
        now(self.whence(&root(), inode)).unwrap()
    }

    fn path_of(&self, inode: &Arc<Inode>) -> String {
        now(self.locate(&root(), inode)).unwrap().display()
    }
}

/// A brick on a temporary directory.
fn on_tmp() -> (tempfile::TempDir, Brick) {
    let dir = tempfile::tempdir().unwrap();
    let brick = Brick::at(dir.path());
    (dir, brick)
}

/// The same test on each file system.
fn everywhere(test: impl Fn(&Brick, image::Kind)) {
    for kind in image::Kind::ALL {
        let image = image::Image::new(kind);
        let dir = image.path().join("brick");
        std::fs::create_dir(&dir).unwrap();
        println!("on {kind:?}");
        test(&Brick::at(&dir), kind);
    }
}
