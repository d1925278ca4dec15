//! What a server keeps across restarts.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The key that seals handles: the one in this directory, or a new one, durably.
pub(crate) fn key(directory: &Path) -> io::Result<[u8; 32]> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let path = directory.join("key");
    match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(directory, &path),
        read => read,
    }
}

fn read(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut key = [0; 32];
    file.read_exact(&mut key)?;
    Ok(key)
}

fn make(directory: &Path, path: &Path) -> io::Result<[u8; 32]> {
    let key: [u8; 32] = rand::random();
    let new = directory.join("key.new");
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()?;
    Ok(key)
}

/// Puts a file that root alone reads in another one's place: there is the old one or the new one,
/// whatever fails, and the new one durably when this returns.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// This boot of this machine.
pub(crate) fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The same for all servers of this machine, also after a reboot, where it has a number.
pub(crate) fn machine() -> Vec<u8> {
    let id = fs::read_to_string("/etc/machine-id").ok();
    let id = id
        .filter(|id| !id.trim().is_empty())
        .unwrap_or_else(boot_id);
    let hash = blake3::derive_key("hermitfs 2026 brick/v1 machine", id.trim().as_bytes());
    hash[..16].to_vec()
}

/// In which process numbers mean something.
pub(crate) fn pid_namespace() -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_stays_and_is_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        let made = key(&state).unwrap();
        assert_eq!(key(&state).unwrap(), made);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state.join("key")), 0o600);
        assert_eq!(mode(&state), 0o700);
        assert_ne!(key(&dir.path().join("other")).unwrap(), made);
    }

    #[test]
    fn half_a_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("key"), b"short").unwrap();
        assert!(
            key(dir.path()).is_err(),
            "a new one would make all handles stale"
        );
    }
}
