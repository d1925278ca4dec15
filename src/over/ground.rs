//! Taking OLD, covering and shutting it, and giving it back.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_bind, mount_change,
    move_mount, open_tree, unmount,
};

use super::holders::{Holder, holders, tables};
use super::plan::{self, Facts, Ground, Memory, Plan};
use super::uppers::every_way;
use super::ways::{Table, Way, exports};
use crate::exit::{Code, Failure, Result};
use crate::mounts::{Mount, Mounts};
use crate::run::Slot;
use crate::sys;
use crate::users::Usage;

/// Who has a file open only for a moment is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a call may be under way that has found its directory but not changed it yet.
const ARRIVAL: Duration = Duration::from_millis(50);

/// Who is in OLD at each of these looks, before anything is done, is there to stay.
const LOOKS: u32 = 4;
const BETWEEN: Duration = Duration::from_millis(300);

/// How many of those in the way a refusal names.
const NAMED: usize = 40;

/// OLD, while our mount is over it or about to be.
pub(crate) struct Over {
    point: PathBuf,
    kept: PathBuf,
    slot: Slot,
    ground: Ground,
    memory: Memory,
    /// The mount that ours stands on, unless a dead mount covered it already.
    covered: Option<OwnedFd>,
    given_back: AtomicBool,
}

/// Who and what is in the way, and what is not but should be known.
#[derive(Default)]
struct Seen {
    ways: Vec<Way>,
    holders: Vec<Holder>,
}

impl Over {
    /// Takes OLD, which is the mount point as well. True when nobody can have come to it since our
    /// last run was killed. On an error all is as it was.
    pub(crate) fn begin(slot: &Slot, state_dir: &Path, point: &Path) -> Result<(Over, bool)> {
        let kept = plan::kept(state_dir, slot.name());
        let memory = slot.memory();
        let boot = boot();
        let (ground, dead) = loop {
            let mounts = mounts()?;
            let facts = Facts {
                point,
                kept: &kept,
                mounts: &mounts,
                memory: memory.as_ref(),
                boot: &boot,
                dead: mounts.at(point).is_some_and(Mount::is_ours) && hermitfs_fuse::is_dead(point),
            };
            match plan::plan(&facts) {
                Plan::Cover(ground) => break (ground, false),
                Plan::GoOn(ground) => break (ground, true),
                Plan::Uncover => unmount(point, UnmountFlags::DETACH)
                    .map_err(|error| failed("the dead mount cannot be taken away", point, error))?,
                Plan::Refuse(why) => return Err(Failure::configuration(why)),
            }
        };
        let memory = Memory {
            boot,
            mount: ground.target.mount,
            device: ground.target.device,
            shut: ground.is_shut,
            guarded: false,
            veil: None,
        };
        let mut over = Over {
            point: point.to_owned(),
            kept,
            slot: slot.clone(),
            ground,
            memory,
            covered: None,
            given_back: AtomicBool::new(false),
        };
        over.nobody_stays(dead)?;
        match dead {
            true => over.shut_kept(),
            false => over.take()?,
        }
        Ok((over, dead))
    }

    /// Where the brick is to be opened.
    pub(crate) fn brick(&self) -> &Path {
        &self.kept
    }

    /// Refuses when somebody is in OLD who will not go by himself.
    fn nobody_stays(&self, covered: bool) -> Result<()> {
        let mut seen = self.in_the_way(covered)?;
        for _ in 1..LOOKS {
            if seen.ways.is_empty() && seen.holders.is_empty() {
                return Ok(());
            }
            std::thread::sleep(BETWEEN);
            let now = self.in_the_way(covered)?;
            seen.holders.retain(|holder| now.holders.contains(holder));
            seen.ways.retain(|way| now.ways.contains(way));
        }
        match seen.ways.is_empty() && seen.holders.is_empty() {
            true => Ok(()),
            false => Err(self.refuse(&seen)),
        }
    }

    fn take(&mut self) -> Result<()> {
        let point = &self.point;
        if self.ground.leftover {
            release(&self.kept);
        }
        self.slot.remember(&self.memory).map_err(|error| {
            Failure::other(format!("the state directory cannot be written: {error}"))
        })?;
        let covered = open_covered(point, self.ground.target.mount)
            .map_err(|error| failed("the old brick cannot be taken", point, error))?;
        let taken = keep(&covered, &self.kept);
        taken.map_err(|error| {
            release(&self.kept);
            self.slot.forget();
            failed("the old brick cannot be mounted again", point, error)
        })?;
        self.covered = Some(covered);
        Ok(())
    }

    /// Shuts OLD when our mount covers it, and makes sure that nobody is left in it. Until this has
    /// come back without an error nothing may rely on marks.
    pub(crate) fn shut(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        // Whose path led into OLD in the moment when our mount came is let arrive.
        std::thread::sleep(ARRIVAL);
        loop {
            let shut = self.make_read_only()?;
            let seen = self.in_the_way(true)?;
            if shut && seen.ways.is_empty() && seen.holders.is_empty() {
                break;
            }
            if Instant::now() > until {
                return Err(self.refuse(&seen));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.warn()
    }

    /// False while somebody has a file open for writing.
    fn make_read_only(&mut self) -> Result<bool> {
        let Some(covered) = self.covered.as_ref().filter(|_| self.ground.shut) else {
            return Ok(true);
        };
        let before = self.memory.shut;
        self.memory.shut = true;
        if !before {
            self.slot.remember(&self.memory).map_err(|error| {
                Failure::other(format!("the state directory cannot be written: {error}"))
            })?;
        }
        match sys::set_read_only(covered, true) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(error) => Err(failed("the old brick cannot be shut", &self.point, error)),
        }
    }

    /// Lets users work in OLD itself again. To be called when our mount has gone.
    pub(crate) fn give_back(&self) {
        if !self.ground.shut || self.given_back.swap(true, Ordering::SeqCst) {
            return;
        }
        self.uncover();
        let there =
            Mounts::read().is_ok_and(|mounts| mounts.by_id(self.ground.target.mount).is_some());
        if !there {
            return;
        }
        let opened;
        let covered = match &self.covered {
            Some(covered) => Ok(covered),
            None => {
                opened = open_covered(&self.point, self.ground.target.mount);
                opened.as_ref().map_err(|error| error.kind())
            }
        };
        let done = covered
            .map_err(io::Error::from)
            .and_then(|covered| sys::set_read_only(covered, false));
        if let Err(error) = done {
            let point = self.point.display();
            tracing::error!("{point} stays read-only ({error}): `mount -o remount,rw {point}`");
        }
    }

    /// Takes away what dead daemons of ours may have left on OLD.
    fn uncover(&self) {
        let dead = || {
            let mounts = Mounts::read().ok()?;
            let ours = mounts.at(&self.point)?.is_ours();
            (ours && hermitfs_fuse::is_dead(&self.point)).then_some(())
        };
        while dead().is_some() && unmount(&self.point, UnmountFlags::DETACH).is_ok() {}
    }

    /// After a start that failed. A dead mount of an earlier run still covers OLD: then that is
    /// how it stays, for the next start.
    pub(crate) fn give_up(&self) {
        if self.covered.is_some() {
            self.leave();
        }
    }

    /// Leaves no trace.
    pub(crate) fn leave(&self) {
        self.give_back();
        release(&self.kept);
        self.slot.forget();
    }

    /// Gives OLD back after a daemon that is gone, and whose dead mount is gone as well.
    pub(crate) fn end_dead(slot: &Slot, state_dir: &Path, point: &Path) {
        // Without it, what is kept there is an older migration's OLD.
        let Some(memory) = slot.memory() else { return };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        if memory.shut && memory.boot == boot.trim() {
            let covered = open_covered(point, memory.mount);
            if let Err(error) = covered.and_then(|covered| sys::set_read_only(covered, false)) {
                let point = point.display();
                tracing::error!("{point} stays read-only ({error}): `mount -o remount,rw {point}`");
            }
        }
        release(&plan::kept(state_dir, slot.name()));
        slot.forget();
    }

    /// OLD's own mount, below ours, where all that is reached of its file system is OLD: otherwise it
    /// cannot be told who watches OLD, and who something else.
    pub(crate) fn below(&self) -> Option<Mount> {
        let target = &self.ground.target;
        let tables = target.is_mount.then(tables)?.ok()?;
        let all = || tables.iter().flat_map(|table| &table.mounts.0);
        let mut same = all().filter(|mount| mount.device == target.device);
        let is_old = |mount: &Mount| mount.root.starts_with(&target.root);
        same.all(is_old).then_some(())?;
        all().find(|mount| mount.id == target.mount).cloned()
    }

    /// Whether nobody comes to OLD but by us and by where it is kept.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        self.see(true).is_ok_and(|seen| seen.ways.is_empty())
    }

    /// After a cut-over: OLD stays where it was kept, for its administrator to read.
    pub(crate) fn keep(&self) {
        self.slot.forget();
    }

    /// Whatever run has left it there, nothing can be changed by its path.
    fn shut_kept(&self) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let kept = open(&self.kept, flags, Mode::empty()).map_err(io::Error::from);
        if let Err(error) = kept.and_then(|kept| sys::set_read_only(kept, true)) {
            tracing::warn!("{} stays writable: {error}", self.kept.display());
        }
    }

    fn see(&self, covered: bool) -> Result<Seen> {
        let unknown = |error| Failure::other(format!("/proc cannot be read: {error}"));
        let tables = tables().map_err(unknown)?;
        let own = self.own(&tables);
        let target = &self.ground.target;
        let mut ways = every_way(&tables, target, &own, covered);
        let exported = fs::read_to_string("/proc/fs/nfsd/exports").unwrap_or_default();
        ways.extend(exports(&exported, &self.point, target.is_mount));
        let holders = holders(&tables, target, &own);
        Ok(Seen { ways, holders })
    }

    /// Our own mount of OLD.
    fn own(&self, tables: &[Table]) -> Vec<u64> {
        let kept = tables.first().and_then(|own| own.mounts.at(&self.kept));
        kept.iter().map(|mount| mount.id).collect()
    }

    fn in_the_way(&self, covered: bool) -> Result<Seen> {
        let mut seen = self.see(covered)?;
        seen.ways.retain(|way| !way.read_only);
        seen.holders.retain(|holder| self.is_in_the_way(holder));
        Ok(seen)
    }

    /// The kernel keeps the others out where OLD is a mount.
    fn is_in_the_way(&self, holder: &Holder) -> bool {
        holder.writes || !(self.ground.target.is_mount && holder.by_covered)
    }

    /// Who is in OLD itself, below our mount, and would stay there when a new brick takes its
    /// place.
    pub(crate) fn left_below(&self) -> Vec<Usage> {
        let found = tables().map(|tables| {
            let own = self.own(&tables);
            holders(&tables, &self.ground.target, &own)
        });
        let found = found.unwrap_or_default();
        let told = |holder: Holder| Usage {
            how: match holder.usage.how {
                "working directory" => "working directory below the mount",
                "root directory" => "root directory below the mount",
                "mapping" | "mapping for writing" => "mapping below the mount",
                _ => "open file below the mount",
            },
            ..holder.usage
        };
        found.into_iter().map(told).collect()
    }

    fn warn(&self) -> Result<()> {
        let Seen { ways, holders } = self.see(true)?;
        for way in ways {
            tracing::warn!(
                pid = way.pid, process = way.process, path = %way.path.display(),
                "the old brick can be read by a {} beside the mount, also after a cut-over", way.how
            );
        }
        for Holder { usage, .. } in holders {
            tracing::warn!(
                pid = usage.pid, process = usage.process, path = %usage.path.display(),
                "reads the old brick itself, also after a cut-over, and cannot change it: {}",
                usage.how
            );
        }
        Ok(())
    }

    fn refuse(&self, seen: &Seen) -> Failure {
        let who = |pid: u32, process: &str| match pid {
            0 => process.to_owned(),
            pid => format!("{process} ({pid})"),
        };
        let ways = seen
            .ways
            .iter()
            .map(|way| (who(way.pid, &way.process), way.how, &way.path));
        let holders = seen
            .holders
            .iter()
            .map(|Holder { usage, .. }| (who(usage.pid, &usage.process), usage.how, &usage.path));
        let all: Vec<_> = ways.chain(holders).collect();
        let mut lines: Vec<String> = all
            .iter()
            .take(NAMED)
            .map(|(who, how, path)| {
                let line = format!("{who}  {how}  {}", path.display());
                format!("    {}", line.trim_start())
            })
            .collect();
        match all.len() {
            0 => lines
                .push("    somebody whom /proc does not show has a file open for writing".into()),
            n if n > NAMED => lines.push(format!("    and {} more", n - NAMED)),
            _ => {}
        }
        Failure::new(
            Code::TryAgain,
            format!(
                "{} can be changed beside the mount that is to go over it, and such changes would \
                 be lost; end or unmount these first:\n{}",
                self.point.display(),
                lines.join("\n")
            ),
        )
    }
}

/// Which boot of the machine this is.
pub(super) fn boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

fn mounts() -> Result<Mounts> {
    Mounts::read()
        .map_err(|error| Failure::other(format!("/proc/self/mountinfo cannot be read: {error}")))
}

fn failed(what: &str, point: &Path, error: impl Into<io::Error>) -> Failure {
    let error = error.into();
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied => Code::Permission,
        _ => Code::Other,
    };
    Failure::new(code, format!("{}: {what}: {error}", point.display()))
}

/// A descriptor of OLD by the mount that was decided upon, and no other.
pub(super) fn open_covered(point: &Path, mount: u64) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let old = open(point, flags, Mode::empty())?;
    let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    match statx(&old, c"", how, StatxFlags::MNT_ID)?.stx_mnt_id == mount {
        true => Ok(old),
        false => Err(io::Error::other("something else has been mounted there")),
    }
}

/// Mounts OLD once more where root alone comes, and where nothing that is mounted comes to it.
fn keep(old: &OwnedFd, kept: &Path) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(old, c"", flags)?;
    // A peer of OLD's mount would be covered together with it.
    sys::make_private(&tree)?;
    // The brick is worked in by another one, which no path leads to: whoever cleans up the state
    // directory must not take what users have.
    sys::set_read_only(&tree, true)?;
    // A mount that others share would show it in their namespaces: it gets a private one of its own.
    let base = kept.parent().unwrap_or(kept);
    DirBuilder::new().recursive(true).mode(0o700).create(base)?;
    mount_bind(base, base)?;
    mount_change(base, MountPropagationFlags::PRIVATE)?;
    DirBuilder::new().recursive(true).mode(0o700).create(kept)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&tree, c"", CWD, kept, flags)?)
}

/// Undoes [`keep`], however far it came. What is still open there goes on.
fn release(kept: &Path) {
    let base = kept.parent().unwrap_or(kept);
    for place in [kept, base] {
        let mounted = || Mounts::read().is_ok_and(|mounts| mounts.at(place).is_some());
        while mounted() && unmount(place, UnmountFlags::DETACH).is_ok() {}
    }
    for place in [kept, base] {
        if let Err(error) = fs::remove_dir(place)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, place = %place.display(), "left behind");
        }
    }
}
