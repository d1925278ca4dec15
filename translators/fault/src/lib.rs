#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod control;
mod options;
mod place;
mod rule;
mod wait;

use std::sync::Arc;

use async_trait::async_trait;
use hermitfs_api::*;

pub use control::FaultControl;
use control::Verdict;
pub use options::Options;
use place::{Call, Part};
pub use rule::{Action, BadRule, Rule};

/// The filter. See the [crate's page](crate).
pub struct Fault(Point);

/// Where single operations pass.
struct Point {
    below: Arc<dyn Translator>,
    control: Arc<FaultControl>,
    stop: Box<dyn Fn(Fop) + Send + Sync>,
}

impl Fault {
    /// Before a child. A `stop` kills this process.
    pub fn new(below: Arc<dyn Translator>, options: Options) -> Fault {
        Fault::with_stop(below, options, |_| wait::kill_ourselves())
    }

    /// Before a child, with another idea of what a `stop` does. When it returns, the operation
    /// that was stopped stays unanswered.
    pub fn with_stop(
        below: Arc<dyn Translator>,
        options: Options,
        stop: impl Fn(Fop) + Send + Sync + 'static,
    ) -> Fault {
        let control = Arc::new(FaultControl::new(options.rules));
        Fault(Point {
            below,
            control,
            stop: Box::new(stop),
        })
    }

    /// Its rules and counts, while it is in use.
    pub fn control(&self) -> Arc<FaultControl> {
        self.0.control.clone()
    }

    /// Whether a rule is about what a compound consists of: then each step has to meet it.
    fn takes_apart(&self, compound: Fop, cx: &Context) -> bool {
        self.0.control.has_rule_for(compound.steps(), cx.origin)
    }
}

#[async_trait]
impl Filter for Fault {
    fn below(&self) -> &dyn Translator {
        &self.0
    }

    async fn snapshot(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        names: &[NameBuf],
        most: u64,
    ) -> Result<Vec<Result<Snapshot>>> {
        match self.takes_apart(Fop::Snapshot, cx) {
            true => snapshot_by_steps(&self.0, cx, dir, names, most).await,
            false => self.0.snapshot(cx, dir, names, most).await,
        }
    }

    async fn make_whole(
        &self,
        cx: &Context,
        dir: &Arc<Inode>,
        files: &[Whole],
    ) -> Result<Vec<Result<Attr>>> {
        match self.takes_apart(Fop::MakeWhole, cx) {
            true => make_whole_by_steps(&self.0, cx, dir, files).await,
            false => self.0.make_whole(cx, dir, files).await,
        }
    }
}

impl Point {
    async fn judge(&self, fop: Fop, call: &Call<'_>) -> Option<Verdict> {
        let paths = if self.control.asks_for_place(fop, call.origin) {
            call.paths(&*self.below).await
        } else {
            Vec::new()
        };
        self.control.judge(fop, call.origin, &paths)
    }

    // A panic is what a rule may ask for.
    #[allow(clippy::panic)]
    async fn act(&self, fop: Fop, verdict: Verdict) -> Result<()> {
        tracing::debug!(operation = fop.name(), ?verdict, "a fault on demand");
        match verdict.action {
            Action::Fail(errno) => Err(Error::with_story(errno, "a fault on demand")),
            Action::Delay(time) => {
                wait::delay(time).await;
                Ok(())
            }
            Action::Panic => panic!("a fault on demand: {}", fop.name()),
            Action::Stop => {
                (self.stop)(fop);
                wait::never().await;
                Ok(())
            }
        }
    }
}

macro_rules! fault {
    ($($(#[doc = $doc:literal])* $class:ident $fop:ident: fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        #[async_trait]
        impl Translator for Point {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                if !self.control.comes(Fop::$fop) {
                    return self.below.$name($($arg),*).await;
                }
                let verdict = {
                    let mut call = Call::default();
                    $($arg.tell(&mut call);)*
                    self.judge(Fop::$fop, &call).await
                };
                let Some(verdict) = verdict else {
                    return self.below.$name($($arg),*).await;
                };
                if !verdict.late {
                    self.act(Fop::$fop, verdict).await?;
                }
                let answer = self.below.$name($($arg),*).await?;
                if verdict.late {
                    self.act(Fop::$fop, verdict).await?;
                }
                Ok(answer)
            })*
        }
    };
}

hermitfs_api::with_operations!(fault);

#[cfg(test)]
mod tests;
