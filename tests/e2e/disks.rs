//! Disks that fail: users get what they would get without us, all that can be read arrives, and no
//! cut-over comes that would leave something behind unsaid.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::faulty::{Fault, FaultyDisk};
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::tree::Tree;
use hermitfs_tests::wait::until;

const LONG: Duration = Duration::from_secs(120);

/// A source of some files, of which these blocks cannot be read.
fn source_with_bad_blocks(lab: &Lab, bad: impl Fn(&FaultyDisk) -> Vec<u64>) -> FaultyDisk {
    let old = lab.faulty_disk("old", Format::Ext4, 64);
    fs::create_dir(old.join("folder")).unwrap();
    for index in 0..300 {
        // Enough names for several blocks.
        let name = format!("folder/file-with-a-rather-long-name-{index:0100}");
        fs::write(old.join(name), format!("content {index}")).unwrap();
    }
    for name in ["bad", "good", "also-good"] {
        fs::write(old.join(name), content(name)).unwrap();
    }
    old.unmount_for_all();
    let blocks = bad(&old);
    let blocks = blocks.into_iter().map(|block| block..block + 1).collect();
    old.fail(&Fault::ReadsOf(blocks));
    old.mount("");
    old
}

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(256 << 10).collect()
}

/// What reading a whole file comes to.
fn read(path: &Path) -> Result<Vec<u8>, i32> {
    let mut content = Vec::new();
    fs::File::open(path)
        .and_then(|mut file| file.read_to_end(&mut content))
        .map_err(|error| error.raw_os_error().unwrap_or(0))?;
    Ok(content)
}

/// Waits until this object is listed as one that the source cannot read.
fn wait_listed(migration: &Migration<'_>, path: &str) {
    until(LONG, "the object in the list of errors", || {
        let errors = migration.command("errors", &["--json"]).stdout;
        let said = |word: &str| errors.contains(word);
        (said(path) && said("EIO") && said("\"old\"")).then_some(())
    });
}

/// The disk can be read again: everything arrives, and all is over in the ordinary way.
fn mend_and_finish(old: &FaultyDisk, migration: &mut Migration<'_>) {
    old.mend();
    migration.command("heal", &["--wait"]).expect(exit::OK);
    migration.wait_ready(LONG);
    assert_eq!(migration.status().number("waived"), 0);
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn bad_blocks_under_a_file_of_the_source_block_until_waived_and_heal_when_they_can_be_read() {
    let lab = Lab::new("bad-blocks");
    let old = source_with_bad_blocks(&lab, |old| old.blocks_of("/bad")[10..12].to_vec());
    let new = lab.disk("new", Format::Btrfs, 256);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    wait_listed(&migration, "/bad");
    // As without us, and as far as without us.
    assert_eq!(read(&old.join("bad")), Err(libc::EIO));
    assert_eq!(read(&migration.mount().join("bad")), Err(libc::EIO));
    let mut start = [0; 4096];
    fs::File::open(migration.mount().join("bad"))
        .and_then(|mut file| file.read_exact(&mut start))
        .unwrap();
    assert_eq!(start, content("bad")[..4096]);
    migration
        .command("heal", &["--wait"])
        .refused(exit::DIFFERENCES, &["/bad", "EIO"]);
    assert_eq!(migration.status().number("errors"), 1);
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::DIFFERENCES, &["/bad"]);
    for name in ["good", "also-good"] {
        assert_eq!(read(&new.join(name)).unwrap(), content(name));
    }
    assert_eq!(fs::read_dir(new.join("folder")).unwrap().count(), 300);

    migration
        .command("errors", &["--waive", "/bad", "--class", "content"])
        .expect(exit::OK);
    until(LONG, "the pair to be ready", || {
        migration.status().is("ready").then_some(())
    });
    mend_and_finish(&old, &mut migration);
}

#[test]
fn inodes_that_cannot_be_read_take_no_other_name_with_them() {
    let lab = Lab::new("bad-inodes");
    let victim = format!("folder/file-with-a-rather-long-name-{:0100}", 150);
    let old = source_with_bad_blocks(&lab, |old| vec![old.block_of_inode(&victim)]);
    let new = lab.disk("new", Format::Btrfs, 256);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    wait_listed(&migration, &victim);
    // The names, and for each what stat(2) has to say.
    let listed = |root: &Path| -> BTreeMap<OsString, Result<u64, i32>> {
        let entries = fs::read_dir(root.join("folder")).unwrap();
        let told = entries.map(|entry| {
            let entry = entry.unwrap();
            let stat = fs::symlink_metadata(entry.path());
            let stat = stat.map(|meta| meta.len());
            let code = stat.map_err(|error| error.raw_os_error().unwrap_or(0));
            (entry.file_name(), code)
        });
        told.collect()
    };
    let natively = listed(old.path());
    let bad = natively.values().filter(|stat| stat.is_err()).count();
    assert_eq!(natively.len(), 300);
    assert!((1..=32).contains(&bad), "{bad} inodes in one block");
    assert_eq!(
        natively[Path::new(&victim).file_name().unwrap()],
        Err(libc::EIO)
    );
    assert_eq!(listed(migration.mount()), natively);
    // All others arrive; of these each is an error of its own.
    migration
        .command("heal", &["--wait"])
        .refused(exit::DIFFERENCES, &["EIO"]);
    assert_eq!(migration.status().number("errors"), bad as u64);
    assert_eq!(fs::read_dir(new.join("folder")).unwrap().count(), 300 - bad);
    mend_and_finish(&old, &mut migration);
}

#[test]
fn a_bad_block_under_a_directory_of_the_source_is_no_short_directory() {
    let lab = Lab::new("bad-directory");
    let old = source_with_bad_blocks(&lab, |old| old.blocks_of("/folder")[3..4].to_vec());
    let new = lab.disk("new", Format::Ext4, 256);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    wait_listed(&migration, "/folder");
    let listed = |path: &Path| -> Result<usize, i32> {
        let entries = fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        entries
            .map(|entries| entries.len())
            .map_err(|error| error.raw_os_error().unwrap_or(0))
    };
    assert_eq!(listed(&old.join("folder")), Err(libc::EIO));
    assert_eq!(listed(&migration.mount().join("folder")), Err(libc::EIO));
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::DIFFERENCES, &["/folder"]);
    for name in ["good", "bad"] {
        assert_eq!(read(&new.join(name)).unwrap(), content(name));
    }
    mend_and_finish(&old, &mut migration);
}

/// The sink fails under users' hands: they notice nothing; it can be unmounted, and when it is
/// mounted again it is made equal.
fn sink_fails_and_comes_back(format: Format, fault: &Fault) {
    let lab = Lab::new("sink-yanked");
    let old = lab.disk("old", Format::Ext4, 512);
    let new = lab.faulty_disk("new", format, 512);
    let seeds = crew::seeds(2);
    crew::build(old.path(), &seeds);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, false);
    crew.work_for(Duration::from_millis(500));
    new.fail(fault);
    until(LONG, "a word about the sink", || {
        crew.work_for(Duration::from_millis(100));
        let status = migration.status();
        let reason = status.0["reason"].as_str().unwrap_or_default();
        (reason.contains("new failed") && reason.contains("let go")).then_some(())
    });
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::TRY_AGAIN, &["failed"]);
    crew.work_for(Duration::from_secs(1));

    new.mend();
    new.unmount_when_free();
    crew.work_for(Duration::from_millis(500));
    // What is beneath the mount is not the sink.
    assert_eq!(fs::read_dir(new.path()).unwrap().count(), 0);
    new.mount("");
    crew.work_for(Duration::from_millis(500));
    crew.stop();
    migration.wait_ready(LONG);
    migration.assert_bricks_equal();
    migration.cut_over();
}

#[test]
fn a_sink_on_ext4_that_cannot_be_written_comes_back() {
    sink_fails_and_comes_back(Format::Ext4, &Fault::Writes);
}

#[test]
fn a_sink_on_xfs_that_is_yanked_comes_back() {
    sink_fails_and_comes_back(Format::Xfs, &Fault::Everything);
}

#[test]
fn a_sink_on_btrfs_that_is_yanked_comes_back() {
    sink_fails_and_comes_back(Format::Btrfs, &Fault::Everything);
}

/// A disk that blocks, until the end of a test at the latest: nobody could end what waits for it.
struct Blocked<'a>(&'a FaultyDisk);

impl Blocked<'_> {
    fn begin(disk: &FaultyDisk) -> Blocked<'_> {
        disk.block();
        Blocked(disk)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

/// A sink whose disk blocks under a heal, and a crew at work.
fn sink_blocks(name: &str, then: impl FnOnce(&FaultyDisk, &mut Migration<'_>, Crew)) {
    let lab = Lab::new(name);
    let old = lab.disk("old", Format::Ext4, 512);
    let new = lab.faulty_disk("new", Format::Ext4, 512);
    let seeds = crew::seeds(2);
    crew::build(old.path(), &seeds);
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let mut crew = Crew::start(&lab, migration.mount(), &seeds, false);
    crew.work_for(Duration::from_millis(500));
    let _blocked = Blocked::begin(&new);
    until(LONG, "a word about the sink", || {
        crew.work_for(Duration::from_millis(100));
        let status = migration.status();
        let reason = status.0["reason"].as_str().unwrap_or_default();
        reason.contains("new has not answered for").then_some(())
    });
    then(&new, &mut migration, crew);
}

#[test]
fn a_sink_that_blocks_holds_up_healing_alone() {
    sink_blocks("sink-blocks", |new, migration, mut crew| {
        assert_eq!(migration.status().0["state"], "waiting");
        for command in [&["throttle", "50MB/s"], &["throttle", "off"]] {
            migration
                .command(command[0], &command[1..])
                .expect(exit::OK);
        }
        migration
            .command("cutover", &["--timeout", "1s"])
            .refused(exit::TRY_AGAIN, &["has not answered"]);
        crew.work_for(Duration::from_secs(1));
        new.go_on();
        crew.stop();
        migration.wait_ready(LONG);
        migration.assert_bricks_equal();
        migration.cut_over();
    });
}

#[test]
fn a_migration_to_a_sink_that_blocks_can_be_given_up() {
    sink_blocks("sink-blocks-abort", |new, migration, crew| {
        crew.stop();
        let view = Tree::of(migration.old());
        let given_up = migration.command("abort", &[]).expect(exit::OK);
        for words in ["there is left", "/new/.hermitfs", "does not answer"] {
            assert!(given_up.stderr.contains(words), "{}", given_up.stderr);
        }
        assert_eq!(fs::read_dir(migration.mount()).unwrap().count(), 0);
        Tree::of(migration.old())
            .without_atimes()
            .assert_equal(&view.without_atimes());
        // The daemon's threads that wait for the disk end with the wait.
        new.go_on();
        migration.daemon().wait_end(LONG);
        assert!(
            new.join(".hermitfs").exists(),
            "nobody asked the sink again"
        );
    });
}
