use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use hermitfs_api::{Allocate, File, Lend, OpenFlags, Seek};

use super::*;

fn make(brick: &Brick, at: &str) -> Arc<File> {
    let flags = OpenFlags::READ_WRITE;
    now(brick.create(&root(), &brick.top(), name(at), flags, 0o644, 0))
        .unwrap()
        .1
}

#[test]
fn reads_are_short_at_the_end_alone_and_writes_land_where_they_are_sent() {
    let (_dir, brick) = on_tmp();
    let file = make(&brick, "f");
    assert_eq!(now(brick.write(&root(), &file, 4, b"data")).unwrap(), 4);
    let mut buffer = [9; 16];
    assert_eq!(now(brick.read(&root(), &file, 2, &mut buffer)).unwrap(), 6);
    assert_eq!(&buffer[..6], b"\0\0data");
    assert_eq!(
        now(brick.read(&root(), &file, 100, &mut buffer)).unwrap(),
        0
    );
    assert_eq!(now(brick.read(&root(), &file, 0, &mut [])).unwrap(), 0);
    let f = brick.find("f");
    let append = OpenFlags::READ_WRITE.with(libc::O_APPEND | libc::O_DIRECT);
    let again = now(brick.open(&root(), &f, append)).unwrap();
    assert_eq!(again.flags(), append);
    now(brick.write(&root(), &again, 0, b"at 0")).unwrap();
    assert_eq!(fs::read(brick.dir.join("f")).unwrap(), b"at 0data");
    let reader = now(brick.open(&root(), &f, OpenFlags::READ)).unwrap();
    assert_eq!(
        errno(now(brick.write(&root(), &reader, 0, b"x"))),
        Errno::EBADF
    );
    now(brick.flush(&root(), &again, 0)).unwrap();
    now(brick.fsync(&root(), &again, true)).unwrap();
    now(brick.fsync(&root(), &reader, false)).unwrap();
    now(brick.fsyncdir(&root(), &brick.top(), false)).unwrap();
    now(brick.sync(&root())).unwrap();
    now(brick.release(&root(), &again)).unwrap();
}

#[test]
fn truncation_at_open_happens_whatever_the_access() {
    let (_dir, brick) = on_tmp();
    for access in [OpenFlags::READ, OpenFlags::WRITE, OpenFlags::READ_WRITE] {
        fs::write(brick.dir.join("f"), "something").unwrap();
        now(brick.open(&root(), &brick.find("f"), access.with(libc::O_TRUNC))).unwrap();
        assert_eq!(fs::metadata(brick.dir.join("f")).unwrap().len(), 0);
    }
}

#[test]
fn holes_and_every_mode_of_allocation_are_what_the_file_system_has() {
    everywhere(|brick, kind| {
        let file = make(brick, "f");
        const M: u64 = 1 << 20;
        now(brick.write(&root(), &file, 0, &vec![1; M as usize])).unwrap();
        now(brick.write(&root(), &file, 8 * M, b"end")).unwrap();
        assert_eq!(now(brick.lseek(&root(), &file, 0, Seek::Data)).unwrap(), 0);
        assert_eq!(now(brick.lseek(&root(), &file, 0, Seek::Hole)).unwrap(), M);
        assert_eq!(
            now(brick.lseek(&root(), &file, M, Seek::Data)).unwrap(),
            8 * M
        );
        let past = now(brick.lseek(&root(), &file, 9 * M, Seek::Data));
        assert_eq!(errno(past), Errno::ENXIO);

        let native = fs::File::create_new(brick.dir.join("native")).unwrap();
        native.set_len(8 * M + 3).unwrap();
        let modes = [
            Allocate::Reserve { keep_size: true },
            Allocate::Reserve { keep_size: false },
            Allocate::Punch,
            Allocate::Zero { keep_size: true },
            Allocate::Zero { keep_size: false },
            Allocate::Insert,
            Allocate::Collapse,
            Allocate::Unshare { keep_size: true },
        ];
        for how in modes {
            let ours = now(brick.fallocate(&root(), &file, how, 0, M)).map_err(|e| e.errno());
            let theirs = rustix_fallocate(&native, how.bits(), 0, M);
            assert_eq!(ours, theirs, "{how:?} on {kind:?}");
            if kind == image::Kind::Ext3 && how != Allocate::Punch {
                assert_eq!(ours, Err(Errno::EOPNOTSUPP), "{how:?}");
            }
        }
        if now(brick.fallocate(&root(), &file, Allocate::Punch, 0, M)).is_ok() {
            let mut buffer = [9; 100];
            now(brick.read(&root(), &file, 0, &mut buffer)).unwrap();
            assert_eq!(buffer, [0; 100]);
        }
    });
}

fn rustix_fallocate(
    file: &fs::File,
    mode: i32,
    at: u64,
    len: u64,
) -> std::result::Result<(), Errno> {
    let mode = rustix::fs::FallocateFlags::from_bits_retain(mode as u32);
    rustix::fs::fallocate(file, mode, at, len).map_err(|e| Errno::from_raw(e.raw_os_error()))
}

#[test]
fn ranges_are_copied_within_the_brick() {
    everywhere(|brick, _| {
        let (from, to) = (make(brick, "from"), make(brick, "to"));
        now(brick.write(&root(), &from, 0, &vec![7; 300_000])).unwrap();
        let mut done = 0;
        while done < 200_000 {
            let at = (10 + done, 5 + done);
            let left = 200_000 - done;
            let n = now(brick.copy_file_range(&root(), &from, at.0, &to, at.1, left)).unwrap();
            assert!(n > 0);
            done += n;
        }
        let copied = fs::read(brick.dir.join("to")).unwrap();
        assert_eq!(copied.len(), 200_005);
        assert!(copied[..5] == [0; 5] && copied[5..].iter().all(|&b| b == 7));
    });
}

#[test]
fn a_file_is_quiet_when_nobody_can_write_to_it() {
    everywhere(|brick, _| {
        fs::write(brick.dir.join("f"), "x").unwrap();
        let f = brick.find("f");
        assert!(now(brick.quiet(&root(), &f)).unwrap());
        let reader = fs::File::open(brick.dir.join("f")).unwrap();
        assert!(now(brick.quiet(&root(), &f)).unwrap());
        let writer = fs::File::options()
            .append(true)
            .open(brick.dir.join("f"))
            .unwrap();
        assert!(!now(brick.quiet(&root(), &f)).unwrap());
        drop((reader, writer));
        assert!(now(brick.quiet(&root(), &f)).unwrap());
        let ours = now(brick.open(&root(), &f, OpenFlags::WRITE)).unwrap();
        assert!(!now(brick.quiet(&root(), &f)).unwrap());
        drop(ours);
        let lent = now(brick.lend(&root(), &f, Lend::Write)).unwrap().unwrap();
        assert!(
            now(brick.quiet(&root(), &f)).unwrap(),
            "lent for passthrough is not open"
        );
        drop(lent);
    });
}

#[test]
fn opening_for_writing_while_quiet_is_asked_neither_fails_nor_kills() {
    let (_dir, brick) = on_tmp();
    fs::write(brick.dir.join("f"), "x").unwrap();
    let f = brick.find("f");
    std::thread::scope(|scope| {
        scope.spawn(|| (0..3_000).for_each(|_| assert!(now(brick.quiet(&root(), &f)).is_ok())));
        scope.spawn(|| {
            for _ in 0..3_000 {
                drop(now(brick.open(&root(), &f, OpenFlags::WRITE)).unwrap());
            }
        });
    });
}

#[test]
fn what_is_lent_to_ourselves_can_be_read_and_written() {
    let (_dir, brick) = on_tmp();
    fs::write(brick.dir.join("f"), "lent").unwrap();
    let f = brick.find("f");
    let lent = now(brick.lend(&healer(), &f, Lend::Write))
        .unwrap()
        .unwrap();
    let file = fs::File::from(lent.as_fd().try_clone_to_owned().unwrap());
    file.write_all_at(b"L", 0).unwrap();
    let mut buffer = [0; 4];
    file.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"Lent");
}
