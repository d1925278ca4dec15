//! A process that serves bricks: started, killed, ended.

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::hermitfs::command;
use crate::lab::Lab;
use crate::wait::until;

/// The worked example: a pair and the server of its bricks in one process.
pub fn loopback() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../volfiles/migrate-loopback.vol")
}

/// The same by the server's socket, as if it was another process.
pub fn loopback_by_socket(lab: &Lab) -> PathBuf {
    let text = fs::read_to_string(loopback()).unwrap();
    let client = "type = \"protocol/client\"\n";
    let parts: Vec<&str> = text.split(client).collect();
    assert_eq!(parts.len(), 3, "a source and a sink");
    let far = parts.join(&format!("{client}in-process = false\n"));
    lab.file("loopback-by-socket.vol", &far)
}

/// Whether all threads of a process are stopped.
fn stands(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.flatten().all(|task| {
        fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| {
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T'))
        })
    })
}

/// `hermitfs serve --foreground`, with a state of its own.
pub struct Bricks {
    state: PathBuf,
    volfile: PathBuf,
    set: Vec<OsString>,
    address: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Bricks {
    /// Serves directories under their names at a Unix socket in the lab.
    pub fn serve(lab: &Lab, name: &str, bricks: &[(&str, &Path)]) -> Bricks {
        Bricks::serve_with(lab, name, bricks, 60)
    }

    /// The same, where a client is given up so many seconds after its last sign of life.
    pub fn serve_with(lab: &Lab, name: &str, bricks: &[(&str, &Path)], grace: u64) -> Bricks {
        let names: Vec<&str> = bricks.iter().map(|(brick, _)| *brick).collect();
        Bricks::of(lab, name, &posix(bricks), &names, grace)
    }

    /// A volfile for a pair of two bricks, each behind a server: one for both, or one each.
    pub fn pair(lab: &Lab, old: &Bricks, new: &Bricks) -> PathBuf {
        let pair =
            "[volume.pair]\ntype = \"cluster/replicate\"\nsource = \"old\"\nsinks = [\"new\"]\n";
        lab.file(
            "pair.vol",
            &(old.client("old", "") + &new.client("new", "") + pair),
        )
    }

    /// Serves one directory as `locked`, with `features/locks` above it. A client is given up so many
    /// seconds after its last sign of life.
    pub fn serve_locked(lab: &Lab, name: &str, directory: &Path, grace: u64) -> Bricks {
        let locks = "[volume.locked]\ntype = \"features/locks\"\nsubvolume = \"brick\"\n\n";
        let volumes = posix(&[("brick", directory)]) + locks;
        Bricks::of(lab, name, &volumes, &["locked"], grace)
    }

    /// A pair of two directories, with locks above, as `data`.
    pub fn serve_pair(lab: &Lab, name: &str, old: &Path, new: &Path) -> Bricks {
        let above = "[volume.pair]\ntype = \"cluster/replicate\"\nsource = \"old\"\nsinks = [\"new\"]\n\n\
                     [volume.data]\ntype = \"features/locks\"\nsubvolume = \"pair\"\n\n";
        let volumes = posix(&[("old", old), ("new", new)]) + above;
        Bricks::of(lab, name, &volumes, &["data"], 60)
    }

    fn of(lab: &Lab, name: &str, volumes: &str, exports: &[&str], grace: u64) -> Bricks {
        let socket = lab.path().join(format!("{name}.sock"));
        let text = format!(
            "{volumes}[volume.server]\ntype = \"protocol/server\"\nlisten = [\"unix:{}\"]\n\
             subvolumes = {exports:?}\ngrace = {grace}\n",
            socket.display(),
        );
        let volfile = lab.file(&format!("{name}.vol"), &text);
        let mut served = Bricks::prepare(lab, name, &volfile, &[]);
        served.address = format!("unix:{}", socket.display());
        served.start();
        served
    }

    /// The part of a volfile by which one of them is reached, under its name, with more options.
    pub fn client(&self, volume: &str, options: &str) -> String {
        format!(
            "[volume.{volume}]\ntype = \"protocol/client\"\naddress = \"{}\"\n\
             remote-subvolume = \"{volume}\"\n{options}\n\n",
            self.address()
        )
    }

    /// Which process serves them.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the bricks are served").id()
    }

    /// Sends it a signal; after SIGSTOP none of its threads works any more.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the bricks are served");
        kill_process(Pid::from_child(child), signal).unwrap();
        if signal == Signal::STOP {
            let at_most = Duration::from_secs(60);
            until(at_most, "all threads stand still", || {
                stands(self.pid()).then_some(())
            });
        }
    }

    /// Whether it has a file below this path open.
    pub fn has_open(&self, path: &Path) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        open.flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|file| file.starts_with(path))
    }

    /// Its volfile, by which commands find it.
    pub fn volfile(&self) -> &Path {
        &self.volfile
    }

    /// Its state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// What a volfile describes, which listens at the `address=` that is set for it. Not started yet.
    pub fn prepare(lab: &Lab, name: &str, volfile: &Path, set: &[&str]) -> Bricks {
        let address = set.iter().find_map(|set| set.strip_prefix("address="));
        Bricks {
            state: lab.dir(&format!("{name}-state")),
            volfile: volfile.to_owned(),
            address: address.unwrap_or_default().into(),
            set: set
                .iter()
                .flat_map(|set| ["--set".into(), set.into()])
                .collect(),
            log: lab.path().join(format!("{name}.log")),
            child: None,
        }
    }

    /// Where it listens, as a volfile says it.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    fn is_listening(&self) -> bool {
        if let Some(path) = self.address.strip_prefix("unix:") {
            return UnixStream::connect(path).is_ok();
        }
        let address: SocketAddr = self.address.parse().unwrap();
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    }

    /// Starts it, again after a kill; returns when somebody listens.
    #[track_caller]
    pub fn start(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let mut serve = command(&self.state);
        serve
            .args(["serve", "--foreground", "-f"])
            .arg(&self.volfile)
            .args(&self.set);
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(serve.spawn().unwrap());
        let began = Instant::now();
        while !self.is_listening() {
            let ended = self
                .child
                .as_mut()
                .is_none_or(|child| child.try_wait().unwrap().is_some());
            assert!(
                !ended && began.elapsed() < Duration::from_secs(60),
                "the bricks are not served:\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What its log says.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits for an end that a command has asked for.
    #[track_caller]
    pub fn wait_end(&mut self) {
        let mut child = self.child.take().expect("the bricks are served");
        let ended = until(
            Duration::from_secs(60),
            "the end of the bricks' daemon",
            || child.try_wait().unwrap(),
        );
        assert!(ended.success(), "{ended}\n{}", self.said());
    }

    /// SIGTERM; returns when the process is gone. Fails the test when it takes too long.
    #[track_caller]
    pub fn terminate(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = Pid::from_child(&child);
        let _ = kill_process(pid, Signal::TERM);
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > Duration::from_secs(30) {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the bricks' daemon did not end:\n{}", self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bricks {
    fn drop(&mut self) {
        self.kill();
    }
}

fn posix(bricks: &[(&str, &Path)]) -> String {
    let brick = |(name, directory): &(&str, &Path)| {
        let directory = directory.display();
        format!("[volume.{name}]\ntype = \"storage/posix\"\ndirectory = \"{directory}\"\n\n")
    };
    bricks.iter().map(brick).collect()
}
