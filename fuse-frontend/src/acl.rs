// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! POSIX access control lists: what the kernel leaves to a FUSE server.
//!
//! The kernel checks permissions against the lists; the server hands down default lists, keeps
//! list and mode in step, and stores both. Values are in the form of the kernel's
//! `struct posix_acl_xattr_header` and `_entry` (version 2).

/// Name of the access list.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the default list of a directory.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A list that has one entry each for owner, group and others, and a mask if it needs one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// Reads an attribute's value; `None` if it is no valid list.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Acl> {
        let (version, entries) = value.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
            return None;
        }
        let entries: Vec<Entry> = entries
            .chunks_exact(8)
            .map(|e| Entry {
                tag: u16::from_le_bytes([e[0], e[1]]),
                perm: u16::from_le_bytes([e[2], e[3]]) & 7,
                id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
            })
            .collect();
        let acl = Acl(entries);
        let count = |tag| acl.0.iter().filter(|e| e.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let whole = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|&t| count(t) == 1)
            && count(MASK) <= 1
            && (named == 0 || count(MASK) == 1)
            && named + count(MASK) + 3 == acl.0.len();
        whole.then_some(acl)
    }

    /// The attribute's value.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for e in &self.0 {
            value.extend_from_slice(&e.tag.to_le_bytes());
            value.extend_from_slice(&e.perm.to_le_bytes());
            value.extend_from_slice(&e.id.to_le_bytes());
        }
        value
    }

    fn get(&self, tag: u16) -> Option<u32> {
        self.0.iter().find(|e| e.tag == tag).map(|e| e.perm.into())
    }

    fn get_mut(&mut self, tag: u16) -> Option<&mut Entry> {
        self.0.iter_mut().find(|e| e.tag == tag)
    }

    /// The entry that the group bits of a mode stand for.
    fn group_class(&self) -> u16 {
        if self.get(MASK).is_some() {
            MASK
        } else {
            GROUP_OBJ
        }
    }

    /// The permission bits of a mode that say the same, as far as they can.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.get(USER_OBJ).unwrap_or(0) << 6
            | self.get(self.group_class()).unwrap_or(0) << 3
            | self.get(OTHER).unwrap_or(0)
    }

    /// Does [`Acl::mode`] say all of it?
    #[must_use]
    pub fn is_just_a_mode(&self) -> bool {
        self.0.len() == 3
    }

    /// What may the owning group do at most?
    #[must_use]
    pub fn owning_group(&self) -> u32 {
        self.get(GROUP_OBJ).unwrap_or(0) & self.get(MASK).unwrap_or(7)
    }

    /// Makes the list follow a chmod (`posix_acl_chmod` of the kernel).
    pub fn chmod(&mut self, mode: u32) {
        let group = self.group_class();
        for (tag, shift) in [(USER_OBJ, 6), (group, 3), (OTHER, 0)] {
            if let Some(e) = self.get_mut(tag) {
                e.perm = (mode >> shift & 7) as u16;
            }
        }
    }

    /// Turns a directory's default list into the access list of a new inode that was asked for
    /// with `mode`, and returns the mode it gets (`posix_acl_create` of the kernel).
    #[must_use]
    pub fn inherit(&mut self, mode: u32) -> u32 {
        let group = self.group_class();
        for (tag, shift) in [(USER_OBJ, 6), (group, 3), (OTHER, 0)] {
            if let Some(e) = self.get_mut(tag) {
                e.perm &= (mode >> shift & 7) as u16;
            }
        }
        mode & !0o777 | self.mode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries
            .iter()
            .map(|&(tag, perm, id)| Entry { tag, perm, id })
            .collect())
    }

    fn long() -> Acl {
        acl(&[
            (USER_OBJ, 7, !0),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, !0),
            (MASK, 7, !0),
            (OTHER, 4, !0),
        ])
    }

    #[test]
    fn values_go_there_and_back() {
        assert_eq!(Acl::parse(&long().to_bytes()), Some(long()));
        assert_eq!(long().to_bytes().len(), 4 + 5 * 8);
    }

    #[test]
    fn nonsense_is_no_list() {
        let good = long().to_bytes();
        assert_eq!(Acl::parse(&[]), None);
        assert_eq!(Acl::parse(&good[..good.len() - 1]), None);
        assert_eq!(Acl::parse(&good[..good.len() - 8]), None, "no others");
        let mut old = good.clone();
        old[0] = 1;
        assert_eq!(Acl::parse(&old), None);
        let unmasked = acl(&[
            (USER_OBJ, 7, 0),
            (USER, 7, 1),
            (GROUP_OBJ, 7, 0),
            (OTHER, 7, 0),
        ]);
        assert_eq!(Acl::parse(&unmasked.to_bytes()), None);
    }

    #[test]
    fn mode_and_list_agree() {
        let mut list = long();
        assert_eq!(list.mode(), 0o774);
        assert_eq!(list.owning_group(), 5);
        assert!(!list.is_just_a_mode());
        list.chmod(0o640);
        assert_eq!(list.mode(), 0o640);
        assert_eq!(
            list.get(GROUP_OBJ),
            Some(5),
            "the mask follows, not the group"
        );
        let mut short = acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)]);
        assert!(short.is_just_a_mode());
        short.chmod(0o4710);
        assert_eq!(short.mode(), 0o710);
    }

    #[test]
    fn children_get_no_more_than_asked_for() {
        let mut list = long();
        assert_eq!(list.inherit(0o100_666), 0o100_664);
        assert_eq!(list.mode(), 0o664);
        assert_eq!(list.get(USER), Some(6), "the mask limits named users");
    }
}
