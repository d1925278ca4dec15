//! Two mounts of one pair: one has it, and another follows.

use std::fs;
use std::time::Duration;

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::wait::until;

use super::assert_equal;

#[test]
fn a_second_mount_of_a_pair_is_refused_until_the_first_one_is_dead_and_then_heals() {
    let lab = Lab::new("wire-roles");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    fs::write(old.join("before"), b"there").unwrap();
    let mut source = Bricks::serve(&lab, "source", &[("old", old.path())]);
    let sink = Bricks::serve(&lab, "sink", &[("new", new.path())]);
    let volfile = Bricks::pair(&lab, &source, &sink);
    let first = Mounted::volfile(&lab, "first", &volfile, &[]);
    first.command("heal", &["--wait"]).expect(exit::OK);

    // It may be another host, which has no state of the first one's.
    let mut second = Mounted::prepare(&lab, "second");
    second.keep_state_in(&lab.dir("second-state"));
    second.use_volfile(&volfile, &[]);
    let refused = |second: &mut Mounted<'_>| {
        let outcome = second.try_start(&[]);
        assert_ne!(outcome.code, exit::OK, "two would heal");
        for words in ["is the source of a pair", "unmount it there first"] {
            assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
        }
    };
    refused(&mut second);
    source.kill();
    source.start();
    refused(&mut second);

    // Past the pair nobody changes its bricks.
    let plain = lab.file("plain.vol", &source.client("old", ""));
    let beside = Mounted::volfile(&lab, "beside", &plain, &[]);
    assert_eq!(fs::read(beside.join("before")).unwrap(), b"there");
    let written = fs::write(beside.join("behind-its-back"), b"x");
    assert_eq!(
        written.unwrap_err().raw_os_error(),
        Some(rustix::io::Errno::ROFS.raw_os_error())
    );
    beside.terminate();

    fs::write(first.join("marked"), b"by the first").unwrap();
    first.kill();
    until(Duration::from_secs(90), "the second one's turn", || {
        (second.try_start(&[]).code == exit::OK).then_some(())
    });
    assert_eq!(fs::read(second.join("marked")).unwrap(), b"by the first");
    fs::write(second.join("after"), b"by the second").unwrap();
    second.command("heal", &["--wait"]).expect(exit::OK);
    assert_equal(&lab, &old, &new);
    assert_eq!(fs::read(new.join("marked")).unwrap(), b"by the first");
    second.terminate();
}
