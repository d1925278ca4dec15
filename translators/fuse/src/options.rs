use std::str::FromStr;
use std::time::Duration;

use crate::attributes::Attributes;

/// How the door behaves. `Options::default()` is right for a volume on local storage that is
/// reached through this one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `threads`: threads that take requests from the kernel, 2..=256. The last two never wait
    /// for a disk or a freeze, so that the mount answers meanwhile.
    pub threads: usize,
    /// `clone-fd`: each thread gets a queue of its own at the device. Costs nothing and brings
    /// nothing on few cores; spares a lock on many.
    pub clone_fd: bool,
    /// `passthrough`: let reads (and what the brick alone may see) bypass the door, where kernel,
    /// privileges and volume allow it.
    pub passthrough: bool,
    /// `entry-lifetime`: how long the kernel may believe a name, present or absent, without
    /// asking. Long, as the mount is the only way in.
    pub entry_lifetime: Duration,
    /// `attr-lifetime`: the same for attributes.
    pub attr_lifetime: Duration,
    /// `shared`: others work in the volume by other mounts. Nothing is believed for longer than a
    /// second, nothing bypasses the door, and what the README promises of several mounts holds.
    pub shared: bool,
    /// `flush`: hear of every close(2). Needed where the brick reports errors only then (NFS).
    pub flush: bool,
    /// `locks`: the volume keeps the locks (fcntl(2), flock(2)), not the kernel: needed where others
    /// come to it by other ways than this mount. `auto`: where the option
    /// `shared` is on.
    pub locks: Option<bool>,
    /// `max-background`: how many read-ahead and write-back requests may be under way, 1..=65535.
    pub max_background: u16,
    /// `ro`, `nosuid`, `nodev`, `noexec`, `nosymfollow`, `noatime` and its kin: as mount(8) has them.
    pub attributes: Attributes,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            threads: 8,
            clone_fd: false,
            passthrough: true,
            entry_lifetime: Duration::from_secs(24 * 3600),
            attr_lifetime: Duration::from_secs(24 * 3600),
            shared: false,
            flush: false,
            locks: None,
            max_background: 64,
            attributes: Attributes::default(),
        }
    }
}

/// An option that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOption {
    /// Nobody knows it.
    #[error("unknown mount option `{0}`; there are: {list}", list = NAMES.join(", "))]
    Unknown(String),
    /// It is known, its value is not.
    #[error("mount option `{name}`: `{value}` is not {wanted}")]
    Value {
        /// The option.
        name: String,
        /// What was given.
        value: String,
        /// What is accepted.
        wanted: &'static str,
    },
}

const NAMES: &[&str] = &[
    "threads",
    "clone-fd",
    "passthrough",
    "entry-lifetime",
    "attr-lifetime",
    "shared",
    "flush",
    "locks",
    "max-background",
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "nosymfollow",
    "symfollow",
    "noatime",
    "atime",
    "relatime",
    "strictatime",
    "nodiratime",
    "diratime",
];

impl Options {
    /// Sets one option; `value` is what stood after `=`, if anything did.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), InvalidOption> {
        match name {
            "threads" => self.threads = ranged(name, value, 2..=256, "a number, 2 to 256")?,
            "clone-fd" => self.clone_fd = switch(name, value)?,
            "passthrough" => self.passthrough = switch(name, value)?,
            "entry-lifetime" => self.entry_lifetime = lifetime(name, value)?,
            "attr-lifetime" => self.attr_lifetime = lifetime(name, value)?,
            "shared" => self.shared = switch(name, value)?,
            "flush" => self.flush = switch(name, value)?,
            "locks" if value == Some("auto") => self.locks = None,
            "locks" => self.locks = Some(switch(name, value)?),
            "max-background" => {
                self.max_background = ranged(name, value, 1..=u16::MAX, "a number, 1 to 65535")?;
            }
            name if self.attributes.knows(name) => self.attributes.set(name, switch(name, value)?),
            _ => return Err(InvalidOption::Unknown(name.into())),
        }
        Ok(())
    }

    /// Sets options from a list as mount(8) takes it: `ro,threads=16,passthrough=false`.
    pub fn set_all(&mut self, list: &str) -> Result<(), InvalidOption> {
        for option in list
            .split(',')
            .map(str::trim)
            .filter(|option| !option.is_empty())
        {
            match option.split_once('=') {
                Some((name, value)) => self.set(name.trim(), Some(value.trim()))?,
                None => self.set(option, None)?,
            }
        }
        Ok(())
    }
}

impl FromStr for Options {
    type Err = InvalidOption;

    fn from_str(list: &str) -> Result<Options, InvalidOption> {
        let mut options = Options::default();
        options.set_all(list)?;
        Ok(options)
    }
}

fn invalid(name: &str, value: Option<&str>, wanted: &'static str) -> InvalidOption {
    InvalidOption::Value {
        name: name.into(),
        value: value.unwrap_or_default().into(),
        wanted,
    }
}

fn switch(name: &str, value: Option<&str>) -> Result<bool, InvalidOption> {
    match value {
        None | Some("true" | "yes" | "on" | "1") => Ok(true),
        Some("false" | "no" | "off" | "0") => Ok(false),
        Some(_) => Err(invalid(name, value, "true or false")),
    }
}

fn ranged<N: FromStr + PartialOrd>(
    name: &str,
    value: Option<&str>,
    range: std::ops::RangeInclusive<N>,
    wanted: &'static str,
) -> Result<N, InvalidOption> {
    let number = value.and_then(|value| value.parse().ok());
    number
        .filter(|n| range.contains(n))
        .ok_or_else(|| invalid(name, value, wanted))
}

fn lifetime(name: &str, value: Option<&str>) -> Result<Duration, InvalidOption> {
    let parsed = match value {
        Some("0") => Some(Duration::ZERO),
        Some(value) => humantime::parse_duration(value).ok(),
        None => None,
    };
    parsed.ok_or_else(|| invalid(name, value, "a time such as 500ms, 10s, 1h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_mount_reads_it() {
        let options: Options = "ro, threads=16,passthrough=off,attr-lifetime=2s,"
            .parse()
            .unwrap();
        assert!(options.attributes.read_only && !options.passthrough);
        assert_eq!(
            (options.threads, options.attr_lifetime),
            (16, Duration::from_secs(2))
        );
        let locks = |list: &str| list.parse::<Options>().unwrap().locks;
        assert_eq!(
            (locks("locks"), locks("locks=off")),
            (Some(true), Some(false))
        );
        assert_eq!(locks("locks,locks=auto"), None);
        assert_eq!("".parse(), Ok(Options::default()));
    }

    #[test]
    fn a_wrong_option_says_what_would_be_right() {
        let wrong = "threads=1".parse::<Options>().unwrap_err().to_string();
        assert_eq!(
            wrong,
            "mount option `threads`: `1` is not a number, 2 to 256"
        );
        let unknown = "therads=9".parse::<Options>().unwrap_err().to_string();
        assert!(
            unknown.contains("therads") && unknown.contains("threads"),
            "{unknown}"
        );
    }

    #[test]
    fn every_name_in_the_list_is_understood() {
        for name in NAMES {
            let unknown = Options::default().set(name, Some("?"));
            assert!(
                matches!(unknown, Err(InvalidOption::Value { .. })),
                "{name}: {unknown:?}"
            );
        }
    }
}
