//! What a client says of itself.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// This boot of this machine.
pub(crate) fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// In which process numbers mean something.
pub(crate) fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino())
}

/// For people: host and process.
pub(crate) fn who() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    format!("{host} pid {}", std::process::id())
}

/// What to mix into the device numbers of a server: nothing for one of this machine, so that an
/// object has the same identity by whatever way; else something that no two machines share, as device
/// numbers of two machines are often the same.
pub(crate) fn device_salt(server_boot: &str, machine: &[u8]) -> u64 {
    if !server_boot.is_empty() && server_boot == boot_id() {
        return 0;
    }
    let hash = blake3::hash(machine);
    let (salt, _) = hash
        .as_bytes()
        .split_first_chunk()
        .unwrap_or((&[1; 8], &[]));
    u64::from_le_bytes(*salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_this_machine_are_told_apart_from_those_of_others_only() {
        assert_eq!(device_salt(&boot_id(), b"any"), 0);
        assert_ne!(device_salt("other", b"a"), device_salt("other", b"b"));
        assert_eq!(device_salt("other", b"a"), device_salt("another", b"a"));
        assert_ne!(device_salt("other", b"a"), 0);
    }
}
