use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hermitfs_proto::brick::Pem;
use serde::Deserialize;

use crate::listen::Address;

/// Options of `protocol/server` in a volfile.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Where clients reach it; at least one.
    pub listen: Vec<Address>,
    /// Seconds after a client's last sign of life for which its open files and locks are kept.
    #[serde(default = "grace")]
    pub grace: u64,
    /// Who we are, for mutual TLS: a certificate in PEM. Needed at any address of another machine.
    pub certificate: Option<PathBuf>,
    /// Its key in PEM.
    pub key: Option<PathBuf>,
    /// Whose certificates are believed: the authority's own in PEM.
    pub authority: Option<PathBuf>,
}

fn grace() -> u64 {
    60
}

impl Options {
    /// A server at one address, all else as it is by default.
    pub fn new(address: Address) -> Options {
        Options {
            listen: vec![address],
            grace: grace(),
            certificate: None,
            key: None,
            authority: None,
        }
    }

    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace.max(1))
    }

    /// What mutual TLS needs; `None` where none is asked for. A sentence when something is missing.
    pub(crate) fn tls(&self) -> Result<Option<Pem>, String> {
        Pem::read(&self.certificate, &self.key, &self.authority)
    }

    /// Whether this may leave the machine.
    pub fn has_tls(&self) -> bool {
        self.certificate.is_some() && self.key.is_some() && self.authority.is_some()
    }
}

/// Why a server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nowhere to listen.
    #[error("a server needs an address: `listen = [\"127.0.0.1:24007\"]`")]
    Nowhere,
    /// The address is taken, or not one of this machine.
    #[error("nobody can be heard at {address}: {source}")]
    Listen {
        /// As the option says.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anybody between the machines could read and change everything.
    #[error(
        "{0} can be reached from other machines, so it needs mutual TLS: give `certificate`, `key` and `authority`"
    )]
    Plain(Address),
    /// Its certificates cannot be used.
    #[error("the server's TLS cannot be set up: {0}")]
    Tls(String),
    /// The directory for the state cannot be used.
    #[error("the server's state in {} cannot be used: {source}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The brick cannot be served.
    #[error("the volume `{volume}` cannot be served: {reason}")]
    Volume {
        /// Its name.
        volume: String,
        /// Why, and what to do.
        reason: String,
    },
    /// No threads.
    #[error("the server has no threads: {0}")]
    Threads(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_required_and_unknown_keys_are_refused() {
        let options: Options = toml::from_str("listen = ['127.0.0.1:1']").unwrap();
        assert_eq!(options, Options::new("127.0.0.1:1".parse().unwrap()));
        assert!(toml::from_str::<Options>("").is_err());
        assert!(toml::from_str::<Options>("listen = ['here']").is_err());
        assert!(toml::from_str::<Options>("listen = []\nlisten-at = ''").is_err());
    }
}
