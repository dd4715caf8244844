// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The B+tree behind extents, directory entries, pending sets and seals (LAYOUT.md, section 11).
//!
//! A tree belongs to an inode, whose body names the root. Leaf entries are 24 bytes with the key
//! first; those of directories name bytes in a heap at the end of the leaf.

use crate::bytes::{get16, get32, get64, get8, put16, put32, put64, put8};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::host::Host;
use crate::inode::Inode;
use crate::journal::{Tx, TxResult, View};
use crate::layout::{body, kind, node, NODE_MAGIC, PAGE, SECTOR};
use crate::region::Region;
use crate::space::{offset, Want};
use crate::types::NAME_MAX;
use core::cell::Cell;

/// A leaf entry; inner entries use the first 16 bytes.
pub(crate) type Entry = [u8; node::LEAF_ENTRY as usize];

/// Offset and length of the name of a directory entry, in its bytes.
pub(crate) const NAME_OFFSET: usize = 16;
pub(crate) const NAME_LEN: usize = 18;

/// A node whose header was checked. Sectors of the payload are checked when they are first read.
pub(crate) struct Node {
    pub page: u64,
    pub level: u8,
    pub count: u64,
    heap: u64,
    dead: u64,
    sums: [u32; 15],
    checked: Cell<u16>,
}

impl Node {
    fn load<R: Region, H: Host, V: View<R, H>>(
        view: &V,
        inode: &Inode,
        page: u64,
        level: u8,
    ) -> Result<Node> {
        if !view.fs().geo.is_data(page, 1) {
            return Err(Error::corrupt(
                inode.off,
                "tree: node outside the data zone",
            ));
        }
        let off = offset(page);
        let mut b = [0; SECTOR as usize];
        view.fs()
            .sector(view, off, NODE_MAGIC, "tree node: bad magic", &mut b)?;
        let kind = get8(&b, node::KIND);
        if get64(&b, node::OWNER) != inode.ino()
            || get32(&b, node::GENERATION) != inode.generation()
            || get64(&b, node::SELF) != page
            || get8(&b, node::LEVEL) != level
            || kind != kind_of(inode)
        {
            return Err(Error::corrupt(
                off,
                "tree node: of another tree, place or level",
            ));
        }
        let count = u64::from(get16(&b, node::COUNT));
        let heap = u64::from(get16(&b, node::HEAP));
        let dead = u64::from(get16(&b, node::DEAD));
        let size = entry_size(level);
        if count == 0
            || heap > PAGE
            || node::ENTRIES + count * size > heap
            || dead > PAGE - heap
            || ((level > 0 || kind == node::KIND_RECORDS) && heap != PAGE)
        {
            return Err(Error::corrupt(
                off,
                "tree node: count or heap out of bounds",
            ));
        }
        let mut sums = [0u32; 15];
        for (k, s) in sums.iter_mut().enumerate() {
            *s = get32(&b, node::SUMS + 4 * k);
        }
        Ok(Node {
            page,
            level,
            count,
            heap,
            dead,
            sums,
            checked: Cell::new(0),
        })
    }

    /// Reads bytes of the payload, at an offset in the page.
    pub fn read<R: Region, H: Host, V: View<R, H>>(
        &self,
        view: &V,
        at: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let end = at + buf.len() as u64;
        let base = offset(self.page);
        if at < node::ENTRIES || end > PAGE {
            return Err(Error::corrupt(base, "tree node: payload out of bounds"));
        }
        if !buf.is_empty() {
            for k in at / SECTOR..=(end - 1) / SECTOR {
                let bit = 1u16 << k;
                if self.checked.get() & bit != 0 {
                    continue;
                }
                let sector = base + k * SECTOR;
                if !view.staged(sector)? {
                    let mut b = [0u8; SECTOR as usize];
                    view.fs().region.read(sector, &mut b)?;
                    let sum = self.sums.get((k - 1) as usize).copied().unwrap_or(0);
                    if view.fs().sum(sector, &b) != sum {
                        return Err(Error::corrupt(
                            sector,
                            "tree node: bad checksum of a sector",
                        ));
                    }
                }
                self.checked.set(self.checked.get() | bit);
            }
        }
        view.peek(base + at, buf)
    }

    /// Offset of entry `i` in the page.
    fn at(&self, i: u64) -> u64 {
        node::ENTRIES + i * entry_size(self.level)
    }

    /// Entry `i`.
    pub fn entry<R: Region, H: Host, V: View<R, H>>(&self, view: &V, i: u64) -> Result<Entry> {
        let mut e = Entry::default();
        let size = entry_size(self.level) as usize;
        if let Some(b) = e.get_mut(..size) {
            self.read(view, self.at(i), b)?;
        }
        Ok(e)
    }

    fn key<R: Region, H: Host, V: View<R, H>>(&self, view: &V, i: u64) -> Result<u64> {
        let mut b = [0u8; 8];
        self.read(view, self.at(i), &mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    /// First entry at or behind `from` whose key is not below `key`.
    fn lower_bound<R: Region, H: Host, V: View<R, H>>(
        &self,
        view: &V,
        from: u64,
        key: u64,
    ) -> Result<u64> {
        let (mut lo, mut hi) = (from, self.count);
        while lo < hi {
            let mid = lo + (hi - lo) / 2;
            if self.key(view, mid)? < key {
                lo = mid + 1;
            } else {
                hi = mid;
            }
        }
        Ok(lo)
    }

    /// Which child of an inner node holds `key`.
    fn child_for<R: Region, H: Host, V: View<R, H>>(&self, view: &V, key: u64) -> Result<u64> {
        match key.checked_add(1) {
            Some(next) => Ok(self.lower_bound(view, 1, next)?.saturating_sub(1)),
            None => Ok(self.count - 1),
        }
    }

    fn child<R: Region, H: Host, V: View<R, H>>(&self, view: &V, i: u64) -> Result<u64> {
        Ok(get64(&self.entry(view, i)?, 8))
    }

    /// The name of a directory entry of this leaf; `buf` holds NAME_MAX bytes.
    pub fn name<'b, R: Region, H: Host, V: View<R, H>>(
        &self,
        view: &V,
        e: &Entry,
        buf: &'b mut [u8; NAME_MAX],
    ) -> Result<&'b [u8]> {
        let at = u64::from(get16(e, NAME_OFFSET));
        let len = usize::from(get8(e, NAME_LEN));
        if len == 0 || at < self.heap {
            return Err(Error::corrupt(
                offset(self.page),
                "directory entry: bad name",
            ));
        }
        let b = buf.get_mut(..len).unwrap_or_default();
        self.read(view, at, b)?;
        Ok(b)
    }
}

fn entry_size(level: u8) -> u64 {
    if level == 0 {
        node::LEAF_ENTRY
    } else {
        node::INNER_ENTRY
    }
}

fn kind_of(inode: &Inode) -> u8 {
    if inode.is_dir() {
        node::KIND_DENTRIES
    } else {
        node::KIND_RECORDS
    }
}

/// A place in a tree: nodes by level, which child was taken in each, and the entry in the leaf.
pub(crate) struct Cursor {
    pages: [u64; node::MAX_DEPTH],
    index: [u64; node::MAX_DEPTH],
    depth: usize,
    /// The leaf.
    pub leaf: Node,
    /// First entry that is not below the key looked for; the count if there is none in this leaf.
    pub pos: u64,
    /// Is it that key?
    pub found: bool,
}

impl Cursor {
    /// Looks for a key; `None` if there is no tree.
    pub fn seek<R: Region, H: Host, V: View<R, H>>(
        view: &V,
        inode: &Inode,
        key: u64,
    ) -> Result<Option<Cursor>> {
        let depth = usize::from(inode.body_depth());
        if inode.body_format() != body::TREE {
            return Ok(None);
        }
        if depth == 0 || depth > node::MAX_DEPTH {
            return Err(Error::corrupt(inode.off, "inode: bad depth of its tree"));
        }
        let mut pages = [0; node::MAX_DEPTH];
        let mut index = [0; node::MAX_DEPTH];
        let mut page = inode.root();
        let mut level = depth - 1;
        loop {
            let n = Node::load(view, inode, page, level as u8)?;
            set(&mut pages, level, page);
            if level == 0 {
                let pos = n.lower_bound(view, 0, key)?;
                let found = pos < n.count && n.key(view, pos)? == key;
                return Ok(Some(Cursor {
                    pages,
                    index,
                    depth,
                    leaf: n,
                    pos,
                    found,
                }));
            }
            let i = n.child_for(view, key)?;
            set(&mut index, level, i);
            page = n.child(view, i)?;
            level -= 1;
        }
    }

    /// The entry at the cursor.
    pub fn entry<R: Region, H: Host, V: View<R, H>>(&self, view: &V) -> Result<Entry> {
        self.leaf.entry(view, self.pos)
    }

    /// Goes to the next leaf (its first entry) or the one before (its last). False at the end.
    fn step<R: Region, H: Host, V: View<R, H>>(
        &mut self,
        view: &V,
        inode: &Inode,
        forward: bool,
    ) -> Result<bool> {
        for level in 1..self.depth {
            let i = get(&self.index, level);
            let n = Node::load(view, inode, get(&self.pages, level), level as u8)?;
            let next = if forward { i + 1 } else { i.wrapping_sub(1) };
            if next >= n.count {
                continue;
            }
            set(&mut self.index, level, next);
            let mut page = n.child(view, next)?;
            for l in (0..level).rev() {
                let n = Node::load(view, inode, page, l as u8)?;
                set(&mut self.pages, l, page);
                let i = if forward { 0 } else { n.count - 1 };
                if l == 0 {
                    self.pos = i;
                    self.leaf = n;
                } else {
                    set(&mut self.index, l, i);
                    page = n.child(view, i)?;
                }
            }
            self.found = false;
            return Ok(true);
        }
        Ok(false)
    }

    /// Makes the cursor stand on the entry looked for or the first one behind it.
    pub fn settle_forward<R: Region, H: Host, V: View<R, H>>(
        &mut self,
        view: &V,
        inode: &Inode,
    ) -> Result<bool> {
        if self.pos < self.leaf.count {
            return Ok(true);
        }
        self.step(view, inode, true)
    }

    /// Makes the cursor stand on the entry looked for or the last one before it.
    pub fn settle_back<R: Region, H: Host, V: View<R, H>>(
        &mut self,
        view: &V,
        inode: &Inode,
    ) -> Result<bool> {
        if self.found {
            return Ok(true);
        }
        if self.pos > 0 {
            self.pos -= 1;
            return Ok(true);
        }
        self.step(view, inode, false)
    }

    /// Goes to the next entry. False at the end.
    pub fn next<R: Region, H: Host, V: View<R, H>>(
        &mut self,
        view: &V,
        inode: &Inode,
    ) -> Result<bool> {
        self.pos += 1;
        self.found = false;
        self.settle_forward(view, inode)
    }
}

fn get(a: &[u64; node::MAX_DEPTH], i: usize) -> u64 {
    a.get(i).copied().unwrap_or(0)
}

fn set(a: &mut [u64; node::MAX_DEPTH], i: usize, v: u64) {
    if let Some(x) = a.get_mut(i) {
        *x = v;
    }
}

/// Fills a page that nobody names yet with a new node.
struct Builder<'f, R: Region, H: Host> {
    fs: &'f Fs<R, H>,
    page: u64,
    level: u8,
    kind: u8,
    owner: u64,
    generation: u32,
    count: u64,
    heap: u64,
}

impl<'f, R: Region, H: Host> Builder<'f, R, H> {
    fn new(fs: &'f Fs<R, H>, inode: &Inode, page: u64, level: u8) -> Result<Self> {
        fs.region.zero(offset(page), PAGE)?;
        Ok(Builder {
            fs,
            page,
            level,
            kind: kind_of(inode),
            owner: inode.ino(),
            generation: inode.generation(),
            count: 0,
            heap: PAGE,
        })
    }

    /// Appends an entry, and its name where it has one.
    fn push(&mut self, e: &Entry, name: &[u8]) -> Result<()> {
        let mut e = *e;
        let size = entry_size(self.level);
        let at = node::ENTRIES + self.count * size;
        if self.heap < at + size + name.len() as u64 {
            return Err(Error::corrupt(offset(self.page), "tree node: overfull"));
        }
        if !name.is_empty() {
            self.heap -= name.len() as u64;
            self.fs.region.write(offset(self.page) + self.heap, name)?;
            put16(&mut e, NAME_OFFSET, self.heap as u16);
        }
        let bytes = e.get(..size as usize).unwrap_or_default();
        self.fs.region.write(offset(self.page) + at, bytes)?;
        self.count += 1;
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let base = offset(self.page);
        let mut b = [0u8; SECTOR as usize];
        put32(&mut b, 0, NODE_MAGIC);
        put64(&mut b, node::OWNER, self.owner);
        put64(&mut b, node::SELF, self.page);
        put8(&mut b, node::KIND, self.kind);
        put8(&mut b, node::LEVEL, self.level);
        put16(&mut b, node::COUNT, self.count as u16);
        put16(&mut b, node::HEAP, self.heap as u16);
        put32(&mut b, node::GENERATION, self.generation);
        let mut payload = [0u8; SECTOR as usize];
        for k in 1..16u64 {
            self.fs.region.read(base + k * SECTOR, &mut payload)?;
            let sum = self.fs.sum(base + k * SECTOR, &payload);
            put32(&mut b, node::SUMS + 4 * (k as usize - 1), sum);
        }
        self.fs.put_sum(base, &mut b);
        self.fs.region.write(base, &b)
    }
}

/// What a node shall become: its entries, with one of them pointed elsewhere and one inserted.
struct Edit<'e> {
    /// Entry whose child is replaced.
    child: Option<(u64, u64)>,
    /// Entry inserted before this position.
    insert: Option<(u64, &'e Entry, &'e [u8])>,
}

impl Edit<'_> {
    fn count(&self, n: &Node) -> u64 {
        n.count + u64::from(self.insert.is_some())
    }

    /// Entry `i` of the result, its name in `buf`.
    fn entry<'b, R: Region, H: Host, V: View<R, H>>(
        &'b self,
        view: &V,
        n: &Node,
        i: u64,
        buf: &'b mut [u8; NAME_MAX],
    ) -> Result<(Entry, &'b [u8])> {
        let mut old = i;
        if let Some((at, e, name)) = self.insert {
            if i == at {
                return Ok((*e, name));
            }
            if i > at {
                old = i - 1;
            }
        }
        let mut e = n.entry(view, old)?;
        if let Some((at, page)) = self.child {
            if at == old {
                put64(&mut e, 8, page);
            }
        }
        let name: &[u8] = if n.level == 0 && n.heap != PAGE {
            n.name(view, &e, buf)?
        } else {
            &[]
        };
        Ok((e, name))
    }
}

/// Allocates a node's page for an inode.
fn alloc_node<R: Region, H: Host>(tx: &mut Tx<'_, R, H>, inode: &mut Inode) -> TxResult<u64> {
    let (page, _) = tx.alloc(Want::PAGE)?;
    inode.add_pages(1);
    if inode.is_dir() {
        inode.set_size(inode.size() + PAGE);
    }
    Ok(page)
}

fn free_node<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    page: u64,
) -> TxResult<()> {
    tx.free(page, 1)?;
    inode.add_pages(-1);
    if inode.is_dir() {
        inode.set_size(inode.size().saturating_sub(PAGE));
    }
    Ok(())
}

/// Builds a node from a part of what `edit` makes of `n`.
fn build<R: Region, H: Host>(
    tx: &Tx<'_, R, H>,
    inode: &Inode,
    page: u64,
    n: &Node,
    edit: &Edit<'_>,
    range: core::ops::Range<u64>,
) -> Result<()> {
    let mut b = Builder::new(tx.fs, inode, page, n.level)?;
    let mut buf = [0u8; NAME_MAX];
    for i in range {
        let (e, name) = edit.entry(tx, n, i, &mut buf)?;
        b.push(&e, name)?;
    }
    b.finish()
}

/// Moves bytes inside a node's payload; the ranges may overlap.
fn shift<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    n: &Node,
    from: u64,
    to: u64,
    len: u64,
) -> Result<()> {
    let mut buf = [0u8; SECTOR as usize];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(SECTOR);
        let skip = if to > from { len - done - part } else { done };
        if let Some(b) = buf.get_mut(..part as usize) {
            n.read(tx, from + skip, b)?;
            tx.poke(offset(n.page) + to + skip, b, kind::NODE_PAYLOAD)?;
        }
        done += part;
    }
    Ok(())
}

fn put_header<R: Region, H: Host>(tx: &mut Tx<'_, R, H>, n: &Node) -> Result<()> {
    let mut b = [0u8; 6];
    put16(&mut b, 0, n.count as u16);
    put16(&mut b, 2, n.heap as u16);
    put16(&mut b, 4, n.dead as u16);
    tx.poke(offset(n.page) + node::COUNT as u64, &b, kind::NODE_HEADER)
}

/// Writes an entry of a node.
fn put_entry<R: Region, H: Host>(tx: &mut Tx<'_, R, H>, n: &Node, i: u64, e: &Entry) -> Result<()> {
    let size = entry_size(n.level) as usize;
    let bytes = e.get(..size).unwrap_or_default();
    tx.poke(offset(n.page) + n.at(i), bytes, kind::NODE_PAYLOAD)
}

/// Inserts an entry in place; there is room.
fn insert_in_place<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    n: &mut Node,
    i: u64,
    e: &Entry,
    name: &[u8],
) -> Result<()> {
    let mut e = *e;
    if !name.is_empty() {
        n.heap -= name.len() as u64;
        tx.poke(offset(n.page) + n.heap, name, kind::NODE_PAYLOAD)?;
        put16(&mut e, NAME_OFFSET, n.heap as u16);
    }
    let size = entry_size(n.level);
    shift(tx, n, n.at(i), n.at(i + 1), (n.count - i) * size)?;
    put_entry(tx, n, i, &e)?;
    n.count += 1;
    put_header(tx, n)
}

/// Inserts a leaf entry whose key is not there yet.
pub(crate) fn insert<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    e: &Entry,
    name: &[u8],
) -> TxResult<()> {
    let key = get64(e, 0);
    let Some(mut c) = Cursor::seek(tx, inode, key)? else {
        let page = alloc_node(tx, inode)?;
        let mut b = Builder::new(tx.fs, inode, page, 0)?;
        b.push(e, name)?;
        b.finish()?;
        inode.set_tree(page, 1, 1);
        return Ok(());
    };
    if c.found {
        return Err(Error::Exists.into());
    }
    let records = inode.records() + 1;
    let used = PAGE - c.leaf.heap;
    let entries = (c.leaf.count + 1) * node::LEAF_ENTRY;
    if node::ENTRIES + entries + used + name.len() as u64 <= PAGE {
        insert_in_place(tx, &mut c.leaf, c.pos, e, name)?;
    } else {
        let edit = Edit {
            child: None,
            insert: Some((c.pos, e, name)),
        };
        let live = entries + used - c.leaf.dead + name.len() as u64;
        // With dead names cleared away there may be room, and some more to come.
        let compact = live <= (PAGE - node::ENTRIES) * 7 / 8;
        let divided = divide(tx, inode, &c.leaf, &edit, compact)?;
        replace(tx, inode, &c, divided)?;
    }
    inode.set_tree(inode.root(), inode.body_depth(), records);
    Ok(())
}

/// What became of a node: the page that holds it now, and a second one with its least key.
struct Divided {
    left: u64,
    right: Option<(u64, u64)>,
}

/// Replaces a node by what `edit` makes of it: one fresh node (`whole`) or two. The parent does not
/// know yet.
fn divide<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    n: &Node,
    edit: &Edit<'_>,
    whole: bool,
) -> TxResult<Divided> {
    let count = edit.count(n);
    if whole {
        let left = alloc_node(tx, inode)?;
        build(tx, inode, left, n, edit, 0..count)?;
        free_node(tx, inode, n.page)?;
        return Ok(Divided { left, right: None });
    }
    // Appending leaves the old node full and alone: files grow at their end.
    let append = edit.child.is_none() && edit.insert.is_some_and(|(at, _, _)| at == n.count);
    let middle = if append {
        count - 1
    } else {
        split_point(tx, n, edit, count)?
    };
    let mut buf = [0u8; NAME_MAX];
    let key = get64(&edit.entry(tx, n, middle, &mut buf)?.0, 0);
    let left = if append {
        n.page
    } else {
        alloc_node(tx, inode)?
    };
    let right = alloc_node(tx, inode)?;
    if !append {
        build(tx, inode, left, n, edit, 0..middle)?;
        free_node(tx, inode, n.page)?;
    }
    build(tx, inode, right, n, edit, middle..count)?;
    Ok(Divided {
        left,
        right: Some((key, right)),
    })
}

/// Where to split so that both halves hold about the same number of bytes.
fn split_point<R: Region, H: Host>(
    tx: &Tx<'_, R, H>,
    n: &Node,
    edit: &Edit<'_>,
    count: u64,
) -> Result<u64> {
    if n.level > 0 || n.heap == PAGE {
        return Ok(count / 2);
    }
    let mut buf = [0u8; NAME_MAX];
    let mut total = 0;
    for i in 0..count {
        total += node::LEAF_ENTRY + edit.entry(tx, n, i, &mut buf)?.1.len() as u64;
    }
    let mut sum = 0;
    for i in 0..count {
        sum += node::LEAF_ENTRY + edit.entry(tx, n, i, &mut buf)?.1.len() as u64;
        if sum * 2 >= total {
            return Ok((i + 1).clamp(1, count - 1));
        }
    }
    Ok(count / 2)
}

/// Tells the ancestors what became of the leaf at the cursor, as far up as they have to be divided
/// themselves. (A loop: the kernel's stack is small.)
fn replace<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    c: &Cursor,
    divided: Divided,
) -> TxResult<()> {
    let Divided {
        mut left,
        mut right,
    } = divided;
    for level in 1..c.depth {
        let mut n = Node::load(tx, inode, get(&c.pages, level), level as u8)?;
        let i = get(&c.index, level);
        let changed = n.child(tx, i)? != left;
        let Some((key, page)) = right else {
            let e = inner_entry(n.key(tx, i)?, left);
            return Ok(put_entry(tx, &n, i, &e)?);
        };
        let e = inner_entry(key, page);
        if n.count < node::INNER_MAX {
            if changed {
                let l = inner_entry(n.key(tx, i)?, left);
                put_entry(tx, &n, i, &l)?;
            }
            return Ok(insert_in_place(tx, &mut n, i + 1, &e, &[])?);
        }
        let edit = Edit {
            child: changed.then_some((i, left)),
            insert: Some((i + 1, &e, &[])),
        };
        let above = divide(tx, inode, &n, &edit, false)?;
        left = above.left;
        right = above.right;
    }
    let records = inode.records();
    let Some((key, page)) = right else {
        inode.set_tree(left, c.depth as u8, records);
        return Ok(());
    };
    if c.depth >= node::MAX_DEPTH {
        return Err(Error::corrupt(inode.off, "tree: too deep").into());
    }
    let root = alloc_node(tx, inode)?;
    let mut b = Builder::new(tx.fs, inode, root, c.depth as u8)?;
    b.push(&inner_entry(0, left), &[])?;
    b.push(&inner_entry(key, page), &[])?;
    b.finish()?;
    inode.set_tree(root, c.depth as u8 + 1, records);
    Ok(())
}

fn inner_entry(key: u64, page: u64) -> Entry {
    let mut e = Entry::default();
    put64(&mut e, 0, key);
    put64(&mut e, 8, page);
    e
}

/// Overwrites the entry at the cursor; the key stays.
pub(crate) fn update<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    c: &Cursor,
    e: &Entry,
) -> TxResult<()> {
    Ok(put_entry(tx, &c.leaf, c.pos, e)?)
}

/// Removes the entry at the cursor.
pub(crate) fn remove<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    mut c: Cursor,
) -> TxResult<()> {
    let records = inode.records().saturating_sub(1);
    if c.leaf.count > 1 {
        let e = c.entry(tx)?;
        if inode.is_dir() {
            c.leaf.dead += u64::from(get8(&e, NAME_LEN));
        }
        remove_in_place(tx, &mut c.leaf, c.pos)?;
        inode.set_tree(inode.root(), inode.body_depth(), records);
        return Ok(());
    }
    // The node becomes empty: it goes, and so do ancestors that had nothing else.
    free_node(tx, inode, c.leaf.page)?;
    for level in 1..c.depth {
        let mut n = Node::load(tx, inode, get(&c.pages, level), level as u8)?;
        if n.count == 1 {
            free_node(tx, inode, n.page)?;
            continue;
        }
        let i = get(&c.index, level);
        if n.count == 2 && level == c.depth - 1 {
            // A root with one child is not needed.
            let child = n.child(tx, 1 - i)?;
            free_node(tx, inode, n.page)?;
            return collapse(tx, inode, child, level, records);
        }
        remove_in_place(tx, &mut n, i)?;
        inode.set_tree(inode.root(), inode.body_depth(), records);
        return Ok(());
    }
    inode.set_empty();
    Ok(())
}

/// Makes `page` (of `depth` levels) the root, or what is below it while that has a single child.
fn collapse<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    page: u64,
    depth: usize,
    records: u64,
) -> TxResult<()> {
    let (mut page, mut depth) = (page, depth);
    while depth > 1 {
        let n = Node::load(tx, inode, page, depth as u8 - 1)?;
        if n.count > 1 {
            break;
        }
        let child = n.child(tx, 0)?;
        free_node(tx, inode, page)?;
        page = child;
        depth -= 1;
    }
    inode.set_tree(page, depth as u8, records);
    Ok(())
}

fn remove_in_place<R: Region, H: Host>(tx: &mut Tx<'_, R, H>, n: &mut Node, i: u64) -> Result<()> {
    let size = entry_size(n.level);
    shift(tx, n, n.at(i + 1), n.at(i), (n.count - i - 1) * size)?;
    n.count -= 1;
    put_header(tx, n)
}

/// Makes the first leaf of an inode that has no tree, of entries that are sorted.
pub(crate) fn make_leaf<R: Region, H: Host>(
    tx: &mut Tx<'_, R, H>,
    inode: &mut Inode,
    entries: &[Entry],
) -> TxResult<()> {
    let page = alloc_node(tx, inode)?;
    let mut b = Builder::new(tx.fs, inode, page, 0)?;
    for e in entries {
        b.push(e, &[])?;
    }
    b.finish()?;
    inode.set_tree(page, 1, entries.len() as u64);
    Ok(())
}
