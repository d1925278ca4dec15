use std::error::Error as StdError;
use std::fmt;

/// What an operation returns.
pub type Result<T> = std::result::Result<T, Error>;

/// An error number as the kernel has it (errno(3)): 1..=4095, never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "`, see errno(3).")]
                pub const $name: Errno = Errno(libc::$name);
            )*

            /// The symbolic name, `None` for a number that this list does not have.
            pub fn name(self) -> Option<&'static str> {
                match self { $(Errno::$name => Some(stringify!($name)),)* _ => None }
            }

            /// The number that a symbolic name such as `"ENOSPC"` stands for.
            pub fn from_name(name: &str) -> Option<Errno> {
                match name { $(stringify!($name) => Some(Errno::$name),)* _ => None }
            }
        }
    };
}

errnos! {
    EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EXDEV ENODEV
    ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE
    ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENODATA EOVERFLOW ESTALE EDQUOT
    EOPNOTSUPP ETIMEDOUT ENOTCONN ESHUTDOWN EUCLEAN
}

impl Errno {
    /// From a raw number; what is no error number (0, negative, beyond 4095) becomes `EIO`.
    pub fn from_raw(raw: i32) -> Errno {
        if (1..=4095).contains(&raw) {
            Errno(raw)
        } else {
            Errno::EIO
        }
    }

    /// The number, for a reply to the kernel or the wire.
    pub fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        match self.name() {
            Some(name) => write!(f, "{text} ({name})"),
            None => write!(f, "{text} (errno {})", self.0),
        }
    }
}

/// An error number, and a story for people where there is one to tell.
///
/// An ordinary answer such as `ENOENT` allocates nothing. The story is for the log of whoever
/// handles the error; it is logged once, there.
pub struct Error {
    errno: Errno,
    story: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error that needs no story.
    pub const fn new(errno: Errno) -> Error {
        Error { errno, story: None }
    }

    /// An error with what happened, for the log.
    pub fn with_story(errno: Errno, story: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error {
            errno,
            story: Some(story.into()),
        }
    }

    /// What the caller of the system call gets.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The story, if one was told.
    pub fn story(&self) -> Option<&(dyn StdError + Send + Sync)> {
        self.story.as_deref()
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::new(errno)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(raw) => Error::new(Errno::from_raw(raw)),
            None => Error::with_story(Errno::EIO, error),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.story {
            Some(story) => write!(f, "{:?}: {story}", self.errno),
            None => write!(f, "{:?}", self.errno),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.story {
            Some(story) => write!(f, "{story}: {}", self.errno),
            None => write!(f, "{}", self.errno),
        }
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_small_and_names_itself() {
        assert!(size_of::<Error>() <= 24);
        assert_eq!(format!("{:?}", Errno::ENOSPC), "ENOSPC");
        assert_eq!(
            Errno::ENOENT.to_string(),
            "No such file or directory (ENOENT)"
        );
        assert_eq!(Errno::from_name("ESTALE"), Some(Errno::ESTALE));
        assert_eq!(Errno::from_raw(0), Errno::EIO);
    }
}
