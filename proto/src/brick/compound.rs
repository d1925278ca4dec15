//! Compounds as messages, and back.

use bytes::Bytes;
use hermitfs_api as api;

use super::convert::Malformed;
use super::v1;

/// Names in one snapshot, and files that are made in one call.
pub const MAX_TOGETHER: usize = 256;

/// Bytes of content of one object in a snapshot.
pub const MAX_SMALL: u64 = 256 << 10;

fn to_wire(xattrs: &api::Xattrs) -> Vec<v1::Xattr> {
    let xattrs = xattrs.iter();
    let message = |(name, value): &(Box<[u8]>, Vec<u8>)| v1::Xattr {
        name: Bytes::copy_from_slice(name),
        value: Bytes::copy_from_slice(value),
    };
    xattrs.map(message).collect()
}

fn from_wire(xattrs: Vec<v1::Xattr>) -> api::Xattrs {
    let xattrs = xattrs.into_iter();
    xattrs
        .map(|xattr| (Vec::from(xattr.name).into(), xattr.value.into()))
        .collect()
}

impl v1::Snapshot {
    /// What was read of an object, which the wire calls `entry`.
    pub fn of(entry: v1::Entry, snapshot: api::Snapshot) -> v1::Snapshot {
        v1::Snapshot {
            errno: 0,
            entry: Some(entry),
            xattrs: to_wire(&snapshot.xattrs),
            content: snapshot.content.map(Bytes::from),
            fsx: Some((&snapshot.fsx).into()),
        }
    }

    /// Why nothing was read.
    pub fn failed(error: &api::Error) -> v1::Snapshot {
        v1::Snapshot {
            errno: error.errno().raw(),
            ..v1::Snapshot::default()
        }
    }

    /// The object that `entry` makes of the message's, and all that was read of it.
    pub fn read(
        self,
        entry: impl FnOnce(Option<v1::Entry>) -> api::Result<api::Entry>,
    ) -> api::Result<api::Snapshot> {
        match self.errno {
            0 => Ok(api::Snapshot {
                entry: entry(self.entry)?,
                content: self.content.map(Vec::from),
                xattrs: from_wire(self.xattrs),
                fsx: self.fsx.map(api::Fsx::from).unwrap_or_default(),
            }),
            raw => Err(api::Errno::from_raw(raw).into()),
        }
    }
}

impl From<&api::Fsx> for v1::Fsx {
    fn from(fsx: &api::Fsx) -> v1::Fsx {
        v1::Fsx {
            flags: fsx.flags,
            xflags: fsx.xflags,
            extent_size: fsx.extent_size,
            extents: fsx.extents,
            project: fsx.project,
            cow_extent_size: fsx.cow_extent_size,
        }
    }
}

impl From<v1::Fsx> for api::Fsx {
    fn from(fsx: v1::Fsx) -> api::Fsx {
        api::Fsx {
            flags: fsx.flags,
            xflags: fsx.xflags,
            extent_size: fsx.extent_size,
            extents: fsx.extents,
            project: fsx.project,
            cow_extent_size: fsx.cow_extent_size,
        }
    }
}

impl v1::Made {
    /// How one file came out.
    pub fn of(made: &api::Result<api::Attr>) -> v1::Made {
        match made {
            Ok(attr) => v1::Made {
                errno: 0,
                attr: Some(attr.into()),
            },
            Err(error) => v1::Made {
                errno: error.errno().raw(),
                attr: None,
            },
        }
    }
}

impl From<&api::Whole> for v1::Whole {
    fn from(file: &api::Whole) -> v1::Whole {
        v1::Whole {
            name: Bytes::copy_from_slice(file.name.as_bytes()),
            content: Bytes::copy_from_slice(&file.content),
            mode: file.mode,
            uid: file.uid,
            gid: file.gid,
            atime: Some(file.atime.into()),
            mtime: Some(file.mtime.into()),
            xattrs: to_wire(&file.xattrs),
            flags: file.flags,
            mask: file.mask,
            project: file.project,
        }
    }
}

impl TryFrom<v1::Whole> for api::Whole {
    type Error = Malformed;

    /// The name is checked here; sizes, modes and attributes are not.
    fn try_from(file: v1::Whole) -> Result<api::Whole, Malformed> {
        let time = |time: Option<v1::Time>| time.ok_or(Malformed("a time is missing"))?.try_into();
        Ok(api::Whole {
            name: api::NameBuf::new(&file.name).map_err(|_| Malformed("no name"))?,
            content: file.content.into(),
            mode: file.mode,
            uid: file.uid,
            gid: file.gid,
            atime: time(file.atime)?,
            mtime: time(file.mtime)?,
            xattrs: from_wire(file.xattrs),
            flags: file.flags,
            mask: file.mask,
            project: file.project,
        })
    }
}
