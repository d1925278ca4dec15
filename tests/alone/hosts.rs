//! Several hosts that work in one pair: a server, and two that mount what it serves, each in a
//! network of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hermitfs_tests::bricks::Bricks;
use hermitfs_tests::crew::soak;
use hermitfs_tests::disk::{Disk, Format};
use hermitfs_tests::hermitfs::{Outcome, exit, hermitfs};
use hermitfs_tests::lab::Lab;
use hermitfs_tests::mounted::Mounted;
use hermitfs_tests::net::{Net, SERVER};
use hermitfs_tests::odd::Odd;
use hermitfs_tests::papers::Authority;
use hermitfs_tests::together::{Found, Team, judge};
use hermitfs_tests::tree::Tree;

/// How a volfile that comes with the project reads.
pub(crate) fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../volfiles");
    fs::read_to_string(path.join(name)).unwrap()
}

/// A pair that one host serves, and what others need to mount it.
pub(crate) struct Hosts<'lab> {
    lab: &'lab Lab,
    pub(crate) net: Net,
    pub(crate) old: Disk,
    new: Disk,
    pub(crate) pair: Bricks,
    pub(crate) authority: Authority,
    client: PathBuf,
}

impl<'lab> Hosts<'lab> {
    /// Serves, after `build` has filled the old brick; `grace` and `ping` are seconds, in which a
    /// test sees what users have to wait a minute for.
    pub(crate) fn serve(
        lab: &'lab Lab,
        clients: usize,
        grace: u32,
        build: impl FnOnce(&Path),
    ) -> Hosts<'lab> {
        let (old, new) = (
            lab.disk("old", Format::Ext4, 512),
            lab.disk("new", Format::Btrfs, 512),
        );
        build(old.path());
        let authority = Authority::new();
        let tls = authority.papers(lab, "tls-server", SERVER);
        let door = "type = \"protocol/server\"\n";
        let text = shipped("serve-pair.vol").replace(door, &format!("{door}grace = {grace}\n"));
        let volfile = lab.file("serve-pair.vol", &text);
        let leaf = "type = \"protocol/client\"\n";
        let bounds = format!("{leaf}ping-timeout = 2\ngrace = {grace}\n");
        let client = lab.file("client.vol", &shipped("client.vol").replace(leaf, &bounds));
        let set = [
            format!("old={}", old.path().display()),
            format!("new={}", new.path().display()),
            format!("address={SERVER}:24007"),
            format!("tls={}", tls.display()),
        ];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let net = Net::new(clients);
        let mut pair = Bricks::prepare(lab, "pair", &volfile, &set);
        net.server.inside(|| pair.start());
        Hosts {
            lab,
            net,
            old,
            new,
            pair,
            authority,
            client,
        }
    }

    pub(crate) fn start_server(&mut self) {
        self.net.server.inside(|| self.pair.start());
    }

    /// A mount at one of the hosts, with papers of our authority. Not started yet.
    pub(crate) fn mount(&self, host: usize) -> Mounted<'lab> {
        let tls = self
            .authority
            .papers(self.lab, &format!("tls-{host}"), "client");
        self.mount_with(host, &tls)
    }

    pub(crate) fn mount_with(&self, host: usize, tls: &Path) -> Mounted<'lab> {
        let mut mount = Mounted::prepare(self.lab, &format!("mnt-{host}"));
        let address = format!("address={SERVER}:24007");
        let tls = format!("tls={}", tls.display());
        mount.use_volfile(&self.client, &[&address, &tls]);
        mount
    }

    /// Mounts at a host, or goes on there after a kill.
    pub(crate) fn try_start(&self, host: usize, mount: &mut Mounted<'lab>) -> Outcome {
        self.net.clients[host].inside(|| mount.try_start(&[]))
    }

    #[track_caller]
    pub(crate) fn start(&self, host: usize, mount: &mut Mounted<'lab>) {
        let outcome = self.try_start(host, mount);
        assert_eq!(
            outcome.code,
            exit::OK,
            "{outcome:?}\nthe server: {}",
            self.pair.said()
        );
    }

    /// Waits until all is healed, ends the server, and compares the bricks.
    #[track_caller]
    pub(crate) fn bricks_become_equal(&mut self) {
        let volfile = self.pair.volfile().as_os_str();
        let heal = ["heal".as_ref(), volfile, "--wait".as_ref()];
        hermitfs(self.pair.state_dir(), &heal).expect(exit::OK);
        self.pair.terminate();
        let source = Tree::of(&self.lab.quiet_view(self.old.path()));
        source.assert_equal(&Tree::of_sink(self.new.path(), &source));
    }
}

/// Who is killed, and starts again.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Mount(usize),
    Server,
    /// The server, and a mount while it is away.
    Both(usize),
}

#[test]
fn two_hosts_work_in_one_tree_while_it_is_healed_and_any_of_them_is_killed() {
    let lab = Lab::new("hosts");
    let mut hosts = Hosts::serve(&lab, 2, 4, |old| {
        fs::create_dir(old.join("odd")).unwrap();
        Odd::small().build(&old.join("odd"), 63);
        Team::build(old);
    });
    let mut mounts = [hosts.mount(0), hosts.mount(1)];
    for (host, mount) in mounts.iter_mut().enumerate() {
        hosts.start(host, mount);
    }
    let [one, other] = [0, 1].map(|at: usize| mounts[at].path().to_owned());
    let hands = [("a", &*one), ("b", &*one), ("x", &*other), ("y", &*other)];
    let mut team = Team::start(&lab, &hands);
    team.work_for(Duration::from_secs(3));
    let kills = [
        Victim::Mount(0),
        Victim::Server,
        Victim::Mount(1),
        Victim::Both(0),
    ];
    for victim in kills.iter().cycle().take(4 * soak() as usize) {
        match *victim {
            Victim::Mount(host) => {
                mounts[host].kill();
                hosts.start(host, &mut mounts[host]);
            }
            Victim::Server => {
                hosts.pair.kill();
                hosts.start_server();
            }
            Victim::Both(host) => {
                hosts.pair.kill();
                mounts[host].kill();
                hosts.start_server();
                hosts.start(host, &mut mounts[host]);
            }
        }
        println!("{victim:?} was killed");
        team.work_on();
        team.work_for(Duration::from_secs(2));
    }
    let report = team.stop();
    for mount in &mounts {
        let wrong = judge(&report, &Found::read(mount.path()).unwrap());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        mount.terminate();
    }
    hosts.bricks_become_equal();
    let wrong = judge(&report, &Found::read(hosts.old.path()).unwrap());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
