//! When things fail: one clear sentence, nothing harmed, and users notice nothing.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::{self, Outcome, exit};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::odd::Odd;
use hermitfs_tests::tree::Tree;
use hermitfs_tests::wait::until;

const LONG: Duration = Duration::from_secs(120);

/// Waits until the daemon tells of something that stops it: an error, or why it waits.
fn wait_for_complaint(migration: &Migration<'_>, errno: &str, words: &str) {
    until(LONG, "a complaint about the sink", || {
        let errors = migration.command("errors", &["--json"]);
        let status = migration.status().0.to_string();
        let said = format!("{}{}{status}", errors.stdout, errors.stderr);
        (said.contains(errno) || said.to_lowercase().contains(words)).then_some(())
    });
}

#[test]
fn a_full_sink_is_not_noticed_by_users_and_healing_goes_on_when_there_is_room() {
    let lab = Lab::new("full");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 512),
        lab.disk("new", Format::Ext4, 256),
    );
    let (seeds, brick) = (crew::seeds(2), new.join("brick"));
    fs::create_dir(&brick).unwrap();
    crew::build(old.path(), &seeds);
    for index in 0..60 {
        fs::write(old.join(format!("bulk-{index}")), vec![index; 1 << 20]).unwrap();
    }
    let ballast = new.join("ballast");
    hermitfs_tests::shell::run("fallocate", &["-l", "190M", &ballast.to_string_lossy()]);

    let mut migration = lab.migration(old.path(), &brick);
    migration.try_start(&["--undersized"]).expect(exit::OK);
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, false);
    wait_for_complaint(&migration, "ENOSPC", "is full");
    crew.work_for(Duration::from_secs(3));
    let status = migration.status();
    assert!(!status.is("ready"), "{}", status.0);
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &[]);

    fs::remove_file(ballast).unwrap();
    crew.work_for(Duration::from_secs(3));
    crew.stop();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn a_sink_that_turns_read_only_is_not_noticed_by_users() {
    let lab = Lab::new("read-only-sink");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 512),
        lab.disk("new", Format::Ext4, 512),
    );
    let seeds = crew::seeds(2);
    crew::build(old.path(), &seeds);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    new.turn_read_only();
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, false);
    crew.work_for(Duration::from_secs(3));
    wait_for_complaint(&migration, "EROFS", "read-only");
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &[]);
    new.remount("rw");
    crew.work_for(Duration::from_secs(2));
    crew.stop();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn what_the_sink_cannot_hold_is_listed_and_blocks_until_it_is_waived() {
    let lab = Lab::new("cannot-hold");
    let (old, new) = (
        lab.disk("old", Format::Xfs, 1024),
        lab.disk("new", Format::Ext3, 512),
    );
    fs::create_dir(old.join("ordinary")).unwrap();
    fs::write(old.join("ordinary/file"), b"arrives").unwrap();
    // ext3 ends at two tebibytes, and has no room for an attribute of this size.
    fs::File::create(old.join("too-long"))
        .and_then(|file| file.set_len(3 << 40))
        .unwrap();
    fs::write(old.join("attribute"), b"small").unwrap();
    rustix::fs::setxattr(
        old.join("attribute"),
        "user.big",
        &[1; 30_000],
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();

    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let listed = until(LONG, "both objects in the list of errors", || {
        let listed = migration.command("errors", &["--json"]).stdout;
        (listed.contains("too-long") && listed.contains("attribute")).then_some(listed)
    });
    serde_json::from_str::<serde_json::Value>(&listed).unwrap();
    until(LONG, "the rest to be healed", || {
        (fs::read(new.join("ordinary/file")).ok()? == b"arrives").then_some(())
    });
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::DIFFERENCES, &["too-long"]);
    assert_ne!(
        migration.command("heal", &["--wait"]).code,
        exit::OK,
        "heal --wait hides errors"
    );
    // Content is not waived without a word.
    migration
        .command("errors", &["--waive", "/too-long"])
        .refused(exit::DIFFERENCES, &["/too-long", "--class content"]);
    migration
        .command("errors", &["--waive", "/too-long", "--class", "content"])
        .expect(exit::OK);
    migration
        .command("errors", &["--waive", "/attribute"])
        .expect(exit::OK);
    assert_eq!(fs::read(new.join("attribute")).unwrap(), b"small");
    until(LONG, "the pair to be ready", || {
        migration.status().is("ready").then_some(())
    });
    let result = migration
        .command("cutover", &["--timeout", "20s"])
        .expect(exit::OK);
    let said = format!("{}{}", result.stdout, result.stderr);
    assert!(
        said.contains("too-long") && said.contains("attribute"),
        "the result does not name what was waived: {said}"
    );
    let mut source = Tree::of(old.path());
    let mut sink = Tree::of(new.path());
    for tree in [&mut source, &mut sink] {
        tree.forget_below("too-long");
        tree.forget_below("attribute");
    }
    source.assert_equal(&sink);
}

/// Two bricks that must come out of a refusal exactly as they went in.
struct Untouched<'lab> {
    views: [std::path::PathBuf; 2],
    before: [Tree; 2],
    _lab: &'lab Lab,
}

impl<'lab> Untouched<'lab> {
    fn watch(lab: &'lab Lab, old: &Path, new: &Path) -> Untouched<'lab> {
        let views = [lab.quiet_view(old), lab.quiet_view(new)];
        // Whether the sink is empty is seen by looking into it.
        let before = [Tree::of(&views[0]), Tree::of(&views[1]).without_atimes()];
        Untouched {
            views,
            before,
            _lab: lab,
        }
    }

    #[track_caller]
    fn check(&self) {
        let [old, new] = &self.views;
        Tree::of(old).assert_unchanged_since(&self.before[0]);
        Tree::of(new)
            .without_atimes()
            .assert_unchanged_since(&self.before[1]);
    }
}

fn two_small_disks(lab: &Lab) -> (hermitfs_tests::disk::Disk, hermitfs_tests::disk::Disk) {
    let (old, new) = (
        lab.disk("old", Format::Ext3, 64),
        lab.disk("new", Format::Ext4, 64),
    );
    fs::create_dir(old.join("inside")).unwrap();
    fs::write(old.join("file"), b"content").unwrap();
    (old, new)
}

#[test]
fn a_sink_that_is_not_empty_is_refused() {
    let lab = Lab::new("non-empty");
    let (old, new) = two_small_disks(&lab);
    fs::write(new.join("precious"), b"not ours").unwrap();
    let watched = Untouched::watch(&lab, old.path(), new.path());
    lab.migration(old.path(), new.path())
        .try_start(&[])
        .refused(exit::CONFIGURATION, &["empty", "--adopt"]);
    watched.check();
}

#[test]
fn a_sink_that_something_else_has_filled_is_adopted_on_demand() {
    let lab = Lab::new("adopt");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 256),
        lab.disk("new", Format::Ext4, 256),
    );
    Odd::small().build(old.path(), 31);
    hermitfs_tests::shell::run(
        "cp",
        &[
            "-a",
            &old.join("links").to_string_lossy(),
            &old.join("sizes").to_string_lossy(),
            &new.path().to_string_lossy(),
        ],
    );
    // The same size and time as in the source, and another content.
    let wrong = new.join("sizes/4096");
    let time = fs::metadata(&wrong).unwrap().modified().unwrap();
    OpenOptions::new()
        .write(true)
        .open(&wrong)
        .unwrap()
        .write_all_at(b"bit rot", 7)
        .unwrap();
    hermitfs_tests::odd::set_mtime(&wrong, time);
    fs::write(new.join("extra"), b"not in the source").unwrap();
    let mut migration = lab.migration(old.path(), new.path());
    migration.try_start(&["--adopt"]).expect(exit::OK);
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn what_an_adoption_would_remove_is_counted_and_asked_for() {
    let lab = Lab::new("adopt-wrong");
    let (full, empty) = (
        lab.disk("full", Format::Ext4, 64),
        lab.disk("empty", Format::Ext4, 64),
    );
    for n in 0..20 {
        fs::write(full.join(format!("file-{n}")), vec![n; 100_000]).unwrap();
    }
    let names = || fs::read_dir(full.path()).unwrap().count();
    let (before, untouched) = (names(), Tree::of(full.path()).without_atimes());
    let paths = [full.path(), empty.path()].map(|path| path.display().to_string());
    let [full_path, empty_path] = paths.each_ref().map(String::as_str);
    let refused = |why: &str, start: &mut dyn FnMut() -> Outcome| {
        let words = [why, full_path, empty_path, "--delete-from-new", "removed"];
        start().refused(exit::CONFIGURATION, &words);
        assert_eq!(names(), before, "{why}");
        untouched.assert_equal(&Tree::of(full.path()).without_atimes());
    };

    // Swapped, or the old disk is not mounted.
    let mut swapped = lab.migration(empty.path(), full.path());
    refused("is empty", &mut || swapped.try_start(&["--adopt"]));
    // Nor does a volfile say it for ever.
    let volfile = lab.file(
        "adopts.vol",
        "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"${old}\"\n\n\
         [volume.new]\ntype = \"storage/posix\"\ndirectory = \"${new}\"\n\n\
         [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"old\"\nsinks = [\"new\"]\nadopt = true\n",
    );
    let set = [format!("old={empty_path}"), format!("new={full_path}")];
    let mut mounted = Mounted::prepare(&lab, "by-volfile");
    mounted.use_volfile(&volfile, &set.each_ref().map(String::as_str));
    refused("is empty", &mut || mounted.try_start(&[]));
    // A few files of it are not much better than none.
    fs::write(empty.join("file-1"), vec![1; 100_000]).unwrap();
    refused("far smaller", &mut || swapped.try_start(&["--adopt"]));
    // The right names, in a state of yesterday.
    for n in 0..20 {
        let file = empty.join(format!("file-{n}"));
        fs::write(&file, vec![n; 90_000]).unwrap();
        hermitfs_tests::odd::set_mtime(&file, std::time::UNIX_EPOCH + LONG);
    }
    refused("older", &mut || swapped.try_start(&["--adopt"]));
    // Who has read that may say it.
    swapped
        .try_start(&["--adopt", "--delete-from-new"])
        .expect(exit::OK);
    swapped.wait_ready(LONG);
    swapped.assert_bricks_equal();
    swapped.command("abort", &[]).expect(exit::OK);
}

#[test]
fn bricks_inside_each_other_are_refused() {
    let lab = Lab::new("nested");
    let (old, new) = two_small_disks(&lab);
    fs::create_dir(new.join("inside")).unwrap();
    let watched = Untouched::watch(&lab, old.path(), new.path());
    let refuse = |source: &Path, sink: &Path, word: &str| {
        lab.migration(source, sink)
            .try_start(&[])
            .refused(exit::CONFIGURATION, &[word]);
    };
    refuse(old.path(), &old.join("inside"), "inside");
    refuse(&new.join("inside"), new.path(), "inside");
    refuse(old.path(), old.path(), "one directory");
    watched.check();
}

#[test]
fn a_mount_point_that_is_in_use_is_refused() {
    let lab = Lab::new("in-use");
    let (old, new) = two_small_disks(&lab);
    let watched = Untouched::watch(&lab, old.path(), new.path());
    // Something else is mounted there.
    let data = lab.dir("data");
    hermitfs_tests::shell::run("mount", &["-t", "tmpfs", "none", &data.to_string_lossy()]);
    fs::write(data.join("visible"), b"still").unwrap();
    let outcome = lab.migration(old.path(), new.path()).try_start(&[]);
    refused_somehow(outcome, &[&data.to_string_lossy()]);
    assert_eq!(fs::read(data.join("visible")).unwrap(), b"still");
    hermitfs_tests::shell::run("umount", &[&*data.to_string_lossy()]);
    // A migration of ours is there already, for other bricks.
    let mut first = lab.migration(old.path(), new.path());
    first.start();
    let (old2, new2) = (lab.dir("old2"), lab.dir("new2"));
    refused_somehow(
        lab.migration(&old2, &new2).try_start(&[]),
        &[&data.to_string_lossy()],
    );
    assert!(data.join("file").exists());
    first.command("abort", &[]).expect(exit::OK);
    Tree::of(&watched.views[0]).assert_unchanged_since(&watched.before[0]);
}

/// Refused with one of the codes that fit a machine's obstacles.
#[track_caller]
fn refused_somehow(outcome: Outcome, words: &[&str]) {
    assert!(
        [
            exit::FAILED,
            exit::NO_DAEMON,
            exit::TRY_AGAIN,
            exit::CONFIGURATION
        ]
        .contains(&outcome.code),
        "{outcome:?}"
    );
    let code = outcome.code;
    outcome.refused(code, words);
}

#[test]
fn without_root_it_says_so() {
    let lab = Lab::new("no-root");
    let (old, new) = two_small_disks(&lab);
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = lab.path().join("hermitfs");
    fs::copy(hermitfs::binary(), &program).unwrap();
    let watched = Untouched::watch(&lab, old.path(), new.path());
    let mount = lab.dir("data");
    let outcome = hermitfs::run(
        Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .arg("migrate")
            .args([old.path(), new.path(), &mount]),
        Duration::from_secs(20),
    );
    outcome.refused(exit::PERMISSION, &["root"]);
    watched.check();
}

#[test]
fn a_wrong_volfile_is_refused_with_all_its_mistakes() {
    let lab = Lab::new("volfile");
    let mount = lab.dir("mnt");
    let volfile = lab.file(
        "wrong.vol",
        "[volume.old]\ntype = \"storage/posix\"\ndirektory = \"/srv/old\"\n\n\
         [volume.pair]\ntype = \"cluster/replicat\"\nsource = \"old\"\nsinks = [\"nwe\"]\n",
    );
    let state = lab.dir("state");
    let path = volfile.to_string_lossy();
    let checked = hermitfs::hermitfs(&state, &["check", &path]);
    let checked = checked.refused(
        exit::CONFIGURATION,
        &[
            "direktory",
            "directory",
            "cluster/replicat",
            "cluster/replicate",
        ],
    );
    assert!(
        checked.stderr.contains("wrong.vol"),
        "no file name in {}",
        checked.stderr
    );
    let mounted = hermitfs::hermitfs(&state, &["mount", "-f", &path, &mount.to_string_lossy()]);
    mounted.refused(exit::CONFIGURATION, &["direktory"]);
}

#[test]
fn giving_up_leaves_the_source_complete_and_nothing_of_ours() {
    let lab = Lab::new("abort");
    let (old, new) = (
        lab.disk("old", Format::Ext3, 256),
        lab.disk("new", Format::Btrfs, 256),
    );
    Odd::small().build(old.path(), 32);
    let view = lab.quiet_view(old.path());
    let before = Tree::of(&view);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    std::thread::sleep(Duration::from_millis(300));
    migration.command("abort", &[]).expect(exit::OK);
    Tree::of(&view).assert_unchanged_since(&before);
    assert!(
        fs::read_dir(migration.mount()).unwrap().next().is_none(),
        "the mount is still there"
    );
    assert!(!new.join(".hermitfs").exists());
}

/// A migration by a volfile with a rule at the source.
fn with_fault<'lab>(lab: &'lab Lab, old: &Path, new: &Path, rule: &str) -> Mounted<'lab> {
    let volfile = lab.file(
        "fault.vol",
        &format!(
            "[volume.old]\ntype = \"storage/posix\"\ndirectory = \"{}\"\n\n\
             [volume.source]\ntype = \"debug/fault\"\nsubvolumes = [\"old\"]\nrules = [\"{rule}\"]\n\n\
             [volume.new]\ntype = \"storage/posix\"\ndirectory = \"{}\"\n\n\
             [volume.pair]\ntype = \"cluster/replicate\"\nsource = \"source\"\nsinks = [\"new\"]\n",
            old.display(),
            new.display()
        ),
    );
    Mounted::volfile(lab, "data", &volfile, &[])
}

#[test]
fn what_the_source_cannot_read_blocks_until_it_is_waived_by_name() {
    let lab = Lab::new("source-eio");
    let (old, new) = two_small_disks(&lab);
    for (name, content) in [("good", "good"), ("bad", "bad"), ("also-good", "good")] {
        fs::write(old.join(name), content).unwrap();
    }
    let mount = with_fault(&lab, old.path(), new.path(), "read name=bad EIO");
    mount
        .command("heal", &["--wait"])
        .refused(exit::DIFFERENCES, &["bad", "EIO"]);
    let errors = mount.command("errors", &["--json"]).stdout;
    for word in ["/bad", "EIO", "read", "source"] {
        assert!(errors.contains(word), "{word}: {errors}");
    }
    mount
        .command("cutover", &[])
        .refused(exit::DIFFERENCES, &["bad"]);
    assert_eq!(fs::read(new.join("also-good")).unwrap(), b"good");
    mount
        .command("errors", &["--waive", "/bad", "--class", "content"])
        .expect(exit::OK);
    let done = mount.command("cutover", &[]);
    assert!(done.stderr.contains("/bad"), "{}", done.stderr);
    done.expect(exit::OK);
    assert_eq!(fs::read(mount.join("good")).unwrap(), b"good");
    assert!(!mount.join("bad").exists(), "half a file is no file");
}

#[test]
fn flags_that_cannot_be_read_are_not_taken_for_none() {
    let lab = Lab::new("source-flags");
    let (old, new) = two_small_disks(&lab);
    for name in ["good", "bad"] {
        fs::write(old.join(name), name).unwrap();
        hermitfs_tests::shell::run("chattr", &["+d", &old.join(name).to_string_lossy()]);
    }
    let mount = with_fault(&lab, old.path(), new.path(), "get_fsx name=bad EIO");
    mount
        .command("heal", &["--wait"])
        .refused(exit::DIFFERENCES, &["bad", "EIO"]);
    let errors = mount.command("errors", &["--json"]).stdout;
    for word in ["/bad", "EIO", "flags", "source"] {
        assert!(errors.contains(word), "{word}: {errors}");
    }
    assert!(!errors.contains("/good"), "{errors}");
}

#[test]
fn a_slow_read_of_one_file_holds_up_nobody_else() {
    let lab = Lab::new("slow");
    let (old, new) = two_small_disks(&lab);
    for index in 0..50 {
        fs::write(old.join(format!("file-{index}")), "content").unwrap();
    }
    fs::write(old.join("inside/slow"), "slow").unwrap();
    let mount = with_fault(
        &lab,
        old.path(),
        new.path(),
        "read name=slow origin=heal delay=20000",
    );
    for index in 0..200 {
        let name = mount.join(format!("made-{index}"));
        fs::write(&name, "made").unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"made");
    }
    assert_eq!(fs::read(mount.join("inside/slow")).unwrap(), b"slow");
    until(LONG, "all but the slow one", || {
        let there = |name: &str| fs::read(new.join(name)).is_ok_and(|content| !content.is_empty());
        let all = (0..50).all(|index| there(&format!("file-{index}")));
        (all && there("made-199")).then_some(())
    });
    assert!(
        !new.join("inside/slow").exists(),
        "the slow read is over already: this says nothing"
    );
    mount.command("heal", &["--wait"]).expect(exit::OK);
    assert_eq!(fs::read(new.join("inside/slow")).unwrap(), b"slow");
}
