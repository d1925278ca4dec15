//! The line of fstab(5) that makes a cut-over last.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mounts::{Mount, Mounts, escape};

/// Lines that put the new brick in the mount point's place at every boot.
pub(crate) fn lines(mounts: &Mounts, brick: &Path, mountpoint: &Path) -> Vec<String> {
    match mounts.containing(brick) {
        Some(mount) if mount.point == brick => {
            vec![of_file_system(mount, &uuid(&mount.source), mountpoint)]
        }
        _ => vec![format!(
            "{} {} none bind 0 0",
            escape(brick),
            escape(mountpoint)
        )],
    }
}

fn of_file_system(mount: &Mount, uuid: &Option<String>, mountpoint: &Path) -> String {
    let device = match uuid {
        Some(uuid) => format!("UUID={uuid}"),
        None => escape(&mount.source),
    };
    // What a mount has anyway is not said.
    let mut options: Vec<String> = mount
        .options
        .split(',')
        .filter(|option| !matches!(*option, "rw" | "relatime"))
        .map(str::to_owned)
        .collect();
    let said = mount
        .super_options
        .split(',')
        .find(|option| option.starts_with("subvol="));
    options.extend(
        said.filter(|subvolume| *subvolume != "subvol=/")
            .map(str::to_owned),
    );
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
        2 1 0:40 /@new /srv/new rw,noatime - btrfs /dev/nothing rw,ssd,subvol=/@new\n";

    #[test]
    fn a_file_system_is_named_by_its_device_and_a_directory_by_a_bind() {
        let mounts = Mounts::parse(TABLE);
        assert_eq!(
            lines(&mounts, Path::new("/srv/new"), Path::new("/my data")),
            ["/dev/nothing /my\\040data btrfs noatime,subvol=/@new 0 2"]
        );
        assert_eq!(
            lines(&mounts, Path::new("/srv/new/in"), Path::new("/data")),
            ["/srv/new/in /data none bind 0 0"]
        );
        let root = mounts.at(Path::new("/")).unwrap();
        assert_eq!(
            of_file_system(root, &Some("ab-cd".into()), Path::new("/data")),
            "UUID=ab-cd /data ext4 defaults 0 2"
        );
    }
}
