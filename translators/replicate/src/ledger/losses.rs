//! Losses that stop nothing, and what administrators have agreed to.
//!
//! At most [`LISTED`] objects of a class are kept by name, so that this does not grow with the tree; of the
//! others it is known that there are more.

use super::Ledger;
use crate::loss::{Class, Loss};
use crate::record::{Bytes, Locator, Oid, Record};

/// Objects of one class that are listed.
pub(crate) const LISTED: usize = 1000;

impl Ledger {
    /// What an object has lost; once for each class, the last word holds.
    pub(crate) fn set_loss(&mut self, oid: Oid, class: Class, loss: Loss) {
        let key = (class, oid);
        match self.losses.get(&key) {
            Some(old) if *old == loss => return,
            Some(_) => {}
            None if !loss.agreed && self.losses_of(class) >= LISTED => {
                if self.more.insert(class) {
                    self.records.push(Record::MoreLosses { class });
                }
                return;
            }
            None => {}
        }
        self.losses.insert(key, loss.clone());
        self.records.push(Record::Lost { oid, class, loss });
    }

    /// The sink has got that of the object after all, or the object is no more.
    pub(crate) fn drop_loss(&mut self, oid: Oid, class: Class) {
        if !self.losses.is_empty() && self.losses.remove(&(class, oid)).is_some() {
            self.records.push(Record::Kept { oid, class });
        }
    }

    fn losses_of(&self, class: Class) -> usize {
        let all = (class, Oid(0, 0))..=(class, Oid(u64::MAX, u64::MAX));
        self.losses.range(all).count()
    }

    /// Whether somebody has agreed that an object loses this: it by name, or all that have it.
    pub(crate) fn is_agreed(&self, oid: Oid, class: Class) -> bool {
        self.agreed.contains(&class)
            || self
                .losses
                .get(&(class, oid))
                .is_some_and(|loss| loss.agreed)
    }

    /// Somebody agrees that all objects may lose this.
    pub(crate) fn agree(&mut self, class: Class) {
        if self.agreed.insert(class) {
            self.records.push(Record::Agreed { class });
        }
    }

    /// Losses that all objects may have.
    pub(crate) fn agreed(&self) -> impl Iterator<Item = Class> {
        self.agreed.iter().copied()
    }

    /// All that is told: class, object, loss.
    pub(crate) fn losses(&self) -> impl Iterator<Item = (Class, Oid, &Loss)> {
        self.losses
            .iter()
            .map(|((class, oid), loss)| (*class, *oid, loss))
    }

    /// Objects that have lost something, a class at a time.
    pub(crate) fn lost(&self) -> u64 {
        self.losses.len() as u64
    }

    /// Classes of which more objects have a loss than are listed.
    pub(crate) fn more_losses(&self) -> impl Iterator<Item = Class> {
        self.more.iter().copied()
    }

    /// How an object is found that has lost something.
    pub(crate) fn locator_of_loss(&self, oid: Oid) -> Option<Locator> {
        let its = |class| self.losses.get(&(class, oid));
        let loss = Class::ALL.into_iter().find_map(its);
        loss.map(|loss| loss.locator.clone())
    }

    /// An object is found under another name now.
    pub(super) fn relocate_losses(&mut self, oid: Oid, whence: &(Bytes, Bytes)) {
        if self.losses.is_empty() {
            return;
        }
        for class in Class::ALL {
            if let Some(loss) = self.losses.get(&(class, oid)) {
                let mut loss = loss.clone();
                loss.locator.whence = Some(whence.clone());
                self.set_loss(oid, class, loss);
            }
        }
    }

    pub(super) fn dump_losses(&self, records: &mut Vec<Record>) {
        let losses = self.losses.iter();
        records.extend(losses.map(|((class, oid), loss)| Record::Lost {
            oid: *oid,
            class: *class,
            loss: loss.clone(),
        }));
        records.extend(self.more.iter().map(|&class| Record::MoreLosses { class }));
        records.extend(self.agreed.iter().map(|&class| Record::Agreed { class }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(what: &str, agreed: bool) -> Loss {
        Loss {
            what: what.to_owned(),
            locator: Locator::default(),
            agreed,
        }
    }

    #[test]
    fn losses_are_told_until_they_are_taken_back_and_survive_a_restart() {
        let mut ledger = Ledger::default();
        ledger.set_loss(Oid(1, 1), Class::Compression, loss("zstd", false));
        ledger.set_loss(Oid(1, 1), Class::Dax, loss("dax", false));
        ledger.set_loss(Oid(2, 1), Class::Encryption, loss("policy", true));
        ledger.agree(Class::Project);
        ledger.drop_loss(Oid(1, 1), Class::Dax);
        let mut again = Ledger::default();
        again.replay(ledger.take_records());
        let mut dumped = Ledger::default();
        dumped.replay(ledger.dump());
        for ledger in [&ledger, &again, &dumped] {
            let told: Vec<_> = ledger
                .losses()
                .map(|(class, oid, _)| (class, oid))
                .collect();
            let wanted = [
                (Class::Encryption, Oid(2, 1)),
                (Class::Compression, Oid(1, 1)),
            ];
            assert_eq!(told, wanted);
            assert!(ledger.is_agreed(Oid(2, 1), Class::Encryption));
            assert!(!ledger.is_agreed(Oid(1, 1), Class::Encryption));
            assert!(ledger.is_agreed(Oid(9, 9), Class::Project));
        }
    }

    #[test]
    fn a_tree_full_of_losses_is_kept_in_a_bounded_list_that_says_so() {
        let mut ledger = Ledger::default();
        for number in 0..2 * LISTED as u64 {
            ledger.set_loss(Oid(number, 1), Class::Dax, loss("dax", false));
        }
        assert_eq!(ledger.lost() as usize, LISTED);
        assert_eq!(ledger.more_losses().collect::<Vec<_>>(), [Class::Dax]);
        // What somebody has agreed to by name is kept all the same.
        ledger.set_loss(Oid(1 << 40, 1), Class::Dax, loss("dax", true));
        assert!(ledger.is_agreed(Oid(1 << 40, 1), Class::Dax));
    }
}
