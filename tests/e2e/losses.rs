//! What one file system has and the other has not: carried, asked for, or told; and never content for attributes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::exit;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::migration::Migration;
use hermitfs_tests::wait::until;
use hermitfs_tests::{need, shell};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn chattr(flags: &[&str], path: &Path) {
    let path = text(path);
    shell::run("chattr", &[flags, &[path.as_str()]].concat());
}

/// The letters of lsattr(1), and the project.
fn lsattr(path: &Path) -> (String, String) {
    let said = shell::text(&shell::run("lsattr", &["-dp", &text(path)]));
    let mut words = said.split_whitespace();
    let project = words.next().unwrap().to_owned();
    let letters = words.next().unwrap().replace('-', "");
    (letters, project)
}

/// What xfs_io(8) says to some commands about a path.
fn xfs_io(commands: &[&str], path: &Path) -> String {
    let mut words = vec!["-r".to_owned()];
    for command in commands {
        words.extend(["-c".to_owned(), (*command).to_owned()]);
    }
    words.push(text(path));
    shell::text(&shell::run("xfs_io", &words)).replace(&text(path), "")
}

/// What `errors` lists: class, path, whether it stops a cut-over, whether it was waived.
fn listed(migration: &Migration<'_>) -> Vec<(String, String, bool, bool)> {
    let said = migration.command("errors", &["--json"]).stdout;
    let listed: Value = serde_json::from_str(&said).unwrap();
    let word = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let entries = listed.as_array().unwrap().iter();
    let entries = entries.map(|entry| {
        let flag = |key: &str| entry[key].as_bool().unwrap();
        (
            word(entry, "class"),
            word(entry, "escaped"),
            flag("stops"),
            flag("waived"),
        )
    });
    entries.collect()
}

fn is_listed(migration: &Migration<'_>, class: &str, path: &str, stops: bool) -> bool {
    let listed = listed(migration);
    listed
        .iter()
        .any(|entry| (entry.0.as_str(), entry.1.as_str(), entry.2) == (class, path, stops))
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let file = fs::OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
}

#[test]
fn projects_hints_and_flags_arrive_and_are_set_through_the_mount_as_natively() {
    let lab = Lab::new("projects");
    let (old, new) = (
        lab.disk("old", Format::Xfs, 320),
        lab.disk("new", Format::Xfs, 320),
    );
    fs::create_dir(old.join("tenant")).unwrap();
    fs::write(old.join("tenant/before"), "x").unwrap();
    xfs_io(&["chproj 4242", "chattr +P"], &old.join("tenant"));
    fs::write(old.join("tenant/in"), "x").unwrap();
    fs::create_dir(old.join("database")).unwrap();
    xfs_io(&["extsize 1m"], &old.join("database"));
    fs::write(old.join("database/table"), vec![1; 300_000]).unwrap();
    fs::write(old.join("direct"), "x").unwrap();
    chattr(&["+x"], &old.join("direct"));
    fs::write(old.join("log"), "one\n").unwrap();
    chattr(&["+a"], &old.join("log"));
    fs::write(old.join("plain"), "x").unwrap();
    // More names than Linux lists: its content arrives all the same.
    let wide = old.join("precious\nname");
    fs::write(&wide, "precious content").unwrap();
    for index in 0..400 {
        let name = format!("user.{index:0240}");
        rustix::fs::setxattr(&wide, name, b"v", rustix::fs::XattrFlags::empty()).unwrap();
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    until(LONG, "the attributes that cannot be listed", || {
        is_listed(&migration, "xattr", "/precious\\nname", true).then_some(())
    });
    until(LONG, "all else", || {
        (migration.status().number("pending") == 1).then_some(())
    });
    let mount = migration.mount().to_owned();
    for name in [
        "tenant",
        "tenant/before",
        "tenant/in",
        "database",
        "database/table",
        "direct",
        "log",
    ] {
        let [old, mount, new] = [old.path(), &mount, new.path()].map(|root| root.join(name));
        assert_eq!(lsattr(&mount), lsattr(&old), "{name} through the mount");
        assert_eq!(lsattr(&new), lsattr(&old), "{name}");
        assert_eq!(
            xfs_io(&["extsize"], &new),
            xfs_io(&["extsize"], &old),
            "{name}"
        );
    }
    assert_eq!(lsattr(&new.join("tenant/in")).1, "4242");
    assert_eq!(lsattr(&new.join("tenant/before")).1, "0");

    // Through the mount, with the kernel told of the new change time.
    let plain = mount.join("plain");
    for flags in [&["+A"][..], &["-p", "77"], &["-A"]] {
        let before = fs::metadata(&plain)
            .map(|meta| (meta.ctime(), meta.ctime_nsec()))
            .unwrap();
        std::thread::sleep(Duration::from_millis(20));
        chattr(flags, &plain);
        let after = fs::metadata(&plain)
            .map(|meta| (meta.ctime(), meta.ctime_nsec()))
            .unwrap();
        assert!(
            after > before,
            "chattr {flags:?} has not moved the change time"
        );
        let own = fs::metadata(old.join("plain")).unwrap();
        assert_eq!(after, (own.ctime(), own.ctime_nsec()), "chattr {flags:?}");
    }
    fs::write(mount.join("tenant/later"), "x").unwrap();
    until(LONG, "what was set through the mount", || {
        let later = new.join("tenant/later");
        let there = later.exists() && lsattr(&later).1 == "4242";
        (there && lsattr(&new.join("plain")).1 == "77").then_some(())
    });

    // Append-only: as natively, before the cut-over and after it.
    let log = mount.join("log");
    append(&log, "two\n").unwrap();
    let held = fs::OpenOptions::new()
        .read(true)
        .append(true)
        .open(&log)
        .unwrap();
    (&held).write_all(b"three\n").unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\nthree\n");
    let denied = |done: std::io::Result<()>| {
        assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::EPERM));
    };
    denied(fs::OpenOptions::new().write(true).open(&log).map(drop));
    denied(
        fs::OpenOptions::new()
            .append(true)
            .open(&log)
            .unwrap()
            .set_len(0),
    );
    denied(fs::File::create(&log).map(drop));
    denied(fs::remove_file(&log));
    // By its name as it is listed, with a newline in it.
    let told = migration.command("errors", &[]);
    assert_eq!(told.code, exit::DIFFERENCES, "{}", told.stderr);
    for words in ["/precious\\nname", "64 KiB", "E2BIG"] {
        assert!(told.stdout.contains(words), "{words}: {}", told.stdout);
    }
    migration
        .command("errors", &["--waive", "/precious\\nname"])
        .expect(exit::OK);
    assert_eq!(
        fs::read(new.join("precious\nname")).unwrap(),
        b"precious content"
    );
    let mode = |root: &Path| fs::metadata(root.join("precious\nname")).unwrap().mode();
    assert_eq!(mode(new.path()), mode(old.path()));
    migration.command("errors", &[]).expect(exit::OK);
    // Who goes on writing need not ask again.
    append(&mount.join("precious\nname"), ", and more").unwrap();
    until(LONG, "more of the content", || {
        (fs::read(new.join("precious\nname")).unwrap() == b"precious content, and more")
            .then_some(())
    });
    let done = until(LONG, "the cut-over", || {
        let done = migration.command("cutover", &["--timeout", "20s"]);
        (done.code == exit::OK).then_some(done)
    });
    assert!(
        done.stderr.contains("/precious\\nname: xattr"),
        "{}",
        done.stderr
    );
    (&held).write_all(b"four\n").unwrap();
    append(&log, "five\n").unwrap();
    assert_eq!(
        fs::read_to_string(new.join("log")).unwrap(),
        "one\ntwo\nthree\nfour\nfive\n"
    );
    drop(held);
    for path in [old.join("log"), new.join("log")] {
        chattr(&["-a"], &path);
    }
}

/// Gives a file system a key to encrypt with; its name.
fn add_key(disk: &Path) -> String {
    let mut words = Command::new(need::program_at("xfs_io"));
    words.args(["-r", "-c", "add_enckey"]).arg(disk);
    let mut child = words
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&[b'k'; 64]).unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    said.split_whitespace()
        .find(|word| word.len() == 32)
        .unwrap()
        .to_owned()
}

#[test]
fn what_is_encrypted_is_asked_for_before_any_of_it_is_copied_and_all_that_is_lost_is_told() {
    let lab = Lab::new("encrypted");
    let old = lab.disk_with("old", Format::Ext4, 256, &["-O", "encrypt"], "");
    let new = lab.disk("new", Format::Xfs, 320);
    let key = add_key(old.path());
    fs::create_dir(old.join("home")).unwrap();
    xfs_io(&[&format!("set_encpolicy -v 2 {key}")], &old.join("home"));
    fs::create_dir(old.join("home/inner")).unwrap();
    fs::write(old.join("home/inner/letter"), "secret").unwrap();
    fs::create_dir(old.join("top")).unwrap();
    chattr(&["+T", "+D"], &old.join("top"));
    fs::write(old.join("shredded"), "x").unwrap();
    chattr(&["+s"], &old.join("shredded"));
    fs::write(old.join("plain"), "x").unwrap();

    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    let asked = [("durability", "/top"), ("encryption", "/home")];
    until(LONG, "what is asked for", || {
        let mut listed = listed(&migration);
        listed.retain(|entry| entry.2);
        listed.sort();
        let listed: Vec<_> = listed
            .iter()
            .map(|entry| (entry.0.as_str(), entry.1.as_str()))
            .collect();
        (listed == asked).then_some(())
    });
    assert!(!new.join("home").exists(), "before anybody has agreed");
    assert_eq!(fs::read(new.join("plain")).unwrap(), b"x");
    assert_eq!(fs::read(new.join("shredded")).unwrap(), b"x");
    for path in ["/top", "/shredded"] {
        assert!(is_listed(&migration, "other-flags", path, false), "{path}");
    }
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::DIFFERENCES, &["/home", "encryption"]);
    // What is made in it meanwhile waits as well.
    fs::write(migration.mount().join("home/inner/later"), "secret, too").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!new.join("home").exists());
    migration
        .command("errors", &["--waive", "/home", "--class", "xattr"])
        .refused(exit::DIFFERENCES, &["encryption"]);
    migration
        .command("errors", &["--waive-all", "compression"])
        .refused(exit::USAGE, &["stops nothing"]);
    migration
        .command("errors", &["--waive", "/home"])
        .expect(exit::OK);
    migration
        .command("errors", &["--waive-all", "durability"])
        .expect(exit::OK);
    migration.wait_ready(LONG);
    assert_eq!(fs::read(new.join("home/inner/letter")).unwrap(), b"secret");
    assert_eq!(
        fs::read(new.join("home/inner/later")).unwrap(),
        b"secret, too"
    );
    // A new daemon has not forgotten what was agreed to.
    migration.kill();
    migration.start();
    migration.wait_ready(LONG);
    let losses = listed(&migration);
    for (class, path) in asked {
        let lost = |entry: &&(String, String, bool, bool)| {
            (entry.0.as_str(), entry.1.as_str(), entry.2, entry.3) == (class, path, false, true)
        };
        assert_eq!(
            losses.iter().filter(lost).count(),
            1,
            "{class} {path}: {losses:?}"
        );
    }
    let done = migration
        .command("cutover", &["--timeout", "20s"])
        .expect(exit::OK);
    for words in ["/home: encryption", "other-flags of 2 objects"] {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
}

#[test]
fn from_btrfs_to_btrfs_goes_what_has_to_be_set_before_there_is_content() {
    let lab = Lab::new("no-cow");
    let (old, new) = (
        lab.disk("old", Format::Btrfs, 320),
        lab.disk("new", Format::Btrfs, 320),
    );
    for dir in ["database", "media"] {
        fs::create_dir(old.join(dir)).unwrap();
    }
    chattr(&["+C"], &old.join("database"));
    chattr(&["+m"], &old.join("media"));
    fs::write(old.join("database/table"), vec![7; 2 << 20]).unwrap();
    fs::write(old.join("database/small"), "x").unwrap();
    fs::write(old.join("log"), vec![b'x'; 1 << 20]).unwrap();
    shell::run(
        "btrfs",
        &[
            "property",
            "set",
            &text(&old.join("log")),
            "compression",
            "zstd",
        ],
    );
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    fs::write(migration.mount().join("database/later"), vec![8; 1 << 20]).unwrap();
    migration.wait_ready(LONG);
    for name in [
        "database",
        "database/table",
        "database/small",
        "database/later",
        "media",
        "log",
    ] {
        assert_eq!(lsattr(&new.join(name)), lsattr(&old.join(name)), "{name}");
        let compression = |root: &Path| {
            let path = text(&root.join(name));
            shell::text(&shell::run(
                "btrfs",
                &["property", "get", &path, "compression"],
            ))
        };
        assert_eq!(compression(new.path()), compression(old.path()), "{name}");
    }
    let stated = listed(&migration);
    let lost = |class: &str| stated.iter().filter(|entry| entry.0 == class).count();
    assert_eq!((lost("nocow"), lost("compression")), (0, 0), "{stated:?}");
    migration.cut_over();
}

#[test]
fn what_goes_into_a_directory_that_is_encrypted_is_asked_for_as_what_gets_another_key() {
    let lab = Lab::new("encrypted-both");
    let [old, new] = ["old", "new"].map(|name| {
        let disk = lab.disk_with(name, Format::Ext4, 128, &["-O", "encrypt"], "");
        fs::create_dir(disk.join("brick")).unwrap();
        let key = add_key(disk.path());
        (disk, key)
    });
    let [from, to] = [&old, &new].map(|(disk, _)| disk.join("brick"));
    xfs_io(&[&format!("set_encpolicy -v 2 {}", new.1)], &to);
    fs::create_dir(from.join("home")).unwrap();
    xfs_io(
        &[&format!("set_encpolicy -v 2 {}", old.1)],
        &from.join("home"),
    );
    fs::write(from.join("home/letter"), "secret").unwrap();
    let mut migration = lab.migration(&from, &to);
    migration.start();
    until(LONG, "what is asked for", || {
        is_listed(&migration, "encryption", "/home", true).then_some(())
    });
    let words = ["/home", "encryption", "under that of the new brick"];
    migration
        .command("cutover", &["--timeout", "1s"])
        .refused(exit::DIFFERENCES, &words);
    assert!(!to.join("home").exists());
    migration
        .command("errors", &["--waive", "/home"])
        .expect(exit::OK);
    migration.wait_ready(LONG);
    migration.cut_over();
    assert_eq!(fs::read(to.join("home/letter")).unwrap(), b"secret");
}
