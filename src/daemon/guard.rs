//! The directory below the mount. As long as a migration is known nobody may write there: who comes
//! by the path while no mount of ours is at it would work beside OLD, and lose that at the next
//! start. The file system keeps it shut (`chattr +i`), over kills and boots, until the migration is
//! over.
//!
//! What is done is written down before, so that whoever ends the migration undoes it, and nothing
//! that an administrator had made immutable himself.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, Mode, OFlags, fstat, ioctl_getflags, ioctl_setflags, open, openat};
use rustix::mount::{OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};

use crate::run::{Slot, write_private};

/// Which directory is shut.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    path: PathBuf,
    inode: u64,
}

/// Shuts the directory below a mount point. True when it was open before.
pub(crate) fn shut(slot: &Slot, point: &Path) -> io::Result<bool> {
    let directory = below(point)?;
    let flags = ioctl_getflags(&directory)?;
    if flags.contains(IFlags::IMMUTABLE) {
        return Ok(false);
    }
    let note = Note {
        path: point.to_owned(),
        inode: fstat(&directory)?.st_ino,
    };
    write_private(&slot.guard(), &serde_json::to_vec_pretty(&note)?)?;
    File::open(slot.guard())?.sync_all()?;
    let shut = ioctl_setflags(&directory, flags | IFlags::IMMUTABLE);
    if let Err(error) = shut {
        let _ = fs::remove_file(slot.guard());
        return Err(error.into());
    }
    Ok(true)
}

/// Opens it again, if it was us who shut it.
pub(crate) fn open_again(slot: &Slot) -> io::Result<()> {
    let text = match fs::read(slot.guard()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if let Ok(note) = serde_json::from_slice::<Note>(&text) {
        match below(&note.path) {
            Ok(directory) if fstat(&directory)?.st_ino == note.inode => {
                let flags = ioctl_getflags(&directory)?;
                ioctl_setflags(&directory, flags - IFlags::IMMUTABLE)?;
            }
            // Another one is there now: the one that we knew is gone.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    fs::remove_file(slot.guard())
}

/// The directory itself, whatever is mounted on it: seen in a mount of its parent's file system
/// that nothing is mounted in.
fn below(point: &Path) -> io::Result<OwnedFd> {
    let (Some(parent), Some(name)) = (point.parent(), point.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = open(parent, path, Mode::empty())?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let alone = open_tree(&parent, c"", clone)?;
    let read = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(&alone, name, read, Mode::empty())?)
}
