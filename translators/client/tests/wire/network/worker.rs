//! Somebody at work at a client, on names that others work on as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hermitfs_api::*;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::recorder::{Event, Log, attr, bytes, entry, inode, names, told};

pub(crate) struct Worker {
    pub(crate) client: Arc<dyn Translator>,
    pub(crate) log: Arc<Log>,
    pub(crate) calls: Arc<AtomicU32>,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) files: Vec<Arc<File>>,
    /// No call takes longer.
    pub(crate) patience: Duration,
    /// Asked before each thing: whether to go on.
    pub(crate) goes_on: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// One call: with a number of its own, its answer written down.
macro_rules! call {
    ($self:ident, $words:expr, $name:ident($($arg:expr),*)) => {{
        let call = $self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let cx = Context { pid: call, ..Context::internal(Origin::User) };
        let begun = Instant::now();
        $self.log.add(call, Event::Asked);
        let result = $self.client.$name(&cx, $($arg),*).await;
        assert!(
            begun.elapsed() <= $self.patience,
            "call {call}, {}, took {:?}", stringify!($name), begun.elapsed(),
        );
        $self.log.add(call, Event::Answered(told(&result, $words)));
        result
    }};
}

fn done(_: &()) -> String {
    "done".into()
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

impl Worker {
    /// Works on so many things, and lets go of all.
    pub(crate) async fn work(mut self, things: usize) {
        for _ in 0..things {
            if !(self.goes_on)() {
                break;
            }
            // What cannot be done cannot be done.
            drop(self.thing().await);
            if self.rng.random_ratio(1, 10) {
                let pause = self.rng.random_range(0..400);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        for file in std::mem::take(&mut self.files) {
            self.release(&file).await;
        }
    }

    /// Which nothing may keep from being done, but the end of the mount.
    async fn release(&self, file: &Arc<File>) {
        let cx = Context::internal(Origin::User);
        if let Err(error) = self.client.release(&cx, file).await {
            assert_eq!(error.errno(), Errno::ENOTCONN, "{error}");
        }
    }

    fn name(&mut self) -> NameBuf {
        NameBuf::new(NAMES.choose(&mut self.rng).unwrap().as_bytes()).unwrap()
    }

    async fn root(&mut self) -> Result<Arc<Inode>> {
        let cx = Context::internal(Origin::User);
        Ok(self.client.root(&cx).await?.inode)
    }

    /// The root, or a directory in it, if there is one.
    async fn dir(&mut self) -> Result<Arc<Inode>> {
        let root = self.root().await?;
        if self.rng.random() {
            return Ok(root);
        }
        let name = self.name();
        let found = call!(self, entry, lookup(&root, &name));
        Ok(match found {
            Ok(found) if found.inode.kind() == Kind::Directory => found.inode,
            _ => root,
        })
    }

    async fn object(&mut self) -> Result<Arc<Inode>> {
        let (dir, name) = (self.dir().await?, self.name());
        Ok(call!(self, entry, lookup(&dir, &name))?.inode)
    }

    fn file(&mut self) -> Option<Arc<File>> {
        self.files.choose(&mut self.rng).cloned()
    }

    async fn keep(&mut self, file: Arc<File>) {
        self.files.push(file);
        if self.files.len() > 3 {
            let file = self.files.swap_remove(self.rng.random_range(0..3));
            self.release(&file).await;
        }
    }

    async fn thing(&mut self) -> Result<()> {
        match self.rng.random_range(0..100) {
            0..35 => self.make().await,
            35..60 => self.take_away().await,
            60..85 => self.with_file().await,
            _ => self.with_object().await,
        }
    }

    async fn make(&mut self) -> Result<()> {
        let (dir, name) = (self.dir().await?, self.name());
        match self.rng.random_range(0..10) {
            0..4 => {
                let shared = libc::O_APPEND | OpenFlags::SHARED;
                let flags = match self.rng.random() {
                    true => OpenFlags::READ_WRITE,
                    false => OpenFlags::READ_WRITE.with(shared),
                };
                let words = |(made, _): &(Entry, Arc<File>)| entry(made);
                let (_, file) = call!(self, words, create(&dir, &name, flags, 0o600, 0))?;
                self.keep(file).await;
            }
            4..7 => drop(call!(self, entry, mkdir(&dir, &name, 0o700, 0))?),
            7 => drop(call!(self, entry, symlink(&dir, &name, b"target"))?),
            8 => {
                let make = Make {
                    kind: Kind::Fifo,
                    mode: 0o600,
                    umask: 0,
                    rdev: 0,
                };
                drop(call!(self, entry, mknod(&dir, &name, &make))?);
            }
            _ => {
                let object = self.object().await?;
                drop(call!(self, entry, link(&object, &dir, &name))?);
            }
        }
        Ok(())
    }

    async fn take_away(&mut self) -> Result<()> {
        let (dir, name) = (self.dir().await?, self.name());
        match self.rng.random_range(0..10) {
            0..3 => call!(self, done, unlink(&dir, &name))?,
            3..5 => call!(self, done, rmdir(&dir, &name))?,
            _ => {
                let (to, new) = (self.dir().await?, self.name());
                let flags = match self.rng.random_range(0..4) {
                    0 => RenameFlags::NoReplace,
                    1 => RenameFlags::Exchange,
                    _ => RenameFlags::Replace,
                };
                call!(self, done, rename(&dir, &name, &to, &new, flags))?;
            }
        }
        Ok(())
    }

    async fn with_file(&mut self) -> Result<()> {
        let Some(file) = self.file() else {
            let object = self.object().await?;
            let truncates = self.rng.random_ratio(1, 3);
            let flags = OpenFlags::READ_WRITE.with(if truncates { libc::O_TRUNC } else { 0 });
            let file = call!(self, |_| "open".into(), open(&object, flags))?;
            self.keep(file).await;
            return Ok(());
        };
        let is = inode(file.inode());
        match self.rng.random_range(0..10) {
            0..5 => {
                let (at, line) = (
                    self.rng.random_range(0..50),
                    self.rng.random_range(0..99999),
                );
                let line = format!("{line:05}\n");
                let words = |len: &usize| format!("{is} {len}");
                call!(self, words, write(&file, at, line.as_bytes()))?;
            }
            5..7 => {
                let (mut buffer, at) = ([0; 100], self.rng.random_range(0..50));
                let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
                let cx = Context {
                    pid: call,
                    ..Context::internal(Origin::User)
                };
                self.log.add(call, Event::Asked);
                let result = self.client.read(&cx, &file, at, &mut buffer).await;
                let words = |len: &usize| format!("{is} {}", bytes(&buffer[..*len]));
                self.log.add(call, Event::Answered(told(&result, words)));
                result?;
            }
            7 => call!(self, done, fsync(&file, false))?,
            8 => {
                let how = match self.rng.random() {
                    true => Allocate::Insert,
                    false => Allocate::Punch,
                };
                call!(self, done, fallocate(&file, how, 0, 4096))?;
            }
            _ => {
                let (from, to) = (self.rng.random_range(0..20), self.rng.random_range(20..40));
                let copied = call!(
                    self,
                    u64::to_string,
                    copy_file_range(&file, from, &file, to, 10)
                );
                copied?;
            }
        }
        Ok(())
    }

    async fn with_object(&mut self) -> Result<()> {
        let object = self.object().await?;
        match self.rng.random_range(0..8) {
            0 => drop(call!(self, attr, getattr(&object, None))),
            1 => {
                let truncates = object.kind() == Kind::File && self.rng.random();
                let set = SetAttr {
                    mode: Some(self.rng.random_range(0..0o777)),
                    size: truncates.then(|| self.rng.random_range(0..60)),
                    ..SetAttr::default()
                };
                call!(self, attr, setattr(&object, None, &set))?;
            }
            2 => drop(call!(self, |target| bytes(target), readlink(&object))?),
            3 => drop(call!(
                self,
                |value| bytes(value),
                getxattr(&object, b"user.x")
            )?),
            4 => call!(
                self,
                done,
                setxattr(&object, b"user.x", b"1", XattrFlags::Any)
            )?,
            5 => call!(
                self,
                done,
                setxattr(&object, b"user.x", b"2", XattrFlags::Create)
            )?,
            6 => call!(self, done, removexattr(&object, b"user.x"))?,
            _ => {
                let dir = self.dir().await?;
                drop(call!(
                    self,
                    |entries| names(entries),
                    readdir(&dir, 0, 100, true)
                )?);
            }
        }
        Ok(())
    }
}
