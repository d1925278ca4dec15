//! A sink whose file system failed is let go, so that it can be unmounted and repaired, and taken
//! up again when it is back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hermitfs_api::{Errno, Role, block_on};

use super::sink::{PAUSE_AT_MOST, Pause, Sink};
use crate::heal::{Books, Footing, HEAL};
use crate::record::Trust;
use crate::trouble::{Side, Trouble};
use crate::volume::{self, Found};

impl Sink {
    /// Whether its file system has to come back before anything can be healed.
    pub(super) fn is_lost(&self) -> bool {
        let pause = self.trouble.lock();
        pause
            .as_ref()
            .is_some_and(|pause| pause.trouble.may_be_fatal())
    }

    /// Lets go of a sink that failed, or looks whether it is back.
    pub(super) fn attend(&self) {
        if self.healer.sink_root().is_ok() {
            self.let_go();
        } else if self.paused().is_none() {
            self.take_up();
        }
    }

    /// It is not there from the start: as if it had been let go just now.
    pub(super) fn begin_away(&self, why: String) {
        let gone = hermitfs_api::Error::new(Errno::ENODEV);
        *self.trouble.lock() = Some(Pause {
            trouble: Trouble::new(Side::Sink, "open", &gone),
            until: Instant::now(),
            wait: Duration::from_millis(250),
            absent: Some(why),
        });
        self.healer.stand_on(None);
        self.play(Role::Away);
    }

    fn let_go(&self) {
        // Nobody heals while it goes.
        let _alone = self.presence.write();
        let healer = &self.healer;
        healer.suspect.store(true, Ordering::Relaxed);
        self.leg.suspect();
        // What was not synced may be lost; and nobody knows what a repair takes away.
        let root = block_on(healer.known(&healer.source_root));
        let now = self.leg.now();
        self.leg.ledger(|ledger| {
            let cut = ledger.cut();
            ledger.seal(cut, false, now);
            healer.tally.begin();
            ledger.doubt(&root, Trust::before(volume::now()), true);
        });
        healer.stand_on(None);
        self.play(Role::Away);
        tracing::warn!(
            place = self.place,
            "the new brick is let go: it can be unmounted, repaired and mounted again at the same place"
        );
        self.leg.news.notify_all();
    }

    fn take_up(&self) {
        let _alone = self.presence.write();
        match self.find_again() {
            Ok(footing) => {
                self.healer.stand_on(Some(footing));
                if let Err(setback) = block_on(self.healer.sweep_unknown()) {
                    tracing::warn!(?setback, "the staging space could not be swept");
                }
                *self.trouble.lock() = None;
                tracing::info!(
                    place = self.place,
                    "the new brick is back: all of it is compared"
                );
            }
            Err(why) => {
                self.play(Role::Away);
                if let Some(pause) = &mut *self.trouble.lock() {
                    pause.wait = (pause.wait * 2).min(PAUSE_AT_MOST);
                    pause.until = Instant::now() + pause.wait;
                    pause.absent = Some(why);
                }
            }
        }
        self.leg.work.notify_all();
        self.leg.news.notify_all();
    }

    /// The sink, if what is at its place is this one and can be written; else why not.
    fn find_again(&self) -> Result<Footing, String> {
        let sink = &*self.healer.sink;
        let told = |error: hermitfs_api::Error| error.to_string();
        block_on(async {
            sink.role(Role::Sink).await.map_err(told)?;
            let root = sink.root(&HEAL).await.map_err(told)?.inode;
            let brick = volume::brick_id(sink, &root).await.map_err(told)?;
            let found = volume::inspect(sink, &root).await.map_err(told)?;
            if !self.identity.marker.is(&found) || brick != self.identity.brick {
                return Err("it is not mounted at its place".to_owned());
            }
            if let Found::Marked(marker) = &found {
                if marker.role == volume::SUCCESSOR {
                    return Err(
                        "it has taken the old brick's place in a cut-over that was killed"
                            .to_owned(),
                    );
                }
                // Whatever its journal says.
                if marker.dirty {
                    let known = self.healer.known(&self.healer.source_root).await;
                    self.leg
                        .ledger(|ledger| ledger.doubt(&known, Trust::NOTHING, true));
                }
            }
            // Written and synced: a file system that is alive.
            let staging = self.identity.marker.write(&root).map_err(told)?;
            sink.sync(&HEAL).await.map_err(told)?;
            Ok(Footing { root, staging })
        })
    }

    fn play(&self, role: Role) {
        if let Err(error) = block_on(self.healer.sink.role(role)) {
            tracing::warn!(place = self.place, %error, "the new brick cannot be let go");
        }
    }
}
