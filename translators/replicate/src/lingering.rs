//! A sink in the place of a pair, for those who hold something open over a cut-over.
//!
//! All goes to the sink as it is. Two things need care. Who was in the middle of reading a directory
//! has a position in the source's order, which means nothing on another file system. And the locks
//! of those who hold a file are the kernel's, of the old mount alone: whoever comes to the file by
//! its path does not see them, nor they his. So what is open to read and write, or locked, stays
//! locked for all others until it is closed: programs that agree by locks go on one after the
//! other, and never at the same time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};

use hermitfs_api::{
    Context, DirEntry, Entry, Errno, Error, File, Filter, Identity, Inode, Kind, Lock, LockKind,
    Name, OpenFlags, Result, Translator, async_trait, block_on,
};
use parking_lot::Mutex;

use crate::heal::HEAL;

/// How many passes over one directory are remembered, beside the one that began on the source.
const PASSES: usize = 8;

/// How many entries are asked for at once.
const PIECE: usize = 1024;

pub(crate) struct Lingering {
    sink: Arc<dyn Translator>,
    guards: Guards,
    /// Directories that were open, by what they are on the sink.
    listings: HashMap<Identity, Mutex<Listing>>,
}

/// Locks on the sink in the name of all who hold a file.
pub(crate) struct Guards {
    sink: Arc<dyn Translator>,
    files: Mutex<HashMap<Identity, Guard>>,
    /// One at a time, or two who open one file would take each other for strangers.
    locking: Mutex<()>,
}

#[derive(Default)]
struct Guard {
    /// Has the locks.
    lock: Option<Arc<File>>,
    /// By whom it was open.
    open: Vec<Weak<File>>,
}

impl Guards {
    pub(crate) fn new(sink: Arc<dyn Translator>) -> Guards {
        Guards {
            sink,
            files: Mutex::default(),
            locking: Mutex::default(),
        }
    }

    /// Notes a file that somebody holds; with `lock` all others are kept out of its locks, of both
    /// families. EAGAIN when one of them has a lock.
    pub(crate) fn watch(&self, held: &Arc<File>, lock: bool) -> Result<()> {
        let inode = held.inode();
        let _alone = self.locking.lock();
        let locked = {
            let mut files = self.files.lock();
            let guard = files.entry(inode.identity()).or_default();
            guard.open.push(Arc::downgrade(held));
            guard.lock.is_some()
        };
        if locked || !lock {
            return Ok(());
        }
        let file = block_on(self.locked(inode))?;
        if let Some(guard) = self.files.lock().get_mut(&inode.identity()) {
            guard.lock = Some(file);
        }
        Ok(())
    }

    async fn locked(&self, inode: &Arc<Inode>) -> Result<Arc<File>> {
        // Nothing is written through it; an append-only file cannot be opened otherwise.
        let flags = OpenFlags::READ_WRITE.with(libc::O_APPEND);
        let file = self.sink.open(&HEAL, inode, flags).await?;
        for flock in [false, true] {
            let whole = Lock {
                owner: 0,
                pid: 0,
                kind: LockKind::Exclusive,
                start: 0,
                end: u64::MAX,
                flock,
                ofd: false,
            };
            match self.sink.setlk(&HEAL, &file, &whole, false).await {
                // A brick without locks has none for the others, either.
                Err(error) if error.errno() == Errno::ENOSYS => {}
                done => done?,
            }
        }
        Ok(file)
    }

    /// One of them has closed it; the locks go with the last.
    fn closed(&self, file: &Arc<File>) {
        let identity = file.inode().identity();
        let mut files = self.files.lock();
        let Some(guard) = files.get_mut(&identity) else {
            return;
        };
        guard
            .open
            .retain(|held| !std::ptr::eq(held.as_ptr(), Arc::as_ptr(file)));
        let gone = guard.open.is_empty().then(|| files.remove(&identity));
        drop(files);
        drop(gone);
    }
}

/// One directory's passes. Positions of one are those of no other.
pub(crate) struct Listing {
    /// As it was read on the source.
    first: Pass,
    later: VecDeque<Pass>,
    last: u64,
}

/// Names in an order, each with the position behind it.
#[derive(Default)]
struct Pass {
    names: Vec<(u64, Box<[u8]>)>,
    /// By position: where to go on.
    positions: HashMap<u64, usize>,
}

impl Pass {
    fn new(names: Vec<(u64, Box<[u8]>)>) -> Pass {
        let mut positions = HashMap::new();
        for (at, (position, _)) in names.iter().enumerate() {
            // A position may come twice (names with one hash): better a name twice than never.
            positions.entry(*position).or_insert(at + 1);
        }
        Pass { names, positions }
    }

    fn from(&self, at: usize) -> Vec<(u64, Box<[u8]>)> {
        self.names[at..].iter().take(PIECE).cloned().collect()
    }
}

impl Listing {
    fn new(names: Vec<(u64, Box<[u8]>)>) -> Listing {
        Listing {
            first: Pass::new(names),
            later: VecDeque::new(),
            last: 0,
        }
    }

    /// A new pass over these names.
    fn begin(&mut self, names: impl Iterator<Item = Box<[u8]>>) {
        let used: HashSet<u64> = self.first.positions.keys().copied().collect();
        let mut last = self.last;
        let numbered = names.map(|name| {
            last += 1;
            while used.contains(&last) {
                last += 1;
            }
            (last, name)
        });
        let pass = Pass::new(numbered.collect());
        self.last = last;
        self.later.push_back(pass);
        if self.later.len() > PASSES {
            self.later.pop_front();
        }
    }

    /// Some of what follows a position; 0 is the start of the latest pass.
    fn after(&self, from: u64) -> Option<Vec<(u64, Box<[u8]>)>> {
        if from == 0 {
            return Some(self.later.back().unwrap_or(&self.first).from(0));
        }
        let mut passes = self.later.iter().rev().chain([&self.first]);
        passes.find_map(|pass| Some(pass.from(*pass.positions.get(&from)?)))
    }
}

impl Lingering {
    pub(crate) fn new(guards: Guards, listings: HashMap<Identity, Listing>) -> Lingering {
        let listings = listings.into_iter();
        Lingering {
            sink: guards.sink.clone(),
            guards,
            listings: listings
                .map(|(dir, listing)| (dir, Mutex::new(listing)))
                .collect(),
        }
    }

    /// A directory of the source, as whoever is reading it finds it.
    pub(crate) async fn listing(source: &dyn Translator, dir: &Arc<Inode>) -> Result<Listing> {
        Ok(Listing::new(names(source, dir).await?))
    }
}

/// All names with their positions.
async fn names(brick: &dyn Translator, dir: &Arc<Inode>) -> Result<Vec<(u64, Box<[u8]>)>> {
    let (mut names, mut from) = (Vec::new(), 0);
    loop {
        let some = brick.readdir(&HEAL, dir, from, PIECE, false).await?;
        match some.last() {
            Some(last) => from = last.next,
            None => return Ok(names),
        }
        names.extend(some.into_iter().map(|entry| (entry.next, entry.name)));
    }
}

#[async_trait]
impl Filter for Lingering {
    fn below(&self) -> &dyn Translator {
        &*self.sink
    }

    /// Opened from a directory that somebody holds, while others come to the file by its path.
    async fn open(&self, cx: &Context, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Arc<File>> {
        let file = self
            .sink
            .open(cx, inode, flags.with(OpenFlags::SHARED))
            .await?;
        self.guarded(file).await
    }

    async fn create(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        name: &Name,
        flags: OpenFlags,
        mode: u32,
        umask: u32,
    ) -> Result<(Entry, Arc<File>)> {
        let flags = flags.with(OpenFlags::SHARED);
        let (entry, file) = self.sink.create(cx, dir, name, flags, mode, umask).await?;
        Ok((entry, self.guarded(file).await?))
    }

    async fn release(&self, cx: &Context, file: &Arc<File>) -> Result<()> {
        let released = self.sink.release(cx, file).await;
        self.guards.closed(file);
        released
    }

    async fn readdir(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        from: u64,
        max: usize,
        plus: bool,
    ) -> Result<Vec<DirEntry>> {
        let Some(listing) = self.listings.get(&dir.identity()) else {
            return self.sink.readdir(cx, dir, from, max, plus).await;
        };
        if from == 0 {
            let now = names(&*self.sink, dir).await?;
            listing.lock().begin(now.into_iter().map(|(_, name)| name));
        }
        let (mut entries, mut from) = (Vec::new(), from);
        while entries.is_empty() {
            let piece = listing.lock().after(from);
            let Some(piece) = piece else {
                return Err(Error::new(Errno::ESTALE));
            };
            let Some(last) = piece.last() else { break };
            from = last.0;
            for (next, name) in piece {
                if entries.len() == max {
                    break;
                }
                entries.extend(self.entry(cx, dir, next, name, plus).await?);
            }
        }
        Ok(entries)
    }
}

impl Lingering {
    /// As what was open at the cut-over. EAGAIN while somebody who came by the path has a lock on
    /// it: neither would see the other's.
    async fn guarded(&self, file: Arc<File>) -> Result<Arc<File>> {
        let both = file.flags().reads() && file.flags().writes();
        match self.guards.watch(&file, both) {
            Ok(()) => Ok(file),
            Err(error) => {
                self.guards.closed(&file);
                self.sink.release(&HEAL, &file).await?;
                Err(error)
            }
        }
    }

    /// A name as it is now; `None` when it is gone.
    async fn entry(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        next: u64,
        name: Box<[u8]>,
        plus: bool,
    ) -> Result<Option<DirEntry>> {
        let Ok(checked) = Name::new(&name) else {
            // `.` and `..`
            let ino = dir.identity().ino;
            return Ok(Some(DirEntry {
                name,
                ino,
                kind: Some(Kind::Directory),
                next,
                entry: None,
            }));
        };
        match self.sink.lookup(cx, dir, checked).await {
            Ok(entry) => Ok(Some(DirEntry {
                ino: entry.attr.ino,
                kind: Some(entry.attr.kind),
                next,
                entry: plus.then_some(entry),
                name,
            })),
            Err(error) if error.errno() == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use hermitfs_testkit::Memory;

    use super::*;

    fn named(names: &[(u64, &str)]) -> Vec<(u64, Box<[u8]>)> {
        names
            .iter()
            .map(|(position, name)| (*position, name.as_bytes().into()))
            .collect()
    }

    fn told(names: Option<Vec<(u64, Box<[u8]>)>>) -> Option<String> {
        let name = |(_, name): (u64, Box<[u8]>)| String::from_utf8_lossy(&name).into_owned();
        Some(names?.into_iter().map(name).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_position_of_the_source_leads_on_where_it_did() {
        let listing = Listing::new(named(&[(70, "b"), (30, "a"), (90, "c")]));
        assert_eq!(told(listing.after(70)).as_deref(), Some("a c"));
        assert_eq!(told(listing.after(90)).as_deref(), Some(""));
        assert_eq!(told(listing.after(71)), None, "of no pass");
    }

    #[test]
    fn a_position_that_stands_for_two_names_shows_one_of_them_twice() {
        let listing = Listing::new(named(&[(5, "a"), (5, "b"), (9, "c")]));
        assert_eq!(told(listing.after(5)).as_deref(), Some("b c"));
    }

    #[test]
    fn passes_do_not_share_positions_and_the_first_is_never_forgotten() {
        let mut listing = Listing::new(named(&[(1, "a"), (2, "b"), (3, "c")]));
        let names = |names: &'static str| names.split(' ').map(|name| name.as_bytes().into());
        listing.begin(names("x y"));
        let first = listing.after(0).unwrap();
        assert_eq!(told(Some(first.clone())).as_deref(), Some("x y"));
        for _ in 0..PASSES - 1 {
            listing.begin(names("p q r"));
        }
        assert_eq!(told(listing.after(first[0].0)).as_deref(), Some("y"));
        assert_eq!(told(listing.after(2)).as_deref(), Some("c"));
        listing.begin(names("p"));
        assert_eq!(told(listing.after(first[0].0)), None, "long ago");
        assert_eq!(told(listing.after(1)).as_deref(), Some("b c"));
    }

    #[test]
    fn a_directory_is_read_on_with_what_is_there_now() {
        let cx = Context::default();
        let sink = Arc::new(Memory::new());
        let root = block_on(sink.root(&cx)).unwrap().inode;
        for name in ["b", "d"] {
            let name = Name::new(name.as_bytes()).unwrap();
            block_on(sink.mkdir(&cx, &root, name, 0o755, 0)).unwrap();
        }
        let before = named(&[(70, "b"), (30, "gone"), (90, "d")]);
        let listings = HashMap::from([(root.identity(), Listing::new(before))]);
        let lingering = Lingering::new(Guards::new(sink), listings);
        let read = |from| {
            let entries = block_on(Filter::readdir(&lingering, &cx, &root, from, 100, true));
            let entries = entries.unwrap().into_iter();
            let shown = entries.filter(|entry| !entry.is_dots());
            shown
                .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(read(70), ["d"]);
        assert!(read(90).is_empty());
        let mut again = read(0);
        again.sort();
        assert_eq!(again, ["b", "d"]);
    }
}
