//! Lines between hosts: cut for a moment, cut for longer, slow, and listened to.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::crew::{self, Crew};
use hermitfs_tests::disk::Format;
use hermitfs_tests::hermitfs::{exit, logs};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::locker::Locker;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::net::{Net, SERVER};
use hermitfs_tests::papers::Authority;
use hermitfs_tests::proxy::{Proxy, Quality, not_tls};
use hermitfs_tests::tree::Tree;
use hermitfs_tests::wait::until;

use crate::hosts::{Hosts, shipped};

/// How long anything may take that nobody is in the way of.
const SOON: Duration = Duration::from_secs(120);

/// How long lines are cut for, which is minutes with `HERMITFS_SOAK=1`.
struct Cuts {
    /// In seconds: nobody waits longer for a line.
    grace: u32,
    /// Shorter than that.
    short: Duration,
    /// From the end of the grace on.
    beyond: Duration,
}

impl Cuts {
    fn new() -> Cuts {
        match crew::soak() > 1 {
            true => Cuts {
                grace: 60,
                short: Duration::from_secs(45),
                beyond: Duration::from_secs(150),
            },
            false => Cuts {
                grace: 4,
                short: Duration::from_secs(1),
                beyond: Duration::ZERO,
            },
        }
    }
}

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap()
}

/// Works at a mount: what fails fails the test.
fn work_at(mount: &Path, round: u32) {
    let (file, other) = (mount.join("work"), mount.join("moved"));
    let text = format!("round {round}");
    fs::write(&file, &text).unwrap();
    fs::rename(&file, &other).unwrap();
    assert_eq!(fs::read_to_string(&other).unwrap(), text);
    fs::remove_file(&other).unwrap();
}

#[test]
fn a_line_that_is_cut_is_a_wait_and_after_the_grace_an_error_and_then_all_goes_on() {
    let lab = Lab::new("cut");
    let cuts = Cuts::new();
    let mut hosts = Hosts::serve(&lab, 2, cuts.grace, |_| {});
    let mut mounts = [hosts.mount(0), hosts.mount(1)];
    for (host, mount) in mounts.iter_mut().enumerate() {
        hosts.start(host, mount);
    }
    let [cut, whole] = &mounts;
    let kept = open(&cut.join("kept"));
    kept.write_all_at(b"before the cut, ", 0).unwrap();

    // For a moment.
    hosts.net.cut(0);
    let waiting = thread::spawn({
        let (kept, made) = (kept.try_clone().unwrap(), cut.join("made"));
        move || {
            kept.write_all_at(b"during the cut", 16)?;
            File::create_new(made)?.write_all(b"made")
        }
    });
    let began = Instant::now();
    let mut round = 0;
    while began.elapsed() < cuts.short {
        work_at(whole.path(), round);
        round += 1;
    }
    assert!(!waiting.is_finished(), "nobody can have answered it");
    hosts.net.mend(0);
    let waited = waiting.join().unwrap();
    waited.unwrap_or_else(|error| panic!("{error}\n{}", logs(cut.state_dir())));
    assert_eq!(fs::read(cut.join("made")).unwrap(), b"made");
    let there = fs::read(whole.join("kept")).unwrap();
    assert_eq!(there, b"before the cut, during the cut");

    // For longer than anybody waits. Who has a lock loses it, and is told.
    let mut locker = Locker::on(&cut.join("kept"));
    locker.done("lock f flock exclusive wait");
    let mut other = Locker::on(&whole.join("kept"));
    other.fails("lock f flock exclusive try", libc::EAGAIN);
    hosts.net.cut(0);
    other.begin("lock f flock exclusive wait");
    let error = until(SOON, "the end of the grace", || {
        kept.write_all_at(b"xx", 30).err()
    });
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    let beyond = Instant::now();
    while beyond.elapsed() < cuts.beyond {
        assert!(kept.write_all_at(b"xx", 30).is_err());
        work_at(whole.path(), round);
        thread::sleep(Duration::from_millis(100));
    }
    assert!(kept.write_all_at(b"xx", 30).is_err());
    work_at(whole.path(), round);
    assert_eq!(other.end(), "ok", "a dead client's lock ends");
    hosts.net.mend(0);
    until(SOON, "the line", || kept.write_all_at(b", after", 30).ok());
    let lost = locker.ask("lock f flock exclusive try");
    assert!(lost.starts_with("errno "), "{lost}");
    other.done("close f");
    let mut again = Locker::on(&cut.join("kept"));
    again.done("lock f flock exclusive wait");
    let there = fs::read(whole.join("kept")).unwrap();
    assert_eq!(there, b"before the cut, during the cut, after");
    drop((kept, locker, other, again));
    mounts.iter().for_each(Mounted::terminate);
    hosts.bricks_become_equal();
}

#[test]
fn nobody_notices_when_the_line_to_the_new_brick_is_cut() {
    let lab = Lab::new("far-sink");
    let (old, new) = (
        lab.disk("old", Format::Ext4, 512),
        lab.disk("new", Format::Ext4, 512),
    );
    let seeds = crew::seeds(2);
    crew::build(old.path(), &seeds);
    let (net, authority) = (Net::new(1), Authority::new());
    let tls =
        |name: &str, host: &str| format!("tls={}", authority.papers(&lab, name, host).display());
    let address = format!("address={SERVER}:24007");
    let brick = lab.file("brick.vol", &shipped("brick.vol"));
    let set = [
        &*format!("brick={}", new.path().display()),
        &address,
        &tls("tls-server", SERVER),
    ];
    let mut brick = Bricks::prepare(&lab, "brick", &brick, &set);
    net.server.inside(|| brick.start());
    let leaf = "type = \"protocol/client\"\n";
    let bounds = format!("{leaf}ping-timeout = 2\ngrace = 2\n");
    let text = shipped("migrate-remote.vol").replace(leaf, &bounds);
    let volfile = lab.file("migrate-remote.vol", &text);
    let mut mount = Mounted::prepare(&lab, "mnt");
    let set = [
        &*format!("old={}", old.path().display()),
        &address,
        &tls("tls-client", "client"),
    ];
    mount.use_volfile(&volfile, &set);
    net.clients[0].inside(|| mount.start());
    let mut crew = Crew::start(&lab, mount.path(), &seeds, false);
    crew.work_for(Duration::from_secs(1));
    for _ in 0..2 {
        net.cut(0);
        let health = |mount: &Mounted<'_>| {
            let status = mount.status();
            let health = &status.0["sinks"][0]["health"];
            health.as_str().unwrap_or_default().to_owned()
        };
        let told = until(SOON, "word of the cut", || {
            crew.work_for(Duration::from_millis(100));
            Some(health(&mount)).filter(|health| health != "healthy")
        });
        assert!(told.contains(SERVER), "{told}");
        crew.work_for(Duration::from_secs(1) + Cuts::new().beyond);
        net.mend(0);
        until(SOON, "the sink", || {
            crew.work_for(Duration::from_millis(100));
            Some(health(&mount)).filter(|health| health == "healthy")
        });
    }
    crew.stop();
    mount.command("heal", &["--wait"]).expect(exit::OK);
    let source = Tree::of(&lab.quiet_view(old.path()));
    source.assert_equal(&Tree::of_sink(new.path(), &source));
    mount.terminate();
}

#[test]
fn over_a_slow_line_everything_works_and_nothing_counts_as_cut() {
    let lab = Lab::new("slow");
    let hosts = Hosts::serve(&lab, 1, 20, |_| {});
    let slow = Quality {
        rate: Some(400_000),
        delay: Duration::from_millis(100),
        records: false,
    };
    let (there, here) = (format!("{SERVER}:24007"), format!("{SERVER}:24008"));
    let proxy = hosts
        .net
        .server
        .inside(|| Proxy::start(&here, &there, slow));
    let tls = hosts.authority.papers(&lab, "tls-slow", "client");
    let leaf = "type = \"protocol/client\"\n";
    let text = shipped("client.vol").replace(leaf, &format!("{leaf}ping-timeout = 3\n"));
    let volfile = lab.file("slow.vol", &text);
    let mut mount = Mounted::prepare(&lab, "mnt");
    let set = [
        &*format!("address={here}"),
        &*format!("tls={}", tls.display()),
    ];
    mount.use_volfile(&volfile, &set);
    hosts.net.clients[0].inside(|| mount.start());
    work_at(mount.path(), 0);
    // Much more is to be sent than goes over in the time after which a line counts as cut.
    let content = |which: u8| -> Vec<u8> {
        let bytes = (0..600_000_u32).map(|at| (at % 241) as u8 ^ which);
        bytes.collect()
    };
    let writers: Vec<_> = (0..6)
        .map(|which| {
            let path = mount.join(format!("big-{which}"));
            thread::spawn(move || fs::write(path, content(which)))
        })
        .collect();
    for writer in writers {
        writer.join().unwrap().unwrap();
    }
    for which in 0..6 {
        let name = format!("big-{which}");
        assert!(
            fs::read(hosts.old.join(&name)).unwrap() == content(which),
            "{name}"
        );
    }
    assert!(fs::read(mount.join("big-3")).unwrap() == content(3));
    let log = logs(mount.state_dir());
    assert!(log.contains("serving"), "{log}");
    assert!(!log.contains("a line is cut"), "{log}");
    assert_eq!(proxy.connections(), 1, "{log}");
    mount.terminate();
    drop(proxy);
}

fn holds(stream: &[u8], secret: &[u8]) -> bool {
    stream.windows(secret.len()).any(|bytes| bytes == secret)
}

#[test]
fn who_listens_on_the_line_sees_tls_only() {
    let lab = Lab::new("private");
    let hosts = Hosts::serve(&lab, 1, 20, |_| {});
    let (there, here) = (format!("{SERVER}:24007"), format!("{SERVER}:24008"));
    let records = Quality {
        records: true,
        ..Quality::default()
    };
    let proxy = hosts
        .net
        .server
        .inside(|| Proxy::start(&here, &there, records));
    let tls = hosts.authority.papers(&lab, "tls-private", "client");
    let volfile = lab.file("private.vol", &shipped("client.vol"));
    let mut mount = Mounted::prepare(&lab, "mnt");
    let set = [
        &*format!("address={here}"),
        &*format!("tls={}", tls.display()),
    ];
    mount.use_volfile(&volfile, &set);
    hosts.net.clients[0].inside(|| mount.start());
    let (name, secret) = (
        "a-name-that-nobody-guesses",
        "a secret that is written ".repeat(5000),
    );
    fs::write(mount.join(name), &secret).unwrap();
    xattr_is_set(&mount.join(name));
    assert_eq!(fs::read_to_string(mount.join(name)).unwrap(), secret);
    mount.terminate();
    let streams = proxy.streams();
    assert!(streams.len() >= 2, "both ways of a connection");
    let bytes: usize = streams.iter().map(Vec::len).sum();
    assert!(bytes > secret.len(), "what was written went over this line");
    for stream in &streams {
        assert_eq!(not_tls(stream), None);
        for plain in [
            name,
            &secret[..25],
            "user.known-to-us",
            "a-value-of-ours",
            "hermitfs",
        ] {
            assert!(!holds(stream, plain.as_bytes()), "{plain} in plain text");
        }
    }
}

fn xattr_is_set(path: &Path) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "user.known-to-us", b"a-value-of-ours", flags).unwrap();
}

#[test]
fn who_has_no_good_certificate_gets_nothing_but_a_sentence() {
    let lab = Lab::new("papers");
    let hosts = Hosts::serve(&lab, 1, 2, |old| fs::write(old.join("file"), "x").unwrap());
    let (ours, foreign) = (&hosts.authority, Authority::new());
    let address = format!("{SERVER}:24007");
    for (name, tls) in [
        (
            "foreign",
            foreign.for_one_who_believes(ours, &lab, "tls-foreign"),
        ),
        ("expired", ours.expired(&lab, "tls-expired", "client")),
        (
            "wary",
            ours.for_one_who_believes(&foreign, &lab, "tls-wary"),
        ),
    ] {
        let mut mount = hosts.mount_with(0, &tls);
        let outcome = hosts.try_start(0, &mut mount);
        println!("{name}: {}", outcome.stderr.trim_end());
        outcome.refused(exit::CONFIGURATION, &[&address, "certificate"]);
        assert!(!mount.join("file").exists());
    }
    // Without any, the client itself will not go there; and who tries all the same is not heard.
    let text = shipped("client.vol");
    let without: String = text
        .lines()
        .filter(|line| !line.contains("${tls}"))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut mount = Mounted::prepare(&lab, "mnt-none");
    let volfile = lab.file("none.vol", &without);
    mount.use_volfile(&volfile, &[&format!("address={address}")]);
    let outcome = hosts.try_start(0, &mut mount);
    println!("none: {}", outcome.stderr.trim_end());
    outcome.refused(exit::CONFIGURATION, &["without mutual TLS", "certificate"]);
    hosts.net.clients[0].inside(|| {
        let mut line = std::net::TcpStream::connect(&address).unwrap();
        line.set_read_timeout(Some(SOON)).unwrap();
        line.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut heard = Vec::new();
        match std::io::Read::read_to_end(&mut line, &mut heard) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        // A TLS alert at most.
        assert!(heard.len() <= 7, "{heard:?}");
    });
    let mut mount = hosts.mount(0);
    hosts.start(0, &mut mount);
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"x");
    mount.terminate();
}
