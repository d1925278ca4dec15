//! What an administrator says does not matter: by class and by name, and never content without saying so.

use hermitfs_api::block_on;

use super::Replicate;
use super::sink::Sink;
use crate::control::{Losses, ObjectError, ObjectLoss};
use crate::loss::{Class, Gravity, Loss};
use crate::record::{Oid, Piece};

/// Which failures a waiver is meant for.
enum Meant<'a> {
    /// Those of this path: of these classes, or of all but content when there are none.
    At(&'a [u8], &'a [Class]),
    /// All of this class.
    All(Class),
}

impl Meant<'_> {
    fn covers(&self, error: &ObjectError) -> bool {
        match *self {
            Meant::At(path, []) => error.path == path && !error.class.is_content(),
            Meant::At(path, classes) => error.path == path && classes.contains(&error.class),
            Meant::All(class) => error.class == class,
        }
    }
}

impl Replicate {
    /// Waives what failed at this path (absolute from the brick's root), of these classes; of all
    /// but content and names when there are none given. What it covered; nothing when there was none.
    pub fn waive(&self, path: &[u8], classes: &[Class]) -> Vec<ObjectError> {
        self.waive_all(&Meant::At(path, classes))
    }

    /// Agrees to a loss wherever it is, now and later. Only to what is asked for ([`Gravity::Asked`]).
    /// What it covered by now.
    pub fn agree(&self, class: Class) -> Vec<ObjectError> {
        if class.gravity() != Gravity::Asked {
            return Vec::new();
        }
        for sink in &self.sinks {
            sink.leg.ledger(|ledger| ledger.agree(class));
        }
        self.waive_all(&Meant::All(class))
    }

    fn waive_all(&self, meant: &Meant<'_>) -> Vec<ObjectError> {
        let mut waived = Vec::new();
        for sink in &self.sinks {
            for (oid, piece, error) in sink.failures(&self.source) {
                if meant.covers(&error) && !error.waived {
                    sink.waive(oid, &piece, error.class);
                    tracing::warn!(
                        path = %error.path.escape_ascii(),
                        class = error.class.name(),
                        reason = error.reason,
                        "waived by an administrator"
                    );
                    waived.push(error);
                }
            }
            sink.leg.work.notify_all();
        }
        waived
    }

    /// What the sinks do not get, without anything waiting for it. Objects that are gone from the source since are left
    /// out, and forgotten.
    pub fn losses(&self) -> Losses {
        let mut losses = Losses::default();
        for sink in &self.sinks {
            sink.losses(&mut losses);
        }
        losses.more.sort_unstable();
        losses.more.dedup();
        losses.agreed.sort_unstable();
        losses.agreed.dedup();
        losses
    }
}

impl Sink {
    /// What was asked for is agreed to, and tried again at once; what failed is left as it is.
    fn waive(&self, oid: Oid, piece: &Piece, class: Class) {
        let now = self.healer.now();
        self.leg.ledger(|ledger| {
            let agreed = ledger.troubles().find_map(|(at, its, trouble, _)| {
                let object = trouble.object.as_ref()?;
                let it = (at, its, trouble.class) == (oid, piece, class);
                it.then(|| (object.clone(), trouble.reason.clone()))
            });
            ledger.waive(oid, piece, [class]);
            if let Some((object, what)) = agreed {
                let loss = Loss {
                    what,
                    locator: object.locator,
                    agreed: true,
                };
                ledger.set_loss(object.oid, class, loss);
                ledger.retry(oid, piece, now);
            }
        });
    }

    fn losses(&self, all: &mut Losses) {
        let (listed, more, agreed) = self.leg.ledger(|ledger| {
            let losses = ledger.losses();
            let listed: Vec<_> = losses
                .map(|(class, oid, loss)| (class, oid, loss.clone()))
                .collect();
            (
                listed,
                ledger.more_losses().collect::<Vec<_>>(),
                ledger.agreed().collect::<Vec<_>>(),
            )
        });
        all.more.extend(more);
        all.agreed.extend(agreed);
        for (class, oid, loss) in listed {
            match block_on(self.healer.is_gone(oid, &loss.locator)) {
                true => self.leg.ledger(|ledger| ledger.drop_loss(oid, class)),
                false => all.listed.push(ObjectLoss {
                    path: block_on(self.healer.path_of(oid)),
                    class,
                    what: loss.what,
                    agreed: loss.agreed,
                }),
            }
        }
    }
}
