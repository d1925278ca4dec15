use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use crate::{
    Allocate, Attr, Context, DirEntry, Entry, Extent, File, Fsx, Handle, Inode, Lend, Lent,
    Location, Lock, Make, Name, NameBuf, OpenFlags, Origin, RenameFlags, Result, Role, Seek,
    SetAttr, StatFs, Whole, XattrFlags,
};

/// How an argument or an answer of an operation looks in a trace: short, on one line, and of
/// content its length alone.
pub trait Brief {
    /// Writes it.
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result;
}

/// Something brief, to be formatted with `{}`.
pub fn brief<T: Brief + ?Sized>(value: &T) -> impl fmt::Display + '_ {
    struct Shown<'a, T: ?Sized>(&'a T);
    impl<T: Brief + ?Sized> fmt::Display for Shown<'_, T> {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            self.0.brief(f)
        }
    }
    Shown(value)
}

macro_rules! as_debug {
    ($($ty:ty)*) => {
        $(impl Brief for $ty {
            fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
                Debug::fmt(self, f)
            }
        })*
    };
}

as_debug! {
    bool u32 u64 usize Allocate File Handle Inode Lend Lock Name NameBuf RenameFlags Role
    Seek StatFs XattrFlags
}

impl<T: Brief + ?Sized> Brief for &T {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        (**self).brief(f)
    }
}

impl<T: Brief + ?Sized> Brief for &mut T {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        (**self).brief(f)
    }
}

impl<T: Brief + ?Sized> Brief for Arc<T> {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        (**self).brief(f)
    }
}

impl<T: Brief> Brief for Option<T> {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Some(value) => value.brief(f),
            None => f.write_str("-"),
        }
    }
}

impl<A: Brief, B: Brief> Brief for (A, B) {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.brief(f)?;
        f.write_str(" ")?;
        self.1.brief(f)
    }
}

impl Brief for () {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("ok")
    }
}

/// Content, an extended attribute's name, a link's target: text is shown when it is short.
impl Brief for [u8] {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.len() {
            0..=32 if self.iter().all(u8::is_ascii_graphic) => {
                write!(f, "\"{}\"", self.escape_ascii())
            }
            len => write!(f, "{len} bytes"),
        }
    }
}

impl Brief for Vec<u8> {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.as_slice().brief(f)
    }
}

impl Brief for Vec<DirEntry> {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.len())
    }
}

impl Brief for Vec<Extent> {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} extents", self.len())
    }
}

/// Of a compound: how many came off, of how many.
impl<T> Brief for Vec<Result<T>> {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let good = self.iter().filter(|answer| answer.is_ok()).count();
        write!(f, "{good} of {}", self.len())
    }
}

impl Brief for [NameBuf] {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} names", self.len())
    }
}

impl Brief for [Whole] {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.iter().map(Whole::bytes).sum();
        write!(f, "{} files of {bytes} bytes", self.len())
    }
}

impl Brief for Context {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::User => write!(f, "uid {} pid {}", self.uid, self.pid),
            origin => Debug::fmt(&origin, f),
        }
    }
}

impl Brief for OpenFlags {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:#o}", self.0)
    }
}

impl Brief for Fsx {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "flags {:x} {:x} project {}",
            self.flags, self.xflags, self.project
        )
    }
}

impl Brief for Make {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:o}", self.kind, self.mode)
    }
}

impl Brief for SetAttr {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        } = self;
        f.write_str("set")?;
        mode.map_or(Ok(()), |mode| write!(f, " mode {mode:o}"))?;
        uid.map_or(Ok(()), |uid| write!(f, " uid {uid}"))?;
        gid.map_or(Ok(()), |gid| write!(f, " gid {gid}"))?;
        size.map_or(Ok(()), |size| write!(f, " size {size}"))?;
        atime.map_or(Ok(()), |time| write!(f, " atime {time:?}"))?;
        mtime.map_or(Ok(()), |time| write!(f, " mtime {time:?}"))
    }
}

impl Brief for Attr {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {:o} size {} nlink {}",
            self.kind, self.mode, self.size, self.nlink
        )
    }
}

impl Brief for Entry {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.inode.brief(f)
    }
}

impl Brief for Location {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display())
    }
}

impl Brief for Lent {
    fn brief(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a descriptor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_shown_by_its_length() {
        assert_eq!(brief(&b"user.x"[..]).to_string(), "\"user.x\"");
        assert_eq!(brief(&[0u8; 5][..]).to_string(), "5 bytes");
        assert_eq!(brief(&vec![b'x'; 40]).to_string(), "40 bytes");
        let set = SetAttr {
            mode: Some(0o640),
            ..SetAttr::default()
        };
        assert_eq!(brief(&&set).to_string(), "set mode 640");
    }
}
