// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Puts rebuilt bodies in place of damaged ones.

use super::build::{self, Owner};
use super::checker::{Checker, Damaged, Halt, Res, LEFT};
use super::inode::Inode;
use super::node::{DirList, Record};
use super::store::Store;
use crate::layout::{body, inode::INLINE_RECORDS, node, PAGE};
use crate::types::{self, Ino};
use alloc::vec::Vec;

/// Builds a tree from what it holds, with pages of the second argument.
type Make<'m> = dyn FnMut(&Store<'_>, &mut dyn FnMut() -> Option<u64>) -> Option<build::Built> + 'm;
/// Gives an inode a new body; answers the pages of its nodes, or nothing for want of pages.
type Put<'p, C> = dyn FnMut(&mut C, &mut Inode) -> Res<Option<Vec<u64>>> + 'p;

impl Checker<'_, '_> {
    /// Builds nodes with `make`, in fresh pages; gives the pages of the nodes.
    fn put_tree(
        &mut self,
        inode: &mut Inode,
        records: u64,
        make: &mut Make<'_>,
    ) -> Res<Option<Vec<u64>>> {
        // How many nodes: build once without pages.
        let mut count = 0u64;
        let mut number = || {
            count += 1;
            Some(count)
        };
        if make(&self.store, &mut number).is_none() {
            return Ok(None);
        }
        let mut pages = Vec::new();
        for _ in 0..count {
            match self.fresh(inode.ino)? {
                Some(p) => pages.push(p),
                None => {
                    for p in pages {
                        self.claims.release(p, 1, inode.ino);
                    }
                    return Ok(None);
                }
            }
        }
        let mut left = pages.iter().copied();
        let Some(built) = make(&self.store, &mut || left.next()) else {
            return Ok(None);
        };
        for (page, bytes) in &built.nodes {
            self.store.fill(*page, bytes)?;
        }
        inode.set_tree(built.root, built.depth, records);
        Ok(Some(pages))
    }

    /// Gives an inode these records, which ascend. The inode is not written yet.
    pub(super) fn put_records(
        &mut self,
        inode: &mut Inode,
        records: &[Record],
    ) -> Res<Option<Vec<u64>>> {
        if records.len() <= INLINE_RECORDS {
            inode.set_inline(records);
            return Ok(Some(Vec::new()));
        }
        let owner = Owner {
            ino: inode.ino,
            generation: inode.generation,
            kind: node::KIND_RECORDS,
        };
        self.put_tree(inode, records.len() as u64, &mut |store, pages| {
            build::records(store, owner, records, pages)
        })
    }

    fn put_entries(&mut self, inode: &mut Inode, list: &DirList) -> Res<Option<Vec<u64>>> {
        if list.entries.is_empty() {
            inode.clear_body();
            inode.size = 0;
            return Ok(Some(Vec::new()));
        }
        let owner = Owner {
            ino: inode.ino,
            generation: inode.generation,
            kind: node::KIND_DENTRIES,
        };
        let pages = self.put_tree(inode, list.entries.len() as u64, &mut |store, pages| {
            build::directory(store, owner, list, pages)
        })?;
        if let Some(pages) = &pages {
            inode.size = (pages.len() as u64).saturating_mul(PAGE);
        }
        Ok(pages)
    }

    /// Pages of the nodes of an inode's tree as it is now.
    fn old_nodes(&self, inode: &Inode) -> Res<Vec<u64>> {
        if let Some(d) = self.damaged.get(&inode.ino) {
            return Ok(d.nodes.iter().copied().collect());
        }
        if inode.format != body::TREE {
            return Ok(Vec::new());
        }
        let scan = if inode.kind() == types::S_IFDIR {
            super::tree::entries(&self.store, &self.geo, inode)?.1
        } else {
            super::tree::records(&self.store, &self.geo, inode)?.1
        };
        Ok(scan.nodes)
    }

    /// Replaces the body of an inode. Where fresh pages run out, the pages of the old tree are
    /// used: then only, a repair that is cut short may lose what it was about to save.
    fn replace(&mut self, ino: Ino, put: &mut Put<'_, Self>) -> Res<()> {
        let Some(mut inode) = self.inode(ino)? else {
            return Ok(());
        };
        let old = self.old_nodes(&inode)?;
        let before = inode.clone();
        let mut new = put(self, &mut inode)?;
        if new.is_none() {
            for page in &old {
                self.claims.release(*page, 1, ino);
            }
            self.pool.clone_from(&old);
            new = put(self, &mut inode)?;
            self.pool.clear();
            if new.is_none() {
                for page in &old {
                    let _ = self.claims.claim(*page, 1, ino);
                }
            }
        } else {
            for page in &old {
                self.claims.release(*page, 1, ino);
            }
        }
        let Some(new) = new else {
            self.put_inode(&before);
            if let Some(i) = self.info_mut(ino) {
                i.marks |= LEFT;
            }
            return self.no_room(ino, "its tree");
        };
        self.damaged.remove(&ino);
        let (gone, come) = (old.len() as u64, new.len() as u64);
        if let Some(i) = self.info_mut(ino) {
            i.pages = i.pages.saturating_sub(gone).saturating_add(come);
            i.nodes = come;
            inode.pages = i.pages;
        }
        self.put_inode(&inode);
        self.store.commit()?;
        Ok(())
    }

    /// Writes the records of files whose extents changed.
    pub(super) fn rebuild_files(&mut self) -> Res<()> {
        let changed = core::mem::take(&mut self.changed);
        for (ino, records) in changed {
            self.replace(ino, &mut |c, inode| c.put_records(inode, &records))?;
        }
        Ok(())
    }

    /// Writes the directories whose entries changed.
    pub(super) fn rebuild_directories(&mut self) -> Res<()> {
        self.settle()?;
        let dirs = core::mem::take(&mut self.dirs);
        for (ino, list) in dirs {
            self.replace(ino, &mut |c, inode| c.put_entries(inode, &list))?;
        }
        Ok(())
    }

    /// What was read of a damaged tree; an empty one where it is whole.
    pub(super) fn damaged_mut(&mut self, ino: Ino) -> Result<&mut Damaged, Halt> {
        Ok(self.damaged.entry(ino).or_default())
    }
}
