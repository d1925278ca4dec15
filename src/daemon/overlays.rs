//! Overlays with a layer in the mount, however that was named: the kernel tells options as they were
//! given, so a relative path or a symbolic link says nothing. But whoever looks a name up in an
//! overlay's root has all of its layers asked for it, and those in our mount ask us.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, statx};

use super::serve::Daemon;
use crate::users::{Overlay, Usage, overlays};

/// How long one may take: a layer of another's may be on a disk or a server that does not answer.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is known of each.
#[derive(Default)]
pub(crate) struct Overlays(Mutex<HashMap<Overlay, Asked>>);

/// A name that was looked up in one.
struct Asked {
    /// The look-up came to us.
    here: Arc<AtomicBool>,
    /// It has come to its end.
    done: Arc<AtomicBool>,
}

impl Asked {
    fn is_here(&self) -> bool {
        self.here.load(Ordering::Acquire)
    }
}

/// Those of all mount namespaces that can be come to, and have a layer in the mount.
pub(super) fn in_the_mount(daemon: &Daemon) -> Vec<Usage> {
    let there = overlays();
    let mut known = daemon.overlays.0.lock();
    known.retain(|overlay, _| there.contains(overlay));
    for overlay in there {
        if !known.contains_key(&overlay)
            && let Some(asked) = ask(daemon, &overlay)
        {
            known.insert(overlay, asked);
        }
    }
    let here = known.iter().filter(|(_, asked)| asked.is_here());
    let mut here: Vec<_> = here.map(|(overlay, _)| overlay.usage()).collect();
    here.sort();
    here
}

/// `None` when that could not even begin.
fn ask(daemon: &Daemon, overlay: &Overlay) -> Option<Asked> {
    let name = name()?;
    let asked = Asked {
        here: daemon.mount.listen(&name),
        done: Arc::default(),
    };
    let (overlay, done) = (overlay.clone(), asked.done.clone());
    let thread = std::thread::Builder::new().name("overlay".into());
    let begun = thread.spawn(move || {
        look_up(&overlay, &name);
        done.store(true, Ordering::Release);
    });
    begun.ok()?;
    let until = Instant::now() + PATIENCE;
    while !asked.is_here() && !asked.done.load(Ordering::Acquire) && Instant::now() < until {
        std::thread::sleep(Duration::from_micros(200));
    }
    Some(asked)
}

/// One that nothing has, and that nobody else asks for.
fn name() -> Option<OsString> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").ok()?;
    Some(format!(".hermitfs-asks-{}", uuid.trim()).into())
}

fn look_up(overlay: &Overlay, name: &OsStr) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = open(overlay.way(), flags, Mode::empty()) else {
        return;
    };
    let look = |name: &OsStr, flags| statx(&root, name, flags, StatxFlags::empty());
    let is_it = look(OsStr::new(""), AtFlags::EMPTY_PATH)
        .is_ok_and(|stat| (stat.stx_dev_major, stat.stx_dev_minor) == overlay.device());
    if is_it {
        let _ = look(name, AtFlags::SYMLINK_NOFOLLOW);
    }
}
