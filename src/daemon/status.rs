//! How far a pair is, as the admin door tells it.

use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use hermitfs_proto::admin::v1 as proto;
use hermitfs_replicate::{Leg, Replicate};
use tokio::sync::watch;

use super::serve::Daemon;
use super::sight::Sight;
use crate::bricks::{Brick, Bricks};
use crate::over::Beside;
use crate::run::Record;

/// The numbers of this moment. `mounted`: there is a mount here, not only servers.
pub(crate) fn reply(
    record: &Record,
    bricks: &Bricks,
    pair: Option<&Replicate>,
    panics: u64,
    mounted: bool,
    sight: &Sight,
) -> proto::StatusReply {
    let base = proto::StatusReply {
        state: "plain".into(),
        pid: record.pid,
        mountpoint: record.mountpoint.to_string_lossy().into_owned(),
        volfile: record.volfile.clone(),
        panics,
        source: bricks
            .source()
            .map(|brick| told(brick, sight.gone(Leg::Source).unwrap_or("healthy"))),
        astray: sight.mount.clone(),
        files: Some(proto::Progress::default()),
        bytes: Some(proto::Progress::default()),
        ..proto::StatusReply::default()
    };
    let Some(pair) = pair else { return base };
    let now = pair.status();
    let obstacle = sight.obstacle();
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
            .sinks()
            .map(
                |(n, brick)| match (now.health(n), sight.gone(Leg::Sink(n))) {
                    ("healthy", Some(gone)) => told(brick, gone),
                    (health, _) => told(brick, health),
                },
            )
            .collect(),
        can_cut_over: mounted && bricks.sinks().any(|(_, brick)| brick.directory().is_some()),
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
        directory: brick.called().as_os_str().as_bytes().to_vec(),
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

    /// A pair of which one leg is no directory.
    fn with_a_leaf(
        source: &str,
        sink: &str,
        state_dir: &std::path::Path,
    ) -> (Bricks, Arc<Replicate>) {
        use crate::build::{Circumstances, build};
        use crate::volfile::{Source, Variables, load};

        let text = format!(
            "[volume.old]\n{source}\n[volume.new]\n{sink}\n\
             [volume.pair]\ntype='cluster/replicate'\nsource='old'\nsinks=['new']\nrest-ms=1\n"
        );
        let name = "leaf.vol".into();
        let loaded = load(&Source { name, text }, &Variables::default());
        assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
        let graph = loaded.graph.unwrap();
        let circumstances = Circumstances {
            state_dir,
            slot: "test",
            adopt: false,
            delete_from_new: false,
            limit: None,
            resumed: false,
            continuous: false,
            one_file_system: false,
            moved: None,
            own: None,
        };
        let volume = build(&graph, circumstances).unwrap();
        (Bricks::of(&graph), volume.pair.unwrap())
    }

    fn record() -> Record {
        Record {
            pid: 1,
            mountpoint: "/data".into(),
            volfile: String::new(),
            bricks: Vec::new(),
            volume_id: String::new(),
            log: None,
            command: String::new(),
            ended: None,
        }
    }

    #[test]
    fn a_leaf_that_is_no_directory_is_the_leg_that_the_pair_says() {
        for leaf_is_source in [true, false] {
            let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let posix = format!("type='storage/posix'\ndirectory='{}'", dir.path().display());
            let memory = "type='debug/memory'".to_owned();
            let (source, sink) = match leaf_is_source {
                true => (&memory, &posix),
                false => (&posix, &memory),
            };
            let (bricks, pair) = with_a_leaf(source, sink, state.path());
            let reply = || reply(&record(), &bricks, Some(&pair), 0, true, &Sight::default());
            // Nothing has been healed yet.
            assert!(!reply().ready);
            pair.start(|| ());
            let until = std::time::Instant::now() + Duration::from_secs(60);
            while !reply().ready {
                assert!(std::time::Instant::now() < until, "{:?}", reply());
                std::thread::sleep(Duration::from_millis(20));
            }
            let told = reply();
            let source = told.source.unwrap();
            let sinks: Vec<_> = told.sinks.iter().map(|sink| &*sink.name).collect();
            assert_eq!((&*source.name, &sinks[..]), ("old", &["new"][..]));
            assert_eq!(told.sinks[0].health, "healthy");
            let place = dir.path().as_os_str().as_bytes();
            let (there, called) = match leaf_is_source {
                true => (&told.sinks[0].directory, &source.directory),
                false => (&source.directory, &told.sinks[0].directory),
            };
            assert_eq!(there, place);
            assert_eq!(called, if leaf_is_source { b"old" } else { b"new" });
            // Only a directory can be put in the mount's place.
            assert_eq!(told.can_cut_over, leaf_is_source);
            let (_, new) = super::super::cutover::choose(&bricks, None).unwrap();
            assert_eq!(new.name, "new");
            pair.stop();
        }
    }
}
