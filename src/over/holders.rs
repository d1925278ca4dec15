//! Who is in OLD already, and would go on working in it beside our mount: every process, by what
//! it has open, mapped or stands in.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::ways::{Table, Target, overlapping};
use crate::mounts::Mounts;
use crate::users::Usage;

/// One way in which one process is in OLD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) usage: Usage,
    /// It may change the content of a file as it is.
    pub(crate) writes: bool,
    /// By the very mount that ours stands on.
    pub(crate) by_covered: bool,
}

/// Where OLD is on each mount that shows it: the directories (as /proc tells paths) that are in
/// it, or none where all of the mount is.
#[derive(Debug, Default)]
struct Spots(HashMap<u64, HashSet<PathBuf>>);

impl Spots {
    fn new(tables: &[Table], target: &Target, own: &[u64]) -> Spots {
        let mut spots = Spots::default();
        for table in tables {
            for mount in overlapping(&table.mounts, target) {
                if own.contains(&mount.id) {
                    continue;
                }
                let directories = spots.0.entry(mount.id).or_default();
                // Of what shows no more than OLD everything is in it.
                if !mount.root.starts_with(&target.root) {
                    directories.extend(mount.shows(&target.root));
                }
            }
        }
        spots
    }

    fn has(&self, mount: u64, path: &Path) -> bool {
        let Some(directories) = self.0.get(&mount) else {
            return false;
        };
        directories.is_empty() || directories.iter().any(|dir| path.starts_with(dir))
    }
}

/// The mount tables of all namespaces, and of all roots in them; our own first.
pub(crate) fn tables() -> std::io::Result<Vec<Table>> {
    let view = |process: &Path| {
        let namespace = fs::read_link(process.join("ns/mnt")).ok()?;
        Some((namespace, fs::read_link(process.join("root")).ok()?))
    };
    let mut seen: HashSet<_> = view(Path::new("/proc/self")).into_iter().collect();
    let mut tables = vec![Table {
        pid: 0,
        process: String::new(),
        mounts: Mounts::read()?,
    }];
    for (pid, dir) in processes() {
        if let Some(view) = view(&dir)
            && seen.insert(view)
            && let Ok(mounts) = Mounts::of(&pid.to_string())
        {
            let process = comm(&dir);
            tables.push(Table {
                pid,
                process,
                mounts,
            });
        }
    }
    Ok(tables)
}

/// All of them but this process itself. What ends while we look is not listed.
pub(crate) fn holders(tables: &[Table], target: &Target, own: &[u64]) -> Vec<Holder> {
    let spots = Spots::new(tables, target, own);
    let mut found = Vec::new();
    for (pid, dir) in processes() {
        if pid == std::process::id() {
            continue;
        }
        let mut add = |how, path: PathBuf, writes, by_covered| {
            found.push(Holder {
                usage: Usage {
                    pid,
                    process: comm(&dir),
                    how,
                    path,
                },
                writes,
                by_covered,
            });
        };
        let held = |link: &Path| {
            let mount = mount_of(link)?;
            let path = fs::read_link(link).unwrap_or_default();
            spots.has(mount, &path).then_some((mount, path))
        };
        for task in tasks(&dir) {
            for (link, how) in [("cwd", "working directory"), ("root", "root directory")] {
                if let Some((mount, path)) = held(&task.join(link)) {
                    add(how, path, false, mount == target.mount);
                }
            }
        }
        for entry in fs::read_dir(dir.join("fd")).into_iter().flatten().flatten() {
            if let Some((mount, path)) = held(&entry.path()) {
                let info = dir.join("fdinfo").join(entry.file_name());
                let writes = fs::read_to_string(info).is_ok_and(|info| opened_to_write(&info));
                let how = if writes {
                    "open for writing"
                } else {
                    "open file"
                };
                add(how, path, writes, mount == target.mount);
            }
        }
        let maps = fs::read(dir.join("maps")).unwrap_or_default();
        for (path, writes) in mapped(&maps, target.device) {
            // The table tells the file system alone; the path has to tell the rest.
            if let Some(mount) = spots.by_path(tables, &path) {
                let how = if writes {
                    "mapping for writing"
                } else {
                    "mapping"
                };
                add(how, path, writes, mount == target.mount);
            }
        }
    }
    found.sort_by(|a, b| a.usage.cmp(&b.usage));
    found.dedup();
    found
}

impl Spots {
    /// The mount that a path in OLD may be on: the covered one only if there is no other.
    fn by_path(&self, tables: &[Table], path: &Path) -> Option<u64> {
        let mounts = tables.iter().flat_map(|table| &table.mounts.0);
        let mut on: Vec<_> = mounts
            .filter(|mount| path.starts_with(&mount.point) && self.has(mount.id, path))
            .collect();
        on.sort_by_key(|mount| mount.point.as_os_str().len());
        on.last().map(|mount| mount.id)
    }
}

fn processes() -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    })
}

/// Threads may each have a working directory of their own.
fn tasks(process: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(process.join("task"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

fn comm(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// The mount that a link of /proc leads to. No file system is asked.
fn mount_of(link: &Path) -> Option<u64> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = statx(CWD, link, flags, StatxFlags::MNT_ID).ok()?;
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}

/// Whether /proc/PID/fdinfo/N tells of a descriptor that was opened to write.
fn opened_to_write(info: &str) -> bool {
    const ACCESS: u32 = 3;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & ACCESS != 0)
}

/// Files of a file system in the text of /proc/PID/maps; true where stores reach them.
fn mapped(maps: &[u8], device: (u32, u32)) -> Vec<(PathBuf, bool)> {
    let wanted = format!("{:02x}:{:02x}", device.0, device.1);
    let lines = maps.split(|&byte| byte == b'\n').filter_map(|line| {
        // address perms offset dev inode path; the path begins after blanks and has its own.
        let fields: Vec<&[u8]> = line.splitn(6, |&byte| byte == b' ').collect();
        let [_, permissions, _, found, _, path] = fields[..] else {
            return None;
        };
        let writes = permissions.contains(&b'w') && permissions.contains(&b's');
        let path = Path::new(std::ffi::OsStr::from_bytes(path.trim_ascii_start()));
        (found == wanted.as_bytes()).then(|| (path.to_owned(), writes))
    });
    let mut files: Vec<_> = lines.collect();
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_tells_whether_it_was_opened_to_write() {
        assert!(opened_to_write("pos:\t0\nflags:\t0100001\nmnt_id:\t29\n"));
        assert!(opened_to_write("pos:\t0\nflags:\t02100002\nmnt_id:\t29\n"));
        assert!(!opened_to_write("pos:\t0\nflags:\t0100000\nmnt_id:\t29\n"));
        assert!(!opened_to_write(""));
    }

    #[test]
    fn stores_into_private_mappings_reach_no_file() {
        let maps = b"1-2 rw-s 00000000 08:02 7                  /srv/old/a b\n\
            2-3 rw-p 00000000 08:02 7                  /srv/old/c\n\
            3-4 r--s 00000000 08:03 7                  /other\n\
            4-5 rw-p 00000000 00:00 0 \n";
        assert_eq!(
            mapped(maps, (8, 2)),
            [("/srv/old/a b".into(), true), ("/srv/old/c".into(), false)]
        );
    }

    #[test]
    fn what_is_in_old_is_told_from_what_is_beside_it_on_the_same_mount() {
        let target = Target {
            mount: 1,
            device: (8, 1),
            root: "/srv/old".into(),
            is_mount: false,
        };
        let text = b"1 0 8:1 / / rw - ext4 a rw\n\
            2 1 8:1 /srv/old/part /part rw - ext4 a rw\n\
            3 1 8:1 /elsewhere /e rw - ext4 a rw\n\
            90 1 8:1 /srv/old /state/old rw - ext4 a rw\n";
        let tables = [Table {
            pid: 0,
            process: String::new(),
            mounts: Mounts::parse(text),
        }];
        let spots = Spots::new(&tables, &target, &[90]);
        let has = |mount, path| spots.has(mount, Path::new(path));
        assert!(has(1, "/srv/old") && has(1, "/srv/old/x") && has(2, "/part/x"));
        assert!(!has(1, "/srv/older") && !has(1, "/") && !has(3, "/e"));
        assert!(!has(90, "/state/old"));
        assert_eq!(spots.by_path(&tables, Path::new("/part/x")), Some(2));
        assert_eq!(spots.by_path(&tables, Path::new("/srv/old/x")), Some(1));
    }

    #[test]
    fn a_process_in_a_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let file = fs::File::create(real.join("held")).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(file)
            .current_dir(&real)
            .spawn()
            .unwrap();
        let tables = tables().unwrap();
        let target = super::super::plan::target(&tables[0].mounts, &real).unwrap();
        let found = holders(&tables, &target, &[]);
        child.kill().unwrap();
        child.wait().unwrap();
        let mine = |how: &str, path: &Path, writes| {
            found.iter().any(|holder| {
                (holder.usage.pid, holder.usage.how) == (child.id(), how)
                    && (holder.usage.path.as_path(), holder.writes) == (path, writes)
            })
        };
        assert!(
            mine("open for writing", &real.join("held"), true),
            "{found:?}"
        );
        assert!(mine("working directory", &real, false), "{found:?}");
    }
}
