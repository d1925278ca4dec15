//! Where a mount may be put, what is said when it cannot, and how it goes away.
// A test that gets no thread has failed.
#![allow(clippy::disallowed_methods)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::Mounted;
use hermitfs_fuse::{Mount, MountError, MountInfo, Options, Placement, is_dead};
use hermitfs_testkit::Memory;

#[allow(
    clippy::unwrap_used,
    reason = "what cannot be done fails the test where it stands"
)]
fn prepared() -> Mount {
    Mount::prepare(Arc::new(Memory::new()), Options::default()).unwrap()
}

#[test]
fn a_mount_answers_as_soon_as_it_is_seen() {
    let mounted = Mounted::new(Memory::new());
    let seen = fs::metadata(mounted.at("")).unwrap();
    assert!(seen.is_dir());
    assert_eq!(Some(seen.dev()), mounted.mount.device());
    let listed = MountInfo::at(&mounted.at("")).unwrap().unwrap();
    assert_eq!(
        (&*listed.kind, &*listed.source),
        ("fuse.hermitfs", "hermitfs")
    );
    assert_eq!(Some(listed.id), mounted.mount.id());
}

#[test]
fn what_is_in_use_is_not_unmounted_and_is_told_so() {
    let mounted = Mounted::new(Memory::new());
    let file = fs::File::create(mounted.at("open")).unwrap();
    assert!(matches!(mounted.mount.detach(), Err(MountError::Busy(_))));
    assert!(mounted.mount.is_live());
    drop(file);
    mounted.mount.detach().unwrap();
    mounted.mount.wait();
    assert!(!mounted.mount.is_live() && !mounted.at("open").exists());
}

#[test]
fn a_lazy_detach_leaves_open_files_alone_until_they_are_closed() {
    let mounted = Mounted::new(Memory::new());
    let mut file = fs::File::create(mounted.at("open")).unwrap();
    mounted.mount.detach_lazy().unwrap();
    assert!(!mounted.at("open").exists());
    file.write_all(b"still here").unwrap();
    assert!(!mounted.mount.wait_for(Duration::from_millis(100)));
    drop(file);
    assert!(mounted.mount.wait_for(Duration::from_secs(10)));
}

#[test]
fn an_unmount_by_somebody_else_ends_the_session() {
    let mounted = Mounted::new(Memory::new());
    rustix::mount::unmount(mounted.at(""), rustix::mount::UnmountFlags::empty()).unwrap();
    mounted.mount.wait();
    assert!(matches!(
        mounted.mount.detach(),
        Err(MountError::NotThere(_))
    ));
}

#[test]
fn a_mount_that_covers_ours_is_never_taken_away() {
    let mounted = Mounted::new(Memory::new());
    let above = prepared();
    above.attach(&mounted.at(""), Placement::OnTop).unwrap();
    assert!(matches!(
        mounted.mount.detach_lazy(),
        Err(MountError::NotThere(_))
    ));
    above.detach().unwrap();
    mounted.mount.detach().unwrap();
}

#[test]
fn wrong_mount_points_are_refused_with_a_plain_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let missing = prepared().attach(&directory.path().join("none"), Placement::Vacant);
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .ends_with("none: no such directory")
    );

    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let no_directory = prepared().attach(&file, Placement::Vacant).unwrap_err();
    assert!(
        no_directory.to_string().ends_with("file: not a directory"),
        "{no_directory}"
    );

    let taken = Mounted::new(Memory::new());
    let again = prepared()
        .attach(&taken.at(""), Placement::Vacant)
        .unwrap_err();
    assert!(
        again
            .to_string()
            .contains("fuse.hermitfs is mounted there already"),
        "{again}"
    );
}

#[test]
fn a_mount_point_may_be_reached_over_a_symbolic_link() {
    let directory = tempfile::tempdir().unwrap();
    let (place, link) = (
        directory.path().join("place"),
        directory.path().join("link"),
    );
    fs::create_dir(&place).unwrap();
    std::os::unix::fs::symlink("place", &link).unwrap();
    let mount = prepared();
    mount.attach(&link, Placement::Vacant).unwrap();
    assert_eq!(mount.path().unwrap(), place.canonicalize().unwrap());
    mount.detach().unwrap();
}

#[test]
fn options_of_mount_are_honoured() {
    let mounted = Mounted::with(Memory::new(), "ro,noexec");
    let error = fs::write(mounted.at("x"), "").unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::ROFS.raw_os_error())
    );
}

/// As after `kill -9`: the mount is there and has lost its server.
fn kill(mount: &Mount) {
    common::abort(mount);
    assert!(mount.wait_for(Duration::from_secs(10)));
    assert!(mount.path().is_some_and(|path| is_dead(&path)));
}

#[test]
fn a_dead_mount_is_replaced_and_what_is_under_it_is_never_seen() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().canonicalize().unwrap();
    let raw = place.join("raw");
    fs::write(&raw, "under the mount").unwrap();

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = prepared();
        first.attach(&place, Placement::Vacant).unwrap();
        let look = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(fs::metadata(&raw).is_err(), "the raw directory is seen");
                looks += 1;
            }
            looks
        });
        let mut dead = vec![first];
        for _ in 0..20 {
            kill(&dead[dead.len() - 1]);
            let next = prepared();
            next.attach(&place, Placement::Vacant).unwrap();
            fs::write(place.join("alive"), "yes").unwrap();
            dead.push(next);
        }
        done.store(true, Ordering::Relaxed);
        assert!(look.join().unwrap() > 100);
        dead.last().unwrap().detach().unwrap();
    });
    assert!(raw.exists(), "nothing is left mounted");
}

#[test]
fn a_dead_mount_can_be_told_from_a_living_one() {
    let mounted = Mounted::new(Memory::new());
    assert!(!is_dead(&mounted.at("")));
    kill(&mounted.mount);
    assert!(!mounted.mount.is_live());
}
