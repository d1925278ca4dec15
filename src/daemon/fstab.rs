//! The line of fstab(5) that makes a cut-over last.

use std::fs;
use std::path::{Path, PathBuf};

use hermitfs_fuse::Attributes;

use crate::mounts::{Mount, Mounts, escape};

/// Lines that put the new brick in the mount point's place at every boot.
/// `attributes`: what it is mounted with there now.
pub(crate) fn lines(
    mounts: &Mounts,
    brick: &Path,
    mountpoint: &Path,
    attributes: Attributes,
) -> Vec<String> {
    match mounts.containing(brick) {
        Some(mount) if mount.point == brick => {
            let uuid = uuid(&mount.source);
            vec![of_file_system(mount, &uuid, mountpoint, attributes)]
        }
        _ => {
            let options: Vec<&str> = [vec!["bind"], attributes.words()].concat();
            let (brick, point) = (escape(brick), escape(mountpoint));
            vec![format!("{brick} {point} none {} 0 0", options.join(","))]
        }
    }
}

fn of_file_system(
    mount: &Mount,
    uuid: &Option<String>,
    mountpoint: &Path,
    attributes: Attributes,
) -> String {
    let device = match uuid {
        Some(uuid) => format!("UUID={uuid}"),
        None => escape(&mount.source),
    };
    // What a mount has anyway is not said.
    let words = attributes.words().into_iter();
    let mut options: Vec<String> = words.map(str::to_owned).collect();
    // As mount(8) takes them: compression, quotas, what to do at errors.
    let own = mount
        .super_options
        .split(',')
        .filter(|option| is_own(option));
    options.extend(own.map(str::to_owned));
    if options.is_empty() {
        options.push("defaults".into());
    }
    let check = if mount.source.starts_with("/dev") {
        2
    } else {
        0
    };
    format!(
        "{device} {} {} {} 0 {check}",
        escape(mountpoint),
        mount.kind,
        options.join(",")
    )
}

/// Whether a file system's option says how it is to be mounted, and is no other word for what is said
/// anyway: which subvolume by its number, or (SELinux) that labels are kept.
fn is_own(option: &str) -> bool {
    !matches!(option, "" | "rw" | "ro" | "seclabel" | "subvol=/")
        && !option.starts_with("subvolid=")
}

/// By the links that udev keeps.
fn uuid(device: &Path) -> Option<String> {
    let real = device.canonicalize().ok()?;
    let links = fs::read_dir("/dev/disk/by-uuid").ok()?;
    links.flatten().find_map(|link| {
        let leads: PathBuf = link.path().canonicalize().ok()?;
        (leads == real).then(|| link.file_name().to_string_lossy().into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
        2 1 0:40 /@new /srv/new rw,noatime - btrfs /dev/nothing rw,seclabel,ssd,compress=zstd:3,subvolid=256,subvol=/@new\n";

    #[test]
    fn a_file_system_is_named_by_its_device_and_a_directory_by_a_bind() {
        let mounts = Mounts::parse(TABLE);
        let has = Attributes::of_mount("rw,nosuid,noatime");
        assert_eq!(
            lines(&mounts, Path::new("/srv/new"), Path::new("/my data"), has),
            ["/dev/nothing /my\\040data btrfs nosuid,noatime,ssd,compress=zstd:3,subvol=/@new 0 2"]
        );
        assert_eq!(
            lines(&mounts, Path::new("/srv/new/in"), Path::new("/data"), has),
            ["/srv/new/in /data none bind,nosuid,noatime 0 0"]
        );
        let root = mounts.at(Path::new("/")).unwrap();
        assert_eq!(
            of_file_system(
                root,
                &Some("ab-cd".into()),
                Path::new("/data"),
                Attributes::default()
            ),
            "UUID=ab-cd /data ext4 defaults 0 2"
        );
    }
}
