//! Who watches the mount (inotify, fanotify), for the administrator: in nobody's way, but deaf to the
//! new brick after a cut-over, so that he may want to start them anew.

use std::time::{Duration, Instant};

use hermitfs_proto::admin::v1 as proto;
use parking_lot::Mutex;

use super::serve::Daemon;
use super::swap::Refusal;
use crate::mounts::Mounts;
use crate::screen::human;
use crate::users::{self, Watcher};

/// A look is believed so long,
const FRESH: Duration = Duration::from_secs(2);

/// or this many times what it took: with many processes, no more than a hundredth of the time is for it.
const REST: u32 = 100;

/// The last look.
#[derive(Default)]
pub(crate) struct Watched(Mutex<Option<Look>>);

struct Look {
    seen: Vec<proto::Watcher>,
    until: Instant,
}

impl Watched {
    /// Who watches, by a look of this moment or of a moment ago.
    pub(super) fn now(&self, daemon: &Daemon) -> Vec<proto::Watcher> {
        let mut last = self.0.lock();
        if let Some(look) = last.as_ref().filter(|look| Instant::now() < look.until) {
            return look.seen.clone();
        }
        let began = Instant::now();
        let seen = look(daemon);
        let until = Instant::now() + FRESH.max(began.elapsed() * REST);
        *last = Some(Look {
            seen: seen.clone(),
            until,
        });
        seen
    }
}

/// A look.
pub(super) fn look(daemon: &Daemon) -> Vec<proto::Watcher> {
    let mounts = Mounts::read().unwrap_or_default();
    let ours = mounts.at(&daemon.record.mountpoint);
    let below = daemon.over.as_ref().and_then(|over| over.below());
    let seen = users::watchers(ours.filter(|mount| mount.is_ours()), below.as_ref());
    seen.into_iter().map(told).collect()
}

fn told(watcher: Watcher) -> proto::Watcher {
    proto::Watcher {
        pid: watcher.pid,
        process: watcher.process,
        watches: watcher.watches as u64,
        below: watcher.below as u64,
    }
}

/// Why not, with those who watch.
pub(super) fn beside(daemon: &Daemon, refusal: Refusal) -> Refusal {
    let with = |refused| proto::Refused {
        watchers: look(daemon),
        ..refused
    };
    match refusal {
        Refusal::Now(refused) => Refusal::Now(with(refused)),
        Refusal::Final(refused) => Refusal::Final(refused),
    }
}

/// Ends the watches of those who watch the old brick itself, which the new one lies over now. An
/// unmount would do that, but it is kept. How many of each process, by its id.
pub(super) fn end(daemon: &Daemon) -> Vec<(u32, usize)> {
    let over = daemon.over.as_ref().filter(|over| over.is_out_of_reach());
    let below = over.and_then(|over| over.below());
    below
        .map(|below| users::end_watches(&below))
        .unwrap_or_default()
}

/// What becomes of who watches, in words, after a cut-over. `ended` are watches that were ended.
pub(super) fn afterwards(watchers: &[proto::Watcher], ended: &[(u32, usize)]) -> Vec<String> {
    let mut words = Vec::new();
    for watcher in watchers {
        let who = human::name(watcher.process.as_bytes());
        let who = format!("{who} (process {})", watcher.pid);
        if watcher.watches > 0 {
            words.push(format!(
                "{who} watches {} of its files or directories (inotify, fanotify), and hears nothing of what is done \
                 on the new brick: inotify tells it of an unmount when the last of what is open is closed; start it \
                 anew where it does not go by that",
                watcher.watches
            ));
        }
        let told = ended.iter().find(|(pid, _)| *pid == watcher.pid);
        let told = told.map_or(0, |(_, count)| *count as u64);
        if told > 0 {
            words.push(format!(
                "{who} watched {told} files or directories of the old brick since before hermitfs came over it, and \
                 was told that this is over (IN_IGNORED, without IN_UNMOUNT): start it anew where it does not go by that"
            ));
        }
        let deaf = watcher.below.saturating_sub(told);
        if deaf > 0 {
            words.push(format!(
                "{who} watches {deaf} files or directories of the old brick (inotify, fanotify) since before hermitfs \
                 came over it, and is told of nothing any more: start it anew"
            ));
        }
    }
    words
}

/// The same for those who watch what a mount has just come over, while there is time.
pub(super) fn at_the_start(watchers: &[Watcher]) -> Vec<String> {
    let told = watchers.iter().map(|watcher| {
        format!(
            "{} (process {}) watches {} files or directories of the old brick itself (inotify, fanotify): it hears of \
             what is done until the cut-over, and nothing after it; started anew before, it is told of an unmount",
            human::name(watcher.process.as_bytes()),
            watcher.pid,
            watcher.below
        )
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_watches_is_told_what_he_will_hear_of() {
        let watcher = |watches, below| proto::Watcher {
            pid: 7,
            process: "tail".into(),
            watches,
            below,
        };
        let watchers = [watcher(2, 0), watcher(0, 3), watcher(1, 1)];
        let words = afterwards(&watchers, &[]);
        assert_eq!(words.len(), 4);
        assert!(words[0].starts_with("tail (process 7) watches 2 of its"));
        assert!(words[1].contains("3 files") && words[1].contains("of nothing any more"));
        let words = afterwards(&watchers[1..2], &[(8, 3), (7, 2)]);
        assert!(words[0].contains("watched 2 files") && words[0].contains("IN_IGNORED"));
        assert!(words[1].contains("watches 1 files"));
    }
}
