// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Bitmaps, classes and summaries: they say just what the trees name.

use super::checker::{Checker, Res};
use super::report::{Finding, Phase, Structure};
use crate::bytes::{get16, get32, get64, get8, put16, put32, put64, put8};
use crate::layout::{
    chunk, class, summary, system, CHUNK_MAGIC, CHUNK_PAGES, GROUP_CHUNKS, GROUP_PAGES, SECTOR,
    SUMMARY_MAGIC,
};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

type Bits = [u64; 8];

fn set_bits(bits: &mut Bits, from: u64, len: u64) {
    for bit in from..from.saturating_add(len).min(512) {
        if let Some(w) = bits.get_mut((bit / 64) as usize) {
            *w |= 1 << (bit % 64);
        }
    }
}

fn count(bits: &Bits) -> u64 {
    bits.iter().map(|w| u64::from(w.count_ones())).sum()
}

/// What is wrong with the descriptors of a group.
#[derive(Default)]
struct Tally {
    chunks: u64,
    first: Option<(u64, String)>,
    leaked: u64,
    unmarked: u64,
}

impl Checker<'_, '_> {
    /// Pages of a chunk that must be marked.
    fn wanted_bits(&self, index: u64) -> Bits {
        let start = index.saturating_mul(CHUNK_PAGES);
        let end = start.saturating_add(CHUNK_PAGES);
        let mut bits = [0; 8];
        if start < self.geo.data_start {
            set_bits(&mut bits, 0, self.geo.data_start.min(end) - start);
        }
        if end > self.geo.data_end {
            let from = self.geo.data_end.max(start);
            set_bits(&mut bits, from - start, end - from);
        }
        for c in self.claims.within(start, end) {
            set_bits(&mut bits, c.start - start, c.len);
        }
        bits
    }

    pub(super) fn check_allocation(&mut self) -> Res<()> {
        let first = self.geo.first_group();
        let needed = self
            .claims
            .last()
            .map_or(first, |p| p / GROUP_PAGES)
            .saturating_add(1)
            .max(first.saturating_add(1))
            .min(self.geo.groups());
        let mut old_ready = first;
        let mut ready = needed;
        if let Some(f) = self.frontier {
            old_ready = f.ready;
            ready = f.ready;
            if f.ready < needed {
                let off = self.geo.system_offset(system::FRONTIER);
                let finding = Finding::new(
                    Structure::Frontier,
                    off,
                    format!(
                        "groups from {} on are not in use, but group {} is",
                        f.ready,
                        needed - 1
                    ),
                )
                .fix("set behind the last group in use");
                if self.find(&finding)? {
                    ready = needed;
                    self.fix_frontier = true;
                }
            }
        } else if !self.fix_frontier || self.declined {
            // Without it nothing can be said about the groups, and with something else left
            // damaged its place cannot be computed: there may be pages behind the last one known.
            if self.fix_frontier {
                self.report.repaired = self.report.repaired.saturating_sub(1);
            }
            self.skip_accounts = true;
            return self.note("allocation is left unchecked: the frontier cannot be trusted");
        }
        let mut tops: Vec<[Bits; 3]> = Vec::new();
        let mut free = 0u64;
        for group in first..ready {
            self.progress(Phase::Allocation, group - first, ready - first)?;
            let known = group < old_ready || self.frontier.is_none();
            let (classes, group_free) = self.check_group(group, known)?;
            free = free.saturating_add(group_free);
            let top = (group / GROUP_CHUNKS) as usize;
            while tops.len() <= top {
                tops.push([[0; 8]; 3]);
            }
            self.check_summary(Structure::GroupSummary, 1, group, &classes, known)?;
            if let Some(bits) = tops.get_mut(top) {
                for (t, c) in bits.iter_mut().zip(&classes) {
                    if count(c) > 0 {
                        set_bits(t, group % GROUP_CHUNKS, 1);
                    }
                }
            }
            self.store.commit()?;
        }
        for (index, bits) in tops.iter().enumerate() {
            let index = index as u64;
            // One without a group that is ready says nothing.
            if (index + 1).saturating_mul(GROUP_CHUNKS) > first {
                self.check_summary(Structure::TopSummary, 2, index, bits, true)?;
            }
        }
        if self.fix_frontier {
            self.write_frontier(ready);
        }
        self.store.commit()?;
        let behind = ready.saturating_mul(GROUP_PAGES).max(self.geo.data_start);
        self.free_pages = free.saturating_add(self.geo.data_end.saturating_sub(behind));
        Ok(())
    }

    /// Checks the chunks of a group; gives chunks by class, and the free pages.
    fn check_group(&mut self, group: u64, known: bool) -> Res<([Bits; 3], u64)> {
        let start = group.saturating_mul(GROUP_CHUNKS);
        let end = start.saturating_add(GROUP_CHUNKS).min(self.geo.chunks());
        let off = self.geo.chunk_offset(start);
        let mut old = vec![0u8; (end.saturating_sub(start) as usize).saturating_mul(chunk::SIZE)];
        self.store.read(off, &mut old)?;
        let mut new = old.clone();
        let mut classes = [[0; 8]; 3];
        let mut free_pages = 0u64;
        let mut tally = Tally::default();
        for (i, (old, new)) in old
            .chunks_exact(chunk::SIZE)
            .zip(new.chunks_exact_mut(chunk::SIZE))
            .enumerate()
        {
            let i = i as u64;
            let index = start + i;
            let at = off + i * chunk::SIZE as u64;
            let mut bits = self.wanted_bits(index);
            let mut recorded = [0; 8];
            for (k, w) in recorded.iter_mut().enumerate() {
                *w = get64(old, chunk::BITMAP + 8 * k);
            }
            let marked = count(&recorded);
            let old_class = get8(old, chunk::CLASS);
            let right_class = |class: u8, used: u64| match used {
                512 => class == class::FULL,
                0 => class == class::FREE,
                _ => class == class::PACKED || class == class::COLOURED,
            };
            let why = if !known {
                None
            } else if get32(old, 0) != CHUNK_MAGIC || !self.store.intact(at, old, CHUNK_MAGIC) {
                Some("wrong magic or checksum")
            } else if get64(old, chunk::INDEX) != index {
                Some("wrong number")
            } else if u64::from(get16(old, chunk::FREE)) != 512 - marked {
                Some("wrong count of free pages")
            } else if !right_class(old_class, marked) {
                Some("wrong class")
            } else {
                None
            };
            if self.declined && known {
                // Pages without owner may belong to what is left damaged: they stay marked, and
                // where the marks are lost, all pages are taken for marked.
                let marks = if why.is_none() {
                    recorded
                } else {
                    [u64::MAX; 8]
                };
                for (b, m) in bits.iter_mut().zip(marks) {
                    *b |= m;
                }
            }
            if let Some(why) = why {
                tally.chunks += 1;
                tally.first.get_or_insert((at, why.into()));
            } else if known && bits != recorded {
                let differ = |a: &Bits, b: &Bits| {
                    a.iter()
                        .zip(b)
                        .map(|(a, b)| u64::from((a & !b).count_ones()))
                        .sum::<u64>()
                };
                tally.chunks += 1;
                tally.leaked += differ(&recorded, &bits);
                tally.unmarked += differ(&bits, &recorded);
                tally
                    .first
                    .get_or_insert((at, String::from("does not match what is in use")));
            }
            let used = count(&bits);
            let class = if right_class(old_class, used) {
                old_class
            } else {
                match used {
                    512 => class::FULL,
                    0 => class::FREE,
                    _ => class::PACKED,
                }
            };
            if let Some(c) = classes.get_mut(usize::from(class)) {
                set_bits(c, i, 1);
            }
            free_pages = free_pages.saturating_add(512 - used);
            new.fill(0);
            put32(new, 0, CHUNK_MAGIC);
            put64(new, chunk::INDEX, index);
            put16(new, chunk::FREE, (512 - used) as u16);
            put8(new, chunk::CLASS, class);
            for (k, w) in bits.iter().enumerate() {
                put64(new, chunk::BITMAP + 8 * k, *w);
            }
            self.store.seal(at, new);
        }
        let write = match tally.first {
            None => !known,
            Some((at, why)) => {
                let mut what = format!("{why} ({} chunks of group {group}", tally.chunks);
                if tally.leaked > 0 {
                    what += &format!("; {} pages marked that nothing names", tally.leaked);
                }
                if tally.unmarked > 0 {
                    what += &format!("; {} pages in use not marked", tally.unmarked);
                }
                what += ")";
                let f =
                    Finding::new(Structure::Chunk, at, what).fix("recomputed from what is in use");
                self.find(&f)?
            }
        };
        if write {
            let sector = SECTOR as usize;
            for (i, (old, new)) in old.chunks(sector).zip(new.chunks(sector)).enumerate() {
                if old == new {
                    continue;
                }
                let at = off + i as u64 * SECTOR;
                // The last sector of a region with an odd number of chunks is half used.
                let mut s = self.store.sector(at)?;
                if let Some(part) = s.get_mut(..new.len()) {
                    part.copy_from_slice(new);
                }
                self.store.stage(at, &s);
            }
        }
        Ok((classes, free_pages))
    }

    fn check_summary(
        &mut self,
        structure: Structure,
        level: u64,
        index: u64,
        bits: &[Bits; 3],
        known: bool,
    ) -> Res<()> {
        let off = if level == 1 {
            self.geo.summary_offset(index)
        } else {
            self.geo.top_offset(index)
        };
        let old = self.store.sector(off)?;
        let mut new = [0; 256];
        put32(&mut new, 0, SUMMARY_MAGIC);
        put64(&mut new, summary::LEVEL, level);
        put64(&mut new, summary::INDEX, index);
        let mut same = true;
        for (c, bits) in bits.iter().enumerate() {
            for (k, w) in bits.iter().enumerate() {
                let at = summary::BITMAP + 64 * c + 8 * k;
                put64(&mut new, at, *w);
                same &= get64(&old, at) == *w;
            }
        }
        self.store.seal(off, &mut new);
        let why = if !known {
            None
        } else if !self.store.intact(off, &old, SUMMARY_MAGIC) {
            Some("wrong magic or checksum")
        } else if get64(&old, summary::LEVEL) != level || get64(&old, summary::INDEX) != index {
            Some("wrong level or number")
        } else if !same {
            Some("does not match the chunks")
        } else {
            return Ok(());
        };
        let write = match why {
            None => true,
            Some(why) => {
                let f = Finding::new(structure, off, format!("number {index}: {why}"))
                    .fix("recomputed from the chunks");
                self.find(&f)?
            }
        };
        if write {
            self.store.stage(off, &new);
        }
        Ok(())
    }
}
