//! Where a server can be reached.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

/// `127.0.0.1:24007`, `[::1]:24007` or `unix:/run/bricks.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A port of an interface.
    Tcp(SocketAddr),
}

/// What is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address to listen at: write `127.0.0.1:24007` or `unix:/run/bricks.sock`")]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            if path.is_absolute() {
                return Ok(Address::Unix(path));
            }
        } else if let Ok(address) = text.parse() {
            return Ok(Address::Tcp(address));
        }
        Err(BadAddress(text.into()))
    }
}

impl TryFrom<String> for Address {
    type Error = BadAddress;

    fn try_from(text: String) -> Result<Address, BadAddress> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl Address {
    /// Nobody but this machine comes here.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp(address) => address.ip().is_loopback(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for (text, local) in [
            ("127.0.0.1:24007", true),
            ("[::1]:1", true),
            ("unix:/run/x.sock", true),
            ("10.0.0.1:24007", false),
            ("0.0.0.0:24007", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(
                (address.to_string().as_str(), address.is_local()),
                (text, local)
            );
        }
        for text in [
            "",
            "unix:",
            "unix:relative",
            "localhost:1",
            "127.0.0.1",
            "1.2.3.4:99999",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
