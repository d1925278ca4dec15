//! `heal --full` tells what it found.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::{exit, logs};
use hermitfs_tests::lab::Lab;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn what_a_verification_finds_is_named_in_its_output_in_the_log_and_by_its_exit_code() {
    let lab = Lab::new("verify");
    let [old, new] = ["old", "new"].map(|name| lab.disk(name, Format::Ext4, 128));
    for dir in ["content", "mode", "missing", "extra", "nothing"] {
        fs::create_dir_all(old.join(format!("dir/{dir}"))).unwrap();
        fs::write(old.join(format!("dir/{dir}/file")), vec![b'x'; 300_000]).unwrap();
    }
    let mut migration = lab.migration(old.path(), new.path());
    migration.start();
    migration.wait_ready(LONG);
    let verify = |more: &[&str]| {
        let arguments = [&["--full", "--wait"], more].concat();
        migration.command("heal", &arguments)
    };
    let equal = verify(&[]).expect(exit::OK);
    assert!(equal.stdout.contains("all are equal"), "{}", equal.stdout);

    // Somebody was at the new brick, and it does not show by the time.
    let there = |name: &str| new.join(format!("dir/{name}/file"));
    let change = |name: &str| {
        let file = File::options().write(true).open(there(name)).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"y", 200_000).unwrap();
        file.set_modified(before).unwrap();
    };
    change("content");
    fs::set_permissions(there("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(there("missing")).unwrap();
    fs::write(new.join("dir/extra/other"), "").unwrap();
    // What users change is no news.
    fs::write(migration.join("dir/nothing/file"), "new").unwrap();
    fs::write(migration.join("dir/nothing/more"), "new").unwrap();
    let found = verify(&[]).expect(exit::DIFFERENCES);
    let log = logs(migration.state_dir());
    for words in [
        "/dir/content/file: content (from byte 200000 on)",
        "/dir/mode/file: mode",
        "/dir/missing/file: missing",
        "/dir/extra/other: on the new brick alone",
    ] {
        assert!(found.stdout.contains(words), "{words}: {}", found.stdout);
        let path = words.split(':').next().unwrap();
        assert!(log.contains(path), "{path}: {log}");
    }
    for quiet in ["nothing", "/dir/content:"] {
        assert!(!found.stdout.contains(quiet), "{quiet}: {}", found.stdout);
    }
    migration.assert_bricks_equal();
    verify(&[]).expect(exit::OK);

    change("content");
    let found = verify(&["/dir/content/file"]).expect(exit::DIFFERENCES);
    assert!(
        found.stdout.contains("from byte 200000"),
        "{}",
        found.stdout
    );
    verify(&["/dir/content/file"]).expect(exit::OK);
    migration.assert_bricks_equal();
}
