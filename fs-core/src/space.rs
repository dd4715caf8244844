// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Allocation of pages: bitmaps of chunks, found through summaries of groups and of groups of groups.

use crate::bytes::{get16, get32, get64, get8, put16, put32, put64, put8};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::fs::SLOT_HINTS;
use crate::host::Host;
use crate::journal::{lock, Fail, Need, Tx, TxResult, View};
use crate::layout::{
    self, chunk, class, kind, summary, CHUNK_PAGES, FRONTIER_FIRST, FRONTIER_MAGIC, FRONTIER_READY,
    GROUP_CHUNKS, GROUP_PAGES, PAGE, SECTOR,
};
use crate::region::Region;
use core::sync::atomic::Ordering;

/// Most chunks that one allocation or one free touches, so that a transaction stays bounded.
pub(crate) const MAX_CHUNKS: u64 = 64;
/// Most pages of one free.
pub(crate) const MAX_FREE: u64 = MAX_CHUNKS * CHUNK_PAGES;
/// Chunks of a class that are looked into for a run of the wanted length.
const TRIES: u32 = 8;
/// The same for a run that must have its length (a large attribute), when no whole chunk is free. It
/// has to end: locks are held, and regions are large. 8 GiB are looked through.
const TRIES_FOR_RUN: u32 = 4096;

/// What is asked of the allocator.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Want {
    /// Pages wanted; fewer may be given.
    pub pages: u64,
    /// Fewest pages that are of use (they come in one run).
    pub least: u64,
    /// The best first page: the one behind the file's last extent.
    pub goal: Option<u64>,
    /// Place the first page at this position in its chunk (`file_page % 512`).
    pub colour: Option<u64>,
}

impl Want {
    /// One page of metadata.
    pub const PAGE: Want = Want {
        pages: 1,
        least: 1,
        goal: None,
        colour: None,
    };
}

/// The lock of a group.
fn group_lock(group: u64) -> usize {
    lock::GROUPS + (group % lock::GROUP_LOCKS) as usize
}

/// A chunk descriptor.
struct Chunk {
    index: u64,
    b: [u8; chunk::SIZE],
}

impl Chunk {
    /// Room for one that is read: like inodes, descriptors stay in the frame that asked for them.
    const NONE: Chunk = Chunk {
        index: 0,
        b: [0; chunk::SIZE],
    };

    fn free(&self) -> u64 {
        u64::from(get16(&self.b, chunk::FREE))
    }

    fn class(&self) -> u8 {
        get8(&self.b, chunk::CLASS)
    }

    fn word(&self, i: usize) -> u64 {
        get64(&self.b, chunk::BITMAP + 8 * i)
    }

    fn is_set(&self, bit: u64) -> bool {
        self.word((bit / 64) as usize) >> (bit % 64) & 1 != 0
    }

    /// First bit at or behind `from` that is `set`; 512 if there is none.
    fn next(&self, from: u64, set: bool) -> u64 {
        let mut bit = from;
        while bit < CHUNK_PAGES {
            let w = self.word((bit / 64) as usize);
            let w = (if set { w } else { !w }) >> (bit % 64);
            if w != 0 {
                return bit + u64::from(w.trailing_zeros());
            }
            bit = (bit / 64 + 1) * 64;
        }
        CHUNK_PAGES
    }

    /// The first run of `want` free pages, or the longest one there is: (bit, length).
    fn run(&self, want: u64) -> (u64, u64) {
        let mut best = (0, 0);
        let mut bit = self.next(0, false);
        while bit < CHUNK_PAGES {
            let end = self.next(bit, true);
            if end - bit > best.1 {
                best = (bit, end - bit);
                if best.1 >= want {
                    break;
                }
            }
            bit = self.next(end, false);
        }
        (best.0, best.1.min(want))
    }

    /// Sets or clears `len` bits; false if one of them was so already.
    fn mark(&mut self, bit: u64, len: u64, set: bool) -> bool {
        let end = bit + len;
        let mut at = bit;
        while at < end {
            let w = at / 64;
            let upto = end.min((w + 1) * 64);
            let mask = (!0u64 >> (64 - (upto - at))) << (at % 64);
            let old = self.word(w as usize);
            let changed = if set { !old } else { old };
            if changed & mask != mask {
                return false;
            }
            put64(&mut self.b, chunk::BITMAP + 8 * w as usize, old ^ mask);
            at = upto;
        }
        let free = if set {
            self.free().wrapping_sub(len)
        } else {
            self.free() + len
        };
        put16(&mut self.b, chunk::FREE, free as u16);
        true
    }
}

/// A summary, of either level.
struct Summary {
    off: u64,
    b: [u8; SECTOR as usize],
}

impl Summary {
    /// Room for one that is read.
    const NONE: Summary = Summary {
        off: 0,
        b: [0; SECTOR as usize],
    };

    fn word(&self, class: u8, w: u64) -> u64 {
        get64(
            &self.b,
            summary::BITMAP + 64 * class as usize + 8 * w as usize,
        )
    }

    fn any(&self, class: u8) -> bool {
        (0..8).any(|w| self.word(class, w) != 0)
    }

    fn is_set(&self, class: u8, child: u64) -> bool {
        self.word(class, child / 64) >> (child % 64) & 1 != 0
    }

    fn put(&mut self, class: u8, child: u64, set: bool) {
        if class >= class::FULL {
            return;
        }
        let bit = 1u64 << (child % 64);
        let old = self.word(class, child / 64);
        let new = if set { old | bit } else { old & !bit };
        let at = summary::BITMAP + 64 * class as usize + 8 * (child / 64) as usize;
        put64(&mut self.b, at, new);
    }

    /// First child of the class at or behind `from`, going round.
    fn find(&self, class: u8, from: u64) -> Option<u64> {
        next_bit(from, |w| self.word(class, w))
    }
}

/// First set bit of 512 at or behind `from`, going round.
fn next_bit(from: u64, word: impl Fn(u64) -> u64) -> Option<u64> {
    let from = from % 512;
    for k in 0..=8 {
        let w = (from / 64 + k) % 8;
        let mut bits = word(w);
        if k == 0 {
            bits &= !0 << (from % 64);
        }
        if bits != 0 {
            return Some(w * 64 + u64::from(bits.trailing_zeros()));
        }
    }
    None
}

impl<R: Region, H: Host> Tx<'_, R, H> {
    fn lock_group(&mut self, group: u64) -> TxResult<()> {
        self.lock(group_lock(group))
    }

    fn chunk(&self, index: u64, c: &mut Chunk) -> Result<()> {
        let off = self.fs.geo.chunk_offset(index);
        c.index = index;
        self.peek(off, &mut c.b)?;
        let bad = |what| Err(Error::corrupt(off, what));
        if get32(&c.b, 0) != layout::CHUNK_MAGIC || get64(&c.b, chunk::INDEX) != index {
            return bad("chunk descriptor: not one, or not this one");
        }
        let ones: u32 = (0..8).map(|i| c.word(i).count_ones()).sum();
        // A staged descriptor was checked when it was read first, and has no checksum yet. The
        // other descriptor of its sector still has the one it had.
        let checked = self.staged(off & !(SECTOR - 1))? && self.changed(off, &c.b)?;
        if !checked && self.fs.check_sum(off, &mut c.b).is_err() {
            return bad("chunk descriptor: bad checksum");
        }
        if c.free() + u64::from(ones) != CHUNK_PAGES || c.class() > class::FULL {
            return bad("chunk descriptor: bad count or class");
        }
        Ok(())
    }

    /// Does the staged descriptor differ from the one at home?
    fn changed(&self, off: u64, staged: &[u8; chunk::SIZE]) -> Result<bool> {
        let mut home = [0u8; chunk::SIZE];
        self.fs.region.read(off, &mut home)?;
        Ok(home != *staged)
    }

    fn summary(&self, off: u64, level: u64, index: u64, s: &mut Summary) -> Result<()> {
        s.off = off;
        let what = "summary: bad magic";
        self.fs
            .sector(self, off, layout::SUMMARY_MAGIC, what, &mut s.b)?;
        if get64(&s.b, summary::LEVEL) != level || get64(&s.b, summary::INDEX) != index {
            return Err(Error::corrupt(off, "summary: wrong level or index"));
        }
        Ok(())
    }

    fn put_summary(&mut self, s: &Summary) -> Result<()> {
        self.poke(s.off, &s.b, kind::PLAIN)
    }

    /// Writes a changed descriptor, and what follows from it in the summaries. `part` says how a
    /// chunk that is partly free is to be used.
    fn put_chunk(&mut self, c: &mut Chunk, part: u8) -> TxResult<()> {
        let old = c.class();
        let new = match c.free() {
            0 => class::FULL,
            CHUNK_PAGES => class::FREE,
            _ if old == class::PACKED || old == class::COLOURED => old,
            _ => part,
        };
        put8(&mut c.b, chunk::CLASS, new);
        self.poke(self.fs.geo.chunk_offset(c.index), &c.b, kind::CHUNKS)?;
        if new == old {
            return Ok(());
        }
        let group = c.index / GROUP_CHUNKS;
        let child = c.index % GROUP_CHUNKS;
        let mut s = Summary::NONE;
        self.summary(self.fs.geo.summary_offset(group), 1, group, &mut s)?;
        let before = [class::FREE, class::PACKED, class::COLOURED].map(|k| s.any(k));
        s.put(old, child, false);
        s.put(new, child, true);
        let after = [class::FREE, class::PACKED, class::COLOURED].map(|k| s.any(k));
        self.put_summary(&s)?;
        if before != after {
            let k = group / GROUP_CHUNKS;
            self.lock(lock::TOPS + (k % lock::TOP_LOCKS) as usize)?;
            // The group's is written: its room serves once more.
            self.summary(self.fs.geo.top_offset(k), 2, k, &mut s)?;
            for (class, any) in (0u8..).zip(after) {
                s.put(class, group % GROUP_CHUNKS, any);
            }
            self.put_summary(&s)?;
        }
        Ok(())
    }

    /// Takes `len` free pages of a chunk.
    fn take(&mut self, c: &mut Chunk, bit: u64, len: u64, part: u8) -> TxResult<()> {
        let off = self.fs.geo.chunk_offset(c.index);
        let first = c.index * CHUNK_PAGES + bit;
        if !self.fs.geo.is_data(first, len) || !c.mark(bit, len, true) {
            return Err(Error::corrupt(off, "chunk descriptor: page is not free").into());
        }
        self.taken += len;
        self.put_chunk(c, part)
    }

    /// Gives pages back, which must all be allocated, but those whose memory has failed: nobody is to be
    /// given them again. How many that are.
    pub(crate) fn release(&mut self, page: u64, len: u64) -> TxResult<u64> {
        let end = page + len;
        let (mut at, mut given) = (page, 0);
        while at < end {
            let bad = self.fs.region.bad_page(at, end - at);
            let good = bad.unwrap_or(end) - at;
            self.release_run(at, good)?;
            given += good;
            at += good + u64::from(bad.is_some());
        }
        Ok(given)
    }

    fn release_run(&mut self, page: u64, len: u64) -> TxResult<()> {
        let end = page + len;
        let mut at = page;
        while at < end {
            let index = at / CHUNK_PAGES;
            let upto = end.min((index + 1) * CHUNK_PAGES);
            let group = at / GROUP_PAGES;
            if group >= self.fs.groups_ready.load(Ordering::Acquire) {
                let what = "extent in a group that was never opened";
                return Err(Error::corrupt(offset(at), what).into());
            }
            self.lock_group(group)?;
            let mut c = Chunk::NONE;
            self.chunk(index, &mut c)?;
            if !c.mark(at % CHUNK_PAGES, upto - at, false) {
                let off = self.fs.geo.chunk_offset(index);
                return Err(Error::corrupt(off, "chunk descriptor: freed page is free").into());
            }
            // A large piece out of a full chunk: more of the same will probably follow.
            let part = if upto - at >= CHUNK_PAGES / 2 {
                class::COLOURED
            } else {
                class::PACKED
            };
            self.put_chunk(&mut c, part)?;
            at = upto;
        }
        Ok(())
    }

    /// Allocates a run of pages: (first page, number). The pages hold whatever they held, and their memory
    /// is not known to have failed: where it has, a page is left allocated, and nobody names it.
    pub(crate) fn alloc(&mut self, want: Want) -> TxResult<(u64, u64)> {
        loop {
            let (page, len) = self.alloc_any(want)?;
            let Some(bad) = self.fs.region.bad_page(page, len) else {
                return Ok((page, len));
            };
            // The first part that is long enough; the rest is given back, but for what has failed.
            let end = page + len;
            let (mut from, mut to) = (page, bad);
            while to - from < want.least.max(1) && to < end {
                from = to + 1;
                to = self.fs.region.bad_page(from, end - from).unwrap_or(end);
            }
            let found = to - from >= want.least.max(1);
            let rest = if found {
                [(page, from - page), (to, end - to)]
            } else {
                [(page, len), (end, 0)]
            };
            for (page, len) in rest {
                // Else there is nothing to give back.
                if self.has_good_page(page, len) {
                    self.free(page, len)?;
                }
            }
            if found {
                return Ok((from, to - from));
            }
        }
    }

    fn has_good_page(&self, page: u64, len: u64) -> bool {
        let end = page + len;
        (page..end).any(|at| self.fs.region.bad_page(at, end - at) != Some(at))
    }

    fn alloc_any(&mut self, want: Want) -> TxResult<(u64, u64)> {
        let pages = self.claim(want.pages.clamp(1, MAX_FREE), want.least.max(1))?;
        let want = Want {
            pages,
            least: want.least.clamp(1, pages),
            ..want
        };
        let (page, len) = self.search(want)?;
        let unused = pages - len;
        self.fs.free.fetch_add(unused as i64, Ordering::Relaxed);
        self.claimed -= unused;
        Ok((page, len))
    }

    /// Takes up to `pages` off the count of free pages, so that others do not reckon with them. What
    /// the transaction does not use is given back at its end.
    fn claim(&mut self, pages: u64, least: u64) -> TxResult<u64> {
        let floor = match self.need {
            Need::Ordinary => self.fs.reserve(),
            Need::Promised => self.fs.reserve() / 2,
            Need::Must => 0,
        };
        let mut free = self.fs.free.load(Ordering::Relaxed);
        loop {
            let room = u64::try_from(free).unwrap_or(0).saturating_sub(floor);
            if room < least {
                return Err(Error::NoSpace.into());
            }
            let pages = pages.min(room);
            let left = free - pages as i64;
            match self.fs.free.compare_exchange_weak(
                free,
                left,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    self.claimed += pages;
                    return Ok(pages);
                }
                Err(now) => free = now,
            }
        }
    }

    /// The group where this slot looks first: slots are spread over the groups that are open.
    fn home_group(&self) -> u64 {
        let geo = &self.fs.geo;
        let ready = self.fs.groups_ready.load(Ordering::Acquire);
        let spread = ready.saturating_sub(geo.first_group()).max(1);
        geo.first_group() + (self.slot * spread / geo.slots)
    }

    /// Opens one more group when this slot's is in somebody else's hands, as long as there are more
    /// slots than open groups: no lock is then shared by all CPUs of a machine with a large region.
    fn grow_if_contended(&mut self) -> TxResult<()> {
        let geo = &self.fs.geo;
        let ready = self.fs.groups_ready.load(Ordering::Acquire);
        if ready >= geo.groups() || ready - geo.first_group() >= geo.slots {
            return Ok(());
        }
        let id = group_lock(self.home_group());
        if self.holds(id) || self.try_lock(id) {
            Ok(())
        } else {
            Err(Fail::Grow)
        }
    }

    /// Looks for a run of pages and takes it.
    fn search(&mut self, want: Want) -> TxResult<(u64, u64)> {
        // A goal is good for what can be had there, however short; a run that must have a length is
        // looked for.
        if let (Some(goal), 1) = (want.goal, want.least) {
            let got = self.alloc_at(goal, want.pages)?;
            if got > 0 {
                return Ok((goal, got));
            }
        }
        self.grow_if_contended()?;
        // Whole runs first; what is in pieces only when nothing else is left.
        let order: &[Option<(u8, bool)>] = match want.colour {
            Some(_) => &[
                Some((class::FREE, false)),
                None,
                Some((class::COLOURED, false)),
                Some((class::PACKED, false)),
                Some((class::COLOURED, true)),
                Some((class::PACKED, true)),
            ],
            None => &[
                Some((class::PACKED, false)),
                Some((class::FREE, false)),
                None,
                Some((class::COLOURED, false)),
                Some((class::PACKED, true)),
                Some((class::COLOURED, true)),
            ],
        };
        for step in order {
            match step {
                Some((class, short)) => {
                    if let Some(got) = self.alloc_class(*class, want, *short)? {
                        return Ok(got);
                    }
                }
                None => {
                    if self.fs.groups_ready.load(Ordering::Acquire) < self.fs.geo.groups() {
                        return Err(Fail::Grow);
                    }
                }
            }
        }
        Err(Error::NoSpace.into())
    }

    /// Takes pages from exactly `goal` on, as many as are free and wanted; 0 if it is not free.
    fn alloc_at(&mut self, goal: u64, pages: u64) -> TxResult<u64> {
        let mut at = goal;
        while at - goal < pages {
            let group = at / GROUP_PAGES;
            if !self.fs.geo.is_data(at, 1)
                || group < self.fs.geo.first_group()
                || group >= self.fs.groups_ready.load(Ordering::Acquire)
            {
                break;
            }
            self.lock_group(group)?;
            let mut c = Chunk::NONE;
            self.chunk(at / CHUNK_PAGES, &mut c)?;
            let bit = at % CHUNK_PAGES;
            if c.is_set(bit) {
                break;
            }
            let run = (c.next(bit, true) - bit).min(pages - (at - goal));
            // A chunk entered from its start by a file that fills it is coloured, if the file was.
            self.take(&mut c, bit, run, class::COLOURED)?;
            at += run;
            if at % CHUNK_PAGES != 0 {
                break;
            }
        }
        Ok(at - goal)
    }

    /// Allocates in a chunk of the class, in the group where this slot allocated last or one behind.
    /// With `short`, the longest run found will do.
    fn alloc_class(&mut self, class: u8, want: Want, short: bool) -> TxResult<Option<(u64, u64)>> {
        let geo = self.fs.geo;
        let ready = self.fs.groups_ready.load(Ordering::Acquire);
        let home = self.home_group();
        let mut tries = if short && want.least > 1 {
            TRIES_FOR_RUN
        } else {
            TRIES
        };
        let mut best: Option<(u64, u64, u64)> = None;
        let tops = geo.tops();
        // From home to the end of its top summary, then the others, then home's from its beginning.
        for k in 0..=tops {
            let top = (home / GROUP_CHUNKS + k) % tops;
            if top * GROUP_CHUNKS >= ready {
                continue;
            }
            let (mut from, end) = match k {
                0 => (home % GROUP_CHUNKS, GROUP_CHUNKS),
                _ if k == tops => (0, home % GROUP_CHUNKS),
                _ => (0, GROUP_CHUNKS),
            };
            let base = geo.top_offset(top) + (summary::BITMAP + 64 * class as usize) as u64;
            while from < end && tries > 0 {
                // The bits are looked at without their lock: a hint, made sure of below.
                let mut bits = [0u8; 64];
                self.peek(base, &mut bits)?;
                let found = next_bit(from, |w| get64(&bits, 8 * w as usize));
                let Some(bit) = found.filter(|bit| (from..end).contains(bit)) else {
                    break;
                };
                let group = top * GROUP_CHUNKS + bit;
                if group >= geo.first_group() && group < ready {
                    let got = self.alloc_in_group(group, class, want, &mut tries, &mut best)?;
                    if got.is_some() {
                        return Ok(got);
                    }
                }
                from = bit + 1;
            }
        }
        match best {
            Some((index, bit, len)) if short && len >= want.least => {
                let mut c = Chunk::NONE;
                self.chunk(index, &mut c)?;
                self.take(&mut c, bit, len, class::PACKED)?;
                Ok(Some((index * CHUNK_PAGES + bit, len)))
            }
            _ => Ok(None),
        }
    }

    /// Allocates in a chunk of the class in this group. Chunks with too short a run are remembered
    /// in `best`.
    fn alloc_in_group(
        &mut self,
        group: u64,
        class: u8,
        want: Want,
        tries: &mut u32,
        best: &mut Option<(u64, u64, u64)>,
    ) -> TxResult<Option<(u64, u64)>> {
        self.lock_group(group)?;
        let mut s = Summary::NONE;
        self.summary(self.fs.geo.summary_offset(group), 1, group, &mut s)?;
        // Each slot goes on in the chunk it used last, or begins at a place of its own.
        let hint = &self.fs.hints[self.slot as usize % SLOT_HINTS];
        let last = hint.load(Ordering::Relaxed);
        let mut from = if last / GROUP_CHUNKS == group {
            last % GROUP_CHUNKS
        } else {
            self.slot * GROUP_CHUNKS / self.fs.geo.slots
        };
        let start = from;
        let mut wrapped = false;
        let mut c = Chunk::NONE;
        while *tries > 0 {
            let Some(child) = s.find(class, from) else {
                break;
            };
            if child < from {
                if wrapped {
                    break;
                }
                wrapped = true;
            }
            if wrapped && child >= start {
                break;
            }
            let index = group * GROUP_CHUNKS + child;
            self.chunk(index, &mut c)?;
            if c.class() != class {
                let off = self.fs.geo.chunk_offset(index);
                return Err(
                    Error::corrupt(off, "chunk descriptor: not of its summary's class").into(),
                );
            }
            if class == class::FREE {
                hint.store(index, Ordering::Relaxed);
                return match want.colour {
                    Some(colour) => self.take_coloured(&mut c, colour, want.pages).map(Some),
                    None => {
                        let len = want.pages.min(CHUNK_PAGES);
                        self.take(&mut c, 0, len, class::PACKED)?;
                        Ok(Some((index * CHUNK_PAGES, len)))
                    }
                };
            }
            let (bit, len) = c.run(want.pages);
            if len >= want.pages.min(CHUNK_PAGES) {
                hint.store(index, Ordering::Relaxed);
                self.take(&mut c, bit, len, class)?;
                return Ok(Some((index * CHUNK_PAGES + bit, len)));
            }
            if best.is_none_or(|b| b.2 < len) {
                *best = Some((index, bit, len));
            }
            *tries -= 1;
            from = child + 1;
            if from == GROUP_CHUNKS {
                from = 0;
                wrapped = true;
            }
        }
        Ok(None)
    }

    /// Takes pages of free chunks, the first at position `colour` of its chunk.
    fn take_coloured(&mut self, c: &mut Chunk, colour: u64, pages: u64) -> TxResult<(u64, u64)> {
        let colour = colour % CHUNK_PAGES;
        let first = c.index * CHUNK_PAGES + colour;
        let group = c.index / GROUP_CHUNKS;
        let mut index = c.index;
        let mut len = pages.min(CHUNK_PAGES - colour);
        self.take(c, colour, len, class::COLOURED)?;
        while len < pages {
            index += 1;
            if index / GROUP_CHUNKS != group || index >= self.fs.geo.chunks() {
                break;
            }
            let mut s = Summary::NONE;
            self.summary(self.fs.geo.summary_offset(group), 1, group, &mut s)?;
            if !s.is_set(class::FREE, index % GROUP_CHUNKS) {
                break;
            }
            let part = (pages - len).min(CHUNK_PAGES);
            self.chunk(index, c)?;
            self.take(c, 0, part, class::COLOURED)?;
            len += part;
        }
        Ok((first, len))
    }

    /// Initialises group `seen` and moves the frontier behind it. False if that was done meanwhile.
    pub(crate) fn open_group(&mut self, seen: u64) -> TxResult<bool> {
        let fs = self.fs;
        self.lock(lock::FRONTIER)?;
        let off = fs.geo.system_offset(layout::system::FRONTIER);
        let mut frontier = [0; SECTOR as usize];
        fs.sector(
            self,
            off,
            FRONTIER_MAGIC,
            "frontier: bad magic",
            &mut frontier,
        )?;
        let ready = get64(&frontier, FRONTIER_READY);
        if ready > fs.geo.groups() || get64(&frontier, FRONTIER_FIRST) != fs.geo.first_group() {
            return Err(Error::corrupt(off, "frontier: out of bounds").into());
        }
        if ready != seen {
            return Ok(false);
        }
        if ready >= fs.geo.groups() {
            return Err(Error::NoSpace.into());
        }
        let group = ready;
        let mut s = Summary::NONE;
        format_group(fs, group, &mut s)?;
        let any = [class::FREE, class::PACKED, class::COLOURED].map(|k| s.any(k));
        let k = group / GROUP_CHUNKS;
        self.lock(lock::TOPS + (k % lock::TOP_LOCKS) as usize)?;
        let top_off = fs.geo.top_offset(k);
        let fresh = group == fs.geo.first_group() || group % GROUP_CHUNKS == 0;
        if fresh {
            new_summary(top_off, 2, k, &mut s);
        } else {
            self.summary(top_off, 2, k, &mut s)?;
        }
        for (class, any) in (0u8..).zip(any) {
            s.put(class, group % GROUP_CHUNKS, any);
        }
        if fresh {
            self.poke_fresh(top_off, &s.b)?;
        } else {
            self.put_summary(&s)?;
        }
        put64(&mut frontier, FRONTIER_READY, ready + 1);
        self.poke(off, &frontier, kind::PLAIN)?;
        Ok(true)
    }
}

/// A summary of nothing, without a checksum yet.
fn new_summary(off: u64, level: u64, index: u64, s: &mut Summary) {
    s.off = off;
    s.b.fill(0);
    put32(&mut s.b, 0, layout::SUMMARY_MAGIC);
    put64(&mut s.b, summary::LEVEL, level);
    put64(&mut s.b, summary::INDEX, index);
}

/// The bitmap of a chunk in which nothing was ever allocated: what lies outside the data zone is set.
pub(crate) fn pristine_bitmap(geo: &layout::Geometry, index: u64) -> [u64; 8] {
    let mut words = [0u64; 8];
    let start = index * CHUNK_PAGES;
    if start >= geo.data_start && start + CHUNK_PAGES <= geo.data_end {
        return words;
    }
    for (i, word) in (0u64..).zip(words.iter_mut()) {
        for bit in 0..64 {
            if !geo.is_data(start + 64 * i + bit, 1) {
                *word |= 1 << bit;
            }
        }
    }
    words
}

/// Writes the descriptors and the summary of a group behind the frontier.
fn format_group<R: Region, H: Host>(fs: &Fs<R, H>, group: u64, s: &mut Summary) -> Result<()> {
    let off = fs.geo.summary_offset(group);
    new_summary(off, 1, group, s);
    for child in 0..GROUP_CHUNKS {
        let index = group * GROUP_CHUNKS + child;
        if index >= fs.geo.chunks() {
            break;
        }
        let words = pristine_bitmap(&fs.geo, index);
        let used: u32 = words.iter().map(|w| w.count_ones()).sum();
        let free = CHUNK_PAGES - u64::from(used);
        let class = match free {
            0 => class::FULL,
            CHUNK_PAGES => class::FREE,
            _ => class::PACKED,
        };
        let mut b = [0u8; chunk::SIZE];
        put32(&mut b, 0, layout::CHUNK_MAGIC);
        put64(&mut b, chunk::INDEX, index);
        put16(&mut b, chunk::FREE, free as u16);
        put8(&mut b, chunk::CLASS, class);
        for (i, w) in words.iter().enumerate() {
            put64(&mut b, chunk::BITMAP + 8 * i, *w);
        }
        let at = fs.geo.chunk_offset(index);
        fs.put_sum(at, &mut b);
        fs.region.write(at, &b)?;
        s.put(class, child, true);
    }
    fs.put_sum(off, &mut s.b);
    fs.region.write(off, &s.b)
}

/// Writes the frontier as it is before any group is opened.
pub(crate) fn format_frontier<R: Region, H: Host>(fs: &Fs<R, H>) -> Result<()> {
    let off = fs.geo.system_offset(layout::system::FRONTIER);
    let mut b = [0u8; SECTOR as usize];
    put32(&mut b, 0, FRONTIER_MAGIC);
    put64(&mut b, FRONTIER_READY, fs.geo.first_group());
    put64(&mut b, FRONTIER_FIRST, fs.geo.first_group());
    fs.put_sum(off, &mut b);
    fs.region.write(off, &b)
}

/// The frontier: first group that is not initialised.
pub(crate) fn read_frontier<R: Region, H: Host>(fs: &Fs<R, H>) -> Result<u64> {
    let off = fs.geo.system_offset(layout::system::FRONTIER);
    let mut b = [0; SECTOR as usize];
    fs.sector(fs, off, FRONTIER_MAGIC, "frontier: bad magic", &mut b)?;
    let ready = get64(&b, FRONTIER_READY);
    let first = get64(&b, FRONTIER_FIRST);
    if first != fs.geo.first_group() || ready < first || ready > fs.geo.groups() {
        return Err(Error::corrupt(off, "frontier: out of bounds"));
    }
    Ok(ready)
}

/// Bytes of a page, spelled out where offsets are made of pages.
#[inline]
pub(crate) const fn offset(page: u64) -> u64 {
    page * PAGE
}
