//! `hermitfs status MOUNTPOINT`

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use hermitfs_proto::admin::v1 as proto;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::{Target, refused};
use crate::exit::Result;
use crate::screen;
use crate::screen::overview::{directory, overview};
use crate::screen::terminal::fit;

/// Shows how far it is.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The mount point, or any path in it; of what is only served, its volfile
    mountpoint: PathBuf,
    /// As JSON; with --watch a line for each change, with its `time`
    #[arg(long)]
    json: bool,
    /// Go on until the daemon ends or Ctrl-C
    #[arg(long)]
    watch: bool,
}

impl Status {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        let target = Target::of(global, &self.mountpoint)?;
        target.talk(|mut admin| async move {
            let request = proto::StatusRequest { follow: self.watch };
            let mut stream = admin.status(request).await.map_err(refused)?.into_inner();
            let mut screen = Screen {
                json: self.json,
                watch: self.watch,
                lines: 0,
                last: None,
            };
            loop {
                match stream.message().await {
                    Ok(Some(status)) => screen.show(&status),
                    Ok(None) => return Ok(()),
                    // While watching, the daemon's end is the end.
                    Err(_) if self.watch && screen.lines > 0 => return Ok(()),
                    Err(error) => return Err(refused(error)),
                }
            }
        })
    }
}

struct Screen {
    json: bool,
    watch: bool,
    /// How many lines stand there that the next picture replaces.
    lines: usize,
    /// What was shown last where each picture stands below the one before.
    last: Option<String>,
}

impl Screen {
    fn show(&mut self, status: &proto::StatusReply) {
        if self.json {
            let mut value = json(status);
            let text = if self.watch {
                let told = value.to_string();
                // A line for each change, and when it was.
                if self.last.as_ref() == Some(&told) {
                    return;
                }
                value["time"] = humantime::format_rfc3339_millis(SystemTime::now())
                    .to_string()
                    .into();
                self.last = Some(told);
                value.to_string()
            } else {
                format!("{value:#}")
            };
            screen::print(&format!("{text}\n"));
            self.lines = 1;
            return;
        }
        let text = overview(status, screen::colour_on_stdout());
        let window = screen::terminal::window().filter(|_| self.watch);
        let Some(window) = window else {
            // Where nothing can be drawn over, what is as it was is not said again.
            if self.last.as_ref() != Some(&text) {
                screen::print(&text);
                self.last = Some(text);
            }
            return;
        };
        let text = fit(&text, window);
        // No more than the window has: it may be smaller by now.
        let up = match self.lines.min(window.rows.saturating_sub(1)) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A"),
        };
        // Each line is cleared to its end, and what was below as well.
        let drawn = text.replace('\n', "\x1b[K\n");
        screen::print(&format!("{up}\r{drawn}\x1b[J"));
        self.lines = text.lines().count();
    }
}

/// The fields that scripts may rely on.
fn json(status: &proto::StatusReply) -> Value {
    let progress = |progress: Option<proto::Progress>| {
        let progress = progress.unwrap_or_default();
        json!({ "done": progress.done, "total": progress.total })
    };
    let since = status
        .since
        .and_then(|since| Duration::try_from_secs_f64(since).ok());
    let since =
        since.map(|since| humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string());
    let sinks: Vec<Value> = status
        .sinks
        .iter()
        .map(|sink| json!({ "name": sink.name, "directory": directory(sink), "health": sink.health }))
        .collect();
    json!({
        "state": status.state,
        "reason": status.reason,
        "ready": status.ready,
        "can_cut_over": status.can_cut_over,
        "pid": status.pid,
        "mountpoint": status.mountpoint,
        "volfile": status.volfile,
        "volume_id": status.volume_id,
        "source": status.source.as_ref().map(directory),
        "sinks": sinks,
        "guarded": status.guarded,
        "beside": status.beside,
        "since": since,
        "files": progress(status.files),
        "bytes": progress(status.bytes),
        "rate": status.bytes_rate,
        "files_rate": status.files_rate,
        "limit": status.limit,
        "pace": status.pace,
        "eta_s": status.eta_s,
        "pending": status.pending,
        "pending_bytes": status.pending_bytes,
        "drain_s": status.drain_s,
        "oldest_pending_s": status.oldest_pending_s,
        "crawl": if status.crawl_left == 0 { "complete" } else { "running" },
        "crawl_left": status.crawl_left,
        "unverified": status.unverified,
        "errors": status.errors,
        "waived": status.waived,
        "losses": status.losses,
        "panics": status.panics,
        "mounted": status.astray.is_none(),
        "astray": status.astray,
        "cutover": status.cutover.as_ref().map(under_way),
        "watchers": status.watchers.iter().map(watcher).collect::<Vec<_>>(),
    })
}

/// Who has inotify or fanotify tell him of changes.
fn watcher(watcher: &proto::Watcher) -> Value {
    json!({
        "pid": watcher.pid,
        "process": watcher.process,
        "watches": watcher.watches,
        "below": watcher.below,
    })
}

/// A cut-over.
fn under_way(cutover: &proto::UnderWay) -> Value {
    let time = |seconds: f64| {
        let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
    };
    json!({
        "phase": cutover.phase,
        "since": time(cutover.since),
        "until": time(cutover.until),
        "asked_by": cutover.asked_by,
        "pid": cutover.pid,
        "in_the_way": cutover.in_the_way,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_every_field_of_the_contract_and_null_for_what_is_unknown() {
        let status = proto::StatusReply {
            files: Some(proto::Progress {
                done: 3,
                total: None,
            }),
            since: Some(86_400.0),
            ..proto::StatusReply::default()
        };
        let value = json(&status);
        for field in [
            "state",
            "pid",
            "pending",
            "oldest_pending_s",
            "errors",
            "crawl",
            "ready",
            "files",
            "bytes",
            "rate",
            "eta_s",
            "source",
            "sinks",
            "since",
            "watchers",
        ] {
            assert!(value.get(field).is_some(), "{field}");
        }
        assert_eq!(value["files"], json!({ "done": 3, "total": null }));
        assert_eq!(value["since"], "1970-01-02T00:00:00Z");
    }
}
