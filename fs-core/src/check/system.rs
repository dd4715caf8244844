// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Structures of fixed number: frontiers and inode shards.

use super::checker::{Checker, Res};
use super::report::{Finding, Phase, Structure};
use super::store::Sector;
use crate::bytes::{get64, put32, put64};
use crate::layout::{
    self, shard, system, FRONTIER_MAGIC, IFRONTIER_MAGIC, INODES_PER_PAGE, SHARD_MAGIC,
};
use crate::types::Ino;
use alloc::format;

/// The frontier of initialised groups.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frontier {
    pub ready: u64,
}

/// The inode frontier.
#[derive(Clone, Copy, Debug)]
pub(super) struct InodeFrontier {
    pub next: Ino,
    pub capacity: Ino,
}

/// An inode shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShardState {
    pub free_head: Ino,
    pub free_count: u64,
    pub next: Ino,
    pub end: Ino,
}

impl Checker<'_, '_> {
    pub(super) fn check_system(&mut self) -> Res<()> {
        self.progress(Phase::System, 0, 0)?;
        self.read_frontier()?;
        self.read_inode_frontier()?;
        self.read_shards()
    }

    /// A sector whose one flipped bit is set right, if a flipped bit is all that is wrong.
    pub(super) fn sector_set_right(
        &mut self,
        structure: Structure,
        off: u64,
        magic: u32,
    ) -> Res<Sector> {
        let s = self.store.sector(off)?;
        if self.store.intact(off, &s, magic) {
            return Ok(s);
        }
        let Some(right) = self.store.mended(off, &s, magic) else {
            return Ok(s);
        };
        let f = Finding::new(structure, off, "one bit flipped")
            .fix("set right")
            .harmless();
        if !self.find(&f)? {
            return Ok(s);
        }
        self.store.stage(off, &right);
        Ok(*right)
    }

    fn read_frontier(&mut self) -> Res<()> {
        let off = self.geo.system_offset(system::FRONTIER);
        let s = self.sector_set_right(Structure::Frontier, off, FRONTIER_MAGIC)?;
        let ready = get64(&s, layout::FRONTIER_READY);
        let first = get64(&s, layout::FRONTIER_FIRST);
        let why = if !self.store.intact(off, &s, FRONTIER_MAGIC) {
            Some("wrong magic or checksum".into())
        } else if first != self.geo.first_group() || ready <= first || ready > self.geo.groups() {
            Some(format!("impossible groups [{first}, {ready})"))
        } else {
            None
        };
        match why {
            None => self.frontier = Some(Frontier { ready }),
            Some(why) => {
                let f = Finding::new(Structure::Frontier, off, why)
                    .fix("set behind the last group in use");
                self.fix_frontier = self.find(&f)?;
            }
        }
        Ok(())
    }

    fn read_inode_frontier(&mut self) -> Res<()> {
        let off = self.geo.system_offset(system::IFRONTIER);
        let s = self.sector_set_right(Structure::InodeFrontier, off, IFRONTIER_MAGIC)?;
        let next = get64(&s, layout::IFRONTIER_NEXT);
        let capacity = get64(&s, layout::IFRONTIER_CAPACITY);
        let why = if !self.store.intact(off, &s, IFRONTIER_MAGIC) {
            Some("wrong magic or checksum".into())
        } else if next % INODES_PER_PAGE != 0 || capacity % INODES_PER_PAGE != 0 || next > capacity
        {
            Some(format!("impossible figures {next} of {capacity}"))
        } else {
            None
        };
        match why {
            None => self.inode_frontier = Some(InodeFrontier { next, capacity }),
            Some(why) => {
                let f = Finding::new(Structure::InodeFrontier, off, why)
                    .fix("recomputed from the inode table");
                self.shards_bad |= self.find(&f)?;
            }
        }
        Ok(())
    }

    fn read_shards(&mut self) -> Res<()> {
        for index in 0..self.geo.shards {
            let off = self.geo.shard_offset(index);
            let s = self.sector_set_right(Structure::Shard, off, SHARD_MAGIC)?;
            let state = ShardState {
                free_head: get64(&s, shard::FREE_HEAD),
                free_count: get64(&s, shard::FREE_COUNT),
                next: get64(&s, shard::NEXT),
                end: get64(&s, shard::END),
            };
            let limit = self.inode_frontier.map_or(u64::MAX, |f| f.next);
            let taken = |other: &Option<ShardState>| {
                other.is_some_and(|o| state.next < o.end && o.next < state.end)
            };
            let why = if !self.store.intact(off, &s, SHARD_MAGIC) {
                Some("wrong magic or checksum".into())
            } else if get64(&s, shard::INDEX) != index {
                Some("wrong number".into())
            } else if state.next > state.end
                || (state.next < state.end && (state.end > limit || self.shards.iter().any(taken)))
            {
                Some(format!(
                    "impossible unused inodes [{}, {})",
                    state.next, state.end
                ))
            } else if (state.free_head == 0) != (state.free_count == 0) {
                Some(format!(
                    "counts {} free inodes, and the first is {}",
                    state.free_count, state.free_head
                ))
            } else {
                None
            };
            match why {
                None => self.shards.push(Some(state)),
                Some(why) => {
                    let f = Finding::new(Structure::Shard, off, why)
                        .fix("made anew from the inodes that are not in use");
                    self.shards_bad |= self.find(&f)?;
                    self.shards.push(None);
                }
            }
        }
        Ok(())
    }

    /// Inode `ino` was handed to a shard and never used, as far as the shards can tell.
    pub(super) fn is_unused(&self, ino: Ino) -> bool {
        self.inode_frontier.is_some_and(|f| ino >= f.next)
            || self
                .shards
                .iter()
                .flatten()
                .any(|s| (s.next..s.end).contains(&ino))
    }

    pub(super) fn write_frontier(&mut self, ready: u64) {
        let off = self.geo.system_offset(system::FRONTIER);
        let mut s = [0; 256];
        put32(&mut s, 0, FRONTIER_MAGIC);
        put64(&mut s, layout::FRONTIER_READY, ready);
        put64(&mut s, layout::FRONTIER_FIRST, self.geo.first_group());
        self.store.seal(off, &mut s);
        self.store.stage(off, &s);
    }

    pub(super) fn write_inode_frontier(&mut self, f: InodeFrontier) {
        let off = self.geo.system_offset(system::IFRONTIER);
        let mut s = [0; 256];
        put32(&mut s, 0, IFRONTIER_MAGIC);
        put64(&mut s, layout::IFRONTIER_NEXT, f.next);
        put64(&mut s, layout::IFRONTIER_CAPACITY, f.capacity);
        self.store.seal(off, &mut s);
        self.store.stage(off, &s);
    }

    pub(super) fn write_shard(&mut self, index: u64, state: ShardState) {
        let off = self.geo.shard_offset(index);
        let mut s = [0; 256];
        put32(&mut s, 0, SHARD_MAGIC);
        put64(&mut s, shard::INDEX, index);
        put64(&mut s, shard::FREE_HEAD, state.free_head);
        put64(&mut s, shard::FREE_COUNT, state.free_count);
        put64(&mut s, shard::NEXT, state.next);
        put64(&mut s, shard::END, state.end);
        self.store.seal(off, &mut s);
        self.store.stage(off, &s);
    }
}
