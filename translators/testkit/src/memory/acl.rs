//! POSIX ACLs as the kernel keeps them in `system.posix_acl_access` and `_default`
//! (acl(5), `include/uapi/linux/posix_acl_xattr.h`).

use hermitfs_api::{Errno, Result};

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const ALL: [u16; 6] = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];

/// A valid access control list.
#[derive(Clone, Debug)]
pub(super) struct Acl(Vec<Ace>);

#[derive(Clone, Copy, Debug)]
struct Ace {
    tag: u16,
    perm: u16,
    id: u32,
}

impl Acl {
    /// `None` for an empty list, by which an ACL is removed.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Acl>> {
        let (head, entries) = bytes.split_at_checked(4).ok_or(Errno::EINVAL)?;
        if head != [2, 0, 0, 0] {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if entries.len() % 8 != 0 {
            return Err(Errno::EINVAL.into());
        }
        let entries: Vec<Ace> = entries
            .chunks_exact(8)
            .map(|e| Ace {
                tag: u16::from_le_bytes([e[0], e[1]]),
                perm: u16::from_le_bytes([e[2], e[3]]),
                id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
            })
            .collect();
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Acl(entries);
        if acl.is_valid() {
            Ok(Some(acl))
        } else {
            Err(Errno::EINVAL.into())
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0];
        for ace in &self.0 {
            bytes.extend(ace.tag.to_le_bytes());
            bytes.extend(ace.perm.to_le_bytes());
            bytes.extend(ace.id.to_le_bytes());
        }
        bytes
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|ace| ace.tag == tag).count();
        let named = count(USER) + count(GROUP) > 0;
        self.0.is_sorted_by_key(|ace| ace.tag)
            && self.0.iter().all(|ace| ace.perm <= 7)
            && [USER_OBJ, GROUP_OBJ, OTHER]
                .iter()
                .all(|&tag| count(tag) == 1)
            && (count(MASK) == 1 || count(MASK) == 0 && !named)
            && self.0.iter().all(|ace| ALL.contains(&ace.tag))
    }

    fn perm(&mut self, tag: u16) -> Option<&mut u16> {
        self.0
            .iter_mut()
            .find(|ace| ace.tag == tag)
            .map(|ace| &mut ace.perm)
    }

    fn group_class(&mut self) -> Option<&mut u16> {
        let tag = if self.0.iter().any(|ace| ace.tag == MASK) {
            MASK
        } else {
            GROUP_OBJ
        };
        self.perm(tag)
    }

    /// The permission bits that go with it, and whether these say everything.
    pub(super) fn mode(&self) -> (u32, bool) {
        let mut acl = self.clone();
        let mode = [
            acl.perm(USER_OBJ).copied(),
            acl.group_class().copied(),
            acl.perm(OTHER).copied(),
        ]
        .into_iter()
        .fold(0, |mode, perm| mode << 3 | u32::from(perm.unwrap_or(0)));
        (mode, self.0.len() == 3)
    }

    /// After chmod(2).
    pub(super) fn chmod(&mut self, mode: u32) {
        self.each_class(|perm, class| *perm = (mode >> class & 7) as u16);
    }

    /// The access ACL of a new object from its directory's default, and the object's mode.
    pub(super) fn inherit(&mut self, mode: u32) -> u32 {
        self.each_class(|perm, class| *perm &= (mode >> class & 7) as u16);
        mode & !0o777 | self.mode().0
    }

    fn each_class(&mut self, change: impl Fn(&mut u16, u32)) {
        if let Some(perm) = self.perm(USER_OBJ) {
            change(perm, 6);
        }
        if let Some(perm) = self.group_class() {
            change(perm, 3);
        }
        if let Some(perm) = self.perm(OTHER) {
            change(perm, 0);
        }
    }
}
