// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Builds trees anew from their entries.

use super::node::{DirList, Record};
use super::store::{Page, Store};
use crate::bytes::{put, put16, put32, put64, put8};
use crate::layout::{node as at, NODE_MAGIC, PAGE, SECTOR};
use crate::types::Ino;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// A tree that is built but not yet named by anybody.
#[derive(Debug)]
pub struct Built {
    /// Its nodes.
    pub nodes: Vec<(u64, Box<Page>)>,
    /// Page of the root.
    pub root: u64,
    /// Levels.
    pub depth: u8,
}

/// Whose tree it becomes.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Inode number.
    pub ino: Ino,
    /// Generation of the inode.
    pub generation: u32,
    /// Kind of the nodes.
    pub kind: u8,
}

/// A node that is being filled.
struct Draft {
    bytes: Box<Page>,
    level: u8,
    count: u64,
    heap: u64,
    first: u64,
}

impl Draft {
    fn new(level: u8) -> Self {
        Draft {
            bytes: Box::new([0; PAGE as usize]),
            level,
            count: 0,
            heap: PAGE,
            first: 0,
        }
    }

    const fn entry_size(&self) -> u64 {
        if self.level == 0 {
            at::LEAF_ENTRY
        } else {
            at::INNER_ENTRY
        }
    }

    /// Is there room for one more entry with `name` bytes in the heap?
    const fn fits(&self, name: u64) -> bool {
        at::ENTRIES + self.entry_size() * (self.count + 1) + name <= self.heap
    }

    fn add(&mut self, words: [u64; 3], name: &[u8]) {
        let mut words = words;
        if !name.is_empty() {
            self.heap -= name.len() as u64;
            put(self.bytes.as_mut_slice(), self.heap as usize, name);
            // name offset u16, name length u8, type u8 (given in bits 24..32), zero u32
            words[2] = words[2] << 24 | (name.len() as u64) << 16 | self.heap;
        }
        if self.count == 0 {
            self.first = words[0];
        }
        let from = at::ENTRIES + self.entry_size() * self.count;
        for (i, w) in words
            .iter()
            .take(self.entry_size() as usize / 8)
            .enumerate()
        {
            put64(self.bytes.as_mut_slice(), from as usize + 8 * i, *w);
        }
        self.count += 1;
    }

    /// Fills in the header; the page is known only now.
    fn finish(mut self, store: &Store<'_>, owner: Owner, page: u64) -> Box<Page> {
        let off = page.saturating_mul(PAGE);
        let mut head = [0u8; SECTOR as usize];
        put32(&mut head, 0, NODE_MAGIC);
        put64(&mut head, at::OWNER, owner.ino);
        put64(&mut head, at::SELF, page);
        put8(&mut head, at::KIND, owner.kind);
        put8(&mut head, at::LEVEL, self.level);
        put16(&mut head, at::COUNT, self.count as u16);
        put16(&mut head, at::HEAP, self.heap as u16);
        put32(&mut head, at::GENERATION, owner.generation);
        for (i, sector) in self.bytes.chunks_exact(SECTOR as usize).enumerate().skip(1) {
            let sum = store.sum(off + i as u64 * SECTOR, sector);
            put32(&mut head, at::SUMS + 4 * (i - 1), sum);
        }
        store.seal(off, &mut head);
        put(self.bytes.as_mut_slice(), 0, &head);
        self.bytes
    }
}

/// Collects nodes of one level and gives them pages.
struct Level<'a, 'b> {
    store: &'a Store<'b>,
    owner: Owner,
    pages: &'a mut dyn FnMut() -> Option<u64>,
    nodes: &'a mut Vec<(u64, Box<Page>)>,
    done: Vec<(u64, u64)>,
    draft: Draft,
}

impl Level<'_, '_> {
    fn add(&mut self, words: [u64; 3], name: &[u8]) -> Option<()> {
        let most = if self.draft.level == 0 {
            at::LEAF_MAX
        } else {
            at::INNER_MAX
        };
        if self.draft.count >= most || !self.draft.fits(name.len() as u64) {
            self.flush()?;
        }
        self.draft.add(words, name);
        Some(())
    }

    fn flush(&mut self) -> Option<()> {
        let level = self.draft.level;
        let full = core::mem::replace(&mut self.draft, Draft::new(level));
        if full.count > 0 {
            let page = (self.pages)()?;
            self.done.push((full.first, page));
            self.nodes
                .push((page, full.finish(self.store, self.owner, page)));
        }
        Some(())
    }
}

fn build(
    store: &Store<'_>,
    owner: Owner,
    pages: &mut dyn FnMut() -> Option<u64>,
    leaves: &mut dyn FnMut(&mut Level<'_, '_>) -> Option<()>,
) -> Option<Built> {
    let mut nodes = Vec::new();
    let mut level = Level {
        store,
        owner,
        pages: &mut *pages,
        nodes: &mut nodes,
        done: Vec::new(),
        draft: Draft::new(0),
    };
    leaves(&mut level)?;
    level.flush()?;
    let mut done = level.done;
    let mut depth = 1u8;
    while done.len() > 1 {
        let mut level = Level {
            store,
            owner,
            pages: &mut *pages,
            nodes: &mut nodes,
            done: Vec::new(),
            draft: Draft::new(depth),
        };
        for (key, page) in done {
            level.add([key, page, 0], &[])?;
        }
        level.flush()?;
        done = level.done;
        depth += 1;
    }
    let (_, root) = *done.first()?;
    Some(Built { nodes, root, depth })
}

/// Builds a tree of records, which ascend by key; `None` where pages run out or there is no
/// record.
pub fn records(
    store: &Store<'_>,
    owner: Owner,
    records: &[Record],
    pages: &mut dyn FnMut() -> Option<u64>,
) -> Option<Built> {
    build(store, owner, pages, &mut |level| {
        records
            .iter()
            .try_for_each(|r| level.add([r.key, r.a, r.b], &[]))
    })
}

/// Builds a directory, whose entries ascend by key.
pub fn directory(
    store: &Store<'_>,
    owner: Owner,
    list: &DirList,
    pages: &mut dyn FnMut() -> Option<u64>,
) -> Option<Built> {
    build(store, owner, pages, &mut |level| {
        list.entries.iter().try_for_each(|e| {
            let name = list.name(e);
            level.add([e.key, e.ino, u64::from(e.kind)], name)
        })
    })
}
