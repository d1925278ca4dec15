//! A connection, and when it counts as dead.
//!
//! By TCP a line is dead when what was sent is not acknowledged for half of the ping timeout; something
//! is sent at least as often. However slow a line is, that is not its fault: an answer to HTTP's own ping
//! may stand behind megabytes. A server whose machine acknowledges, and that says nothing all the
//! same, counts as gone after a longer time.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hermitfs_proto::brick::{Pem, widen};
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, InvalidMessage, RootCertStore};
use tower::Service;

use crate::address::Address;
use crate::brick::{Brick, Far, Near};
use crate::options::Options;
use crate::wire::{Pulse, Wire};

/// So many ping timeouts pass before a server is gone that says nothing over TCP. Two MiB that stand
/// before its answer come through in this time where a line has a megabit a second or more.
const SILENT: u32 = 3;

/// Both directions of a connection.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// Makes connections by another way than the kernel's: for a network inside of the process.
pub type Dialer =
    Arc<dyn Fn() -> BoxFuture<'static, io::Result<Box<dyn Connection>>> + Send + Sync>;

/// The way to the server.
pub(crate) enum Way {
    Plain,
    Tls(TlsConnector, ServerName<'static>),
    Other(Dialer),
    Near(Near),
}

impl Way {
    /// By the kernel, as the options say.
    pub(crate) fn new(options: &Options, tls: Option<Pem>) -> Result<Way, String> {
        let name = match (&options.server_name, &options.address) {
            (Some(name), _) => name.clone(),
            (None, Address::Tcp(host, _)) => host.clone(),
            (None, Address::Unix(_)) => String::new(),
        };
        // A Unix socket leads to nobody else.
        let tls = tls.filter(|_| matches!(options.address, Address::Tcp(..)));
        let Some(pem) = tls else {
            return Ok(Way::Plain);
        };
        let config = trusting(&pem).map_err(|error| pem.unusable(error))?;
        let named = ServerName::try_from(name.clone());
        let named = named.map_err(|_| format!("{name:?} can be no server's name"))?;
        Ok(Way::Tls(TlsConnector::from(Arc::new(config)), named))
    }

    pub(crate) fn has_tls(&self) -> bool {
        matches!(self, Way::Tls(..))
    }

    pub(crate) fn is_near(&self) -> bool {
        matches!(self, Way::Near(_))
    }

    /// Connects.
    pub(crate) async fn dial(&self, address: &Address, patience: Duration) -> io::Result<Brick> {
        let brisk = Pulse {
            every: patience / 2,
            within: patience / 2,
        };
        let patient = Pulse {
            within: patience * SILENT,
            ..brisk
        };
        let wire = match (self, address) {
            (Way::Near(near), _) => return Ok(Brick::Near(near.clone())),
            // Where it leads is the connector's affair.
            (Way::Other(dialer), _) => Wire::over(dialer().await?, Scheme::HTTP, brisk).await,
            (_, Address::Unix(path)) => {
                let stream = UnixStream::connect(path).await?;
                widen(&stream);
                Wire::over(stream, Scheme::HTTP, brisk).await
            }
            (way, Address::Tcp(..)) => {
                let stream = connect(address, patience).await?;
                match way {
                    Way::Tls(tls, name) => {
                        let stream = tls.connect(name.clone(), stream).await?;
                        Wire::over(stream, Scheme::HTTPS, patient).await
                    }
                    _ => Wire::over(stream, Scheme::HTTP, patient).await,
                }
            }
        };
        let brick = wire.map(|wire| Brick::Far(Box::new(Far::new(wire))));
        brick.map_err(io::Error::other)
    }
}

/// To whichever of the host's addresses answers first.
async fn connect(address: &Address, patience: Duration) -> io::Result<TcpStream> {
    let uri: Uri = format!("http://{address}")
        .parse()
        .map_err(io::Error::other)?;
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(patience));
    tcp.set_tcp_user_timeout(Some(patience / 2));
    let stream = tcp.call(uri).await.map_err(io::Error::other)?;
    Ok(stream.into_inner())
}

/// Shows a certificate, and believes those that the authority signed.
fn trusting(pem: &Pem) -> Result<ClientConfig, String> {
    let certificates = |what: &str, pem: &[u8]| -> Result<Vec<_>, String> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let read = read.map_err(|error| format!("the {what} is no PEM: {error}"))?;
        match read.is_empty() {
            true => Err(format!("the {what} has no certificate in it")),
            false => Ok(read),
        }
    };
    let mut roots = RootCertStore::empty();
    for root in certificates("authority", &pem.authority)? {
        let added = roots.add(root);
        added.map_err(|error| format!("the authority cannot be used: {error}"))?;
    }
    let chain = certificates("certificate", &pem.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&pem.key)
        .map_err(|error| format!("the key cannot be read: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("certificate and key: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Why the ends do not trust each other, if that is what a connection failed for.
pub(crate) fn distrust(error: &io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Some("it does not speak TLS".into())
        }
        other => Some(other.to_string()),
    }
}

/// What lies beneath an error that says little.
pub(crate) fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}
