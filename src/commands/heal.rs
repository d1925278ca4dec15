//! `hermitfs heal MOUNTPOINT [PATH]`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::heal_progress::Reached;

use super::errors;
use crate::cli::Global;
use crate::client::{Target, refused};
use crate::exit::{Code, Failure, Result};
use crate::screen::{self, human};

/// Crawls the tree, or a part of it, now.
#[derive(Debug, Args)]
pub(crate) struct Heal {
    /// The mount point, or any path in it; of what is only served, its volfile
    mountpoint: PathBuf,
    /// Where to begin, from the root of the mount: if not given, at MOUNTPOINT, which may be a path in it
    path: Option<OsString>,
    /// Compare everything again, content too; what differed is made equal, and told with --wait (exit code 65)
    #[arg(long)]
    full: bool,
    /// Return when all that was pending at the call, and everything unseen, is healed
    #[arg(long)]
    wait: bool,
}

impl Heal {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let target = Target::of(global, &self.mountpoint)?;
        let part = target.part.as_deref().map(Path::as_os_str);
        let path = self.path.as_deref().or(part);
        let path = within(&target.mountpoint, path.unwrap_or(OsStr::new("/")))?;
        target.talk(|mut admin| async move {
            let request = proto::HealRequest {
                path,
                full: self.full,
                wait: self.wait,
            };
            let mut stream = admin.heal(request).await.map_err(refused)?.into_inner();
            let mut told: Option<String> = None;
            while let Some(progress) = stream.message().await.map_err(refused)? {
                match progress.reached() {
                    Reached::Done if self.full => return verified(&progress),
                    Reached::Done => return Ok(()),
                    Reached::Failed => {
                        if self.full {
                            // That is said by the exit code in any case.
                            drop(verified(&progress));
                        }
                        let reply = admin
                            .errors(proto::ErrorsRequest {})
                            .await
                            .map_err(refused)?;
                        let mut left = reply.into_inner().errors;
                        left.retain(|error| !error.waived);
                        screen::print_error(&errors::list(&left, screen::colour_on_stderr()));
                        return Err(Failure::new(
                            Code::Differences,
                            format!(
                                "{} objects could not be healed",
                                human::count(progress.errors)
                            ),
                        ));
                    }
                    Reached::NotYet | Reached::Unspecified if !self.wait => return Ok(()),
                    Reached::NotYet | Reached::Unspecified => {
                        // Why nothing moves, once for each reason.
                        if progress.reason.is_some() && progress.reason != told {
                            told = progress.reason;
                            let reason = told.as_deref().unwrap_or_default();
                            screen::print_error(&format!("waiting: {reason}\n"));
                        }
                    }
                }
            }
            Err(Failure::new(
                Code::NoDaemon,
                "the daemon has ended meanwhile",
            ))
        })
    }
}

/// Says what was compared, and what of it differed.
fn verified(progress: &proto::HealProgress) -> Result<()> {
    let objects = human::count(progress.compared);
    let bytes = human::bytes(progress.compared_bytes);
    let listed = progress.differences.iter().map(difference);
    screen::print(&listed.collect::<String>());
    if progress.differed == 0 {
        screen::print(&format!(
            "Compared {objects} objects, {bytes}: all are equal.\n"
        ));
        return Ok(());
    }
    let more = progress.differed - progress.differences.len() as u64;
    if more > 0 {
        screen::print(&format!("... and {} more\n", human::count(more)));
    }
    Err(Failure::new(
        Code::Differences,
        format!(
            "{} differed of what was thought equal ({objects} objects compared, {bytes}). All of it is equal now: find \
             out who, or what, changed the new brick",
            human::count(progress.differed)
        ),
    ))
}

fn difference(found: &proto::Difference) -> String {
    format!("{}: {}\n", human::name(&found.path), found.what)
}

/// A path as the daemon takes it: from the root of the volume. What begins with the mount point
/// is taken to be below it; all else is below the root, with or without a leading slash.
pub(crate) fn within(mountpoint: &Path, given: &OsStr) -> Result<Vec<u8>> {
    let path = Path::new(given);
    let inside = path.strip_prefix(mountpoint).unwrap_or(path);
    let inside = inside.strip_prefix("/").unwrap_or(inside);
    if inside
        .components()
        .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(Failure::usage(format!(
            "{}: `..` is not followed here",
            path.display()
        )));
    }
    let mut bytes = b"/".to_vec();
    bytes.extend_from_slice(inside.as_os_str().as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_from_the_root_or_below_the_mount_point() {
        let at = |given: &str| within(Path::new("/data"), OsStr::new(given)).unwrap();
        assert_eq!(at("/"), b"/");
        assert_eq!(at("/data"), b"/");
        assert_eq!(at("/data/a/b"), b"/a/b");
        assert_eq!(at("/a/b"), b"/a/b");
        assert_eq!(at("a"), b"/a");
        assert!(within(Path::new("/data"), OsStr::new("/a/../b")).is_err());
    }
}
