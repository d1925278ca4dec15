//! Where a file's space is, and space that files share.

use std::os::fd::AsFd;

use hermitfs_api::{Context, Extent, File};
use rustix::fs::fstatfs;
use rustix::io::{Errno, Result};

use crate::attr::stat;
use crate::brick::Brick;
use crate::{caller, sys};

/// `XFS_SUPER_MAGIC`
const XFS: u64 = 0x5846_5342;

impl Brick {
    pub(crate) fn extents(&self, file: &File, from: u64, max: usize) -> Result<Vec<Extent>> {
        let fd = self.opened(file)?.fd.as_fd();
        let (mut told, mut next): (Vec<Extent>, u64) = (Vec::new(), from);
        loop {
            let (some, more) = sys::extents(fd, next).map_err(|error| match error {
                Errno::NOTTY | Errno::NOSYS => Errno::OPNOTSUPP,
                error => error,
            })?;
            for extent in some {
                next = extent.end();
                match told.last_mut().and_then(|last| joined(last, &extent)) {
                    Some(both) => *told.last_mut().ok_or(Errno::IO)? = both,
                    None if told.len() < max => told.push(extent),
                    None => return self.users_own(fd, told),
                }
            }
            if !more {
                return self.users_own(fd, told);
            }
        }
    }

    /// Behind a file's end, only what users have reserved. XFS keeps space there for writers as well, and
    /// takes it back when it likes.
    fn users_own(&self, fd: impl AsFd, mut told: Vec<Extent>) -> Result<Vec<Extent>> {
        let size = stat(fd.as_fd())?.stx_size;
        let behind = |extent: &Extent| extent.unwritten && extent.end() > size;
        if told.iter().any(behind)
            && fstatfs(fd.as_fd())?.f_type as u64 == XFS
            && !sys::has_reserved(fd.as_fd())?
        {
            let end = size.next_multiple_of(BLOCK);
            told.retain_mut(|extent| {
                if extent.unwritten {
                    extent.len = extent.end().min(end).saturating_sub(extent.at);
                }
                extent.len > 0
            });
        }
        Ok(told)
    }

    pub(crate) fn clone_range(
        &self,
        cx: &Context,
        (from, from_at): (&File, u64),
        (to, to_at): (&File, u64),
        len: u64,
    ) -> Result<()> {
        self.to_change(cx)?;
        let (from, to) = (&self.opened(from)?.fd, &self.opened(to)?.fd);
        let _caller = caller::writing(cx)?;
        let (from, to) = ((from.as_fd(), from_at), (to.as_fd(), to_at));
        match sys::clone_range(from, to, len) {
            Err(Errno::NOTTY | Errno::NOSYS) => Err(Errno::OPNOTSUPP),
            done => done,
        }
    }
}

/// The block of most file systems.
const BLOCK: u64 = 4096;

/// Two extents as one, where the second goes on behind the first, in the file and on the disk.
fn joined(first: &Extent, second: &Extent) -> Option<Extent> {
    let place = match (first.place, second.place) {
        (Some(one), Some(other)) => one.checked_add(first.len) == Some(other),
        (one, other) => one == other,
    };
    let alike = (first.unwritten, first.shared) == (second.unwritten, second.shared);
    (place && alike && first.end() == second.at).then_some(Extent {
        len: first.len + second.len,
        ..*first
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_in_the_file_and_on_the_disk_is_one_extent() {
        let first = Extent {
            at: 0,
            len: 8,
            place: Some(100),
            unwritten: false,
            shared: true,
        };
        let second = Extent {
            at: 8,
            place: Some(108),
            ..first
        };
        assert_eq!(joined(&first, &second).map(|both| both.len), Some(16));
        let elsewhere = Extent {
            place: Some(116),
            ..second
        };
        assert_eq!(joined(&first, &elsewhere), None);
        let later = Extent { at: 12, ..second };
        assert_eq!(joined(&first, &later), None);
        let unwritten = Extent {
            unwritten: true,
            ..second
        };
        assert_eq!(joined(&first, &unwritten), None);
    }
}
