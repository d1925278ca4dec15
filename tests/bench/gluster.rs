//! GlusterFS' pair, in the one configuration in which it heals everything: two bricks behind a server,
//! reads from the old one, every self-heal on; `ls -alR` through a mount with ACLs heals it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hermitfs_tests::lab::Lab;
use hermitfs_tests::need;
use hermitfs_tests::shell::run_command;
use hermitfs_tests::wait::until;

use crate::peers::PeerMount;

/// Whether it is installed; the error says why not.
pub(crate) fn available() -> Result<(), String> {
    match need::find("glusterfsd").and(need::find("glusterfs")) {
        Some(_) => Ok(()),
        None => Err("apt-get install glusterfs-server brings it".to_owned()),
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn volume(name: &str, kind: &str, rest: &str) -> String {
    format!("volume {name}\n  type {kind}\n{rest}end-volume\n")
}

/// Heals by a walk. The old brick is a copy: GlusterFS leaves attributes on whatever it serves.
pub(crate) fn heal(lab: &Lab, old: &Path, new: &Path) -> Duration {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let source = lab.disk(
        &format!("gluster-{run}"),
        hermitfs_tests::disk::Format::Ext3,
        2048,
    );
    run_command(
        Command::new(need::program_at("rsync"))
            .args(["-aHAXS", "--exclude=/lost+found"])
            .arg(format!("{}/", old.display()))
            .arg(source.path()),
    );
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let mut server = String::new();
    for (name, directory) in [("old", source.path()), ("new", new)] {
        server += &volume(
            &format!("{name}-posix"),
            "storage/posix",
            &format!("  option directory {}\n", directory.display()),
        );
        server += &volume(
            &format!("{name}-locks"),
            "features/locks",
            &format!("  subvolumes {name}-posix\n"),
        );
    }
    server += &volume(
        "server",
        "protocol/server",
        &format!(
            "  option transport-type tcp\n  option transport.socket.bind-address 127.0.0.1\n  \
             option transport.socket.listen-port {port}\n  option auth.addr.old-locks.allow *\n  \
             option auth.addr.new-locks.allow *\n  subvolumes old-locks new-locks\n"
        ),
    );
    let mut client = String::new();
    for name in ["old", "new"] {
        client += &volume(
            name,
            "protocol/client",
            &format!(
                "  option transport-type tcp\n  option remote-host 127.0.0.1\n  \
                 option remote-port {port}\n  option remote-subvolume {name}-locks\n"
            ),
        );
    }
    client += &volume(
        "migrate",
        "cluster/replicate",
        "  option choose-local off\n  option read-subvolume old\n  option data-self-heal on\n  \
         option metadata-self-heal on\n  option entry-self-heal on\n  \
         option data-self-heal-algorithm full\n  option background-self-heal-count 16\n  \
         option heal-wait-queue-length 100000\n  subvolumes old new\n",
    );
    let file = |name: &str, text: &str| lab.file(&format!("{name}-{run}.vol"), text);
    let (server, client) = (file("server", &server), file("client", &client));
    let log = lab.path().join("gluster.log");
    let served = Command::new(need::program_at("glusterfsd"))
        .arg("-N")
        .arg("-f")
        .arg(server)
        .arg("-l")
        .arg(&log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let _server = Server(served);
    until(Duration::from_secs(30), "GlusterFS' server", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let started = Instant::now();
    let name = format!("gluster-mount-{run}");
    let mut mount = Command::new(need::program_at("glusterfs"));
    mount
        .args(["-N", "--acl", "--use-readdirp=no", "-f"])
        .arg(client)
        .arg("-l")
        .arg(&log)
        .arg(lab.dir(&name));
    let mount = PeerMount::start(lab, &name, &mut mount);
    run_command(
        Command::new("sh")
            .args(["-c", "ls -alR . > /dev/null"])
            .current_dir(mount.path()),
    );
    run_command(Command::new("sync").arg("-f").arg(new));
    let took = started.elapsed();
    drop(mount);
    let names = |place: &Path| fs::read_dir(place).unwrap().count();
    assert!(
        names(new) + 2 >= names(old),
        "GlusterFS healed {} names of {}",
        names(new),
        names(old)
    );
    took
}
