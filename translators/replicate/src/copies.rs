//! Files whose content is being copied just now. One that loses its last name meanwhile is copied for nobody, and as
//! long as a copy has it open its space is not free: so whoever takes the name away ends the copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hermitfs_api::Inode;
use parking_lot::Mutex;

use crate::brake::Brake;

/// The copies of one healer.
#[derive(Clone, Default)]
pub(crate) struct Copies(Arc<Shared>);

#[derive(Default)]
struct Shared {
    underway: Mutex<Vec<Arc<Copy>>>,
    /// How many, for who only wants to know that there is none.
    many: AtomicUsize,
    /// Where a copy may be waiting.
    brake: Arc<Brake>,
}

/// One of them.
pub(crate) struct Copy {
    pub(crate) inode: Arc<Inode>,
    vain: AtomicBool,
}

/// A copy that has begun; over when this is dropped.
pub(crate) struct Underway<'a> {
    copies: &'a Copies,
    copy: Arc<Copy>,
}

impl Copies {
    pub(crate) fn new(brake: Arc<Brake>) -> Copies {
        Copies(Arc::new(Shared {
            brake,
            ..Shared::default()
        }))
    }

    /// A copy begins. Before its file is looked at for the last time: who takes the name away after that look finds
    /// the copy here.
    pub(crate) fn begin(&self, inode: &Arc<Inode>) -> Underway<'_> {
        let copy = Arc::new(Copy {
            inode: inode.clone(),
            vain: AtomicBool::new(false),
        });
        let mut underway = self.0.underway.lock();
        underway.push(copy.clone());
        self.0.many.store(underway.len(), Ordering::SeqCst);
        drop(underway);
        Underway { copies: self, copy }
    }

    /// Those that are under way, and not yet known to be in vain.
    pub(crate) fn underway(&self) -> Vec<Arc<Copy>> {
        if self.0.many.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let underway = self.0.underway.lock();
        let good = underway.iter().filter(|copy| !copy.is_vain());
        good.cloned().collect()
    }

    /// Its file has no name any more.
    pub(crate) fn end(&self, copy: &Copy) {
        copy.vain.store(true, Ordering::SeqCst);
        self.0.brake.rouse();
    }

    /// Whether a file's copy need not go on.
    pub(crate) fn is_vain(&self, inode: &Inode) -> bool {
        if self.0.many.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let underway = self.0.underway.lock();
        let its = |copy: &&Arc<Copy>| std::ptr::eq(&*copy.inode, inode);
        underway.iter().find(its).is_some_and(|copy| copy.is_vain())
    }
}

impl Copy {
    fn is_vain(&self) -> bool {
        self.vain.load(Ordering::SeqCst)
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        let mut underway = self.copies.0.underway.lock();
        underway.retain(|copy| !Arc::ptr_eq(copy, &self.copy));
        let many = underway.len();
        self.copies.0.many.store(many, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use hermitfs_api::{Identity, Kind};

    use super::*;
    use crate::brake::Rate;

    fn file() -> Arc<Inode> {
        let identity = Identity {
            dev: 1,
            ino: 1,
            generation: 0,
        };
        Arc::new(Inode::new(identity, Kind::File, ()))
    }

    #[test]
    fn a_copy_is_known_while_it_goes_on_and_holds_nothing_after_it() {
        let (copies, file) = (Copies::default(), file());
        let copy = copies.begin(&file);
        assert!(!copies.is_vain(&file));
        copies.underway().iter().for_each(|copy| copies.end(copy));
        assert!(copies.is_vain(&file));
        assert!(copies.underway().is_empty(), "told once");
        drop(copy);
        assert!(!copies.is_vain(&file));
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn a_copy_in_vain_does_not_wait_for_its_turn() {
        let brake = Arc::new(Brake::new(Rate::new(1)));
        let (copies, file) = (Copies::new(brake.clone()), file());
        brake.pay(1000);
        let begun = Instant::now();
        let copy = copies.begin(&file);
        std::thread::scope(|scope| {
            scope.spawn(|| brake.pay_unless(1000, || copies.is_vain(&file)));
            std::thread::sleep(Duration::from_millis(20));
            copies.underway().iter().for_each(|copy| copies.end(copy));
        });
        assert!(
            begun.elapsed() < Duration::from_secs(100),
            "a thousand were to be"
        );
        drop(copy);
    }
}
