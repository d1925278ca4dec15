//! Threads that look after a daemon. They are made before anything is mounted or served, and wait for it: where none
//! can be had, nothing has been begun.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::serve::{Daemon, End};
use super::status::{self, Asked};
use super::{attributes, no_thread};
use crate::exit::{Failure, Result};

/// One that waits for whom it is for, and ends when nobody comes.
struct Lookout<T>(Sender<T>);

impl<T: Send + 'static> Lookout<T> {
    fn start(name: &str, run: impl FnOnce(T) + Send + 'static) -> Result<Lookout<T>> {
        let (sender, receiver) = channel();
        let wait = move || {
            if let Ok(it) = receiver.recv() {
                run(it);
            }
        };
        let started = std::thread::Builder::new().name(name.into()).spawn(wait);
        started.map_err(|error| Failure::other(no_thread(&error)))?;
        Ok(Lookout(sender))
    }

    fn at(self, it: T) {
        // It waits for nothing else.
        let _ = self.0.send(it);
    }
}

/// Tells those who listen how far it is.
pub(super) struct Teller<T>(Lookout<Weak<T>>);

impl<T: Asked> Teller<T> {
    pub(super) fn start() -> Result<Teller<T>> {
        let tell = |asked: Weak<T>| status::tell(&asked);
        Ok(Teller(Lookout::start("status", tell)?))
    }

    pub(super) fn begin(self, asked: &Arc<T>) {
        self.0.at(Arc::downgrade(asked));
    }
}

/// All that a daemon with a mount needs.
pub(super) struct Lookouts {
    watch: Lookout<Arc<Daemon>>,
    follow: Lookout<Weak<Daemon>>,
    teller: Teller<Daemon>,
    gone: oneshot::Receiver<()>,
}

impl Lookouts {
    pub(super) fn start() -> Result<Lookouts> {
        let (told, gone) = oneshot::channel();
        Ok(Lookouts {
            watch: Lookout::start("mount", |daemon| watch(daemon, told))?,
            follow: Lookout::start("attributes", |daemon| attributes::follow(&daemon))?,
            teller: Teller::start()?,
            gone,
        })
    }

    /// What comes back is told when the mount is gone.
    pub(super) fn begin(self, daemon: &Arc<Daemon>) -> oneshot::Receiver<()> {
        self.watch.at(daemon.clone());
        self.follow.at(Arc::downgrade(daemon));
        self.teller.begin(daemon);
        self.gone
    }
}

/// Waits for the mount's end, whoever takes it away.
fn watch(daemon: Arc<Daemon>, told: oneshot::Sender<()>) {
    let mount = daemon.mount.clone();
    let watched = Arc::downgrade(&daemon);
    drop(daemon);
    mount.wait();
    let _ = told.send(());
    // After a cut-over nobody else is left to be told.
    let Some(daemon) = watched.upgrade() else {
        return;
    };
    // A cut-over or an abort takes the mount away itself, and then has more to do.
    let over = daemon.ending.lock();
    if !*over && !daemon.abandoned.load(Ordering::SeqCst) {
        daemon.give_back();
    }
    let _ = daemon.end.send(End::Unmounted);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lookout_waits_for_whom_it_is_for_and_ends_when_nobody_comes() {
        let (done, came) = channel();
        let again = done.clone();
        let lookout = Lookout::start("lookout", move |it: u32| done.send(it).unwrap()).unwrap();
        lookout.at(7);
        assert_eq!(came.recv_timeout(Duration::from_secs(20)), Ok(7));
        drop(Lookout::start("nobody", move |it: u32| again.send(it).unwrap()).unwrap());
        // All who could send have gone.
        assert!(matches!(
            came.recv_timeout(Duration::from_secs(20)),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
        ));
    }
}
