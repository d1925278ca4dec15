use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use ref_cast::{RefCastCustom, ref_cast_custom};

/// The longest name that Linux takes, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// One component of a path: 1 to 255 bytes, any but `/` and NUL, and neither `.` nor `..`.
///
/// Doors validate, everything below relies on it.
#[derive(PartialEq, Eq, Hash, PartialOrd, Ord, RefCastCustom)]
#[repr(transparent)]
pub struct Name([u8]);

/// Why some bytes are no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing at all.
    #[error("a name cannot be empty")]
    Empty,
    /// More than 255 bytes.
    #[error("a name has at most 255 bytes")]
    TooLong,
    /// `/` or NUL in it.
    #[error("a name cannot have a slash or a NUL in it")]
    Byte,
    /// `.` or `..`.
    #[error("`.` and `..` are no names")]
    Dots,
}

impl From<InvalidName> for crate::Error {
    fn from(invalid: InvalidName) -> Self {
        crate::Error::new(match invalid {
            InvalidName::Empty => crate::Errno::ENOENT,
            InvalidName::TooLong => crate::Errno::ENAMETOOLONG,
            InvalidName::Byte | InvalidName::Dots => crate::Errno::EINVAL,
        })
    }
}

impl Name {
    #[ref_cast_custom]
    const fn cast(bytes: &[u8]) -> &Name;

    /// Checks and wraps, without a copy.
    pub fn new(bytes: &[u8]) -> Result<&Name, InvalidName> {
        match bytes {
            [] => Err(InvalidName::Empty),
            b"." | b".." => Err(InvalidName::Dots),
            _ if bytes.len() > NAME_MAX => Err(InvalidName::TooLong),
            _ if bytes.iter().any(|&b| b == b'/' || b == 0) => Err(InvalidName::Byte),
            _ => Ok(Name::cast(bytes)),
        }
    }

    /// The bytes; no terminating NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl ToOwned for Name {
    type Owned = NameBuf;
    fn to_owned(&self) -> NameBuf {
        NameBuf(self.0.into())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0).escape_debug())
    }
}

/// A [`Name`] that owns its bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameBuf(Box<[u8]>);

impl NameBuf {
    /// Checks and copies.
    pub fn new(bytes: &[u8]) -> Result<NameBuf, InvalidName> {
        Name::new(bytes).map(Name::to_owned)
    }
}

impl Deref for NameBuf {
    type Target = Name;
    fn deref(&self) -> &Name {
        Name::cast(&self.0)
    }
}

impl Borrow<Name> for NameBuf {
    fn borrow(&self) -> &Name {
        self
    }
}

impl fmt::Debug for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl fmt::Display for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_but_slash_and_nul_is_a_name() {
        for b in 1..=255u8 {
            assert_eq!(Name::new(&[b, b'x']).is_ok(), b != b'/', "byte {b:#x}");
        }
        assert_eq!(Name::new(b"a\0"), Err(InvalidName::Byte));
    }

    #[test]
    fn dots_empty_and_long_are_refused() {
        assert_eq!(Name::new(b""), Err(InvalidName::Empty));
        assert_eq!(Name::new(b"."), Err(InvalidName::Dots));
        assert_eq!(Name::new(b".."), Err(InvalidName::Dots));
        assert!(Name::new(b"...").is_ok());
        assert!(Name::new(&[b'n'; 255]).is_ok());
        assert_eq!(Name::new(&[b'n'; 256]), Err(InvalidName::TooLong));
    }
}
