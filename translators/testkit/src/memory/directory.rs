use std::collections::BTreeMap;

use hermitfs_api::{Name, NameBuf};

/// Names with their objects, in the order of their making.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    /// Where this directory stands itself; the root stands in itself.
    pub(super) parent: u64,
    pub(super) name: Option<NameBuf>,
    pub(super) names: BTreeMap<NameBuf, (u64, u64)>,
    order: BTreeMap<u64, NameBuf>,
    next: u64,
}

/// Cookies of `.` and `..`; names come after them.
const DOT: u64 = 1;
const DOTDOT: u64 = 2;

impl Directory {
    pub(super) fn new(parent: u64, name: Option<NameBuf>) -> Directory {
        Directory {
            parent,
            name,
            names: BTreeMap::new(),
            order: BTreeMap::new(),
            next: DOTDOT + 1,
        }
    }

    pub(super) fn get(&self, name: &Name) -> Option<u64> {
        self.names.get(name).map(|&(number, _)| number)
    }

    pub(super) fn insert(&mut self, name: &Name, number: u64) {
        self.remove(name);
        self.names.insert(name.to_owned(), (number, self.next));
        self.order.insert(self.next, name.to_owned());
        self.next += 1;
    }

    /// Another object at a name that stays where it is.
    pub(super) fn replace(&mut self, name: &Name, number: u64) {
        if let Some(slot) = self.names.get_mut(name) {
            slot.0 = number;
        }
    }

    pub(super) fn remove(&mut self, name: &Name) {
        if let Some((_, cookie)) = self.names.remove(name) {
            self.order.remove(&cookie);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// (name, number, cookie) after a position, at most `max`.
    pub(super) fn list(&self, own: u64, from: u64, max: usize) -> Vec<(Box<[u8]>, u64, u64)> {
        let dots: [(&[u8], u64, u64); 2] = [(b".", own, DOT), (b"..", self.parent, DOTDOT)];
        let dots = dots
            .into_iter()
            .filter(|dot| dot.2 > from)
            .map(|(n, i, c)| (n.into(), i, c));
        let names = self.order.range(from.saturating_add(1)..);
        dots.chain(
            names.map(|(&cookie, name)| (name.as_bytes().into(), self.names[name].0, cookie)),
        )
        .take(max)
        .collect()
    }
}
