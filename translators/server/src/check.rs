//! What comes in is believed to be anything: these say what it may be.

use hermitfs_api::{Allocate, Errno, Kind, Make, Name, OpenFlags, Result};
use hermitfs_proto::brick::{MAX_DATA, Malformed, v1};

/// Largest offset that Linux has.
const MAX_OFFSET: u64 = i64::MAX as u64;
/// `XATTR_NAME_MAX`, `XATTR_SIZE_MAX`.
const XATTR_NAME: usize = 255;
const XATTR_SIZE: usize = 64 << 10;

/// What cannot be a message of ours.
pub(crate) fn malformed<T>(read: std::result::Result<T, Malformed>) -> Result<T> {
    read.map_err(|malformed| hermitfs_api::Error::with_story(Errno::EINVAL, malformed))
}

/// A name in a directory.
pub(crate) fn name(bytes: &[u8]) -> Result<&Name> {
    Ok(Name::new(bytes)?)
}

/// A symbolic link's target.
pub(crate) fn target(bytes: &[u8]) -> Result<&[u8]> {
    match bytes.len() {
        0 => Err(Errno::ENOENT.into()),
        4096.. => Err(Errno::ENAMETOOLONG.into()),
        _ if bytes.contains(&0) => Err(Errno::EINVAL.into()),
        _ => Ok(bytes),
    }
}

/// Permission bits alone.
pub(crate) fn mode(mode: u32) -> Result<u32> {
    match mode {
        0..=0o7777 => Ok(mode),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// What mknod may make.
pub(crate) fn make(request: &v1::MknodRequest) -> Result<Make> {
    let kind = Kind::from_mode(request.mode).ok_or(Errno::EINVAL)?;
    if matches!(kind, Kind::Directory | Kind::Symlink)
        || request.mode & !(libc::S_IFMT | 0o7777) != 0
    {
        return Err(Errno::EINVAL.into());
    }
    Ok(Make {
        kind,
        mode: request.mode & 0o7777,
        umask: request.umask & 0o777,
        rdev: request.rdev,
    })
}

/// How a file may be opened: what makes files, or opens none, is not for a layer.
pub(crate) fn flags(flags: i32) -> Result<OpenFlags> {
    const NEVER: i32 = libc::O_CREAT
        | libc::O_EXCL
        | libc::O_NOCTTY
        | libc::O_PATH
        | (libc::O_TMPFILE & !libc::O_DIRECTORY);
    if flags & NEVER != 0 || flags & libc::O_ACCMODE == libc::O_ACCMODE {
        return Err(Errno::EINVAL.into());
    }
    Ok(OpenFlags(flags))
}

/// A range that begins and ends where a file can be.
pub(crate) fn range(at: u64, len: u64) -> Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= MAX_OFFSET => Ok(()),
        _ => Err(Errno::EFBIG.into()),
    }
}

/// Content of one call.
pub(crate) fn data(len: usize) -> Result<usize> {
    if len > MAX_DATA {
        return Err(Errno::E2BIG.into());
    }
    Ok(len)
}

/// A file's size.
pub(crate) fn size(size: Option<u64>) -> Result<()> {
    range(size.unwrap_or(0), 0)
}

/// An extended attribute's name.
pub(crate) fn xattr_name(name: &[u8]) -> Result<&[u8]> {
    match name.len() {
        0 => Err(Errno::ERANGE.into()),
        len if len > XATTR_NAME => Err(Errno::ERANGE.into()),
        _ if name.contains(&0) => Err(Errno::EINVAL.into()),
        _ => Ok(name),
    }
}

/// An extended attribute's value.
pub(crate) fn xattr_value(value: &[u8]) -> Result<&[u8]> {
    if value.len() > XATTR_SIZE {
        return Err(Errno::E2BIG.into());
    }
    Ok(value)
}

/// What fallocate may do, and where.
pub(crate) fn allocate(mode: i32, at: u64, len: u64) -> Result<Allocate> {
    let how = Allocate::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
    if len == 0 {
        return Err(Errno::EINVAL.into());
    }
    range(at, len)?;
    Ok(how)
}
