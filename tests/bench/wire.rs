//! What the wire costs by itself: one operation, and a MiB, through `protocol/client` and
//! `protocol/server`, beside tonic's own answer to the same amount of bytes; mutual TLS beside none.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hermitfs_api::{Context, File, Inode, Name, OpenFlags, Origin, SetAttr, Translator, block_on};
use hermitfs_client::{Client, Options as ClientOptions};
use hermitfs_posix::{Options as PosixOptions, Posix};
use hermitfs_server::{Options as ServerOptions, Server};
use hermitfs_tests::disk::Format;
use hermitfs_tests::lab::Lab;
use hermitfs_tests::papers::write_secret;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::echo::Echo;
use crate::table::{headline, median, median_of, rounds, row};

const CX: Context = Context::internal(Origin::User);
const MIB: usize = 1 << 20;
/// Operations of one round.
const CALLS: usize = 5_000;
/// Transfers of one round, of a file that the page cache holds.
const TRANSFERS: usize = 256;

/// Memory and copies as the program's daemon has them (`keep_freed` in its `sys.rs`, `daemon/copying.rs`).
const LIKE_A_DAEMON: &str = "glibc.malloc.trim_threshold=8388608:\
    glibc.malloc.mmap_threshold=4194304:glibc.cpu.x86_rep_movsb_threshold=1000000000";

/// In a process of its own, as these are heard only when a program starts.
pub(crate) fn run() {
    const VARIABLE: &str = "GLIBC_TUNABLES";
    if std::env::var(VARIABLE).is_ok_and(|set| set == LIKE_A_DAEMON) {
        return measure();
    }
    let program = std::env::current_exe().unwrap();
    let mut daemon = Command::new(program);
    let ended = daemon.arg("wire").env(VARIABLE, LIKE_A_DAEMON).status();
    assert!(ended.unwrap().success(), "the wire was not measured");
}

fn measure() {
    let lab = Lab::new("bench-wire");
    let disk = lab.disk("brick", Format::Ext4, 1024);
    fs::write(disk.join("file"), vec![7; TRANSFERS * MIB]).unwrap();
    fs::write(disk.join("small"), b"small").unwrap();
    let unix = Served::at_socket(&lab, disk.path());
    let plain = Served::at_port(&lab, disk.path(), "plain", false);
    let sealed = Served::at_port(&lab, disk.path(), "tls", true);
    let alone = Echo::new(&lab.path().join("alone.sock"), true);
    let echo = Echo::new(&lab.path().join("echo.sock"), false);
    calls(&unix, &alone, &echo);
    transfers(&unix, &echo, &plain, &sealed);
}

/// One operation after the other, each waited for.
fn calls(unix: &Served, alone: &Echo, echo: &Echo) {
    headline(
        &format!("one call after the other at a Unix socket, {CALLS} calls, microseconds"),
        "",
        &["median", "p99", "above the echo"],
    );
    type Act<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let acts: [Act<'_>; 5] = [
        ("tonic, one thread", Box::new(|| alone.call(200))),
        ("tonic, two threads", Box::new(|| echo.call(200))),
        ("getattr", Box::new(|| unix.getattr())),
        ("lookup", Box::new(|| unix.lookup())),
        ("setattr (mode)", Box::new(|| unix.chmod())),
    ];
    let mut all: [(Vec<f64>, Vec<f64>); 5] = Default::default();
    for _ in 0..rounds() {
        for ((_, act), (medians, late)) in acts.iter().zip(&mut all) {
            (0..500).for_each(|_| act());
            let mut times: Vec<f64> = (0..CALLS).map(|_| micros(timed(act))).collect();
            times.sort_by(f64::total_cmp);
            medians.push(times[CALLS / 2]);
            late.push(times[CALLS * 99 / 100]);
        }
    }
    let middle = all.map(|(medians, late)| (median(medians), median(late)));
    for ((name, _), (mid, late)) in acts.iter().zip(middle) {
        let above = format!("{:+.1}", mid - middle[1].0);
        row(name, &[format!("{mid:.1}"), format!("{late:.1}"), above]);
    }
}

/// One MiB after the other, each waited for.
fn transfers(unix: &Served, echo: &Echo, plain: &Served, sealed: &Served) {
    let mut figures: Vec<[f64; 2]> = Vec::new();
    let mut times: Vec<[Vec<Duration>; 2]> = (0..4).map(|_| Default::default()).collect();
    for _ in 0..rounds() {
        let read = |served: &Served| timed(|| (0..TRANSFERS).for_each(|at| served.read(at)));
        let write = |served: &Served| timed(|| (0..TRANSFERS).for_each(|at| served.write(at)));
        times[0][0].push(timed(|| (0..TRANSFERS).for_each(|_| echo.read())));
        times[0][1].push(timed(|| (0..TRANSFERS).for_each(|_| echo.write())));
        for (served, times) in [unix, plain, sealed].iter().zip(&mut times[1..]) {
            times[0].push(read(served));
            times[1].push(write(served));
        }
    }
    for both in times {
        figures.push(both.map(|times| TRANSFERS as f64 / median_of(times)));
    }
    headline(
        "one MiB after the other, MiB/s (and its part of the peer's)",
        "",
        &["reads", "writes", "peer"],
    );
    let names = [
        ("tonic, Unix socket", None, ""),
        ("Unix socket", Some(0), "tonic"),
        ("TCP, plain", None, ""),
        ("TCP, mutual TLS", Some(2), "TCP, plain"),
    ];
    for ((name, peer, called), ours) in names.iter().zip(&figures) {
        let with = |at: usize| match peer {
            Some(peer) => format!("{:.0} ({:.2}x)", ours[at], ours[at] / figures[*peer][at]),
            None => format!("{:.0}", ours[at]),
        };
        row(name, &[with(0), with(1), (*called).to_owned()]);
    }
}

fn timed(act: impl Fn()) -> Duration {
    let began = Instant::now();
    act();
    began.elapsed()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A brick behind a server, and its client, in this process.
struct Served {
    client: Client,
    root: Arc<Inode>,
    small: Arc<Inode>,
    file: Arc<File>,
    payload: Vec<u8>,
    buffer: RefCell<Vec<u8>>,
    _server: Server,
}

impl Served {
    fn at_socket(lab: &Lab, brick: &Path) -> Served {
        let socket = format!("unix:{}", lab.path().join("brick.sock").display());
        Served::new(
            ServerOptions::new(socket.parse().unwrap()),
            brick,
            &lab.dir("unix"),
            |_| {},
        )
    }

    fn at_port(lab: &Lab, brick: &Path, name: &str, tls: bool) -> Served {
        let place = lab.dir(name);
        let mut options = ServerOptions::new("127.0.0.1:0".parse().unwrap());
        if !tls {
            return Served::new(options, brick, &place, |_| {});
        }
        let [certificate, key, authority] = papers(&place).map(Some);
        (options.certificate, options.key) = (certificate.clone(), key.clone());
        options.authority.clone_from(&authority);
        Served::new(options, brick, &place, |options| {
            (options.certificate, options.key) = (certificate, key);
            options.authority = authority;
        })
    }

    fn new(
        options: ServerOptions,
        brick: &Path,
        state: &Path,
        adapt: impl FnOnce(&mut ClientOptions),
    ) -> Served {
        let posix = Posix::open(&PosixOptions::new(brick)).unwrap();
        let volumes = vec![("brick".to_owned(), Arc::new(posix) as Arc<dyn Translator>)];
        let server = Server::open(&options, volumes, &state.join("state")).unwrap();
        let address = server.addresses()[0].to_string().parse().unwrap();
        let mut options = ClientOptions::new(address, "brick");
        adapt(&mut options);
        let client = Client::open(&options).unwrap();
        let (root, small, file) = block_on(async {
            let root = client.root(&CX).await.unwrap().inode;
            let name = |name: &'static [u8]| Name::new(name).unwrap();
            let small = client.lookup(&CX, &root, name(b"small")).await.unwrap();
            let big = client.lookup(&CX, &root, name(b"file")).await.unwrap();
            let flags = OpenFlags::READ_WRITE;
            let file = client.open(&CX, &big.inode, flags).await.unwrap();
            (root, small.inode, file)
        });
        Served {
            client,
            root,
            small,
            file,
            payload: vec![9; MIB],
            buffer: RefCell::new(vec![0; MIB]),
            _server: server,
        }
    }

    fn getattr(&self) {
        block_on(self.client.getattr(&CX, &self.small, None)).unwrap();
    }

    fn lookup(&self) {
        let name = Name::new(b"small").unwrap();
        block_on(self.client.lookup(&CX, &self.root, name)).unwrap();
    }

    fn chmod(&self) {
        let change = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        block_on(self.client.setattr(&CX, &self.small, None, &change)).unwrap();
    }

    fn read(&self, at: usize) {
        let at = (at * MIB) as u64;
        let mut buffer = self.buffer.borrow_mut();
        let read = block_on(self.client.read(&CX, &self.file, at, &mut buffer)).unwrap();
        assert_eq!(read, MIB);
    }

    fn write(&self, at: usize) {
        let at = (at * MIB) as u64;
        let written = block_on(self.client.write(&CX, &self.file, at, &self.payload)).unwrap();
        assert_eq!(written, MIB);
    }
}

/// Files of both ends: certificate, key, and the authority that signed it.
fn papers(place: &Path) -> [std::path::PathBuf; 3] {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    let texts = [certificate, key.serialize_pem(), authority];
    let names = ["this.pem", "this.key", "authority.pem"].map(|name| place.join(name));
    for (path, text) in names.iter().zip(texts) {
        write_secret(path, &text);
    }
    names
}
