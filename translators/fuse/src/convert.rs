//! Between the protocol's types and the contract's.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};
use hermitfs_api::{Attr, Context, Errno, Error, Kind, OpenFlags, Origin, SetTime, Time};

use crate::modes::Access;

pub(crate) fn context(request: &Request) -> Context {
    Context {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
        origin: Origin::User,
        client: 0,
    }
}

/// What the kernel gets to see of an error.
pub(crate) fn errno(error: &Error) -> fuser::Errno {
    match error.errno() {
        // To the kernel it means "this operation does not exist here, never ask again".
        Errno::ENOSYS => fuser::Errno::EOPNOTSUPP,
        // Numbers from 512 are the kernel's own; an answer with one is thrown away, and its
        // request never ends.
        other if other.raw() >= 512 => fuser::Errno::EIO,
        other => fuser::Errno::from_i32(other.raw()),
    }
}

pub(crate) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// `number` is the inode's number as users see it, which is its node id as well.
pub(crate) fn file_attr(number: u64, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: rdev_out(attr.rdev),
        blksize: attr.blksize,
        flags: 0,
    }
}

/// Attributes of nothing, with node id 0: the kernel remembers that the name is absent.
pub(crate) fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nsec));
    let seconds = Duration::from_secs(time.sec.unsigned_abs());
    let whole = if time.sec < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole
        .and_then(|whole| whole.checked_add(nanos))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// fuser counts the nanoseconds of a time before 1970 in the wrong direction: (-2 s, 0.8 s) comes
/// out as 2.8 seconds before 1970. So seconds and nanoseconds are taken from it as they went in.
pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => {
            SetTime::At(match time.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(after) => Time::new(
                    after.as_secs().try_into().unwrap_or(i64::MAX),
                    after.subsec_nanos(),
                ),
                Err(before) => {
                    let before = before.duration();
                    let seconds = 0i64
                        .checked_sub_unsigned(before.as_secs())
                        .unwrap_or(i64::MIN);
                    Time::new(seconds, before.subsec_nanos())
                }
            })
        }
    }
}

/// A device number as the protocol packs it (the kernel's `new_decode_dev`).
pub(crate) fn rdev_in(packed: u32) -> u64 {
    let major = (packed & 0xf_ff00) >> 8;
    let minor = (packed & 0xff) | ((packed >> 12) & 0xf_ff00);
    libc::makedev(major, minor)
}

fn rdev_out(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// Flags for the volume. `O_DIRECT` stays with the kernel: our buffers are not aligned for it,
/// and a file that is passed through is opened with it by the kernel itself.
pub(crate) fn open_flags(raw: i32) -> OpenFlags {
    const KEPT: i32 = libc::O_ACCMODE
        | libc::O_TRUNC
        | libc::O_APPEND
        | libc::O_SYNC
        | libc::O_DSYNC
        | libc::O_NOATIME;
    OpenFlags(raw & KEPT)
}

pub(crate) fn access(flags: OpenFlags) -> Access {
    match (flags.reads(), flags.writes()) {
        (true, false) => Access::Read,
        (false, true) => Access::Write,
        _ => Access::Both,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = Time::new(-2, 800_000_000);
        let before =
            SystemTime::UNIX_EPOCH - system_time(time).elapsed().map(|_| Duration::ZERO).unwrap();
        assert!(before <= SystemTime::UNIX_EPOCH);
        let distance = SystemTime::UNIX_EPOCH
            .duration_since(system_time(time))
            .unwrap();
        assert_eq!(distance, Duration::from_millis(1200));
        // As fuser hands it in: seconds and nanoseconds both counted down.
        let handed = SystemTime::UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(set_time(TimeOrNow::SpecificTime(handed)), SetTime::At(time));
    }

    #[test]
    fn no_time_is_too_far_away() {
        for time in [
            Time::MIN,
            Time::MAX,
            Time::new(i64::MIN, 5),
            Time::new(i64::MAX, 0),
        ] {
            system_time(time);
        }
    }

    #[test]
    fn device_numbers_survive_the_protocol() {
        for (major, minor) in [(8, 1), (259, 70_000), (4095, 0xf_ffff), (1, 3)] {
            let dev = libc::makedev(major, minor);
            assert_eq!(rdev_in(rdev_out(dev)), dev);
        }
    }

    #[test]
    fn no_leaf_can_switch_an_operation_off_or_hang_a_request() {
        assert_eq!(errno(&Errno::ENOSYS.into()), fuser::Errno::EOPNOTSUPP);
        assert_eq!(errno(&Errno::from_raw(512).into()), fuser::Errno::EIO);
        assert_eq!(errno(&Errno::ENOSPC.into()), fuser::Errno::ENOSPC);
    }
}
