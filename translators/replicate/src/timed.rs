//! The source as users see it: each of their operations is timed.

use std::sync::Arc;
use std::time::Instant;

use hermitfs_api::{
    Allocate, Attr, Context, DirEntry, Entry, Extent, File, Fop, Fsx, Handle, Inode, Lend, Lent,
    Location, Lock, Make, Name, NameBuf, OpenFlags, RenameFlags, Result, Role, Seek, SetAttr,
    Snapshot, StatFs, Translator, Whole, XattrFlags, async_trait,
};

use crate::backoff::{Class, Pulse};

/// Forwards everything.
pub(crate) struct Timed {
    pub(crate) below: Arc<dyn Translator>,
    pub(crate) pulse: Arc<Pulse>,
}

/// What an operation counts as; `None` for what asks no disk, or waits for other people.
fn class(fop: Fop) -> Option<Class> {
    Some(match fop {
        Fop::Setlk | Fop::Getlk | Fop::Role | Fop::Whence | Fop::Handle | Fop::Lend => return None,
        Fop::Read => Class::Read,
        Fop::Write => Class::Write,
        Fop::Fsync | Fop::Fsyncdir | Fop::Flush | Fop::Sync => Class::Sync,
        fop if fop.changes() => Class::Change,
        _ => Class::Look,
    })
}

macro_rules! timed {
    ($($(#[doc = $doc:literal])* $class:ident $fop:ident: fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        #[async_trait]
        impl Translator for Timed {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                let Some(class) = class(Fop::$fop) else {
                    return self.below.$name($($arg),*).await;
                };
                let begun = Instant::now();
                let answer = self.below.$name($($arg),*).await;
                self.pulse.tell(class, begun.elapsed());
                answer
            })*
        }
    };
}

hermitfs_api::with_operations!(timed);
