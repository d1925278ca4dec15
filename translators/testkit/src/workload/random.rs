use std::sync::Arc;

use hermitfs_api::{Allocate, Context, Kind, RenameFlags, Time, XattrFlags, block_on};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Answer, Data, Op};
use crate::Memory;

/// What random operations are made of.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Names that collide on purpose: the same for files and directories.
    pub names: Vec<&'static str>,
    /// Depth of paths, 1 for the root directory alone.
    pub depth: usize,
    /// Largest offset written to, in bytes.
    pub file_size: u64,
    /// Modes of fallocate(2) that are used; none where the file system has none.
    pub allocate: Vec<Allocate>,
    /// Names of extended attributes that are used; none where the file system has none.
    pub xattrs: Vec<&'static str>,
    /// Uses POSIX ACLs.
    pub acls: bool,
    /// Changes owners (needs root).
    pub owners: bool,
}

impl Default for Mix {
    /// What ext4, xfs and btrfs all can, as root.
    fn default() -> Mix {
        Mix {
            names: vec!["a", "b", "c", "d\u{e9}"],
            depth: 3,
            file_size: 20_000,
            allocate: vec![
                Allocate::Reserve { keep_size: false },
                Allocate::Reserve { keep_size: true },
                Allocate::Punch,
                Allocate::Zero { keep_size: false },
                Allocate::Zero { keep_size: true },
            ],
            xattrs: vec!["user.one", "user.two", "trusted.three"],
            acls: true,
            owners: true,
        }
    }
}

impl Mix {
    /// Leaves out what a file system has not got, by trying it there on a file `probe`, which is removed
    /// again. Shifting modes of fallocate(2) are tried too, and added where they work.
    pub fn fit_for(mut self, mut run: impl FnMut(&Op) -> Answer) -> Mix {
        let path = String::from("probe");
        let mut works = |op: Op| run(&op) == Answer::Done;
        works(Op::Create {
            path: path.clone(),
            mode: 0o600,
        });
        let data = Data {
            len: 16_384,
            seed: 0,
        };
        works(Op::Write {
            path: path.clone(),
            at: 0,
            data,
        });
        self.allocate.extend([Allocate::Collapse, Allocate::Insert]);
        self.allocate.retain(|&how| {
            works(Op::Fallocate {
                path: path.clone(),
                how,
                at: 4096,
                len: 4096,
            })
        });
        let mut set = |name: &str, value: &[u8]| {
            let (name, value) = (name.into(), value.into());
            works(Op::SetXattr {
                path: path.clone(),
                name,
                value,
                flags: XattrFlags::Any,
            })
        };
        self.xattrs.retain(|name| set(name, b"value"));
        self.acls &= set("system.posix_acl_access", &[2, 0, 0, 0]);
        works(Op::Unlink { path });
        self
    }
}

/// Random operations without an end, the same for the same seed and mix.
#[derive(Debug)]
pub struct Ops {
    random: ChaCha8Rng,
    mix: Mix,
    /// What there would be if all operations so far had run alone.
    model: Arc<Memory>,
    there: Vec<(String, Kind)>,
}

impl Ops {
    /// From a seed, which the caller prints.
    pub fn new(seed: u64, mix: Mix) -> Ops {
        Ops {
            random: ChaCha8Rng::seed_from_u64(seed),
            mix,
            model: Arc::new(Memory::new()),
            there: Vec::new(),
        }
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.random)
            .expect("a list that is not empty")
            .clone()
    }

    /// A name in some directory, there or not.
    fn path(&mut self) -> String {
        if self.random.random_bool(0.05) {
            // Anywhere: what is to be a directory on the way may be something else.
            let names: Vec<_> = (0..self.mix.depth).map(|_| self.name()).collect();
            return names.join("/");
        }
        let depth = self.mix.depth;
        let is_parent = |(path, kind): &&(String, Kind)| {
            *kind == Kind::Directory && path.split('/').count() < depth
        };
        let parents: Vec<&str> = self
            .there
            .iter()
            .filter(is_parent)
            .map(|(p, _)| &p[..])
            .collect();
        let parent = match self.random.random_range(0..=parents.len()) {
            0 => None,
            number => Some(parents[number - 1].to_string()),
        };
        let name = self.name();
        parent.map_or(name.to_string(), |parent| format!("{parent}/{name}"))
    }

    fn name(&mut self) -> &'static str {
        let names = self.mix.names.clone();
        self.one_of(&names)
    }

    /// A path where nothing stands, mostly.
    fn free(&mut self) -> String {
        let mut path = self.path();
        for _ in 0..3 {
            if !self.there.iter().any(|(there, _)| *there == path) {
                break;
            }
            path = self.path();
        }
        path
    }

    /// A path where something of a kind stands, mostly.
    fn known(&mut self, is_meant: fn(Kind) -> bool) -> String {
        let known = self.there.iter().filter(|(_, kind)| is_meant(*kind));
        let known: Vec<String> = known.map(|(path, _)| path.clone()).collect();
        match known.choose(&mut self.random) {
            Some(path) if self.random.random_bool(0.85) => path.clone(),
            _ => self.path(),
        }
    }

    fn file(&mut self) -> String {
        self.known(|kind| kind == Kind::File)
    }

    fn dir(&mut self) -> String {
        self.known(|kind| kind == Kind::Directory)
    }

    fn any(&mut self) -> String {
        self.known(|_| true)
    }

    /// Round the borders of blocks, more often than not.
    fn offset(&mut self) -> u64 {
        let at = self.random.random_range(0..=self.mix.file_size);
        match self.random.random_range(0..3) {
            0 => at,
            1 => at - at % 4096,
            _ => (at - at % 4096 + self.random.random_range(0..3)).saturating_sub(1),
        }
    }

    fn data(&mut self) -> Data {
        let most = self.mix.file_size as usize / 2 + 1;
        let len = if self.random.random_bool(0.7) {
            self.random.random_range(1..200)
        } else {
            self.random.random_range(1..most)
        };
        Data {
            len,
            seed: self.random.random(),
        }
    }

    fn mode(&mut self) -> u32 {
        self.one_of(&[0o644, 0o600, 0o755, 0o777, 0o4755, 0o2711, 0o1777, 0o000])
    }

    fn rename_flags(&mut self) -> RenameFlags {
        use RenameFlags::{Exchange, NoReplace, Replace, Whiteout, WhiteoutNoReplace};
        match self.random.random_range(0..12) {
            0 => Whiteout,
            1 => WhiteoutNoReplace,
            _ => self.one_of(&[Replace, Replace, Replace, NoReplace, Exchange]),
        }
    }

    fn allocate(&mut self, path: String) -> Op {
        let how = self.one_of(&self.mix.allocate.clone());
        let (mut at, mut len) = (self.offset(), self.offset() + 1);
        if matches!(how, Allocate::Collapse | Allocate::Insert) {
            (at, len) = (at - at % 4096, 4096);
        }
        Op::Fallocate { path, how, at, len }
    }

    fn xattr(&mut self, path: String) -> Op {
        let name = self.one_of(&self.mix.xattrs.clone()).to_string();
        if self.random.random_bool(0.3) {
            return Op::RemoveXattr { path, name };
        }
        let len = self.random.random_range(0..80);
        let value = (0..len).map(|_| self.random.random()).collect();
        let flags = self.one_of(&[
            XattrFlags::Any,
            XattrFlags::Any,
            XattrFlags::Create,
            XattrFlags::Replace,
        ]);
        Op::SetXattr {
            path,
            name,
            value,
            flags,
        }
    }

    fn acl(&mut self, path: String) -> Op {
        let name = self
            .one_of(&["system.posix_acl_access", "system.posix_acl_default"])
            .to_string();
        if self.random.random_bool(0.2) {
            return Op::RemoveXattr { path, name };
        }
        let mut value = vec![2, 0, 0, 0];
        let mut entry = |tag: u16, perm: u16, id: u32| {
            value.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
            value.extend(id.to_le_bytes());
        };
        let perm = |random: &mut ChaCha8Rng| random.random_range(0..8);
        let named = self.random.random_bool(0.7);
        entry(1, perm(&mut self.random), u32::MAX);
        if named {
            entry(2, perm(&mut self.random), 1000);
        }
        entry(4, perm(&mut self.random), u32::MAX);
        if named {
            entry(8, perm(&mut self.random), 1001);
            entry(16, perm(&mut self.random), u32::MAX);
        }
        entry(32, perm(&mut self.random), u32::MAX);
        Op::SetXattr {
            path,
            name,
            value,
            flags: XattrFlags::Any,
        }
    }
}

impl Ops {
    fn make(&mut self) -> Op {
        let path = self.free();
        match self.random.random_range(0..24) {
            0..8 => Op::Mkdir {
                path,
                mode: self.mode(),
            },
            8 => Op::Mkfifo {
                path,
                mode: self.mode(),
            },
            9 | 10 => Op::Symlink {
                path,
                target: self.path(),
            },
            11..15 => Op::Link {
                path: self.known(|kind| kind != Kind::Directory),
                new: path,
            },
            _ => Op::Create {
                path,
                mode: self.mode(),
            },
        }
    }

    fn rename(&mut self) -> Op {
        let path = self.any();
        let new = match self.random.random_range(0..4) {
            0 | 1 => self.free(),
            2 => self.any(),
            _ => self.path(),
        };
        Op::Rename {
            path,
            new,
            flags: self.rename_flags(),
        }
    }

    fn draw(&mut self) -> Op {
        match self.random.random_range(0..100) {
            0..24 => self.make(),
            24..31 => Op::Unlink {
                path: self.known(|kind| kind != Kind::Directory),
            },
            31..35 => Op::Rmdir { path: self.dir() },
            35..48 => self.rename(),
            48..60 => Op::Write {
                path: self.file(),
                at: self.offset(),
                data: self.data(),
            },
            60..64 => Op::Append {
                path: self.file(),
                data: self.data(),
            },
            64..69 => Op::Truncate {
                path: self.file(),
                size: self.offset(),
            },
            69..76 if !self.mix.allocate.is_empty() => {
                let path = self.file();
                self.allocate(path)
            }
            76..79 => Op::Chmod {
                path: self.any(),
                mode: self.mode(),
            },
            79..81 if self.mix.owners => {
                let (uid, gid) = (
                    self.random.random_range(0..3),
                    self.random.random_range(0..3),
                );
                Op::Chown {
                    path: self.any(),
                    uid,
                    gid,
                }
            }
            81..83 => {
                let sec = self.random.random_range(-1_000_000..2_000_000_000);
                let mtime = Time::new(sec, self.random.random_range(0..1_000_000_000));
                Op::Utimes {
                    path: self.any(),
                    mtime,
                }
            }
            83..89 if !self.mix.xattrs.is_empty() => {
                let path = self.any();
                self.xattr(path)
            }
            89..92 if self.mix.acls => {
                let path = self.any();
                self.acl(path)
            }
            92..95 => Op::List { path: self.dir() },
            _ => Op::Look { path: self.any() },
        }
    }
}

impl Iterator for Ops {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        let op = self.draw();
        let changes = !matches!(op, Op::Look { .. } | Op::List { .. });
        if changes && block_on(op.on(&*self.model, &Context::default())) == Answer::Done {
            self.there = self.model.paths();
        }
        Some(op)
    }
}
