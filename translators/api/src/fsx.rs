/// How a file system keeps an object: its inode flags, and `struct fsxattr` of linux/fs.h
/// (`FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fsx {
    /// Inode flags (`FS_IOC_GETFLAGS`); 0 where there are none. Told, never set with the rest.
    pub flags: u32,
    /// `FS_XFLAG_*`. Some have a twin among the inode flags, and tell the same.
    pub xflags: u32,
    /// Extent size hint, in bytes; of a directory for what is made in it.
    pub extent_size: u32,
    /// Number of extents. Told, never set.
    pub extents: u32,
    /// The project that it is counted for.
    pub project: u32,
    /// Extent size hint for copies on write, in bytes.
    pub cow_extent_size: u32,
}

impl Fsx {
    /// Bytes of the structure.
    pub const SIZE: usize = 28;

    /// Inode flags that have a twin in `xflags`: immutable, append-only, synchronous, no atime, no dump, handing on
    /// its project, direct access.
    pub const TWINS: [(u32, u32); 7] = [
        (0x10, 0x8),
        (0x20, 0x10),
        (0x8, 0x20),
        (0x80, 0x40),
        (0x40, 0x80),
        (0x2000_0000, 0x200),
        (0x200_0000, 0x8000),
    ];

    /// The bits of `xflags` that have a twin.
    pub const TWINNED: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x200 | 0x8000;

    /// Those of these inode flags that have a twin, as `xflags`.
    pub fn twins_of(flags: u32) -> u32 {
        let twins = Fsx::TWINS.iter().filter(|(flag, _)| flags & flag != 0);
        twins.fold(0, |all, (_, twin)| all | twin)
    }

    /// These inode flags, changed to what `xflags` say of those that have a twin.
    pub fn flags_with(&self, flags: u32) -> u32 {
        Fsx::TWINS.iter().fold(flags, |all, (flag, twin)| {
            let set = self.xflags & twin != 0;
            all & !flag | if set { *flag } else { 0 }
        })
    }

    /// As the kernel has it, without the inode flags.
    pub fn to_bytes(&self) -> [u8; Fsx::SIZE] {
        let mut bytes = [0; Fsx::SIZE];
        let fields = [
            self.xflags,
            self.extent_size,
            self.extents,
            self.project,
            self.cow_extent_size,
        ];
        for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }

    /// From what the kernel has; `None` for too few bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Fsx> {
        let field = |n: usize| {
            let four = bytes.get(n * 4..)?.first_chunk()?;
            Some(u32::from_ne_bytes(*four))
        };
        bytes.get(..Fsx::SIZE)?;
        Some(Fsx {
            flags: 0,
            xflags: field(0)?,
            extent_size: field(1)?,
            extents: field(2)?,
            project: field(3)?,
            cow_extent_size: field(4)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_to_the_kernel_and_back() {
        let fsx = Fsx {
            flags: 0,
            xflags: 0x800,
            extent_size: 1 << 20,
            extents: 3,
            project: 4242,
            cow_extent_size: 4096,
        };
        assert_eq!(Fsx::from_bytes(&fsx.to_bytes()), Some(fsx));
        assert_eq!(Fsx::from_bytes(&fsx.to_bytes()[..27]), None);
    }

    #[test]
    fn twins_say_the_same() {
        let flags = 0x10 | 0x40 | 0x8_0000;
        let fsx = Fsx {
            xflags: Fsx::twins_of(flags) | 0x800,
            ..Fsx::default()
        };
        assert_eq!(fsx.flags_with(0x20 | 0x8_0000), flags);
        let all = Fsx::TWINS.iter().fold(0, |all, (_, twin)| all | twin);
        assert_eq!(all, Fsx::TWINNED);
    }
}
