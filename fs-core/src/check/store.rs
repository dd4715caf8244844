// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The region as the check sees it: a layer of changed sectors over the memory.
//!
//! A read-only check keeps every change (journal replay, repairs that it only thinks through) in
//! this layer. A repairing one carries them into the region, together and undivided, through a
//! journal slot, so that a repair that is cut short has happened or not.

use super::flip;
use crate::bytes::{get32, put32};
use crate::error::Result;
use crate::host::Host;
use crate::layout::{self, kind, slot, CRC_AT, PAGE, SECTOR};
use crate::region::Region;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Bytes of a sector.
pub type Sector = [u8; 256];
/// Bytes of a page.
pub type Page = [u8; 4096];

/// See the module.
pub struct Store<'a> {
    base: &'a dyn Region,
    host: &'a dyn Host,
    seed: u32,
    changed: BTreeMap<u64, Box<Sector>>,
    live: bool,
    slot: Option<u64>,
}

impl core::fmt::Debug for Store<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Store")
            .field("changed", &self.changed.len())
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

impl<'a> Store<'a> {
    /// A layer without changes; `live` says that [`Store::commit`] carries them to the region.
    pub fn new(base: &'a dyn Region, host: &'a dyn Host, live: bool) -> Self {
        Store {
            base,
            host,
            seed: 0,
            changed: BTreeMap::new(),
            live,
            slot: None,
        }
    }

    /// Bytes of the region.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.base.len()
    }

    /// True for a region of no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn set_seed(&mut self, seed: u32) {
        self.seed = seed;
    }

    pub(super) fn use_slot(&mut self, offset: u64) {
        self.slot = Some(offset);
    }

    pub(super) const fn is_live(&self) -> bool {
        self.live
    }

    pub(super) fn base(&self) -> &'a dyn Region {
        self.base
    }

    pub(super) fn host(&self) -> &'a dyn Host {
        self.host
    }

    /// Reads bytes, changes included.
    pub fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.base.read(off, buf)?;
        if self.changed.is_empty() || buf.is_empty() {
            return Ok(());
        }
        let end = off.saturating_add(buf.len() as u64);
        let first = off / SECTOR;
        for (&number, bytes) in self.changed.range(first..end.div_ceil(SECTOR)) {
            let start = number.saturating_mul(SECTOR);
            let from = start.max(off);
            let to = start.saturating_add(SECTOR).min(end);
            let source = bytes.get((from - start) as usize..(to - start) as usize);
            let target = buf.get_mut((from - off) as usize..(to - off) as usize);
            if let (Some(source), Some(target)) = (source, target) {
                target.copy_from_slice(source);
            }
        }
        Ok(())
    }

    /// Reads a sector; `off` is a multiple of 256.
    pub fn sector(&self, off: u64) -> Result<Sector> {
        let mut buf = [0; SECTOR as usize];
        self.read(off, &mut buf)?;
        Ok(buf)
    }

    /// Reads a page.
    pub fn page(&self, page: u64) -> Result<Box<Page>> {
        let mut buf = Box::new([0; PAGE as usize]);
        self.read(page.saturating_mul(PAGE), buf.as_mut_slice())?;
        Ok(buf)
    }

    /// The checksum of section 4.
    #[must_use]
    pub fn sum(&self, off: u64, bytes: &[u8]) -> u32 {
        layout::checksum(self.host, self.seed, off, bytes)
    }

    /// The checksum of a structure that has its checksum field at 4: taken with the field zero.
    #[must_use]
    pub fn sum_of(&self, off: u64, bytes: &[u8]) -> u32 {
        let (head, tail) = match (bytes.get(..CRC_AT), bytes.get(CRC_AT + 4..)) {
            (Some(h), Some(t)) => (h, t),
            _ => return self.sum(off, bytes),
        };
        let host = self.host;
        let crc = layout::checksum(host, self.seed, off, head);
        host.crc32(host.crc32(crc, &[0; 4]), tail)
    }

    /// Do magic and checksum of the structure at `off` hold?
    #[must_use]
    pub fn intact(&self, off: u64, bytes: &[u8], magic: u32) -> bool {
        get32(bytes, 0) == magic && get32(bytes, CRC_AT) == self.sum_of(off, bytes)
    }

    /// The structure with its one flipped bit set right, if a flipped bit is all that is wrong.
    pub(super) fn mended<const N: usize>(
        &self,
        off: u64,
        bytes: &[u8; N],
        magic: u32,
    ) -> Option<Box<[u8; N]>> {
        let mut copy = Box::new(*bytes);
        let computed = self.sum_of(off, bytes);
        let stored = get32(bytes, CRC_AT);
        let found = flip::mend_with_field(copy.as_mut_slice(), CRC_AT, computed, stored);
        (found && self.intact(off, copy.as_slice(), magic)).then_some(copy)
    }

    /// Puts the checksum in its field.
    pub fn seal(&self, off: u64, bytes: &mut [u8]) {
        let crc = self.sum_of(off, bytes);
        put32(bytes, CRC_AT, crc);
    }

    /// Changes a sector; `off` is a multiple of 256.
    pub(super) fn stage(&mut self, off: u64, bytes: &Sector) {
        self.changed.insert(off / SECTOR, Box::new(*bytes));
    }

    /// Fills a page that nothing names yet.
    pub(super) fn fill(&mut self, page: u64, bytes: &Page) -> Result<()> {
        let off = page.saturating_mul(PAGE);
        if self.live {
            let first = page.saturating_mul(layout::PAGE_SECTORS);
            for sector in first..first.saturating_add(layout::PAGE_SECTORS) {
                self.changed.remove(&sector);
            }
            return self.base.write(off, bytes);
        }
        for (i, sector) in bytes.chunks_exact(SECTOR as usize).enumerate() {
            if let Ok(sector) = <&Sector>::try_from(sector) {
                self.stage(off.saturating_add(i as u64 * SECTOR), sector);
            }
        }
        Ok(())
    }

    /// Makes the changes so far permanent, at most 224 sectors at once; does nothing where the
    /// region is only read.
    pub(super) fn commit(&mut self) -> Result<()> {
        if !self.live {
            return Ok(());
        }
        while !self.changed.is_empty() {
            let batch: Vec<(u64, Box<Sector>)> = {
                let mut batch = Vec::new();
                while batch.len() < slot::SECTORS as usize {
                    match self.changed.pop_first() {
                        Some((s, b)) => batch.push((s.saturating_mul(SECTOR), b)),
                        None => break,
                    }
                }
                batch
            };
            let Some(slot_off) = self.slot else {
                for (off, bytes) in &batch {
                    self.base.write(*off, bytes.as_slice())?;
                }
                self.base.persist()?;
                continue;
            };
            let count = batch.len() as u64;
            let word = count << 16 | 1;
            let mut table = Vec::with_capacity(batch.len() * 8);
            for (off, bytes) in &batch {
                table.extend_from_slice(&(off | u64::from(kind_of(bytes))).to_le_bytes());
            }
            let mut crc = self.sum(slot_off, &word.to_le_bytes());
            crc = self.host.crc32(crc, &table);
            self.base.write(slot_off + slot::TABLE, &table)?;
            let mut at = slot_off + slot::DATA;
            for (_, bytes) in &batch {
                crc = self.host.crc32(crc, bytes.as_slice());
                self.base.write(at, bytes.as_slice())?;
                at += SECTOR;
            }
            // As a transaction of a mount is made and carried out.
            self.base.persist()?;
            self.base
                .store(slot_off + slot::COMMIT, u64::from(crc) << 32 | word)?;
            self.base.persist()?;
            for (off, bytes) in &batch {
                self.base.write(*off, bytes.as_slice())?;
            }
            self.base.persist()?;
            self.base.store(slot_off + slot::COMMIT, 0)?;
            self.base.persist()?;
        }
        Ok(())
    }
}

/// The kind that the journal's table names for a sector.
fn kind_of(bytes: &Sector) -> u8 {
    match get32(bytes, 0) {
        layout::CHUNK_MAGIC => kind::CHUNKS,
        layout::NODE_MAGIC => kind::NODE_HEADER,
        layout::FRONTIER_MAGIC
        | layout::IFRONTIER_MAGIC
        | layout::SHARD_MAGIC
        | layout::SUMMARY_MAGIC
        | layout::SLOT_MAGIC
        | layout::ACCOUNT_MAGIC
        | layout::INODE_MAGIC => kind::PLAIN,
        _ => kind::NODE_PAYLOAD,
    }
}
