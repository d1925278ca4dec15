use std::fmt;

/// What mount(8) sets on a single mount, whatever the file system is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `ro`
    pub read_only: bool,
    /// `nosuid`
    pub no_suid: bool,
    /// `nodev`
    pub no_dev: bool,
    /// `noexec`
    pub no_exec: bool,
    /// `nosymfollow`
    pub no_symfollow: bool,
    /// `nodiratime`
    pub no_dir_atime: bool,
    /// When reading sets the access time.
    pub atime: Atime,
}

/// When reading sets the access time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atime {
    /// `relatime`: once after each change, and once a day.
    #[default]
    Relative,
    /// `noatime`
    Never,
    /// `strictatime`
    Always,
}

/// `MS_NOSYMFOLLOW`, which the libraries do not name.
const MS_NOSYMFOLLOW: u64 = 256;

impl Attributes {
    /// From the options of one mount in mountinfo, where `strictatime` is what has no word. Words that
    /// are not about these attributes are passed over.
    pub fn of_mount(options: &str) -> Attributes {
        let mut found = Attributes {
            atime: Atime::Always,
            ..Attributes::default()
        };
        for option in options.split(',') {
            if found.knows(option) {
                found.set(option, true);
            }
        }
        found
    }

    /// Whether this word is one of [`Attributes::set`]'s.
    pub(crate) fn knows(self, name: &str) -> bool {
        // A word that is known makes a difference to one of these.
        let all = Attributes {
            read_only: true,
            no_suid: true,
            no_dev: true,
            no_exec: true,
            no_symfollow: true,
            no_dir_atime: true,
            atime: Atime::Never,
        };
        [all, Attributes::default()].into_iter().any(|before| {
            [true, false].into_iter().any(|on| {
                let mut after = before;
                after.set(name, on);
                after != before
            })
        })
    }

    /// Sets what a word of mount(8) says, or (`on` is false) its contrary.
    pub(crate) fn set(&mut self, name: &str, on: bool) {
        let atime = |wanted, otherwise| if on { wanted } else { otherwise };
        match name {
            "ro" => self.read_only = on,
            "rw" => self.read_only = !on,
            "nosuid" => self.no_suid = on,
            "suid" => self.no_suid = !on,
            "nodev" => self.no_dev = on,
            "dev" => self.no_dev = !on,
            "noexec" => self.no_exec = on,
            "exec" => self.no_exec = !on,
            "nosymfollow" => self.no_symfollow = on,
            "symfollow" => self.no_symfollow = !on,
            "nodiratime" => self.no_dir_atime = on,
            "diratime" => self.no_dir_atime = !on,
            "noatime" => self.atime = atime(Atime::Never, Atime::Relative),
            "atime" => self.atime = atime(Atime::Relative, Atime::Never),
            "relatime" => self.atime = atime(Atime::Relative, Atime::Always),
            "strictatime" => self.atime = atime(Atime::Always, Atime::Relative),
            _ => {}
        }
    }

    /// The words for mount(8) and fstab(5); none where all is as by default.
    pub fn words(self) -> Vec<&'static str> {
        let atime = match self.atime {
            Atime::Relative => None,
            Atime::Never => Some("noatime"),
            Atime::Always => Some("strictatime"),
        };
        let said = [
            self.read_only.then_some("ro"),
            self.no_suid.then_some("nosuid"),
            self.no_dev.then_some("nodev"),
            self.no_exec.then_some("noexec"),
            self.no_symfollow.then_some("nosymfollow"),
            self.no_dir_atime.then_some("nodiratime"),
            atime,
        ];
        said.into_iter().flatten().collect()
    }

    /// For mount_setattr(2) and fsmount(2): `MOUNT_ATTR_...`. To have a mount just like this, all of
    /// [`Attributes::ALL_BITS`] that are not among these are to be cleared.
    pub fn bits(self) -> u64 {
        let atime = match self.atime {
            Atime::Relative => libc::MOUNT_ATTR_RELATIME,
            Atime::Never => libc::MOUNT_ATTR_NOATIME,
            Atime::Always => libc::MOUNT_ATTR_STRICTATIME,
        };
        let set = |on, bit| if on { bit } else { 0 };
        atime
            | set(self.read_only, libc::MOUNT_ATTR_RDONLY)
            | set(self.no_suid, libc::MOUNT_ATTR_NOSUID)
            | set(self.no_dev, libc::MOUNT_ATTR_NODEV)
            | set(self.no_exec, libc::MOUNT_ATTR_NOEXEC)
            | set(self.no_symfollow, libc::MOUNT_ATTR_NOSYMFOLLOW)
            | set(self.no_dir_atime, libc::MOUNT_ATTR_NODIRATIME)
    }

    /// All bits of [`Attributes::bits`].
    pub const ALL_BITS: u64 = libc::MOUNT_ATTR__ATIME
        | libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC
        | libc::MOUNT_ATTR_NOSYMFOLLOW
        | libc::MOUNT_ATTR_NODIRATIME;

    /// For mount(2): `MS_...`.
    pub(crate) fn classic_bits(self) -> u64 {
        let set = |on, bit| if on { bit } else { 0 };
        let atime = match self.atime {
            Atime::Relative => libc::MS_RELATIME,
            Atime::Never => libc::MS_NOATIME,
            Atime::Always => libc::MS_STRICTATIME,
        };
        atime
            | set(self.read_only, libc::MS_RDONLY)
            | set(self.no_suid, libc::MS_NOSUID)
            | set(self.no_dev, libc::MS_NODEV)
            | set(self.no_exec, libc::MS_NOEXEC)
            | set(self.no_symfollow, MS_NOSYMFOLLOW)
            | set(self.no_dir_atime, libc::MS_NODIRATIME)
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words().as_slice() {
            [] => f.write_str("defaults"),
            words => f.write_str(&words.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mountinfo_says_is_what_fstab_gets() {
        let said = |options: &str| Attributes::of_mount(options).to_string();
        assert_eq!(said("rw,relatime"), "defaults");
        assert_eq!(
            said("ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow"),
            "ro,nosuid,nodev,noexec,nosymfollow,nodiratime,noatime"
        );
        // The kernel has no word for it.
        assert_eq!(said("rw"), "strictatime");
        assert_eq!(said("rw,relatime,idmapped"), "defaults");
    }

    #[test]
    fn every_word_has_its_bit_and_no_bit_is_forgotten() {
        let all = Attributes::of_mount("ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow");
        assert_eq!(
            all.bits() | libc::MOUNT_ATTR__ATIME,
            Attributes::ALL_BITS,
            "the kernel's own list"
        );
        assert_eq!(Attributes::default().bits(), 0);
        assert_ne!(all.classic_bits() & MS_NOSYMFOLLOW, 0);
        assert!(all.knows("exec") && all.knows("relatime") && !all.knows("rwx"));
    }
}
