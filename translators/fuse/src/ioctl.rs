//! The ioctls that file systems share: inode flags (chattr(1), lsattr(1); ioctl_iflags(2)).

use fuser::ReplyIoctl;
use hermitfs_api::{Context, Errno, Error, Result};

use crate::door::Door;
use crate::statistics::Op;

const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC32_GETFLAGS: u32 = 0x8004_6601;
const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;

impl Door {
    /// `data` is what the caller gave, at most the first eight bytes of it.
    pub(crate) async fn ioctl(
        &self,
        cx: Context,
        id: u64,
        command: u32,
        data: Vec<u8>,
        room: u32,
        reply: ReplyIoctl,
    ) {
        match self.flags(&cx, id, command, &data).await {
            Ok(Some(flags)) => {
                let bytes = u64::from(flags).to_ne_bytes();
                reply.ioctl(0, &bytes[..bytes.len().min(room as usize)]);
            }
            Ok(None) => reply.ioctl(0, &[]),
            Err(error) => reply.error(self.fail(Op::Ioctl, &error)),
        }
    }

    async fn flags(&self, cx: &Context, id: u64, command: u32, data: &[u8]) -> Result<Option<u32>> {
        let inode = self.node(id)?;
        let answer = match command {
            FS_IOC_GETFLAGS | FS_IOC32_GETFLAGS => {
                self.volume.get_flags(cx, &inode).await.map(Some)
            }
            FS_IOC_SETFLAGS | FS_IOC32_SETFLAGS => {
                let flags = data.first_chunk().ok_or(Error::new(Errno::EINVAL))?;
                let flags = u32::from_ne_bytes(*flags);
                self.volume
                    .set_flags(cx, &inode, flags)
                    .await
                    .map(|()| None)
            }
            _ => return Err(Errno::ENOTTY.into()),
        };
        // "No such ioctl here" is ENOTTY, whatever the layer below calls it.
        answer.map_err(|error| match error.errno() {
            Errno::ENOSYS | Errno::EOPNOTSUPP => Errno::ENOTTY.into(),
            _ => error,
        })
    }
}
