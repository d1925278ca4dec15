use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hermitfs_api::{Context, Errno, Origin, Translator, block_on, try_threads};
use hermitfs_proto::brick::v1::brick_server::BrickServer;
use hermitfs_proto::brick::{MAX_DATA, MAX_MESSAGE, Pem, widen};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status, transport};

use crate::buffers::Buffers;
use crate::change::Changes;
use crate::claims::Claims;
use crate::door::Door;
use crate::export::Export;
use crate::given::{Connection, Given};
use crate::laden::Answering;
use crate::listen::Address;
use crate::near::Near;
use crate::options::{OpenError, Options};
use crate::roles::Roles;
use crate::sessions::Sessions;
use crate::state;
use crate::work::{THREADS, Work};

/// After this time a connection is dead when nothing that was sent to the client is acknowledged, and when
/// it says nothing although it acknowledges. Its session lives on for the grace.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
const SILENT: Duration = Duration::from_secs(60);

/// Bricks that can be reached over the wire, as long as this is held.
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<Address>,
    runtime: Option<Runtime>,
}

/// What all calls share.
pub(crate) struct Shared {
    pub(crate) exports: BTreeMap<String, Arc<Export>>,
    pub(crate) sessions: Sessions,
    pub(crate) changes: Changes,
    pub(crate) claims: Claims,
    pub(crate) roles: Roles,
    pub(crate) work: Work,
    pub(crate) buffers: Buffers,
    /// Of this process.
    pub(crate) incarnation: [u8; 16],
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Shared {
    /// All but the ways in.
    pub(crate) fn open(
        options: &Options,
        volumes: Vec<(String, Arc<dyn Translator>)>,
        state: &Path,
    ) -> Result<Arc<Shared>, OpenError> {
        let key = state::key(state).map_err(|source| OpenError::State {
            path: state.to_owned(),
            source,
        })?;
        let mut exports = BTreeMap::new();
        for (name, volume) in volumes {
            can_be_served(&name, &*volume)?;
            let export = Export::new(name.clone(), volume, &key);
            exports.insert(name, Arc::new(export));
        }
        let boot = state::boot_id();
        let changes =
            block_on(Changes::open(state, &boot, &exports)).map_err(|source| OpenError::State {
                path: state.to_owned(),
                source,
            })?;
        let claims = Claims::open(state, &boot).map_err(|source| OpenError::State {
            path: state.to_owned(),
            source,
        })?;
        let roles = Roles::open(state, &boot, options.grace(), exports.keys());
        let roles = roles.map_err(|source| OpenError::State {
            path: state.to_owned(),
            source,
        })?;
        Ok(Arc::new(Shared {
            changes,
            claims,
            roles,
            exports,
            sessions: Sessions::new(options.grace()),
            work: Work::default(),
            buffers: Buffers::default(),
            incarnation: rand::random(),
        }))
    }
}

impl Server {
    /// Serves volumes, each under its name, with what has to outlive the process in a directory of its
    /// own. When this returns clients can come.
    pub fn open(
        options: &Options,
        volumes: Vec<(String, Arc<dyn Translator>)>,
        state: &Path,
    ) -> Result<Server, OpenError> {
        if options.listen.is_empty() {
            return Err(OpenError::Nowhere);
        }
        let plain = options.listen.iter().find(|address| !address.is_local());
        if let Some(address) = plain.filter(|_| !options.has_tls()) {
            return Err(OpenError::Plain(address.clone()));
        }
        let pem = options.tls().map_err(OpenError::Tls)?;
        let tls = pem.as_ref().map(server_tls).transpose()?;
        let shared = Shared::open(options, volumes, state)?;
        let mut listeners = Vec::new();
        for address in &options.listen {
            let bound = bind(address).map_err(|source| OpenError::Listen {
                address: address.clone(),
                source,
            })?;
            listeners.push(bound);
        }
        let build = || {
            Builder::new_multi_thread()
                .worker_threads(THREADS)
                .thread_name("brick-server")
                .enable_all()
                .build()
        };
        // Tried first: where one of them is not to be had, building it never comes to an end.
        let runtime = try_threads(THREADS)
            .and_then(|()| build())
            .map_err(OpenError::Threads)?;
        let mut addresses = Vec::new();
        for (listener, asked) in listeners.into_iter().zip(&options.listen) {
            let _inside = runtime.enter();
            let address = serve(&runtime, listener, asked, &shared, tls.as_ref());
            addresses.push(address?);
        }
        let _inside = runtime.enter();
        look_after(&shared, options.grace());
        drop(_inside);
        Ok(Server {
            shared,
            addresses,
            runtime: Some(runtime),
        })
    }

    /// Serves by connections of another kind than the kernel's, as long as there are any to come, all of
    /// it on the runtime in which this is called, and by its clock. Dropped, it ends as if it was
    /// killed: nobody's files are closed.
    pub async fn over<C: Connection>(
        options: &Options,
        volumes: Vec<(String, Arc<dyn Translator>)>,
        state: &Path,
        connections: impl Stream<Item = io::Result<C>> + Send + 'static,
    ) -> Result<(), OpenError> {
        let shared = Shared::open(options, volumes, state)?;
        let router = router(&shared, None)?;
        look_after(&shared, options.grace());
        let connections = connections.map(|connection| connection.map(Given));
        let served = router.serve_with_incoming(connections).await;
        served.map_err(|error| OpenError::Threads(io::Error::other(error)))
    }

    /// Where it can be reached; a port that was 0 is the one that the kernel chose.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The way in for clients of this very process: without a connection, and without the switches between
    /// threads that a connection costs.
    pub fn near(&self) -> Option<Near> {
        let runtime = self.runtime.as_ref()?;
        Some(Near::new(&self.shared, runtime.handle().clone()))
    }

    /// Who is there: the client's own words, and the volume.
    pub fn clients(&self) -> Vec<(String, String)> {
        let sessions = self.shared.sessions.all();
        let told = |session: &Arc<crate::sessions::Session>| {
            (session.who.clone(), session.export.name.clone())
        };
        sessions.iter().map(told).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // What is under way gets a moment; who waits for an answer longer asks the next server.
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
        let cx = Context::internal(Origin::Admin);
        for session in self.shared.sessions.all() {
            for kept in session.leave_behind() {
                drop(block_on(session.export.let_go(&cx, kept)));
            }
        }
        for address in &self.addresses {
            if let Address::Unix(path) = address {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// What clients hold has to be found again after a restart.
fn can_be_served(name: &str, volume: &dyn Translator) -> Result<(), OpenError> {
    let cx = Context::internal(Origin::Admin);
    let handle = block_on(async {
        let root = volume.root(&cx).await?;
        volume.handle(&cx, &root.inode).await
    });
    let reason = match handle {
        Ok(_) => return Ok(()),
        Err(error) if error.errno() == Errno::EOPNOTSUPP => {
            "its file system has no file handles, by which clients would find their files again \
             after a restart; put the brick on a file system that has them (ext4, xfs, btrfs)"
                .to_owned()
        }
        Err(error) => format!("its root cannot be read: {error}"),
    };
    Err(OpenError::Volume {
        volume: name.into(),
        reason,
    })
}

fn bind(address: &Address) -> io::Result<Listener> {
    Ok(match address {
        Address::Unix(path) => Listener::Unix(bind_unix(path)?),
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Listener::Tcp(listener)
        }
    })
}

/// A socket that a dead server left is taken away; a living one's is not.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)?
            }
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What answers over a connection.
fn service(shared: &Arc<Shared>) -> Answering {
    let door = Door {
        shared: shared.clone(),
        near: false,
    };
    let calls = BrickServer::new(door.clone())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    Answering::new(door, calls)
}

/// Shows a certificate, and lets nobody in whose own the authority has not signed.
fn server_tls(pem: &Pem) -> Result<transport::ServerTlsConfig, OpenError> {
    let tls = transport::ServerTlsConfig::new()
        .identity(transport::Identity::from_pem(&pem.certificate, &pem.key))
        .client_ca_root(transport::Certificate::from_pem(&pem.authority));
    // Looked at before anybody can come.
    let usable = transport::Server::builder().tls_config(tls.clone());
    match usable {
        Ok(_) => Ok(tls),
        Err(error) => Err(OpenError::Tls(pem.unusable(root_cause(&error)))),
    }
}

/// What answers at every address.
fn router(
    shared: &Arc<Shared>,
    tls: Option<&transport::ServerTlsConfig>,
) -> Result<transport::server::Router, OpenError> {
    let service = InterceptedService::new(service(shared), only_our_own);
    let mut builder = transport::Server::builder();
    if let Some(tls) = tls {
        builder = builder
            .tls_config(tls.clone())
            .map_err(|error| OpenError::Tls(root_cause(&error)))?;
    }
    Ok(builder
        .max_frame_size(MAX_DATA as u32)
        .initial_stream_window_size(2 * MAX_DATA as u32)
        .initial_connection_window_size(2 * MAX_DATA as u32)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(SILENT))
        .add_service(service))
}

fn serve(
    runtime: &Runtime,
    listener: Listener,
    asked: &Address,
    shared: &Arc<Shared>,
    tls: Option<&transport::ServerTlsConfig>,
) -> Result<Address, OpenError> {
    let failed = |source| OpenError::Listen {
        address: asked.clone(),
        source,
    };
    // A Unix socket leads to nobody else.
    let tls = tls.filter(|_| matches!(listener, Listener::Tcp(_)));
    let router = router(shared, tls)?;
    let (address, serving) = match listener {
        Listener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
            let incoming = UnixListenerStream::new(listener)
                .map(|accepted| accepted.inspect(|socket| widen(socket)));
            let serving = tokio::spawn(router.serve_with_incoming(incoming));
            (asked.clone(), serving)
        }
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
            let address = Address::Tcp(listener.local_addr().map_err(failed)?);
            let incoming = TcpListenerStream::new(listener).map(prepared);
            (address, tokio::spawn(router.serve_with_incoming(incoming)))
        }
    };
    let told = address.clone();
    runtime.spawn(async move {
        if let Ok(Err(error)) = serving.await {
            tracing::error!("nobody is heard at {told} any more: {error}");
        }
    });
    Ok(address)
}

/// A client's connection ends when it acknowledges nothing for a while. How slow it is does not matter: see
/// the client's `dial.rs`.
fn prepared(accepted: io::Result<TcpStream>) -> io::Result<TcpStream> {
    let stream = accepted?;
    stream.set_nodelay(true)?;
    let millis = UNACKNOWLEDGED.as_millis() as u32;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, millis)?;
    Ok(stream)
}

/// What is done by and by.
fn look_after(shared: &Arc<Shared>, grace: Duration) {
    tokio::spawn(sweep(Arc::downgrade(shared)));
    let claimed = shared.clone();
    tokio::spawn(async move { claimed.claims.end_after(grace).await });
}

/// Over a Unix socket comes root, or who the server is. Its mode says the same; this says it of
/// those who got the socket by another way.
fn only_our_own(request: Request<()>) -> Result<Request<()>, Status> {
    let extensions = request.extensions();
    let Some(peer) = extensions.get::<transport::server::UdsConnectInfo>() else {
        return Ok(request);
    };
    let own = rustix::process::geteuid().as_raw();
    match peer.peer_cred {
        Some(who) if who.uid() == 0 || who.uid() == own => Ok(request),
        _ => Err(Status::permission_denied("the bricks are for root alone")),
    }
}

/// What lies beneath `transport error`.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

/// Lets go of clients that are gone.
async fn sweep(shared: std::sync::Weak<Shared>) {
    let mut turns = tokio::time::interval(Duration::from_millis(500));
    loop {
        turns.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.changes.sweep();
        for session in shared.sessions.sweep() {
            shared.changes.left(session.client, false);
            let kept = session.leave_behind();
            tracing::info!(
                client = session.who,
                volume = session.export.name,
                kept = kept.len(),
                "gone"
            );
            shared.let_go_all(&session.export, kept).await;
            shared.claims.gone(session.client);
            let name = &session.export.name;
            shared.roles.gone(name, session.client, false);
        }
    }
}
