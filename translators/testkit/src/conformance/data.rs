use hermitfs_api::*;

use super::hands::refused;

/// Larger than the block of any file system.
const BIG: u64 = 64 << 10;

checks! {
    fn what_is_written_is_read(h) {
        let file = h.with_content("a", b"0123456789");
        assert_eq!(h.read(&file, 3, 4).unwrap(), b"3456");
        assert_eq!(h.write(&file, 8, b"abcd").unwrap(), 4);
        assert_eq!(h.content(file.inode()), b"01234567abcd");
        assert_eq!(h.read(&file, 10, 100).unwrap(), b"cd", "short at the end");
        assert_eq!(h.read(&file, 12, 100).unwrap(), b"");
        assert_eq!(h.read(&file, 1 << 40, 100).unwrap(), b"");
        assert_eq!(h.write(&file, 50, b"").unwrap(), 0);
        assert_eq!(h.getattr(file.inode()).size, 12, "writing nothing changes nothing");
    }

    fn large_reads_and_writes_are_whole(h) {
        let data: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
        let file = h.with_content("a", &data);
        assert!(h.content(file.inode()) == data);
        assert!(h.read(&file, 999_999, 1_500_000).unwrap() == data[999_999..2_499_999]);
    }

    fn a_gap_reads_as_zeros(h) {
        let file = h.with_content("a", b"x");
        h.write(&file, 10_000, b"y").unwrap();
        let content = h.content(file.inode());
        assert_eq!((content.len(), content[0], content[10_000]), (10_001, b'x', b'y'));
        assert!(content[1..10_000].iter().all(|&b| b == 0));
    }

    fn truncating_cuts_and_growing_adds_zeros(h) {
        let file = h.with_content("a", b"0123456789").inode().clone();
        assert_eq!(h.truncate(&file, 4).unwrap().size, 4);
        assert_eq!(h.truncate(&file, 8).unwrap().size, 8);
        assert_eq!(h.content(&file), b"0123\0\0\0\0");
        refused(h.truncate(&h.root, 0), Errno::EISDIR);
        if h.can.special {
            refused(h.truncate(&h.mknod("fifo", Kind::Fifo, 0).unwrap().inode, 0), Errno::EINVAL);
        }
    }

    fn opening_can_truncate(h) {
        let inode = h.with_content("a", b"content").inode().clone();
        let file = h.open(&inode, OpenFlags::WRITE.with(libc::O_TRUNC)).unwrap();
        assert_eq!(h.getattr(&inode).size, 0);
        h.write(&file, 0, b"new").unwrap();
        assert_eq!(h.content(&inode), b"new");
    }

    fn a_file_does_what_it_was_opened_for(h) {
        let inode = h.with_content("a", b"content").inode().clone();
        let reader = h.open(&inode, OpenFlags::READ).unwrap();
        refused(h.write(&reader, 0, b"x"), Errno::EBADF);
        let writer = h.open(&inode, OpenFlags::WRITE).unwrap();
        refused(h.read(&writer, 0, 1), Errno::EBADF);
        assert_eq!(reader.flags().0 & libc::O_ACCMODE, libc::O_RDONLY);
        assert!(std::sync::Arc::ptr_eq(reader.inode(), &inode));
    }

    fn extents_are_in_order_and_cover_what_was_written_where_they_are_told(h) {
        let file = h.with_content("a", &vec![7; 3 * BIG as usize]);
        h.fsync(&file).unwrap();
        let all = match h.extents(&file, 0, 1000) {
            Err(errno) => return assert_eq!(errno, Errno::EOPNOTSUPP),
            Ok(all) => all,
        };
        assert!(all.windows(2).all(|two| two[0].end() <= two[1].at), "{all:?}");
        assert!(all.iter().all(|extent| extent.len > 0), "{all:?}");
        let covered: u64 = all.iter().filter(|it| !it.unwritten).map(|it| it.len).sum();
        assert!(covered >= 3 * BIG, "{all:?}");
        let from_the_middle = h.extents(&file, 2 * BIG, 1).unwrap();
        assert_eq!(from_the_middle.len(), 1);
        assert!(from_the_middle[0].end() > 2 * BIG, "{from_the_middle:?}");
        let (keep, behind) = (Allocate::Reserve { keep_size: true }, 1 << 30);
        assert!(h.extents(&file, behind, 10).unwrap().is_empty());
        if h.fallocate(&file, keep, behind, BIG).is_ok() {
            let reserved = h.extents(&file, behind, 10).unwrap();
            let bytes: u64 = reserved.iter().filter(|it| it.unwritten).map(|it| it.len).sum();
            assert!(bytes >= BIG, "{reserved:?}");
        }
    }

    fn a_range_is_cloned_whole_or_not_at_all(h) {
        let from = h.with_content("from", &vec![7; 2 * BIG as usize]);
        let to = h.with_content("to", &vec![1; 2 * BIG as usize]);
        let mut expected = vec![1; 2 * BIG as usize];
        match h.clone_range((&from, BIG), (&to, 0), BIG) {
            Ok(()) => expected[..BIG as usize].fill(7),
            Err(errno) => assert!(matches!(errno, Errno::EOPNOTSUPP | Errno::EXDEV), "{errno:?}"),
        }
        assert!(h.content(to.inode()) == expected);
        assert!(h.clone_range((&from, BIG), (&to, 0), 2 * BIG).is_err(), "behind the end");
        assert!(h.content(to.inode()) == expected);
    }

    fn offsets_are_the_callers_also_when_the_file_was_opened_to_append(h) {
        let inode = h.with_content("a", b"0123456789").inode().clone();
        let file = h.open(&inode, OpenFlags::WRITE.with(libc::O_APPEND)).unwrap();
        h.write(&file, 2, b"xx").unwrap();
        assert_eq!(h.content(&inode), b"01xx456789");
    }

    fn who_appends_beside_others_does_it_where_the_file_ends(h) {
        let inode = h.with_content("a", b"0123456789").inode().clone();
        let append = OpenFlags::WRITE.with(libc::O_APPEND | OpenFlags::SHARED);
        let (one, two) = (h.open(&inode, append).unwrap(), h.open(&inode, append).unwrap());
        assert_eq!(h.write(&one, 2, b"one").unwrap(), 3);
        assert_eq!(h.write(&two, 10, b"two").unwrap(), 3);
        assert_eq!(h.content(&inode), b"0123456789onetwo");
        h.truncate(&inode, 1).unwrap();
        assert_eq!(h.write(&one, 13, b"!").unwrap(), 1);
        assert_eq!(h.content(&inode), b"0!");
        let (made, file) = h.create_opened("b", append).unwrap();
        h.write(&file, 5, b"x").unwrap();
        assert_eq!(h.content(&made.inode), b"x");
    }

    fn only_regular_files_are_opened(h) {
        refused(h.open(&h.root, OpenFlags::READ), Errno::EINVAL);
        let link = h.symlink("link", b"a").unwrap().inode;
        refused(h.open(&link, OpenFlags::READ), Errno::EINVAL);
    }

    fn opens_are_apart_and_see_each_others_writes(h) {
        let one = h.with_content("a", b"one");
        let two = h.open(one.inode(), OpenFlags::READ_WRITE).unwrap();
        h.write(&two, 0, b"two").unwrap();
        assert_eq!(h.read(&one, 0, 3).unwrap(), b"two");
        h.release(&two);
        drop(two);
        assert_eq!(h.write(&one, 3, b"!").unwrap(), 1);
        assert_eq!(h.content(one.inode()), b"two!");
    }

    fn syncing_succeeds(h) {
        let file = h.with_content("a", b"content");
        h.fsync(&file).unwrap();
        h.sync().unwrap();
    }

    fn holes_are_found_and_cost_nothing(h) {
        let file = h.create(&h.root, "a").unwrap().1;
        h.write(&file, 4 * BIG, &[1; 4096]).unwrap();
        h.truncate(file.inode(), 8 * BIG).unwrap();
        if h.can.holes {
            assert_eq!(h.lseek(&file, 0, Seek::Hole).unwrap(), 0);
            let data = h.lseek(&file, 0, Seek::Data).unwrap();
            assert!(data > 3 * BIG && data <= 4 * BIG, "{data}");
            let hole = h.lseek(&file, 4 * BIG, Seek::Hole).unwrap();
            assert!(hole > 4 * BIG && hole <= 5 * BIG, "{hole}");
            refused(h.lseek(&file, 5 * BIG, Seek::Data), Errno::ENXIO);
        }
        assert_eq!(h.lseek(&file, 4 * BIG + 5, Seek::Data).unwrap(), 4 * BIG + 5, "within data");
        refused(h.lseek(&file, 8 * BIG, Seek::Hole), Errno::ENXIO);
        refused(h.lseek(&file, 9 * BIG, Seek::Data), Errno::ENXIO);
        h.write(&file, h.can.max_file / 2, b"far").unwrap();
        h.fsync(&file).unwrap();
        assert!(h.getattr(file.inode()).blocks < 10_000);
    }

    fn the_end_of_a_file_counts_as_a_hole(h) {
        let file = h.with_content("a", &[1; 5000]);
        assert_eq!(h.lseek(&file, 0, Seek::Data).unwrap(), 0);
        assert_eq!(h.lseek(&file, 0, Seek::Hole).unwrap(), 5000);
    }

    fn reserving_grows_unless_told_not_to(h) {
        let file = h.with_content("a", b"content");
        let grow = |keep_size| h.fallocate(&file, Allocate::Reserve { keep_size }, 0, 2 * BIG);
        if !h.can.fallocate {
            return refused(grow(true), Errno::EOPNOTSUPP);
        }
        grow(true).unwrap();
        assert_eq!(h.getattr(file.inode()).size, 7);
        grow(false).unwrap();
        assert_eq!(h.getattr(file.inode()).size, 2 * BIG);
        assert!(h.content(file.inode())[7..].iter().all(|&b| b == 0));
        refused(h.fallocate(&file, Allocate::Reserve { keep_size: true }, 0, 0), Errno::EINVAL);
        let reader = h.open(file.inode(), OpenFlags::READ).unwrap();
        refused(h.fallocate(&reader, Allocate::Punch, 0, 1), Errno::EBADF);
    }

    fn punching_and_zeroing_leave_zeros_and_the_size(h) {
        if h.can.fallocate {
            let len = 4 * BIG as usize;
            for (n, how) in [("punch", Allocate::Punch), ("zero", Allocate::Zero { keep_size: true })] {
                let file = h.with_content(n, &vec![7; len]);
                h.fallocate(&file, how, BIG + 10, 2 * BIG).unwrap();
                let mut expected = vec![7; len];
                expected[BIG as usize + 10..3 * BIG as usize + 10].fill(0);
                assert!(h.content(file.inode()) == expected, "{how:?}");
                h.fallocate(&file, how, 4 * BIG, BIG).unwrap();
                assert_eq!(h.getattr(file.inode()).size, 4 * BIG);
                if h.can.holes && how == Allocate::Punch {
                    let hole = h.lseek(&file, 0, Seek::Hole).unwrap();
                    assert!(hole > BIG && hole <= 2 * BIG, "{hole}");
                }
            }
            let file = h.with_content("grow", b"x");
            h.fallocate(&file, Allocate::Zero { keep_size: false }, 0, 100).unwrap();
            assert_eq!(h.content(file.inode()), [0; 100]);
        }
    }

    fn collapsing_and_inserting_shift_what_follows(h) {
        if h.can.shift {
            let mut expected: Vec<u8> = (0..4 * BIG).map(|i| (i / 1024) as u8).collect();
            let file = h.with_content("a", &expected);
            h.fallocate(&file, Allocate::Collapse, BIG, BIG).unwrap();
            expected.drain(BIG as usize..2 * BIG as usize);
            assert!(h.content(file.inode()) == expected);
            h.fallocate(&file, Allocate::Insert, BIG, BIG).unwrap();
            expected.splice(BIG as usize..BIG as usize, vec![0; BIG as usize]);
            assert!(h.content(file.inode()) == expected);
            refused(h.fallocate(&file, Allocate::Collapse, 1, BIG), Errno::EINVAL);
            refused(h.fallocate(&file, Allocate::Collapse, 3 * BIG, BIG), Errno::EINVAL);
            refused(h.fallocate(&file, Allocate::Insert, 8 * BIG, BIG), Errno::EINVAL);
        }
    }

    fn a_copy_of_a_range_is_like_reading_and_writing_it(h) {
        let from = h.with_content("from", &(0..200_000).map(|i| (i % 199) as u8).collect::<Vec<_>>());
        let to = h.with_content("to", &[9; 1000]);
        let (mut done, len) = (0, 150_000);
        while done < len {
            let some = h.copy((&from, 1000 + done), (&to, 500 + done), len - done).unwrap();
            assert!(some > 0 && some <= len - done);
            done += some;
        }
        assert_eq!(h.getattr(to.inode()).size, 500 + len);
        let copied = h.read(&to, 500, len as usize).unwrap();
        assert!(copied == h.read(&from, 1000, len as usize).unwrap());
        assert_eq!(h.read(&to, 0, 500).unwrap(), [9; 500]);
        assert_eq!(h.copy((&from, 1 << 20), (&to, 0), 10).unwrap(), 0, "nothing behind the end");
        refused(h.copy((&from, 0), (&from, 10), 100), Errno::EINVAL);
    }

    fn a_file_cannot_be_larger_than_a_file_can_be(h) {
        let file = h.with_content("a", b"x");
        let at = i64::MAX as u64;
        let errno = h.write(&file, at, b"xx").map(drop).unwrap_err();
        assert!([Errno::EFBIG, Errno::EINVAL].contains(&errno), "{errno}");
        let grown = h.truncate(file.inode(), u64::MAX).map(drop).unwrap_err();
        assert!([Errno::EFBIG, Errno::EINVAL].contains(&grown), "{grown}");
        assert_eq!(h.content(file.inode()), b"x");
    }

    fn writing_changes_the_times_and_reading_does_not(h) {
        let file = h.with_content("a", b"content");
        let old = SetAttr { mtime: Some(SetTime::At(Time::new(1000, 0))), ..SetAttr::default() };
        let before = h.setattr(file.inode(), old).unwrap();
        h.read(&file, 0, 3).unwrap();
        let read = h.getattr(file.inode());
        assert_eq!((read.mtime, read.ctime), (before.mtime, before.ctime));
        h.write(&file, 0, b"C").unwrap();
        let written = h.getattr(file.inode());
        assert!(written.mtime.sec > 1000 && written.ctime >= before.ctime);
        h.setattr(file.inode(), old).unwrap();
        h.truncate(file.inode(), 2).unwrap();
        assert!(h.getattr(file.inode()).mtime.sec > 1000);
    }

    fn a_file_that_nobody_has_open_is_quiet(h) {
        let file = h.with_content("a", b"content");
        let inode = file.inode().clone();
        h.release(&file);
        drop(file);
        // A release over the wire does not wait for its answer.
        let begun = std::time::Instant::now();
        while !h.quiet(&inode).unwrap() {
            assert!(begun.elapsed().as_secs() < 60, "nobody has it open");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
