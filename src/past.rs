//! What has come to its end: remembered in the state directory, for whoever asks later what became
//! of a migration.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::run::Record;

/// In the state directory; a line for each end.
const FILE: &str = "past.jsonl";

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum How {
    CutOver,
    GivenUp,
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Seconds since 1970.
    at: u64,
    how: How,
    by: String,
    mountpoint: PathBuf,
    /// The old brick first.
    bricks: Vec<PathBuf>,
    volume_id: String,
}

impl End {
    pub(crate) fn of(record: &Record, how: How, by: String) -> End {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        End {
            at: now.unwrap_or_default().as_secs(),
            how,
            by,
            mountpoint: record.mountpoint.clone(),
            bricks: record.bricks.iter().map(|(_, at)| at.clone()).collect(),
            volume_id: record.volume_id.clone(),
        }
    }

    /// Writes it down, durably. That it cannot be is only logged: the end itself has come.
    pub(crate) fn remember(&self, state_dir: &Path) {
        let write = || -> io::Result<()> {
            let mut line = serde_json::to_vec(self)?;
            line.push(b'\n');
            let path = state_dir.join(FILE);
            let mut options = OpenOptions::new();
            let mut file = options.create(true).append(true).mode(0o600).open(path)?;
            file.write_all(&line)?;
            file.sync_all()?;
            File::open(state_dir)?.sync_all()
        };
        if let Err(error) = write() {
            tracing::warn!(%error, end = %self, "the end cannot be written down");
        }
    }

    /// The last one at this mount point.
    pub(crate) fn last(state_dir: &Path, mountpoint: &Path) -> Option<End> {
        let text = fs::read(state_dir.join(FILE)).ok()?;
        let mut lines = text.rsplit(|&byte| byte == b'\n');
        lines.find_map(|line| {
            let end: End = serde_json::from_slice(line).ok()?;
            (end.mountpoint == mountpoint).then_some(end)
        })
    }

    /// The same, if it was between these bricks.
    pub(crate) fn is_of(&self, bricks: &[&Path]) -> bool {
        self.bricks
            .iter()
            .map(PathBuf::as_path)
            .eq(bricks.iter().copied())
    }

    pub(crate) fn how(&self) -> How {
        self.how
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bricks = self.bricks.iter().map(|brick| brick.display().to_string());
        let old = bricks.next().unwrap_or_default();
        let new = bricks.collect::<Vec<_>>().join(", ");
        let at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.at));
        let (point, by) = (self.mountpoint.display(), &self.by);
        match self.how {
            How::CutOver => write!(
                f,
                "{point} was cut over from {old} to {new} at {at} by {by}"
            ),
            How::GivenUp => write!(
                f,
                "the migration from {old} to {new} at {point} was given up at {at} by {by}"
            ),
        }
    }
}

/// Who has logged in and started this process: root may be anybody.
pub(crate) fn person(pid: Option<i32>) -> String {
    let pid = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let login = fs::read_to_string(format!("/proc/{pid}/loginuid")).unwrap_or_default();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(login.trim(), &passwd)
}

fn name_of(uid: &str, passwd: &str) -> String {
    let mut lines = passwd.lines().map(|line| line.split(':'));
    let found = lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    match found {
        Some(name) if name != "root" => format!("{name} (as root)"),
        _ => "root".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_end_at_a_place_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let end = |point: &str, new: &str, how| End {
            at: 1_700_000_000,
            how,
            by: "ann (as root)".into(),
            mountpoint: point.into(),
            bricks: vec!["/srv/old".into(), new.into()],
            volume_id: String::new(),
        };
        end("/data", "/srv/a", How::GivenUp).remember(dir.path());
        end("/data", "/srv/b", How::CutOver).remember(dir.path());
        end("/other", "/srv/c", How::GivenUp).remember(dir.path());
        let last = End::last(dir.path(), Path::new("/data")).unwrap();
        assert_eq!(
            last.to_string(),
            "/data was cut over from /srv/old to /srv/b at 2023-11-14T22:13:20Z by ann (as root)"
        );
        assert!(last.is_of(&[Path::new("/srv/old"), Path::new("/srv/b")]));
        assert!(!last.is_of(&[Path::new("/srv/old"), Path::new("/srv/a")]));
        assert_eq!(End::last(dir.path(), Path::new("/none")), None);
    }

    #[test]
    fn a_person_is_known_by_how_he_logged_in() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of("1000", passwd), "ann (as root)");
        assert_eq!(name_of("0", passwd), "root");
        assert_eq!(name_of("4294967295", passwd), "root");
    }
}
