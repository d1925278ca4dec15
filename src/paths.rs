//! Paths without symbolic links, found without ever asking a mount of ours, which may be dead.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::exit::{Failure, Result};
use crate::mounts::{Mount, Mounts};

/// The path of a mount point, whether something is mounted there, dead or alive, or not.
///
/// Only its parent is looked into. A symbolic link to it is followed as long as it is none of
/// our mounts itself.
pub(crate) fn mount_point(given: &Path, mounts: &Mounts) -> Result<PathBuf> {
    let mut path = absolute(given)?;
    for _ in 0..40 {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(PathBuf::from("/"));
        };
        let full = directory(parent, mounts)
            .map_err(|error| Failure::configuration(format!("{}: {error}", given.display())))?
            .join(name);
        // In a mount of ours nothing is asked, either.
        let is_in_ours = mounts.containing(&full).is_some_and(Mount::is_ours);
        if is_in_ours || mounts.at(&full).is_some() {
            return Ok(full);
        }
        match full.read_link() {
            Ok(target) => path = tidy(&full.parent().unwrap_or(Path::new("/")).join(target)),
            Err(_) => return Ok(full),
        }
    }
    Err(Failure::configuration(format!(
        "{}: too many symbolic links",
        given.display()
    )))
}

/// A directory's path without symbolic links. A dead mount of ours on the way is not asked.
fn directory(path: &Path, mounts: &Mounts) -> io::Result<PathBuf> {
    // Where a mount of ours stands on the way, what is below it cannot have links of importance:
    // the part above is resolved, the rest stays as it is.
    for ancestor in path.ancestors() {
        if mounts.at(ancestor).is_some_and(|mount| mount.is_ours()) {
            return Ok(path.to_owned());
        }
    }
    path.canonicalize()
}

/// A path that may not be there yet: its existing part without symbolic links, and the rest.
pub(crate) fn future(given: &Path) -> Result<PathBuf> {
    let path = absolute(given)?;
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return Ok(match path.strip_prefix(ancestor) {
                Ok(rest) if rest != Path::new("") => real.join(rest),
                _ => real,
            });
        }
    }
    Ok(path)
}

/// Absolute, with `.`, `..` and double slashes taken out as text.
pub(crate) fn absolute(given: &Path) -> Result<PathBuf> {
    if given.as_os_str().is_empty() {
        return Err(Failure::usage("an empty path"));
    }
    let here = if given.is_absolute() {
        PathBuf::new()
    } else {
        std::env::current_dir()
            .map_err(|error| Failure::other(format!("the current directory is gone: {error}")))?
    };
    Ok(tidy(&here.join(given)))
}

fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// A path as text for a volfile's variable.
pub(crate) fn text(path: &Path) -> Result<String> {
    let text: Option<&str> = <&OsStr as TryInto<&str>>::try_into(path.as_os_str()).ok();
    text.map(str::to_owned).ok_or_else(|| {
        Failure::configuration(format!(
            "{}: the name is not UTF-8, which a volfile cannot say; bind-mount it under another name",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_found_through_links_and_dots() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("data")).unwrap();
        std::os::unix::fs::symlink("data", real.join("link")).unwrap();
        let mounts = Mounts::default();
        for given in ["link", "data", "data/../link/.", ".//data/"] {
            assert_eq!(
                mount_point(&real.join(given), &mounts).unwrap(),
                real.join("data")
            );
        }
        assert_eq!(
            mount_point(&real.join("none"), &mounts).unwrap(),
            real.join("none")
        );
        assert_eq!(
            mount_point(Path::new("/"), &mounts).unwrap(),
            Path::new("/")
        );
    }

    #[test]
    fn what_is_not_there_yet_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("self")).unwrap();
        assert_eq!(future(&real.join("self/a/b")).unwrap(), real.join("a/b"));
        assert_eq!(future(&real.join("self")).unwrap(), real);
    }
}
