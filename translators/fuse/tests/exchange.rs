//! Another volume under a mount that is in use.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Hook, Mounted, hooked};
use hermitfs_api::{
    Context, Errno, File, Inode, Name, OpenFlags, Result, Translator, async_trait, block_on,
};
use hermitfs_fuse::{Exchange, ExchangeThreads};
use hermitfs_testkit::Memory;

const CX: Context = Context {
    uid: 0,
    gid: 0,
    pid: 0,
    origin: hermitfs_api::Origin::User,
    client: 0,
};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A file of another volume, with this content.
fn successor(volume: &Memory, name: &str, content: &[u8]) -> (Arc<Inode>, Arc<File>) {
    let root = block_on(volume.root(&CX)).unwrap().inode;
    let name = Name::new(name.as_bytes()).unwrap();
    let made = volume.create(&CX, &root, name, OpenFlags::READ_WRITE, 0o644, 0);
    let (_, file) = block_on(made).unwrap();
    block_on(volume.write(&CX, &file, 0, content)).unwrap();
    (root, file)
}

fn content(volume: &Memory, file: &Arc<File>) -> Vec<u8> {
    let mut buffer = vec![0; 100];
    let read = block_on(volume.read(&CX, file, 0, &mut buffer)).unwrap();
    buffer.truncate(read);
    buffer
}

fn exchange(mounted: &Mounted, volume: &Arc<Memory>, root: Arc<Inode>, file: &Arc<File>) {
    let open = mounted.mount.open_files();
    assert!(open.iter().all(|open| !open.bypasses));
    let files = open.into_iter().map(|open| (open.handle, file.clone()));
    let new = Exchange {
        volume: volume.clone(),
        root,
        files: files.collect(),
        objects: HashMap::new(),
    };
    let threads = ExchangeThreads::start().unwrap();
    mounted.mount.exchange(new, threads);
    mounted.mount.release();
}

#[test]
fn an_open_file_goes_on_with_its_number_on_the_other_volume() {
    let mounted = Mounted::new(Memory::new());
    let other = Arc::new(Memory::new());
    fs::write(mounted.at("file"), "the same").unwrap();
    let mut options = OpenOptions::new();
    let held = options.read(true).write(true).open(mounted.at("file"));
    let held = held.unwrap();
    let number = held.metadata().unwrap().ino();
    let (root, file) = successor(&other, "elsewhere", b"the same");
    assert!(mounted.mount.hold_opens(soon()) && mounted.mount.hold_lookups(soon()));
    mounted.mount.detach_lazy().unwrap();
    exchange(&mounted, &other, root, &file);
    held.write_all_at(b"changed", 4).unwrap();
    assert_eq!(content(&other, &file), b"the changed");
    let meta = held.metadata().unwrap();
    assert_eq!((meta.ino(), meta.len()), (number, 11));
    held.set_len(3).unwrap();
    held.sync_all().unwrap();
    assert_eq!(content(&other, &file), b"the");
    // Others change it, too, and that is seen.
    block_on(other.write(&CX, &file, 0, b"everything")).unwrap();
    assert_eq!(held.metadata().unwrap().len(), 10);
    let until = soon();
    let mut seen = [0; 10];
    while &seen != b"everything" {
        assert!(Instant::now() < until, "{seen:?}");
        held.read_exact_at(&mut seen, 0).unwrap();
    }
}

#[test]
fn what_is_held_waits_and_goes_on_when_nothing_came_of_it() {
    let mounted = Mounted::new(Memory::new());
    fs::write(mounted.at("file"), "x").unwrap();
    assert!(mounted.mount.hold_opens(soon()) && mounted.mount.hold_lookups(soon()));
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| fs::read(mounted.at("file")));
        let made = scope.spawn(|| fs::write(mounted.at("made"), "y"));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!opened.is_finished() && !made.is_finished());
        mounted.mount.release();
        assert_eq!(opened.join().unwrap().unwrap(), b"x");
        made.join().unwrap().unwrap();
    });
    assert_eq!(fs::read(mounted.at("made")).unwrap(), b"y");
}

/// Holds writes, and fails them in the end.
#[derive(Default)]
struct Retired {
    holds: AtomicBool,
    arrived: AtomicBool,
}

struct Hold(Arc<Retired>);

#[async_trait]
impl Hook for Hold {
    async fn before(&self, operation: &'static str) -> Result<()> {
        if operation != "write" || !self.0.holds.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.0.arrived.store(true, Ordering::SeqCst);
        while self.0.holds.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Errno::ESTALE.into())
    }
}

#[test]
fn a_write_that_the_old_volume_held_is_done_on_the_new_one() {
    let state = Arc::new(Retired::default());
    let mounted = Mounted::new(hooked(Hold(state.clone())));
    let other = Arc::new(Memory::new());
    fs::write(mounted.at("file"), "old").unwrap();
    let mut options = OpenOptions::new();
    let held = options.read(true).write(true).open(mounted.at("file"));
    let held = held.unwrap();
    let (root, file) = successor(&other, "file", b"old");
    state.holds.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let written = scope.spawn(|| held.write_all_at(b"new", 0));
        while !state.arrived.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(mounted.mount.hold_opens(soon()));
        mounted.mount.detach_lazy().unwrap();
        exchange(&mounted, &other, root, &file);
        state.holds.store(false, Ordering::SeqCst);
        written.join().unwrap().unwrap();
    });
    assert_eq!(content(&other, &file), b"new");
}
