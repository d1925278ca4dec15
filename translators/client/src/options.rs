use std::path::PathBuf;
use std::time::Duration;

use hermitfs_proto::brick::Pem;
use serde::Deserialize;

use crate::address::Address;

/// Options of `protocol/client` in a volfile.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Where the server is.
    pub address: Address,
    /// Which of the server's volumes.
    pub remote_subvolume: String,
    /// Seconds without a sign of life after which the line counts as cut.
    #[serde(default = "ping_timeout")]
    pub ping_timeout: u64,
    /// Seconds for which operations wait for the server when the line is cut. After that they are EIO,
    /// at once, until the server is there again.
    #[serde(default = "grace")]
    pub grace: u64,
    /// Whether a server of the same volfile is reached without a connection, on the threads of who calls.
    /// Otherwise by its address, as one of another process.
    #[serde(default = "in_process")]
    pub in_process: bool,
    /// Who we are, for mutual TLS: a certificate in PEM. Needed at any address of another machine.
    pub certificate: Option<PathBuf>,
    /// Its key in PEM.
    pub key: Option<PathBuf>,
    /// Whose certificates are believed: the authority's own in PEM.
    pub authority: Option<PathBuf>,
    /// The name in the server's certificate; the host of its address when this is not given.
    pub server_name: Option<String>,
}

fn ping_timeout() -> u64 {
    10
}

fn grace() -> u64 {
    60
}

fn in_process() -> bool {
    true
}

impl Options {
    /// A volume of a server, all else as it is by default.
    pub fn new(address: Address, volume: impl Into<String>) -> Options {
        Options {
            address,
            remote_subvolume: volume.into(),
            ping_timeout: ping_timeout(),
            grace: grace(),
            in_process: in_process(),
            certificate: None,
            key: None,
            authority: None,
            server_name: None,
        }
    }

    pub(crate) fn ping_timeout(&self) -> Duration {
        Duration::from_secs(self.ping_timeout.max(1))
    }

    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace)
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

/// Why a client could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody answers.
    #[error("the server at {address} does not answer ({reason}): start it, or mend the address")]
    NoAnswer {
        /// As the option says.
        address: Address,
        /// What happened at the last attempt.
        reason: String,
    },
    /// One end does not take the other's certificate.
    #[error("there is no trust between the server at {address} and us: {reason}")]
    Distrusted {
        /// As the option says.
        address: Address,
        /// What happened.
        reason: String,
    },
    /// It does not want us, or we do not want it.
    #[error("the server at {address} refuses: {reason}")]
    Refused {
        /// As the option says.
        address: Address,
        /// Its own words.
        reason: String,
    },
    /// Anybody between the machines could read and change everything.
    #[error(
        "{0} is another machine's, so it needs mutual TLS: give `certificate`, `key` and `authority`"
    )]
    Plain(Address),
    /// Its certificates cannot be used.
    #[error("the client's TLS cannot be set up: {0}")]
    Tls(String),
    /// No thread for the line.
    #[error("no thread for the line to a server: {0}")]
    Thread(std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_volume_are_required_and_unknown_keys_are_refused() {
        let text = "address = '127.0.0.1:1'\nremote-subvolume = 'old'";
        let options: Options = toml::from_str(text).unwrap();
        assert_eq!(options, Options::new("127.0.0.1:1".parse().unwrap(), "old"));
        assert!(toml::from_str::<Options>("address = '127.0.0.1:1'").is_err());
        assert!(toml::from_str::<Options>(&format!("{text}\nhost = 'x'")).is_err());
    }
}
