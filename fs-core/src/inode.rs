// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Inodes: one sector each, found through the inode table, made and freed through shards.

use crate::bytes::{get16, get32, get64, get8, put16, put32, put64, put8};
use crate::error::{Error, Result};
use crate::extent;
use crate::fs::{Fs, TABLE_CACHE};
use crate::host::Host;
use crate::journal::{lock, Fail, Tx, TxResult, View};
use crate::layout::{
    self, body, iflag, inode, kind, shard, system, IFRONTIER_CAPACITY, IFRONTIER_MAGIC,
    IFRONTIER_NEXT, INODES_PER_PAGE, INODE_MAGIC, PAGE, SECTOR, SHARD_MAGIC,
};
use crate::region::Region;
use crate::space::{offset, Want};
use crate::types::{Attr, Ino, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use core::sync::atomic::Ordering;

/// Bits of a cached page number: regions up to 16 PiB are cached.
const CACHE_PAGE_BITS: u32 = 42;
/// Fewest and most pages by which the inode table grows.
const GROW_MIN: u64 = 4;
const GROW_MAX: u64 = 64;
/// Most free inodes that move from one shard to another at once.
const STEAL: u64 = 16;

/// An inode's sector, in ordinary memory.
#[derive(Clone)]
pub(crate) struct Inode {
    /// Where it lives.
    pub off: u64,
    b: [u8; SECTOR as usize],
}

macro_rules! fields {
    ($($get:ident $set:ident : $t:ty = $read:ident $write:ident $at:ident as $raw:ty;)*) => {
        $(
            pub fn $get(&self) -> $t {
                $read(&self.b, inode::$at) as $t
            }
            #[allow(dead_code)]
            pub fn $set(&mut self, v: $t) {
                $write(&mut self.b, inode::$at, v as $raw);
            }
        )*
    };
}

impl Inode {
    /// An inode of zeros but for its magic.
    pub fn new(off: u64, ino: Ino) -> Self {
        let mut i = Inode {
            off,
            b: [0; SECTOR as usize],
        };
        put32(&mut i.b, 0, INODE_MAGIC);
        i.set_ino(ino);
        i
    }

    fields! {
        ino set_ino: u64 = get64 put64 INO as u64;
        generation set_generation: u32 = get32 put32 GENERATION as u32;
        mode set_mode: u32 = get32 put32 MODE as u32;
        uid set_uid: u32 = get32 put32 UID as u32;
        gid set_gid: u32 = get32 put32 GID as u32;
        nlink set_nlink: u32 = get32 put32 NLINK as u32;
        flags set_flags: u32 = get32 put32 FLAGS as u32;
        size set_size: u64 = get64 put64 SIZE as u64;
        pages set_pages: u64 = get64 put64 PAGES as u64;
        atime set_atime: i64 = get64 put64 ATIME as u64;
        mtime set_mtime: i64 = get64 put64 MTIME as u64;
        ctime set_ctime: i64 = get64 put64 CTIME as u64;
        btime set_btime: i64 = get64 put64 BTIME as u64;
        rdev set_rdev: u64 = get64 put64 RDEV as u64;
        link set_link: u64 = get64 put64 LINK as u64;
        xattr set_xattr: u64 = get64 put64 XATTR as u64;
        intent_start set_intent_start: u64 = get64 put64 INTENT_START as u64;
        intent_end set_intent_end: u64 = get64 put64 INTENT_END as u64;
        seal set_seal: u64 = get64 put64 SEAL as u64;
        body_format set_body_format: u8 = get8 put8 BODY_FORMAT as u8;
        body_depth set_body_depth: u8 = get8 put8 BODY_DEPTH as u8;
        body_count set_body_count: u16 = get16 put16 BODY_COUNT as u16;
        body_crc set_body_crc: u32 = get32 put32 BODY_CRC as u32;
    }

    /// Type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode() & S_IFMT
    }

    pub fn is_dir(&self) -> bool {
        self.kind() == S_IFDIR
    }

    pub fn is_file(&self) -> bool {
        self.kind() == S_IFREG
    }

    pub fn is_symlink(&self) -> bool {
        self.kind() == S_IFLNK
    }

    pub fn has(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    pub fn set_flag(&mut self, flag: u32, on: bool) {
        let f = self.flags();
        self.set_flags(if on { f | flag } else { f & !flag });
    }

    /// Is a removal of extents unfinished?
    pub fn has_intent(&self) -> bool {
        self.intent_start() < self.intent_end()
    }

    /// The body, 112 bytes.
    pub fn body(&self) -> &[u8] {
        self.b.get(inode::BODY..).unwrap_or_default()
    }

    pub fn body_mut(&mut self) -> &mut [u8] {
        self.b.get_mut(inode::BODY..).unwrap_or_default()
    }

    /// Root page of the body's tree.
    pub fn root(&self) -> u64 {
        get64(self.body(), 0)
    }

    /// Records or entries of the body's tree.
    pub fn records(&self) -> u64 {
        match self.body_format() {
            body::INLINE => u64::from(self.body_count()),
            _ => get64(self.body(), 8),
        }
    }

    /// Sets the body to a tree.
    pub fn set_tree(&mut self, root: u64, depth: u8, records: u64) {
        self.body_mut().fill(0);
        self.set_body_format(body::TREE);
        self.set_body_depth(depth);
        self.set_body_count(0);
        put64(self.body_mut(), 0, root);
        put64(self.body_mut(), 8, records);
    }

    /// Sets the body to nothing.
    pub fn set_empty(&mut self) {
        self.body_mut().fill(0);
        self.set_body_format(body::INLINE);
        self.set_body_depth(0);
        self.set_body_count(0);
    }

    /// Number of entries of a directory; 0 for none.
    pub fn attr(&self) -> Attr {
        Attr {
            ino: self.ino(),
            generation: self.generation(),
            mode: self.mode(),
            nlink: self.nlink(),
            uid: self.uid(),
            gid: self.gid(),
            rdev: self.rdev(),
            size: self.size(),
            pages: self.pages(),
            atime: self.atime(),
            mtime: self.mtime(),
            ctime: self.ctime(),
            btime: self.btime(),
            sealed: self.has(iflag::SEALED),
        }
    }

    /// Pages came to this inode, or left it.
    pub fn add_pages(&mut self, delta: i64) {
        self.set_pages(self.pages().saturating_add_signed(delta));
    }

    /// Room for one that is read. Inodes are read into the caller's frame, never returned: a value
    /// of this size that travels through results is copied in each frame, and a kernel's stack is
    /// small.
    pub const NONE: Inode = Inode {
        off: 0,
        b: [0; SECTOR as usize],
    };

    /// Reads and checks the inode at `off`, which must be `ino` and in use.
    fn load<R: Region, H: Host, V: View<R, H>>(
        &mut self,
        view: &V,
        off: u64,
        ino: Ino,
    ) -> Result<()> {
        let i = self;
        i.off = off;
        view.fs()
            .sector(view, off, INODE_MAGIC, "inode: bad magic", &mut i.b)?;
        if i.ino() != ino {
            return Err(Error::corrupt(off, "inode: wrong number"));
        }
        if !i.has(iflag::IN_USE) {
            // Those of the system are always in use.
            return Err(if ino >= layout::ITABLE_OWNER {
                Error::corrupt(off, "system inode: not in use")
            } else {
                Error::Stale
            });
        }
        if i.body_format() > body::TARGET_PAGE
            || i.body_count() as usize > inode::INLINE_RECORDS
            || i.body_depth() as usize > layout::node::MAX_DEPTH
            || i.size() > crate::types::FILE_SIZE_MAX
            || i.pages() > layout::MAX_PAGES
            || (i.body_format() == body::TREE && i.records() > layout::MAX_PAGES)
        {
            return Err(Error::corrupt(off, "inode: field out of bounds"));
        }
        Ok(())
    }
}

impl<R: Region, H: Host> Fs<R, H> {
    /// A system inode.
    pub(crate) fn system_inode<V: View<R, H>>(
        &self,
        view: &V,
        sector: u64,
        owner: u64,
        i: &mut Inode,
    ) -> Result<()> {
        i.load(view, self.geo.system_offset(sector), owner)
    }

    /// The inode of the inode table.
    pub(crate) fn inode_table<V: View<R, H>>(&self, view: &V, i: &mut Inode) -> Result<()> {
        self.system_inode(view, system::ITABLE, layout::ITABLE_OWNER, i)
    }

    /// Region offset of an inode's sector, by the inode table as `view` sees it.
    fn inode_offset_in<V: View<R, H>>(&self, view: &V, ino: Ino) -> Result<u64> {
        let mut table = Inode::NONE;
        let off = self.geo.system_offset(system::ITABLE);
        match table.load(view, off, layout::ITABLE_OWNER) {
            // To read by, the copy will do; nothing is written any more.
            Err(Error::Corrupt(_)) if self.is_damaged() && view.is_unlocked() => {
                table.load(view, self.geo.itable_copy_offset(), layout::ITABLE_OWNER)?;
            }
            other => other?,
        }
        let page = ino / INODES_PER_PAGE;
        match extent::find(view, &table, page)? {
            Some(e) if e.file_page <= page && !e.unwritten => {
                Ok(offset(e.page + (page - e.file_page)) + ino % INODES_PER_PAGE * SECTOR)
            }
            _ => Err(Error::Stale),
        }
    }

    /// Region offset of an inode's sector. The table may grow meanwhile; then it is looked at again.
    fn inode_offset(&self, ino: Ino) -> Result<u64> {
        if ino == 0 || ino >= layout::ITABLE_OWNER {
            return Err(Error::Stale);
        }
        let index = ino / INODES_PER_PAGE;
        let slot = self.table_pages.get(index as usize % TABLE_CACHE);
        // An entry is the page number, with the rest of the index above it; 0 is none.
        let tag = index / TABLE_CACHE as u64;
        if let Some(slot) = slot {
            let e = slot.load(Ordering::Relaxed);
            if e != 0 && e >> CACHE_PAGE_BITS == tag {
                let page = e & ((1 << CACHE_PAGE_BITS) - 1);
                return Ok(offset(page) + ino % INODES_PER_PAGE * SECTOR);
            }
        }
        for round in 0u32.. {
            if round % 128 == 127 {
                // Whoever changes the map may have lost its CPU to us.
                self.host.lock(lock::MAP);
                self.host.unlock(lock::MAP);
            }
            let before = self.itable_version.load(Ordering::Acquire);
            if before % 2 == 0 {
                let found = self.inode_offset_in(self, ino);
                core::sync::atomic::fence(Ordering::Acquire);
                if self.itable_version.load(Ordering::Relaxed) == before {
                    if let (Ok(off), Some(slot)) = (found, slot) {
                        let page = off / PAGE;
                        if page >> CACHE_PAGE_BITS == 0 && tag >> (64 - CACHE_PAGE_BITS) == 0 {
                            slot.store(tag << CACHE_PAGE_BITS | page, Ordering::Relaxed);
                        }
                    }
                    return found;
                }
            }
            core::hint::spin_loop();
        }
        Err(Error::Stale)
    }

    /// Was this number ever given to an inode, as the frontier and the shards have it?
    pub(crate) fn do_was_given(&self, ino: Ino) -> Result<bool> {
        let mut b = [0; SECTOR as usize];
        let off = self.geo.system_offset(system::IFRONTIER);
        let what = "inode frontier: bad magic";
        self.host.lock(lock::ITABLE);
        let read = self.sector(self, off, IFRONTIER_MAGIC, what, &mut b);
        self.host.unlock(lock::ITABLE);
        read?;
        if ino == 0 || ino >= get64(&b, IFRONTIER_NEXT) {
            return Ok(false);
        }
        for s in 0..self.geo.shards {
            let id = lock::SHARDS + s as usize;
            self.host.lock(id);
            let read = self.shard(self, s, &mut b);
            self.host.unlock(id);
            read?;
            if (get64(&b, shard::NEXT)..get64(&b, shard::END)).contains(&ino) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads an inode shard. The caller has its lock.
    fn shard<V: View<R, H>>(
        &self,
        view: &V,
        index: u64,
        s: &mut [u8; SECTOR as usize],
    ) -> Result<()> {
        let off = self.geo.shard_offset(index);
        self.sector(view, off, SHARD_MAGIC, "inode shard: bad magic", s)?;
        if get64(s, shard::INDEX) != index {
            return Err(Error::corrupt(off, "inode shard: wrong index"));
        }
        Ok(())
    }

    /// Reads an inode that is in use.
    pub(crate) fn inode<V: View<R, H>>(&self, view: &V, ino: Ino, i: &mut Inode) -> Result<()> {
        let off = self.inode_offset(ino)?;
        let mut loaded = i.load(view, off, ino);
        // A new inode is written while only its directory is locked: whoever comes by number may see
        // half of it. It is corrupt only if it is so when no transaction is running that ran before.
        for _ in 0..8 {
            let bad = matches!(loaded, Err(Error::Corrupt(_)));
            if !bad || !view.is_unlocked() || self.is_read_only() {
                break;
            }
            for slot in 0..self.geo.slots {
                self.host.lock(lock::SLOTS + slot as usize);
                self.host.unlock(lock::SLOTS + slot as usize);
            }
            loaded = i.load(view, off, ino);
        }
        loaded?;
        if i.has(iflag::SYSTEM) {
            return Err(Error::corrupt(off, "inode: system inode in the table"));
        }
        Ok(())
    }

    /// Reads a directory.
    pub(crate) fn directory<V: View<R, H>>(&self, view: &V, ino: Ino, i: &mut Inode) -> Result<()> {
        self.inode(view, ino, i)?;
        if i.is_dir() {
            Ok(())
        } else {
            Err(Error::NotDirectory)
        }
    }
}

impl<R: Region, H: Host> Tx<'_, R, H> {
    /// Writes an inode back.
    pub(crate) fn put_inode(&mut self, i: &Inode) -> Result<()> {
        self.poke(i.off, &i.b, kind::PLAIN)
    }

    /// The shard that this transaction's slot takes inodes from and gives them back to.
    fn own_shard(&self) -> u64 {
        // A geometry has shards; said once more, there is no way into a panic here.
        self.slot % self.fs.geo.shards.max(1)
    }

    /// Makes an inode: number, generation, place and the in-use flag are set, nothing is written yet
    /// (`put_new_inode` does).
    pub(crate) fn new_inode(&mut self, i: &mut Inode) -> TxResult<()> {
        let fs = self.fs;
        let shards = fs.geo.shards.max(1);
        let own = self.own_shard();
        self.lock(lock::SHARDS + own as usize)?;
        let mut s = [0; SECTOR as usize];
        fs.shard(self, own, &mut s)?;
        if get64(&s, shard::FREE_HEAD) == 0 && get64(&s, shard::NEXT) >= get64(&s, shard::END) {
            // Another shard's freed inodes come before growth: the table never shrinks.
            for k in 1..shards {
                let other = (own + k) % shards;
                let off = fs.geo.shard_offset(other);
                if fs.region.load(off + shard::FREE_HEAD as u64)? != 0 {
                    self.lock(lock::SHARDS + other as usize)?;
                    fs.shard(self, other, &mut s)?;
                    if get64(&s, shard::FREE_HEAD) != 0 {
                        self.steal_inodes(other, &mut s)?;
                        return self.pop_inode(own, &mut s, i);
                    }
                }
            }
            fs.shard(self, own, &mut s)?;
            let before = self.taken;
            match self.take_inodes() {
                Ok(first) => {
                    // Number 0 is never used.
                    put64(&mut s, shard::NEXT, first.max(1));
                    put64(&mut s, shard::END, first + INODES_PER_PAGE);
                }
                // The table cannot grow: what other shards have not used yet will do.
                Err(Fail::Err(Error::NoSpace)) if self.taken == before => {
                    for k in 1..shards {
                        let other = (own + k) % shards;
                        self.lock(lock::SHARDS + other as usize)?;
                        fs.shard(self, other, &mut s)?;
                        if get64(&s, shard::NEXT) < get64(&s, shard::END) {
                            return self.next_inode(other, &mut s, i);
                        }
                    }
                    return Err(Error::NoSpace.into());
                }
                Err(e) => return Err(e),
            }
        }
        if get64(&s, shard::FREE_HEAD) != 0 {
            return self.pop_inode(own, &mut s, i);
        }
        self.next_inode(own, &mut s, i)
    }

    /// Takes the next inode of a shard that was never used.
    fn next_inode(
        &mut self,
        index: u64,
        s: &mut [u8; SECTOR as usize],
        i: &mut Inode,
    ) -> TxResult<()> {
        let fs = self.fs;
        let off = fs.geo.shard_offset(index);
        let ino = get64(s, shard::NEXT);
        put64(s, shard::NEXT, ino.saturating_add(1));
        self.poke(off, s, kind::PLAIN)?;
        let at = match self.table_offset(ino) {
            Err(Error::Stale) => Err(Error::corrupt(off, "inode shard: inode out of bounds")),
            other => other,
        };
        let at = at?;
        let mut old = [0; SECTOR as usize];
        self.peek(at, &mut old)?;
        if get32(&old, 0) == INODE_MAGIC && fs.check_sum(at, &mut old).is_ok() {
            return Err(Error::corrupt(off, "inode shard: an inode that was used").into());
        }
        *i = Inode::new(at, ino);
        i.set_generation(fs.host.random() as u32 >> 1);
        i.set_flags(iflag::IN_USE);
        self.inodes += 1;
        Ok(())
    }

    /// Offset of an inode by the table as this transaction sees it.
    fn table_offset(&self, ino: Ino) -> Result<u64> {
        if self.holds(lock::ITABLE) {
            self.fs.inode_offset_in(self, ino)
        } else {
            self.fs.inode_offset(ino)
        }
    }

    /// Takes the first inode of a shard's free list.
    fn pop_inode(
        &mut self,
        index: u64,
        s: &mut [u8; SECTOR as usize],
        i: &mut Inode,
    ) -> TxResult<()> {
        let shard_off = self.fs.geo.shard_offset(index);
        let ino = get64(s, shard::FREE_HEAD);
        self.free_inode_at(shard_off, ino, i)?;
        let off = i.off;
        let generation = i.generation().wrapping_add(1) & 0x7fff_ffff;
        put64(s, shard::FREE_HEAD, i.link());
        let count = get64(s, shard::FREE_COUNT);
        put64(s, shard::FREE_COUNT, count.saturating_sub(1));
        self.poke(shard_off, s, kind::PLAIN)?;
        *i = Inode::new(off, ino);
        i.set_generation(generation);
        i.set_flags(iflag::IN_USE);
        self.inodes += 1;
        Ok(())
    }

    /// Moves free inodes of another shard, `s`, to the empty list of our own, several at once: who
    /// creates in one shard what was deleted in another would take turns with everybody else there.
    /// Leaves our own shard in `s`.
    #[inline(never)]
    fn steal_inodes(&mut self, other: u64, s: &mut [u8; SECTOR as usize]) -> TxResult<()> {
        let fs = self.fs;
        let from = fs.geo.shard_offset(other);
        let first = get64(s, shard::FREE_HEAD);
        let mut last = Inode::NONE;
        let mut next = first;
        let mut moved = 0;
        while next != 0 && moved < STEAL {
            self.free_inode_at(from, next, &mut last)?;
            next = last.link();
            moved += 1;
            if next == first {
                return Err(Error::corrupt(from, "inode shard: free list is a circle").into());
            }
        }
        put64(s, shard::FREE_HEAD, next);
        let count = get64(s, shard::FREE_COUNT);
        put64(s, shard::FREE_COUNT, count.saturating_sub(moved));
        self.poke(from, s, kind::PLAIN)?;
        last.set_link(0);
        self.put_inode(&last)?;
        let own = self.own_shard();
        fs.shard(self, own, s)?;
        put64(s, shard::FREE_HEAD, first);
        put64(s, shard::FREE_COUNT, moved);
        Ok(())
    }

    /// Reads a free inode that a shard at `shard_off` names.
    fn free_inode_at(&self, shard_off: u64, ino: Ino, i: &mut Inode) -> Result<()> {
        let off = match self.table_offset(ino) {
            Err(Error::Stale) => Err(Error::corrupt(
                shard_off,
                "inode shard: free inode out of bounds",
            )),
            other => other,
        }?;
        self.fs
            .sector(self, off, INODE_MAGIC, "free inode: bad magic", &mut i.b)?;
        if i.ino() != ino || i.has(iflag::IN_USE) {
            return Err(Error::corrupt(off, "free inode: wrong number or in use"));
        }
        i.off = off;
        Ok(())
    }

    /// Writes a new inode.
    pub(crate) fn put_new_inode(&mut self, i: &Inode) -> Result<()> {
        self.poke_fresh(i.off, &i.b)
    }

    /// Puts an inode on a free list.
    pub(crate) fn free_inode(&mut self, i: &Inode) -> TxResult<()> {
        let index = self.own_shard();
        self.lock(lock::SHARDS + index as usize)?;
        let mut s = [0; SECTOR as usize];
        self.fs.shard(self, index, &mut s)?;
        let mut f = Inode::new(i.off, i.ino());
        f.set_generation(i.generation());
        f.set_link(get64(&s, shard::FREE_HEAD));
        self.put_inode(&f)?;
        put64(&mut s, shard::FREE_HEAD, i.ino());
        let count = get64(&s, shard::FREE_COUNT);
        put64(&mut s, shard::FREE_COUNT, count.saturating_add(1));
        self.poke(self.fs.geo.shard_offset(index), &s, kind::PLAIN)?;
        self.inodes -= 1;
        Ok(())
    }

    /// Takes a page of never used inodes from the table; makes the table longer where it must.
    #[inline(never)]
    fn take_inodes(&mut self) -> TxResult<Ino> {
        let fs = self.fs;
        self.lock(lock::ITABLE)?;
        let off = fs.geo.system_offset(system::IFRONTIER);
        let mut f = [0; SECTOR as usize];
        let what = "inode frontier: bad magic";
        fs.sector(self, off, IFRONTIER_MAGIC, what, &mut f)?;
        let next = get64(&f, IFRONTIER_NEXT);
        let mut capacity = get64(&f, IFRONTIER_CAPACITY);
        let mut table = Inode::NONE;
        fs.inode_table(self, &mut table)?;
        if next > capacity
            || next % INODES_PER_PAGE != 0
            || capacity.checked_mul(SECTOR) != Some(table.size())
            || table.size() % PAGE != 0
        {
            return Err(Error::corrupt(off, "inode frontier: out of bounds").into());
        }
        if next == capacity {
            let have = capacity / INODES_PER_PAGE;
            let goal = match have.checked_sub(1) {
                Some(last) => extent::find(self, &table, last)?.map(|e| e.page + e.len),
                None => None,
            };
            let pages = (have / 8).clamp(GROW_MIN, GROW_MAX);
            let (page, len) = self.alloc(Want {
                pages,
                least: 1,
                goal,
                colour: None,
            })?;
            // Nobody names these pages yet: zeros first, then the extent.
            fs.region.zero(offset(page), len * PAGE)?;
            extent::insert(self, &mut table, have, page, len, false)?;
            table.add_pages(len as i64);
            table.set_size((have + len) * PAGE);
            self.put_table(&table)?;
            capacity += len * INODES_PER_PAGE;
        }
        put64(&mut f, IFRONTIER_NEXT, next + INODES_PER_PAGE);
        put64(&mut f, IFRONTIER_CAPACITY, capacity);
        self.poke(off, &f, kind::PLAIN)?;
        Ok(next)
    }

    /// Writes the table's inode, and its copy in the backup page.
    fn put_table(&mut self, table: &Inode) -> Result<()> {
        self.itable = true;
        self.put_inode(table)?;
        let copy = Inode {
            off: self.fs.geo.itable_copy_offset(),
            b: table.b,
        };
        // The copy's checksum is over another offset; what it held before is of no interest.
        if self.staged(copy.off)? {
            self.put_inode(&copy)
        } else {
            self.poke_fresh(copy.off, &copy.b)
        }
    }
}

/// Writes shards, inode frontier and system inodes of an empty filesystem.
pub(crate) fn format_inodes<R: Region, H: Host>(fs: &Fs<R, H>) -> Result<()> {
    let mut b = [0u8; SECTOR as usize];
    put32(&mut b, 0, IFRONTIER_MAGIC);
    let off = fs.geo.system_offset(system::IFRONTIER);
    fs.put_sum(off, &mut b);
    fs.region.write(off, &b)?;
    for s in 0..fs.geo.shards {
        let mut b = [0u8; SECTOR as usize];
        put32(&mut b, 0, SHARD_MAGIC);
        put64(&mut b, shard::INDEX, s);
        let off = fs.geo.shard_offset(s);
        fs.put_sum(off, &mut b);
        fs.region.write(off, &b)?;
    }
    let table = core::iter::once((system::ITABLE, layout::ITABLE_OWNER));
    let sets = (0..layout::PENDING_SETS).map(|n| (system::PENDING + n, layout::PENDING_OWNER + n));
    for (sector, owner) in table.chain(sets) {
        let mut i = Inode::new(fs.geo.system_offset(sector), owner);
        i.set_flags(iflag::IN_USE | iflag::SYSTEM);
        fs.put_sum(i.off, &mut i.b);
        fs.region.write(i.off, &i.b)?;
        if sector == system::ITABLE {
            let copy = fs.geo.itable_copy_offset();
            fs.put_sum(copy, &mut i.b);
            fs.region.write(copy, &i.b)?;
        }
    }
    Ok(())
}
