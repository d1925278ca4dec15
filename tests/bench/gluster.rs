//! GlusterFS' pair, in the one configuration in which it heals everything: two bricks behind a server,
//! reads from the old one, every self-heal on; `ls -alR` through a mount with ACLs heals it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hermitfs_tests::disk::Format;
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

/// A pair of bricks behind a server.
struct Served {
    _server: Server,
    client: PathBuf,
    log: PathBuf,
    run: u32,
}

/// A pair, mounted.
pub(crate) struct Pair {
    mount: PeerMount,
    _served: Served,
}

impl Pair {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.mount.path()
    }
}

/// Serves two bricks and mounts them as a pair. GlusterFS leaves attributes on whatever it serves.
pub(crate) fn pair(lab: &Lab, old: &Path, new: &Path) -> Pair {
    let served = serve(lab, old, new);
    served.mount(lab)
}

/// Heals by a walk. The old brick is a copy: see [`pair`].
pub(crate) fn heal(lab: &Lab, old: &Path, new: &Path) -> Duration {
    static DISKS: AtomicU32 = AtomicU32::new(0);
    let disk = format!("gluster-{}", DISKS.fetch_add(1, Ordering::Relaxed));
    let source = lab.disk(&disk, Format::Ext3, 2048);
    run_command(
        Command::new(need::program_at("rsync"))
            .args(["-aHAXS", "--exclude=/lost+found"])
            .arg(format!("{}/", old.display()))
            .arg(source.path()),
    );
    let served = serve(lab, source.path(), new);
    let started = Instant::now();
    let pair = served.mount(lab);
    run_command(
        Command::new("sh")
            .args(["-c", "ls -alR . > /dev/null"])
            .current_dir(pair.path()),
    );
    run_command(Command::new("sync").arg("-f").arg(new));
    let took = started.elapsed();
    drop(pair);
    let names = |place: &Path| fs::read_dir(place).unwrap().count();
    assert!(
        names(new) + 2 >= names(old),
        "GlusterFS healed {} names of {}",
        names(new),
        names(old)
    );
    took
}

fn serve(lab: &Lab, old: &Path, new: &Path) -> Served {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let mut server = String::new();
    for (name, directory) in [("old", old), ("new", new)] {
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
    let server = Server(served);
    until(Duration::from_secs(30), "GlusterFS' server", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    Served {
        _server: server,
        client,
        log,
        run,
    }
}

impl Served {
    fn mount(self, lab: &Lab) -> Pair {
        let name = format!("gluster-mount-{}", self.run);
        let mut mount = Command::new(need::program_at("glusterfs"));
        mount
            .args(["-N", "--acl", "--use-readdirp=no", "-f"])
            .arg(&self.client)
            .arg("-l")
            .arg(&self.log)
            .arg(lab.dir(&name));
        Pair {
            mount: PeerMount::start(lab, &name, &mut mount),
            _served: self,
        }
    }
}
