//! The ioctls that file systems share: inode flags, projects and extent size hints (chattr(1), lsattr(1),
//! ioctl_iflags(2), ioctl_xfs_fsgetxattr(2)).

use fuser::ReplyIoctl;
use hermitfs_api::{Context, Errno, Error, Fsx, Result};

use crate::door::Door;
use crate::statistics::Op;

const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC32_GETFLAGS: u32 = 0x8004_6601;
const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;
/// Before it sets flags the kernel asks for them in this form.
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;

/// What a caller gives at most.
pub(crate) const GIVEN: usize = Fsx::SIZE;

impl Door {
    /// `data` is what the caller gave, at most the first [`GIVEN`] bytes of it.
    pub(crate) async fn ioctl(
        &self,
        cx: Context,
        id: u64,
        command: u32,
        data: Vec<u8>,
        room: u32,
        reply: ReplyIoctl,
    ) {
        match steady!(self, { self.flags(&cx, id, command, &data).await }) {
            Ok(answer) => reply.ioctl(0, &answer[..answer.len().min(room as usize)]),
            Err(error) => reply.error(self.fail(Op::Ioctl, &error)),
        }
    }

    async fn flags(&self, cx: &Context, id: u64, command: u32, data: &[u8]) -> Result<Vec<u8>> {
        let inode = self.node(id)?;
        let answer = match command {
            FS_IOC_GETFLAGS | FS_IOC32_GETFLAGS => {
                let flags = self.volume().get_flags(cx, &inode).await;
                flags.map(|flags| u64::from(flags).to_ne_bytes().to_vec())
            }
            FS_IOC_FSGETXATTR => {
                let fsx = self.volume().get_fsx(cx, &inode).await;
                fsx.map(|fsx| fsx.to_bytes().to_vec())
            }
            FS_IOC_SETFLAGS | FS_IOC32_SETFLAGS => {
                let flags = data.first_chunk().ok_or(Error::new(Errno::EINVAL))?;
                let flags = u32::from_ne_bytes(*flags);
                let set = self.volume().set_flags(cx, &inode, flags).await;
                self.changed_flags(id, set)
            }
            FS_IOC_FSSETXATTR => {
                let fsx = Fsx::from_bytes(data).ok_or(Error::new(Errno::EINVAL))?;
                let set = self.volume().set_fsx(cx, &inode, &fsx).await;
                self.changed_flags(id, set)
            }
            _ => return Err(Errno::ENOTTY.into()),
        };
        // "No such ioctl here" is ENOTTY, whatever the layer below calls it.
        answer.map_err(|error| match error.errno() {
            Errno::ENOSYS | Errno::EOPNOTSUPP => Errno::ENOTTY.into(),
            _ => error,
        })
    }

    /// The kernel does not know that a change of flags moves the change time, and remembers the old one.
    fn changed_flags(&self, id: u64, set: Result<()>) -> Result<Vec<u8>> {
        set?;
        self.call_back_attributes(id);
        Ok(Vec::new())
    }
}
