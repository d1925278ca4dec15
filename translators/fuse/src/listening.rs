//! Names that the program waits to be asked for: how it finds out whether something that it can look
//! at, and cannot see through, leads to this mount.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

#[derive(Default)]
pub(crate) struct Listening {
    any: AtomicBool,
    names: Mutex<Vec<(OsString, Weak<AtomicBool>)>>,
}

impl Listening {
    /// True from the first look-up of the name on. It is listened for as long as that is kept.
    pub(crate) fn to(&self, name: &OsStr) -> Arc<AtomicBool> {
        let heard = Arc::new(AtomicBool::new(false));
        let mut names = self.names.lock();
        names.push((name.to_owned(), Arc::downgrade(&heard)));
        self.any.store(true, Ordering::Release);
        heard
    }

    /// To be told of each look-up.
    pub(crate) fn hear(&self, name: &OsStr) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut names = self.names.lock();
        names.retain(|(wanted, heard)| {
            let heard = heard.upgrade();
            if let Some(heard) = heard.as_ref().filter(|_| wanted == name) {
                heard.store(true, Ordering::Release);
            }
            heard.is_some()
        });
        self.any.store(!names.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_heard_as_long_as_somebody_listens() {
        let listening = Listening::default();
        listening.hear(OsStr::new("early"));
        let [early, late] = ["early", "late"].map(|name| listening.to(OsStr::new(name)));
        listening.hear(OsStr::new("late"));
        assert!(late.load(Ordering::Acquire) && !early.load(Ordering::Acquire));
        drop((early, late));
        listening.hear(OsStr::new("other"));
        assert!(!listening.any.load(Ordering::Acquire));
    }
}
