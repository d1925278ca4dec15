//! What several mounts of one volume see of each other: the README's table, line by line.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "what cannot be done fails the test where it stands"
)]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Lender, Mounted, errno};
use hermitfs_api::Errno;
use hermitfs_fuse::Op;
use hermitfs_testkit::Memory;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

fn two() -> (Mounted, Mounted) {
    let volume = Arc::new(Memory::new());
    (
        Mounted::of(volume.clone(), "shared"),
        Mounted::of(volume, "shared"),
    )
}

/// A lifetime is a second; a slow machine gets more. Without a bound it would be a day.
fn within_its_lifetime(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_one_wrote_and_closed_who_opens_then_reads_at_once() {
    let (a, b) = two();
    fs::write(a.at("file"), "first").unwrap();
    within_its_lifetime("the name", || b.at("file").exists());
    let contents = [
        "second",
        "SECOND",
        "",
        "much longer than anything before",
        "x",
    ];
    for (round, content) in contents.iter().cycle().take(60).enumerate() {
        let (writer, reader) = match round % 2 {
            0 => (&a, &b),
            _ => (&b, &a),
        };
        // Everything that the reader's kernel can remember is there: pages, size, times.
        fs::read(reader.at("file")).unwrap();
        fs::metadata(reader.at("file")).unwrap();
        fs::write(writer.at("file"), content).unwrap();
        let mut opened = File::open(reader.at("file")).unwrap();
        assert_eq!(opened.metadata().unwrap().len(), content.len() as u64);
        let end = opened.seek(SeekFrom::End(0)).unwrap();
        assert_eq!(end, content.len() as u64);
        opened.rewind().unwrap();
        let mut read = String::new();
        opened.read_to_string(&mut read).unwrap();
        assert_eq!(read, *content, "round {round}");
    }
}

#[test]
fn what_is_big_and_changed_in_the_middle_is_read_as_it_is() {
    let (a, b) = two();
    let mut content = vec![7; 3 << 20];
    fs::write(a.at("file"), &content).unwrap();
    within_its_lifetime("the name", || b.at("file").exists());
    for round in 0..20u8 {
        assert!(fs::read(b.at("file")).unwrap() == content);
        let at = usize::from(round) * 150_001;
        content[at..at + 10].fill(round);
        let writer = File::options().write(true).open(a.at("file")).unwrap();
        writer.write_at(&content[at..at + 10], at as u64).unwrap();
    }
    assert!(fs::read(b.at("file")).unwrap() == content);
}

#[test]
fn a_change_that_the_times_do_not_tell_is_read_as_well() {
    let volume = Arc::new(Memory::new());
    volume.set(|settings| settings.clock_stands = true);
    let a = Mounted::of(volume.clone(), "shared");
    let b = Mounted::of(volume, "shared");
    // A real clock stands for some milliseconds; what takes longer than it could is no proof.
    let mut in_time = 0;
    for round in 0..200 {
        let name = format!("{round}");
        fs::write(a.at(&name), "old").unwrap();
        within_its_lifetime("the name", || b.at(&name).exists());
        let start = Instant::now();
        assert_eq!(fs::read(b.at(&name)).unwrap(), b"old");
        let writer = File::options().write(true).open(a.at(&name)).unwrap();
        writer.write_at(b"new", 0).unwrap();
        drop(writer);
        let read = fs::read(b.at(&name)).unwrap();
        if start.elapsed() < Duration::from_millis(90) {
            assert_eq!(read, b"new");
            in_time += 1;
        }
        if in_time == 5 {
            return;
        }
    }
    panic!("this machine is too slow to change a file within a tick of a clock");
}

#[test]
fn what_nobody_changed_is_not_read_again() {
    let (a, _b) = two();
    fs::write(a.at("file"), "content").unwrap();
    within_its_lifetime("pages are never kept", || {
        let before = a.requests(Op::Read);
        assert_eq!(fs::read(a.at("file")).unwrap(), b"content");
        a.requests(Op::Read) == before
    });
}

#[test]
fn a_file_that_is_held_open_shows_what_others_wrote_within_its_lifetime() {
    let (a, b) = two();
    fs::write(a.at("file"), "one").unwrap();
    within_its_lifetime("the name", || b.at("file").exists());
    let held = File::open(b.at("file")).unwrap();
    let read = || {
        let mut content = [0; 32];
        let len = held.read_at(&mut content, 0).unwrap();
        String::from_utf8_lossy(&content[..len]).into_owned()
    };
    assert_eq!(read(), "one");
    for content in ["two", "three and more", "", "lost"] {
        fs::write(a.at("file"), content).unwrap();
        within_its_lifetime(content, || read() == content);
        assert_eq!(held.metadata().unwrap().len(), content.len() as u64);
    }
    // Times that are set here are not taken for those of the pages that are here.
    fs::write(a.at("file"), "last").unwrap();
    held.set_times(fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH))
        .unwrap();
    within_its_lifetime("after utimes", || read() == "last");
}

#[test]
fn names_come_and_go_within_their_lifetime() {
    let (a, b) = two();
    let is = |path: &str| b.at(path).symlink_metadata().is_ok();
    assert!(!is("made") && !is("dir/sub"), "remembered as absent");
    fs::write(a.at("made"), "").unwrap();
    fs::create_dir_all(a.at("dir/sub")).unwrap();
    symlink("made", a.at("link")).unwrap();
    within_its_lifetime("made", || is("made") && is("dir/sub") && is("link"));
    fs::rename(a.at("made"), a.at("dir/moved")).unwrap();
    fs::remove_file(a.at("link")).unwrap();
    within_its_lifetime("moved", || !is("made") && is("dir/moved") && !is("link"));
    fs::write(a.at("other"), "other").unwrap();
    fs::rename(a.at("other"), a.at("dir/moved")).unwrap();
    within_its_lifetime("replaced", || {
        fs::read(b.at("dir/moved")).is_ok_and(|read| read == b"other")
    });
}

#[test]
fn a_listing_is_as_the_directory_is_when_it_is_begun() {
    let (a, b) = two();
    let list = |mounted: &Mounted| {
        let names = fs::read_dir(mounted.at("")).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    for round in 0..30 {
        let made = format!("{round:02}");
        fs::write(a.at(&made), "").unwrap();
        assert_eq!(list(&b).len(), round + 1);
        assert_eq!(list(&b), list(&a));
    }
    for round in 0..30 {
        fs::remove_file(b.at(&format!("{round:02}"))).unwrap();
        assert_eq!(list(&a).len(), 29 - round);
    }
}

#[test]
fn who_creates_what_another_has_just_made_finds_it() {
    let (a, b) = two();
    for round in 0..20 {
        let name = format!("{round}");
        assert!(!b.at(&name).exists(), "remembered as absent");
        fs::write(a.at(&name), "content").unwrap();
        let new = File::create_new(b.at(&name));
        assert_eq!(errno(new), Errno::EEXIST);
        assert!(!b.at(&format!("d{round}")).exists());
        fs::create_dir(a.at(&format!("d{round}"))).unwrap();
        let made = fs::create_dir(b.at(&format!("d{round}")));
        assert_eq!(errno(made), Errno::EEXIST);
        let other = format!("o{round}");
        assert!(!b.at(&other).exists());
        fs::write(a.at(&other), "content").unwrap();
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut opened = options.open(b.at(&other)).unwrap();
        let mut read = String::new();
        opened.read_to_string(&mut read).unwrap();
        assert_eq!(read, "content");
    }
}

#[test]
fn attributes_are_seen_within_their_lifetime() {
    let (a, b) = two();
    fs::write(a.at("file"), "content").unwrap();
    within_its_lifetime("the name", || b.at("file").exists());
    fs::set_permissions(a.at("file"), fs::Permissions::from_mode(0o741)).unwrap();
    std::os::unix::fs::chown(a.at("file"), Some(12), Some(34)).unwrap();
    fs::hard_link(a.at("file"), a.at("again")).unwrap();
    within_its_lifetime("mode, owner, links", || {
        let seen = fs::metadata(b.at("file")).unwrap();
        (seen.mode() & 0o7777, seen.uid(), seen.gid(), seen.nlink()) == (0o741, 12, 34, 2)
    });
}

fn appender(path: &Path) -> File {
    File::options().append(true).open(path).unwrap()
}

/// Each line that was appended is there once, and whole.
fn check_lines(path: &Path, writers: usize, lines: usize, len: usize) {
    let content = fs::read_to_string(path).unwrap();
    let mut found: Vec<&str> = content.lines().collect();
    assert_eq!(found.len(), writers * lines, "lines");
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), writers * lines, "different lines");
    let dots = ".".repeat(len - 11);
    let wanted = |line: &&str| line.len() == len - 1 && line.ends_with(&dots);
    assert!(found.iter().all(wanted), "torn lines");
}

/// A line of so many bytes.
fn line(writer: usize, number: usize, len: usize) -> String {
    format!("{writer:04} {number:04} {}\n", ".".repeat(len - 11))
}

#[test]
fn appends_of_all_mounts_are_there_once_and_whole() {
    const LINES: usize = 200;
    const LEN: usize = 111;
    let (a, b) = two();
    fs::write(a.at("log"), "").unwrap();
    within_its_lifetime("the name", || b.at("log").exists());
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = [&a, &b][writer % 2].at("log");
            scope.spawn(move || {
                let mut file = appender(&path);
                for number in 0..LINES {
                    file.write_all(line(writer, number, LEN).as_bytes())
                        .unwrap();
                    if number % 50 == 49 {
                        file = appender(&path);
                    }
                }
            });
        }
    });
    check_lines(&a.at("log"), 4, LINES, LEN);
    check_lines(&b.at("log"), 4, LINES, LEN);
}

#[test]
fn who_appends_by_a_flag_that_was_set_later_appends_as_well() {
    const LINES: usize = 50;
    // Through its pages the kernel sends what crosses one in two pieces.
    const LEN: usize = 64;
    let (a, b) = two();
    fs::write(a.at("log"), "").unwrap();
    within_its_lifetime("the name", || b.at("log").exists());
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let path = [&a, &b][writer].at("log");
            scope.spawn(move || {
                let mut file = File::options().write(true).open(path).unwrap();
                let flags = fcntl_getfl(&file).unwrap();
                fcntl_setfl(&file, flags | OFlags::APPEND).unwrap();
                for number in 0..LINES {
                    file.write_all(line(writer, number, LEN).as_bytes())
                        .unwrap();
                }
            });
        }
    });
    check_lines(&b.at("log"), 2, LINES, LEN);
    // And the other way round: what is written to a place stands there.
    let file = appender(&a.at("log"));
    fcntl_setfl(&file, fcntl_getfl(&file).unwrap() - OFlags::APPEND).unwrap();
    file.write_at(b"head", 0).unwrap();
    let content = fs::read(b.at("log")).unwrap();
    assert_eq!(content.len(), 2 * LINES * LEN);
    assert!(content.starts_with(b"head"));
}

#[test]
fn who_appends_reads_what_others_appended() {
    let (a, b) = two();
    fs::write(a.at("log"), "").unwrap();
    within_its_lifetime("the name", || b.at("log").exists());
    let open = |path| File::options().read(true).append(true).open(path).unwrap();
    let (one, two) = (open(a.at("log")), open(b.at("log")));
    let mut so_far = String::new();
    for round in 0..20 {
        for (mut mine, theirs) in [(&one, &two), (&two, &one)] {
            let text = format!("{round} ");
            mine.write_all(text.as_bytes()).unwrap();
            so_far.push_str(&text);
            let mut read = vec![0; so_far.len() + 10];
            let len = theirs.read_at(&mut read, 0).unwrap();
            assert_eq!(std::str::from_utf8(&read[..len]).unwrap(), so_far);
        }
    }
}

#[test]
fn who_writes_to_different_places_of_a_page_spoils_nothing() {
    let (a, b) = two();
    fs::write(a.at("file"), [b'.'; 4096]).unwrap();
    within_its_lifetime("the name", || b.at("file").exists());
    std::thread::scope(|scope| {
        for (writer, mounted) in [&a, &b].into_iter().enumerate() {
            let path = mounted.at("file");
            scope.spawn(move || {
                let file = File::options().read(true).write(true).open(path).unwrap();
                let mut page = [0; 4096];
                for at in (writer..4096).step_by(2) {
                    file.read_exact_at(&mut page, 0).unwrap();
                    file.write_all_at(&[b'a' + writer as u8], at as u64)
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read(a.at("file")).unwrap(), b"ab".repeat(2048));
    assert_eq!(fs::read(b.at("file")).unwrap(), b"ab".repeat(2048));
}

#[test]
fn what_was_removed_is_gone_for_who_comes_by_its_name_and_there_for_who_holds_it() {
    let (a, b) = two();
    fs::write(a.at("file"), "content").unwrap();
    within_its_lifetime("the name", || b.at("file").exists());
    let mut held = File::open(b.at("file")).unwrap();
    fs::remove_file(a.at("file")).unwrap();
    within_its_lifetime("gone", || {
        File::open(b.at("file")).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    });
    let mut read = String::new();
    held.read_to_string(&mut read).unwrap();
    assert_eq!(read, "content");
}

#[test]
fn nothing_bypasses_a_door_of_several() {
    let (lender, seen) = Lender::new();
    let mounted = Mounted::with(lender, "shared");
    fs::write(mounted.at("file"), vec![7; 300 << 10]).unwrap();
    assert_eq!(fs::read(mounted.at("file")).unwrap().len(), 300 << 10);
    let both = File::options()
        .read(true)
        .write(true)
        .open(mounted.at("file"));
    both.unwrap().write_at(b"x", 9).unwrap();
    assert_eq!(seen.lent_to_read.load(Ordering::SeqCst), 0);
    assert_eq!(mounted.mount.statistics().bypassing, 0);
}
