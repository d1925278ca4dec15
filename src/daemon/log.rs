//! Where the daemon's log goes: a file beside its state, or the standard error when somebody
//! (a terminal, the journal) reads that. `HERMITFS_LOG` sets what is told, `info` if not given.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// Starts the log; to the standard error when no file is given.
pub(crate) fn start(file: Option<&Path>) -> io::Result<()> {
    let filter = EnvFilter::try_from_env("HERMITFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A log that cannot be written must harm nobody. To say so on the standard error, which
        // is the same file, would fail as well; and that panics.
        .log_internal_errors(false)
        .with_target(true);
    let started = match file {
        Some(path) => {
            let log = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)?;
            base.with_ansi(false)
                .with_timer(SystemTime)
                // Each line is one write(2) at the end: no lock that a panic could meet again.
                .with_writer(Arc::new(log))
                .try_init()
        }
        // The journal writes the time itself.
        None if std::env::var_os("JOURNAL_STREAM").is_some() => base
            .with_ansi(false)
            .without_time()
            .with_writer(io::stderr)
            .try_init(),
        None => {
            let colour = crate::screen::colour_on_stderr();
            base.with_ansi(colour).with_writer(io::stderr).try_init()
        }
    };
    started.map_err(|error| io::Error::other(error.to_string()))?;
    // A panic is a bug that the mount survives; nobody reads the standard error of a daemon.
    std::panic::set_hook(Box::new(|panic| tracing::error!("a bug: {panic}")));
    Ok(())
}
