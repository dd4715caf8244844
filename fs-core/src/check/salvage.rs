// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Looks for leaves that a damaged tree no longer reaches: a node knows whose it is and where it
//! lies.

use super::checker::{Checker, Res};
use super::node::Node;
use super::report::Phase;
use super::tree;
use crate::bytes::get32;
use crate::layout::{node as at, CHUNK_PAGES, NODE_MAGIC, PAGE};
use crate::types::{self, Ino};
use alloc::format;
use alloc::vec::Vec;

impl Checker<'_, '_> {
    /// Calls `found` for every sound node in a page that nobody claims and that is not recorded as
    /// free: what is recorded as free may be left over from a tree that changed since.
    pub(super) fn each_lost_node(&mut self, found: &mut dyn FnMut(&Node)) -> Res<()> {
        let end = self.scan_end();
        let start = self.geo.data_start;
        let mut chunk = u64::MAX;
        let mut map = None;
        let mut page = self.claims.next_free(start);
        let mut steps = 0u64;
        while page < end {
            if steps % 4096 == 0 {
                self.progress(Phase::Salvage, page - start, end - start)?;
            }
            steps = steps.saturating_add(1);
            if page / CHUNK_PAGES != chunk {
                chunk = page / CHUNK_PAGES;
                map = self.recorded_bitmap(chunk)?;
            }
            let bit = page % CHUNK_PAGES;
            let allocated = map.is_none_or(|m: [u64; 8]| {
                m.get((bit / 64) as usize)
                    .is_some_and(|w| w >> (bit % 64) & 1 != 0)
            });
            if allocated {
                let head = self.store.sector(page.saturating_mul(PAGE))?;
                if get32(&head, 0) == NODE_MAGIC {
                    if let Ok(node) = Node::load(&self.store, page)? {
                        if u64::from(node.count) <= node.most() {
                            found(&node);
                        }
                    }
                }
            }
            page = self.claims.next_free(page.saturating_add(1));
        }
        Ok(())
    }

    pub(super) fn salvage(&mut self) -> Res<()> {
        if !self.damaged.values().any(|d| d.lost) {
            return Ok(());
        }
        let wanted: Vec<(Ino, u32, u8)> = self
            .damaged
            .iter()
            .filter(|(_, d)| d.lost)
            .filter_map(|(&ino, _)| {
                let i = self.info(ino)?;
                let kind = if i.mode & types::S_IFMT == types::S_IFDIR {
                    at::KIND_DENTRIES
                } else {
                    at::KIND_RECORDS
                };
                Some((ino, i.generation, kind))
            })
            .collect();
        // Entries are taken while the search goes on; the pages are claimed after it, as it skips
        // what is claimed.
        let mut damaged = core::mem::take(&mut self.damaged);
        let mut leaves: Vec<(Ino, u64)> = Vec::new();
        let searched = self.each_lost_node(&mut |node| {
            let Ok(i) = wanted.binary_search_by_key(&node.owner, |w| w.0) else {
                return;
            };
            let right = wanted
                .get(i)
                .is_some_and(|w| w.1 == node.generation && w.2 == node.kind);
            if !right || node.level != 0 {
                return;
            }
            let Some(d) = damaged.get_mut(&node.owner) else {
                return;
            };
            d.nodes.insert(node.page);
            if node.kind == at::KIND_DENTRIES {
                tree::take_entries(node, &mut d.entries);
            } else {
                tree::take_records(node, &mut d.records);
            }
            leaves.push((node.owner, node.page));
        });
        self.damaged = damaged;
        searched?;
        let count = leaves.len();
        for (ino, page) in leaves {
            if self.claims.claim(page, 1, ino).is_ok() {
                if let Some(i) = self.info_mut(ino) {
                    i.pages = i.pages.saturating_add(1);
                    i.nodes = i.nodes.saturating_add(1);
                }
            }
        }
        self.note(&format!(
            "{count} leaves of damaged trees found and put back"
        ))
    }
}
