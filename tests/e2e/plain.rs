//! A mount with nothing but a brick below it: the door and the brick, as users meet them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::shell;
use hermitfs_tests::tree::Tree;

/// What the directory is, seen through the mount: all but inode flags, for which FUSE has only
/// an ioctl.
fn assert_shown_as_it_is(lab: &Lab, brick: &std::path::Path, mount: &std::path::Path) {
    let seen = Tree::of(mount);
    let there = Tree::of(&lab.quiet_view(brick));
    let differences: Vec<_> = there
        .differences(&seen)
        .into_iter()
        .filter(|difference| difference.what != "inode flags")
        .collect();
    assert!(
        differences.is_empty(),
        "\n{}",
        hermitfs_tests::tree::list(&differences)
    );
    for path in ["", "links/here/one", "sparse/huge", "special/fifo"] {
        assert_eq!(
            seen.get(path).unwrap().own.ino,
            there.get(path).unwrap().own.ino,
            "inode number of {path:?}"
        );
    }
}

#[test]
fn a_mount_shows_the_odd_tree_as_it_is() {
    let lab = Lab::new("plain-odd");
    let disk = lab.disk("disk", Format::Ext4, 1024);
    let refused = Odd::default().build(disk.path(), 1);
    assert!(refused.is_empty(), "{refused:?}");
    let mount = lab.plain_mount(disk.path());
    assert_shown_as_it_is(&lab, disk.path(), mount.path());
}

#[test]
fn four_processes_read_what_they_wrote_through_a_mount() {
    let lab = Lab::new("plain-crew");
    let disk = lab.disk("disk", Format::Ext4, 1024);
    let seeds = crew::seeds(4);
    crew::build(disk.path(), &seeds);
    let mount = lab.plain_mount(disk.path());
    let mut crew = Crew::start(&lab, mount.path(), &seeds, false);
    crew.work_for(Duration::from_secs(8 * crew::soak()));
    crew.stop();
}

#[test]
fn nothing_acknowledged_is_lost_when_a_plain_mount_is_killed() {
    let lab = Lab::new("plain-killed");
    let disk = lab.disk("disk", Format::Ext4, 1024);
    let seeds = crew::seeds(3);
    crew::build(disk.path(), &seeds);
    let mut mount = lab.plain_mount(disk.path());
    let mut crew = Crew::start(&lab, mount.path(), &seeds, true);
    for _ in 0..4 * crew::soak() {
        crew.work_for(Duration::from_millis(1200));
        mount.kill();
        mount.start();
    }
    crew.stop();
}

#[test]
fn the_odd_tree_can_be_made_through_a_mount() {
    let lab = Lab::new("plain-make");
    let disk = lab.disk("disk", Format::Ext4, 512);
    let native = lab.disk("native", Format::Ext4, 512);
    let mount = lab.plain_mount(disk.path());
    let mut odd = Odd::small();
    odd.huge = 1 << 40;
    let natively_refused = odd.build(native.path(), 3);
    let refused = odd.build(mount.path(), 3);
    // Inode flags are an ioctl that FUSE does not carry over from here.
    let refused: Vec<_> = refused
        .into_iter()
        .filter(|what| !what.starts_with("nodump") && !what.starts_with("noatime"))
        .collect();
    assert_eq!(refused, natively_refused);
    let through = Tree::of(disk.path());
    let natively = Tree::of(native.path());
    let differences: Vec<_> = natively
        .differences(&through)
        .into_iter()
        .filter(|difference| difference.what != "inode flags" && difference.what != "mtime")
        .collect();
    assert!(
        differences.is_empty(),
        "\n{}",
        hermitfs_tests::tree::list(&differences)
    );
}

#[test]
fn objects_belong_to_who_makes_them_and_inherit_as_natively() {
    let lab = Lab::new("plain-owner");
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let disk = lab.disk("disk", Format::Ext4, 128);
    let native = lab.disk("native", Format::Ext4, 128);
    let mount = lab.plain_mount(disk.path());
    let script = "umask 027; touch f; mkdir d; mkfifo p; ln -s x l; \
                  touch setgid/f; mkdir setgid/d; touch acl/f; mkdir acl/d";
    for place in [native.path(), mount.path()] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o777)).unwrap();
        for (name, mode) in [("setgid", 0o2777), ("acl", 0o777)] {
            fs::create_dir(place.join(name)).unwrap();
            std::os::unix::fs::chown(place.join(name), None, Some(3000)).unwrap();
            fs::set_permissions(place.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let default = hermitfs_tests::odd::acl(&[(0x02, 7, Some(55))], 0o770);
        rustix::fs::setxattr(
            place.join("acl"),
            "system.posix_acl_default",
            &default,
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        let who = [
            "--reuid",
            "1234",
            "--regid",
            "2345",
            "--groups",
            "2345,3000",
        ];
        shell::run_command(
            Command::new("setpriv")
                .args(who)
                .args(["sh", "-ec", script])
                .current_dir(place),
        );
    }
    let differences: Vec<_> = Tree::of(native.path())
        .differences(&Tree::of(mount.path()))
        .into_iter()
        .filter(|difference| difference.what != "mtime")
        .collect();
    assert!(
        differences.is_empty(),
        "\n{}",
        hermitfs_tests::tree::list(&differences)
    );
    assert_eq!(fs::metadata(disk.join("f")).unwrap().uid(), 1234);
    assert_eq!(fs::metadata(disk.join("setgid/d")).unwrap().gid(), 3000);
}

#[test]
fn sigterm_ends_a_mount_cleanly() {
    let lab = Lab::new("plain-term");
    let disk = lab.disk("disk", Format::Ext4, 128);
    let mut mount = lab.plain_mount(disk.path());
    fs::write(mount.join("file"), b"kept").unwrap();
    mount.terminate();
    assert!(
        !mount.join("file").exists(),
        "the mount is still there after SIGTERM"
    );
    assert_eq!(fs::read(disk.join("file")).unwrap(), b"kept");
    mount.start();
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"kept");
}
