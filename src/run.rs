//! Where the daemon of a mount is found: a lock, a record and a socket of its own for each mount
//! point, under `<state-dir>/run`. Finding it never touches the mount.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use serde::{Deserialize, Serialize};

use crate::bricks::{Brick, Bricks};
use crate::exit::{Code, Failure, Result};
use crate::over::Memory;

/// What a running daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) pid: u32,
    pub(crate) mountpoint: PathBuf,
    pub(crate) volfile: String,
    /// Bricks, the source first: names and directories.
    pub(crate) bricks: Vec<(String, PathBuf)>,
    /// Empty where there is no pair.
    pub(crate) volume_id: String,
    pub(crate) log: Option<PathBuf>,
    /// The command that goes on with it, to be copied.
    #[serde(default)]
    pub(crate) command: String,
    /// The file that says that it is over, for a service.
    #[serde(default)]
    pub(crate) ended: Option<PathBuf>,
}

impl Record {
    /// Whether it was with these bricks, in this order.
    pub(crate) fn is_of(&self, bricks: &Bricks) -> bool {
        let directories = self.bricks.iter().map(|(_, directory)| directory.as_path());
        directories.eq(bricks.all().map(Brick::called))
    }
}

/// The place of one mount point's daemon.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    run: PathBuf,
    logs: PathBuf,
    name: String,
}

/// Held as long as the daemon lives; the kernel drops it with the process.
pub(crate) struct Lock {
    _file: File,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked: see [`Slot::lock`].
        let _ = fs::remove_file(&self.path);
    }
}

impl Slot {
    /// `mountpoint` as [`crate::paths::mount_point`] gives it.
    pub(crate) fn new(state_dir: &Path, mountpoint: &Path) -> Slot {
        Slot {
            run: state_dir.join("run"),
            logs: state_dir.join("log"),
            name: name(mountpoint),
        }
    }

    /// What tells this place from others, as the name of a file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What was written down of the mount that ours stands on, where that is OLD itself.
    pub(crate) fn memory(&self) -> Option<Memory> {
        serde_json::from_slice(&fs::read(self.file("over")).ok()?).ok()
    }

    /// Writes that down, whole or not at all.
    pub(crate) fn remember(&self, memory: &Memory) -> io::Result<()> {
        write_whole(&self.file("over"), serde_json::to_vec_pretty(memory)?)
    }

    /// Where it is written down that the directory below the mount is shut.
    pub(crate) fn guard(&self) -> PathBuf {
        self.file("guard")
    }

    /// Takes it away: OLD is as it was.
    pub(crate) fn forget(&self) {
        let _ = fs::remove_file(self.file("over"));
    }

    /// Where all of it is.
    pub(crate) fn state_dir(&self) -> &Path {
        self.run.parent().unwrap_or(&self.run)
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.run.join(format!("{}.{extension}", self.name))
    }

    /// The daemon's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.logs.join(format!("{}.log", self.name))
    }

    /// Makes the directories, for root alone.
    pub(crate) fn prepare(&self) -> Result<()> {
        for dir in [&self.run, &self.logs] {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir);
            let made =
                made.and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)));
            made.map_err(|error| {
                Failure::new(
                    Code::Other,
                    format!(
                        "the state directory {} cannot be made: {error}",
                        dir.display()
                    ),
                )
            })?;
        }
        Ok(())
    }

    /// Takes the place; `None` when a daemon has it.
    pub(crate) fn lock(&self) -> io::Result<Option<Lock>> {
        let mut tries = 5;
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(self.file("lock"))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // A daemon that ended between the two calls has taken the name away.
                Ok(()) if file.metadata()?.nlink() == 0 => continue,
                Ok(()) => {
                    return Ok(Some(Lock {
                        _file: file,
                        path: self.file("lock"),
                    }));
                }
                // Commands that only look hold it for a moment, too.
                Err(rustix::io::Errno::WOULDBLOCK) if tries > 0 => {
                    tries -= 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether a daemon has the place. Leaves no trace where there never was one.
    pub(crate) fn is_taken(&self) -> bool {
        let Ok(file) = OpenOptions::new().write(true).open(self.file("lock")) else {
            return false;
        };
        matches!(
            flock(&file, FlockOperation::NonBlockingLockShared),
            Err(rustix::io::Errno::WOULDBLOCK)
        )
    }

    /// Writes the record, whole or not at all.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        write_whole(&self.file("json"), serde_json::to_vec_pretty(record)?)
    }

    /// The record of a daemon that may have died since.
    pub(crate) fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.file("json")).ok()?).ok()
    }

    /// Records of all daemons that live.
    pub(crate) fn others(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.run).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else {
                continue;
            };
            let slot = Slot {
                name: name.into(),
                ..self.clone()
            };
            if slot.name != self.name
                && slot.is_taken()
                && let Some(record) = slot.record()
            {
                records.push(record);
            }
        }
        records
    }

    /// Takes away what a daemon leaves here; by the daemon alone, while it has the lock.
    pub(crate) fn clear(&self) {
        for extension in ["sock", "json"] {
            let _ = fs::remove_file(self.file(extension));
        }
    }

    /// Takes away a dead daemon's socket.
    pub(crate) fn clear_socket(&self) {
        let _ = fs::remove_file(self.file("sock"));
    }

    /// A way to the socket that fits into the 107 bytes of a socket's address, however long the
    /// state directory's name is; good as long as the descriptor lives.
    pub(crate) fn socket(&self) -> io::Result<(PathBuf, OwnedFd)> {
        let dir = open(
            &self.run,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let path = format!("/proc/self/fd/{}/{}.sock", dir.as_raw_fd(), self.name);
        Ok((PathBuf::from(path), dir))
    }
}

/// Records of all daemons of a state directory, the dead ones too.
pub(crate) fn records(state_dir: &Path) -> Vec<Record> {
    let entries = fs::read_dir(state_dir.join("run")).into_iter().flatten();
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
        .collect()
}

/// The state directory and the record of the daemon that holds this file, if it is a daemon's lock.
pub(crate) fn locked(file: &Path) -> Option<(PathBuf, Record)> {
    let run = file.parent().filter(|run| run.ends_with("run"))?;
    file.extension().filter(|extension| *extension == "lock")?;
    let text = fs::read(file.with_extension("json")).ok()?;
    Some((
        run.parent()?.to_owned(),
        serde_json::from_slice(&text).ok()?,
    ))
}

/// Whole or not at all; where the disk is full, in the place that the file has already: users are to be served then as
/// well.
fn write_whole(file: &Path, mut text: Vec<u8>) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let written = write_private(Path::new(&new), &text).and_then(|()| fs::rename(&new, file));
    let Err(error) = written else { return Ok(()) };
    let _ = fs::remove_file(&new);
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    if !full.contains(&error.kind()) {
        return Err(error);
    }
    let there = OpenOptions::new().write(true).open(file)?;
    let length = usize::try_from(there.metadata()?.len()).unwrap_or(0);
    // JSON ends in as many blanks as one likes.
    text.resize(length.max(text.len()), b' ');
    there.write_all_at(&text, 0)
}

/// Writes a file that root alone may read. Threads that serve users work without a umask.
pub(crate) fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text)
}

/// A file's name for a mount point: readable, and never the same for two.
fn name(mountpoint: &Path) -> String {
    const LONGEST: usize = 70;
    let bytes = mountpoint.as_os_str().as_bytes();
    let mut out = String::new();
    for &byte in bytes.strip_prefix(b"/").unwrap_or(bytes) {
        match byte {
            b'/' => out.push('-'),
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' => out.push(char::from(byte)),
            b'.' if !out.is_empty() => out.push('.'),
            _ => out.push_str(&format!("%{byte:02x}")),
        }
    }
    if out.is_empty() {
        return "-".into();
    }
    if out.len() > LONGEST {
        let hash = blake3::hash(bytes).to_hex();
        out.truncate(LONGEST - 20);
        out.push_str(&format!("~{}", &hash[..16]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_short_and_different() {
        assert_eq!(name(Path::new("/data")), "data");
        assert_eq!(name(Path::new("/srv/my data")), "srv-my%20data");
        assert_eq!(name(Path::new("/srv-my")), "srv%2dmy");
        assert_eq!(name(Path::new("/")), "-");
        let (long, other) = ("/a".repeat(500), "/a".repeat(501));
        assert!(name(Path::new(&long)).len() <= 70);
        assert_ne!(name(Path::new(&long)), name(Path::new(&other)));
    }

    #[test]
    fn one_daemon_has_the_place_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::new(dir.path(), Path::new("/data"));
        slot.prepare().unwrap();
        let lock = slot.lock().unwrap().unwrap();
        assert!(slot.lock().unwrap().is_none());
        let other = Slot::new(dir.path(), Path::new("/other"));
        let record = Record {
            pid: 1,
            mountpoint: "/data".into(),
            volfile: "x".into(),
            bricks: vec![("old".into(), "/srv/old".into())],
            volume_id: String::new(),
            log: None,
            command: String::new(),
            ended: None,
        };
        slot.write(&record).unwrap();
        assert_eq!(records(dir.path()), std::slice::from_ref(&record));
        let held = locked(&slot.file("lock"));
        assert_eq!(held, Some((dir.path().to_owned(), record.clone())));
        assert_eq!(locked(&slot.file("json")), None);
        assert_eq!(other.others(), [record]);
        drop(lock);
        assert!(other.others().is_empty());
        assert!(!slot.is_taken());
        assert!(slot.lock().unwrap().is_some());
    }

    #[test]
    fn what_is_written_down_is_for_root_alone_also_where_it_was_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note");
        fs::write(&path, "an older and longer one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        write_private(&path, b"a note").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"a note");
    }

    #[test]
    fn a_socket_is_reached_in_a_directory_of_any_length() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200)).join("e".repeat(200));
        let slot = Slot::new(&deep, Path::new(&"/a".repeat(500)));
        slot.prepare().unwrap();
        let (path, _dir) = slot.socket().unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (path, _dir) = slot.socket().unwrap();
        std::os::unix::net::UnixStream::connect(path).unwrap();
    }
}
