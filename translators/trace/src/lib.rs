#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod counts;
mod options;

use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hermitfs_api::*;

pub use counts::Count;
use counts::Counters;
pub use options::{Log, Options};

/// Where the log's lines go.
const TARGET: &str = "hermitfs::trace";

/// The filter. See the [crate's page](crate).
pub struct Trace {
    name: String,
    below: Arc<dyn Translator>,
    options: Options,
    counters: Counters,
}

impl Trace {
    /// Before a child; `name` is the volume's, for the log.
    pub fn new(name: &str, below: Arc<dyn Translator>, options: Options) -> Trace {
        Trace {
            name: name.into(),
            below,
            options,
            counters: Counters::default(),
        }
    }

    /// The operations that were answered since the start; those never called are left out.
    pub fn counts(&self) -> Vec<Count> {
        self.counters.read()
    }

    /// Whether somebody would read a line.
    fn tells(&self) -> bool {
        match self.options.log {
            Log::Off => false,
            Log::Debug => tracing::enabled!(target: TARGET, tracing::Level::DEBUG),
            Log::Trace => tracing::enabled!(target: TARGET, tracing::Level::TRACE),
        }
    }

    fn tell(&self, fop: Fop, args: &[&dyn Display], answer: Answer<'_>, time: Duration) {
        let line = Line {
            name: &self.name,
            fop,
            args,
            answer,
            time,
        };
        match self.options.log {
            Log::Off => {}
            Log::Debug => tracing::debug!(target: TARGET, "{line}"),
            Log::Trace => tracing::trace!(target: TARGET, "{line}"),
        }
    }

    /// Whether this answer is one that the options ask for.
    fn is_wanted(&self, failed: bool, time: Duration) -> bool {
        (failed || !self.options.errors_only)
            && (self.options.slower_than_ms == 0
                || time > Duration::from_millis(self.options.slower_than_ms))
    }
}

type Answer<'a> = std::result::Result<&'a dyn Display, &'a Error>;

struct Line<'a> {
    name: &'a str,
    fop: Fop,
    args: &'a [&'a dyn Display],
    answer: Answer<'a>,
    time: Duration,
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.fop.name())?;
        for (i, arg) in self.args.iter().enumerate() {
            write!(f, "{}{arg}", if i < 2 { " " } else { ", " })?;
        }
        match &self.answer {
            Ok(answer) => write!(f, " -> {answer}")?,
            Err(error) => write!(f, " -> {error:?}")?,
        }
        write!(f, " {}us", self.time.as_micros())
    }
}

macro_rules! trace {
    ($($(#[doc = $doc:literal])* $class:ident $fop:ident: fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        #[async_trait]
        impl Translator for Trace {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                let tells = self.tells();
                if !tells && !self.options.counts {
                    return self.below.$name($($arg),*).await;
                }
                let start = Instant::now();
                let answer = self.below.$name($($arg),*).await;
                let time = start.elapsed();
                if self.options.counts {
                    self.counters.add(Fop::$fop, answer.is_err(), time);
                }
                if tells && self.is_wanted(answer.is_err(), time) {
                    match &answer {
                        Ok(found) => self.tell(Fop::$fop, &[$(&brief(&$arg)),*], Ok(&brief(found)), time),
                        Err(error) => self.tell(Fop::$fop, &[$(&brief(&$arg)),*], Err(error), time),
                    }
                }
                answer
            })*
        }
    };
}

hermitfs_api::with_operations!(trace);

#[cfg(test)]
mod tests;
