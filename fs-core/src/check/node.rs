// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Nodes of trees as they lie in the region.

use super::flip;
use super::store::{Page, Sector, Store};
use crate::bytes::{get16, get32, get64, get8, put};
use crate::layout::{node as at, NODE_MAGIC, PAGE, SECTOR};
use crate::types::Ino;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// A leaf entry that is no directory entry: three words.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub key: u64,
    pub a: u64,
    pub b: u64,
}

impl Record {
    /// Takes the words from 24 bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        Record {
            key: get64(bytes, 0),
            a: get64(bytes, 8),
            b: get64(bytes, 16),
        }
    }
}

/// A directory entry; its name lies in [`DirList::names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key: hash of the name and a number.
    pub key: u64,
    /// Inode named.
    pub ino: Ino,
    /// `mode >> 12`.
    pub kind: u8,
    /// Length of the name.
    pub len: u8,
    /// Where the name begins in the list's names.
    pub at: usize,
    /// Region offset of the entry; 0 for one that repair made.
    pub offset: u64,
}

/// The entries of a directory.
#[derive(Clone, Debug, Default)]
pub struct DirList {
    /// Entries by ascending key.
    pub entries: Vec<Entry>,
    /// Their names, one behind the other.
    pub names: Vec<u8>,
}

impl DirList {
    /// The name of an entry of this list.
    #[must_use]
    pub fn name(&self, e: &Entry) -> &[u8] {
        self.names
            .get(e.at..e.at.saturating_add(usize::from(e.len)))
            .unwrap_or(&[])
    }

    /// Appends an entry. Names longer than 255 bytes are cut.
    pub fn push(&mut self, key: u64, ino: Ino, kind: u8, name: &[u8], offset: u64) {
        let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let at = self.names.len();
        self.names
            .extend_from_slice(name.get(..usize::from(len)).unwrap_or(&[]));
        self.entries.push(Entry {
            key,
            ino,
            kind,
            len,
            at,
            offset,
        });
    }
}

/// A node whose header is sound.
#[allow(missing_docs)]
pub struct Node {
    pub page: u64,
    pub owner: Ino,
    pub kind: u8,
    pub level: u8,
    pub count: u16,
    pub heap: u16,
    pub dead: u16,
    pub generation: u32,
    /// Bit i: sector i passes its checksum.
    pub good: u16,
    /// Bit i: a flipped bit of sector i was set right in `bytes`.
    pub mended: u16,
    pub bytes: Box<Page>,
}

impl core::fmt::Debug for Node {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Node")
            .field("page", &self.page)
            .field("owner", &self.owner)
            .field("kind", &self.kind)
            .field("level", &self.level)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Reads a node; `Ok(Err(why))` where the page holds none. Single flipped bits are set right.
    pub fn load(store: &Store<'_>, page: u64) -> crate::Result<Result<Node, &'static str>> {
        let mut bytes = store.page(page)?;
        let off = page.saturating_mul(PAGE);
        let mut mended = 0u16;
        let Some(mut head) = bytes.first_chunk::<256>().copied() else {
            return Ok(Err("no page"));
        };
        if !store.intact(off, &head, NODE_MAGIC) {
            match store.mended(off, &head, NODE_MAGIC) {
                Some(right) => {
                    head = *right;
                    put(bytes.as_mut_slice(), 0, &head);
                    mended |= 1;
                }
                None if get32(&head, 0) != NODE_MAGIC => return Ok(Err("no magic of a tree node")),
                None => return Ok(Err("wrong checksum of the header")),
            }
        }
        if get64(&head, at::SELF) != page {
            return Ok(Err("says it lies elsewhere"));
        }
        let mut good = 1u16;
        for (i, sector) in bytes.chunks_exact_mut(SECTOR as usize).enumerate().skip(1) {
            let stored = get32(&head, at::SUMS + 4 * (i - 1));
            let computed = store.sum(off + i as u64 * SECTOR, sector);
            if computed == stored {
                good |= 1 << i;
            } else if flip::mend(sector, computed, stored) {
                good |= 1 << i;
                mended |= 1 << i;
            }
        }
        Ok(Ok(Node {
            page,
            owner: get64(&head, at::OWNER),
            kind: get8(&head, at::KIND),
            level: get8(&head, at::LEVEL),
            count: get16(&head, at::COUNT),
            heap: get16(&head, at::HEAP),
            dead: get16(&head, at::DEAD),
            generation: get32(&head, at::GENERATION),
            good,
            mended,
            bytes,
        }))
    }

    /// The sectors with a flipped bit, as they should be.
    pub fn mends(&self) -> impl Iterator<Item = (u64, &Sector)> {
        self.bytes
            .chunks_exact(SECTOR as usize)
            .enumerate()
            .filter(|(i, _)| self.mended & (1 << i) != 0)
            .filter_map(|(i, s)| {
                let off = self.offset().saturating_add(i as u64 * SECTOR);
                s.try_into().ok().map(|s| (off, s))
            })
    }

    /// Region offset of the node.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.page.saturating_mul(PAGE)
    }

    /// Bytes of an entry.
    #[must_use]
    pub const fn entry_size(&self) -> u64 {
        if self.level == 0 {
            at::LEAF_ENTRY
        } else {
            at::INNER_ENTRY
        }
    }

    /// Entries there can be at most.
    #[must_use]
    pub const fn most(&self) -> u64 {
        if self.level == 0 {
            at::LEAF_MAX
        } else {
            at::INNER_MAX
        }
    }

    /// Region offset of entry `i`.
    #[must_use]
    pub const fn entry_offset(&self, i: u16) -> u64 {
        self.offset()
            .saturating_add(at::ENTRIES)
            .saturating_add(self.entry_size() * i as u64)
    }

    /// Do all sectors under these bytes of the node pass their checksums?
    #[must_use]
    pub fn is_good(&self, from: u64, len: u64) -> bool {
        let last = from.saturating_add(len).saturating_sub(1) / SECTOR;
        (from / SECTOR..=last).all(|s| s < 16 && self.good & (1 << s) != 0)
    }

    /// The bytes of entry `i`, where they are sound.
    fn entry(&self, i: u16) -> Option<&[u8]> {
        let size = self.entry_size();
        let from = at::ENTRIES + size * u64::from(i);
        if from + size > PAGE || !self.is_good(from, size) {
            return None;
        }
        self.bytes.get(from as usize..(from + size) as usize)
    }

    /// Key of entry `i`, where it is sound.
    #[must_use]
    pub fn key(&self, i: u16) -> Option<u64> {
        self.entry(i).map(|e| get64(e, 0))
    }

    /// Child of entry `i` of an inner node.
    #[must_use]
    pub fn child(&self, i: u16) -> Option<u64> {
        self.entry(i).map(|e| get64(e, 8))
    }

    /// Record `i` of a leaf.
    #[must_use]
    pub fn record(&self, i: u16) -> Option<Record> {
        self.entry(i).map(Record::parse)
    }

    /// Where in the node the name of directory entry `i` begins, where the entry is sound.
    #[must_use]
    pub fn name_at(&self, i: u16) -> Option<u16> {
        self.entry(i).map(|e| get16(e, 16))
    }

    /// Directory entry `i` of a leaf: key, inode, type and name, where entry and name are sound.
    #[must_use]
    pub fn dentry(&self, i: u16) -> Option<(u64, Ino, u8, &[u8])> {
        let e = self.entry(i)?;
        let from = u64::from(get16(e, 16));
        let len = u64::from(get8(e, 18));
        let low = at::ENTRIES + at::LEAF_ENTRY * u64::from(self.count);
        if len == 0 || from < low || from + len > PAGE || !self.is_good(from, len) {
            return None;
        }
        let name = self.bytes.get(from as usize..(from + len) as usize)?;
        Some((get64(e, 0), get64(e, 8), get8(e, 19), name))
    }
}
