//! Where the daemon's log goes: a file beside its state, or the standard error when somebody
//! (a terminal, the journal) reads that. `HERMITFS_LOG` sets what is told, `info` if not given.
//!
//! Names of files are users' bytes. Whatever stands in one, an event is one line: a line break or
//! an escape sequence in it is written as `\n`, `\u{1b}`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// Bytes in a log before it becomes `NAME.1`, in the place of the one before.
const LONGEST: u64 = 8 << 20;

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
            let log = LogFile::open(path, LONGEST)?;
            base.with_ansi(false)
                .with_timer(SystemTime)
                .with_writer(Arc::new(log))
                .try_init()
        }
        // The journal writes the time itself.
        None if std::env::var_os("JOURNAL_STREAM").is_some() => base
            .with_ansi(false)
            .without_time()
            .with_writer(|| OneLine(io::stderr()))
            .try_init(),
        None => {
            let colour = crate::screen::colour_on_stderr();
            let base = base.with_ansi(colour);
            if colour {
                // With colours the library itself escapes what a terminal would obey.
                base.with_writer(io::stderr).try_init()
            } else {
                base.with_writer(|| OneLine(io::stderr())).try_init()
            }
        }
    };
    started.map_err(|error| io::Error::other(error.to_string()))?;
    // A panic is a bug that the mount survives; nobody reads the standard error of a daemon.
    std::panic::set_hook(Box::new(|panic| tracing::error!("a bug: {panic}")));
    Ok(())
}

/// A log that never grows past a bound. Each event is one write(2) at its end: there is no lock that
/// a panic could meet again.
struct LogFile {
    path: PathBuf,
    longest: u64,
    file: ArcSwap<File>,
    written: AtomicU64,
}

impl LogFile {
    fn open(path: &Path, longest: u64) -> io::Result<LogFile> {
        let file = append_to(path)?;
        Ok(LogFile {
            path: path.to_owned(),
            longest,
            written: AtomicU64::new(file.metadata()?.len()),
            file: ArcSwap::from_pointee(file),
        })
    }

    /// Begins a new file. Where that fails the old one is written on.
    fn rotate(&self) {
        let mut before = self.path.clone().into_os_string();
        before.push(".1");
        if std::fs::rename(&self.path, &before).is_ok()
            && let Ok(file) = append_to(&self.path)
        {
            self.file.store(Arc::new(file));
        }
        self.written.store(0, Ordering::Relaxed);
    }
}

impl Write for &LogFile {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = one_line(event);
        let len = line.len() as u64;
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        let written = (&**self.file.load()).write_all(&line);
        // One event alone takes it over the bound.
        if before < self.longest && before + len >= self.longest {
            self.rotate();
        }
        written.map(|()| event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path)
}

/// Writes each event as one line.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(&one_line(event)).map(|()| event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// An event, which ends with a line break, as one line.
fn one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let body = text.strip_suffix('\n').unwrap_or(&text);
    let mut line = String::with_capacity(text.len());
    for c in body.chars() {
        match c {
            '\t' => line.push(c),
            c if breaks(c) => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line.push('\n');
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let told = |event: &str| String::from_utf8(one_line(event.as_bytes())).unwrap();
        assert_eq!(told("healed \u{fc}\n"), "healed \u{fc}\n");
        assert_eq!(
            told("name=/x\n2026 INFO forged\r\u{1b}[31m\u{2028}\n"),
            "name=/x\\n2026 INFO forged\\r\\u{1b}[31m\\u{2028}\n"
        );
    }

    #[test]
    fn a_log_is_bounded_and_the_last_events_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let log = LogFile::open(&path, 1000).unwrap();
        for number in 0..1000 {
            (&log)
                .write_all(format!("event {number}\n").as_bytes())
                .unwrap();
        }
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        let (now, before) = (text(&path), text(&dir.path().join("a.log.1")));
        assert!(now.len() < 1000 && before.len() < 1020);
        assert!((before + &now).ends_with("event 998\nevent 999\n"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
