//! What the sink cannot have: told, or asked for.

use std::sync::Arc;

use hermitfs_api::Inode;

use super::Healer;
use crate::loss::{Class, Gravity, Loss};
use crate::record::Oid;
use crate::trouble::{Side, Trouble};

impl Healer {
    /// Tells what an object loses of a class that is stated and stops nothing; `None` takes back what was told
    /// before. To be called whenever that of the object is looked at.
    pub(super) async fn note_loss(&self, object: &Arc<Inode>, class: Class, what: Option<String>) {
        debug_assert_eq!(class.gravity(), Gravity::Stated);
        match what {
            Some(what) => self.keep_loss(object, class, what, false).await,
            None => self.has_all(object, [class]),
        }
    }

    /// The trouble to fail with, when an object would lose something that is asked for; `None` when somebody has agreed to
    /// it. `what` is for people: what it had, and what becomes of it.
    pub(super) async fn ask_loss(
        &self,
        object: &Arc<Inode>,
        class: Class,
        what: String,
    ) -> Option<Trouble> {
        debug_assert_eq!(class.gravity(), Gravity::Asked);
        let oid = Oid::from(object.identity());
        if !self.ledger(|ledger| ledger.is_agreed(oid, class)) {
            let known = self.known(object).await;
            return Some(Trouble::lost(Side::Sink, class, what, known));
        }
        self.keep_loss(object, class, what, true).await;
        None
    }

    /// The sink has all of the object that is of these classes.
    pub(super) fn has_all(&self, object: &Arc<Inode>, classes: impl IntoIterator<Item = Class>) {
        let oid = Oid::from(object.identity());
        self.ledger(|ledger| {
            if ledger.lost() > 0 {
                for class in classes {
                    ledger.drop_loss(oid, class);
                }
            }
        });
    }

    async fn keep_loss(&self, object: &Arc<Inode>, class: Class, what: String, agreed: bool) {
        let oid = Oid::from(object.identity());
        let locator = self.known(object).await.locator;
        let loss = Loss {
            what,
            locator,
            agreed,
        };
        self.ledger(|ledger| ledger.set_loss(oid, class, loss));
    }
}
