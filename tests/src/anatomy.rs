// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Every structure of a region and every field of it, as docs/LAYOUT.md has them. Nothing here
//! comes from the core: what both get wrong in the same way would never be noticed.

use crate::mem::MemRegion;
use fs_core::Region;
use std::collections::BTreeSet;

const PAGE: u64 = 4096;
const SECTOR: u64 = 256;

/// What a structure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Superblock,
    Backup,
    Marker,
    Frontier,
    InodeFrontier,
    TableInode,
    TableInodeCopy,
    PendingInode,
    Shard,
    TopSummary,
    GroupSummary,
    Chunk,
    SlotHeader,
    Account,
    SlotTable,
    Staged,
    Inode,
    Seal,
    FreeInode,
    RecordLeaf,
    RecordInner,
    DirLeaf,
    DirInner,
    Attributes,
    Value,
    Target,
    /// What the layout says is zero, or says nothing of.
    Reserved,
}

/// A run of bytes with a meaning of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// From the start of the structure.
    pub at: usize,
    /// Bytes.
    pub size: usize,
    /// What it is; those of a repeated part have the same name.
    pub name: &'static str,
}

/// Which checksum a structure has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sum {
    None,
    /// Without the offset, at 12.
    Super,
    /// Over the 40 bytes before it.
    Marker,
    /// Over the whole, at 4.
    Own,
    /// As `Own`, but without the commit word; and the commit word's own.
    Slot,
    /// In the commit word of the slot at this offset.
    Commit(u64),
    /// In the header, for each sector and itself.
    Node,
    /// In another structure: where, and the offset and length of that one.
    Elsewhere {
        field: u64,
        holder: u64,
        len: usize,
    },
}

/// A structure.
#[derive(Clone, Debug)]
pub struct Block {
    /// What it is.
    pub kind: Kind,
    /// Region offset.
    pub off: u64,
    /// Bytes.
    pub len: usize,
    /// Whose it is: an inode number, or 0.
    pub owner: u64,
    /// Its fields, which cover it.
    pub fields: Vec<Field>,
    sum: Sum,
}

/// All structures of an image.
#[derive(Clone, Debug)]
pub struct Anatomy {
    /// What checksums start from.
    pub seed: u32,
    /// In no order.
    pub blocks: Vec<Block>,
}

type Rows = &'static [(usize, usize, &'static str)];

/// Section 5.
pub const SUPERBLOCK: Rows = &[
    (0, 8, "magic"),
    (8, 4, "version"),
    (12, 4, "crc"),
    (16, 16, "uuid"),
    (32, 32, "label"),
    (64, 8, "generation"),
    (72, 8, "total_pages"),
    (80, 8, "compat"),
    (88, 8, "ro_compat"),
    (96, 8, "incompat"),
    (104, 8, "created"),
    (112, 4, "crc_seed"),
    (116, 4, "hash"),
    (120, 16, "hash_key"),
    (136, 4, "slots"),
    (140, 4, "shards"),
    (144, 8, "data_start"),
    (152, 8, "data_end"),
    (160, 8, "top_start"),
    (168, 8, "summary_start"),
    (176, 8, "chunk_start"),
    (184, 8, "journal_start"),
    (192, 8, "struct_start"),
    (200, 8, "struct_pages"),
    (208, 8, "ppp_start"),
    (216, 8, "ppp_pages"),
    (224, 1, "page_shift"),
    (225, 1, "chunk_shift"),
    (226, 1, "group_shift"),
    (227, 29, "zero"),
];

/// Section 6; the state's parts are fields of their own.
pub const MARKER: Rows = &[
    (0, 4, "pid"),
    (4, 1, "kind"),
    (5, 3, "boot hash"),
    (8, 16, "boot_id"),
    (24, 8, "start"),
    (32, 8, "since"),
    (40, 4, "crc"),
    (44, 212, "zero"),
];

/// Section 7.
pub const FRONTIER: Rows = &[
    (0, 4, "magic"),
    (4, 4, "crc"),
    (8, 8, "groups_ready"),
    (16, 8, "first_group"),
    (24, 232, "zero"),
];

/// Section 7.
pub const INODE_FRONTIER: Rows = &[
    (0, 4, "magic"),
    (4, 4, "crc"),
    (8, 8, "next"),
    (16, 8, "capacity"),
    (24, 232, "zero"),
];

/// Section 7.
pub const SHARD: Rows = &[
    (0, 4, "magic"),
    (4, 4, "crc"),
    (8, 8, "index"),
    (16, 8, "free_head"),
    (24, 8, "free_count"),
    (32, 8, "next"),
    (40, 8, "end"),
    (48, 208, "zero"),
];

/// Section 8.
pub const CHUNK: Rows = &[
    (0, 4, "magic"),
    (4, 4, "crc"),
    (8, 8, "index"),
    (16, 2, "free"),
    (18, 1, "class"),
    (19, 45, "zero"),
    (64, 8, "bitmap"),
    (72, 8, "bitmap"),
    (80, 8, "bitmap"),
    (88, 8, "bitmap"),
    (96, 8, "bitmap"),
    (104, 8, "bitmap"),
    (112, 8, "bitmap"),
    (120, 8, "bitmap"),
];

/// Section 8.
pub const SUMMARY: Rows = &[
    (0, 4, "magic"),
    (4, 4, "crc"),
    (8, 8, "level"),
    (16, 8, "index"),
    (24, 40, "zero"),
    (64, 8, "class 0, first word"),
    (72, 56, "class 0"),
    (128, 8, "class 1, first word"),
    (136, 56, "class 1"),
    (192, 8, "class 2, first word"),
    (200, 56, "class 2"),
];

/// Section 9.
pub const SLOT_HEADER: Rows = &[
    (0, 4, "magic"),
    (4, 4, "crc"),
    (8, 8, "index"),
    (16, 2, "commit sequence"),
    (18, 2, "commit count"),
    (20, 4, "commit crc"),
    (24, 232, "zero"),
];

/// Section 9.
pub const ACCOUNT: Rows = &[
    (0, 4, "magic"),
    (4, 4, "crc"),
    (8, 8, "index"),
    (16, 8, "free_pages"),
    (24, 8, "used_inodes"),
    (32, 8, "pending"),
    (40, 216, "zero"),
];

/// Section 10, but for the body.
pub const INODE: Rows = &[
    (0, 4, "magic"),
    (4, 4, "crc"),
    (8, 8, "ino"),
    (16, 4, "generation"),
    (20, 4, "mode"),
    (24, 4, "uid"),
    (28, 4, "gid"),
    (32, 4, "nlink"),
    (36, 4, "flags"),
    (40, 8, "size"),
    (48, 8, "pages"),
    (56, 8, "atime"),
    (64, 8, "mtime"),
    (72, 8, "ctime"),
    (80, 8, "btime"),
    (88, 8, "rdev"),
    (96, 8, "link"),
    (104, 8, "xattr"),
    (112, 8, "intent_start"),
    (120, 8, "intent_end"),
    (128, 8, "seal"),
    (136, 1, "body_format"),
    (137, 1, "body_depth"),
    (138, 2, "body_count"),
    (140, 4, "body_crc"),
];

/// Section 11: the header's sector, but for the checksums of the others.
pub const NODE_HEADER: Rows = &[
    (0, 4, "magic"),
    (4, 4, "crc"),
    (8, 8, "owner"),
    (16, 8, "self"),
    (24, 1, "kind"),
    (25, 1, "level"),
    (26, 2, "count"),
    (28, 2, "heap"),
    (30, 2, "dead"),
    (32, 4, "generation"),
    (36, 28, "zero"),
];

/// Section 12.
pub const ATTRIBUTES: Rows = &[
    (0, 4, "magic"),
    (4, 4, "crc"),
    (8, 8, "owner"),
    (16, 8, "self"),
    (24, 4, "generation"),
    (28, 2, "count"),
    (30, 2, "used"),
    (32, 32, "zero"),
];

/// Fields one behind the other.
struct Fields(Vec<Field>);

impl Fields {
    fn of(rows: Rows) -> Self {
        let field = |&(at, size, name): &(usize, usize, &'static str)| Field { at, size, name };
        Fields(rows.iter().map(field).collect())
    }

    fn end(&self) -> usize {
        self.0.last().map_or(0, |f| f.at + f.size)
    }

    fn add(&mut self, size: usize, name: &'static str) {
        if size > 0 {
            let at = self.end();
            self.0.push(Field { at, size, name });
        }
    }

    /// All up to `end`.
    fn fill(&mut self, end: usize, name: &'static str) {
        self.add(end.saturating_sub(self.end()), name);
    }
}

fn le(b: &[u8], at: usize, size: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(part) = b.get(at..at + size) {
        word[..size].copy_from_slice(part);
    }
    u64::from_le_bytes(word)
}

fn records(f: &mut Fields, count: usize) {
    for _ in 0..count {
        f.add(8, "record key");
        f.add(8, "record second word");
        f.add(6, "record third word");
        f.add(2, "record flags");
    }
}

fn inode_fields(b: &[u8]) -> Vec<Field> {
    let mut f = Fields::of(INODE);
    match b[136] {
        0 => {
            records(&mut f, (le(b, 138, 2) as usize).min(4));
            f.fill(240, "no record");
            f.fill(256, "zero behind records");
        }
        1 => {
            f.add(8, "root page");
            f.add(8, "records");
            f.fill(256, "zero behind the root");
        }
        2 => f.fill(256, "target"),
        _ => {
            f.add(8, "target page");
            f.fill(256, "zero behind the page");
        }
    }
    f.0
}

fn node_fields(b: &[u8]) -> Vec<Field> {
    let mut f = Fields::of(NODE_HEADER);
    for _ in 0..15 {
        f.add(4, "sector crc");
    }
    f.fill(256, "zero behind the checksums");
    let (kind, level, count) = (b[24], b[25], le(b, 26, 2) as usize);
    if level > 0 {
        for i in 0..count.min(240) {
            f.add(8, if i == 0 { "first key" } else { "key" });
            f.add(8, "child");
        }
        f.fill(4096, "no child");
    } else if kind == 1 {
        records(&mut f, count.min(160));
        f.fill(4096, "no record");
    } else {
        let mut names = Vec::new();
        for i in 0..count.min(160) {
            let at = 256 + 24 * i;
            names.push((le(b, at + 16, 2) as usize, b[at + 18] as usize));
            f.add(8, "entry key");
            f.add(8, "entry inode");
            f.add(2, "name offset");
            f.add(1, "name length");
            f.add(1, "entry type");
            f.add(4, "entry zero");
        }
        f.fill(le(b, 28, 2) as usize, "no entry");
        names.sort_unstable();
        for (at, len) in names {
            f.fill(at, "dead bytes");
            f.add(len, "name");
        }
        f.fill(4096, "dead bytes");
    }
    f.0
}

/// A value that lies elsewhere: page, length, where its checksum stands in the block.
type Far = (u64, usize, usize);

fn attribute_fields(b: &[u8]) -> (Vec<Field>, Vec<Far>) {
    let mut f = Fields::of(ATTRIBUTES);
    let mut far = Vec::new();
    for _ in 0..le(b, 28, 2) {
        let at = f.end();
        let (name, flags, len) = (le(b, at, 1) as usize, le(b, at + 1, 1), le(b, at + 4, 4));
        f.add(1, "name length");
        f.add(1, "flags");
        f.add(2, "entry zero");
        f.add(4, "value length");
        f.add(name, "name");
        if flags & 1 != 0 {
            let at = f.end();
            far.push((le(b, at, 8), len as usize, at + 8));
            f.add(8, "value page");
            f.add(4, "value crc");
            f.add(4, "value zero");
        } else {
            f.add(len as usize, "value");
        }
        f.fill(f.end().next_multiple_of(8), "padding");
    }
    f.fill(4096, "behind the entries");
    (f.0, far)
}

/// Finds the structures of an image that is sound.
struct Walk<'m> {
    mem: &'m MemRegion,
    blocks: Vec<Block>,
    seen: BTreeSet<u64>,
}

impl Walk<'_> {
    fn bytes(&self, off: u64, len: usize) -> Vec<u8> {
        let mut b = vec![0; len];
        self.mem.read(off, &mut b).expect("inside");
        b
    }

    fn add(&mut self, kind: Kind, off: u64, owner: u64, fields: Vec<Field>, sum: Sum) {
        let len = fields.last().map_or(0, |f| f.at + f.size);
        if len > 0 && self.seen.insert(off) {
            self.blocks.push(Block {
                kind,
                off,
                len,
                owner,
                fields,
                sum,
            });
        }
    }

    fn rows(&mut self, kind: Kind, off: u64, rows: Rows, sum: Sum) {
        self.add(kind, off, 0, Fields::of(rows).0, sum);
    }

    fn reserved(&mut self, from: u64, to: u64) {
        let mut f = Fields(Vec::new());
        f.fill((to - from) as usize, "zero");
        self.add(Kind::Reserved, from, 0, f.0, Sum::None);
    }

    /// An inode and all below it; answers its records, if it has any.
    fn inode(&mut self, kind: Kind, off: u64) -> Vec<[u64; 3]> {
        let b = self.bytes(off, 256);
        let ino = le(&b, 8, 8);
        self.add(kind, off, ino, inode_fields(&b), Sum::Own);
        let mut found = Vec::new();
        match b[136] {
            0 => {
                for i in 0..(le(&b, 138, 2) as usize).min(4) {
                    let word = |w: usize| le(&b, 144 + 24 * i + 8 * w, 8);
                    found.push([word(0), word(1), word(2)]);
                }
            }
            1 => self.node(le(&b, 144, 8), &mut found),
            3 => {
                let mut f = Fields(Vec::new());
                f.fill(le(&b, 40, 8) as usize, "target");
                let sum = Sum::Elsewhere {
                    field: off + 140,
                    holder: off,
                    len: 256,
                };
                self.add(Kind::Target, le(&b, 144, 8) * PAGE, ino, f.0, sum);
            }
            _ => {}
        }
        let xattr = le(&b, 104, 8) * PAGE;
        if xattr != 0 && b[20..24] != [0; 4] {
            let (fields, far) = attribute_fields(&self.bytes(xattr, 4096));
            self.add(Kind::Attributes, xattr, ino, fields, Sum::Own);
            for (page, len, at) in far {
                let mut f = Fields(Vec::new());
                f.fill(len, "value");
                let sum = Sum::Elsewhere {
                    field: xattr + at as u64,
                    holder: xattr,
                    len: 4096,
                };
                self.add(Kind::Value, page * PAGE, ino, f.0, sum);
            }
        }
        found
    }

    fn node(&mut self, page: u64, found: &mut Vec<[u64; 3]>) {
        let b = self.bytes(page * PAGE, 4096);
        let (dir, level) = (b[24] == 2, b[25]);
        let kind = match (dir, level) {
            (false, 0) => Kind::RecordLeaf,
            (false, _) => Kind::RecordInner,
            (true, 0) => Kind::DirLeaf,
            (true, _) => Kind::DirInner,
        };
        self.add(kind, page * PAGE, le(&b, 8, 8), node_fields(&b), Sum::Node);
        for i in 0..le(&b, 26, 2) as usize {
            if level > 0 {
                self.node(le(&b, 256 + 16 * i + 8, 8), found);
            } else if !dir {
                let word = |w: usize| le(&b, 256 + 24 * i + 8 * w, 8);
                found.push([word(0), word(1), word(2)]);
            }
        }
    }

    fn slot(&mut self, base: u64) {
        self.rows(Kind::SlotHeader, base, SLOT_HEADER, Sum::Slot);
        self.rows(Kind::Account, base + 256, ACCOUNT, Sum::Own);
        let count = le(&self.bytes(base + 16, 8), 2, 2) as usize;
        let mut f = Fields(Vec::new());
        for i in 0..224 {
            let used = i < count;
            f.add(
                1,
                if used {
                    "entry kind"
                } else {
                    "no entry's kind"
                },
            );
            f.add(
                7,
                if used {
                    "entry home"
                } else {
                    "no entry's home"
                },
            );
        }
        self.add(Kind::SlotTable, base + 512, 0, f.0, Sum::Commit(base));
        self.reserved(base + 2304, base + PAGE);
        for i in 0..224 {
            let name = if i < count { "contents" } else { "no contents" };
            let mut f = Fields(Vec::new());
            f.fill(256, name);
            let off = base + PAGE + SECTOR * i as u64;
            self.add(Kind::Staged, off, 0, f.0, Sum::Commit(base));
        }
    }
}

impl Anatomy {
    /// The structures of an image whose trees are sound.
    ///
    /// # Panics
    /// Where they are not.
    #[must_use]
    pub fn of(mem: &MemRegion) -> Self {
        let word = |at: u64| mem.load(at).expect("inside");
        let (total, end) = (word(72), word(152));
        let (slots, shards) = (word(136) & 0xffff_ffff, word(136) >> 32);
        let (top, summary, chunk, journal) = (word(160), word(168), word(176), word(184));
        let chunks = total.div_ceil(512);
        let groups = chunks.div_ceil(512);
        let mut w = Walk {
            mem,
            blocks: Vec::new(),
            seen: BTreeSet::new(),
        };
        w.rows(Kind::Superblock, 0, SUPERBLOCK, Sum::Super);
        w.rows(Kind::Marker, 256, MARKER, Sum::Marker);
        w.reserved(512, PAGE);
        w.rows(Kind::Frontier, PAGE, FRONTIER, Sum::Own);
        w.rows(Kind::InodeFrontier, PAGE + 256, INODE_FRONTIER, Sum::Own);
        let table = w.inode(Kind::TableInode, PAGE + 512);
        for n in 0..8 {
            w.inode(Kind::PendingInode, PAGE + 768 + 256 * n);
        }
        w.reserved(PAGE + 11 * 256, 2 * PAGE);
        for s in 0..shards {
            w.rows(Kind::Shard, 2 * PAGE + 256 * s, SHARD, Sum::Own);
        }
        w.reserved(2 * PAGE + 256 * shards, 3 * PAGE);
        let tops = groups.div_ceil(512);
        for i in 0..tops {
            let off = top * PAGE + 256 * i;
            w.rows(Kind::TopSummary, off, SUMMARY, Sum::Own);
        }
        w.reserved(top * PAGE + 256 * tops, summary * PAGE);
        for i in 0..groups {
            let off = summary * PAGE + 256 * i;
            w.rows(Kind::GroupSummary, off, SUMMARY, Sum::Own);
        }
        w.reserved(summary * PAGE + 256 * groups, chunk * PAGE);
        for i in 0..chunks {
            let off = chunk * PAGE + 128 * i;
            w.rows(Kind::Chunk, off, CHUNK, Sum::Own);
        }
        w.reserved(chunk * PAGE + 128 * chunks, journal * PAGE);
        for s in 0..slots {
            w.slot((journal + 15 * s) * PAGE);
        }
        w.rows(Kind::Backup, end * PAGE, SUPERBLOCK, Sum::Super);
        w.reserved(end * PAGE + 256, end * PAGE + 512);
        let copy = inode_fields(&w.bytes(end * PAGE + 512, 256));
        let owner = (1 << 63) + 2;
        w.add(
            Kind::TableInodeCopy,
            end * PAGE + 512,
            owner,
            copy,
            Sum::Own,
        );
        w.reserved(end * PAGE + 768, (end + 1) * PAGE);
        for [_, page, len] in table {
            for off in (page * PAGE..(page + (len & 0xffff_ffff_ffff)) * PAGE).step_by(256) {
                let b = w.bytes(off, 256);
                let (mode, flags) = (le(&b, 20, 4), le(&b, 36, 4));
                let kind = match (flags & 16 != 0, mode) {
                    (true, _) => Kind::Seal,
                    (false, 0) => Kind::FreeInode,
                    _ => Kind::Inode,
                };
                w.inode(kind, off);
            }
        }
        Anatomy {
            seed: word(112) as u32,
            blocks: w.blocks,
        }
    }

    /// The structure that has the byte at `off`.
    #[must_use]
    pub fn at(&self, off: u64) -> Option<&Block> {
        self.blocks
            .iter()
            .find(|b| (b.off..b.off + b.len as u64).contains(&off))
    }

    /// Makes the checksums right that vouch for a structure, whatever it holds now.
    pub fn mend<R: Region>(&self, region: &R, block: &Block) {
        let get = |off: u64, len: usize| {
            let mut b = vec![0; len];
            region.read(off, &mut b).expect("inside");
            b
        };
        let put = |off: u64, v: u32| region.write(off, &v.to_le_bytes()).expect("inside");
        let own = |off: u64, len: usize| {
            let mut b = get(off, len);
            b[4..8].fill(0);
            put(off + 4, sum(self.seed, &[&off.to_le_bytes(), &b]));
        };
        let commit = |base: u64| {
            let word = region.load(base + 16).expect("inside");
            let count = (word >> 16 & 0xffff).min(224) as usize;
            if word != 0 {
                let crc = sum(
                    self.seed,
                    &[
                        &base.to_le_bytes(),
                        &(word & 0xffff_ffff).to_le_bytes(),
                        &get(base + 512, 8 * count),
                        &get(base + PAGE, 256 * count),
                    ],
                );
                put(base + 20, crc);
            }
        };
        let off = block.off;
        match block.sum {
            Sum::None => {}
            Sum::Super => {
                let mut b = get(off, 256);
                b[12..16].fill(0);
                put(off + 12, sum(0, &[&b]));
            }
            Sum::Marker => put(off + 40, sum(0, &[&get(off, 40)])),
            Sum::Own => own(off, block.len),
            Sum::Slot => {
                let mut b = get(off, 256);
                b[4..8].fill(0);
                b[16..24].fill(0);
                put(off + 4, sum(self.seed, &[&off.to_le_bytes(), &b]));
                commit(off);
            }
            Sum::Commit(base) => commit(base),
            Sum::Node => {
                for s in 1..16 {
                    let at = off + 256 * s;
                    let crc = sum(self.seed, &[&at.to_le_bytes(), &get(at, 256)]);
                    put(off + 64 + 4 * (s - 1), crc);
                }
                own(off, 256);
            }
            Sum::Elsewhere { field, holder, len } => {
                let crc = sum(self.seed, &[&off.to_le_bytes(), &get(off, block.len)]);
                put(field, crc);
                own(holder, len);
            }
        }
    }
}

impl Block {
    /// Is there a checksum that vouches for it?
    #[must_use]
    pub fn is_vouched_for(&self) -> bool {
        self.sum != Sum::None
    }

    /// Where its bytes lie.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.off..self.off + self.len as u64
    }
}

fn sum(start: u32, parts: &[&[u8]]) -> u32 {
    let mut h = crc32fast::Hasher::new_with_initial(start);
    for part in parts {
        h.update(part);
    }
    h.finalize()
}

/// The fields cover a structure of `len` bytes, each byte once.
///
/// # Errors
/// Where they do not.
pub fn covers(fields: &[Field], len: usize) -> Result<(), String> {
    let mut end = 0;
    for f in fields {
        if f.at != end || f.size == 0 {
            return Err(format!(
                "{} at {}: the field before ends at {end}",
                f.name, f.at
            ));
        }
        end += f.size;
    }
    if end == len {
        Ok(())
    } else {
        Err(format!("the fields end at {end} of {len}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_cover_every_byte() {
        for (rows, len) in [
            (SUPERBLOCK, 256),
            (MARKER, 256),
            (FRONTIER, 256),
            (INODE_FRONTIER, 256),
            (SHARD, 256),
            (CHUNK, 128),
            (SUMMARY, 256),
            (SLOT_HEADER, 256),
            (ACCOUNT, 256),
            (INODE, 144),
            (NODE_HEADER, 64),
            (ATTRIBUTES, 64),
        ] {
            covers(&Fields::of(rows).0, len).expect(rows[1].2);
        }
    }
}
