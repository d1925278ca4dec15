//! How far a pair is, as the admin door tells it.

use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use hermitfs_proto::admin::v1 as proto;
use hermitfs_replicate::Replicate;
use tokio::sync::watch;

use super::serve::Daemon;
use super::sight::Sight;
use crate::build::Brick;
use crate::over::Beside;
use crate::run::Record;

/// The numbers of this moment. `mounted`: there is a mount here, not only servers.
pub(crate) fn reply(
    record: &Record,
    bricks: &[Brick],
    pair: Option<&Replicate>,
    panics: u64,
    mounted: bool,
    sight: &Sight,
) -> proto::StatusReply {
    let seen = |n: usize| sight.bricks.get(n).cloned().flatten();
    let base = proto::StatusReply {
        state: "plain".into(),
        pid: record.pid,
        mountpoint: record.mountpoint.to_string_lossy().into_owned(),
        volfile: record.volfile.clone(),
        panics,
        source: bricks
            .first()
            .map(|brick| told(brick, seen(0).as_deref().unwrap_or("healthy"))),
        astray: sight.mount.clone(),
        files: Some(proto::Progress::default()),
        bytes: Some(proto::Progress::default()),
        ..proto::StatusReply::default()
    };
    let Some(pair) = pair else { return base };
    let now = pair.status();
    let obstacle = sight.obstacle();
    let health = |name: &str| {
        let sink = now.sinks.iter().find(|(sink, _)| sink == name);
        sink.map_or("unknown", |(_, health)| health).to_owned()
    };
    proto::StatusReply {
        state: match (&obstacle, now.ready) {
            (Some(_), true) => "waiting".into(),
            _ => now.state.clone(),
        },
        volume_id: now.volume_id.clone(),
        reason: now.reason.clone().or_else(|| obstacle.clone()),
        pending: now.pending,
        pending_bytes: now.pending_bytes,
        drain_s: now.drain.map(|drain| drain.as_secs_f64()),
        oldest_pending_s: now.oldest_pending.map(|age| age.as_secs_f64()),
        errors: now.errors,
        waived: now.waived,
        losses: now.losses,
        crawl_left: now.crawl_left,
        unverified: now.unverified,
        ready: now.ready && obstacle.is_none(),
        files: Some(progress(now.files_done, now.files_total)),
        bytes: Some(progress(now.bytes_done, now.bytes_total)),
        files_rate: now.files_rate,
        bytes_rate: now.bytes_rate,
        limit: now.limit,
        pace: (now.pace < 1.0).then_some(now.pace),
        eta_s: now.eta.map(|eta| eta.as_secs_f64()),
        sinks: bricks
            .iter()
            .enumerate()
            .skip(1)
            .map(|(n, brick)| match (health(&brick.name), seen(n)) {
                (health, Some(gone)) if health == "healthy" => told(brick, &gone),
                (health, _) => told(brick, &health),
            })
            .collect(),
        can_cut_over: mounted && bricks.iter().skip(1).any(|brick| !brick.far),
        since: now
            .since
            .and_then(|since| since.duration_since(UNIX_EPOCH).ok())
            .map(|since| since.as_secs_f64()),
        ..base
    }
}

/// With how the source stands at its own path.
pub(crate) fn with_beside(
    reply: proto::StatusReply,
    beside: Option<&Beside>,
) -> proto::StatusReply {
    let Some(beside) = beside else { return reply };
    let (guarded, words) = beside.told();
    proto::StatusReply {
        guarded,
        beside: words,
        ..reply
    }
}

/// Never more done than there is: what is done is told before it is counted in all.
fn progress(done: u64, total: Option<u64>) -> proto::Progress {
    proto::Progress {
        done: total.map_or(done, |total| done.min(total)),
        total,
    }
}

fn told(brick: &Brick, health: &str) -> proto::Brick {
    proto::Brick {
        name: brick.name.clone(),
        directory: brick.directory.as_os_str().as_bytes().to_vec(),
        health: health.into(),
    }
}

/// What the admin door asks of a daemon, with or without a mount.
pub(crate) trait Asked: Send + Sync + 'static {
    /// The pair that it heals, if it has one.
    fn pair(&self) -> Option<Arc<Replicate>>;
    /// How far it is now.
    fn now(&self) -> proto::StatusReply;
    /// The same for those who hear of changes, if there are any: often, and whether or not.
    fn now_and_again(&self) -> proto::StatusReply {
        self.now()
    }
    /// Where changes are told.
    fn told(&self) -> &watch::Sender<proto::StatusReply>;

    /// For somebody who wants to hear of changes.
    fn changes(&self) -> watch::Receiver<proto::StatusReply> {
        self.told().subscribe()
    }
}

/// Tells all listeners whenever something has changed, at most ten times a second, until the
/// daemon is gone.
pub(crate) fn tell(asked: &Weak<impl Asked>) {
    while let Some(asked) = asked.upgrade() {
        asked.told().send_replace(asked.now_and_again());
        match asked.pair() {
            Some(pair) => pair.wait_change(Duration::from_secs(1)),
            None => std::thread::sleep(Duration::from_secs(1)),
        }
        drop(asked);
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Asked for Daemon {
    fn pair(&self) -> Option<Arc<Replicate>> {
        self.pair.clone()
    }

    fn now(&self) -> proto::StatusReply {
        proto::StatusReply {
            watchers: self.watched.now(self),
            ..without_watchers(self)
        }
    }

    /// All of /proc is not looked through for nobody.
    fn now_and_again(&self) -> proto::StatusReply {
        match self.status.receiver_count() {
            0 => without_watchers(self),
            _ => self.now(),
        }
    }

    fn told(&self) -> &watch::Sender<proto::StatusReply> {
        &self.status
    }
}

fn without_watchers(daemon: &Daemon) -> proto::StatusReply {
    let reply = reply(
        &daemon.record,
        &daemon.bricks,
        daemon.pair.as_deref(),
        daemon.mount.panics(),
        true,
        &daemon.sight(),
    );
    proto::StatusReply {
        cutover: daemon.cutover.now(),
        ..with_beside(reply, daemon.beside.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_is_done_than_there_is() {
        assert_eq!(progress(7, Some(5)).done, 5);
        assert_eq!(
            progress(7, None),
            proto::Progress {
                done: 7,
                total: None
            }
        );
    }
}
