//! Which daemon is meant by a path that is not its mount point: one in the mount, a brick, or the mount point of a
//! daemon that keeps its state elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use crate::mounts::{Mount, Mounts};
use crate::run::{self, Record};
use crate::shell;

/// A daemon, and where it keeps its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) state_dir: PathBuf,
    pub(crate) record: Record,
}

/// What a path is to a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// Its mount point, or its volfile.
    Itself,
    /// It leads into the mount.
    Inside,
    /// It is, or is in, a brick.
    Brick(usize),
}

/// Whose a path is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Daemon(&'a Known, Relation),
    /// It is on a mount of ours of which nothing is known.
    Stranger(&'a Path),
    Nothing,
}

/// `path` without symbolic links. Those that come first in `known` are preferred.
pub(crate) fn find<'a>(path: &Path, mounts: &'a Mounts, known: &'a [Known]) -> Found<'a> {
    let ours = mounts.containing(path).filter(|mount| mount.is_ours());
    let is_on = |known: &&Known, ours: &Mount| {
        let its = mounts.at(&known.record.mountpoint);
        its.is_some_and(|its| its.is_ours() && its.device == ours.device)
    };
    let is_point = |known: &&Known| known.record.mountpoint == path;
    if let Some(known) = known.iter().find(is_point) {
        return Found::Daemon(known, Relation::Itself);
    }
    if let Some(ours) = ours {
        return match known.iter().find(|known| is_on(known, ours)) {
            Some(known) => Found::Daemon(known, Relation::Inside),
            None => Found::Stranger(&ours.point),
        };
    }
    let brick = |known: &'a Known| {
        let mut bricks = known.record.bricks.iter();
        let at = bricks.position(|(_, directory)| path.starts_with(directory))?;
        Some(Found::Daemon(known, Relation::Brick(at)))
    };
    known.iter().find_map(brick).unwrap_or(Found::Nothing)
}

/// All daemons that can be found: those of this state directory first, also the dead ones.
pub(crate) fn known(state_dir: &Path) -> Vec<Known> {
    let here = |record| Known {
        state_dir: state_dir.to_owned(),
        record,
    };
    let mut known: Vec<Known> = run::records(state_dir).into_iter().map(here).collect();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let descriptors = fs::read_dir(entry.path().join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            if let Some(held) = fs::read_link(descriptor.path())
                .ok()
                .and_then(|held| run::locked(&held))
                && held.1.pid == pid
                && held.0 != state_dir
            {
                let (state_dir, record) = held;
                known.push(Known { state_dir, record });
            }
        }
    }
    known
}

/// Says whose the path is. `instead`: the command to give.
pub(crate) fn sentence(path: &Path, known: &Known, relation: Relation, instead: &str) -> String {
    let record = &known.record;
    let (path, point) = (path.display(), record.mountpoint.display());
    let what = match relation {
        Relation::Itself => {
            let dir = known.state_dir.display();
            return format!(
                "{path} is served by a hermitfs that keeps its state in {dir}: `{instead}`"
            );
        }
        Relation::Inside => format!("{path} is in the mount {point}"),
        Relation::Brick(at) => {
            let directory = record
                .bricks
                .get(at)
                .map(|(_, directory)| directory.display());
            let brick = match (at, record.bricks.len()) {
                (_, 1) => format!("the brick that is served at {point}"),
                (0, _) => format!("the old brick of the migration at {point}"),
                (_, 2) => format!("the new brick of the migration at {point}"),
                _ => format!("a new brick of the migration at {point}"),
            };
            match directory {
                Some(directory) if directory.to_string() != path.to_string() => {
                    format!("{path} is in {directory}, {brick}")
                }
                _ => format!("{path} is {brick}"),
            }
        }
    };
    format!("{what}: `{instead}`")
}

/// A command line with another mount point in it, and with a state directory if that is another one, too.
pub(crate) fn instead(
    words: impl Iterator<Item = OsString>,
    given: &OsStr,
    point: &Path,
    state_dir: Option<&Path>,
) -> String {
    let (mut line, mut words) = (Vec::new(), words);
    let mut is_replaced = false;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if state_dir.is_some() && text == "--state-dir" {
            words.next();
        } else if state_dir.is_some() && text.starts_with("--state-dir=") {
        } else if !is_replaced && word == given {
            is_replaced = true;
            line.push(point.as_os_str().to_owned());
        } else {
            line.push(word);
        }
    }
    if let Some(dir) = state_dir {
        line.extend(["--state-dir".into(), dir.as_os_str().to_owned()]);
    }
    let line: Vec<&dyn AsRef<OsStr>> = line.iter().map(|word| word as _).collect();
    shell::hermitfs(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
        2 1 0:50 / /data rw - fuse.hermitfs hermitfs rw\n\
        3 2 0:51 / /data/disk rw - ext4 /dev/sdb rw\n\
        4 1 0:50 /sub /bound rw - fuse.hermitfs hermitfs rw\n\
        5 1 0:60 / /strange rw - fuse.hermitfs hermitfs rw\n";

    fn daemon(state_dir: &str, point: &str, bricks: &[&str]) -> Known {
        let brick = |at: &&str| ("x".to_owned(), PathBuf::from(at));
        Known {
            state_dir: state_dir.into(),
            record: Record {
                pid: 1,
                mountpoint: point.into(),
                volfile: String::new(),
                bricks: bricks.iter().map(brick).collect(),
                volume_id: String::new(),
                log: None,
                command: String::new(),
                ended: None,
            },
        }
    }

    #[test]
    fn a_path_leads_to_the_daemon_whose_mount_or_brick_it_is_in() {
        let mounts = Mounts::parse(TABLE);
        let known = [
            daemon("/s", "/data", &["/srv/old", "/srv/new"]),
            daemon("/s", "/etc/pair.vol", &["/a", "/b"]),
            daemon("/t", "/gone", &["/c"]),
        ];
        let found = |path: &str| match find(path.as_ref(), &mounts, &known) {
            Found::Daemon(known, relation) => {
                Some((known.record.mountpoint.to_str().unwrap(), relation))
            }
            Found::Stranger(point) => Some((point.to_str().unwrap(), Relation::Itself)),
            Found::Nothing => None,
        };
        use Relation::{Brick, Inside, Itself};
        assert_eq!(found("/data/a/b"), Some(("/data", Inside)));
        assert_eq!(found("/bound"), Some(("/data", Inside)));
        assert_eq!(found("/data/disk/a"), None, "another file system");
        assert_eq!(found("/srv/old"), Some(("/data", Brick(0))));
        assert_eq!(found("/srv/new/a"), Some(("/data", Brick(1))));
        assert_eq!(found("/b"), Some(("/etc/pair.vol", Brick(1))));
        assert_eq!(found("/gone"), Some(("/gone", Itself)));
        assert_eq!(found("/strange/a"), Some(("/strange", Itself)));
        assert_eq!(found("/srv/newer"), None);
    }

    #[test]
    fn the_command_to_give_has_the_right_words_in_the_place_of_the_wrong_ones() {
        let line = |given: &[&str], state_dir: Option<&str>| {
            let words = given.iter().map(OsString::from);
            let state_dir = state_dir.map(Path::new);
            instead(words, OsStr::new("."), Path::new("/my data"), state_dir)
        };
        assert_eq!(
            line(&["cutover", ".", "--timeout", "1min"], None),
            "hermitfs cutover '/my data' --timeout 1min"
        );
        assert_eq!(
            line(&["--state-dir", "/a", "status", "."], None),
            "hermitfs --state-dir /a status '/my data'"
        );
        for wrong in [
            &["--state-dir", "/a", "status", "."][..],
            &["status", "--state-dir=/a", "."],
        ] {
            assert_eq!(
                line(wrong, Some("/b")),
                "hermitfs status '/my data' --state-dir /b"
            );
        }
    }

    #[test]
    fn it_is_said_what_the_path_is() {
        let pair = daemon("/s", "/data", &["/srv/old", "/srv/new"]);
        let say = |path: &str, relation| sentence(path.as_ref(), &pair, relation, "hermitfs it");
        assert_eq!(
            say("/srv/old", Relation::Brick(0)),
            "/srv/old is the old brick of the migration at /data: `hermitfs it`"
        );
        assert_eq!(
            say("/srv/new/a", Relation::Brick(1)),
            "/srv/new/a is in /srv/new, the new brick of the migration at /data: `hermitfs it`"
        );
        assert_eq!(
            say("/data", Relation::Itself),
            "/data is served by a hermitfs that keeps its state in /s: `hermitfs it`"
        );
    }
}
