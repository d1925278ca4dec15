//! Which migration this is: identities of both bricks, the marker on the sink, the state
//! directory. The direction is written down once and never inferred.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hermitfs_api::{
    Context, Entry, Errno, Error, Inode, Kind, Name, NameBuf, OpenFlags, Origin, Translator,
    block_on,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::control::OpenError;
use crate::heal::{MARKER_DIR, STAGING};

/// Our housekeeping on a sink.
const ADMIN: Context = Context::internal(Origin::Heal);

const MARKER: &[u8] = b"volume.json";
const FRESH: &[u8] = b"volume.json.new";

/// All that our directory has in it.
const OURS: [&[u8]; 3] = [STAGING, FRESH, MARKER];
const LOST_FOUND: &[u8] = b"lost+found";

/// A brick: its file system, and its root's handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BrickId {
    pub(crate) fsid: String,
    pub(crate) root: String,
}

/// What a sink is.
pub(crate) const SINK: &str = "sink";

/// What a sink becomes right before users see it: from then on it may be newer than the source, and
/// is never a sink again.
pub(crate) const SUCCESSOR: &str = "successor";

/// What is written on a sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) role: String,
    pub(crate) source: BrickId,
    /// The journal could not be written: nothing that it says is to be believed.
    #[serde(default)]
    pub(crate) dirty: bool,
}

/// What is written in the state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) since: u64,
    pub(crate) source: BrickId,
    pub(crate) sinks: Vec<(String, BrickId)>,
    /// A cut-over was begun, and nobody has taken that back: a sink that is not there may have taken the source's place.
    #[serde(default)]
    pub(crate) cutting_over: bool,
}

/// A sink as it was found.
#[derive(Clone)]
pub(crate) enum Found {
    /// Ours before, with this marker.
    Marked(Marker),
    /// Nothing in it.
    Empty,
    /// Something in it that is not ours.
    Foreign,
    /// Something stands under our own name that is not ours: it is nobody's to take away.
    Taken,
}

pub(crate) fn io(what: &str) -> impl FnOnce(Error) -> OpenError + '_ {
    move |error| {
        let story = format!("{what}: {error}");
        match error.errno() {
            Errno::EBUSY => OpenError::Busy(story),
            _ => OpenError::Io(story),
        }
    }
}

pub(crate) async fn brick_id(
    brick: &dyn Translator,
    root: &Arc<Inode>,
) -> hermitfs_api::Result<BrickId> {
    let fsid = format!("{:016x}", brick.statfs(&ADMIN, root).await?.fsid);
    let root = match brick.handle(&ADMIN, root).await {
        Ok(handle) => handle
            .as_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect(),
        Err(error) if error.errno() == Errno::EOPNOTSUPP => String::new(),
        Err(error) => return Err(error),
    };
    Ok(BrickId { fsid, root })
}

async fn look(
    brick: &dyn Translator,
    dir: &Arc<Inode>,
    name: &[u8],
) -> hermitfs_api::Result<Option<Entry>> {
    match brick.lookup(&ADMIN, dir, Name::new(name)?).await {
        Ok(entry) => Ok(Some(entry)),
        Err(error) if error.errno() == Errno::ENOENT => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a brick has our directory in its root.
pub(crate) async fn has_marker(
    brick: &dyn Translator,
    root: &Arc<Inode>,
) -> hermitfs_api::Result<bool> {
    Ok(look(brick, root, MARKER_DIR).await?.is_some())
}

/// What is on a sink.
pub(crate) async fn inspect(
    brick: &dyn Translator,
    root: &Arc<Inode>,
) -> hermitfs_api::Result<Found> {
    if let Some(dir) = look(brick, root, MARKER_DIR).await? {
        if dir.inode.kind() != Kind::Directory {
            return Ok(Found::Taken);
        }
        if let Some(marker) = read_marker(brick, &dir.inode).await? {
            return Ok(Found::Marked(marker));
        }
        // Without a marker, or with a torn one, it is what a kill or a power cut leaves while it is made: nothing had
        // been healed then. But somebody may have a directory of that name.
        if !has_ours_alone(brick, &dir.inode).await? {
            return Ok(Found::Taken);
        }
    }
    let mut from = 0;
    loop {
        let entries = brick.readdir(&ADMIN, root, from, 64, false).await?;
        let Some(last) = entries.last() else {
            return Ok(Found::Empty);
        };
        from = last.next;
        for entry in entries
            .iter()
            .filter(|entry| !entry.is_dots() && *entry.name != *MARKER_DIR)
        {
            let is_lost_found = *entry.name == *LOST_FOUND && {
                let dir = look(brick, root, LOST_FOUND).await?;
                match dir.filter(|dir| dir.inode.kind() == Kind::Directory) {
                    Some(dir) => {
                        let inside = brick.readdir(&ADMIN, &dir.inode, 0, 64, false).await?;
                        inside.iter().all(|entry| entry.is_dots())
                    }
                    None => false,
                }
            };
            if !is_lost_found {
                return Ok(Found::Foreign);
            }
        }
    }
}

async fn read_marker(
    brick: &dyn Translator,
    dir: &Arc<Inode>,
) -> hermitfs_api::Result<Option<Marker>> {
    let entry = look(brick, dir, MARKER).await?;
    let Some(entry) = entry.filter(|entry| entry.inode.kind() == Kind::File) else {
        return Ok(None);
    };
    let file = brick.open(&ADMIN, &entry.inode, OpenFlags::READ).await?;
    let mut text = vec![0; 64 << 10];
    let n = brick.read(&ADMIN, &file, 0, &mut text).await?;
    drop(brick.release(&ADMIN, &file).await);
    Ok(serde_json::from_slice(text.get(..n).unwrap_or(&[])).ok())
}

/// Whether nothing but what we make is in a directory.
async fn has_ours_alone(brick: &dyn Translator, dir: &Arc<Inode>) -> hermitfs_api::Result<bool> {
    // More than we ever make do not have to be read.
    let inside = brick.readdir(&ADMIN, dir, 0, 64, false).await?;
    let mut inside = inside.iter().filter(|entry| !entry.is_dots());
    Ok(inside.all(|entry| OURS.contains(&&*entry.name)))
}

/// Puts the marker on a sink, where it is not yet; the staging space.
pub(crate) async fn mark(
    brick: &dyn Translator,
    root: &Arc<Inode>,
    marker: &Marker,
) -> hermitfs_api::Result<Arc<Inode>> {
    let dir = match look(brick, root, MARKER_DIR).await? {
        Some(dir) => dir.inode,
        None => {
            let dir = brick
                .mkdir(&ADMIN, root, Name::new(MARKER_DIR)?, 0o700, 0)
                .await?
                .inode;
            for acl in ["system.posix_acl_access", "system.posix_acl_default"] {
                // It may have inherited some; that it has none is as good.
                drop(brick.removexattr(&ADMIN, &dir, acl.as_bytes()).await);
            }
            let set = hermitfs_api::SetAttr {
                mode: Some(0o700),
                ..Default::default()
            };
            brick.setattr(&ADMIN, &dir, None, &set).await?;
            dir
        }
    };
    let staging = match look(brick, &dir, STAGING).await? {
        Some(staging) => staging.inode,
        None => {
            brick
                .mkdir(&ADMIN, &dir, Name::new(STAGING)?, 0o700, 0)
                .await?
                .inode
        }
    };
    let text =
        serde_json::to_vec_pretty(marker).map_err(|error| Error::with_story(Errno::EIO, error))?;
    let fresh = NameBuf::new(FRESH)?;
    if look(brick, &dir, fresh.as_bytes()).await?.is_some() {
        brick.unlink(&ADMIN, &dir, &fresh).await?;
    }
    let (_, file) = brick
        .create(&ADMIN, &dir, &fresh, OpenFlags::WRITE, 0o600, 0)
        .await?;
    brick.write(&ADMIN, &file, 0, &text).await?;
    brick.fsync(&ADMIN, &file, false).await?;
    brick.release(&ADMIN, &file).await?;
    let name = Name::new(MARKER)?;
    brick
        .rename(&ADMIN, &dir, &fresh, &dir, name, Default::default())
        .await?;
    brick.fsyncdir(&ADMIN, &dir, false).await?;
    Ok(staging)
}

/// The marker of one sink, and who may change it: one at a time.
pub(crate) struct MarkerOn {
    brick: Arc<dyn Translator>,
    marker: Mutex<Marker>,
}

impl MarkerOn {
    pub(crate) fn new(brick: Arc<dyn Translator>, marker: Marker) -> MarkerOn {
        MarkerOn {
            brick,
            marker: Mutex::new(marker),
        }
    }

    /// Whether what was found on a sink is this one.
    pub(crate) fn is(&self, found: &Found) -> bool {
        let own = self.marker.lock();
        matches!(found, Found::Marked(m) if m.id == own.id && m.source == own.source)
    }

    /// Writes it, and puts it on the disk; the staging space.
    pub(crate) fn write(&self, root: &Arc<Inode>) -> hermitfs_api::Result<Arc<Inode>> {
        let marker = self.marker.lock();
        block_on(mark(&*self.brick, root, &marker))
    }

    /// Notes on the disk what the sink is from now on.
    pub(crate) fn set_role(&self, role: &str) -> hermitfs_api::Result<()> {
        self.change(|marker| marker.role = role.to_owned())
    }

    /// Notes on the disk whether the journal can be believed.
    pub(crate) fn set_dirty(&self, dirty: bool) -> hermitfs_api::Result<()> {
        self.change(|marker| marker.dirty = dirty)
    }

    fn change(&self, change: impl FnOnce(&mut Marker)) -> hermitfs_api::Result<()> {
        let mut marker = self.marker.lock();
        let mut wanted = marker.clone();
        change(&mut wanted);
        block_on(async {
            let root = self.brick.root(&ADMIN).await?.inode;
            mark(&*self.brick, &root, &wanted).await
        })?;
        *marker = wanted;
        Ok(())
    }
}

/// Takes everything of ours off a sink, and nothing else. The marker goes last: who is killed before that finds the sink
/// as his. ENOTEMPTY when somebody has put something of his own into our directory.
pub(crate) async fn unmark(brick: &dyn Translator, root: &Arc<Inode>) -> hermitfs_api::Result<()> {
    let Some(ours) = look(brick, root, MARKER_DIR).await? else {
        return Ok(());
    };
    loosen(brick, &ours.inode).await?;
    for name in OURS {
        if let Some(entry) = look(brick, &ours.inode, name).await? {
            remove(brick, &ours.inode, Name::new(name)?, &entry).await?;
        }
    }
    let gone = brick.rmdir(&ADMIN, root, Name::new(MARKER_DIR)?).await;
    gone.map_err(|error| match error.errno() {
        Errno::ENOTEMPTY => {
            let story = "something is in .hermitfs that is not hermitfs' own";
            Error::with_story(Errno::ENOTEMPTY, story)
        }
        _ => error,
    })
}

/// Whether a sink is this migration's. One that has taken the source's place may be newer than that, and is nobody's to
/// give up.
pub fn is_of(brick: &dyn Translator, id: &str) -> Result<bool, OpenError> {
    let found = block_on(async {
        let root = brick.root(&ADMIN).await?.inode;
        inspect(brick, &root).await
    });
    match found.map_err(io("its marker"))? {
        Found::Marked(marker) if marker.id != id => Ok(false),
        Found::Marked(marker) if marker.role == SUCCESSOR => Err(OpenError::Identity(
            "it has taken the old brick's place: a cut-over was killed in its last moment, and what is on it may be \
             newer. It is complete: use it as it is, without its directory .hermitfs"
                .to_owned(),
        )),
        Found::Marked(_) => Ok(true),
        Found::Empty | Found::Foreign | Found::Taken => Ok(false),
    }
}

/// With all that is in it, however deep.
async fn remove(
    brick: &dyn Translator,
    dir: &Arc<Inode>,
    name: &Name,
    entry: &Entry,
) -> hermitfs_api::Result<()> {
    let mut row = vec![(dir.clone(), name.to_owned(), entry.clone(), Vec::new())];
    while let Some((dir, name, entry, below)) = row.last_mut() {
        if entry.inode.kind() != Kind::Directory {
            brick.unlink(&ADMIN, dir, name).await?;
            row.pop();
            continue;
        }
        if below.is_empty() {
            *below = names_to_go(brick, &entry.inode).await?;
        }
        let Some(child) = below.pop() else {
            brick.rmdir(&ADMIN, dir, name).await?;
            row.pop();
            continue;
        };
        let dir = entry.inode.clone();
        if let Some(entry) = look(brick, &dir, child.as_bytes()).await? {
            row.push((dir, child, entry, Vec::new()));
        }
    }
    Ok(())
}

/// Some of what is in a directory that is to be removed, which can be changed from now on.
async fn names_to_go(
    brick: &dyn Translator,
    dir: &Arc<Inode>,
) -> hermitfs_api::Result<Vec<NameBuf>> {
    loosen(brick, dir).await?;
    let inside = brick.readdir(&ADMIN, dir, 0, 1024, false).await?;
    let names = inside.iter().filter(|entry| !entry.is_dots());
    names.map(|entry| Ok(NameBuf::new(&entry.name)?)).collect()
}

/// Takes away what forbids to change a directory.
async fn loosen(brick: &dyn Translator, dir: &Arc<Inode>) -> hermitfs_api::Result<()> {
    match brick.get_flags(&ADMIN, dir).await {
        Ok(flags) if flags & 0x30 != 0 => brick.set_flags(&ADMIN, dir, flags & !0x30).await,
        _ => Ok(()),
    }
}

/// A new identity for a migration.
pub(crate) fn new_id() -> Result<String, OpenError> {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .map(|id| id.trim().to_owned())
        .map_err(|error| OpenError::Io(format!("no random number to be had: {error}")))
}

/// An id comes from a marker on a disk, and becomes part of a path.
pub fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

pub(crate) fn state_dir(base: &Path, id: &str) -> PathBuf {
    base.join(id)
}

/// Seconds since 1970.
pub(crate) fn seconds_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64)
}

/// Seconds since the boot, suspended ones too; 0 where nothing tells.
pub(crate) fn uptime() -> i64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split('.').next().and_then(|text| text.parse().ok());
    seconds.unwrap_or(0)
}

/// A moment at which we served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    /// Seconds since 1970.
    pub(crate) at: i64,
    /// Seconds since the boot.
    pub(crate) uptime: i64,
}

impl Served {
    pub(crate) fn now() -> Served {
        Served {
            at: seconds_now(),
            uptime: uptime(),
        }
    }
}

/// The time, as files have it.
pub(crate) fn now() -> hermitfs_api::Time {
    hermitfs_api::Time::new(seconds_now(), 0)
}

/// Reads what the state directory says; `None` when it is not there.
pub(crate) fn read_record(dir: &Path) -> Result<Option<Record>, OpenError> {
    let path = dir.join("volume.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::Io(format!("{}: {error}", path.display()))),
    };
    // Damaged state is lost state: it costs time, never data.
    Ok(serde_json::from_slice(&text).ok())
}

/// Of all migrations that this state directory knows.
pub(crate) fn records(base: &Path) -> Vec<Record> {
    let dirs = std::fs::read_dir(base).into_iter().flatten().flatten();
    dirs.filter_map(|dir| read_record(&dir.path()).ok().flatten())
        .collect()
}

/// Writes it.
pub(crate) fn write_record(dir: &Path, record: &Record) -> Result<(), OpenError> {
    let path = dir.join("volume.json");
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let fresh = dir.join("volume.json.new");
        std::fs::write(&fresh, serde_json::to_vec_pretty(record)?)?;
        std::fs::File::open(&fresh)?.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        std::fs::File::open(dir)?.sync_all()
    };
    write().map_err(|error| OpenError::Io(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use hermitfs_api::block_on;
    use hermitfs_testkit::Memory;

    use super::*;

    fn marker() -> Marker {
        Marker {
            version: 1,
            id: "a-1".into(),
            role: "sink".into(),
            source: BrickId {
                fsid: "1".into(),
                root: "2".into(),
            },
            dirty: false,
        }
    }

    fn found(brick: &Memory, root: &Arc<Inode>) -> &'static str {
        match block_on(inspect(brick, root)).unwrap() {
            Found::Marked(found) if found == marker() => "marked",
            Found::Marked(_) => "marked by another",
            Found::Empty => "empty",
            Found::Foreign => "foreign",
            Found::Taken => "taken",
        }
    }

    fn make(brick: &Memory, dir: &Arc<Inode>, name: &str) -> Arc<Inode> {
        let name = Name::new(name.as_bytes()).unwrap();
        let made = block_on(brick.mkdir(&ADMIN, dir, name, 0o700, 0));
        made.unwrap().inode
    }

    #[test]
    fn only_what_has_nothing_in_it_is_empty() {
        let brick = Memory::with_dev(1);
        let root = block_on(brick.root(&ADMIN)).unwrap().inode;
        assert_eq!(found(&brick, &root), "empty");
        make(&brick, &root, "lost+found");
        assert_eq!(found(&brick, &root), "empty");
        let ours = make(&brick, &root, ".hermitfs");
        assert_eq!(found(&brick, &root), "empty", "killed before the marker");
        make(&brick, &root, "something");
        assert_eq!(found(&brick, &root), "foreign", "its marker is gone");
        block_on(mark(&brick, &root, &marker())).unwrap();
        assert_eq!(found(&brick, &root), "marked");
        // Torn: it is not ours any more, as far as anybody can tell.
        let (name, to) = (Name::new(MARKER).unwrap(), OpenFlags::READ_WRITE);
        let file = block_on(brick.lookup(&ADMIN, &ours, name)).unwrap().inode;
        let file = block_on(brick.open(&ADMIN, &file, to)).unwrap();
        block_on(brick.write(&ADMIN, &file, 0, b"??")).unwrap();
        assert_eq!(found(&brick, &root), "foreign");
        block_on(unmark(&brick, &root)).unwrap();
        let name = Name::new(b"something").unwrap();
        block_on(brick.rmdir(&ADMIN, &root, name)).unwrap();
        assert_eq!(found(&brick, &root), "empty");
    }

    #[test]
    fn what_somebody_has_under_our_name_is_neither_ours_nor_taken_away() {
        let brick = Memory::with_dev(1);
        let root = block_on(brick.root(&ADMIN)).unwrap().inode;
        let [ours, theirs] = [MARKER_DIR, b"theirs"].map(|name| Name::new(name).unwrap());
        block_on(brick.symlink(&ADMIN, &root, ours, b"elsewhere")).unwrap();
        assert_eq!(found(&brick, &root), "taken");
        block_on(brick.unlink(&ADMIN, &root, ours)).unwrap();
        let dir = make(&brick, &root, ".hermitfs");
        make(&brick, &dir, "staging");
        make(&brick, &dir, "theirs");
        assert_eq!(found(&brick, &root), "taken");
        // Put there later, it outlives what is ours.
        block_on(mark(&brick, &root, &marker())).unwrap();
        assert_eq!(found(&brick, &root), "marked");
        let left = block_on(unmark(&brick, &root)).unwrap_err();
        assert_eq!(left.errno(), Errno::ENOTEMPTY);
        assert_eq!(found(&brick, &root), "taken");
        let inside = block_on(brick.readdir(&ADMIN, &dir, 0, 64, false)).unwrap();
        assert_eq!(inside.iter().filter(|entry| !entry.is_dots()).count(), 1);
        block_on(brick.rmdir(&ADMIN, &dir, theirs)).unwrap();
        block_on(unmark(&brick, &root)).unwrap();
        assert_eq!(found(&brick, &root), "empty");
    }
}
