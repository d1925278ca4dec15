//! (tests) A brick in memory whose files say where their space is, and can share it.

use std::collections::HashMap;
use std::sync::Arc;

use hermitfs_api::{
    Allocate, Context, Entry, Errno, Extent, File, Filter, Identity, Name, OpenFlags, Result,
    Translator, async_trait, block_on,
};
use hermitfs_testkit::Memory;
use parking_lot::Mutex;

use super::{HEAL, Healer, between};

const SIZE: usize = 256 << 10;
const USER: Context = Context::internal(hermitfs_api::Origin::User);

#[derive(Default)]
struct Spacious {
    below: Memory,
    extents: Mutex<HashMap<Identity, Vec<Extent>>>,
    /// Bytes that were shared; `None`: there is no such thing here.
    cloned: Mutex<Option<u64>>,
    reserved: Mutex<Vec<(u64, u64)>>,
}

#[async_trait]
impl Filter for Spacious {
    fn below(&self) -> &dyn Translator {
        &self.below
    }

    async fn extents(
        &self,
        _: &Context,
        file: &Arc<File>,
        from: u64,
        max: usize,
    ) -> Result<Vec<Extent>> {
        let extents = self.extents.lock();
        let extents = extents.get(&file.inode().identity()).cloned();
        let after = extents.unwrap_or_default().into_iter();
        Ok(after.filter(|it| it.end() > from).take(max).collect())
    }

    async fn clone_range(
        &self,
        cx: &Context,
        from: &Arc<File>,
        from_at: u64,
        to: &Arc<File>,
        to_at: u64,
        len: u64,
    ) -> Result<()> {
        if self.cloned.lock().is_none() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let mut content = vec![0; len as usize];
        if self.below.read(cx, from, from_at, &mut content).await? < content.len() {
            return Err(Errno::EINVAL.into());
        }
        self.below.write(cx, to, to_at, &content).await?;
        let mut cloned = self.cloned.lock();
        *cloned = cloned.map(|bytes| bytes + len);
        Ok(())
    }

    async fn fallocate(
        &self,
        cx: &Context,
        file: &Arc<File>,
        how: Allocate,
        at: u64,
        len: u64,
    ) -> Result<()> {
        if matches!(how, Allocate::Reserve { keep_size: true }) {
            self.reserved.lock().push((at, at + len));
        }
        self.below.fallocate(cx, file, how, at, len).await
    }
}

impl Spacious {
    fn sharing() -> Arc<Spacious> {
        let it = Spacious::default();
        *it.cloned.lock() = Some(0);
        Arc::new(it)
    }

    fn root(&self) -> Entry {
        block_on(Filter::root(self, &USER)).unwrap()
    }

    fn write(&self, name: &str, at: u64, content: &[u8]) -> Entry {
        let (root, name) = (self.root().inode, Name::new(name.as_bytes()).unwrap());
        block_on(async {
            let file = match Filter::lookup(self, &USER, &root, name).await {
                Ok(there) => {
                    self.below
                        .open(&USER, &there.inode, OpenFlags::READ_WRITE)
                        .await
                }
                Err(_) => {
                    let made =
                        self.below
                            .create(&USER, &root, name, OpenFlags::READ_WRITE, 0o644, 0);
                    made.await.map(|(_, file)| file)
                }
            };
            self.below
                .write(&USER, &file.unwrap(), at, content)
                .await
                .unwrap();
            Filter::lookup(self, &USER, &root, name).await.unwrap()
        })
    }

    fn read(&self, name: &str) -> Vec<u8> {
        let (root, name) = (self.root().inode, Name::new(name.as_bytes()).unwrap());
        block_on(async {
            let there = Filter::lookup(self, &USER, &root, name).await.unwrap();
            let file = self
                .below
                .open(&USER, &there.inode, OpenFlags::READ)
                .await
                .unwrap();
            let mut content = vec![0; there.attr.size as usize];
            self.below
                .read(&USER, &file, 0, &mut content)
                .await
                .unwrap();
            content
        })
    }

    /// All of a file shares what begins at this place.
    fn share(&self, entry: &Entry, place: u64) {
        let extent = Extent {
            at: 0,
            len: entry.attr.size.next_multiple_of(4096),
            place: Some(place),
            unwritten: false,
            shared: true,
        };
        let extents = vec![extent];
        self.extents.lock().insert(entry.inode.identity(), extents);
    }

    fn cloned(&self) -> u64 {
        self.cloned.lock().unwrap()
    }
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut byte = || {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (x >> 56) as u8
    };
    (0..len).map(|_| byte()).collect()
}

fn heal(healer: &Healer, entry: &Entry, name: &str) {
    let root = block_on(healer.sink.root(&HEAL)).unwrap().inode;
    let name = Name::new(name.as_bytes()).unwrap();
    let (_, body) = block_on(healer.fresh(&entry.inode, &entry.attr, &root, name)).unwrap();
    body.unwrap();
}

#[test]
fn what_is_shared_is_brought_once_though_its_last_block_is_no_whole_one() {
    let (source, sink) = (Spacious::sharing(), Spacious::sharing());
    let healer = between(source.clone(), sink.clone());
    let content = random(1, SIZE + 100);
    for name in ["a", "b", "c"] {
        let entry = source.write(name, 0, &content);
        source.share(&entry, 1 << 30);
        heal(&healer, &entry, name);
        assert!(sink.read(name) == content);
    }
    assert_eq!(sink.cloned(), 2 * SIZE as u64);
}

#[test]
fn small_files_share_as_well() {
    let (source, sink) = (Spacious::sharing(), Spacious::sharing());
    let healer = between(source.clone(), sink.clone());
    let content = random(2, 64 << 10);
    for name in ["a", "b"] {
        let entry = source.write(name, 0, &content);
        source.share(&entry, 1 << 30);
        heal(&healer, &entry, name);
        assert!(sink.read(name) == content);
    }
    assert_eq!(sink.cloned(), 64 << 10);
}

#[test]
fn an_image_that_has_changed_since_is_believed_in_nothing() {
    let (source, sink) = (Spacious::sharing(), Spacious::sharing());
    let healer = between(source.clone(), sink.clone());
    let content = random(3, SIZE);
    let share = |name: &str| {
        let entry = source.write(name, 0, &content);
        source.share(&entry, 1 << 30);
        heal(&healer, &entry, name);
        assert!(sink.read(name) == content, "{name}");
    };
    share("a");
    sink.write("a", 100_000, b"somebody else's");
    share("b");
    // The second one has it now.
    sink.write("a", 0, &random(4, SIZE));
    share("c");
    assert_eq!(sink.cloned(), 2 * SIZE as u64);
}

#[test]
fn what_is_shared_on_the_disk_and_not_in_the_page_cache_is_what_readers_see() {
    let (source, sink) = (Spacious::sharing(), Spacious::sharing());
    let healer = between(source.clone(), sink.clone());
    for (seed, name) in [(5, "a"), (6, "b")] {
        let content = random(seed, SIZE);
        let entry = source.write(name, 0, &content);
        source.share(&entry, 1 << 30);
        heal(&healer, &entry, name);
        assert!(sink.read(name) == content);
    }
}

#[test]
fn where_nothing_can_be_shared_all_is_copied() {
    let (source, sink) = (Spacious::sharing(), Arc::new(Spacious::default()));
    let healer = between(source.clone(), sink.clone());
    let content = random(7, SIZE);
    for name in ["a", "b", "c"] {
        let entry = source.write(name, 0, &content);
        source.share(&entry, 1 << 30);
        heal(&healer, &entry, name);
        assert!(sink.read(name) == content);
    }
}

#[test]
fn nothing_is_shared_after_a_sync_has_failed() {
    let (source, sink) = (Spacious::sharing(), Spacious::sharing());
    let healer = between(source.clone(), sink.clone());
    healer
        .suspect
        .store(true, std::sync::atomic::Ordering::Relaxed);
    for name in ["a", "b"] {
        let entry = source.write(name, 0, &random(8, SIZE));
        source.share(&entry, 1 << 30);
        heal(&healer, &entry, name);
    }
    assert_eq!(sink.cloned(), 0);
}

#[test]
fn what_is_reserved_is_reserved_behind_the_end_as_well() {
    let (source, sink) = (Spacious::sharing(), Spacious::sharing());
    let healer = between(source.clone(), sink.clone());
    let entry = source.write("a", 0, &random(9, SIZE));
    let unwritten = |at, len| Extent {
        at,
        len,
        place: None,
        unwritten: true,
        shared: false,
    };
    let size = SIZE as u64;
    let extents = vec![unwritten(4096, 8192), unwritten(size, 1 << 20)];
    source
        .extents
        .lock()
        .insert(entry.inode.identity(), extents);
    heal(&healer, &entry, "a");
    let expected = [(4096, 12288), (size, size + (1 << 20))];
    // The sink here never says what it has, so it is asked for twice.
    assert_eq!(sink.reserved.lock()[..2], expected);
    assert!(sink.read("a") == source.read("a"));
}
