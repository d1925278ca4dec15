//! `hermitfs throttle MOUNTPOINT [RATE]`

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use hermitfs_proto::admin::v1 as proto;
use hermitfs_replicate::Rate;

use crate::cli::Global;
use crate::client::{Target, refused};
use crate::exit::Result;
use crate::screen;

/// Shows or changes how fast healing may copy, at once and until the daemon ends.
///
/// An object counts as 4 KiB at least. A cut-over's last moments are not slowed down.
#[derive(Debug, Args)]
pub(crate) struct Throttle {
    /// The mount point, or any path in it; of what is only served, its volfile
    mountpoint: PathBuf,
    /// Bytes a second, as 50MB/s or 8MiB/s; `off` for no limit
    rate: Option<Limit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Off,
    To(Rate),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Limit, String> {
        match text {
            "off" | "none" => Ok(Limit::Off),
            rate => rate.parse().map(Limit::To),
        }
    }
}

impl Throttle {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let target = Target::of(global, &self.mountpoint)?;
        target.talk(|mut admin| async move {
            let limit = self.rate.map(|limit| match limit {
                Limit::Off => 0,
                Limit::To(rate) => rate.bytes_a_second(),
            });
            let request = proto::ThrottleRequest { limit };
            let reply = admin.throttle(request).await.map_err(refused)?;
            let limit = reply.into_inner().limit.and_then(Rate::new);
            let told = limit.map_or("no limit".to_owned(), |rate| rate.to_string());
            screen::print(&format!("{told}\n"));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_a_limit_too() {
        assert_eq!("off".parse(), Ok(Limit::Off));
        assert_eq!(
            "1MB/s".parse(),
            Ok(Limit::To(Rate::new(1_000_000).unwrap()))
        );
        assert!("slowly".parse::<Limit>().is_err());
    }
}
