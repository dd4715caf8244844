// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Structures made by hand, with checksums that are right: what damage seldom is, and malice is.

use crate::fixture::inode;
use crate::host::TestHost;
use fs_core::layout::{checksum, node, slot, Geometry, NODE_MAGIC, PAGE, SECTOR};
use fs_core::{probe, Fs, Host, Ino, Region};

/// Writes to a region that nobody has mounted.
#[derive(Debug)]
pub struct Forge<'r, R> {
    region: &'r R,
    host: TestHost,
    seed: u32,
    /// Where the parts of the region lie.
    pub geo: Geometry,
}

/// An inode, as it is found while the region is mounted.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    /// Its number.
    pub ino: Ino,
    /// Generation.
    pub generation: u32,
    /// Region offset of its sector.
    pub off: u64,
}

/// Where an inode is.
///
/// # Panics
/// When there is no such inode.
pub fn body<R: Region>(fs: &Fs<R, impl Host>, ino: Ino) -> Body {
    Body {
        ino,
        generation: fs.getattr(ino).expect("an inode in use").generation,
        off: inode(fs, ino).expect("an inode in the table"),
    }
}

impl<'r, R: Region> Forge<'r, R> {
    /// For a formatted region.
    ///
    /// # Panics
    /// When it is none.
    pub fn new(region: &'r R, host: &TestHost) -> Self {
        let info = probe(region, host).expect("a superblock");
        Forge {
            region,
            host: host.clone(),
            seed: info.crc_seed,
            geo: info.geometry,
        }
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &'r R {
        self.region
    }

    fn sum(&self, off: u64, bytes: &[u8]) -> [u8; 4] {
        checksum(&self.host, self.seed, off, bytes).to_le_bytes()
    }

    /// The word at `off`.
    ///
    /// # Panics
    /// Outside of the region, as all below.
    #[must_use]
    pub fn word(&self, off: u64) -> u64 {
        self.region.load(off).expect("inside")
    }

    /// Writes bytes, and mends nothing.
    pub fn put(&self, off: u64, bytes: &[u8]) {
        self.region.write(off, bytes).expect("inside");
    }

    /// Writes a word of a sector with `magic, crc`, and mends the checksum.
    pub fn set(&self, sector: u64, at: usize, value: u64) {
        self.put(sector + at as u64, &value.to_le_bytes());
        self.seal(sector);
    }

    /// Makes the checksum of a sector right.
    pub fn seal(&self, sector: u64) {
        let mut b = [0; SECTOR as usize];
        self.region.read(sector, &mut b).expect("inside");
        b[4..8].fill(0);
        self.put(sector + 4, &self.sum(sector, &b));
    }

    /// Fills a slot's table and contents with a transaction: sectors at `homes`, one behind the other in
    /// `bytes`. Returns where its commit word goes, and that word.
    ///
    /// # Panics
    /// When there are more sectors than a slot holds.
    pub fn transaction(&self, n: u64, homes: &[u64], bytes: &[u8]) -> (u64, u64) {
        assert!(homes.len() as u64 <= slot::SECTORS && homes.len() * 256 == bytes.len());
        let off = self.geo.slot_offset(n);
        let table: Vec<u8> = homes.iter().flat_map(|h| h.to_le_bytes()).collect();
        self.put(off + slot::TABLE, &table);
        self.put(off + slot::DATA, bytes);
        let word = (homes.len() as u64) << 16 | 1;
        let sum = [&word.to_le_bytes()[..], &table, bytes].concat();
        let crc = u32::from_le_bytes(self.sum(off, &sum));
        (off + slot::COMMIT, u64::from(crc) << 32 | word)
    }

    /// Makes the checksums of a node right.
    pub fn seal_node(&self, page: u64) {
        let base = page * PAGE;
        let mut b = [0; SECTOR as usize];
        for k in 1..PAGE / SECTOR {
            self.region.read(base + k * SECTOR, &mut b).expect("inside");
            let sum = self.sum(base + k * SECTOR, &b);
            self.put(base + node::SUMS as u64 + 4 * (k - 1), &sum);
        }
        self.seal(base);
    }

    /// Entries of a node.
    #[must_use]
    pub fn count(&self, page: u64) -> u64 {
        self.word(page * PAGE + 24) >> 16 & 0xffff
    }

    /// Child `i` of an inner node, and its key.
    #[must_use]
    pub fn child(&self, page: u64, i: u64) -> (u64, u64) {
        let at = page * PAGE + node::ENTRIES + node::INNER_ENTRY * i;
        (self.word(at), self.word(at + 8))
    }

    /// Gives entry `i` of a leaf another key.
    pub fn set_key(&self, leaf: u64, i: u64, key: u64) {
        let at = leaf * PAGE + node::ENTRIES + node::LEAF_ENTRY * i;
        self.put(at, &key.to_le_bytes());
        self.seal_node(leaf);
    }

    /// The root of an inode's tree.
    #[must_use]
    pub fn root(&self, i: Body) -> u64 {
        self.word(i.off + 144)
    }

    /// Makes a page the root of an inode's tree.
    pub fn set_root(&self, i: Body, page: u64, depth: u8, records: u64) {
        self.put(i.off + 136, &[1, depth, 0, 0]);
        self.put(i.off + 144, &page.to_le_bytes());
        self.set(i.off, 152, records);
    }

    /// An empty node of an inode, its checksums still to be made.
    fn node(&self, i: Body, kind: u8, page: u64, level: u8) -> u64 {
        let base = page * PAGE;
        self.region.zero(base, PAGE).expect("inside");
        self.put(base, &NODE_MAGIC.to_le_bytes());
        self.put(base + node::OWNER as u64, &i.ino.to_le_bytes());
        self.put(base + node::SELF as u64, &page.to_le_bytes());
        self.put(base + node::KIND as u64, &[kind, level]);
        self.put(base + node::GENERATION as u64, &i.generation.to_le_bytes());
        base
    }

    fn finish(&self, page: u64, count: usize, heap: u64) {
        let base = page * PAGE;
        self.put(base + node::COUNT as u64, &(count as u16).to_le_bytes());
        self.put(base + node::HEAP as u64, &(heap as u16).to_le_bytes());
        self.seal_node(page);
    }

    /// Makes a page an inner node with these keys and children.
    pub fn inner(&self, i: Body, kind: u8, page: u64, level: u8, children: &[(u64, u64)]) {
        let base = self.node(i, kind, page, level) + node::ENTRIES;
        for (at, (key, child)) in (base..).step_by(16).zip(children) {
            self.put(at, &key.to_le_bytes());
            self.put(at + 8, &child.to_le_bytes());
        }
        self.finish(page, children.len(), PAGE);
    }

    /// Makes a page a leaf of records.
    pub fn records(&self, i: Body, page: u64, records: &[[u64; 3]]) {
        let base = self.node(i, node::KIND_RECORDS, page, 0) + node::ENTRIES;
        for (at, r) in (base..).step_by(24).zip(records) {
            for (at, w) in (at..).step_by(8).zip(r) {
                self.put(at, &w.to_le_bytes());
            }
        }
        self.finish(page, records.len(), PAGE);
    }

    /// Makes a page a leaf of directory entries: key, name, all of them files of inode `target`.
    pub fn entries(&self, i: Body, page: u64, target: Ino, entries: &[(u64, &[u8])]) {
        let base = self.node(i, node::KIND_DENTRIES, page, 0);
        let mut heap = PAGE;
        for (at, (key, name)) in (base + node::ENTRIES..).step_by(24).zip(entries) {
            heap -= name.len() as u64;
            self.put(base + heap, name);
            self.put(at, &key.to_le_bytes());
            self.put(at + 8, &target.to_le_bytes());
            self.put(at + 16, &(heap as u16).to_le_bytes());
            self.put(at + 18, &[name.len() as u8, 8]);
        }
        self.finish(page, entries.len(), heap);
    }
}
