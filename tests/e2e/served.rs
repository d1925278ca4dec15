//! A pair below a server: many work in it, and it is healed in one place.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::hermitfs::{Outcome, Status, exit, hermitfs};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::tree::Tree;
use hermitfs_tests::wait::until;

const LIMIT: Duration = Duration::from_secs(120);

/// The volfile that every client mounts.
fn client(lab: &Lab, served: &Bricks) -> PathBuf {
    let address = served.address();
    lab.file(
        "client.vol",
        &format!(
            "[volume.data]\ntype = \"protocol/client\"\naddress = \"{address}\"\nremote-subvolume = \"data\"\n"
        ),
    )
}

fn ask(served: &Bricks, command: &str, more: &[&str]) -> Outcome {
    let mut arguments = vec![command.to_owned(), served.volfile().display().to_string()];
    arguments.extend(more.iter().map(|&word| word.to_owned()));
    hermitfs(served.state_dir(), &arguments)
}

fn assert_equal(old: &Disk, lab: &Lab, new: &Disk) {
    let source = Tree::of(&lab.quiet_view(old.path()));
    source.assert_equal(&Tree::of_sink(new.path(), &source));
}

#[test]
fn a_served_pair_is_asked_by_its_volfile_and_healed_while_clients_work() {
    let lab = Lab::new("served-asked");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Btrfs, 512),
    );
    fs::create_dir(old.join("odd")).unwrap();
    Odd::small().build(&old.join("odd"), 63);
    let mut served = Bricks::serve_pair(&lab, "pair", old.path(), new.path());
    let volfile = client(&lab, &served);
    let one = Mounted::volfile(&lab, "one", &volfile, &[]);
    let other = Mounted::volfile(&lab, "other", &volfile, &[]);
    fs::write(one.join("from-one"), b"one").unwrap();
    assert_eq!(fs::read(other.join("from-one")).unwrap(), b"one");
    fs::write(other.join("from-other"), b"other").unwrap();
    assert_eq!(fs::read(one.join("from-other")).unwrap(), b"other");

    ask(&served, "heal", &["--wait"]).expect(exit::OK);
    let status = Status::expect(served.state_dir(), served.volfile());
    assert_eq!(status.number("errors"), 0);
    assert!(
        status.is("ready") && !status.is("can_cut_over"),
        "{}",
        status.0
    );
    assert_equal(&old, &lab, &new);

    // Nothing here is a mount that could be exchanged, and that is said.
    for command in ["cutover", "abort"] {
        ask(&served, command, &[]).refused(exit::CONFIGURATION, &["served to others"]);
    }
    ask(&served, "throttle", &["1MB/s"]).expect(exit::OK);
    ask(&served, "throttle", &["off"]).expect(exit::OK);
    ask(&served, "errors", &[]).expect(exit::OK);
    // A client has no pair: who asks there is told where to ask.
    one.command("heal", &[])
        .refused(exit::CONFIGURATION, &["no pair"]);

    // What is marked is kept beside the old brick, whoever made the change and whatever dies.
    ask(&served, "throttle", &["1KB/s"]).expect(exit::OK);
    for n in 0..20 {
        fs::write(one.join(format!("marked-{n}")), vec![b'm'; 40_000]).unwrap();
    }
    one.kill();
    served.kill();
    served.start();
    for n in 0..20 {
        let read = fs::read(other.join(format!("marked-{n}"))).unwrap();
        assert_eq!(read.len(), 40_000);
    }
    ask(&served, "throttle", &["off"]).expect(exit::OK);
    until(LIMIT, "nothing is pending", || {
        let status = Status::of(served.state_dir(), served.volfile());
        status.filter(|status| status.number("pending") == 0)
    });
    ask(&served, "heal", &["--wait"]).expect(exit::OK);
    assert_equal(&old, &lab, &new);
    other.terminate();
    served.terminate();
}
