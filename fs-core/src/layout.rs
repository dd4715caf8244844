// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Numbers of `docs/LAYOUT.md`: units, magics, field offsets, geometry.

use crate::host::Host;

/// Bytes of a sector: unit of the journal, least checksummed piece.
pub const SECTOR: u64 = 256;
/// Bytes of a page: unit of allocation.
pub const PAGE: u64 = 4096;
/// Pages of a chunk (2 MiB).
pub const CHUNK_PAGES: u64 = 512;
/// Chunks of a group (1 GiB); also children of a summary.
pub const GROUP_CHUNKS: u64 = 512;
/// Pages of a group.
pub const GROUP_PAGES: u64 = CHUNK_PAGES * GROUP_CHUNKS;
/// Least pages of a region (1 MiB).
pub const MIN_PAGES: u64 = 256;
/// Most pages of a region.
pub const MAX_PAGES: u64 = 1 << 51;
/// Sectors in a page.
pub const PAGE_SECTORS: u64 = PAGE / SECTOR;

/// Magic of the superblock, at offset 0 of the region and of its last page.
pub const SUPER_MAGIC: u64 = u64::from_le_bytes(*b"RPRAMFS\0");
/// Version of the superblock.
pub const VERSION: u32 = 1;
/// Flags known here.
pub const KNOWN_COMPAT: u64 = 0;
/// Flags known here.
pub const KNOWN_RO_COMPAT: u64 = 0;
/// Flags known here.
pub const KNOWN_INCOMPAT: u64 = 0;
/// `hash` field: SipHash-2-4.
pub const HASH_SIPHASH24: u32 = 1;

/// Superblock field offsets.
#[allow(missing_docs)]
pub mod sb {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 8;
    pub const CRC: usize = 12;
    pub const UUID: usize = 16;
    pub const LABEL: usize = 32;
    pub const GENERATION: usize = 64;
    pub const TOTAL_PAGES: usize = 72;
    pub const COMPAT: usize = 80;
    pub const RO_COMPAT: usize = 88;
    pub const INCOMPAT: usize = 96;
    pub const CREATED: usize = 104;
    pub const CRC_SEED: usize = 112;
    pub const HASH: usize = 116;
    pub const HASH_KEY: usize = 120;
    pub const SLOTS: usize = 136;
    pub const SHARDS: usize = 140;
    pub const DATA_START: usize = 144;
    pub const DATA_END: usize = 152;
    pub const TOP_START: usize = 160;
    pub const SUMMARY_START: usize = 168;
    pub const CHUNK_START: usize = 176;
    pub const JOURNAL_START: usize = 184;
    pub const STRUCT_START: usize = 192;
    pub const STRUCT_PAGES: usize = 200;
    pub const PPP_START: usize = 208;
    pub const PPP_PAGES: usize = 216;
    pub const PAGE_SHIFT: usize = 224;
    pub const CHUNK_SHIFT: usize = 225;
    pub const GROUP_SHIFT: usize = 226;
    /// Bytes of the superblock.
    pub const SIZE: usize = 256;
}

/// Mount marker: region offset, and field offsets in it.
#[allow(missing_docs)]
pub mod marker {
    pub const OFFSET: u64 = 256;
    pub const STATE: usize = 0;
    pub const BOOT_ID: usize = 8;
    pub const START: usize = 24;
    pub const SINCE: usize = 32;
    pub const CRC: usize = 40;
    /// Bytes of the marker that carry something.
    pub const SIZE: usize = 48;
}

/// The checksum field of every structure that begins with a magic.
pub const CRC_AT: usize = 4;

const fn magic(s: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*s)
}

/// Frontier (section 7).
pub const FRONTIER_MAGIC: u32 = magic(b"RPFR");
/// Frontier: first group that is not initialised.
pub const FRONTIER_READY: usize = 8;
/// Frontier: first group that is described at all.
pub const FRONTIER_FIRST: usize = 16;
/// Inode frontier (section 7).
pub const IFRONTIER_MAGIC: u32 = magic(b"RPIF");
/// Inode frontier: first inode never handed to a shard.
pub const IFRONTIER_NEXT: usize = 8;
/// Inode frontier: inodes the table has room for.
pub const IFRONTIER_CAPACITY: usize = 16;
/// Inode shard (section 7).
pub const SHARD_MAGIC: u32 = magic(b"RPIS");
/// Shard field offsets.
#[allow(missing_docs)]
pub mod shard {
    pub const INDEX: usize = 8;
    pub const FREE_HEAD: usize = 16;
    pub const FREE_COUNT: usize = 24;
    pub const NEXT: usize = 32;
    pub const END: usize = 40;
}

/// Sectors of the system page.
#[allow(missing_docs)]
pub mod system {
    pub const FRONTIER: u64 = 0;
    pub const IFRONTIER: u64 = 1;
    pub const ITABLE: u64 = 2;
    pub const PENDING: u64 = 3;
}
/// Number of pending sets.
pub const PENDING_SETS: u64 = 8;
/// Owner id of the inode table.
pub const ITABLE_OWNER: u64 = (1 << 63) + 2;
/// Owner id of pending set 0.
pub const PENDING_OWNER: u64 = (1 << 63) + 3;
/// Inodes in a page of the inode table.
pub const INODES_PER_PAGE: u64 = 16;

/// Chunk descriptor.
pub const CHUNK_MAGIC: u32 = magic(b"RPCD");
/// Chunk descriptor field offsets.
#[allow(missing_docs)]
pub mod chunk {
    pub const INDEX: usize = 8;
    pub const FREE: usize = 16;
    pub const CLASS: usize = 18;
    pub const BITMAP: usize = 64;
    pub const SIZE: usize = 128;
}
/// Classes of a chunk.
#[allow(missing_docs)]
pub mod class {
    pub const FREE: u8 = 0;
    pub const PACKED: u8 = 1;
    pub const COLOURED: u8 = 2;
    pub const FULL: u8 = 3;
}

/// Summary.
pub const SUMMARY_MAGIC: u32 = magic(b"RPSM");
/// Summary field offsets. The bitmap of class c is at `BITMAP + 64 * c`.
#[allow(missing_docs)]
pub mod summary {
    pub const LEVEL: usize = 8;
    pub const INDEX: usize = 16;
    pub const BITMAP: usize = 64;
}

/// Journal slot header.
pub const SLOT_MAGIC: u32 = magic(b"RPJS");
/// Account of a slot.
pub const ACCOUNT_MAGIC: u32 = magic(b"RPJA");
/// Journal slot offsets.
#[allow(missing_docs)]
pub mod slot {
    pub const PAGES: u64 = 15;
    pub const INDEX: usize = 8;
    pub const COMMIT: u64 = 16;
    pub const ACCOUNT: u64 = 256;
    pub const ACCOUNT_FREE: usize = 16;
    pub const ACCOUNT_INODES: usize = 24;
    pub const ACCOUNT_PENDING: usize = 32;
    pub const TABLE: u64 = 512;
    pub const DATA: u64 = 4096;
    /// Most sectors of a transaction.
    pub const SECTORS: u64 = 224;
}
/// Kinds of journalled sector.
#[allow(missing_docs)]
pub mod kind {
    pub const PLAIN: u8 = 0;
    pub const CHUNKS: u8 = 1;
    pub const NODE_HEADER: u8 = 2;
    pub const NODE_PAYLOAD: u8 = 3;
    pub const LAST: u8 = NODE_PAYLOAD;
}

/// Inode.
pub const INODE_MAGIC: u32 = magic(b"RPIN");
/// Inode field offsets.
#[allow(missing_docs)]
pub mod inode {
    pub const INO: usize = 8;
    pub const GENERATION: usize = 16;
    pub const MODE: usize = 20;
    pub const UID: usize = 24;
    pub const GID: usize = 28;
    pub const NLINK: usize = 32;
    pub const FLAGS: usize = 36;
    pub const SIZE: usize = 40;
    pub const PAGES: usize = 48;
    pub const ATIME: usize = 56;
    pub const MTIME: usize = 64;
    pub const CTIME: usize = 72;
    pub const BTIME: usize = 80;
    pub const RDEV: usize = 88;
    pub const LINK: usize = 96;
    pub const XATTR: usize = 104;
    pub const INTENT_START: usize = 112;
    pub const INTENT_END: usize = 120;
    pub const SEAL: usize = 128;
    pub const BODY_FORMAT: usize = 136;
    pub const BODY_DEPTH: usize = 137;
    pub const BODY_COUNT: usize = 138;
    pub const BODY_CRC: usize = 140;
    pub const BODY: usize = 144;
    pub const BODY_SIZE: usize = 112;
    /// Records an inode holds without a tree.
    pub const INLINE_RECORDS: usize = 4;
}
/// Inode flags.
#[allow(missing_docs)]
pub mod iflag {
    pub const IN_USE: u32 = 1;
    pub const SEALED: u32 = 2;
    pub const PENDING: u32 = 4;
    pub const SYSTEM: u32 = 8;
    pub const SEAL: u32 = 16;
}
/// Body formats.
#[allow(missing_docs)]
pub mod body {
    pub const INLINE: u8 = 0;
    pub const TREE: u8 = 1;
    pub const TARGET: u8 = 2;
    pub const TARGET_PAGE: u8 = 3;
}

/// Tree node.
pub const NODE_MAGIC: u32 = magic(b"RPND");
/// Node field offsets.
#[allow(missing_docs)]
pub mod node {
    pub const OWNER: usize = 8;
    pub const SELF: usize = 16;
    pub const KIND: usize = 24;
    pub const LEVEL: usize = 25;
    pub const COUNT: usize = 26;
    pub const HEAP: usize = 28;
    pub const DEAD: usize = 30;
    pub const GENERATION: usize = 32;
    pub const SUMS: usize = 64;
    pub const ENTRIES: u64 = 256;
    pub const LEAF_ENTRY: u64 = 24;
    pub const INNER_ENTRY: u64 = 16;
    pub const LEAF_MAX: u64 = 160;
    pub const INNER_MAX: u64 = 240;
    pub const MAX_DEPTH: usize = 8;
    pub const KIND_RECORDS: u8 = 1;
    pub const KIND_DENTRIES: u8 = 2;
}
/// Bit of an extent's third word: unwritten.
pub const EXTENT_UNWRITTEN: u64 = 1 << 63;
/// Bits of an extent's third word that hold the length.
pub const EXTENT_LEN: u64 = (1 << 48) - 1;

/// Attribute block.
pub const XATTR_MAGIC: u32 = magic(b"RPXA");
/// Attribute block field offsets.
#[allow(missing_docs)]
pub mod xattr {
    pub const OWNER: usize = 8;
    pub const SELF: usize = 16;
    pub const GENERATION: usize = 24;
    pub const COUNT: usize = 28;
    pub const USED: usize = 30;
    pub const ENTRIES: u64 = 64;
    /// Entry flag: the value lies elsewhere.
    pub const ELSEWHERE: u8 = 1;
}

/// Bytes of a window of a seal.
pub const SEAL_WINDOW: u64 = 2 << 20;

/// The checksum of section 4: over the offset, then the bytes.
#[cfg_attr(feature = "sites", track_caller)]
pub fn checksum<H: Host + ?Sized>(host: &H, seed: u32, offset: u64, bytes: &[u8]) -> u32 {
    host.crc32(host.crc32(seed, &offset.to_le_bytes()), bytes)
}

/// Where the parts of a region lie; all figures in pages unless named otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Geometry {
    pub total_pages: u64,
    pub slots: u64,
    pub shards: u64,
    pub top_start: u64,
    pub summary_start: u64,
    pub chunk_start: u64,
    pub journal_start: u64,
    pub struct_start: u64,
    pub struct_pages: u64,
    pub data_start: u64,
    pub data_end: u64,
}

impl Geometry {
    /// Computes the geometry; `None` where the figures are outside the limits of the layout or
    /// leave no page for data.
    #[must_use]
    pub fn new(total_pages: u64, slots: u64, struct_pages: u64) -> Option<Self> {
        if !(MIN_PAGES..=MAX_PAGES).contains(&total_pages)
            || !slots.is_power_of_two()
            || !(2..=32).contains(&slots)
            || !Self::is_room_for_struct_pages(total_pages, struct_pages)
        {
            return None;
        }
        let pages = |bytes: u64| bytes.div_ceil(PAGE);
        let chunks = total_pages.div_ceil(CHUNK_PAGES);
        let groups = chunks.div_ceil(GROUP_CHUNKS);
        let top_start = 3;
        let summary_start = top_start + pages(SECTOR * groups.div_ceil(GROUP_CHUNKS));
        let chunk_start = summary_start + pages(SECTOR * groups);
        let journal_start = chunk_start + pages(chunk::SIZE as u64 * chunks);
        let struct_start = journal_start + slot::PAGES * slots;
        let data_start = struct_start + struct_pages;
        let data_end = total_pages - 1;
        if data_start + 16 > data_end {
            return None;
        }
        Some(Geometry {
            total_pages,
            slots,
            shards: slots.min(16),
            top_start,
            summary_start,
            chunk_start,
            journal_start,
            struct_start,
            struct_pages,
            data_start,
            data_end,
        })
    }

    /// Slots that mkfs chooses for a region.
    #[must_use]
    pub fn default_slots(total_pages: u64) -> u64 {
        let wanted = (total_pages / 8192).clamp(2, 32);
        1 << (63 - wanted.leading_zeros())
    }

    /// Pages that hold 64 bytes for each page of the region, in the blocks of 2 MiB that the kernel takes
    /// them in: with what is lost before the first begins at a multiple of 2 MiB, and one more for a
    /// region that does not begin at one of 128 MiB.
    #[must_use]
    pub fn room_for_struct_pages(total_pages: u64) -> u64 {
        Self::bare_struct_pages(total_pages).next_multiple_of(CHUNK_PAGES) + 2 * CHUNK_PAGES
    }

    fn bare_struct_pages(total_pages: u64) -> u64 {
        (total_pages * 64).div_ceil(PAGE)
    }

    fn is_room_for_struct_pages(total_pages: u64, pages: u64) -> bool {
        pages == 0
            || pages == Self::room_for_struct_pages(total_pages)
            || pages == Self::bare_struct_pages(total_pages)
    }

    /// Is there room that the kernel can use for its struct pages? The first filesystems had too little.
    #[must_use]
    pub fn has_struct_pages(&self) -> bool {
        self.struct_pages == Self::room_for_struct_pages(self.total_pages)
    }

    /// Chunks of the region, the last perhaps cut short.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.total_pages.div_ceil(CHUNK_PAGES)
    }

    /// Groups of the region, the last perhaps cut short.
    #[must_use]
    pub fn groups(&self) -> u64 {
        self.chunks().div_ceil(GROUP_CHUNKS)
    }

    /// Top summaries.
    #[must_use]
    pub fn tops(&self) -> u64 {
        self.groups().div_ceil(GROUP_CHUNKS)
    }

    /// The first group that is described.
    #[must_use]
    pub fn first_group(&self) -> u64 {
        self.data_start / GROUP_PAGES
    }

    /// Offset of a sector of the system page.
    #[must_use]
    pub fn system_offset(&self, sector: u64) -> u64 {
        PAGE + sector * SECTOR
    }

    /// Offset of an inode shard.
    #[must_use]
    pub fn shard_offset(&self, index: u64) -> u64 {
        2 * PAGE + index * SECTOR
    }

    /// Offset of a top summary.
    #[must_use]
    pub fn top_offset(&self, index: u64) -> u64 {
        self.top_start * PAGE + index * SECTOR
    }

    /// Offset of a group's summary.
    #[must_use]
    pub fn summary_offset(&self, group: u64) -> u64 {
        self.summary_start * PAGE + group * SECTOR
    }

    /// Offset of a chunk's descriptor.
    #[must_use]
    pub fn chunk_offset(&self, chunk: u64) -> u64 {
        self.chunk_start * PAGE + chunk * chunk::SIZE as u64
    }

    /// Offset of a journal slot.
    #[must_use]
    pub fn slot_offset(&self, slot: u64) -> u64 {
        (self.journal_start + slot * slot::PAGES) * PAGE
    }

    /// Offset of the backup superblock.
    #[must_use]
    pub fn backup_offset(&self) -> u64 {
        self.data_end * PAGE
    }

    /// Offset of the copy of the inode table's inode.
    #[must_use]
    pub fn itable_copy_offset(&self) -> u64 {
        self.backup_offset() + 2 * SECTOR
    }

    /// Are all `len` pages from `page` in the data zone?
    #[must_use]
    pub fn is_data(&self, page: u64, len: u64) -> bool {
        page >= self.data_start
            && len > 0
            && page
                .checked_add(len)
                .is_some_and(|end| end <= self.data_end)
    }
}

/// SipHash-2-4 of `data` (Aumasson and Bernstein, 2012), the hash of directory entries.
#[must_use]
pub fn siphash24(key: [u64; 2], data: &[u8]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    fn round(v: &mut [u64; 4]) {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    }
    let block = |v: &mut [u64; 4], m: u64| {
        v[3] ^= m;
        round(v);
        round(v);
        v[0] ^= m;
    };
    let words = data.chunks_exact(8);
    let mut last = (data.len() as u64) << 56;
    for (i, b) in words.remainder().iter().enumerate() {
        last |= u64::from(*b) << (8 * i);
    }
    for w in words {
        block(&mut v, crate::bytes::get64(w, 0));
    }
    block(&mut v, last);
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

/// Directory key of a name, without the low byte that tells equal hashes apart.
#[must_use]
pub fn name_key(key: [u64; 2], name: &[u8]) -> u64 {
    let k = (siphash24(key, name) >> 1) & !0xff;
    if k == 0 {
        0x100
    } else {
        k
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of the SipHash paper's reference code: key 00..0f, data 00, 00 01, ...
    #[test]
    fn siphash_vectors() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let data: [u8; 15] = core::array::from_fn(|i| i as u8);
        assert_eq!(siphash24(key, &data[..0]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash24(key, &data[..1]), 0x74f8_39c5_93dc_67fd);
        assert_eq!(siphash24(key, &data), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn geometry_limits() {
        for shift in [20, 21, 24, 30, 36, 40, 44, 50] {
            let pages = (1u64 << shift) / PAGE;
            let g = Geometry::new(pages, Geometry::default_slots(pages), 0).unwrap();
            assert!(g.data_start < g.data_end);
            assert!(
                shift < 30 || g.data_start * 400 <= pages,
                "metadata of 2^{shift}"
            );
        }
        assert!(Geometry::new(MIN_PAGES - 1, 2, 0).is_none());
        assert!(Geometry::new(MAX_PAGES + 1, 2, 0).is_none());
        assert!(Geometry::new(1 << 20, 3, 0).is_none());
        assert!(Geometry::new(1 << 20, 4, 7).is_none());
    }
}
