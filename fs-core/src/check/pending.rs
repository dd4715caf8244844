// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Pending sets: they hold just the inodes with work left to do.

use super::checker::{Checker, Res};
use super::inode::{Inode, Slot};
use super::node::Record;
use super::report::{Finding, Phase, Structure};
use crate::layout::{iflag, system, PENDING_OWNER, PENDING_SETS};
use crate::types::Ino;
use alloc::format;
use alloc::vec::Vec;

impl Checker<'_, '_> {
    pub(super) fn check_pending(&mut self) -> Res<()> {
        let mut wanted: Vec<Vec<Record>> = Vec::new();
        wanted.resize_with(PENDING_SETS as usize, Vec::new);
        for i in &self.inodes {
            if i.flags & iflag::PENDING == 0 {
                continue;
            }
            self.report.pending = self.report.pending.saturating_add(1);
            if let Some(set) = wanted.get_mut((i.ino % PENDING_SETS) as usize) {
                // The third word is the epoch of a mount; any will do.
                set.push(Record {
                    key: i.ino,
                    a: u64::from(i.generation),
                    b: 0,
                });
            }
        }
        let sets = core::mem::take(&mut self.pending);
        for (n, (set, wanted)) in sets.into_iter().zip(wanted).enumerate() {
            self.progress(Phase::Pending, n as u64, PENDING_SETS)?;
            let ino = PENDING_OWNER + n as u64;
            let off = self.geo.system_offset(system::PENDING + n as u64);
            let same = |a: &Record, b: &Record| a.key == b.key && a.a == b.a;
            let equal = set.records.len() == wanted.len()
                && set.records.iter().zip(&wanted).all(|(a, b)| same(a, b));
            let fix = if set.bad {
                set.fix
            } else if equal {
                continue;
            } else {
                let has = |list: &[Record], r: &Record| {
                    list.binary_search_by_key(&r.key, |l| l.key)
                        .ok()
                        .and_then(|i| list.get(i))
                        .is_some_and(|l| same(l, r))
                };
                let extra = set.records.iter().filter(|r| !has(&wanted, r)).count();
                let missing = wanted.iter().filter(|r| !has(&set.records, r)).count();
                let f = Finding::new(
                    Structure::Pending,
                    off,
                    format!("{missing} inodes are missing, {extra} do not belong there"),
                )
                .of(ino)
                .fix("rebuilt from the inodes");
                self.find(&f)?
            };
            if fix {
                self.write_pending(ino, off, &wanted, &set.nodes)?;
            }
        }
        Ok(())
    }

    fn write_pending(&mut self, ino: Ino, off: u64, records: &[Record], old: &[u64]) -> Res<()> {
        let generation = match Inode::load(&self.store, off, ino)? {
            Slot::Inode(i) => i.generation,
            _ => 0,
        };
        let mut inode = Inode::free(off, ino, generation);
        inode.flags = iflag::IN_USE | iflag::SYSTEM;
        let mut nodes = self.put_records(&mut inode, records)?;
        for page in old {
            self.claims.release(*page, 1, ino);
        }
        if nodes.is_none() {
            self.pool = old.to_vec();
            nodes = self.put_records(&mut inode, records)?;
            self.pool.clear();
        }
        let Some(nodes) = nodes else {
            return self.no_room(ino, "a pending set");
        };
        inode.pages = nodes.len() as u64;
        self.put_inode(&inode);
        self.store.commit()?;
        Ok(())
    }
}
