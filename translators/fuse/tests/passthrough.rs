//! Modes of open files, as the real kernel takes them.
// A test that gets no thread has failed.
#![allow(clippy::disallowed_methods)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Lender, Mounted, errno};
use hermitfs_api::Errno;
use hermitfs_fuse::Op;

#[test]
fn reads_bypass_the_door_and_see_every_write_at_once() {
    let (lender, seen) = Lender::new();
    let mounted = Mounted::new(lender);
    fs::write(mounted.at("file"), big("one")).unwrap();
    let reader = File::open(mounted.at("file")).unwrap();
    let writes = mounted.requests(Op::Write);
    let writer = File::options()
        .write(true)
        .open(mounted.at("file"))
        .unwrap();
    let mut text = [0; 7];
    for word in [b"one two", b"two one"] {
        writer.write_all_at(word, 0).unwrap();
        reader.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(&text, word);
    }
    assert_eq!(mounted.requests(Op::Read), 0, "no read came here");
    assert_eq!(mounted.requests(Op::Write) - writes, 2, "each write did");
    assert_eq!(mounted.mount.statistics().bypassing, 2);
    assert_eq!(seen.lent_to_write.load(Ordering::SeqCst), 0);
}

#[test]
fn whoever_follows_what_somebody_writes_sees_it_at_once_and_comes_to_the_door() {
    let (lender, _) = Lender::new();
    let mounted = Mounted::new(lender);
    let mut log = File::create(mounted.at("log")).unwrap();
    log.write_all(&big("one")).unwrap();
    let size = log.metadata().unwrap().len();
    let mut follower = File::open(mounted.at("log")).unwrap();
    let mut seen = Vec::new();
    assert_eq!(follower.read_to_end(&mut seen).unwrap() as u64, size);
    for line in ["a line\n", "and another\n"] {
        log.write_all(line.as_bytes()).unwrap();
        let mut more = String::new();
        follower.read_to_string(&mut more).unwrap();
        assert_eq!(more, line);
    }
    // What was read before, and what is mapped.
    log.write_all_at(b"two", 0).unwrap();
    let mut text = [0; 3];
    follower.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"two");
    assert_eq!(mounted.mount.statistics().bypassing, 0);
    assert!(mounted.mount.open_files().iter().all(|open| !open.bypasses));
}

#[test]
fn readers_who_come_and_go_are_not_there_for_ever() {
    let (lender, _) = Lender::new();
    let mounted = Mounted::new(lender);
    let path = mounted.at("file");
    fs::write(&path, big("content")).unwrap();
    let bypass = || mounted.mount.open_files().iter().any(|open| open.bypasses);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for turn in 0..3u64 {
            let (path, ended) = (&path, &ended);
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(20 * turn));
                while !ended.load(Ordering::SeqCst) {
                    let open = File::open(path).unwrap();
                    std::thread::sleep(Duration::from_millis(60));
                    drop(open);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(bypass());
        mounted.mount.set_passthrough(false);
        let until = Instant::now() + Duration::from_secs(20);
        while bypass() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        ended.store(true, Ordering::SeqCst);
        assert!(Instant::now() < until, "there is always one");
    });
    // Of one who stays nobody waits for long.
    mounted.mount.set_passthrough(true);
    let stays = File::open(&path).unwrap();
    mounted.mount.set_passthrough(false);
    fs::read(&path).unwrap();
    assert!(bypass());
    drop(stays);
}

#[test]
fn appenders_and_writers_agree_on_the_size() {
    let (lender, _) = Lender::new();
    let mounted = Mounted::new(lender);
    let path = mounted.at("log");
    fs::write(&path, "").unwrap();
    let _reader = File::open(&path).unwrap();
    let append = || File::options().append(true).open(&path).unwrap();
    let (mut a, mut b) = (append(), append());
    let writer = File::options().write(true).open(&path).unwrap();
    for n in 0..50u64 {
        a.write_all(b"aa").unwrap();
        b.write_all(b"bb").unwrap();
        writer.write_at(b"cc", (n + 1) * 6 - 2).unwrap();
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 300);
    assert_eq!(fs::read(&path).unwrap(), b"aabbcc".repeat(50));
    writer.set_len(3).unwrap();
    a.write_all(b"!").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"aab!");
}

#[test]
fn read_write_first_is_cached_and_asks_for_nothing() {
    let (lender, seen) = Lender::new();
    let mounted = Mounted::new(lender);
    fs::write(mounted.at("db"), "old content").unwrap();
    seen.lent_to_read.store(0, Ordering::SeqCst);
    let both = File::options()
        .read(true)
        .write(true)
        .open(mounted.at("db"))
        .unwrap();
    let reader = File::open(mounted.at("db")).unwrap();
    both.write_at(b"new", 0).unwrap();
    let mut text = [0; 11];
    reader.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"new content");
    assert_eq!(seen.lent_to_read.load(Ordering::SeqCst), 0);
    assert_eq!(mounted.mount.statistics().bypassing, 0);
}

/// Content of a file that is too big to be cached for a reader.
fn big(beginning: &str) -> Vec<u8> {
    let mut content = beginning.as_bytes().to_vec();
    content.resize(200 << 10, b'.');
    content
}

#[test]
fn a_small_file_is_read_once_and_not_looked_at_again() {
    let (lender, seen) = Lender::new();
    let mounted = Mounted::new(lender);
    fs::write(mounted.at("small"), "content").unwrap();
    fs::write(mounted.at("big"), big("content")).unwrap();
    let lent = || seen.lent_to_read.load(Ordering::SeqCst);
    // Who wrote them is gone for us a moment after he is for himself.
    let before = (0..100)
        .find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let before = lent();
            assert_eq!(fs::read(mounted.at("small")).unwrap(), b"content");
            (lent() == before).then_some(before)
        })
        .expect("a small file is never cached");
    // A READ may have changed the atime: it is asked for once.
    fs::read(mounted.at("small")).unwrap();
    let asked = [Op::Read, Op::Getattr].map(|op| mounted.requests(op));
    for _ in 0..3 {
        assert_eq!(fs::read(mounted.at("small")).unwrap(), b"content");
    }
    assert_eq!(
        [Op::Read, Op::Getattr].map(|op| mounted.requests(op)),
        asked
    );
    // What is written by whom cannot read is there at once.
    let reader = File::open(mounted.at("small")).unwrap();
    let writer = File::options()
        .write(true)
        .open(mounted.at("small"))
        .unwrap();
    writer.write_at(b"C", 0).unwrap();
    let mut now = [0; 7];
    reader.read_exact_at(&mut now, 0).unwrap();
    assert_eq!(&now, b"Content");
    assert_eq!(lent(), before);
    fs::read(mounted.at("big")).unwrap();
    assert!(lent() > before, "a big file goes past the door");
}

#[test]
fn pages_of_a_large_write_are_dropped_after_the_last_close() {
    let (lender, _) = Lender::new();
    let mounted = Mounted::new(lender);
    let options = File::options().read(true).write(true).create(true).clone();
    let write = |name: &str, size: usize| {
        let file = options.open(mounted.at(name)).unwrap();
        file.write_all_at(&vec![b'x'; size], 0).unwrap();
        file.sync_all().unwrap();
    };
    // Whether the kernel has to ask for the content.
    let asks = |name: &str| {
        let file = options.open(mounted.at(name)).unwrap();
        let before = mounted.requests(Op::Read);
        file.read_exact_at(&mut [0; 100], 0).unwrap();
        mounted.requests(Op::Read) > before
    };
    write("little", 300 << 10);
    write("much", 4 << 20);
    let dropped = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        asks("much")
    });
    assert!(dropped, "the pages are still there");
    assert!(!asks("little"), "pages of a small write are kept");
    // Whoever comes in between finds what was written.
    let held = options.open(mounted.at("much")).unwrap();
    write("much", 4 << 20);
    held.write_all_at(b"y", 5).unwrap();
    drop(held);
    let content = fs::read(mounted.at("much")).unwrap();
    assert!(content.len() == 4 << 20 && content.starts_with(b"xxxxxyx"));
}

#[test]
fn read_write_beside_a_reader_is_told_to_the_volume_first() {
    let (lender, seen) = Lender::new();
    let mounted = Mounted::new(lender);
    fs::write(mounted.at("db"), big("old")).unwrap();
    let reader = File::open(mounted.at("db")).unwrap();
    let mut both = File::options()
        .read(true)
        .write(true)
        .open(mounted.at("db"))
        .unwrap();
    assert_eq!(seen.lent_to_write.load(Ordering::SeqCst), 1);
    both.write_all(b"new").unwrap();
    let (mut a, mut b) = ([0; 3], [0; 3]);
    both.read_exact_at(&mut a, 0).unwrap();
    reader.read_exact_at(&mut b, 0).unwrap();
    assert_eq!((&a, &b), (b"new", b"new"));
    drop((reader, both));

    // A mapping may have outlived both: cached again only when the brick is quiet.
    seen.noisy.store(true, Ordering::SeqCst);
    let both = || {
        File::options()
            .read(true)
            .write(true)
            .open(mounted.at("db"))
            .unwrap()
    };
    drop(both());
    assert_eq!(seen.lent_to_write.load(Ordering::SeqCst), 2);
    seen.noisy.store(false, Ordering::SeqCst);
    let quiet = both();
    assert_eq!(seen.lent_to_write.load(Ordering::SeqCst), 2);
    let mut now = [0; 3];
    quiet.read_exact_at(&mut now, 0).unwrap();
    assert_eq!(&now, b"new");
}

#[test]
fn a_volume_that_lends_for_reading_alone_is_not_asked_again() {
    let (lender, seen) = Lender::new();
    seen.refuse_to_write.store(true, Ordering::SeqCst);
    let mounted = Mounted::new(lender);
    fs::write(mounted.at("db"), big("old")).unwrap();
    let reader = File::open(mounted.at("db")).unwrap();
    let both = || {
        File::options()
            .read(true)
            .write(true)
            .open(mounted.at("db"))
    };
    assert_eq!(errno(both()), Errno::EBUSY);
    drop(reader);
    // The kernel tells of a close when it gets to it: until then a reader joins the one before.
    let mut tries = 0;
    let (_reader, writer) = loop {
        let reader = File::open(mounted.at("db")).unwrap();
        match both() {
            Ok(writer) => break (reader, writer),
            Err(error) if tries == 100 => panic!("{error}"),
            Err(_) => tries += 1,
        }
        drop(reader);
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    writer.write_at(b"new", 0).unwrap();
    assert_eq!(fs::read(mounted.at("db")).unwrap(), big("new"));
}

#[test]
fn passthrough_can_be_switched_off() {
    let (lender, seen) = Lender::new();
    let mounted = Mounted::with(lender, "passthrough=off");
    fs::write(mounted.at("file"), "content").unwrap();
    assert_eq!(fs::read(mounted.at("file")).unwrap(), b"content");
    assert_eq!(seen.lent_to_read.load(Ordering::SeqCst), 0);

    let (lender, seen) = Lender::new();
    let mounted = Mounted::new(lender);
    mounted.mount.set_passthrough(false);
    fs::write(mounted.at("file"), "content").unwrap();
    assert_eq!(fs::read(mounted.at("file")).unwrap(), b"content");
    assert_eq!(seen.lent_to_read.load(Ordering::SeqCst), 0);
}

#[test]
fn no_open_fails_however_many_race() {
    let (lender, _) = Lender::new();
    let mounted = Mounted::new(lender);
    let path = mounted.at("file");
    fs::write(&path, [7; 100]).unwrap();
    std::thread::scope(|scope| {
        for way in 0..6 {
            let path = &path;
            scope.spawn(move || {
                for n in 0..1500u64 {
                    let mut options = File::options();
                    match way % 3 {
                        0 => options.read(true),
                        1 => options.write(true),
                        _ => options.read(true).write(true),
                    };
                    let file = options.open(path).unwrap();
                    if way % 3 != 1 {
                        let mut byte = [0];
                        file.read_exact_at(&mut byte, n % 100).unwrap();
                        assert_eq!(byte, [7]);
                    }
                    if way % 3 != 0 {
                        file.write_all_at(&[7], n % 100).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(fs::read(&path).unwrap(), [7; 100]);
}
