// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Pages for what repair builds.

use super::checker::{Checker, Res};
use super::report::{Finding, Structure};
use crate::bytes::{get16, get64};
use crate::layout::{chunk, CHUNK_MAGIC, CHUNK_PAGES, GROUP_PAGES};
use crate::types::Ino;
use alloc::format;

impl Checker<'_, '_> {
    /// The bitmap of a chunk as it is recorded, where the descriptor is sound.
    pub(super) fn recorded_bitmap(&self, index: u64) -> Res<Option<[u64; 8]>> {
        let group = index.saturating_mul(CHUNK_PAGES) / GROUP_PAGES;
        if index >= self.geo.chunks()
            || self
                .frontier
                .is_none_or(|f| group >= f.ready || group < self.geo.first_group())
        {
            return Ok(None);
        }
        let off = self.geo.chunk_offset(index);
        let mut b = [0; chunk::SIZE];
        self.store.read(off, &mut b)?;
        if !self.store.intact(off, &b, CHUNK_MAGIC) || get64(&b, chunk::INDEX) != index {
            return Ok(None);
        }
        let mut map = [0; 8];
        for (i, w) in map.iter_mut().enumerate() {
            *w = get64(&b, chunk::BITMAP + 8 * i);
        }
        let zeros: u32 = map.iter().map(|w| w.count_zeros()).sum();
        Ok((zeros == u32::from(get16(&b, chunk::FREE))).then_some(map))
    }

    /// Claims a page nobody needs. First those that are also recorded as free: what lies in them
    /// is of no interest even if this repair is cut short. Then those that only nobody names.
    pub(super) fn fresh(&mut self, owner: Ino) -> Res<Option<u64>> {
        while let Some(page) = self.pool.pop() {
            if self.claims.claim(page, 1, owner).is_ok() {
                return Ok(Some(page));
            }
        }
        loop {
            if self.cursor < self.geo.data_start {
                self.cursor = self.geo.data_start;
            }
            let page = self.claims.next_free(self.cursor);
            if page >= self.geo.data_end {
                // With something left as it is, pages that nobody names may still be its own.
                if self.desperate || self.declined {
                    return Ok(None);
                }
                self.desperate = true;
                self.cursor = 0;
                continue;
            }
            self.cursor = page.saturating_add(1);
            let ready = self.frontier.is_none_or(|f| page / GROUP_PAGES < f.ready);
            let usable = if self.desperate && !self.declined {
                true
            } else if ready {
                match self.recorded_bitmap(page / CHUNK_PAGES)? {
                    Some(map) if map.iter().all(|w| *w == u64::MAX) => {
                        // A full chunk: go to the next.
                        self.cursor = (page / CHUNK_PAGES + 1).saturating_mul(CHUNK_PAGES);
                        false
                    }
                    Some(map) => {
                        let bit = page % CHUNK_PAGES;
                        map.get((bit / 64) as usize)
                            .is_some_and(|w| w >> (bit % 64) & 1 == 0)
                    }
                    None => {
                        self.cursor = (page / CHUNK_PAGES + 1).saturating_mul(CHUNK_PAGES);
                        false
                    }
                }
            } else {
                true
            };
            if usable && self.claims.claim(page, 1, owner).is_ok() {
                return Ok(Some(page));
            }
        }
    }

    /// Tells that there is no room for a repair.
    pub(super) fn no_room(&mut self, ino: Ino, what: &str) -> Res<()> {
        let f = Finding::new(
            Structure::Inode,
            self.inode_offset(ino).unwrap_or(0),
            format!("no free page is left to rebuild {what}: delete something, then check again"),
        )
        .of(ino);
        self.could_not(&f)
    }
}
