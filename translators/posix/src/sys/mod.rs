//! One function for each system call that rustix does not have, or has not safe.

mod chmod;
mod close;
mod credentials;
mod fsx;
mod handle;
mod lease;
mod lock;
mod mount;
mod space;
mod uuid;

pub(crate) use chmod::fchmodat2;
pub(crate) use close::close;
pub(crate) use credentials::{set_fs_gid, set_fs_uid, unshare_fs};
pub(crate) use fsx::{get_fsx, set_fsx};
pub(crate) use handle::{RawHandle, name_to_handle_at, open_by_handle_at};
pub(crate) use lease::{drop_lease, take_read_lease};
pub(crate) use lock::lock_range;
pub(crate) use mount::{make_own, make_quiet};
pub(crate) use space::{clone_range, extents, has_reserved};
pub(crate) use uuid::file_system_uuid;

use rustix::io::{Errno, Result};

/// What a raw system call returned through libc: -1 and `errno`, or a number.
fn outcome(returned: libc::c_long) -> Result<libc::c_long> {
    if returned == -1 {
        let raw = std::io::Error::last_os_error().raw_os_error();
        Err(Errno::from_raw_os_error(raw.unwrap_or(libc::EIO)))
    } else {
        Ok(returned)
    }
}
