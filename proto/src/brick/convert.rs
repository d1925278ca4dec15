//! The contract's types as messages, and back: what comes in is checked here.

use hermitfs_api as api;

use super::v1;

/// A message from which something is missing, or in which something cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of the wire is malformed: {0}")]
pub struct Malformed(pub &'static str);

impl From<api::Identity> for v1::Identity {
    fn from(identity: api::Identity) -> v1::Identity {
        v1::Identity {
            dev: identity.dev,
            ino: identity.ino,
            generation: identity.generation,
        }
    }
}

impl From<v1::Identity> for api::Identity {
    fn from(identity: v1::Identity) -> api::Identity {
        api::Identity {
            dev: identity.dev,
            ino: identity.ino,
            generation: identity.generation,
        }
    }
}

impl From<api::Time> for v1::Time {
    fn from(time: api::Time) -> v1::Time {
        v1::Time {
            sec: time.sec,
            nsec: time.nsec,
        }
    }
}

impl TryFrom<v1::Time> for api::Time {
    type Error = Malformed;

    fn try_from(time: v1::Time) -> Result<api::Time, Malformed> {
        match time.nsec {
            0..=999_999_999 => Ok(api::Time::new(time.sec, time.nsec)),
            _ => Err(Malformed("a time has a second's nanoseconds at most")),
        }
    }
}

impl From<&api::Attr> for v1::Attr {
    fn from(attr: &api::Attr) -> v1::Attr {
        v1::Attr {
            ino: attr.ino,
            dev: attr.dev,
            mode: attr.kind.bits() | attr.mode & 0o7777,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            size: attr.size,
            blocks: attr.blocks,
            blksize: attr.blksize,
            atime: Some(attr.atime.into()),
            mtime: Some(attr.mtime.into()),
            ctime: Some(attr.ctime.into()),
            btime: attr.btime.map(Into::into),
        }
    }
}

impl TryFrom<v1::Attr> for api::Attr {
    type Error = Malformed;

    fn try_from(attr: v1::Attr) -> Result<api::Attr, Malformed> {
        let time = |time: Option<v1::Time>| time.ok_or(Malformed("a time is missing"))?.try_into();
        Ok(api::Attr {
            ino: attr.ino,
            dev: attr.dev,
            kind: api::Kind::from_mode(attr.mode).ok_or(Malformed("an object has a kind"))?,
            mode: attr.mode & 0o7777,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            size: attr.size,
            blocks: attr.blocks,
            blksize: attr.blksize,
            atime: time(attr.atime)?,
            mtime: time(attr.mtime)?,
            ctime: time(attr.ctime)?,
            btime: attr.btime.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<api::SetTime> for v1::SetTime {
    fn from(time: api::SetTime) -> v1::SetTime {
        v1::SetTime {
            at: match time {
                api::SetTime::Now => None,
                api::SetTime::At(time) => Some(time.into()),
            },
        }
    }
}

impl TryFrom<v1::SetTime> for api::SetTime {
    type Error = Malformed;

    fn try_from(time: v1::SetTime) -> Result<api::SetTime, Malformed> {
        Ok(match time.at {
            None => api::SetTime::Now,
            Some(time) => api::SetTime::At(time.try_into()?),
        })
    }
}

/// The part of a setattr that says what to set.
impl TryFrom<&v1::SetattrRequest> for api::SetAttr {
    type Error = Malformed;

    fn try_from(request: &v1::SetattrRequest) -> Result<api::SetAttr, Malformed> {
        Ok(api::SetAttr {
            mode: request.mode,
            uid: request.uid,
            gid: request.gid,
            size: request.size,
            atime: request.atime.map(TryInto::try_into).transpose()?,
            mtime: request.mtime.map(TryInto::try_into).transpose()?,
        })
    }
}

impl v1::SetattrRequest {
    /// With what to set; the rest is empty.
    pub fn setting(set: &api::SetAttr) -> v1::SetattrRequest {
        v1::SetattrRequest {
            mode: set.mode,
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            atime: set.atime.map(Into::into),
            mtime: set.mtime.map(Into::into),
            ..v1::SetattrRequest::default()
        }
    }
}

impl From<api::StatFs> for v1::StatfsReply {
    fn from(stat: api::StatFs) -> v1::StatfsReply {
        v1::StatfsReply {
            fsid: stat.fsid,
            frsize: stat.frsize,
            bsize: stat.bsize,
            blocks: stat.blocks,
            bfree: stat.bfree,
            bavail: stat.bavail,
            files: stat.files,
            ffree: stat.ffree,
            namelen: stat.namelen,
        }
    }
}

impl From<v1::StatfsReply> for api::StatFs {
    fn from(stat: v1::StatfsReply) -> api::StatFs {
        api::StatFs {
            fsid: stat.fsid,
            frsize: stat.frsize,
            bsize: stat.bsize,
            blocks: stat.blocks,
            bfree: stat.bfree,
            bavail: stat.bavail,
            files: stat.files,
            ffree: stat.ffree,
            namelen: stat.namelen,
        }
    }
}

impl From<&api::Extent> for v1::Extent {
    fn from(extent: &api::Extent) -> v1::Extent {
        v1::Extent {
            at: extent.at,
            len: extent.len,
            place: extent.place,
            unwritten: extent.unwritten,
            shared: extent.shared,
        }
    }
}

impl From<&v1::Extent> for api::Extent {
    fn from(extent: &v1::Extent) -> api::Extent {
        api::Extent {
            at: extent.at,
            len: extent.len,
            place: extent.place,
            unwritten: extent.unwritten,
            shared: extent.shared,
        }
    }
}

impl From<&api::Lock> for v1::Lock {
    fn from(lock: &api::Lock) -> v1::Lock {
        v1::Lock {
            owner: lock.owner,
            pid: lock.pid,
            kind: match lock.kind {
                api::LockKind::Shared => v1::LockKind::Shared,
                api::LockKind::Exclusive => v1::LockKind::Exclusive,
                api::LockKind::Unlock => v1::LockKind::Unlock,
            }
            .into(),
            start: lock.start,
            end: lock.end,
            flock: lock.flock,
            ofd: lock.ofd,
        }
    }
}

impl TryFrom<v1::Lock> for api::Lock {
    type Error = Malformed;

    fn try_from(lock: v1::Lock) -> Result<api::Lock, Malformed> {
        if lock.start > lock.end {
            return Err(Malformed("a lock ends before it starts"));
        }
        let kind = v1::LockKind::try_from(lock.kind);
        Ok(api::Lock {
            owner: lock.owner,
            pid: lock.pid,
            kind: match kind.map_err(|_| Malformed("no such kind of lock"))? {
                v1::LockKind::Shared => api::LockKind::Shared,
                v1::LockKind::Exclusive => api::LockKind::Exclusive,
                v1::LockKind::Unlock => api::LockKind::Unlock,
            },
            start: lock.start,
            end: lock.end,
            flock: lock.flock,
            ofd: lock.ofd,
        })
    }
}

/// An enumeration of the contract and its like on the wire, name by name.
macro_rules! alike {
    ($($name:ident { $($variant:ident)* })*) => {
        $(
            impl From<api::$name> for v1::$name {
                fn from(value: api::$name) -> v1::$name {
                    match value { $(api::$name::$variant => v1::$name::$variant,)* }
                }
            }

            impl From<v1::$name> for api::$name {
                fn from(value: v1::$name) -> api::$name {
                    match value { $(v1::$name::$variant => api::$name::$variant,)* }
                }
            }

            impl v1::$name {
                /// From a message's number.
                pub fn read(number: i32) -> Result<api::$name, Malformed> {
                    v1::$name::try_from(number)
                        .map(Into::into)
                        .map_err(|_| Malformed(concat!(stringify!($name), " has no such number")))
                }

                /// As a message's number.
                pub fn number(value: api::$name) -> i32 {
                    v1::$name::from(value).into()
                }
            }
        )*
    };
}

alike! {
    Origin { User Heal Verify Admin }
    RenameFlags { Replace NoReplace Exchange Whiteout WhiteoutNoReplace }
    XattrFlags { Any Create Replace }
    Role { Plain Source Sink Away }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were() {
        let attr = api::Attr {
            ino: u64::MAX,
            dev: 1,
            kind: api::Kind::Socket,
            mode: 0o7777,
            nlink: 1,
            uid: u32::MAX,
            gid: 2,
            rdev: 3,
            size: 1 << 62,
            blocks: 4,
            blksize: 5,
            atime: api::Time::new(-1, 999_999_999),
            mtime: api::Time::MIN,
            ctime: api::Time::MAX,
            btime: None,
        };
        assert_eq!(api::Attr::try_from(v1::Attr::from(&attr)), Ok(attr));
    }

    #[test]
    fn what_cannot_be_is_malformed() {
        assert!(api::Attr::try_from(v1::Attr::default()).is_err());
        let time = v1::Time {
            sec: 0,
            nsec: 1_000_000_000,
        };
        assert!(api::Time::try_from(time).is_err());
        let lock = v1::Lock {
            start: 2,
            end: 1,
            ..v1::Lock::default()
        };
        assert!(api::Lock::try_from(lock).is_err());
        assert!(v1::Role::read(9).is_err());
    }
}
