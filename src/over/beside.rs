//! OLD, where our mount is elsewhere: its own path is a way past us. What is changed there users see at
//! once, and NEW does not get it. So OLD's own mount is made read-only while it is migrated, and the brick is
//! worked in by a mount of ours that no path leads to. What cannot be shut like this is shut for the time
//! of a cut-over, and then compared once more.
//!
//! | state | OLD's path | what was changed past us |
//! |---|---|---|
//! | guarded | read-only, and no other way to it, since before NEW was made of it | nothing |
//! | shut | read-only | before it was, or by another way: compared before a cut-over |
//! | open | as it was: a directory of a larger mount, or a file is open for writing | the same |
//! | veiled | a directory below a read-only mount of itself, while a cut-over compares | the same |
//!
//! What is done to OLD is written down before it is done, so that the next start undoes it after a kill.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

use super::ground::{boot, open_covered};
use super::holders::{holders, tables};
use super::plan::{self, Memory};
use super::uppers::every_way;
use super::ways::{LAYER, Table, Target, Way};
use crate::exit::{Failure, Result};
use crate::mounts::{Mount, Mounts};
use crate::run::Slot;
use crate::shell;
use crate::sys;
use crate::users::Usage;

/// OLD, beside our mount.
pub(crate) struct Beside {
    path: PathBuf,
    slot: Slot,
    target: Target,
    state: Mutex<State>,
}

struct State {
    /// OLD's own mount, to be opened again when we leave; `None` where OLD is none, and afterwards.
    mount: Option<OwnedFd>,
    /// It is read-only because of us.
    shut: bool,
    /// Nothing can have been changed past us that NEW was not made of, or compared with, later.
    guarded: bool,
    /// What is written down for the next start.
    memory: Memory,
}

/// Why OLD cannot be shut for a cut-over.
pub(crate) enum Open {
    /// These have files of it open for writing.
    Writers(Vec<Usage>),
    /// A sentence.
    Failed(String),
}

impl Beside {
    /// Looks at OLD; nothing is done to it yet. `fresh`: NEW has nothing of it. `None` where the kernel
    /// gives us no mount of our own: then OLD is worked in by its own.
    pub(crate) fn begin(slot: &Slot, path: &Path, fresh: bool) -> Result<Option<Beside>> {
        let unknown = |what: &str, error: io::Error| Failure::other(format!("{what}: {error}"));
        let path = path
            .canonicalize()
            .map_err(|error| unknown(&path.display().to_string(), error))?;
        if let Err(error) = clone(&path) {
            tracing::warn!(%error, "the old brick's mount cannot be cloned: its own path stays open");
            return Ok(None);
        }
        let mounts = Mounts::read().map_err(|error| unknown("/proc/self/mountinfo", error))?;
        let Some(target) = plan::target(&mounts, &path) else {
            return Err(Failure::other(format!(
                "{} cannot be found among the mounts",
                path.display()
            )));
        };
        let old = slot.memory();
        let mount = mounts.by_id(target.mount);
        let is_shut = |mount: &Mount| plan::is_shut_by_us(old.as_ref(), &boot(), mount);
        let shut = target.is_mount && mount.is_some_and(is_shut);
        let was_guarded = shut && old.as_ref().is_some_and(|old| old.guarded);
        let held =
            match target.is_mount {
                true => Some(open_covered(&path, target.mount).map_err(|error| {
                    unknown(&format!("{} cannot be held", path.display()), error)
                })?),
                false => None,
            };
        let memory = Memory {
            boot: boot(),
            mount: target.mount,
            device: target.device,
            shut,
            guarded: false,
            veil: None,
        };
        Ok(Some(Beside {
            path,
            slot: slot.clone(),
            target,
            state: Mutex::new(State {
                mount: held,
                shut,
                guarded: fresh || was_guarded,
                memory,
            }),
        }))
    }

    /// Shuts OLD's own path, as far as that can be. To be called when the bricks are open, and before
    /// anything is healed.
    pub(crate) fn shut(&self) {
        let mut state = self.state.lock();
        self.make_read_only(&mut state);
        state.guarded &=
            self.is_read_only(&state) && self.others().is_some_and(|others| others.is_empty());
        state.memory.guarded = state.guarded;
        self.remember(&state);
    }

    /// From time to time: an administrator may have made it writable again, a writer may have closed.
    pub(crate) fn look(&self) {
        let mut state = self.state.lock();
        if self.target.is_mount && state.mount.is_some() && !self.is_read_only(&state) {
            if state.guarded {
                tracing::warn!(path = %self.path.display(), "the old brick was made writable at its own path");
                state.guarded = false;
                state.memory.guarded = false;
                self.remember(&state);
            }
            self.make_read_only(&mut state);
        }
    }

    /// Whether nobody can change OLD past us, and who can if not.
    pub(crate) fn told(&self) -> (bool, String) {
        let state = self.state.lock();
        let path = self.path.display();
        let compared = "compared once more before a cut-over";
        let read_only = self.is_read_only(&state);
        (
            state.guarded,
            match (state.guarded, read_only) {
                (true, _) => format!("read-only at {path}"),
                (false, true) => format!(
                    "read-only at {path}, but not from the first on or not by every way: {compared}"
                ),
                (false, false) if self.target.is_mount => {
                    format!("still open for writing at {path}: {compared}")
                }
                (false, false) => format!(
                    "a directory of a larger mount, which can be changed at {path}: {compared}"
                ),
            },
        )
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.look();
        self.state.lock().guarded
    }

    /// Shuts OLD for the time of a cut-over; a directory for as long as the veil lives.
    pub(crate) fn close(&self) -> std::result::Result<Veil<'_>, Open> {
        let failed = |what: &str, error: io::Error| {
            Open::Failed(format!("{} {what}: {error}", self.path.display()))
        };
        let mut state = self.state.lock();
        let veiled = match self.target.is_mount {
            true => {
                self.make_read_only(&mut state);
                false
            }
            false => {
                self.veil(&mut state)
                    .map_err(|error| failed("cannot be made read-only", error))?;
                true
            }
        };
        drop(state);
        let veil = Veil {
            beside: self,
            veiled,
        };
        let tables = tables().map_err(|error| failed("cannot be looked for in /proc", error))?;
        let writers = holders(&tables, &self.target, &[]).into_iter();
        let writers: Vec<Usage> = writers
            .filter(|holder| holder.writes)
            .map(|holder| holder.usage)
            .chain(self.layers(&tables))
            .collect();
        let open = self.target.is_mount && !self.is_read_only(&self.state.lock());
        let path = self.path.display();
        match (writers.is_empty(), open) {
            (true, false) => Ok(veil),
            (true, true) if self.is_gone() => Err(Open::Failed(format!(
                "the old brick is not mounted at {path} any more, so it cannot be made read-only. Mount it there again, \
                 unmount hermitfs, and give the command of the migration again"
            ))),
            _ => Err(Open::Writers(writers)),
        }
    }

    /// Overlays that write to OLD: they do so however it is shut.
    fn layers(&self, tables: &[Table]) -> impl Iterator<Item = Usage> {
        let ways = every_way(tables, &self.target, &[self.target.mount], true).into_iter();
        let layers = ways.filter(|way| way.how == LAYER && !way.read_only);
        layers.map(|way: Way| Usage {
            pid: way.pid,
            process: match way.pid {
                0 => "the kernel".into(),
                _ => way.process,
            },
            how: way.how,
            path: way.path,
        })
    }

    /// All was compared while it was shut.
    pub(crate) fn compared(&self) {
        let mut state = self.state.lock();
        if self.target.is_mount && self.is_read_only(&state) {
            state.guarded = self.others().is_some_and(|others| others.is_empty());
            state.memory.guarded = state.guarded;
            self.remember(&state);
        }
    }

    /// OLD is as it was before us.
    pub(crate) fn give_back(&self) {
        let mut state = self.state.lock();
        let Some(mount) = state.mount.take() else {
            return;
        };
        if state.shut {
            match sys::set_read_only(&mount, false) {
                Ok(()) => state.shut = false,
                Err(error) => {
                    let path = self.path.display();
                    tracing::error!(
                        "{path} stays read-only ({error}): `mount -o remount,rw {path}`"
                    );
                }
            }
        }
        self.slot.forget();
    }

    /// OLD's own mount, as it is now.
    fn is_read_only(&self, state: &State) -> bool {
        let look = || {
            let mounts = Mounts::read().ok()?;
            Some(mounts.by_id(self.target.mount)?.is_read_only())
        };
        state.mount.is_some() && look().unwrap_or(false)
    }

    /// OLD's own mount was taken away, or moved out of our sight: nothing can be done to it any more.
    fn is_gone(&self) -> bool {
        Mounts::read().is_ok_and(|mounts| mounts.by_id(self.target.mount).is_none())
    }

    /// Writable ways to OLD beside its own path; `None` when they cannot be known.
    fn others(&self) -> Option<Vec<PathBuf>> {
        let tables = tables().ok()?;
        let ways = every_way(&tables, &self.target, &[self.target.mount], true);
        let writable = ways.into_iter().filter(|way| !way.read_only);
        Some(writable.map(|way| way.path).collect())
    }

    /// As long as somebody has a file open for writing, it stays as it is.
    fn make_read_only(&self, state: &mut State) {
        if state.shut && self.is_read_only(state) {
            return;
        }
        // One that its administrator keeps read-only needs no help, and is his to open.
        if self.is_read_only(state) {
            return;
        }
        state.memory.shut = true;
        if !self.remember(state) {
            return;
        }
        let Some(mount) = &state.mount else { return };
        match sys::set_read_only(mount, true) {
            Ok(()) => state.shut = true,
            Err(error) => {
                state.memory.shut = state.shut;
                self.remember(state);
                if error.kind() != io::ErrorKind::ResourceBusy {
                    tracing::warn!(%error, path = %self.path.display(), "the old brick cannot be made read-only");
                }
            }
        }
    }

    fn remember(&self, state: &State) -> bool {
        let written = self.slot.remember(&state.memory);
        if let Err(error) = &written {
            tracing::error!(%error, "the state directory cannot be written: the old brick stays open at its own path");
        }
        written.is_ok()
    }

    /// Covers OLD by a read-only mount of itself.
    fn veil(&self, state: &mut State) -> io::Result<()> {
        let tree = clone(&self.path)?;
        sys::make_private(&tree)?;
        sys::set_read_only(&tree, true)?;
        state.memory.veil = Some(id_of(&tree)?);
        self.slot.remember(&state.memory)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&tree, c"", CWD, &self.path, flags)?)
    }

    fn unveil(&self) {
        let mut state = self.state.lock();
        if let Some(veil) = state.memory.veil.take() {
            take_away(&self.path, veil);
        }
        self.slot.forget();
    }
}

/// OLD is shut as long as this lives.
pub(crate) struct Veil<'a> {
    beside: &'a Beside,
    veiled: bool,
}

impl Drop for Veil<'_> {
    fn drop(&mut self) {
        if self.veiled {
            self.beside.unveil();
        }
    }
}

/// What a run that was killed has left over OLD is taken away. OLD's own mount stays as it is.
pub(crate) fn unveil_dead(slot: &Slot, path: &Path) {
    let left = slot.memory().filter(|memory| memory.boot == boot());
    if let Some(veil) = left.and_then(|memory| memory.veil) {
        take_away(path, veil);
        slot.forget();
    }
}

/// After a run that was killed, and that nobody goes on with: OLD is as it was before it.
pub(crate) fn give_back_dead(slot: &Slot, path: &Path) -> io::Result<()> {
    unveil_dead(slot, path);
    let Some(memory) = slot.memory() else {
        return Ok(());
    };
    let mounts = Mounts::read()?;
    let mount = mounts.by_id(memory.mount);
    if mount.is_some_and(|mount| plan::is_shut_by_us(Some(&memory), &boot(), mount)) {
        sys::set_read_only(open_covered(path, memory.mount)?, false)?;
    }
    slot.forget();
    Ok(())
}

/// A mount of ours, and of nobody who has come over it or after it.
fn take_away(path: &Path, id: u64) {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_there =
        Mounts::read().is_ok_and(|mounts| mounts.at(&path).is_some_and(|top| top.id == id));
    if !is_there {
        return;
    }
    if let Err(error) = unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        tracing::error!(
            "{} stays covered by a read-only mount of itself ({error}): `umount {}`",
            path.display(),
            shell::word(&path)
        );
    }
}

fn clone(path: &Path) -> io::Result<OwnedFd> {
    let directory = open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(&directory, c"", flags)?)
}

fn id_of(mount: &OwnedFd) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", mount.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or(io::ErrorKind::InvalidData.into())
}
