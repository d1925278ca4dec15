//! As a service that is up at boot: what it tells the service manager, and the unit itself.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::{self, exit, hermitfs};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::need::program_at;
use hermitfs_tests::wait::until;

const LONG: Duration = Duration::from_secs(60);

/// What a service manager has of a service: its process, and a socket on which it is told things.
struct Service {
    process: Child,
    socket: UnixDatagram,
    log: PathBuf,
}

impl Service {
    fn start(lab: &Lab, arguments: &[&str]) -> Service {
        Service::of(lab, "mount", arguments, &[])
    }

    /// With what an EnvironmentFile= has for the volfile.
    fn of(lab: &Lab, command: &str, arguments: &[&str], values: &[(&str, &Path)]) -> Service {
        let address = lab.path().join("notify");
        let _ = fs::remove_file(&address);
        let socket = UnixDatagram::bind(&address).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let log = lab.path().join("log");
        let process = hermitfs::command(&lab.dir("state"))
            .args([command, "--foreground"])
            .args(arguments)
            .envs(values.iter().copied())
            .env("NOTIFY_SOCKET", &address)
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Service {
            process,
            socket,
            log,
        }
    }

    /// The next message.
    #[track_caller]
    fn told(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).unwrap_or_else(|error| {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            panic!("no message of the service ({error}): {log}")
        });
        String::from_utf8_lossy(&message[..length])
            .trim_end()
            .to_owned()
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    #[track_caller]
    fn wait_end(&mut self) {
        let status = until(LONG, "the end of the service", || {
            self.process.try_wait().unwrap()
        });
        assert!(status.success(), "{status}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn it_is_ready_when_its_mount_answers_and_says_when_it_ends() {
    let lab = Lab::new("service");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 128),
        lab.disk("new", Format::Ext4, 128),
    );
    fs::write(old.join("file"), "content").unwrap();
    let raw = fs::metadata(old.path()).unwrap().dev();
    let seen = || fs::metadata(old.path()).unwrap().dev();
    let volfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../volfiles/migrate.vol");
    let ended = lab.path().join("old.ended");
    let arguments = [
        "--ended".to_owned(),
        text(&ended),
        "-f".to_owned(),
        text(&volfile),
        "--set".to_owned(),
        format!("old={}", old.path().display()),
        "--set".to_owned(),
        format!("new={}", new.path().display()),
        text(old.path()),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();

    let mut service = Service::start(&lab, &arguments);
    assert_eq!(service.told(), "READY=1");
    assert_ne!(seen(), raw, "it was ready before its mount was there");
    assert_eq!(fs::read(old.join("file")).unwrap(), b"content");
    service.terminate();
    assert_eq!(service.told(), "STOPPING=1");
    service.wait_end();
    assert_eq!(seen(), raw);
    assert!(!ended.exists(), "it can be started again");

    // It died: the next one goes on in the dead mount's place.
    let mut service = Service::start(&lab, &arguments);
    assert_eq!(service.told(), "READY=1");
    service.process.kill().unwrap();
    service.process.wait().unwrap();
    let mut service = Service::start(&lab, &arguments);
    assert_eq!(service.told(), "READY=1");
    assert_ne!(seen(), raw);

    let state = lab.dir("state");
    let ask = |name: &str, more: &[&str]| {
        let mut words = vec![name, "placeholder"];
        let mountpoint = text(old.path());
        words[1] = &mountpoint;
        words.extend(more);
        hermitfs(&state, &words)
    };
    ask("heal", &["--wait"]).expect(exit::OK);
    until(LONG, "a cut-over", || {
        (ask("cutover", &[]).code == exit::OK).then_some(())
    });
    assert_eq!(service.told(), "STOPPING=1");
    service.wait_end();
    let said = fs::read_to_string(&ended).unwrap();
    assert!(said.contains("cut over"), "{said}");
}

#[test]
fn bricks_are_a_service_that_is_ready_when_they_are_served() {
    let lab = Lab::new("service-bricks");
    let volfile = lab.file(
        "bricks.vol",
        "[volume.brick]\ntype = \"storage/posix\"\ndirectory = \"${brick}\"\n\n\
         [volume.server]\ntype = \"protocol/server\"\nlisten = [\"unix:${socket}\"]\n\
         subvolumes = [\"brick\"]\n",
    );
    let socket = lab.path().join("bricks.sock");
    let values = [("brick", &*lab.dir("brick")), ("socket", &*socket)];
    // It died: the next one serves at the same place.
    for dies in [true, false] {
        let mut service = Service::of(&lab, "serve", &["-f", &text(&volfile)], &values);
        assert_eq!(service.told(), "READY=1");
        UnixStream::connect(&socket).unwrap();
        if dies {
            service.process.kill().unwrap();
            service.process.wait().unwrap();
            continue;
        }
        service.terminate();
        assert_eq!(service.told(), "STOPPING=1");
        service.wait_end();
        assert!(!socket.exists());
    }
}

/// A unit as it is shipped, with the program where it is here.
fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let unit = fs::read_to_string(path.join(name)).unwrap();
    unit.replace(
        "/usr/local/sbin/hermitfs ",
        &format!("{} ", text(&hermitfs::binary())),
    )
}

/// The unit for one mount point.
fn unit(lab: &Lab, name: &str, change: impl Fn(String) -> String) -> PathBuf {
    let unit = shipped("hermitfs@.service");
    // OLD's own mount, as fstab makes it.
    let mount = "[Unit]\nBefore=local-fs.target\n[Mount]\nWhat=/dev/null\nWhere=/srv/old\n";
    let units = [
        ("srv-old.mount", mount.to_owned()),
        ("hermitfs@srv-old.service", change(unit)),
    ];
    let paths = units.map(|(file, text)| {
        let path = lab.dir(name).join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    });
    let [_, unit] = paths;
    unit
}

fn verify(unit: &Path) -> String {
    let output = Command::new(program_at("systemd-analyze"))
        .args(["verify", "--man=no"])
        .arg(unit)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_unit_is_right_and_comes_before_those_who_use_local_file_systems() {
    let lab = Lab::new("unit");
    let said = verify(&unit(&lab, "good", |unit| unit));
    assert_eq!(said, "");
    // This would be seen: as an ordinary service it waits for those who wait for it.
    let said = verify(&unit(&lab, "cycle", |unit| {
        unit.replace("DefaultDependencies=no", "DefaultDependencies=yes")
    }));
    assert!(said.contains("cycle"), "{said}");
    let said = verify(&unit(&lab, "unknown", |unit| {
        unit.replace("Restart=", "Restarts=")
    }));
    assert!(said.contains("Restarts"), "{said}");
    let bricks = lab.file(
        "hermitfs-bricks@new.service",
        &shipped("hermitfs-bricks@.service"),
    );
    fs::set_permissions(&bricks, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(verify(&bricks), "");
}
