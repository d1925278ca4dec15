//! A migration as it goes: bars on a terminal, a line every few seconds otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use hermitfs_proto::admin::v1 as proto;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Paint, colour_on_stderr, human, overview, paint, print_error, terminal};

/// Draws what it is told.
pub(crate) enum Progress {
    Terminal(Bars),
    Lines { last: Option<Instant> },
}

/// How often a line is written where there is no terminal.
const LINES: Duration = Duration::from_secs(5);

impl Progress {
    /// On the standard error.
    pub(crate) fn new() -> Progress {
        if std::io::stderr().is_terminal() && terminal::moves() {
            Progress::Terminal(Bars::new())
        } else {
            Progress::Lines { last: None }
        }
    }

    /// Shows this.
    pub(crate) fn show(&mut self, status: &proto::StatusReply) {
        match self {
            Progress::Terminal(bars) => bars.show(status),
            Progress::Lines { last } => {
                if last.is_none_or(|last| last.elapsed() >= LINES) {
                    *last = Some(Instant::now());
                    print_error(&format!("{}\n", line(status)));
                }
            }
        }
    }

    /// Takes the bars away: what comes next is said in words.
    pub(crate) fn stop(&self) {
        if let Progress::Terminal(bars) = self {
            let _ = bars.all.clear();
        }
    }

    /// The last state, which stays on the screen.
    pub(crate) fn finish(self, status: &proto::StatusReply) {
        match &self {
            Progress::Terminal(bars) => {
                bars.show(status);
                bars.finish();
            }
            Progress::Lines { .. } => print_error(&format!("{}\n", line(status))),
        }
    }
}

/// `healing  1,200 of 5,000 files, 3.00 MiB, 800 files/s, 4.77 MiB/s, 61 s left; 7 pending`
fn line(status: &proto::StatusReply) -> String {
    let amount = |progress: proto::Progress, told: fn(u64) -> String| match progress.total {
        Some(total) => format!(
            "{} of {} ({} %)",
            told(progress.done),
            told(total),
            human::percent(progress.done, total)
        ),
        None => told(progress.done),
    };
    let mut text = format!(
        "{}  files {}, data {}",
        status.state,
        amount(status.files.unwrap_or_default(), human::count),
        amount(status.bytes.unwrap_or_default(), human::bytes)
    );
    if let Some(speed) = overview::speed(status) {
        text.push_str(&format!(", {speed}"));
    }
    text.push_str(&format!("; {} pending", human::count(status.pending)));
    if status.errors > 0 {
        text.push_str(&format!(", {} errors", human::count(status.errors)));
    }
    if let Some(reason) = &status.reason {
        text.push_str(&format!(" ({reason})"));
    }
    text
}

/// Two bars, and a line below them.
pub(crate) struct Bars {
    all: MultiProgress,
    files: ProgressBar,
    bytes: ProgressBar,
    below: ProgressBar,
}

impl Bars {
    fn new() -> Bars {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let files = all.add(ProgressBar::new(0));
        let bytes = all.add(ProgressBar::new(0));
        let below = all.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("  {spinner:.yellow} {wide_msg}") {
            let style = match terminal::is_utf8() {
                true => style,
                false => style.tick_chars("|/-\\ "),
            };
            below.set_style(style);
        }
        below.enable_steady_tick(Duration::from_millis(120));
        Bars {
            all,
            files,
            bytes,
            below,
        }
    }

    fn show(&self, status: &proto::StatusReply) {
        bar(
            &self.files,
            "files",
            status.files.unwrap_or_default(),
            human::count,
        );
        bar(
            &self.bytes,
            "data",
            status.bytes.unwrap_or_default(),
            human::bytes,
        );
        let colour = colour_on_stderr();
        let mut parts = Vec::new();
        parts.extend(overview::speed(status));
        parts.push(format!("{} pending", human::count(status.pending)));
        if status.errors > 0 {
            let errors = format!("{} errors", human::count(status.errors));
            parts.push(paint(&errors, Paint::Bad, colour));
        }
        if status.ready {
            parts.push(paint("ready", Paint::Good, colour));
        } else {
            parts.push(paint(&overview::in_the_way(status), Paint::Dim, colour));
        }
        self.below.set_message(parts.join(" · "));
    }

    fn finish(&self) {
        self.files.abandon();
        self.bytes.abandon();
        if let Ok(style) = ProgressStyle::with_template("    {wide_msg}") {
            self.below.set_style(style);
        }
        self.below.abandon();
        let _ = self.all.println("");
    }
}

fn bar(bar: &ProgressBar, label: &str, progress: proto::Progress, told: fn(u64) -> String) {
    let template = match progress.total {
        Some(_) => "  {prefix:<6} {bar:24.green/dim} {wide_msg}",
        None => "  {prefix:<6} {wide_msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        let parts = if terminal::is_utf8() {
            "━╸─"
        } else {
            "#>."
        };
        bar.set_style(style.progress_chars(parts));
    }
    bar.set_prefix(label.to_owned());
    match progress.total {
        Some(total) => {
            bar.set_length(total.max(1));
            bar.set_position(if total == 0 { 1 } else { progress.done });
            let percent = human::percent(progress.done, total);
            bar.set_message(format!(
                "{percent:>3} %  {} of {}",
                told(progress.done),
                told(total)
            ));
        }
        None => bar.set_message(format!("{}, still counting", told(progress.done))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_a_terminal_says_it_all() {
        let status = proto::StatusReply {
            state: "waiting".into(),
            files: Some(proto::Progress {
                done: 5,
                total: Some(10),
            }),
            bytes: Some(proto::Progress {
                done: 2048,
                total: None,
            }),
            pending: 3,
            errors: 1,
            reason: Some("/srv/new is full".into()),
            ..proto::StatusReply::default()
        };
        assert_eq!(
            line(&status),
            "waiting  files 5 of 10 (50 %), data 2.00 KiB; 3 pending, 1 errors (/srv/new is full)"
        );
    }
}
