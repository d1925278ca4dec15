use std::any::Any;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::Kind;

/// Which object this is: equal for two lookups of one object, different for two objects, also
/// when a number is used again after the first was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Device of the file system (or btrfs subvolume) that it is on.
    pub dev: u64,
    /// Number on that device.
    pub ino: u64,
    /// Tells apart objects that had the number one after the other. Stable across restarts
    /// and reboots, as `dev` need not be.
    pub generation: u64,
}

/// Opaque bytes that lead back to an object, across restarts: an identity, not a way to a name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(Box<[u8]>);

impl Handle {
    /// From what [`Handle::as_bytes`] gave.
    pub fn new(bytes: &[u8]) -> Handle {
        Handle(bytes.into())
    }

    /// The bytes, for a journal or the wire. At most 160.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle(")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str(")")
    }
}

/// An object on a brick, shared by all layers.
///
/// A leaf makes it and keeps its own state in [`Inode::leaf`]; the same object always gives the
/// same `Arc` while anybody holds it. Layers above pass it through and may hang state of their
/// own on it with [`Inode::slots`]. Dropping the last `Arc` (the kernel's FORGET) drops it all.
pub struct Inode {
    identity: Identity,
    kind: Kind,
    renumbered: AtomicBool,
    leaf: Box<dyn Any + Send + Sync>,
    slots: Slots,
}

impl Inode {
    /// For leaves: an object and the leaf's state for it.
    pub fn new(identity: Identity, kind: Kind, leaf: impl Any + Send + Sync) -> Inode {
        Inode {
            identity,
            kind,
            renumbered: AtomicBool::new(false),
            leaf: Box::new(leaf),
            slots: Slots::default(),
        }
    }

    /// Which object.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What it is; never changes.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// For leaves: the object was found to have another identity now, as on file systems that make a copy of it at
    /// its first change. Whoever knows it by the old one does not know it any more.
    pub fn renumber(&self) {
        self.renumbered.store(true, Ordering::Relaxed);
    }

    /// Whether it has another identity by now than [`Inode::identity`] tells.
    pub fn is_renumbered(&self) -> bool {
        self.renumbered.load(Ordering::Relaxed)
    }

    /// The leaf's own state; `None` when another leaf made it.
    pub fn leaf<T: Any>(&self) -> Option<&T> {
        self.leaf.downcast_ref()
    }

    /// State of the layers above the leaf.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }
}

impl fmt::Debug for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity {
            dev,
            ino,
            generation,
        } = self.identity;
        write!(f, "{:?} {dev:x}:{ino}.{generation:x}", self.kind)
    }
}

/// A translator's place in [`Slots`]: one for each instance that wants one, made when it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotKey(u32);

impl SlotKey {
    /// A key that no other translator of this process has.
    #[allow(clippy::new_without_default, reason = "each call gives another key")]
    pub fn new() -> SlotKey {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SlotKey(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Typed state that layers hang on a shared object.
///
/// Few layers have any, so it is a list that only grows: an empty one takes two words, reading
/// takes no lock.
#[derive(Default)]
pub struct Slots(OnceLock<Box<Slot>>);

struct Slot {
    key: SlotKey,
    value: Box<dyn Any + Send + Sync>,
    next: Slots,
}

impl Slots {
    /// This layer's state, `None` before [`Slots::get_or_init`].
    pub fn get<T: Any>(&self, key: SlotKey) -> Option<&T> {
        let mut at = self;
        while let Some(slot) = at.0.get() {
            if slot.key == key {
                return slot.value.downcast_ref();
            }
            at = &slot.next;
        }
        None
    }

    /// This layer's state, made now if there was none. `None` only when the key was used with
    /// another type before.
    pub fn get_or_init<T: Any + Send + Sync>(
        &self,
        key: SlotKey,
        init: impl FnOnce() -> T,
    ) -> Option<&T> {
        let mut at = self;
        let mut init = Some(init);
        loop {
            let slot = at.0.get_or_init(|| {
                // Another thread may win this place; then the closure has not run and is still ours.
                let value: Box<dyn Any + Send + Sync> = match init.take() {
                    Some(init) => Box::new(init()),
                    None => Box::new(()),
                };
                Box::new(Slot {
                    key,
                    value,
                    next: Slots::default(),
                })
            });
            if slot.key == key {
                return slot.value.downcast_ref();
            }
            at = &slot.next;
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slots")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_keep_each_layers_state_apart() {
        let (a, b) = (SlotKey::new(), SlotKey::new());
        let slots = Slots::default();
        assert_eq!(slots.get::<u32>(a), None);
        assert_eq!(slots.get_or_init(a, || 1u32), Some(&1));
        assert_eq!(slots.get_or_init(b, || "two"), Some(&"two"));
        assert_eq!(slots.get_or_init(a, || 9u32), Some(&1));
        assert_eq!(slots.get::<&str>(b), Some(&"two"));
        assert_eq!(slots.get::<u64>(a), None, "another type");
    }
}
