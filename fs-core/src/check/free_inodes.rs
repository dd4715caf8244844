// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Lists of free inodes, and where the never used ones begin.

use super::checker::{Checker, Res};
use super::inode::{Inode, Slot};
use super::report::{Finding, Phase, Structure};
use super::system::{InodeFrontier, ShardState};
use crate::layout::{system, INODES_PER_PAGE};
use crate::types::Ino;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

impl Checker<'_, '_> {
    pub(super) fn check_free_inodes(&mut self) -> Res<()> {
        self.progress(Phase::FreeInodes, 0, self.geo.shards)?;
        let capacity = self.table.capacity();
        if let Some(f) = self.inode_frontier {
            let why = if f.capacity != capacity {
                Some(format!(
                    "room for {} inodes, the table has {capacity}",
                    f.capacity
                ))
            } else if self.last_formatted >= f.next && !self.shards_bad {
                Some(format!(
                    "inodes from {} on were never used, but {} was",
                    f.next, self.last_formatted
                ))
            } else {
                None
            };
            if let Some(why) = why {
                let off = self.geo.system_offset(system::IFRONTIER);
                let finding = Finding::new(Structure::InodeFrontier, off, why)
                    .fix("recomputed from the inode table");
                self.shards_bad |= self.find(&finding)?;
            }
        }
        if !self.shards_bad && self.shards.iter().all(Option::is_some) {
            self.check_lists()?;
        }
        if self.shards_bad {
            self.write_free_inodes()?;
        }
        Ok(())
    }

    /// Every free inode is in one list, once.
    fn check_lists(&mut self) -> Res<()> {
        let mut seen = vec![false; self.free.len()];
        let shards = self.shards.clone();
        for (index, state) in shards.into_iter().flatten().enumerate() {
            let mut why = self.unused_but_used(&state);
            let mut ino = state.free_head;
            let mut count = 0u64;
            while why.is_none() && ino != 0 {
                match self.free.binary_search(&ino) {
                    Ok(i) => match seen.get_mut(i) {
                        Some(s) if !*s => *s = true,
                        _ => why = Some(format!("free inode {ino} is listed twice")),
                    },
                    Err(_) => why = Some(format!("inode {ino} is listed as free and is not")),
                }
                count = count.saturating_add(1);
                let next = match self.inode_offset(ino) {
                    Some(off) => match Inode::load(&self.store, off, ino)? {
                        Slot::Inode(i) => i.link,
                        _ => 0,
                    },
                    None => 0,
                };
                ino = next;
            }
            if why.is_none() && count != state.free_count {
                why = Some(format!(
                    "counts {} free inodes, lists {count}",
                    state.free_count
                ));
            }
            if let Some(why) = why {
                let off = self.geo.shard_offset(index as u64);
                let f = Finding::new(Structure::Shard, off, why)
                    .fix("made anew from the inodes that are not in use");
                self.shards_bad |= self.find(&f)?;
                return Ok(());
            }
        }
        if let Some(i) = seen.iter().position(|s| !s) {
            let ino = self.free.get(i).copied().unwrap_or(0);
            let missing = seen.iter().filter(|s| !**s).count();
            let f = Finding::new(
                Structure::Shard,
                self.inode_offset(ino).unwrap_or(0),
                format!("{missing} free inodes are in no list, the first is {ino}"),
            )
            .fix("lists made anew from the inodes that are not in use");
            self.shards_bad |= self.find(&f)?;
        }
        Ok(())
    }

    /// An inode of the range that a shard calls unused, but is not.
    fn unused_but_used(&self, s: &ShardState) -> Option<String> {
        let range = s.next..s.end;
        let after = |list: &[Ino]| list.partition_point(|i| *i < range.start);
        let free = self.free.get(after(&self.free)).copied();
        let used = self
            .inodes
            .get(self.inodes.partition_point(|i| i.ino < range.start))
            .map(|i| i.ino);
        [free, used]
            .into_iter()
            .flatten()
            .find(|i| range.contains(i))
            .map(|i| format!("inode {i} was never used, it says, but was"))
    }

    fn write_free_inodes(&mut self) -> Res<()> {
        let capacity = self.table.capacity();
        let next = self
            .last_formatted
            .saturating_add(1)
            .checked_next_multiple_of(INODES_PER_PAGE)
            .unwrap_or(capacity)
            .min(capacity);
        // What was never used below becomes free: its sector is written with the lists.
        let mut free: Vec<Ino> = Vec::new();
        let mut used = self.inodes.iter().map(|i| i.ino).peekable();
        for ino in 1..next {
            if used.next_if_eq(&ino).is_some() {
                continue;
            }
            let Some(off) = self.inode_offset(ino) else {
                continue;
            };
            match Inode::load(&self.store, off, ino)? {
                Slot::Inode(i) if i.in_use() => {}
                Slot::Inode(_) | Slot::Zero => free.push(ino),
                // Left as it is on request.
                Slot::Bad(_) => {}
            }
        }
        self.write_inode_frontier(InodeFrontier { next, capacity });
        let shards = self.geo.shards;
        let share = (free.len() as u64).div_ceil(shards).max(1) as usize;
        let mut parts = free.chunks(share);
        for index in 0..shards {
            let part = parts.next().unwrap_or(&[]);
            for (i, ino) in part.iter().enumerate() {
                let link = part.get(i.saturating_add(1)).copied().unwrap_or(0);
                let Some(off) = self.inode_offset(*ino) else {
                    continue;
                };
                let generation = match Inode::load(&self.store, off, *ino)? {
                    Slot::Inode(i) if i.link == link => continue,
                    Slot::Inode(i) => i.generation,
                    _ => self.store.host().random() as u32 >> 1,
                };
                let mut inode = Inode::free(off, *ino, generation);
                inode.link = link;
                self.put_inode(&inode);
                if i % 128 == 127 {
                    self.store.commit()?;
                }
            }
            self.write_shard(
                index,
                ShardState {
                    free_head: part.first().copied().unwrap_or(0),
                    free_count: part.len() as u64,
                    next: 0,
                    end: 0,
                },
            );
        }
        self.free = free;
        self.store.commit()?;
        Ok(())
    }
}
