//! What is left of the state after a power cut, a lost disk, or with a clock that steps back. The
//! power itself is cut by `cargo power`.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::shell;
use hermitfs_tests::wait::until;

const LONG: Duration = Duration::from_secs(180);

/// What happened to the state while nobody served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    None,
    /// It was written in another boot, and not closed.
    AnotherBoot,
    /// Its last record is not whole.
    TornTail,
    /// Its first block is not whole.
    TornHeader,
    /// The journal is gone.
    Journal,
    /// All of it is gone.
    All,
    /// The clock has stepped back since.
    Clock,
}

impl Damage {
    fn happen(self, state: &Path) {
        let journal = journal(state);
        let rewrite = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut header = header(&journal);
            change(&mut header);
            let mut line = serde_json::to_vec(&header).unwrap();
            line.push(b'\n');
            line.resize(4096, b' ');
            let file = OpenOptions::new().write(true).open(&journal).unwrap();
            file.write_all_at(&line, 0).unwrap();
        };
        let cut = |length: u64| {
            let file = OpenOptions::new().write(true).open(&journal).unwrap();
            file.set_len(length).unwrap();
        };
        match self {
            Damage::None => {}
            Damage::AnotherBoot => rewrite(&|header| {
                assert_eq!(header["clean"], false, "{header}");
                header["boot"] = "another".into();
            }),
            Damage::TornTail => {
                let length = fs::metadata(&journal).unwrap().len();
                assert!(length > 4096, "there is no record that could be torn");
                cut(length - 1);
            }
            Damage::TornHeader => cut(1000),
            Damage::Journal => fs::remove_file(&journal).unwrap(),
            Damage::All => fs::remove_dir_all(journal.parent().unwrap()).unwrap(),
            Damage::Clock => rewrite(&|header| {
                let served = header["served"].as_i64().unwrap();
                header["served"] = (served + 100_000).into();
            }),
        }
    }
}

fn journal(state: &Path) -> PathBuf {
    let found = fs::read_dir(state).unwrap().flatten();
    let mut journals = found.map(|entry| entry.path().join("journal.0"));
    journals.find(|path| path.is_file()).expect("no journal")
}

fn header(journal: &Path) -> serde_json::Value {
    let bytes = fs::read(journal).unwrap();
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap();
    serde_json::from_slice(line).unwrap()
}

/// Changes a block of a file where it lies on the disk, as a write in place that was not followed
/// by its inode: size and all times stay.
fn rewrite_on_disk(disk: &Disk, name: &str, content: &[u8; 4096]) {
    let times = |disk: &Disk| {
        let meta = fs::metadata(disk.join(name)).unwrap();
        (
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        )
    };
    let before = times(disk);
    until(LONG, "the source to be unmounted", || {
        rustix::mount::unmount(disk.path(), rustix::mount::UnmountFlags::empty()).ok()
    });
    let image = disk.image().to_string_lossy();
    let blocks = shell::run("debugfs", &["-R", &format!("blocks /{name}"), &*image]);
    let blocks = shell::text(&blocks);
    let block: u64 = blocks.split_whitespace().next().unwrap().parse().unwrap();
    let file = OpenOptions::new().write(true).open(disk.image()).unwrap();
    file.write_all_at(content, block * 4096).unwrap();
    file.sync_all().unwrap();
    disk.mount("");
    assert_eq!(times(disk), before);
    assert_eq!(fs::read(disk.join(name)).unwrap()[..4096], *content);
}

/// Waits until all is healed, and verified where that is needed.
fn wait_ready(migration: &Mounted<'_>) {
    until(LONG, "the pair to be ready", || {
        let status = migration.status();
        (status.is("ready") && status.number("pending") == 0).then_some(())
    });
}

/// A migration that holds nothing on the disks but by its daemon.
fn migration<'lab>(lab: &'lab Lab, old: &Disk, new: &Disk) -> Mounted<'lab> {
    let mut migration = Mounted::prepare(lab, "data");
    let paths = [old.path(), new.path(), migration.path()];
    let paths = paths.map(|path| path.as_os_str().to_owned());
    let words = [&["migrate".into()][..], &paths, &["--no-wait".into()]].concat();
    migration.use_arguments(words);
    migration
}

/// Killed and unmounted; then the source's content changes and no time tells of it. Whatever has
/// happened to the state, it is found, as all is compared by content.
#[test]
fn where_the_state_cannot_be_believed_all_is_compared_by_content() {
    let lab = Lab::new("doubt");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Btrfs, 256),
    );
    for n in 0..20 {
        fs::write(old.join(format!("file-{n}")), vec![n; 9000]).unwrap();
    }
    let made = fs::metadata(old.join("file-19")).unwrap().ctime();
    let mut migration = migration(&lab, &old, &new);
    let all = [
        Damage::None,
        Damage::AnotherBoot,
        Damage::TornTail,
        Damage::TornHeader,
        Damage::Journal,
        Damage::All,
        Damage::Clock,
    ];
    for (n, damage) in all.into_iter().enumerate() {
        let (name, content) = (format!("file-{n}"), [0xa0 + n as u8; 4096]);
        migration.start();
        wait_ready(&migration);
        // So that there are records.
        fs::write(migration.join("change"), format!("{n}")).unwrap();
        wait_ready(&migration);
        until(LONG, "a sign of life, later than all of the files", || {
            let served = header(&journal(migration.state_dir()))["served"].as_i64();
            (served.unwrap() > made + 3).then_some(())
        });
        migration.kill();
        shell::run("umount", &["-l", &*migration.path().to_string_lossy()]);
        rewrite_on_disk(&old, &name, &content);
        damage.happen(migration.state_dir());
        migration.start();
        wait_ready(&migration);
        let equal = fs::read(new.join(&name)).unwrap()[..4096] == content;
        // Names, sizes and times are believed where nothing speaks against it: that is why the
        // others have to be told from it.
        assert_eq!(equal, damage != Damage::None, "{damage:?}");
        migration.terminate();
    }
}

#[test]
fn when_all_is_calm_the_journal_says_so_until_the_next_change() {
    let lab = Lab::new("calm");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 64),
        lab.disk("new", Format::Ext4, 64),
    );
    fs::write(old.join("file"), "content").unwrap();
    let mut migration = migration(&lab, &old, &new);
    migration.start();
    let calm = || header(&journal(migration.state_dir()))["calm"] == true;
    assert!(!calm());
    until(LONG, "a calm", || calm().then_some(()));
    assert_eq!(fs::read(migration.join("file")).unwrap(), b"content");
    assert!(calm(), "reading changes nothing");
    fs::write(migration.join("file"), "changed").unwrap();
    assert!(!calm());
    migration.kill();
    assert!(!calm());
    migration.start();
    wait_ready(&migration);
    assert_eq!(fs::read(new.join("file")).unwrap(), b"changed");
    migration.terminate();
}
