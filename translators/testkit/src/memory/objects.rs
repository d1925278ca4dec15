//! Operations on objects: attributes, extended attributes, flags and content.

use hermitfs_api::{Allocate, Attr, Context, Errno, Fsx, Kind, Result, SetAttr, XattrFlags};

use super::acl::Acl;
use super::content::BLOCK;
use super::names::{ACCESS, DEFAULT};
use super::state::{APPEND, IMMUTABLE, State};

const CAPABILITY: &[u8] = b"security.capability";

impl State {
    /// EPERM when flags of the object forbid to change it.
    fn unless_fixed(&self, number: u64, flags: u32) -> Result<()> {
        if self.get(number).flags & flags != 0 {
            Err(Errno::EPERM.into())
        } else {
            Ok(())
        }
    }

    /// What a change of the content by this caller takes away, as the kernel does it: a
    /// capability always, set-id bits from anyone but root.
    fn drop_privileges(&mut self, cx: &Context, number: u64) {
        let object = self.change(number);
        object.xattrs.remove(CAPABILITY);
        if cx.uid != 0 {
            object.mode = without_set_id(object.mode);
        }
    }

    /// Content changes: privileges fall, the clock goes on.
    fn modified(&mut self, cx: &Context, number: u64) {
        self.drop_privileges(cx, number);
        let now = self.now();
        let object = self.change(number);
        (object.mtime, object.ctime) = (now, now);
    }

    pub(super) fn setattr(&mut self, cx: &Context, number: u64, set: &SetAttr) -> Result<Attr> {
        self.unless_fixed(number, IMMUTABLE | APPEND)?;
        let kind = self.get(number).kind;
        if set.mode.is_some() && kind == Kind::Symlink {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if let Some(size) = set.size {
            match kind {
                Kind::File if size > self.settings.max_file => return Err(Errno::EFBIG.into()),
                Kind::File => {}
                Kind::Directory => return Err(Errno::EISDIR.into()),
                _ => return Err(Errno::EINVAL.into()),
            }
            self.change_content(number).set_size(size);
            self.modified(cx, number);
        }
        if *set == SetAttr::default() {
            return Ok(self.attr(number));
        }
        let now = self.now();
        let (atime, mtime) = (
            set.atime.map(|t| self.set_time(t, now)),
            set.mtime.map(|t| self.set_time(t, now)),
        );
        let object = self.change(number);
        object.uid = set.uid.unwrap_or(object.uid);
        object.gid = set.gid.unwrap_or(object.gid);
        if (set.uid.is_some() || set.gid.is_some()) && kind != Kind::Directory {
            object.mode = without_set_id(object.mode);
            object.xattrs.remove(CAPABILITY);
        }
        if let Some(mode) = set.mode {
            object.mode = mode & 0o7777;
            if let Some(mut acl) = object
                .xattrs
                .get(ACCESS)
                .map(|v| Acl::parse(v))
                .transpose()?
                .flatten()
            {
                acl.chmod(object.mode);
                object.xattrs.insert(ACCESS.to_vec(), acl.to_bytes());
            }
        }
        object.atime = atime.unwrap_or(object.atime);
        object.mtime = mtime.unwrap_or(object.mtime);
        object.ctime = now;
        Ok(self.attr(number))
    }

    pub(super) fn getxattr(&self, number: u64, name: &[u8]) -> Result<Vec<u8>> {
        self.check_xattr(name)?;
        self.get(number)
            .xattrs
            .get(name)
            .cloned()
            .ok_or(Errno::ENODATA.into())
    }

    fn check_xattr(&self, name: &[u8]) -> Result<()> {
        if !self.settings.xattrs {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if name.is_empty() || name.len() > 255 {
            return Err(Errno::ERANGE.into());
        }
        if [ACCESS, DEFAULT].contains(&name) {
            return Ok(());
        }
        let known = [&b"user."[..], b"trusted.", b"security."];
        match known.iter().find(|prefix| name.starts_with(prefix)) {
            None => Err(Errno::EOPNOTSUPP.into()),
            Some(prefix) if prefix.len() == name.len() => Err(Errno::EINVAL.into()),
            Some(_) => Ok(()),
        }
    }

    /// That an extended attribute of this name can be changed on this object.
    fn may_change_xattr(&self, number: u64, name: &[u8]) -> Result<()> {
        self.check_xattr(name)?;
        self.unless_fixed(number, IMMUTABLE | APPEND)?;
        let kind = self.get(number).kind;
        match name {
            ACCESS | DEFAULT if kind == Kind::Symlink => Err(Errno::EOPNOTSUPP.into()),
            _ if !name.starts_with(b"user.") => Ok(()),
            _ if matches!(kind, Kind::File | Kind::Directory) => Ok(()),
            _ => Err(Errno::EPERM.into()),
        }
    }

    pub(super) fn setxattr(
        &mut self,
        number: u64,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        if value.len() > 64 << 10 {
            return Err(Errno::E2BIG.into());
        }
        self.may_change_xattr(number, name)?;
        if name == ACCESS || name == DEFAULT {
            return self.set_acl(number, name, value);
        }
        let object = self.get(number);
        match (flags, object.xattrs.contains_key(name)) {
            (XattrFlags::Create, true) => return Err(Errno::EEXIST.into()),
            (XattrFlags::Replace, false) => return Err(Errno::ENODATA.into()),
            _ => {}
        }
        let others = object.xattrs.iter().filter(|(other, _)| *other != name);
        let used: usize = others.map(|(name, value)| name.len() + value.len()).sum();
        if used + name.len() + value.len() > self.settings.xattr_space {
            return Err(Errno::ENOSPC.into());
        }
        let now = self.now();
        let object = self.change(number);
        object.xattrs.insert(name.to_vec(), value.to_vec());
        object.ctime = now;
        Ok(())
    }

    /// An access ACL that says no more than a mode is the mode; an empty one is none.
    fn set_acl(&mut self, number: u64, name: &[u8], value: &[u8]) -> Result<()> {
        let acl = if value.is_empty() {
            None
        } else {
            Acl::parse(value)?
        };
        if name == DEFAULT && acl.is_some() && self.get(number).kind != Kind::Directory {
            return Err(Errno::EACCES.into());
        }
        let now = self.now();
        let object = self.change(number);
        object.ctime = now;
        let kept = match &acl {
            Some(acl) if name == ACCESS => {
                let (mode, whole) = acl.mode();
                object.mode = object.mode & !0o777 | mode;
                !whole
            }
            other => other.is_some(),
        };
        match acl.filter(|_| kept) {
            Some(acl) => object.xattrs.insert(name.to_vec(), acl.to_bytes()),
            None => object.xattrs.remove(name),
        };
        Ok(())
    }

    pub(super) fn removexattr(&mut self, number: u64, name: &[u8]) -> Result<()> {
        self.may_change_xattr(number, name)?;
        let there = self.get(number).xattrs.contains_key(name);
        if !there {
            // Removing an ACL that is not there succeeds: it is the empty one.
            let acl = name == ACCESS || name == DEFAULT;
            return if acl {
                Ok(())
            } else {
                Err(Errno::ENODATA.into())
            };
        }
        let now = self.now();
        let object = self.change(number);
        object.xattrs.remove(name);
        object.ctime = now;
        Ok(())
    }

    /// ENOTTY where there are no inode flags.
    pub(super) fn has_flags(&self, number: u64) -> Result<()> {
        let kind = self.get(number).kind;
        if self.settings.flags == 0 || !matches!(kind, Kind::File | Kind::Directory) {
            return Err(Errno::ENOTTY.into());
        }
        Ok(())
    }

    pub(super) fn set_flags(&mut self, number: u64, flags: u32) -> Result<()> {
        self.has_flags(number)?;
        if flags & !self.settings.flags != 0 {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let now = self.now();
        let object = self.change(number);
        object.flags = flags;
        object.ctime = now;
        Ok(())
    }

    pub(super) fn fsx(&self, number: u64) -> Result<Fsx> {
        self.has_flags(number)?;
        let object = self.get(number);
        let xflags = object.fsx.xflags & !Fsx::TWINNED | Fsx::twins_of(object.flags);
        Ok(Fsx {
            flags: object.flags,
            xflags,
            ..object.fsx
        })
    }

    pub(super) fn set_fsx(&mut self, number: u64, fsx: &Fsx) -> Result<()> {
        self.has_flags(number)?;
        let flags = fsx.flags_with(self.get(number).flags);
        if flags & !self.settings.flags != 0 || fsx.project != 0 && !self.settings.projects {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let now = self.now();
        let object = self.change(number);
        object.flags = flags;
        object.fsx = Fsx { extents: 0, ..*fsx };
        object.ctime = now;
        Ok(())
    }

    /// EPERM for an open that the object's flags forbid.
    pub(super) fn may_open(
        &self,
        number: u64,
        writes: bool,
        appends: bool,
        truncates: bool,
    ) -> Result<()> {
        let flags = self.get(number).flags;
        if writes && (flags & IMMUTABLE != 0 || flags & APPEND != 0 && (!appends || truncates)) {
            return Err(Errno::EPERM.into());
        }
        Ok(())
    }

    pub(super) fn truncate(&mut self, cx: &Context, number: u64) {
        self.change_content(number).set_size(0);
        self.modified(cx, number);
    }

    pub(super) fn write(
        &mut self,
        cx: &Context,
        number: u64,
        at: u64,
        data: &[u8],
    ) -> Result<usize> {
        self.unless_fixed(number, IMMUTABLE)?;
        if data.is_empty() {
            return Ok(0);
        }
        let room = self.settings.max_file.saturating_sub(at);
        if room == 0 {
            return Err(Errno::EFBIG.into());
        }
        let data = &data[..data.len().min(room as usize)];
        self.reserve(self.content(number).growth(at, data.len() as u64))?;
        self.change_content(number).write(at, data);
        self.modified(cx, number);
        Ok(data.len())
    }

    pub(super) fn fallocate(
        &mut self,
        cx: &Context,
        number: u64,
        how: Allocate,
        at: u64,
        len: u64,
    ) -> Result<()> {
        if len == 0 || at > i64::MAX as u64 || len > i64::MAX as u64 {
            return Err(Errno::EINVAL.into());
        }
        if !self.settings.fallocate {
            return Err(Errno::EOPNOTSUPP.into());
        }
        self.unless_fixed(number, IMMUTABLE)?;
        let end = at + len;
        if end > self.settings.max_file {
            return Err(Errno::EFBIG.into());
        }
        let size = self.content(number).size;
        let (max, content) = (self.settings.max_file, self.change_content(number));
        let shifts = matches!(how, Allocate::Collapse | Allocate::Insert);
        if shifts && (!at.is_multiple_of(BLOCK) || !len.is_multiple_of(BLOCK)) {
            return Err(Errno::EINVAL.into());
        }
        let grows = |keep_size: bool| if keep_size { size } else { size.max(end) };
        match how {
            Allocate::Reserve { keep_size } | Allocate::Unshare { keep_size } => {
                content.set_size(grows(keep_size));
            }
            Allocate::Punch => content.punch(at, len),
            Allocate::Zero { keep_size } => {
                content.punch(at, len);
                content.set_size(grows(keep_size));
            }
            Allocate::Collapse if end >= size => return Err(Errno::EINVAL.into()),
            Allocate::Collapse => content.collapse(at, len),
            Allocate::Insert if at >= size => return Err(Errno::EINVAL.into()),
            Allocate::Insert if size + len > max => return Err(Errno::EFBIG.into()),
            Allocate::Insert => content.insert(at, len),
        }
        self.modified(cx, number);
        Ok(())
    }

    pub(super) fn copy(
        &mut self,
        cx: &Context,
        from: u64,
        from_at: u64,
        to: u64,
        to_at: u64,
        len: u64,
    ) -> Result<u64> {
        let apart = from_at.abs_diff(to_at) >= len;
        if from == to && !apart {
            return Err(Errno::EINVAL.into());
        }
        let mut data = vec![0; len.min(1 << 20) as usize];
        let len = self.content(from).read(from_at, &mut data);
        Ok(self.write(cx, to, to_at, &data[..len])? as u64)
    }
}

/// Set-user-id falls, and set-group-id where the group may execute (else it means mandatory locking).
fn without_set_id(mode: u32) -> u32 {
    if mode & 0o10 != 0 {
        mode & !0o6000
    } else {
        mode & !0o4000
    }
}
