use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use hermitfs_api::{Context, Inode, Origin, Translator, block_on};
use parking_lot::{Condvar, Mutex};

use crate::door::Door;
use crate::error::MountError;
use crate::exchange::{Exchange, OpenFile};
use crate::kernel::Kernel;
use crate::mountinfo::{MountInfo, mount_id, pin};
use crate::options::Options;
use crate::place;
use crate::standby::ExchangeThreads;
use crate::statistics::Snapshot;

/// Where a mount may be put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Where nothing is mounted. A mount of hermitfs whose server was killed counts as nothing,
    /// and is replaced without showing what is under it.
    #[default]
    Vacant,
    /// On top of whatever is there.
    OnTop,
}

/// A volume, mounted or about to be.
///
/// Dropping it takes the mount away lazily: what is open goes on until it is closed.
pub struct Mount {
    door: Arc<Door>,
    session: Arc<Live>,
    stage: Mutex<Stage>,
}

enum Stage {
    /// The file system is there and answers, in no place yet.
    Prepared(OwnedFd),
    /// It is made and mounted in one call (old kernels).
    Classic(OwnedFd),
    Attached(Attached),
    Detached,
}

/// Where a mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    path: PathBuf,
    id: u64,
    device: u64,
}

/// Whether the session's threads still run.
#[derive(Default)]
struct Live {
    started: Mutex<bool>,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Mount {
    /// Makes a file system of a volume, and serves it, but shows it nowhere: until
    /// [`Mount::attach`] nobody can reach it.
    pub fn prepare(volume: Arc<dyn Translator>, options: Options) -> Result<Mount, MountError> {
        let device = place::device()?;
        let root = block_on(volume.root(&Context::internal(Origin::Admin)));
        let root = root.map_err(MountError::Volume)?.inode;
        let attributes = options.attributes;
        let door = Arc::new(Door::new(volume, root, options));
        let session = Arc::new(Live::default());
        let stage = match place::file_system(device.as_fd())? {
            Some(fs) => {
                serve(&door, device, &session)?;
                Stage::Prepared(place::detached(&fs, attributes)?)
            }
            None => Stage::Classic(device),
        };
        Ok(Mount {
            door,
            session,
            stage: Mutex::new(stage),
        })
    }

    /// Shows the volume at a directory. When it can be seen there it answers.
    pub fn attach(&self, path: &Path, placement: Placement) -> Result<(), MountError> {
        let mut stage = self.stage.lock();
        let path = place::resolve(path)?;
        match &*stage {
            Stage::Prepared(mount) => {
                let id = mount_id(mount).map_err(MountError::step("identify the mount"))?;
                place::put(mount, &path, placement)?;
                *stage = Stage::Attached(Attached::new(path, id)?);
            }
            Stage::Classic(device) => {
                let attributes = self.door.options.attributes;
                place::mount_classic(device.as_fd(), &path, placement, attributes)?;
                let duplicate = device
                    .try_clone()
                    .map_err(MountError::step("keep /dev/fuse"))?;
                serve(&self.door, duplicate, &self.session)?;
                let id = pin(&path).and_then(|at| mount_id(&at));
                let id = id.map_err(MountError::at("identify the mount", &path))?;
                *stage = Stage::Attached(Attached::new(path, id)?);
            }
            Stage::Attached(_) => return Err(MountError::Stage("attached already")),
            Stage::Detached => return Err(MountError::Stage("detached for good")),
        }
        Ok(())
    }

    /// Takes the mount away. [`MountError::Busy`] when anything in it is in use: then nothing has
    /// changed.
    pub fn detach(&self) -> Result<(), MountError> {
        self.take_away(false)
    }

    /// Takes the mount out of sight at once. What is open goes on; the session ends with the last
    /// of it.
    pub fn detach_lazy(&self) -> Result<(), MountError> {
        self.take_away(true)
    }

    /// Ends as a server does that is killed: the mount stays where it is, dead, so that nobody sees what is under it, and
    /// the next server takes its place. True when nobody was in it any more: then it is gone instead.
    pub fn abandon(&self) -> Result<bool, MountError> {
        let mut stage = self.stage.lock();
        let gone = match &*stage {
            Stage::Attached(Attached { path, id, .. }) => {
                let seen = pin(path).and_then(|at| mount_id(&at));
                if !seen.is_ok_and(|seen| seen == *id) {
                    return Err(MountError::NotThere(path.clone()));
                }
                place::cut_off(path).map_err(MountError::at("end the connection of", path))?
            }
            Stage::Prepared(_) | Stage::Classic(_) => true,
            Stage::Detached => return Err(MountError::Stage("detached already")),
        };
        *stage = Stage::Detached;
        Ok(gone)
    }

    fn take_away(&self, lazy: bool) -> Result<(), MountError> {
        let mut stage = self.stage.lock();
        match &*stage {
            Stage::Attached(Attached { path, id, .. }) => {
                // Never somebody else's mount, which may have come to lie over ours.
                let seen = pin(path).and_then(|at| mount_id(&at));
                if !seen.is_ok_and(|seen| seen == *id) {
                    return Err(MountError::NotThere(path.clone()));
                }
                place::unmount(path, lazy).map_err(MountError::at("unmount", path))?;
            }
            Stage::Prepared(_) | Stage::Classic(_) => {}
            Stage::Detached => return Err(MountError::Stage("detached already")),
        }
        *stage = Stage::Detached;
        Ok(())
    }

    /// Holds opens and creations of files. False, and nothing is held, when those that are under
    /// way did not come to their end by the deadline.
    pub fn hold_opens(&self, deadline: Instant) -> bool {
        self.door.opens.hold();
        let held = self.door.opens.is_empty_by(deadline);
        if !held {
            self.door.opens.release();
        }
        held
    }

    /// Holds look-ups and listings as well, and has the kernel look up every name anew: from here
    /// on nobody comes to anything by a path. False as with [`Mount::hold_opens`].
    pub fn hold_lookups(&self, deadline: Instant) -> bool {
        self.door.lookups.hold();
        self.door.expire_names();
        let held = self.door.lookups.is_empty_by(deadline);
        if !held {
            self.door.lookups.release();
        }
        held
    }

    /// Lets go on what was held.
    pub fn release(&self) {
        self.door.lookups.release();
        self.door.opens.release();
    }

    /// Becomes true when a name is looked up, in any directory, also while look-ups are held. It is
    /// listened for as long as what comes back is kept.
    pub fn listen(&self, name: &OsStr) -> Arc<AtomicBool> {
        self.door.listening.to(name)
    }

    /// The files that users have open.
    pub fn open_files(&self) -> Vec<OpenFile> {
        self.door.open_files()
    }

    /// The object with the inode number that users see, if the kernel knows it.
    pub fn object(&self, number: u64) -> Option<Arc<Inode>> {
        self.door.nodes.get(self.door.nodes.numbered(number)?)
    }

    /// Puts another volume below, for good, and other objects behind what is open. To be called
    /// while opens and look-ups are held, and after a [`Mount::detach_lazy`].
    pub fn exchange(&self, new: Exchange, threads: ExchangeThreads) {
        self.door.exchange(new, threads);
    }

    /// Waits until nobody who was on his way at the exchange needs what was below before: a moment,
    /// and no time at all when nothing is held. Then the old volume is let go.
    pub fn settle(&self) {
        while self.is_live() && !self.door.settled.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the session has ended, whoever unmounted it, and all its requests with it.
    pub fn wait(&self) {
        self.session.wait(None);
    }

    /// The same, but not for ever. False when it still lives.
    pub fn wait_for(&self, time: Duration) -> bool {
        self.session.wait(Some(Instant::now() + time))
    }

    /// Whether the kernel still talks to us.
    pub fn is_live(&self) -> bool {
        *self.session.started.lock() && !*self.session.ended.lock()
    }

    /// The directory at which it was attached.
    pub fn path(&self) -> Option<PathBuf> {
        self.attached().map(|attached| attached.path)
    }

    /// The mount's id, as mountinfo and fdinfo have it. Gone after a detach.
    pub fn id(&self) -> Option<u64> {
        self.attached().map(|attached| attached.id)
    }

    /// `st_dev` of everything in it: what tells its users' files from others.
    pub fn device(&self) -> Option<u64> {
        self.attached().map(|attached| attached.device)
    }

    fn attached(&self) -> Option<Attached> {
        match &*self.stage.lock() {
            Stage::Attached(attached) => Some(attached.clone()),
            _ => None,
        }
    }

    /// Whether files that are opened from now on may bypass the door. What is open stays as it is.
    pub fn set_passthrough(&self, wanted: bool) {
        self.door.openings.set_wanted(wanted);
    }

    /// Whether others may change the volume beside this mount for a moment, as while it is put
    /// over the brick itself: the kernel then remembers no names, and when they have gone it
    /// forgets all else that it has read meanwhile.
    pub fn set_shared(&self, shared: bool) {
        self.door.shared.store(shared, Ordering::SeqCst);
        if !shared {
            self.door.call_back_everything();
        }
    }

    /// What was done so far.
    pub fn statistics(&self) -> Snapshot {
        self.door.snapshot()
    }

    /// Operations that ended in a panic.
    pub fn panics(&self) -> u64 {
        self.door.snapshot().panics
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.attached().is_some()
            && self.is_live()
            && let Err(error) = self.detach_lazy()
        {
            tracing::debug!(%error, "left as it was");
        }
    }
}

impl Attached {
    fn new(path: PathBuf, id: u64) -> Result<Attached, MountError> {
        let mount = MountInfo::of_id(id).map_err(MountError::at("find the mount", &path))?;
        Ok(Attached {
            path,
            id,
            device: mount.device,
        })
    }
}

impl Live {
    fn wait(&self, until: Option<Instant>) -> bool {
        if !*self.started.lock() {
            return true;
        }
        let mut ended = self.ended.lock();
        while !*ended {
            match until {
                None => self.end.wait(&mut ended),
                Some(until) if self.end.wait_until(&mut ended, until).timed_out() => break,
                Some(_) => {}
            }
        }
        *ended
    }
}

/// Says so however the thread ends.
struct Ending(Arc<Door>, Arc<Live>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.set_notifier(None);
        self.0.set_device(None);
        *self.1.ended.lock() = true;
        self.1.end.notify_all();
    }
}

/// Shakes hands with the kernel, whose INIT is waiting, and starts the threads.
fn serve(door: &Arc<Door>, device: OwnedFd, live: &Arc<Live>) -> Result<(), MountError> {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(door.options.threads);
    config.clone_fd = door.options.clone_fd;
    let spare = device.try_clone();
    let spare = spare.map_err(MountError::step("keep /dev/fuse"))?;
    let session = Session::from_fd(Kernel(door.clone()), device, SessionACL::All, config)
        .map_err(MountError::step("agree with the kernel on a protocol"))?;
    door.set_notifier(Some(session.notifier()));
    door.set_device(Some(spare));
    let ending = Ending(door.clone(), live.clone());
    *live.started.lock() = true;
    let run = move || {
        let _ending = ending;
        if let Err(error) = session.run() {
            tracing::error!(%error, "the FUSE session ended");
        }
    };
    std::thread::Builder::new()
        .name("fuse-session".into())
        .spawn(run)
        .map(drop)
        .map_err(MountError::step("start the session"))
}

#[cfg(test)]
mod tests {
    use hermitfs_testkit::Memory;

    use super::*;

    #[test]
    fn a_kernel_without_the_new_calls_mounts_as_well() {
        let volume = Arc::new(Memory::new());
        let root = block_on(volume.root(&Context::default())).unwrap().inode;
        let mount = Mount {
            door: Arc::new(Door::new(volume, root, Options::default())),
            session: Arc::default(),
            stage: Mutex::new(Stage::Classic(place::device().unwrap())),
        };
        let directory = tempfile::tempdir().unwrap();
        mount.attach(directory.path(), Placement::Vacant).unwrap();
        std::fs::write(directory.path().join("file"), "content").unwrap();
        assert_eq!(
            std::fs::read(directory.path().join("file")).unwrap(),
            b"content"
        );
        let seen = MountInfo::at(&mount.path().unwrap()).unwrap().unwrap();
        assert_eq!(
            (seen.kind.as_str(), Some(seen.id)),
            ("fuse.hermitfs", mount.id())
        );
        mount.detach().unwrap();
        mount.wait();
    }
}
