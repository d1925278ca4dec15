//! What waits, fails or breaks in a volume does not take the mount with it.
// A test that gets no thread has failed.
#![allow(clippy::disallowed_methods)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Hook, Mounted, errno, hooked};
use hermitfs_api::{Errno, Result, async_trait};
use tokio::sync::watch;

/// Holds what it is told to hold, as a freeze does.
struct Freeze {
    held: &'static [&'static str],
    frozen: watch::Receiver<bool>,
    waiting: Arc<AtomicUsize>,
}

#[async_trait]
impl Hook for Freeze {
    async fn before(&self, operation: &'static str) -> Result<()> {
        if self.held.contains(&operation) {
            let mut frozen = self.frozen.clone();
            if *frozen.borrow() {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                frozen.wait_for(|frozen| !frozen).await.ok();
                self.waiting.fetch_sub(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Thaws also when the test fails, or it would wait for ever.
struct Thaw(watch::Sender<bool>);

impl Drop for Thaw {
    fn drop(&mut self) {
        self.0.send(false).ok();
    }
}

#[test]
fn a_frozen_volume_holds_changes_and_answers_everything_else() {
    let (freeze, frozen) = watch::channel(false);
    let waiting = Arc::new(AtomicUsize::new(0));
    let held = &["mkdir", "write", "read"];
    let hook = Freeze {
        held,
        frozen,
        waiting: waiting.clone(),
    };
    let mounted = Mounted::new(hooked(hook));
    for n in 0..20 {
        // Each in a directory of its own: the kernel lets one change a directory at a time.
        fs::create_dir(mounted.at(&format!("in{n}"))).unwrap();
        fs::write(mounted.at(&format!("file{n}")), [n; 100]).unwrap();
        fs::write(mounted.at(&format!("read{n}")), [n; 100]).unwrap();
        let file = fs::File::open(mounted.at(&format!("read{n}"))).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    freeze.send(true).unwrap();
    std::thread::scope(|scope| {
        let thaw = Thaw(freeze);
        for n in 0..20 {
            let dir = mounted.at(&format!("in{n}/dir"));
            let (file, read) = (
                mounted.at(&format!("file{n}")),
                mounted.at(&format!("read{n}")),
            );
            scope.spawn(move || fs::create_dir(dir).unwrap());
            scope.spawn(move || fs::write(file, [n + 1; 3000]).unwrap());
            scope.spawn(move || assert_eq!(fs::read(read).unwrap(), [n; 100]));
        }
        until("everybody waits", || waiting.load(Ordering::SeqCst) >= 60);
        // Look-ups of new names, which no cache can answer.
        for n in 0..100 {
            assert_eq!(
                errno(fs::metadata(mounted.at(&format!("none{n}")))),
                Errno::ENOENT
            );
        }
        fs::rename(mounted.at("read0"), mounted.at("moved")).unwrap();
        assert!(mounted.mount.statistics().parked > 0);
        drop(thaw);
    });
    for n in 0..20 {
        assert!(mounted.at(&format!("in{n}/dir")).is_dir());
        assert_eq!(
            fs::read(mounted.at(&format!("file{n}"))).unwrap(),
            [n + 1; 3000]
        );
    }
    until("nothing is left over", || {
        let now = mounted.mount.statistics();
        now.in_flight == 0 && now.parked == 0
    });
}

/// A disk that takes its time, in the system call itself.
struct Slow(Arc<AtomicBool>);

#[async_trait]
impl Hook for Slow {
    async fn before(&self, operation: &'static str) -> Result<()> {
        while operation == "fsync" && self.0.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Ends that, also when the test fails.
struct Fast<'a>(&'a AtomicBool);

impl Drop for Fast<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[test]
fn a_slow_disk_stalls_only_those_who_wait_for_it() {
    let slow = Arc::new(AtomicBool::new(true));
    let mounted = Mounted::new(hooked(Slow(slow.clone())));
    std::thread::scope(|scope| {
        let fast = Fast(&slow);
        for n in 0..20 {
            let file = fs::File::create(mounted.at(&format!("f{n}"))).unwrap();
            scope.spawn(move || file.sync_all().unwrap());
        }
        until("all fsyncs are there", || {
            mounted.mount.statistics().in_flight >= 20
        });
        for n in 0..100 {
            assert_eq!(
                errno(fs::metadata(mounted.at(&format!("none{n}")))),
                Errno::ENOENT
            );
        }
        assert!(
            mounted.mount.statistics().in_flight >= 20,
            "they still wait"
        );
        drop(fast);
    });
}

struct Panics(Arc<AtomicBool>);

#[async_trait]
impl Hook for Panics {
    async fn before(&self, operation: &'static str) -> Result<()> {
        let on = self.0.load(Ordering::SeqCst);
        assert!(
            !(on && ["mkdir", "read", "write"].contains(&operation)),
            "a bug in {operation}"
        );
        Ok(())
    }
}

#[test]
fn a_panic_is_eio_for_one_operation_and_the_mount_lives() {
    let on = Arc::new(AtomicBool::new(false));
    let mounted = Mounted::new(hooked(Panics(on.clone())));
    fs::write(mounted.at("file"), "content").unwrap();
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(mounted.at("file"))
        .unwrap();
    on.store(true, Ordering::SeqCst);
    for n in 0..20 {
        assert_eq!(
            errno(fs::create_dir(mounted.at(&format!("dir{n}")))),
            Errno::EIO
        );
        assert_eq!(errno(file.write_at(b"x", 0)), Errno::EIO);
    }
    on.store(false, Ordering::SeqCst);
    until("each is counted", || mounted.mount.panics() == 40);
    fs::create_dir(mounted.at("dir")).unwrap();
    file.write_at(b"C", 0).unwrap();
    assert_eq!(fs::read(mounted.at("file")).unwrap(), b"Content");
    until("nothing is left over", || {
        mounted.mount.statistics().in_flight == 0
    });
}

struct Missing(AtomicBool);

#[async_trait]
impl Hook for Missing {
    async fn before(&self, operation: &'static str) -> Result<()> {
        let first = operation.ends_with("xattr") && self.0.swap(false, Ordering::SeqCst);
        if first {
            Err(Errno::ENOSYS.into())
        } else {
            Ok(())
        }
    }
}

#[test]
fn enosys_from_below_does_not_switch_an_operation_off_for_ever() {
    let mounted = Mounted::new(hooked(Missing(AtomicBool::new(true))));
    fs::write(mounted.at("file"), "").unwrap();
    let file = mounted.at("file");
    let mut names = [0u8; 100];
    let first = rustix::fs::listxattr(&file, &mut names);
    assert_eq!(first, Err(rustix::io::Errno::OPNOTSUPP));
    assert_eq!(rustix::fs::listxattr(&file, &mut names), Ok(0));
}
