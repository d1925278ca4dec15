//! Whether an object keeps its identity when it is changed.
//!
//! An overlay copies a file of its lower layer up when it is changed for the first time, and what was one file with
//! two names becomes two, each with a number of its own; unless it keeps an index, and then it has handles as well.
//! Of file systems that are not known here what was changed is looked at again.

use std::os::fd::{AsFd, BorrowedFd};

use hermitfs_api::{Context, Inode, Role};
use rustix::io::Result;

use crate::brick::Brick;
use crate::view::View;

/// statfs(2)'s `f_type`s.
pub(crate) mod magic {
    /// `OVERLAYFS_SUPER_MAGIC`
    pub(crate) const OVERLAY: u64 = 0x794c_7630;
    /// `MSDOS_SUPER_MAGIC`, of vfat too
    pub(crate) const FAT: u64 = 0x4d44;
    /// `EXFAT_SUPER_MAGIC`
    pub(crate) const EXFAT: u64 = 0x2011_bab0;
    /// `EXT4_SUPER_MAGIC`, of ext2 and ext3 too
    pub(crate) const EXT: u64 = 0xef53;
    /// `XFS_SUPER_MAGIC`
    pub(crate) const XFS: u64 = 0x5846_5342;
    /// `BTRFS_SUPER_MAGIC`
    pub(crate) const BTRFS: u64 = 0x9123_683e;
    /// `F2FS_SUPER_MAGIC`
    pub(crate) const F2FS: u64 = 0xf2f5_2010;
    /// `TMPFS_MAGIC`
    pub(crate) const TMPFS: u64 = 0x0102_1994;
}

/// What is known of a file system's identities before anything is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identities {
    /// An object has one for life.
    Kept,
    /// Who changes an object has to look whether it still has its own.
    Unknown,
    /// They are known to change.
    Lost,
}

impl Identities {
    /// Of a file system with this `f_type`, whose handles were tried.
    pub(crate) fn of(f_type: u64, handles: bool) -> Identities {
        use magic::{BTRFS, EXT, F2FS, OVERLAY, TMPFS, XFS};
        match f_type {
            OVERLAY if !handles => Identities::Lost,
            EXT | XFS | BTRFS | F2FS | TMPFS => Identities::Kept,
            _ => Identities::Unknown,
        }
    }

    /// Why a file system with these cannot have a role, in words that follow "is on".
    pub(crate) fn unfit(self, role: Role, handles: bool) -> Option<&'static str> {
        match (role, self) {
            (Role::Source, Identities::Lost) => Some(
                "an overlay that gives files another number when they are first changed, and makes two of one with \
                 two names: nobody could tell then what is a copy of what. Mount the overlay with \
                 `-o index=on,nfs_export=on`, or copy it while nobody works in it",
            ),
            (Role::Sink, Identities::Lost) => Some(
                "an overlay without file handles, by which a file with several names is found there again: it would \
                 become several files. Mount the overlay with `-o index=on,nfs_export=on`, or give a directory of \
                 the file system below it",
            ),
            (Role::Sink, _) if !handles => Some(
                "a file system without file handles (name_to_handle_at), by which a file with several names is found \
                 there again: it would become several files. Choose another file system",
            ),
            _ => None,
        }
    }
}

/// Whether handles of this file system lead to an object for as long as it lives: FAT finds an inode by number
/// only while it is cached, and gives it another one after that.
pub(crate) fn handles_last(f_type: u64) -> bool {
    !matches!(f_type, magic::FAT | magic::EXFAT)
}

impl Brick {
    /// Looks at objects that were changed: each that has another identity now is told so.
    pub(crate) fn look_again(&self, cx: &Context, changed: &[&Inode]) -> Result<()> {
        if self.identities == Identities::Kept {
            return Ok(());
        }
        let view = self.view(cx);
        for inode in changed {
            let fd = self.hold(view, inode)?;
            self.compare(view, fd.as_fd(), inode);
        }
        Ok(())
    }

    /// The same by a descriptor of the object.
    pub(crate) fn compare(&self, view: &View, fd: BorrowedFd<'_>, inode: &Inode) {
        if self.identities == Identities::Kept {
            return;
        }
        // One that cannot be looked at has no other identity for all that is known.
        let now = self.identify(view, fd).ok();
        if now.is_some_and(|now| now.identity != inode.identity()) {
            inode.renumber();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_without_handles_is_known_to_lose_them_and_what_is_not_known_is_looked_at() {
        assert_eq!(Identities::of(magic::OVERLAY, false), Identities::Lost);
        assert_eq!(Identities::of(magic::OVERLAY, true), Identities::Unknown);
        assert_eq!(Identities::of(magic::EXT, true), Identities::Kept);
        assert_eq!(Identities::of(0x6969, true), Identities::Unknown);
    }

    #[test]
    fn a_sink_has_handles_and_a_source_keeps_its_identities() {
        let fits = |role, f_type, handles| Identities::of(f_type, handles).unfit(role, handles);
        for role in [Role::Source, Role::Sink] {
            assert_eq!(fits(role, magic::EXT, true), None);
            assert_eq!(fits(role, magic::OVERLAY, true), None);
            let overlay = fits(role, magic::OVERLAY, false).unwrap();
            assert!(overlay.contains("index=on,nfs_export=on"), "{overlay}");
            assert_eq!(fits(Role::Plain, magic::OVERLAY, false), None);
        }
        assert_eq!(fits(Role::Source, magic::FAT, false), None);
        assert!(fits(Role::Sink, magic::FAT, false).is_some());
    }
}
