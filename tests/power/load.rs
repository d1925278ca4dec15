//! Users who call fsync, and write down what they were promised by it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::promises::{BLOCK, Book, GROWING, block, pattern};

/// Blocks of the file that is overwritten in place.
const BLOCKS: u64 = 512;

/// Files that are overwritten now and then, by which time they have settled.
const SELDOM: u64 = 300;

/// Files that the one who makes names keeps.
const KEPT: usize = 60;

/// Where they work, below the root.
const HOME: &str = "promised";

/// Makes what the load finds, on the source.
pub(crate) fn prepare(root: &Path) {
    fs::create_dir(root.join(HOME)).unwrap();
    let blocks: Vec<u8> = (0..BLOCKS).flat_map(|index| block(index, 0)).collect();
    fs::write(root.join(HOME).join("direct"), &blocks).unwrap();
    fs::write(root.join(HOME).join("quiet"), &blocks).unwrap();
    fs::write(root.join(HOME).join("log"), b"").unwrap();
    for n in 0..SELDOM {
        fs::write(root.join(seldom(n)), block(0, 0)).unwrap();
    }
}

fn seldom(n: u64) -> String {
    format!("{HOME}/seldom-{n}")
}

/// Counts on where an earlier load stopped.
#[derive(Default)]
pub(crate) struct Counters {
    names: u64,
    version: u64,
    seldom: u64,
    logged: u64,
}

/// Works in a mount until told to stop.
pub(crate) fn run(
    mount: &Path,
    book: &Book,
    seed: u64,
    counters: &mut Counters,
    stop: &AtomicBool,
) {
    let going = || !stop.load(Ordering::Relaxed);
    let Counters {
        names,
        version,
        seldom,
        logged,
    } = counters;
    let first = *version + 1;
    std::thread::scope(|scope| {
        scope.spawn(|| overwrite(mount, book, seed, version, &going));
        scope.spawn(|| overwrite_quietly(mount, seed, first, &going));
        scope.spawn(|| overwrite_seldom(mount, book, seed, seldom, &going));
        scope.spawn(|| append(mount, book, seed, logged, &going));
        scope.spawn(|| names_come_and_go(mount, book, seed, names, &going));
    });
}

fn chance(seed: u64, who: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed.wrapping_mul(10) + who)
}

fn pause(chance: &mut ChaCha8Rng) {
    std::thread::sleep(Duration::from_millis(chance.random_range(0..20)));
}

/// A database's way: blocks in place, past the page cache.
fn overwrite(mount: &Path, book: &Book, seed: u64, version: &mut u64, going: &impl Fn() -> bool) {
    let (name, mut chance) = (format!("{HOME}/direct"), chance(seed, 1));
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(mount.join(&name))
        .unwrap();
    while going() {
        let mut written = Vec::new();
        for _ in 0..chance.random_range(1..20) {
            *version += 1;
            let index = chance.random_range(0..BLOCKS);
            write_aligned(&file, &block(index, *version), index * BLOCK as u64);
            written.push((index, *version));
        }
        if chance.random() {
            file.sync_data().unwrap();
            for (index, version) in written {
                book.block(&name, index, version);
            }
        }
        pause(&mut chance);
    }
}

/// Blocks in place, and the file's time set back to what it was: names, sizes and times tell
/// nothing of it.
fn overwrite_quietly(mount: &Path, seed: u64, version: u64, going: &impl Fn() -> bool) {
    let mut chance = chance(seed, 2);
    let path = mount.join(HOME).join("quiet");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    while going() {
        let index = chance.random_range(0..BLOCKS);
        let content = block(index, version + chance.random_range(0..1000));
        file.write_all_at(&content, index * BLOCK as u64).unwrap();
        file.set_modified(time).unwrap();
        pause(&mut chance);
    }
}

/// One block of one of many files, made durable by a sync that leaves times alone: what is on the
/// disk then has a new content, and the size and times that it had when it settled.
fn overwrite_seldom(
    mount: &Path,
    book: &Book,
    seed: u64,
    version: &mut u64,
    going: &impl Fn() -> bool,
) {
    let mut chance = chance(seed, 5);
    while going() {
        *version += 1;
        let index = *version % SELDOM;
        let name = seldom(index);
        let file = OpenOptions::new().write(true).open(mount.join(&name));
        let file = file.unwrap();
        // Blocks are known by the place that they have in a file: here it is always the first.
        file.write_all_at(&block(0, *version), 0).unwrap();
        file.sync_data().unwrap();
        book.block(&name, 0, *version);
        pause(&mut chance);
    }
}

fn append(mount: &Path, book: &Book, seed: u64, logged: &mut u64, going: &impl Fn() -> bool) {
    let (name, mut chance) = (format!("{HOME}/log"), chance(seed, 3));
    let all = pattern(GROWING, 8 << 20);
    let mut file = OpenOptions::new()
        .append(true)
        .open(mount.join(&name))
        .unwrap();
    while going() && *logged + 5000 < all.len() as u64 {
        let end = *logged + chance.random_range(1..5000);
        file.write_all(&all[*logged as usize..end as usize])
            .unwrap();
        *logged = end;
        if chance.random() {
            file.sync_all().unwrap();
            book.grown(&name, *logged);
        }
        pause(&mut chance);
    }
}

/// A mail server's way: written aside, synced, renamed into place, the directory synced; then
/// linked, shortened, written anew, moved, removed.
fn names_come_and_go(
    mount: &Path,
    book: &Book,
    seed: u64,
    names: &mut u64,
    going: &impl Fn() -> bool,
) {
    let (home, mut chance) = (mount.join(HOME), chance(seed, 4));
    let sync_home = || File::open(&home).unwrap().sync_all().unwrap();
    let mut kept: Vec<String> = Vec::new();
    let write = |name: &str, size: usize, fill: u64| {
        let mut file = File::create(mount.join(name)).unwrap();
        file.write_all(&pattern(fill, size)).unwrap();
        file.sync_all().unwrap();
    };
    while going() {
        *names += 1;
        let (fresh, size) = (*names, chance.random_range(0..30_000));
        let name = format!("{HOME}/name-{fresh}");
        if kept.len() < KEPT || chance.random_ratio(1, 3) {
            let aside = format!("{HOME}/aside-{fresh}");
            write(&aside, size, fresh);
            fs::rename(mount.join(aside), mount.join(&name)).unwrap();
            sync_home();
            book.file(&name, size, fresh);
            kept.push(name);
            pause(&mut chance);
            continue;
        }
        let old = kept.swap_remove(chance.random_range(0..kept.len()));
        match chance.random_range(0..5) {
            0 => {
                fs::hard_link(mount.join(&old), mount.join(&name)).unwrap();
                kept.push(old);
            }
            1 => {
                book.taken_back(&old);
                let file = OpenOptions::new().write(true).open(mount.join(&old));
                file.unwrap().set_len(size as u64).unwrap();
            }
            2 => {
                // Replaced by rename: the old content or the new, and after the sync the new.
                book.taken_back(&old);
                let aside = format!("{HOME}/aside-{fresh}");
                write(&aside, size, fresh);
                fs::rename(mount.join(aside), mount.join(&old)).unwrap();
                sync_home();
                book.file(&old, size, fresh);
                kept.push(old);
            }
            3 => {
                book.taken_back(&old);
                fs::rename(mount.join(&old), mount.join(&name)).unwrap();
            }
            _ => {
                book.taken_back(&old);
                fs::remove_file(mount.join(&old)).unwrap();
            }
        }
        pause(&mut chance);
    }
}

/// O_DIRECT wants its buffer aligned.
fn write_aligned(file: &File, content: &[u8], at: u64) {
    let mut room = vec![0; content.len() + BLOCK];
    let start = room.as_ptr().align_offset(BLOCK);
    let aligned = &mut room[start..start + content.len()];
    aligned.copy_from_slice(content);
    file.write_all_at(aligned, at).unwrap();
}
