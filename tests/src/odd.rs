//! The odd tree: every kind of object that migrations are known to lose.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// How big the odd tree is.
pub struct Odd {
    /// Entries of the wide directory.
    pub wide: usize,
    /// Pairs of hard links across directories.
    pub pairs: usize,
    /// Levels of the deep directory.
    pub depth: usize,
    /// Apparent size of the largest sparse file in bytes.
    pub huge: u64,
    /// A file without holes, in MiB.
    pub big_mib: usize,
}

impl Default for Odd {
    fn default() -> Odd {
        // ext3 ends at 2 TiB, and keeps times until 2446 in 256-byte inodes.
        Odd {
            wide: 3000,
            pairs: 500,
            depth: 60,
            huge: 1 << 40,
            big_mib: 64,
        }
    }
}

impl Odd {
    /// A tree without the parts that take long.
    pub fn small() -> Odd {
        Odd {
            wide: 300,
            pairs: 40,
            depth: 12,
            huge: 1 << 32,
            big_mib: 4,
        }
    }

    /// Builds it in a directory. What the file system there refuses is told, not hidden.
    pub fn build(&self, root: &Path, seed: u64) -> Vec<String> {
        let mut work = Build {
            root: root.to_owned(),
            random: ChaCha8Rng::seed_from_u64(seed),
            refused: Vec::new(),
        };
        work.names();
        work.deep(self.depth);
        work.wide(self.wide);
        work.sizes();
        work.sparse(self.huge);
        work.big(self.big_mib);
        work.links(self.pairs);
        work.symlinks();
        work.specials();
        work.modes();
        work.times();
        work.xattrs();
        work.flags();
        work.directory_times();
        work.refused
    }
}

struct Build {
    root: PathBuf,
    random: ChaCha8Rng,
    refused: Vec<String>,
}

impl Build {
    fn dir(&self, path: &str) -> PathBuf {
        let path = self.root.join(path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn attempt<E: std::fmt::Display>(&mut self, what: &str, result: Result<(), E>) {
        if let Err(error) = result {
            self.refused.push(format!("{what}: {error}"));
        }
    }

    fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.random.fill_bytes(&mut bytes);
        bytes
    }

    fn names(&mut self) {
        let dir = self.dir("names");
        for byte in 1..=255_u8 {
            if byte != b'/' && byte != b'.' {
                fs::write(dir.join(OsStr::from_bytes(&[byte])), [byte]).unwrap();
            }
            if byte != b'/' {
                fs::write(dir.join(OsStr::from_bytes(&[b'x', byte, b'y'])), b"between").unwrap();
            }
        }
        let long = [b'n'; 255];
        let names: [&[u8]; 10] = [
            b"...",
            b"..two",
            b" lead",
            b"trail ",
            b"-rf",
            b"*glob?[x]",
            b"two\nlines",
            b"\xff\xfe-no-utf8",
            "na\u{ef}ve-\u{65e5}\u{672c}".as_bytes(),
            &long,
        ];
        for name in names {
            fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
            fs::create_dir(dir.join(OsStr::from_bytes(
                &[b"d", &name[..name.len().min(254)]].concat(),
            )))
            .unwrap();
        }
    }

    fn deep(&mut self, depth: usize) {
        let mut path = "deep".to_owned();
        for level in 0..depth {
            path.push_str(&format!("/level{level:03}"));
        }
        let dir = self.dir(&path);
        fs::write(dir.join("leaf"), b"deep down").unwrap();
        self.dir("empty/also-empty");
    }

    fn wide(&mut self, entries: usize) {
        let dir = self.dir("wide");
        for index in 0..entries {
            fs::write(dir.join(format!("entry-{index:05}")), index.to_string()).unwrap();
        }
    }

    fn sizes(&mut self) {
        let dir = self.dir("sizes");
        for border in [512_usize, 1024, 4096, 65_536, 131_072, 1 << 20] {
            for size in [border - 1, border, border + 1] {
                let noise = self.noise(size);
                fs::write(dir.join(size.to_string()), noise).unwrap();
            }
        }
        fs::write(dir.join("0"), b"").unwrap();
        fs::write(dir.join("1"), b"1").unwrap();
        fs::write(dir.join("zeros"), vec![0; 200_000]).unwrap();
    }

    fn holes(&mut self, path: &Path, size: u64, parts: &[(u64, usize)]) {
        let file = File::create(path).unwrap();
        let result = file.set_len(size);
        self.attempt(&format!("{} of {size} bytes", path.display()), result);
        for (at, len) in parts {
            let noise = self.noise(*len);
            file.write_all_at(&noise, *at).unwrap();
        }
    }

    fn sparse(&mut self, huge: u64) {
        let dir = self.dir("sparse");
        let mib = 1 << 20;
        self.holes(&dir.join("hole-first"), 8 * mib, &[(8 * mib - 4096, 4096)]);
        self.holes(&dir.join("hole-last"), 8 * mib, &[(0, 4096)]);
        self.holes(
            &dir.join("hole-between"),
            16 * mib,
            &[(0, 65_536), (16 * mib - 65_536, 65_536)],
        );
        self.holes(&dir.join("all-hole"), 64 * mib, &[]);
        self.holes(
            &dir.join("odd-borders"),
            3 * mib + 17,
            &[(4095, 2), (mib + 1, 511), (3 * mib + 16, 1)],
        );
        let swiss: Vec<_> = (0..512).map(|index| (index * 8192, 4096)).collect();
        self.holes(&dir.join("swiss"), 4 * mib, &swiss);
        self.holes(
            &dir.join("huge"),
            huge,
            &[(0, 4096), (huge / 2, 4096), (huge - 4096, 4096)],
        );
    }

    fn big(&mut self, mib: usize) {
        let file = File::create(self.root.join("big")).unwrap();
        for index in 0..mib {
            let noise = self.noise(1 << 20);
            file.write_all_at(&noise, (index << 20) as u64).unwrap();
        }
    }

    fn links(&mut self, pairs: usize) {
        let (here, there) = (self.dir("links/here"), self.dir("links/there"));
        fs::write(here.join("one"), b"one inode, four names").unwrap();
        for name in [here.join("two"), there.join("three"), there.join("four")] {
            fs::hard_link(here.join("one"), name).unwrap();
        }
        for index in 0..pairs {
            fs::write(here.join(format!("pair{index}")), format!("pair {index}")).unwrap();
            fs::hard_link(
                here.join(format!("pair{index}")),
                there.join(format!("pair{index}")),
            )
            .unwrap();
        }
    }

    fn symlinks(&mut self) {
        let dir = self.dir("symlinks");
        symlink("/etc/passwd", dir.join("absolute")).unwrap();
        symlink("../nowhere", dir.join("dangling")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        symlink(OsStr::from_bytes(b"\xff\xfe"), dir.join("no-utf8")).unwrap();
        symlink("x".repeat(1000), dir.join("long")).unwrap();
        // xfs ends at 1,024 bytes.
        let result = symlink("x".repeat(4000), dir.join("longest"));
        self.attempt("symlink of 4,000 bytes", result);
        fs::hard_link(dir.join("absolute"), dir.join("absolute-too")).unwrap();
        lchown(dir.join("dangling"), Some(1234), Some(4_000_000_000)).unwrap();
    }

    fn specials(&mut self) {
        let dir = self.dir("special");
        let make = |name: &str, kind, mode, device| {
            rustix::fs::mknodat(CWD, dir.join(name), kind, Mode::from_raw_mode(mode), device)
                .unwrap();
        };
        make("fifo", FileType::Fifo, 0o640, 0);
        make(
            "null",
            FileType::CharacterDevice,
            0o666,
            rustix::fs::makedev(1, 3),
        );
        make(
            "block",
            FileType::BlockDevice,
            0o660,
            rustix::fs::makedev(259, 70_000),
        );
        // A socket's path is short; the directory's need not be.
        let place = File::open(&dir).unwrap();
        let short = format!(
            "/proc/self/fd/{}/socket",
            std::os::fd::AsRawFd::as_raw_fd(&place)
        );
        drop(UnixListener::bind(short).unwrap());
        for name in ["fifo", "null", "socket"] {
            fs::hard_link(dir.join(name), dir.join(format!("{name}-too"))).unwrap();
        }
    }

    fn modes(&mut self) {
        let dir = self.dir("modes");
        for mode in (0..=0o7777)
            .step_by(0o111)
            .chain([0o1777, 0o2755, 0o4755, 0o6711, 0o7777])
        {
            for (name, directory) in [
                (format!("file{mode:04o}"), false),
                (format!("dir{mode:04o}"), true),
            ] {
                let path = dir.join(name);
                if directory {
                    fs::create_dir_all(&path).unwrap()
                } else {
                    fs::write(&path, b"m").unwrap()
                }
                chown(
                    &path,
                    Some(self.random.random_range(1..70_000)),
                    Some(4_294_000_000),
                )
                .unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }

    fn times(&mut self) {
        let dir = self.dir("times");
        let times = [
            ("before-1970", -123_456_789, 987_654_321),
            ("zero", 0, 0),
            ("after-2038", 2_208_988_800, 1),
            ("nanoseconds", 1_700_000_000, 123_456_789),
            ("last-nanosecond", 1_600_000_000, 999_999_999),
        ];
        for (name, seconds, nanoseconds) in times {
            let time = Timespec {
                tv_sec: seconds,
                tv_nsec: nanoseconds,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            fs::write(dir.join(name), name).unwrap();
            fs::create_dir(dir.join(format!("{name}.dir"))).unwrap();
            symlink(name, dir.join(format!("{name}.link"))).unwrap();
            for path in [
                name.to_owned(),
                format!("{name}.dir"),
                format!("{name}.link"),
            ] {
                let result =
                    rustix::fs::utimensat(CWD, dir.join(&path), &times, AtFlags::SYMLINK_NOFOLLOW);
                self.attempt(&format!("time of {path}"), result);
            }
        }
    }

    fn xattrs(&mut self) {
        let dir = self.dir("xattrs");
        let file = dir.join("file");
        fs::write(&file, b"with attributes").unwrap();
        symlink("file", dir.join("link")).unwrap();
        let all: Vec<u8> = (0..=255).collect();
        // cap_net_raw as effective and permitted: a version 2 capability.
        let capability = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let program = dir.join("capable");
        fs::write(&program, b"#!").unwrap();
        chown(&program, Some(77), Some(88)).unwrap();
        let sets: [(&Path, &str, &[u8]); 9] = [
            (&file, "user.a", b"1"),
            (&file, "user.empty", b""),
            (&file, "user.all-bytes", &all),
            (&file, "user.big", &[b'v'; 1500]),
            (&file, "trusted.mine", b"t"),
            (&file, "security.other", b"s"),
            (&dir, "user.directory", b"d"),
            (&dir.join("link"), "trusted.link", b"l"),
            (&program, "security.capability", &capability),
        ];
        for (path, name, value) in sets {
            let result = rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
            self.attempt(&format!("xattr {name}"), result);
        }
        let access = acl(&[(0x02, 6, Some(1234)), (0x08, 4, Some(77))], 0o640);
        let default = acl(&[(0x02, 6, Some(55))], 0o750);
        let result = rustix::fs::setxattr(
            &file,
            "system.posix_acl_access",
            &access,
            XattrFlags::empty(),
        );
        self.attempt("access ACL", result);
        let parent = self.dir("acl-parent");
        for name in ["system.posix_acl_default", "system.posix_acl_access"] {
            let result = rustix::fs::setxattr(&parent, name, &default, XattrFlags::empty());
            self.attempt(name, result);
        }
        fs::create_dir(parent.join("heir")).unwrap();
        fs::write(parent.join("heir/file"), b"inherits").unwrap();
        // Under a directory with default ACLs, one object that has none of its own.
        let plain = parent.join("plain");
        fs::write(&plain, b"no acl").unwrap();
        let _ = rustix::fs::removexattr(&plain, "system.posix_acl_access");
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o604)).unwrap();
    }

    fn flags(&mut self) {
        let dir = self.dir("flags");
        for (name, flag) in [
            ("nodump", rustix::fs::IFlags::NODUMP),
            ("noatime", rustix::fs::IFlags::NOATIME),
        ] {
            fs::write(dir.join(name), name).unwrap();
            let file = File::open(dir.join(name)).unwrap();
            let result = rustix::fs::ioctl_getflags(&file)
                .and_then(|old| rustix::fs::ioctl_setflags(&file, old | flag));
            self.attempt(name, result);
        }
    }

    /// After the last entry of each.
    fn directory_times(&mut self) {
        for (path, seconds) in [
            ("wide", 1_234_567_890),
            ("names", 987_654_321),
            ("links/here", 100),
            ("deep", 7),
        ] {
            set_mtime(
                &self.root.join(path),
                UNIX_EPOCH + Duration::new(seconds, 5),
            );
        }
    }
}

/// Sets both times of a file or directory.
pub fn set_mtime(path: &Path, time: SystemTime) {
    let times = FileTimes::new().set_modified(time).set_accessed(time);
    OpenOptions::new()
        .read(true)
        .open(path)
        .and_then(|file| file.set_times(times))
        .unwrap();
}

/// A POSIX ACL as its xattr has it: owner, group and others from `mode`, whose group bits are
/// the mask; the named entries (tag, permissions, id) between them.
pub fn acl(named: &[(u16, u16, Option<u32>)], mode: u16) -> Vec<u8> {
    let mut entries = vec![(0x01, mode >> 6 & 7, None)];
    entries.extend(named.iter().filter(|entry| entry.0 == 0x02).copied());
    entries.push((0x04, 5, None));
    entries.extend(named.iter().filter(|entry| entry.0 == 0x08).copied());
    entries.push((0x10, mode >> 3 & 7, None));
    entries.push((0x20, mode & 7, None));
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(permissions));
        bytes.extend(id.unwrap_or(u32::MAX).to_le_bytes());
    }
    bytes
}
