//! A pair below a server: many work in it, and it is healed in one place.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::hermitfs::{Outcome, Status, command, exit, hermitfs, run};
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

fn ask(served: &Bricks, what: &str, more: &[&str]) -> Outcome {
    let mut arguments = vec![what.to_owned(), served.volfile().display().to_string()];
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

    // Whoever works in it would be cut off.
    for command in ["cutover", "abort"] {
        ask(&served, command, &[]).refused(
            exit::TRY_AGAIN,
            &["unmount it there first", "pid", "client", "data"],
        );
    }
    fs::write(one.join("goes-on"), b"as before").unwrap();
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

#[test]
fn a_served_pair_is_cut_over_when_nobody_has_it_mounted_and_is_no_pair_any_more() {
    let lab = Lab::new("served-end");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Ext4, 512),
    );
    fs::create_dir(old.join("odd")).unwrap();
    Odd::small().build(&old.join("odd"), 64);
    let mut served = Bricks::serve_pair(&lab, "pair", old.path(), new.path());
    let client = Mounted::volfile(&lab, "client", &client(&lab, &served), &[]);
    fs::write(client.join("last"), b"written").unwrap();
    client.terminate();
    ask(&served, "heal", &["--wait"]).expect(exit::OK);
    let done = ask(&served, "cutover", &["--timeout", "20s"]).expect(exit::OK);
    let directory = new.path().display().to_string();
    for words in [&*directory, "is complete", "served any more"] {
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
    served.wait_end();
    assert!(!new.join(".hermitfs").exists());
    assert_equal(&old, &lab, &new);
    // At the next boot, say: what is newer by then is not made as the old brick is.
    fs::write(new.join("last"), b"newer").unwrap();
    let mut again = command(served.state_dir());
    again.args(["serve", "-f"]).arg(served.volfile());
    run(&mut again, LIMIT).refused(exit::CONFIGURATION, &["is not empty"]);
    assert_eq!(fs::read(new.join("last")).unwrap(), b"newer");
}

#[test]
fn what_is_served_is_ended_by_a_command_when_nobody_has_it_mounted_or_anyway() {
    let lab = Lab::new("served-stop");
    let (old, new) = (lab.dir("old"), lab.dir("new"));
    fs::write(old.join("file"), b"content").unwrap();
    let mut served = Bricks::serve_pair(&lab, "pair", &old, &new);
    ask(&served, "heal", &["--wait"]).expect(exit::OK);
    let one = Mounted::volfile(&lab, "one", &client(&lab, &served), &[]);
    ask(&served, "stop", &[]).refused(exit::TRY_AGAIN, &["--anyway", "client", "data"]);
    assert_eq!(fs::read(one.join("file")).unwrap(), b"content");
    let told = ask(&served, "stop", &["--anyway"]).expect(exit::OK);
    assert!(told.stderr.contains("`hermitfs serve"), "{}", told.stderr);
    served.wait_end();
    ask(&served, "status", &[]).refused(exit::NO_DAEMON, &["hermitfs serve"]);
    served.start();
    assert_eq!(fs::read(one.join("file")).unwrap(), b"content");
    fs::write(one.join("later"), b"more").unwrap();
    // A mount, too; whoever is in it is in the way.
    let held = fs::File::open(one.join("later")).unwrap();
    one.command("stop", &[])
        .refused(exit::TRY_AGAIN, &["later"]);
    drop(held);
    one.command("stop", &["--anyway"])
        .refused(exit::CONFIGURATION, &["served"]);
    one.command("stop", &[]).expect(exit::OK);
    assert!(!one.join("later").exists());
    ask(&served, "heal", &["--wait"]).expect(exit::OK);
    ask(&served, "stop", &[]).expect(exit::OK);
    served.wait_end();
    assert_eq!(fs::read(new.join("later")).unwrap(), b"more");
}

#[test]
fn a_migration_that_was_stopped_goes_on_by_the_command_that_is_told() {
    let lab = Lab::new("stopped-goes-on");
    let (old, new) = (lab.dir("old"), lab.dir("new"));
    fs::write(old.join("file"), b"content").unwrap();
    let mut migration = lab.migration(&old, &new);
    migration.start();
    migration.wait_ready(LIMIT);
    let told = migration.command("stop", &[]).expect(exit::OK);
    assert!(told.stderr.contains("`hermitfs migrate"), "{}", told.stderr);
    migration.daemon().wait_end(LIMIT);
    fs::write(old.join("meanwhile"), b"more").unwrap();
    migration.start();
    migration.cut_over();
    assert_eq!(fs::read(new.join("meanwhile")).unwrap(), b"more");
}

#[test]
fn a_served_pair_is_given_up_when_nobody_has_it_mounted() {
    let lab = Lab::new("served-abort");
    let (old, new) = (lab.dir("old"), lab.dir("new"));
    fs::write(old.join("file"), b"content").unwrap();
    let mut served = Bricks::serve_pair(&lab, "pair", &old, &new);
    let given_up = ask(&served, "abort", &[]).expect(exit::OK);
    let words = "served no more";
    assert!(given_up.stderr.contains(words), "{}", given_up.stderr);
    served.wait_end();
    assert!(!new.join(".hermitfs").exists());
    assert_eq!(fs::read(old.join("file")).unwrap(), b"content");
}
