//! Extent size hints, projects, and extended flags that are no inode flags (ioctl_xfs_fsgetxattr(2)).

use hermitfs_api::Fsx;

use crate::loss::Class;

const EXTENT_SIZE: u32 = 0x800 | 0x1000;
const COW_EXTENT_SIZE: u32 = 0x1_0000;

/// On the real-time device, and what is made below; no symbolic links; not to be defragmented; files of a directory
/// beside each other.
const OTHERS: [(u32, &str); 5] = [
    (0x1, "on the real-time device"),
    (0x100, "what is made in it is on the real-time device"),
    (0x400, "no symbolic links in it"),
    (0x2000, "not to be defragmented"),
    (0x4000, "its files beside each other on the disk"),
];

const CARRIED: u32 = EXTENT_SIZE | COW_EXTENT_SIZE | 0x1 | 0x100 | 0x400 | 0x2000 | 0x4000;

/// Whether there are hints or extended flags to be carried, besides a project.
pub(super) fn has_any(fsx: &Fsx) -> bool {
    fsx.xflags & CARRIED != 0
}

/// `there`, with the hints of `wanted`.
pub(super) fn with_hints(wanted: &Fsx, there: &Fsx) -> Fsx {
    let size = |bits: u32, size: u32| if wanted.xflags & bits != 0 { size } else { 0 };
    Fsx {
        xflags: there.xflags & !CARRIED | wanted.xflags & CARRIED,
        extent_size: size(EXTENT_SIZE, wanted.extent_size),
        cow_extent_size: size(COW_EXTENT_SIZE, wanted.cow_extent_size),
        ..*there
    }
}

/// `there`, counted for the project of `wanted`.
pub(super) fn with_project(wanted: &Fsx, there: &Fsx) -> Fsx {
    Fsx {
        project: wanted.project,
        ..*there
    }
}

/// Classes of which an image lacks something, and what.
pub(super) fn lacks(wanted: &Fsx, there: &Fsx) -> Vec<(Class, String)> {
    let mut lost = Vec::new();
    if wanted.project != 0 && wanted.project != there.project {
        lost.push((
            Class::Project,
            format!("counted for project {}", wanted.project),
        ));
    }
    let set = |fsx: &Fsx, bits: u32| fsx.xflags & bits != 0;
    if set(wanted, EXTENT_SIZE)
        && (wanted.extent_size != there.extent_size || !set(there, EXTENT_SIZE))
    {
        let what = format!("extents of {} bytes", wanted.extent_size);
        lost.push((Class::ExtentSize, what));
    }
    if set(wanted, COW_EXTENT_SIZE)
        && (wanted.cow_extent_size != there.cow_extent_size || !set(there, COW_EXTENT_SIZE))
    {
        let what = format!("copies on write of {} bytes", wanted.cow_extent_size);
        lost.push((Class::ExtentSize, what));
    }
    for (bit, what) in OTHERS {
        if set(wanted, bit) && !set(there, bit) {
            lost.push((Class::OtherFlags, what.to_owned()));
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_told_and_what_is_carried_lacks_nothing() {
        let wanted = Fsx {
            xflags: CARRIED,
            extent_size: 1 << 20,
            cow_extent_size: 1 << 16,
            project: 42,
            ..Fsx::default()
        };
        let there = Fsx {
            xflags: 0x10 | 0x8000_0000,
            extents: 7,
            ..Fsx::default()
        };
        let told = lacks(&wanted, &there);
        let classes: Vec<_> = told.iter().map(|(class, _)| *class).collect();
        let mut others = vec![Class::Project, Class::ExtentSize, Class::ExtentSize];
        others.extend([Class::OtherFlags; 5]);
        assert_eq!(classes, others);
        let all = with_project(&wanted, &with_hints(&wanted, &there));
        assert_eq!(lacks(&wanted, &all), []);
        assert_eq!(
            all.xflags & !CARRIED,
            there.xflags,
            "what is not ours stays"
        );
        let none = with_hints(&Fsx::default(), &all);
        assert_eq!((none.extent_size, none.cow_extent_size), (0, 0));
        assert!(!has_any(&none) && has_any(&all));
    }
}
