//! `hermitfs status` for people.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hermitfs_proto::admin::v1 as proto;
use hermitfs_replicate::Rate;

use super::{Paint, human, paint, terminal};
use crate::shell;

/// A short screen: what, from where to where, how far, and what is in the way.
pub(crate) fn overview(status: &proto::StatusReply, colour: bool) -> String {
    let mut lines = vec![headline(status, colour), String::new()];
    let mut row = |label: &str, text: String| {
        lines.push(format!(
            "  {}  {text}",
            paint(&format!("{label:<8}"), Paint::Dim, colour)
        ));
    };
    if let Some(astray) = &status.astray {
        row("mount", paint(astray, Paint::Bad, colour));
    }
    let pair = !status.sinks.is_empty();
    if let Some(source) = &status.source {
        let mut text = directory(source);
        if !matches!(source.health.as_str(), "" | "healthy") {
            text.push_str(&format!("  {}", paint(&source.health, Paint::Bad, colour)));
        }
        row(if pair { "old" } else { "brick" }, text);
    }
    if !status.beside.is_empty() {
        row("", status.beside.clone());
    }
    for sink in &status.sinks {
        let directory = directory(sink);
        // What begins with its name is not to say it twice.
        let health = sink.health.strip_prefix(&directory).map(str::trim_start);
        let health = match health.unwrap_or(&sink.health) {
            "healthy" => paint("healthy", Paint::Good, colour),
            other => paint(other, Paint::Bad, colour),
        };
        // Which one a cut-over is to go to has to be said.
        let to = match status.sinks.len() {
            1 => String::new(),
            _ => format!("  --to {}", shell::word(&sink.name)),
        };
        row("new", format!("{directory}{to}  {health}"));
    }
    if pair {
        row(
            "files",
            amount(status.files.unwrap_or_default(), human::count),
        );
        row(
            "data",
            amount(status.bytes.unwrap_or_default(), human::bytes),
        );
        if let Some(speed) = speed(status) {
            row("speed", speed);
        }
        row("pending", pending_for(status));
        row("errors", errors(status, colour));
        row("cut-over", readiness(status, colour));
        if let Some(watched) = watched(&status.watchers) {
            row("watched", watched);
        }
    }
    if status.panics > 0 {
        let bugs = format!("{} survived: the log has them", human::count(status.panics));
        row("bugs", paint(&bugs, Paint::Bad, colour));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn headline(status: &proto::StatusReply, colour: bool) -> String {
    let mood = match status.state.as_str() {
        _ if status.ready => Paint::Good,
        "waiting" => Paint::Bad,
        "plain" => Paint::Good,
        _ => Paint::Busy,
    };
    let state = if status.state == "plain" {
        "serving"
    } else {
        &status.state
    };
    let mut about = format!("process {}", status.pid);
    if let Some(since) = status.since {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        about.push_str(&format!(", for {}", human::time(now.as_secs_f64() - since)));
    }
    format!(
        "{}  {}  {}",
        paint(&status.mountpoint, Paint::Bold, colour),
        paint(state, mood, colour),
        paint(&format!("({about})"), Paint::Dim, colour)
    )
}

pub(crate) fn directory(brick: &proto::Brick) -> String {
    Path::new(std::ffi::OsStr::from_bytes(&brick.directory))
        .display()
        .to_string()
}

/// `1,200 of 5,000  24 %  ━━━━━─────`
fn amount(progress: proto::Progress, told: fn(u64) -> String) -> String {
    const WIDTH: u64 = 24;
    let done = told(progress.done);
    match progress.total {
        None => format!("{done}, still counting"),
        Some(total) => {
            let percent = human::percent(progress.done, total);
            let filled = usize::try_from(percent * WIDTH / 100).unwrap_or(0);
            let (full, empty) = if terminal::is_utf8() {
                ("━", "─")
            } else {
                ("#", ".")
            };
            let bar = format!(
                "{}{}",
                full.repeat(filled),
                empty.repeat(WIDTH as usize - filled)
            );
            format!("{bar} {percent:>3} %  {done} of {}", told(total))
        }
    }
}

/// Nothing while nothing moves.
pub(crate) fn speed(status: &proto::StatusReply) -> Option<String> {
    if status.files_rate < 0.5 && status.bytes_rate < 1.0 {
        return None;
    }
    let mut text = format!(
        "{} files/s, {}/s",
        human::count(status.files_rate.round() as u64),
        human::bytes(status.bytes_rate.round() as u64)
    );
    if let Some(eta) = status.eta_s.filter(|eta| !status.ready && *eta >= 1.0) {
        text.push_str(&format!(", {} left", human::time(eta)));
    }
    if let Some(limit) = status.limit.and_then(Rate::new) {
        // As it was said, and in the unit of the speed beside it.
        let alike = human::bytes(limit.bytes_a_second());
        text.push_str(&format!(" (limited to {limit}, {alike}/s)"));
    }
    if let Some(pace) = status.pace {
        let percent = (pace * 100.0).round();
        text.push_str(&format!(" (at {percent} %: users work)"));
    }
    Some(text)
}

/// `7, with 3.00 MiB of content`
pub(crate) fn pending(status: &proto::StatusReply) -> String {
    let mut text = human::count(status.pending);
    if status.pending_bytes > 0 {
        text.push_str(&format!(
            ", with {} of content",
            human::bytes(status.pending_bytes)
        ));
    }
    text
}

fn pending_for(status: &proto::StatusReply) -> String {
    let mut text = pending(status);
    if let Some(age) = status.oldest_pending_s.filter(|_| status.pending > 0) {
        text.push_str(&format!(", the oldest for {}", human::time(age)));
    }
    text
}

fn errors(status: &proto::StatusReply, colour: bool) -> String {
    let mut text = human::count(status.errors);
    if status.errors > 0 {
        text = paint(&text, Paint::Bad, colour);
        text.push_str(&format!("  see `{}`", to_copy("errors", status)));
    }
    if status.waived > 0 {
        text.push_str(&format!(", {} waived", human::count(status.waived)));
    }
    if status.losses > 0 {
        text.push_str(&format!(
            ", {} that the new brick cannot have: `{}`",
            human::count(status.losses),
            to_copy("errors", status)
        ));
    }
    text
}

fn readiness(status: &proto::StatusReply, colour: bool) -> String {
    if let Some(cutover) = &status.cutover {
        return under_way(cutover, colour);
    }
    if status.ready {
        let ready = paint("ready", Paint::Good, colour);
        if !status.can_cut_over {
            return format!(
                "{ready}  `{}` when nobody is in it any more; the new brick stays where it is",
                to_copy("cutover", status)
            );
        }
        return format!(
            "{ready}  `{}` when nothing is in use",
            to_copy("cutover", status)
        );
    }
    format!(
        "{}: {}",
        paint("not yet", Paint::Busy, colour),
        in_the_way(status)
    )
}

/// How many watchers are named.
const NAMED: usize = 3;

/// Who hears nothing of what is done on the new brick.
fn watched(watchers: &[proto::Watcher]) -> Option<String> {
    let named = watchers.iter().take(NAMED).map(|watcher| {
        let process = human::name(watcher.process.as_bytes());
        match watcher.below {
            0 => format!("{process} ({})", watcher.pid),
            _ => format!("{process} ({}, the old brick itself)", watcher.pid),
        }
    });
    let mut named = named.collect::<Vec<_>>().join(", ");
    if watchers.len() > NAMED {
        named.push_str(&format!(", {} more", watchers.len() - NAMED));
    }
    let told = format!("by {named} (inotify, fanotify): to be started anew after a cut-over");
    (!watchers.is_empty()).then_some(told)
}

/// A command on what is shown.
fn to_copy(command: &str, status: &proto::StatusReply) -> String {
    shell::hermitfs(&[&command, &status.mountpoint])
}

/// Which phase, since when, and by whom it was asked for.
fn under_way(cutover: &proto::UnderWay, colour: bool) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let doing = match cutover.phase.as_str() {
        "waiting" => format!(
            "waiting for {} in the way",
            human::count(cutover.in_the_way)
        ),
        "holding" => "users are held".to_owned(),
        _ => "the new brick is being put in place".to_owned(),
    };
    format!(
        "{}, asked for by {} (process {}) {} ago: {doing}",
        paint("under way", Paint::Busy, colour),
        cutover.asked_by,
        cutover.pid,
        human::time((now.as_secs_f64() - cutover.since).max(0.0)),
    )
}

/// The most important reason why a pair is not ready.
pub(crate) fn in_the_way(status: &proto::StatusReply) -> String {
    if let Some(reason) = &status.reason {
        return reason.clone();
    }
    if status.crawl_left > 0 {
        let plural = if status.crawl_left == 1 {
            "directory"
        } else {
            "directories"
        };
        return format!("{} {plural} left to crawl", human::count(status.crawl_left));
    }
    if status.errors > 0 {
        return "some objects could not be healed".into();
    }
    if status.unverified {
        return "both bricks are being compared".into();
    }
    let mut text = format!("pending: {}", pending(status));
    if let Some(drain) = status.drain_s.filter(|drain| *drain >= 1.0) {
        text.push_str(&format!(", about {} of work", human::time(drain)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brick(directory: &str, health: &str) -> proto::Brick {
        proto::Brick {
            name: "x".into(),
            directory: directory.into(),
            health: health.into(),
        }
    }

    fn healing() -> proto::StatusReply {
        proto::StatusReply {
            state: "healing".into(),
            pid: 42,
            mountpoint: "/data".into(),
            source: Some(brick("/srv/old", "healthy")),
            sinks: vec![brick("/srv/new", "healthy")],
            files: Some(proto::Progress {
                done: 1200,
                total: Some(5000),
            }),
            bytes: Some(proto::Progress {
                done: 3 << 20,
                total: None,
            }),
            files_rate: 800.0,
            bytes_rate: 5e6,
            eta_s: Some(61.0),
            pending: 7,
            oldest_pending_s: Some(2.0),
            crawl_left: 3,
            ..proto::StatusReply::default()
        }
    }

    #[test]
    fn a_screen_says_how_far_it_is_and_what_is_in_the_way() {
        let bar = match terminal::is_utf8() {
            true => "━━━━━───────────────────",
            false => "#####...................",
        };
        assert_eq!(
            overview(&healing(), false),
            format!(
                "\
/data  healing  (process 42)

  old       /srv/old
  new       /srv/new  healthy
  files     {bar}  24 %  1,200 of 5,000
  data      3.00 MiB, still counting
  speed     800 files/s, 4.77 MiB/s, 1 min 01 s left
  pending   7, the oldest for 2 s
  errors    0
  cut-over  not yet: 3 directories left to crawl
"
            )
        );
    }

    #[test]
    fn who_watches_is_named_as_long_as_there_is_room() {
        let watchers = |n: u32| -> Vec<proto::Watcher> {
            let watcher = |pid| proto::Watcher {
                pid,
                process: "tail".into(),
                watches: 1,
                below: u64::from(pid == 1),
            };
            (1..=n).map(watcher).collect()
        };
        assert_eq!(watched(&[]), None);
        let two = watched(&watchers(2)).unwrap();
        assert!(
            two.starts_with("by tail (1, the old brick itself), tail (2) ("),
            "{two}"
        );
        let five = watched(&watchers(5)).unwrap();
        assert!(five.contains("tail (3), 2 more ("), "{five}");
    }

    #[test]
    fn colour_is_only_added_never_needed() {
        let coloured = overview(&healing(), true);
        assert!(coloured.contains("\x1b[1;33mhealing\x1b[0m"));
        assert!(!overview(&healing(), false).contains('\x1b'));
    }

    #[test]
    fn a_cut_over_that_is_under_way_is_told_to_everybody() {
        let status = proto::StatusReply {
            ready: true,
            cutover: Some(proto::UnderWay {
                phase: "waiting".into(),
                asked_by: "anna".into(),
                pid: 4711,
                in_the_way: 2,
                ..proto::UnderWay::default()
            }),
            ..healing()
        };
        let text = overview(&status, false);
        assert!(
            text.contains("under way, asked for by anna (process 4711)")
                && text.contains("waiting for 2 in the way"),
            "{text}"
        );
    }

    #[test]
    fn who_has_a_new_brick_elsewhere_is_told_that_it_stays_there() {
        let ready = proto::StatusReply {
            ready: true,
            can_cut_over: true,
            ..healing()
        };
        assert!(overview(&ready, false).contains("`hermitfs cutover /data` when nothing"));
        let far = proto::StatusReply {
            can_cut_over: false,
            ..ready
        };
        let text = overview(&far, false);
        assert!(
            text.contains("`hermitfs cutover /data` when nobody")
                && text.contains("stays where it is"),
            "{text}"
        );
    }

    #[test]
    fn of_several_new_bricks_each_is_shown_with_the_name_that_a_cut_over_wants() {
        let mut second = brick("/srv/b", "/srv/b is full");
        second.name = "second".into();
        let status = proto::StatusReply {
            sinks: vec![brick("/srv/a", "healthy"), second],
            ..healing()
        };
        let text = overview(&status, false);
        assert!(
            text.contains("new       /srv/a  --to x  healthy\n"),
            "{text}"
        );
        assert!(
            text.contains("new       /srv/b  --to second  is full\n"),
            "{text}"
        );
    }

    #[test]
    fn commands_are_quoted_for_the_shell() {
        let status = proto::StatusReply {
            mountpoint: "/my data".into(),
            errors: 1,
            losses: 1,
            ..healing()
        };
        let text = overview(&status, false);
        assert_eq!(text.matches("`hermitfs errors '/my data'`").count(), 2);
        let ready = proto::StatusReply {
            ready: true,
            ..status
        };
        assert!(overview(&ready, false).contains("`hermitfs cutover '/my data'`"));
    }

    #[test]
    fn a_plain_mount_has_no_numbers_of_a_pair() {
        let plain = proto::StatusReply {
            state: "plain".into(),
            sinks: Vec::new(),
            ..healing()
        };
        let text = overview(&plain, false);
        assert!(
            text.contains("/data  serving") && !text.contains("pending"),
            "{text}"
        );
    }
}
