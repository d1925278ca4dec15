//! The ioctls that file systems share: inode flags (chattr(1), lsattr(1); ioctl_iflags(2)).

use fuser::ReplyIoctl;
use hermitfs_api::{Context, Errno, Error, Result};

use crate::door::Door;
use crate::statistics::Op;

const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC32_GETFLAGS: u32 = 0x8004_6601;
const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;
/// Before it sets flags the kernel asks for them in this form.
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;

/// Flags that have a twin in `fsx_xflags` (linux/fs.h): immutable, append, sync, noatime, nodump,
/// inheriting the project, dax.
const TWINS: [(u32, u32); 7] = [
    (0x10, 0x8),
    (0x20, 0x10),
    (0x8, 0x20),
    (0x80, 0x40),
    (0x40, 0x80),
    (0x2000_0000, 0x200),
    (0x200_0000, 0x8000),
];

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
            FS_IOC_FSGETXATTR => self.volume().get_flags(cx, &inode).await.map(fsxattr),
            FS_IOC_SETFLAGS | FS_IOC32_SETFLAGS => {
                let flags = data.first_chunk().ok_or(Error::new(Errno::EINVAL))?;
                let flags = u32::from_ne_bytes(*flags);
                let set = self.volume().set_flags(cx, &inode, flags).await;
                set.map(|()| Vec::new())
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

/// `struct fsxattr`: flags first; extent hints and project are not known here, and read 0.
fn fsxattr(flags: u32) -> Vec<u8> {
    let twins = TWINS.iter().filter(|(flag, _)| flags & flag != 0);
    let xflags = twins.fold(0u32, |all, (_, twin)| all | twin);
    let mut answer = vec![0; 28];
    answer[..4].copy_from_slice(&xflags.to_ne_bytes());
    answer
}
