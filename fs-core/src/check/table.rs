// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The inode table: where each inode lies.

use super::checker::{Checker, Res};
use super::claims::Claims;
use super::inode::{Inode, Slot};
use super::node::Record;
use super::report::{Finding, Phase, Structure};
use super::tree::{self, Scan};
use crate::bytes::{get32, get64};
use crate::layout::{
    body, iflag, inode as at, system, EXTENT_LEN, GROUP_PAGES, INODES_PER_PAGE, INODE_MAGIC,
    ITABLE_OWNER, PAGE, SECTOR,
};
use crate::types::Ino;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;

/// Pages of the table that may be missing between two that are there. Growth is by at most 64
/// pages; a greater gap comes from a sector that only looks like an inode.
const GAP_MOST: u64 = 4096;

/// A run of the table's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub file_page: u64,
    pub page: u64,
    pub len: u64,
}

/// The map of the inode table.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Runs by file page. May have gaps until the table is rebuilt.
    pub runs: Vec<Run>,
    pub nodes: Vec<u64>,
    /// The map in the region is to be written anew.
    pub rebuild: bool,
}

impl Table {
    /// Region offset of an inode.
    pub fn offset(&self, ino: Ino) -> Option<u64> {
        let page = self.page(ino / INODES_PER_PAGE)?;
        page.checked_mul(PAGE)?
            .checked_add(ino % INODES_PER_PAGE * SECTOR)
    }

    /// Region page of a page of the table.
    fn page(&self, file_page: u64) -> Option<u64> {
        let i = self
            .runs
            .partition_point(|r| r.file_page <= file_page)
            .checked_sub(1)?;
        let run = self.runs.get(i)?;
        let at = file_page.checked_sub(run.file_page)?;
        (at < run.len).then(|| run.page.saturating_add(at))
    }

    /// Pages up to the end of the last run.
    pub fn pages(&self) -> u64 {
        self.runs
            .last()
            .map_or(0, |r| r.file_page.saturating_add(r.len))
    }

    /// Inodes there is room for.
    pub fn capacity(&self) -> u64 {
        self.pages().saturating_mul(INODES_PER_PAGE)
    }

    /// Takes one more page behind all others.
    pub fn push(&mut self, file_page: u64, page: u64) {
        if let Some(last) = self.runs.last_mut() {
            if last.file_page.saturating_add(last.len) == file_page
                && last.page.saturating_add(last.len) == page
            {
                last.len = last.len.saturating_add(1);
                return;
            }
        }
        self.runs.push(Run {
            file_page,
            page,
            len: 1,
        });
    }

    pub fn records(&self) -> Vec<Record> {
        self.runs
            .iter()
            .map(|r| Record {
                key: r.file_page,
                a: r.page,
                b: r.len,
            })
            .collect()
    }
}

/// Is there nothing in these bytes, or anything like an inode of that page, however damaged?
fn could_be_table(file_page: u64, bytes: &[u8]) -> bool {
    let first = file_page.saturating_mul(INODES_PER_PAGE);
    bytes.iter().all(|b| *b == 0)
        || bytes
            .chunks_exact(SECTOR as usize)
            .zip(first..)
            .any(|(s, ino)| get32(s, 0) == INODE_MAGIC || (ino != 0 && get64(s, at::INO) == ino))
}

impl Checker<'_, '_> {
    /// The runs that an inode of the table names; the flag tells whether they are all sound and
    /// without a gap.
    fn table_runs(&self, inode: &Inode) -> Res<(Table, Scan, bool)> {
        let (records, scan) = tree::records(&self.store, &self.geo, inode)?;
        let mut sound = scan.fault_count == 0 && !records.is_empty();
        let mut table = Table::default();
        let mut taken = Claims::default();
        for r in records {
            let run = Run {
                file_page: r.key,
                page: r.a,
                len: r.b & EXTENT_LEN,
            };
            let good = r.b == run.len
                && self.geo.is_data(run.page, run.len)
                && run.file_page <= self.geo.total_pages
                && run.file_page >= table.pages()
                && taken.claim(run.page, run.len, run.file_page).is_ok();
            sound &= good && run.file_page == table.pages();
            if good {
                table.runs.push(run);
            }
        }
        table.nodes.clone_from(&scan.nodes);
        let pages = table.pages();
        let nodes = table.nodes.len() as u64;
        sound &= inode.is_system(pages.saturating_mul(PAGE), pages.saturating_add(nodes))
            && (inode.format == body::INLINE || inode.tree_records() == scan.entries);
        Ok((table, scan, sound))
    }

    /// Is `new` the same map with more inodes behind? The table never shrinks: then `old` is a stale
    /// copy.
    fn has_grown(&self, old: &Table, new: &Table) -> Res<bool> {
        let prefix = old.runs.iter().all(|r| {
            (0..r.len).all(|i| new.page(r.file_page + i) == Some(r.page.saturating_add(i)))
        });
        if !prefix {
            return Ok(false);
        }
        for file_page in old.pages()..new.pages() {
            if let Some(page) = new.page(file_page) {
                let bytes = self.store.page(page)?;
                if self
                    .table_pages(page, bytes.as_slice())
                    .contains_key(&file_page)
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    pub(super) fn check_table(&mut self) -> Res<()> {
        let off = self.geo.system_offset(system::ITABLE);
        let copy_off = self.geo.itable_copy_offset();
        let load = |off| Inode::load(&self.store, off, ITABLE_OWNER);
        let (primary, copy) = (load(off)?, load(copy_off)?);
        // Flipped bits of its nodes first: with them it is whole.
        for slot in [&primary, &copy] {
            if let Slot::Inode(inode) = slot {
                let (_, scan) = tree::records(&self.store, &self.geo, inode)?;
                if scan.fault_count > 0 && scan.only_mends() {
                    self.find_faults(ITABLE_OWNER, &scan, "set right")?;
                }
            }
        }
        let mut best: Option<(Table, Scan)> = None;
        let mut whole = false;
        if let Slot::Inode(inode) = &primary {
            let (table, scan, sound) = self.table_runs(inode)?;
            whole = sound;
            best = Some((table, scan));
        }
        let mut restored = None;
        let mut newer = false;
        if let Slot::Inode(inode) = &copy {
            let (table, scan, sound) = self.table_runs(inode)?;
            newer = match &best {
                Some((older, _)) if whole && sound => self.has_grown(older, &table)?,
                _ => false,
            };
            if newer || (!whole && (sound || best.is_none())) {
                whole = sound;
                best = Some((table, scan));
                restored = Some(inode.clone());
            }
        }
        let why = |slot: &Slot| match slot {
            Slot::Inode(_) if newer => "maps the table as it was before it grew",
            Slot::Inode(_) => "does not map the table whole",
            Slot::Zero => "zeros",
            Slot::Bad(why) => why,
        };
        match (&restored, &primary) {
            (Some(inode), _) if whole => {
                let f = Finding::new(Structure::InodeTable, off, why(&primary))
                    .fix("restored from its copy in the backup page")
                    .harmless();
                if self.find(&f)? {
                    let mut inode = inode.clone();
                    inode.offset = off;
                    self.put_inode(&inode);
                }
            }
            (None, Slot::Inode(inode)) if whole => {
                let fault = match &copy {
                    Slot::Inode(c) => {
                        let mut c = c.clone();
                        c.offset = inode.offset;
                        (c != *inode).then_some("differs from the inode of the table")
                    }
                    other => Some(why(other)),
                };
                if let Some(fault) = fault {
                    let f = Finding::new(
                        Structure::InodeTable,
                        copy_off,
                        format!("copy in the backup page: {fault}"),
                    )
                    .fix("copied from the inode of the table")
                    .harmless();
                    if self.find(&f)? {
                        self.put_inode(inode);
                    }
                }
            }
            _ => {
                let f = Finding::new(Structure::InodeTable, off, why(&primary))
                    .fix("its map made anew from the inodes found in the region");
                if !self.find(&f)? {
                    // Without a table there is nothing more to check.
                    self.note("the inode table is left damaged: stopping here")?;
                    return Err(super::checker::Halt::Stop);
                }
            }
        }
        let (table, _) = best.unwrap_or_default();
        self.table = table;
        let suspicious = !whole || self.table_looks_wrong()?;
        if suspicious {
            self.search_table(whole)?;
        }
        self.claim_table();
        self.store.commit()?;
        Ok(())
    }

    /// Is there a page in the table that holds something else? The first page holds the root, so
    /// zeros are wrong there; in any other they are inodes never used.
    fn table_looks_wrong(&mut self) -> Res<bool> {
        for run in self.table.runs.clone() {
            for i in 0..run.len {
                let page = run.page.saturating_add(i);
                let file_page = run.file_page.saturating_add(i);
                let bytes = self.store.page(page)?;
                let used = file_page == 0 || bytes.iter().any(|b| *b != 0);
                let pages = self.table_pages(page, bytes.as_slice());
                if used && !pages.contains_key(&file_page) {
                    return Ok(true);
                }
            }
        }
        Ok(self.table.page(0).is_none())
    }

    /// Which pages of the inode table these bytes could be, by how many of the inodes in them.
    fn table_pages(&self, page: u64, bytes: &[u8]) -> BTreeMap<u64, u8> {
        let off = page.saturating_mul(PAGE);
        let mut votes = BTreeMap::new();
        for (i, s) in bytes.chunks_exact(SECTOR as usize).enumerate() {
            if get32(s, 0) != INODE_MAGIC {
                continue;
            }
            let ino = get64(s, at::INO);
            let flags = get32(s, at::FLAGS);
            if ino % INODES_PER_PAGE == i as u64
                && ino < ITABLE_OWNER
                && flags & iflag::SYSTEM == 0
                && self.store.intact(off + i as u64 * SECTOR, s, INODE_MAGIC)
            {
                let n: &mut u8 = votes.entry(ino / INODES_PER_PAGE).or_default();
                *n = n.saturating_add(1);
            }
        }
        votes
    }

    /// Looks for the pages of the inode table in the whole region: an inode tells its number and,
    /// by its checksum, its place.
    fn search_table(&mut self, whole: bool) -> Res<()> {
        let end = self.scan_end();
        let start = self.geo.data_start;
        let mut found: BTreeMap<u64, (u64, u8)> = BTreeMap::new();
        for page in start..end {
            if (page - start) % 4096 == 0 {
                self.progress(Phase::System, page - start, end - start)?;
            }
            let bytes = self.store.page(page)?;
            let votes = self.table_pages(page, bytes.as_slice());
            if let Some((&file_page, &n)) = votes.iter().max_by_key(|(_, n)| **n) {
                let best = found.entry(file_page).or_insert((page, n));
                if n > best.1 {
                    *best = (page, n);
                }
            }
        }
        let found: BTreeMap<u64, u64> = found.into_iter().map(|(f, (p, _))| (f, p)).collect();
        let taken: BTreeSet<u64> = found.values().copied().collect();
        // What the map says holds where nothing better was found, for pages without any inode. But
        // a page that holds something else is left to whoever it belongs to: as a page of the
        // table it would be overwritten.
        let mut pages = found.clone();
        let mut foreign = false;
        for run in &self.table.runs {
            for i in 0..run.len {
                let (file_page, page) = (run.file_page + i, run.page + i);
                if taken.contains(&page) {
                    continue;
                }
                // Without a first page there is no table: the one that was named is made anew.
                if file_page == 0 || could_be_table(file_page, self.store.page(page)?.as_slice()) {
                    pages.entry(file_page).or_insert(page);
                } else {
                    foreign = true;
                }
            }
        }
        // A map that takes what it has no right to is not believed about free pages, either.
        if foreign {
            let used = self.inode_frontier.as_ref().map_or(0, |f| f.next) / INODES_PER_PAGE;
            while let Some((&file_page, &page)) = pages.last_key_value() {
                let bytes = self.store.page(page)?;
                if file_page < used || bytes.iter().any(|b| *b != 0) {
                    break;
                }
                pages.pop_last();
            }
        }
        let mut table = Table {
            nodes: core::mem::take(&mut self.table.nodes),
            ..Table::default()
        };
        for (file_page, page) in pages {
            if file_page > table.pages().saturating_add(GAP_MOST) {
                self.note("sectors far behind the inode table look like inodes; not taken")?;
                break;
            }
            table.push(file_page, page);
        }
        let same = |a: &Table, b: &Table| {
            let pages = |t: &Table| {
                t.runs
                    .iter()
                    .flat_map(|r| (0..r.len).map(move |i| (r.file_page + i, r.page + i)))
                    .collect::<Vec<_>>()
            };
            pages(a) == pages(b)
        };
        if whole {
            if same(&table, &self.table) {
                self.table.nodes = table.nodes;
                return Ok(());
            }
            let f = Finding::new(
                Structure::InodeTable,
                self.geo.system_offset(system::ITABLE),
                "its map names pages that hold no inodes; the inodes were found elsewhere",
            )
            .fix("its map made anew from the inodes found in the region");
            if !self.find(&f)? {
                self.table.nodes = table.nodes;
                return Ok(());
            }
        }
        table.rebuild = true;
        self.table = table;
        Ok(())
    }

    /// Where a search of the whole region may end: groups behind the frontier were never used.
    pub(super) fn scan_end(&self) -> u64 {
        let ready = self
            .frontier
            .map_or(u64::MAX, |f| f.ready.saturating_mul(GROUP_PAGES));
        ready.min(self.geo.data_end)
    }

    fn claim_table(&mut self) {
        let runs = self.table.runs.clone();
        for run in runs {
            // The runs were found not to overlap.
            let _ = self.claims.claim(run.page, run.len, ITABLE_OWNER);
        }
        if self.table.rebuild {
            self.table.nodes.clear();
            return;
        }
        for page in self.table.nodes.clone() {
            if self.claims.claim(page, 1, ITABLE_OWNER).is_err() {
                self.table.rebuild = true;
            }
        }
    }

    /// Writes the map of the table anew, where it was damaged.
    pub(super) fn rebuild_table(&mut self) -> Res<()> {
        if !self.table.rebuild {
            return Ok(());
        }
        // Pages nobody found: zeros, that is inodes never used.
        let mut table = Table::default();
        for run in self.table.runs.clone() {
            while table.pages() < run.file_page {
                let Some(page) = self.fresh(ITABLE_OWNER)? else {
                    return self.no_room(ITABLE_OWNER, "the inode table");
                };
                self.store.fill(page, &[0; PAGE as usize])?;
                table.push(table.pages(), page);
            }
            for i in 0..run.len {
                table.push(run.file_page + i, run.page + i);
            }
        }
        self.table.runs = table.runs;
        self.write_table()
    }

    /// Writes the table's inode for the runs as they are known.
    pub(super) fn write_table(&mut self) -> Res<()> {
        let off = self.geo.system_offset(system::ITABLE);
        let generation = match Inode::load(&self.store, off, ITABLE_OWNER)? {
            Slot::Inode(i) => i.generation,
            _ => 0,
        };
        let mut inode = Inode::free(off, ITABLE_OWNER, generation);
        inode.flags = iflag::IN_USE | iflag::SYSTEM;
        inode.size = self.table.pages().saturating_mul(PAGE);
        let records = self.table.records();
        let old = core::mem::take(&mut self.table.nodes);
        let Some(nodes) = self.put_records(&mut inode, &records)? else {
            return self.no_room(ITABLE_OWNER, "the map of the inode table");
        };
        for page in old {
            self.claims.release(page, 1, ITABLE_OWNER);
        }
        inode.pages = self.table.pages().saturating_add(nodes.len() as u64);
        self.table.nodes = nodes;
        self.put_inode(&inode);
        self.table.rebuild = false;
        self.store.commit()?;
        Ok(())
    }
}
