use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hermitfs_api::{Attr, Context, Errno, Fsx, Kind, NameBuf, Result, Role, SetTime, Time};

use super::Settings;
use super::content::{BLOCK, Content};
use super::directory::Directory;

/// `FS_IMMUTABLE_FL`
pub(super) const IMMUTABLE: u32 = 0x10;
/// `FS_APPEND_FL`
pub(super) const APPEND: u32 = 0x20;

/// An object. A clone shares its blocks with the original.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) generation: u64,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u64,
    pub(super) atime: Time,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) btime: Time,
    pub(super) flags: u32,
    pub(super) fsx: Fsx,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Content),
    Directory(Directory),
    Symlink(Vec<u8>),
    Special,
}

impl Object {
    /// Whether both are files of one size whose bytes differ.
    pub(super) fn has_other_content_than(&self, other: &Object) -> bool {
        let (Body::File(ours), Body::File(theirs)) = (&self.body, &other.body) else {
            return false;
        };
        let bytes = |content: &Content| {
            let mut bytes = vec![0; content.size as usize];
            content.read(0, &mut bytes);
            bytes
        };
        ours.size == theirs.size && bytes(ours) != bytes(theirs)
    }
}

/// A whole file system, without anybody who uses it.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) dev: u64,
    pub(super) objects: BTreeMap<u64, Arc<Object>>,
    /// Without a name, until nobody holds them any more.
    pub(super) orphans: BTreeSet<u64>,
    pub(super) busy: BTreeSet<u64>,
    pub(super) settings: Settings,
    pub(super) role: Role,
    next_generation: u64,
    next_number: u64,
    ticks: i64,
}

impl State {
    pub(super) fn new(dev: u64, settings: Settings) -> State {
        // Numbers of two bricks do not overlap, so that whoever mixes them up fails at once.
        let mut state = State {
            dev,
            objects: BTreeMap::new(),
            orphans: BTreeSet::new(),
            busy: BTreeSet::new(),
            settings,
            role: Role::Plain,
            next_generation: 1,
            next_number: (dev & 0xffff) << 32 | 2,
            ticks: 0,
        };
        let root = state.root();
        let directory = Body::Directory(Directory::new(root, None));
        let made = state.make(&Context::default(), Kind::Directory, 0o755, 0, directory);
        debug_assert_eq!(made.ok(), Some(root));
        state.change(root).nlink = 2;
        state
    }

    pub(super) fn root(&self) -> u64 {
        (self.dev & 0xffff) << 32 | 2
    }

    /// The time of the next change: each its own, a second and some nanoseconds after the last.
    pub(super) fn now(&mut self) -> Time {
        if !self.settings.clock_stands {
            self.ticks += 1;
        }
        let nsec = (self.ticks * 1_000_003 + 7) % 1_000_000_000;
        self.hold(Time::new(1_700_000_000 + self.ticks, nsec as u32))
    }

    /// A time as this file system can hold it.
    fn hold(&self, time: Time) -> Time {
        let (min, max) = self.settings.time_range;
        if time.sec < min || time.sec > max {
            return Time::new(time.sec.clamp(min, max), 0);
        }
        Time::new(
            time.sec,
            time.nsec - time.nsec % self.settings.time_granularity.max(1),
        )
    }

    pub(super) fn set_time(&self, set: SetTime, now: Time) -> Time {
        match set {
            SetTime::Now => now,
            SetTime::At(time) => self.hold(time),
        }
    }

    pub(super) fn get(&self, number: u64) -> &Object {
        &self.objects[&number]
    }

    pub(super) fn change(&mut self, number: u64) -> &mut Object {
        Arc::make_mut(
            self.objects
                .get_mut(&number)
                .expect("an object that is referred to"),
        )
    }

    /// The directory above one, and the name there. `None` for the root, and for one that was removed.
    pub(super) fn above(&self, number: u64) -> Option<(u64, NameBuf)> {
        let dir = self.directory(number).ok()?;
        let name = dir.name.clone().filter(|_| self.get(number).nlink > 0)?;
        Some((dir.parent, name))
    }

    pub(super) fn directory(&self, number: u64) -> Result<&Directory> {
        match &self.get(number).body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    pub(super) fn change_directory(&mut self, number: u64) -> &mut Directory {
        match &mut self.change(number).body {
            Body::Directory(directory) => directory,
            _ => unreachable!("was checked to be a directory"),
        }
    }

    /// The content of a file that was opened.
    pub(super) fn content(&self, number: u64) -> &Content {
        match &self.get(number).body {
            Body::File(content) => content,
            _ => unreachable!("only files are opened"),
        }
    }

    pub(super) fn change_content(&mut self, number: u64) -> &mut Content {
        match &mut self.change(number).body {
            Body::File(content) => content,
            _ => unreachable!("only files are opened"),
        }
    }

    /// ENOSPC when the content may not grow by so many bytes.
    pub(super) fn reserve(&self, growth: u64) -> Result<()> {
        match self.settings.capacity {
            Some(capacity) if growth > 0 && self.used() + growth > capacity => {
                Err(Errno::ENOSPC.into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.objects
            .values()
            .map(|o| {
                if let Body::File(c) = &o.body {
                    c.allocated()
                } else {
                    0
                }
            })
            .sum()
    }

    /// All paths that are text, each after its directory's, and what stands there.
    pub(super) fn paths(&self) -> Vec<(String, Kind)> {
        let mut all = Vec::new();
        let mut todo = vec![(self.root(), String::new())];
        while let Some((dir, path)) = todo.pop() {
            let Body::Directory(directory) = &self.get(dir).body else {
                continue;
            };
            for (name, &(number, _)) in &directory.names {
                let name = String::from_utf8_lossy(name.as_bytes());
                let path = if path.is_empty() {
                    name.into()
                } else {
                    format!("{path}/{name}")
                };
                let kind = self.get(number).kind;
                if kind == Kind::Directory {
                    todo.push((number, path.clone()));
                }
                all.push((path, kind));
            }
        }
        all
    }

    /// A new object without a name yet.
    pub(super) fn make(
        &mut self,
        cx: &Context,
        kind: Kind,
        mode: u32,
        rdev: u64,
        body: Body,
    ) -> Result<u64> {
        if self
            .settings
            .objects
            .is_some_and(|most| self.objects.len() as u64 >= most)
        {
            return Err(Errno::ENOSPC.into());
        }
        let number = if self.settings.reuse_numbers {
            let root = self.root();
            (root..)
                .find(|number| !self.objects.contains_key(number))
                .unwrap_or(root)
        } else {
            self.next_number
        };
        self.next_number = self.next_number.max(number + 1);
        let generation = self.next_generation;
        self.next_generation += 1;
        let now = self.now();
        self.objects.insert(
            number,
            Arc::new(Object {
                generation,
                kind,
                mode,
                nlink: 0,
                uid: cx.uid,
                gid: cx.gid,
                rdev: if kind.is_device() { rdev } else { 0 },
                atime: now,
                mtime: now,
                ctime: now,
                btime: now,
                flags: 0,
                fsx: Fsx::default(),
                xattrs: BTreeMap::new(),
                body,
            }),
        );
        Ok(number)
    }

    /// A name was taken away; the object goes when nobody holds it any more.
    pub(super) fn unlinked(&mut self, number: u64, now: Time) {
        let object = self.change(number);
        object.nlink = if object.kind == Kind::Directory {
            0
        } else {
            object.nlink - 1
        };
        object.ctime = now;
        if object.nlink == 0 {
            self.orphans.insert(number);
        }
    }

    /// Removes what has no name and is not held.
    pub(super) fn sweep(&mut self, held: impl Fn(u64) -> bool) {
        let gone: Vec<u64> = self
            .orphans
            .iter()
            .copied()
            .filter(|&number| !held(number))
            .collect();
        for number in gone {
            self.orphans.remove(&number);
            self.busy.remove(&number);
            self.objects.remove(&number);
        }
    }

    pub(super) fn attr(&self, number: u64) -> Attr {
        let object = self.get(number);
        let (size, allocated) = match &object.body {
            Body::File(content) => (content.size, content.allocated()),
            Body::Directory(_) => (BLOCK, BLOCK),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Special => (0, 0),
        };
        Attr {
            ino: number,
            dev: self.dev,
            kind: object.kind,
            mode: object.mode,
            nlink: object.nlink,
            uid: object.uid,
            gid: object.gid,
            rdev: object.rdev,
            size,
            blocks: allocated / 512,
            blksize: BLOCK as u32,
            atime: object.atime,
            mtime: object.mtime,
            ctime: object.ctime,
            btime: Some(object.btime),
        }
    }
}
