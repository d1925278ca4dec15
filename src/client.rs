//! A command's side of the daemon's door.

use std::ffi::OsStr;
use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::admin_client::AdminClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::cli::{self, Global};
use crate::exit::{Code, Failure, Result};
use crate::mounts::{Mount, Mounts};
use crate::past::End;
use crate::paths;
use crate::run::Slot;
use crate::shell;
use crate::whereabouts::{self, Found, Relation, find};

/// What commands ask.
pub(crate) type Admin = AdminClient<Channel>;

/// How long a daemon that does not answer is thought to be on its way out (or in).
const DYING: Duration = Duration::from_secs(10);

/// A mount point, and where its daemon would be.
pub(crate) struct Target {
    pub(crate) mountpoint: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) slot: Slot,
    /// What was given, where that is a path in the mount.
    pub(crate) part: Option<PathBuf>,
}

impl Target {
    /// Finds the mount point without asking the mount.
    pub(crate) fn new(global: &Global, given: &Path) -> Result<Target> {
        let mounts = Mounts::read().map_err(|error| {
            Failure::other(format!("/proc/self/mountinfo cannot be read: {error}"))
        })?;
        let mountpoint = paths::mount_point(given, &mounts)?;
        let state_dir = paths::future(&global.state_dir)?;
        let slot = Slot::new(&state_dir, &mountpoint);
        Ok(Target {
            mountpoint,
            state_dir,
            slot,
            part: None,
        })
    }

    /// The daemon that is meant, also by a path in its mount. Of other paths it is said whose they are.
    pub(crate) fn of(global: &Global, given: &Path) -> Result<Target> {
        Target::meant(global, given, true)
    }

    /// The same for what cannot be taken back: the mount point itself has to be given.
    pub(crate) fn exactly(global: &Global, given: &Path) -> Result<Target> {
        Target::meant(global, given, false)
    }

    fn meant(global: &Global, given: &Path, inside: bool) -> Result<Target> {
        let target = Target::new(global, given)?;
        crate::daemon::leave_directory();
        let is_root = rustix::process::geteuid().is_root();
        if target.slot.record().is_some() || target.slot.is_taken() || !is_root {
            return Ok(target);
        }
        let mounts = Mounts::read().unwrap_or_default();
        let known = whereabouts::known(&target.state_dir);
        let (known, relation) = match find(&target.mountpoint, &mounts, &known) {
            Found::Daemon(known, relation) => (known, relation),
            Found::Stranger(point) => return Ok(target.at(point)),
            Found::Nothing => return Ok(target),
        };
        let point = &known.record.mountpoint;
        let elsewhere = (known.state_dir != target.state_dir).then_some(&*known.state_dir);
        if inside && relation == Relation::Inside && elsewhere.is_none() {
            let part = target.mountpoint.clone();
            return Ok(Target {
                part: Some(part),
                ..target.at(point)
            });
        }
        let words = std::env::args_os().skip(1);
        let instead = whereabouts::instead(words, given.as_os_str(), point, elsewhere);
        let sentence = whereabouts::sentence(&target.mountpoint, known, relation, &instead);
        Err(Failure::new(Code::NoDaemon, sentence))
    }

    fn at(self, point: &Path) -> Target {
        Target {
            mountpoint: point.to_owned(),
            slot: Slot::new(&self.state_dir, point),
            ..self
        }
    }

    /// Talks to the daemon; without one it is exit code 69.
    pub(crate) fn talk<T, F: Future<Output = Result<T>>>(
        &self,
        talk: impl FnOnce(Admin) -> F,
    ) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::other(format!("no runtime: {error}")))?;
        runtime.block_on(async { talk(self.connect().await?).await })
    }

    /// Waits until a daemon that said that it ends is gone, and has let go of every brick; a few seconds at most.
    pub(crate) async fn wait_end(&self, pid: Option<u32>) {
        let process = pid.map(|pid| PathBuf::from(format!("/proc/{pid}")));
        for _ in 0..250 {
            if !self.slot.is_taken() && !process.as_ref().is_some_and(|process| process.exists()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether a daemon serves here. One that was killed a moment ago is waited for: until it is
    /// gone it still has the place, and the mount seems to live.
    pub(crate) fn is_served(&self) -> bool {
        let until = Instant::now() + DYING;
        while self.slot.is_taken() {
            if self.answers() || Instant::now() > until {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // Its record stays where a daemon was killed; its mount dies a moment after its lock.
        let until = Instant::now() + Duration::from_secs(1);
        while self.slot.record().is_some() && self.seems_alive() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn answers(&self) -> bool {
        let asked = self.talk(|mut admin| async move {
            let status = async {
                let request = proto::StatusRequest { follow: false };
                let mut stream = admin.status(request).await.map_err(refused)?.into_inner();
                stream.message().await.map_err(refused)
            };
            tokio::time::timeout(Duration::from_secs(1), status)
                .await
                .map_err(|_| Failure::silent(Code::NoDaemon))?
        });
        asked.is_ok_and(|status| status.is_some())
    }

    /// Whether the mount point has a mount of ours on which somebody answers.
    fn seems_alive(&self) -> bool {
        Mounts::read().is_ok_and(|mounts| {
            mounts
                .at(&self.mountpoint)
                .is_some_and(|mount| mount.is_ours())
                && !hermitfs_fuse::is_dead(&self.mountpoint)
        })
    }

    async fn connect(&self) -> Result<Admin> {
        let stream = match self.slot.socket() {
            // The descriptor in the path has to live until the connection stands.
            Ok((path, _dir)) => UnixStream::connect(&path).await,
            Err(error) => Err(error),
        };
        let mut stream = Some(stream.map_err(|error| self.nobody(&error))?);
        // The address is of no use: the connection is there already.
        let endpoint = Endpoint::from_static("http://hermitfs");
        let connector = tower::service_fn(move |_| {
            let stream = stream.take().map(TokioIo::new);
            async move { stream.ok_or_else(|| std::io::Error::from(ErrorKind::NotConnected)) }
        });
        let channel = endpoint.connect_with_connector(connector).await;
        channel.map(AdminClient::new).map_err(|error| {
            Failure::new(
                Code::NoDaemon,
                format!("the daemon does not answer: {error}"),
            )
        })
    }

    /// A command on this mount, to be copied.
    fn command(&self, name: &str) -> String {
        let mut words: Vec<&dyn AsRef<OsStr>> = vec![&name, &self.mountpoint];
        let state_dir = cli::unusual(&self.state_dir);
        if let Some(dir) = &state_dir {
            words.extend([&"--state-dir" as &dyn AsRef<OsStr>, dir]);
        }
        shell::hermitfs(&words)
    }

    fn nobody(&self, error: &std::io::Error) -> Failure {
        let point = self.mountpoint.display();
        if error.kind() == ErrorKind::PermissionDenied {
            return Failure::new(
                Code::Permission,
                "this needs root: the daemon talks to root alone",
            );
        }
        let mounted = Mounts::read()
            .is_ok_and(|mounts| mounts.at(&self.mountpoint).is_some_and(Mount::is_ours));
        let dead = mounted && hermitfs_fuse::is_dead(&self.mountpoint);
        let record = self.slot.record();
        let goes_on = record.map(|record| match record.command.as_str() {
            "" => "the command that started it goes on where it was".to_owned(),
            command => format!(
                "the command that goes on is `{command}`, and `{}` gives it up",
                self.command("abort")
            ),
        });
        let sentence = if dead {
            let goes_on = goes_on.unwrap_or_else(|| {
                let dir = self.state_dir.display();
                format!("start it again, or say where its state is, of which nothing is in {dir}, with --state-dir")
            });
            format!("the daemon that served {point} has died: {goes_on}")
        } else if let Some(goes_on) = goes_on {
            format!("no hermitfs serves {point} now, and its migration is not over: {goes_on}")
        } else if mounted {
            format!(
                "a hermitfs is mounted at {point}, and in {} nothing is known of it: say where its state is, with \
                 --state-dir; where that was removed, `umount {}` ends it",
                self.state_dir.display(),
                shell::word(&self.mountpoint)
            )
        } else if let Some(end) = End::last(&self.state_dir, &self.mountpoint) {
            format!("no hermitfs serves {point}: {end}")
        } else if matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused
        ) {
            format!(
                "no hermitfs serves {point} (with its state in {})",
                self.state_dir.display()
            )
        } else {
            format!("no hermitfs answers for {point}: {error}")
        };
        Failure::new(Code::NoDaemon, sentence)
    }
}

/// What the daemon said instead of an answer.
pub(crate) fn refused(status: tonic::Status) -> Failure {
    let code = match status.code() {
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => {
            return Failure::new(Code::NoDaemon, "the daemon has ended meanwhile");
        }
        tonic::Code::PermissionDenied => Code::Permission,
        tonic::Code::FailedPrecondition => Code::Configuration,
        tonic::Code::InvalidArgument => Code::Usage,
        _ => Code::Other,
    };
    Failure::new(code, status.message())
}
