//! Who has a pair, when it was mounted by a machine whose processes nobody here can see.

use std::fs;
use std::time::Duration;

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::tree::Tree;

/// What the server waits for a machine to give a sign of life.
const GRACE: u64 = 6;

#[test]
fn a_pair_of_a_machine_that_died_is_mounted_by_one_command_on_another_or_on_the_same_after_its_boot()
 {
    let lab = Lab::new("alone-roles");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    fs::write(old.join("before"), "there").unwrap();
    let exports = [("old", old.path()), ("new", new.path())];
    let mut bricks = Bricks::serve_with(&lab, "bricks", &exports, GRACE);
    let volfile = Bricks::pair(&lab, &bricks, &bricks);
    let on = |machine: &str, boot: &str| {
        let mut mount = Mounted::prepare(&lab, &format!("mnt-{boot}"));
        mount.keep_state_in(&lab.dir(&format!("state-{machine}")));
        mount.use_volfile(&volfile, &[]);
        mount.boot_as(boot);
        mount
    };

    let mut one = on("one", "1111");
    one.start();
    one.command("heal", &["--wait"]).expect(exit::OK);
    // While it lives it is not waited for longer than that takes to be known.
    let mut other = on("other", "2222");
    let refused = other.try_start(&[]);
    refused.refused(
        exit::TRY_AGAIN,
        &["is the source of a pair", "unmount it there first"],
    );

    one.kill();
    other.start();
    other.command("heal", &["--wait"]).expect(exit::OK);
    other.kill();
    // By the same machine, which has booted since; so that it cannot tell by itself who is dead.
    let mut again = on("other", "3333");
    again.start();
    again.command("heal", &["--wait"]).expect(exit::OK);
    // Who ends well leaves nobody waiting.
    again.terminate();
    let mut last = on("one", "4444");
    let started = std::time::Instant::now();
    last.start();
    assert!(started.elapsed() < Duration::from_secs(GRACE));
    last.command("heal", &["--wait"]).expect(exit::OK);
    last.terminate();
    bricks.terminate();
    let source = Tree::of(&lab.quiet_view(old.path()));
    source.assert_equal(&Tree::of_sink(new.path(), &source));
    assert_eq!(fs::read(new.join("before")).unwrap(), b"there");
}
