// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Inodes as they lie in the region.

use super::store::{Sector, Store};
use crate::bytes::{get16, get32, get64, get8, put, put16, put32, put64, put8};
use crate::layout::{
    body, iflag, inode as at, INODE_MAGIC, ITABLE_OWNER, PENDING_OWNER, PENDING_SETS,
};
use crate::types::{self, Ino};

/// What a sector of the inode table holds. Lives for a moment each, so the sizes do not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Slot {
    /// An inode, in use or free.
    Inode(Inode),
    /// Zeros: never used.
    Zero,
    /// Neither; why.
    Bad(&'static str),
}

/// All fields of an inode (LAYOUT.md, section 10).
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub offset: u64,
    pub ino: Ino,
    pub generation: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub flags: u32,
    pub size: u64,
    pub pages: u64,
    pub atime: i64,
    pub mtime: i64,
    pub ctime: i64,
    pub btime: i64,
    pub rdev: u64,
    pub link: u64,
    pub xattr: u64,
    pub intent_start: u64,
    pub intent_end: u64,
    pub seal: u64,
    pub format: u8,
    pub depth: u8,
    pub count: u16,
    pub body_crc: u32,
    pub body: [u8; at::BODY_SIZE],
}

impl Inode {
    /// A free inode.
    #[must_use]
    pub fn free(offset: u64, ino: Ino, generation: u32) -> Self {
        Inode {
            offset,
            ino,
            generation,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 0,
            flags: 0,
            size: 0,
            pages: 0,
            atime: 0,
            mtime: 0,
            ctime: 0,
            btime: 0,
            rdev: 0,
            link: 0,
            xattr: 0,
            intent_start: 0,
            intent_end: 0,
            seal: 0,
            format: body::INLINE,
            depth: 0,
            count: 0,
            body_crc: 0,
            body: [0; at::BODY_SIZE],
        }
    }

    /// Does a system inode have only what one has: a body, its pages and (the table) a size?
    pub(super) fn is_system(&self, size: u64, pages: u64) -> bool {
        let mut want = Inode::free(self.offset, self.ino, self.generation);
        want.flags = iflag::IN_USE | iflag::SYSTEM;
        want.size = size;
        want.pages = pages;
        want.format = self.format;
        want.depth = self.depth;
        want.count = self.count;
        want.body = self.body;
        let body = match self.format {
            body::INLINE => self.depth == 0 && usize::from(self.count) <= at::INLINE_RECORDS,
            body::TREE => self.count == 0,
            _ => false,
        };
        body && *self == want
    }

    /// Takes the fields from a sector; checks nothing.
    #[must_use]
    pub fn parse(offset: u64, s: &Sector) -> Self {
        let mut bytes = [0; at::BODY_SIZE];
        if let Some(b) = s.get(at::BODY..at::BODY + at::BODY_SIZE) {
            bytes.copy_from_slice(b);
        }
        Inode {
            offset,
            ino: get64(s, at::INO),
            generation: get32(s, at::GENERATION),
            mode: get32(s, at::MODE),
            uid: get32(s, at::UID),
            gid: get32(s, at::GID),
            nlink: get32(s, at::NLINK),
            flags: get32(s, at::FLAGS),
            size: get64(s, at::SIZE),
            pages: get64(s, at::PAGES),
            atime: get64(s, at::ATIME) as i64,
            mtime: get64(s, at::MTIME) as i64,
            ctime: get64(s, at::CTIME) as i64,
            btime: get64(s, at::BTIME) as i64,
            rdev: get64(s, at::RDEV),
            link: get64(s, at::LINK),
            xattr: get64(s, at::XATTR),
            intent_start: get64(s, at::INTENT_START),
            intent_end: get64(s, at::INTENT_END),
            seal: get64(s, at::SEAL),
            format: get8(s, at::BODY_FORMAT),
            depth: get8(s, at::BODY_DEPTH),
            count: get16(s, at::BODY_COUNT),
            body_crc: get32(s, at::BODY_CRC),
            body: bytes,
        }
    }

    /// The sector, with its checksum.
    #[must_use]
    pub fn encode(&self, store: &Store<'_>) -> Sector {
        let mut s = [0; 256];
        put32(&mut s, 0, INODE_MAGIC);
        put64(&mut s, at::INO, self.ino);
        put32(&mut s, at::GENERATION, self.generation);
        put32(&mut s, at::MODE, self.mode);
        put32(&mut s, at::UID, self.uid);
        put32(&mut s, at::GID, self.gid);
        put32(&mut s, at::NLINK, self.nlink);
        put32(&mut s, at::FLAGS, self.flags);
        put64(&mut s, at::SIZE, self.size);
        put64(&mut s, at::PAGES, self.pages);
        put64(&mut s, at::ATIME, self.atime as u64);
        put64(&mut s, at::MTIME, self.mtime as u64);
        put64(&mut s, at::CTIME, self.ctime as u64);
        put64(&mut s, at::BTIME, self.btime as u64);
        put64(&mut s, at::RDEV, self.rdev);
        put64(&mut s, at::LINK, self.link);
        put64(&mut s, at::XATTR, self.xattr);
        put64(&mut s, at::INTENT_START, self.intent_start);
        put64(&mut s, at::INTENT_END, self.intent_end);
        put64(&mut s, at::SEAL, self.seal);
        put8(&mut s, at::BODY_FORMAT, self.format);
        put8(&mut s, at::BODY_DEPTH, self.depth);
        put16(&mut s, at::BODY_COUNT, self.count);
        put32(&mut s, at::BODY_CRC, self.body_crc);
        put(&mut s, at::BODY, &self.body);
        store.seal(self.offset, &mut s);
        s
    }

    /// Reads and checks what the inode says of itself.
    pub fn load(store: &Store<'_>, offset: u64, ino: Ino) -> crate::Result<Slot> {
        Ok(Inode::classify(store, offset, ino, &store.sector(offset)?))
    }

    /// As [`Inode::load`], of bytes read before.
    #[must_use]
    pub fn classify(store: &Store<'_>, offset: u64, ino: Ino, s: &Sector) -> Slot {
        if s.iter().all(|b| *b == 0) {
            return Slot::Zero;
        }
        if get32(s, 0) != INODE_MAGIC {
            return Slot::Bad("no magic");
        }
        if !store.intact(offset, s, INODE_MAGIC) {
            return Slot::Bad("wrong checksum");
        }
        let inode = Inode::parse(offset, s);
        if inode.ino != ino {
            return Slot::Bad("says it is another inode");
        }
        Slot::Inode(inode)
    }

    /// Is it allocated?
    #[must_use]
    pub const fn in_use(&self) -> bool {
        self.flags & iflag::IN_USE != 0
    }

    /// Type bits of the mode.
    #[must_use]
    pub const fn kind(&self) -> u32 {
        self.mode & types::S_IFMT
    }

    /// Is it a seal?
    #[must_use]
    pub const fn is_seal(&self) -> bool {
        self.flags & iflag::SEAL != 0
    }

    /// Is there a range of pages that is being removed?
    #[must_use]
    pub const fn has_intent(&self) -> bool {
        self.intent_start < self.intent_end
    }

    /// Root page of the tree, where the body is one.
    #[must_use]
    pub fn root(&self) -> Option<u64> {
        (self.format == body::TREE).then(|| get64(&self.body, 0))
    }

    /// Records the tree should have.
    #[must_use]
    pub fn tree_records(&self) -> u64 {
        get64(&self.body, 8)
    }

    /// The inline records.
    pub fn inline(&self) -> impl Iterator<Item = super::node::Record> + '_ {
        let count = if self.format == body::INLINE {
            usize::from(self.count)
        } else {
            0
        };
        self.body
            .chunks_exact(24)
            .take(count.min(at::INLINE_RECORDS))
            .map(super::node::Record::parse)
    }

    /// Makes the body empty.
    pub(super) fn clear_body(&mut self) {
        self.format = body::INLINE;
        self.depth = 0;
        self.count = 0;
        self.body_crc = 0;
        self.body = [0; at::BODY_SIZE];
    }

    /// Makes the body a tree.
    pub(super) fn set_tree(&mut self, root: u64, depth: u8, records: u64) {
        self.clear_body();
        self.format = body::TREE;
        self.depth = depth;
        put64(&mut self.body, 0, root);
        put64(&mut self.body, 8, records);
    }

    /// Makes the body inline records (at most four).
    pub(super) fn set_inline(&mut self, records: &[super::node::Record]) {
        self.clear_body();
        for (i, r) in records.iter().take(at::INLINE_RECORDS).enumerate() {
            put64(&mut self.body, i * 24, r.key);
            put64(&mut self.body, i * 24 + 8, r.a);
            put64(&mut self.body, i * 24 + 16, r.b);
            self.count += 1;
        }
    }
}

/// Is it one of the seven types a file can have?
#[must_use]
pub const fn is_type(kind: u32) -> bool {
    matches!(
        kind,
        types::S_IFREG
            | types::S_IFDIR
            | types::S_IFLNK
            | types::S_IFCHR
            | types::S_IFBLK
            | types::S_IFIFO
            | types::S_IFSOCK
    )
}

/// Name of a system inode, for messages.
#[must_use]
pub fn system_name(owner: Ino) -> Option<&'static str> {
    const SETS: [&str; PENDING_SETS as usize] = [
        "pending set 0",
        "pending set 1",
        "pending set 2",
        "pending set 3",
        "pending set 4",
        "pending set 5",
        "pending set 6",
        "pending set 7",
    ];
    if owner == ITABLE_OWNER {
        return Some("inode table");
    }
    let set = owner.checked_sub(PENDING_OWNER)?;
    SETS.get(usize::try_from(set).ok()?).copied()
}
