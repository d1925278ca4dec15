use std::path::{Path, PathBuf};
use std::sync::Arc;

use hermitfs_api::Translator;
use hermitfs_client::{Client, Options};
use hermitfs_server::{Options as ServerOptions, Server};
use tempfile::TempDir;

/// A brick behind a server, with a client in front; all of it goes when it is dropped.
pub(crate) struct Wire {
    pub(crate) volume: Arc<dyn Translator>,
    /// `None` while it is away.
    pub(crate) server: Option<Server>,
    pub(crate) client: Arc<Client>,
    /// Seconds for which the next server keeps what clients have.
    pub(crate) grace: Option<u64>,
    // The last to go: nobody works in it any more.
    pub(crate) place: TempDir,
}

impl Wire {
    pub(crate) fn new(volume: Arc<dyn Translator>) -> Wire {
        Wire::with(volume, |_| {})
    }

    /// With other options of the client.
    pub(crate) fn with(volume: Arc<dyn Translator>, change: impl FnOnce(&mut Options)) -> Wire {
        Wire::by(volume, |_, mut options| {
            change(&mut options);
            Client::open(&options).unwrap()
        })
    }

    /// Without a connection; a server that comes later is another one.
    pub(crate) fn near(volume: Arc<dyn Translator>, change: impl FnOnce(&mut Options)) -> Wire {
        Wire::by(volume, |server, mut options| {
            change(&mut options);
            Client::near(&options, Arc::new(server.near().unwrap())).unwrap()
        })
    }

    fn by(volume: Arc<dyn Translator>, open: impl FnOnce(&Server, Options) -> Client) -> Wire {
        let place = tempfile::tempdir().unwrap();
        let server = serve(&place, &socket(&place), volume.clone(), None);
        let client = Arc::new(open(&server, options(&place)));
        let server = Some(server);
        Wire {
            place,
            volume,
            server,
            client,
            grace: None,
        }
    }

    /// Where the server is.
    pub(crate) fn address(&self) -> hermitfs_client::Address {
        options(&self.place).address
    }

    /// Another one of the same server.
    pub(crate) fn another_client(&self) -> Client {
        Client::open(&options(&self.place)).unwrap()
    }

    /// Ends the server; clients wait.
    pub(crate) fn stop(&mut self) {
        self.server = None;
    }

    /// Starts it anew on the same state.
    pub(crate) fn start(&mut self) {
        let socket = socket(&self.place);
        self.server = Some(serve(&self.place, &socket, self.volume.clone(), self.grace));
    }

    /// The same where the client does not look for it.
    pub(crate) fn start_elsewhere(&mut self) {
        let socket = elsewhere(&self.place);
        self.server = Some(serve(&self.place, &socket, self.volume.clone(), self.grace));
    }

    /// One that looks there.
    pub(crate) fn client_elsewhere(&self) -> Client {
        let address = format!("unix:{}", elsewhere(&self.place).display());
        let mut options = options(&self.place);
        options.address = address.parse().unwrap();
        Client::open(&options).unwrap()
    }
}

pub(crate) fn socket(place: &TempDir) -> PathBuf {
    place.path().join("socket")
}

fn elsewhere(place: &TempDir) -> PathBuf {
    place.path().join("elsewhere")
}

fn serve(
    place: &TempDir,
    socket: &Path,
    volume: Arc<dyn Translator>,
    grace: Option<u64>,
) -> Server {
    let address = format!("unix:{}", socket.display());
    let mut options = ServerOptions::new(address.parse().unwrap());
    options.grace = grace.unwrap_or(options.grace);
    let volumes = vec![("brick".into(), volume)];
    Server::open(&options, volumes, &place.path().join("state")).unwrap()
}

pub(crate) fn options(place: &TempDir) -> Options {
    let address = format!("unix:{}", socket(place).display());
    let mut options = Options::new(address.parse().unwrap(), "brick");
    options.grace = 20;
    options
}
